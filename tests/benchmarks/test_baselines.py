"""The baselines of the study, on tiny corpora."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study import baselines
from benchmarks.study.baselines import LogLinear, Pair, between, choose_threshold, features, training_pairs, type_prior
from lmrc.common.errors import UserError
from lmrc.corpus.candidates import Candidate, write_candidates
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.predictions import Prediction, read_predictions
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Label, Mention
from lmrc.evaluation.metrics.scores import Counts, score
from lmrc.evaluation.scored_run import read_scored_run
from lmrc.runs.events import History
from tests.conftest import ROOT

RELATIONS = RelationSet(("P1", "P2", "P3"), ("born in", "works in", "capital of"))
SCRIPT = ROOT / "benchmarks" / "study" / "baselines.py"


def document(title: str, types: Sequence[str], labels: Sequence[tuple[int, int, str]]) -> Document:
    """Build a document whose only sentence names one entity of each type after the other."""
    entities = tuple((Mention(f"E{i}", 0, i, i + 1, type),) for i, type in enumerate(types))
    sentence = tuple(f"E{i}" for i in range(len(types)))
    return Document(title, (sentence,), entities, tuple(Label(*label) for label in labels))


def life(index: int, verb: str, relation: str) -> Document:
    """Build a document with a person, a verb and a place, which is in a relation, and a person in another sentence."""
    person, place, other = f"Person{index}", f"Place{index}", f"Other{index}"
    return Document(
        f"{verb} {index}",
        ((person, "was", verb, "in", place, "."), (other, "slept", ".")),
        ((Mention(person, 0, 0, 1, "PER"),), (Mention(place, 0, 4, 5, "LOC"),), (Mention(other, 1, 0, 1, "PER"),)),
        (Label(0, 1, relation),),
    )


def lives(first: int, count: int) -> list[Document]:
    verbs = [("born", "P1"), ("employed", "P2")]
    return [life(index, *verbs[index % 2]) for index in range(first, first + count)]


def corpus_of(folder: Path, documents: Sequence[Document]) -> Path:
    write_corpus(documents, folder, RELATIONS, folder.name, "0" * 64)
    return folder


def test_type_prior_by_hand() -> None:
    training = [
        document("a", ["PER", "LOC", "LOC"], [(0, 1, "P2"), (0, 2, "P2"), (1, 2, "P3")]),
        document("b", ["PER", "LOC"], [(0, 1, "P1"), (0, 1, "P2"), (1, 0, "P3")]),
        document("c", ["ORG", "LOC"], [(0, 1, "P3"), (0, 1, "P1")]),
    ]
    asked = document("x", ["LOC", "PER", "ORG"], [])
    pairs = [Pair(asked, head, tail) for head in range(3) for tail in range(3) if head != tail]
    assert list(type_prior(training, pairs)) == [
        # Not the more frequent relations of a person and a place: a pair is ordered.
        Prediction("x", 0, 1, "P3", 1.0),
        Prediction("x", 1, 0, "P2", 3 / 4),
        # P1 and P3 once each: the first.
        Prediction("x", 2, 0, "P3", 1 / 2),
    ]


def test_features_by_hand() -> None:
    asked = Document(
        "x",
        (("Ann", "Lee", "met", "met", "Bob", "."), ("Then", "Paris", "slept", ".")),
        (
            (Mention("Ann Lee", 0, 0, 2, "PER"),),
            (Mention("Bob", 0, 4, 5, "PER"),),
            (Mention("Paris", 1, 1, 2, "LOC"),),
        ),
        None,
    )
    assert features(Pair(asked, 1, 0)) == [
        *("head type PER", "tail type PER", "types PER>PER", "head bob", "tail ann", "tail lee"),
        *("sentence ann", "sentence lee", "sentence met", "sentence bob", "sentence .", "one sentence"),
        *("> met", "PER>PER> met"),
    ]
    apart = features(Pair(asked, 1, 2))
    assert apart[3:] == [
        *("head bob", "tail paris", "two sentences", "< .", "PER>LOC< .", "< then", "PER>LOC< then"),
    ]


def test_words_lie_between_the_closest_mentions() -> None:
    words = ("a", "x", "b", "y", "a", "z", "b")
    head = (Mention("a", 0, 0, 1, "PER"), Mention("a", 0, 4, 5, "PER"))
    tail = (Mention("b", 0, 2, 3, "PER"),)
    asked = Document("x", (words,), (head, tail), None)
    assert between(asked, head[1:], tail) == (">", ["y"])
    assert between(asked, tail, head[1:]) == ("<", ["y"])
    assert between(asked, head, (Mention("b", 0, 6, 7, "PER"),)) == ("<", ["z"])
    assert between(asked, head[:1], (*tail, Mention("b", 0, 6, 7, "PER"))) == ("<", ["x"])


def test_training_pairs_have_the_expected_share() -> None:
    labels = [(0, 1, "P1"), (0, 1, "P2"), (2, 3, "P1"), (3, 2, "P1")]
    labeled = document("a", ["PER"] * 6, labels)
    pairs = training_pairs(labeled, 0.25, random.Random(1))
    related = [(pair.head, pair.tail, pair.relations) for pair in pairs if pair.relations]
    assert related == [(0, 1, ("P1", "P2")), (2, 3, ("P1",)), (3, 2, ("P1",))]
    assert len(pairs) == 12
    others = {(pair.head, pair.tail) for pair in pairs if not pair.relations}
    assert len(others) == 9
    assert not others & {(0, 1), (2, 3), (3, 2)}
    assert all(head != tail for head, tail in others)
    assert pairs == training_pairs(labeled, 0.25, random.Random(1)) != training_pairs(labeled, 0.25, random.Random(2))
    # All pairs at most, and the related alone if all are expected to be.
    assert len(training_pairs(labeled, 0.0, random.Random(1))) == len(training_pairs(labeled, 0.01, random.Random(1)))
    assert len(training_pairs(labeled, 1.0, random.Random(1))) == 3


def test_bag_of_words_learns_a_rule_of_words() -> None:
    """Types and names do not say whether someone was born or employed somewhere, and a verb does."""
    gold = lives(100, 10)
    rng = random.Random(66)
    by_document = [training_pairs(each, 0.5, rng) for each in lives(0, 30)]
    model = LogLinear.fit([pair for pairs in by_document for pair in pairs], RELATIONS, 66)
    assert model.relations == ("P1", "P2")
    threshold = choose_threshold(by_document, RELATIONS, 66)
    pairs = [Pair(each, head, tail) for each in gold for head, tail in ((0, 1), (1, 0), (0, 2), (2, 1))]
    found = list(model.predict(pairs, threshold))
    assert score(gold, found, RELATIONS).all.f1 == 100.0
    assert all(prediction.score is not None and threshold <= prediction.score <= 1 for prediction in found)
    # No pair without a relation in training: pairs that have none get one.
    related = LogLinear.fit([pair for pairs in by_document for pair in pairs if pair.relations], RELATIONS, 66)
    assert score(gold, related.predict(pairs, 0.5), RELATIONS).all.precision < 50


def test_a_relation_that_all_pairs_have_is_certain() -> None:
    pairs = [Pair(each, 0, 1, ("P1",)) for each in lives(0, 3)]
    model = LogLinear.fit(pairs, RELATIONS, 66)
    assert model.probabilities(pairs).tolist() == [[1.0]] * 3
    assert model.probabilities([]).shape == (0, 1)


@pytest.mark.parametrize("seed", [1, 5, 9])
def test_threshold_is_the_best_of_slow_cross_validation(seed: int) -> None:
    rng = random.Random(seed)
    # No verb decides, so that no threshold is perfect.
    noisy = [life(i, f"verb{i % 5}", rng.choice(RELATIONS.ids[: 1 + i % 5 // 2])) for i in range(30)]
    by_document = [training_pairs(each, 0.4, rng) for each in noisy]
    found: dict[float, list[Prediction]] = {threshold: [] for threshold in baselines.THRESHOLDS}
    for fold in range(3):
        rest = [pair for i, pairs in enumerate(by_document) if i % 3 != fold for pair in pairs]
        model = LogLinear.fit(rest, RELATIONS, 7)
        for pairs in by_document[fold::3]:
            for threshold, predictions in found.items():
                predictions += model.predict(pairs, threshold)
    f1 = {threshold: score(noisy, predictions, RELATIONS).all.f1 for threshold, predictions in found.items()}
    assert len(set(f1.values())) > 2
    assert choose_threshold(by_document, RELATIONS, 7) == max(f1, key=lambda threshold: f1[threshold])


def test_cross_validation_needs_a_document_per_fold() -> None:
    by_document = [training_pairs(each, 0.4, random.Random(1)) for each in lives(0, 2)]
    with pytest.raises(UserError, match="--train has 2 documents, expected at least 3"):
        choose_threshold(by_document, RELATIONS, 7)


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Write a training corpus, a corpus to ask about and candidates; return them as options."""
    train = corpus_of(tmp_path / "train", lives(0, 30))
    asked = corpus_of(tmp_path / "asked", lives(100, 10))
    corpus = Corpus.open(asked)
    rows = [(each.title, [Candidate(0, 1, 0.9), Candidate(0, 2, 0.1)]) for each in corpus]
    write_candidates(rows, tmp_path / "candidates", corpus.fingerprint, 0.1)
    return ["--train", str(train), "--corpus", str(asked), "--candidates", str(tmp_path / "candidates")]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return a function that runs the script with these words, and returns what it prints."""

    def run(*words: str) -> Any:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
        baselines.main()
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize("system", baselines.SYSTEMS)
def test_command_writes_a_run_that_is_scored(
    system: str, folders: list[str], command: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / f"{system}-66"
    words = [system, *folders, "--out", str(run / "predictions.json")]
    result = command(*words)
    assert json.loads((run / "DONE").read_text()) == result
    assert (result["documents"], result["pairs"], result["expected_related"]) == (10, 20, pytest.approx(0.5))
    assert [event["event"] for event in History(run).read()] == ["started", "finished"]
    scored = read_scored_run(run)
    assert scored is not None
    assert scored.scores.all.f1 == (50.0 if system == "type_prior" else 100.0)
    assert scored.proposed == Counts(10, 20, 10)
    # The same command prints the result, other options are an error.
    assert command(*words) == result
    assert len(History(run).read()) == 2
    with pytest.raises(SystemExit, match=f"^Error: {run} is a run with other options"):
        command(*words, "--seed", "67")


def test_command_asks_about_gold_pairs_without_candidates(
    folders: list[str], command: Callable[..., Any], tmp_path: Path
) -> None:
    result = command("type_prior", *folders[:4], "--out", str(tmp_path / "gold.json"))
    assert (result["pairs"], result["expected_related"]) == (10, 1.0)
    assert len(read_predictions(tmp_path / "gold.json")) == 10
    assert not (tmp_path / "config.yaml").exists()


def test_command_rejects_candidates_of_another_corpus(
    folders: list[str], command: Callable[..., Any], tmp_path: Path
) -> None:
    words = [*folders[:3], folders[1], *folders[4:]]
    with pytest.raises(SystemExit, match="made from another corpus"):
        command("bag_of_words", *words, "--out", str(tmp_path / "run" / "predictions.json"))


def test_predictions_are_equal_in_another_process(
    folders: list[str], command: Callable[..., Any], tmp_path: Path
) -> None:
    """Python hashes texts otherwise in each process."""
    words = ["bag_of_words", *folders, "--out"]
    command(*words, str(tmp_path / "here.json"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(SCRIPT), *words, str(tmp_path / "there.json")], check=True, env=environment)
    assert (tmp_path / "there.json").read_bytes() == (tmp_path / "here.json").read_bytes()
