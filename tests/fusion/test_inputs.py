from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.candidates import Candidate, Candidates, write_candidates
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.fusion.evidence import log_odds
from lmrc.fusion.fit import Labeled
from lmrc.fusion.inputs import SCORES, check_relations, read_labeled
from tests.fusion.examples import labeled
from tests.fusion.files import RELATION_SET, documents_of, write_inputs

SOURCE = labeled(24)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("inputs")
    write_inputs(SOURCE, home)
    return home


def test_what_was_written_is_read(home: Path) -> None:
    found = read_labeled(
        Candidates.open(home / "candidates"), home / "answers" / SCORES, Corpus.open(home / "corpus"), 24
    )
    assert (found.documents, found.gold) == (24, SOURCE.gold)
    assert found.correct.tolist() == SOURCE.correct.tolist()
    assert found.evidence.questions() == SOURCE.evidence.questions()
    for name in ("pair_logit", "relation_logit", "lm_logit"):
        logits = getattr(SOURCE.evidence, name)
        # Probabilities are clipped, those of the LM from above alone.
        lowest, highest = log_odds(np.array([0.0, 1.0]))
        bounds = {"pair_logit": (lowest, highest), "lm_logit": (None, highest), "relation_logit": (None, None)}[name]
        expected = logits if bounds == (None, None) else np.clip(logits, *bounds)
        assert getattr(found.evidence, name) == pytest.approx(expected, abs=1e-5)


def test_first_documents(home: Path) -> None:
    found = read_labeled_of(home, SOURCE.documents - 2)
    assert found.documents == 22
    assert len(found.evidence) == 22 * 12 * 4
    assert found.gold == int(SOURCE.correct[: 22 * 48].sum()) + 22


def read_labeled_of(home: Path, documents: int) -> Labeled:
    corpus, scores = Corpus.open(home / "corpus"), home / "answers" / SCORES
    raw = json.loads(scores.read_text())
    part = home / f"scores-{documents}.json"
    part.write_text(json.dumps([row for row in raw if int(row["title"].split()[1]) < documents]))
    return read_labeled(Candidates.open(home / "candidates"), part, corpus, documents)


def test_questions_without_a_score_are_counted(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = json.loads((home / "answers" / SCORES).read_text())
    (tmp_path / "scores.json").write_text(json.dumps(raw[3:]))
    caplog.set_level("INFO")
    corpus = Corpus.open(home / "corpus")
    found = read_labeled(Candidates.open(home / "candidates"), tmp_path / "scores.json", corpus, 24)
    assert f"3 of {24 * 48:,} questions have no score: the LM was not asked them" in caplog.text
    assert np.isnan(found.evidence.lm_logit[:4]).tolist() == [True, True, True, False]
    found = read_labeled(Candidates.open(home / "candidates"), tmp_path / "scores.json", corpus, 24, 0.01)
    assert f"3 of {24 * 48:,} questions have no score: they count as 0.01" in caplog.text
    assert found.evidence.lm_logit[:3].tolist() == pytest.approx(log_odds(np.full(3, 0.01)).tolist())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": "other"}, "'other' is no document of"),
        ({"score": None}, "has the score None, expected a probability"),
        ({"score": 1.5}, "has the score 1.5, expected a probability"),
        ({"h_idx": 7, "t_idx": 6}, r"scores the pair \(7, 6\) of 'document 0', which is not in .*candidates"),
    ],
)
def test_scores_of_something_else(home: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    raw = json.loads((home / "answers" / SCORES).read_text())
    (tmp_path / "scores.json").write_text(json.dumps([raw[0] | change, *raw[1:]]))
    with pytest.raises(UserError, match=message):
        read_labeled(Candidates.open(home / "candidates"), tmp_path / "scores.json", Corpus.open(home / "corpus"), 24)


def test_no_labels(home: Path, tmp_path: Path) -> None:
    documents = [replace(document, labels=None) for document in documents_of(SOURCE)]
    write_corpus(documents, tmp_path / "corpus", RELATION_SET, "synthetic", "0" * 64)
    with pytest.raises(UserError, match="document 0 has no labels"):
        read_labeled(
            Candidates.open(home / "candidates"), home / "answers" / SCORES, Corpus.open(tmp_path / "corpus"), 24
        )


def test_too_few_documents_or_positives(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="19 documents are too few to fit a fusion: give at least 20"):
        read_labeled_of(home, 19)
    few = replace(SOURCE, correct=SOURCE.correct & (np.cumsum(SOURCE.correct) < 50))
    corpus, candidates, run = write_inputs(few, tmp_path)
    with pytest.raises(UserError, match="only 49 questions that the LM gave a score are correct triples, too few"):
        read_labeled(candidates, run / SCORES, corpus, 24)


def test_correct_questions_without_a_score_are_no_positives(home: Path, tmp_path: Path) -> None:
    """An LM that gives almost no correct question a score has nothing to be fitted on."""
    raw = json.loads((home / "answers" / SCORES).read_text())
    kept = np.flatnonzero(SOURCE.correct)[:49].tolist()
    kept += np.flatnonzero(~SOURCE.correct)[:100].tolist()
    (tmp_path / "scores.json").write_text(json.dumps([raw[number] for number in kept]))
    with pytest.raises(UserError, match="only 49 questions that the LM gave a score are correct triples"):
        read_labeled(
            Candidates.open(home / "candidates"), tmp_path / "scores.json", Corpus.open(home / "corpus"), 24, 0.01
        )


def test_candidates_without_relations(tmp_path: Path) -> None:
    write_candidates([("a", [Candidate(0, 1, 0.5)])], tmp_path / "without", "0" * 64, 0.1)
    with pytest.raises(UserError, match=r"the candidates have no relations: .* --train.relation-weight 1"):
        check_relations(Candidates.open(tmp_path / "without"))
    write_candidates([("a", [])], tmp_path / "empty", "0" * 64, 0.1)
    check_relations(Candidates.open(tmp_path / "empty"))
