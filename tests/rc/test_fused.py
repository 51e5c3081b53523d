"""The systems encoder and fused of classify."""

from __future__ import annotations

import json
import shutil
from math import exp, log
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lmrc.common.errors import ConfigError, RunError, UserError
from lmrc.config.schema import ClassifyConfig, DecodeOptions, RunOptions
from lmrc.corpus.candidates import Candidate, RelationLogit, write_candidates
from lmrc.corpus.predictions import read_predictions
from lmrc.fusion.evidence import UNSCORED
from lmrc.fusion.model import EncoderWeights, FittedOn, Fusion, LmWeights, Thresholds
from lmrc.rc.decoding.hf_backend import LocalBackend
from lmrc.rc.predict import ClassifyInference
from lmrc.runs.run_folder import RunFolder
from tests.rc import tiny
from tests.rc.conftest import Learnt, by_heart

# P(pair) and the log-odds of relations, by document and pair.
PROPOSED: dict[str, dict[tuple[int, int], tuple[float, dict[str, float]]]] = {
    "one": {
        (0, 1): (0.9, {"P26": -0.5, "P361": -4.0}),
        (0, 2): (0.1, {"P17": -4.5}),
        (1, 2): (0.8, {"P17": 8.0, "P495": -0.2}),
        (2, 0): (0.3, {}),
    },
    "two": {(0, 1): (0.2, {"P17": -4.0})},
    "three": {(0, 1): (0.99, {"P17": 9.0})},
}
WITH_LM = LmWeights(bias=-0.1, pair=0.5, relation=0.25, lm=0.75)
WITHOUT_LM = EncoderWeights(bias=0.2, pair=0.5, relation=1.0)
BAND = (0.2, 0.8)
# The pairs with a question whose probability without LM is in BAND.
ASKED = {"one": [(0, 1), (1, 2)], "two": [], "three": []}


def fusion(**changes: Any) -> Fusion:
    values: dict[str, Any] = {
        "with_lm": WITH_LM,
        "without_lm": WITHOUT_LM,
        "band": BAND,
        "thresholds": {
            "band": Thresholds(f1=0.4, precision=((0.9, 0.95),)),
            "all": Thresholds(f1=0.4, precision=()),
            "none": Thresholds(f1=0.6, precision=()),
        },
        "fitted_on": FittedOn(
            corpus_fingerprint="0" * 64,
            relations_sha256=tiny.RELATIONS.sha256,
            documents=30,
            questions=200,
            positives=60,
            gold=80,
        ),
    }
    return Fusion(**(values | changes))


def candidates(learnt: Learnt, folder: Path, named: bool = True) -> Path:
    rows = [
        (
            title,
            [
                Candidate(*pair, probability, tuple(RelationLogit(*item) for item in logits.items() if named))
                for pair, (probability, logits) in pairs.items()
            ],
        )
        for title, pairs in PROPOSED.items()
    ]
    write_candidates(rows, folder, learnt.corpus.fingerprint, 0.1)
    return folder


def config(learnt: Learnt, home: Path, **options: Any) -> ClassifyConfig:
    """Return a config of system fused; its files are made if they do not exist."""
    if not (home / "candidates").exists():
        candidates(learnt, home / "candidates")
    if not (home / "fusion.json").exists():
        fusion(tokens_per_question=7.0).save(home / "fusion.json")
    given: dict[str, Any] = {
        "run": RunOptions(name="classify", folder=home),
        "corpus": learnt.corpus.folder,
        "candidates": home / "candidates",
        "rc": learnt.adapter,
        "system": "fused",
        "fusion": home / "fusion.json",
        "decode": DecodeOptions(mode="score"),
    }
    return ClassifyConfig(**(given | options))


def run(config: ClassifyConfig, unit: int = 2) -> dict[str, int | float]:
    inference = ClassifyInference(config)
    parts = [range(start, min(start + unit, inference.documents)) for start in range(0, inference.documents, unit)]
    return inference.finish(row for part in parts for row in inference.rows(part))


Scores = dict[tuple[str, int, int, str], float]


def scores_of(home: Path, file: str = "scores-of-all.json") -> Scores:
    found = read_predictions(home / "classify" / file)
    return {(p.title, p.head, p.tail, p.relation): p.score or 0.0 for p in found}


def logit(probability: float) -> float:
    return log(probability / (1 - probability))


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


def without_lm(probability: float, relation: float) -> float:
    return sigmoid(WITHOUT_LM.bias + WITHOUT_LM.pair * logit(probability) + WITHOUT_LM.relation * relation)


def lm_scores(learnt: Learnt, home: Path, asked: dict[str, list[tuple[int, int]]]) -> Scores:
    """Return the scores of the LM alone for these pairs. They depend on the other pairs in a query."""
    home.mkdir()
    rows = [(title, [Candidate(*pair, 0.5) for pair in pairs]) for title, pairs in asked.items()]
    write_candidates(rows, home / "candidates", learnt.corpus.fingerprint, 0.1)
    run(config(learnt, home, system="rc", fusion=None))
    return scores_of(home)


def expected(lm: Scores, asked: dict[str, list[tuple[int, int]]]) -> Scores:
    """Return the probability of each question, one by one."""
    found = {}
    for title, pairs in PROPOSED.items():
        for pair, (probability, logits) in pairs.items():
            for relation, value in logits.items():
                key = (title, *pair, relation)
                if pair in asked[title]:
                    score = min(max(lm.get(key, UNSCORED), 1e-6), 1 - 1e-6)
                    total = WITH_LM.bias + WITH_LM.pair * logit(probability) + WITH_LM.relation * value
                    found[key] = sigmoid(total + WITH_LM.lm * logit(score))
                else:
                    found[key] = without_lm(probability, value)
    return found


def test_the_band_of_the_example() -> None:
    for title, pairs in PROPOSED.items():
        inside = [
            pair
            for pair, (probability, logits) in pairs.items()
            if any(BAND[0] <= without_lm(probability, value) <= BAND[1] for value in logits.values())
        ]
        assert inside == ASKED[title]


def test_fused(learnt: Learnt, tmp_path: Path) -> None:
    """Only pairs in the band are asked about. All questions have a score, and those above the threshold are triples."""
    counts = run(config(learnt, tmp_path))
    scores = scores_of(tmp_path)
    generations = [json.loads(row) for row in (tmp_path / "classify" / "generations.jsonl").read_text().splitlines()]
    assert [(row["title"], pair) for row in generations for pair in row["pairs"]] == [("one", [0, 1]), ("one", [1, 2])]
    lm = lm_scores(learnt, tmp_path / "lm", ASKED)
    # P361 is improbable to the LM, so it has no score.
    assert ("one", 0, 1, "P361") not in lm
    assert scores == pytest.approx(expected(lm, ASKED), rel=1e-6)
    predicted = scores_of(tmp_path, "predictions.json")
    assert predicted == {key: score for key, score in scores.items() if score >= 0.4}
    assert set(predicted) == {
        ("one", 0, 1, "P26"),
        ("one", 1, 2, "P17"),
        ("one", 1, 2, "P495"),
        ("three", 0, 1, "P17"),
    }
    assert (counts["questions"], counts["pairs"], counts["proposed_pairs"]) == (7, 2, 6)
    assert counts["asked_share"] == pytest.approx(1 / 3) and counts["predictions"] == 4


def test_fused_with_questions(learnt_likelihood: Learnt, tmp_path: Path) -> None:
    """Kind likelihood is asked about the probable relations of the pairs in the band; others have no LM."""
    proposed = tiny.candidates(tmp_path / "candidates", learnt_likelihood.corpus)
    fusion(band=(0.5, 0.6), tokens_per_question=7.0).save(tmp_path / "fusion.json")
    counts = run(config(learnt_likelihood, tmp_path))
    asked = [(0, (2, 0)), (2, (0, 1))]
    rows = [
        (proposed.title(index), [pair for pair in pairs if (index, (pair.head, pair.tail)) in asked])
        for index, pairs in enumerate(proposed)
    ]
    (tmp_path / "lm").mkdir()
    write_candidates(rows, tmp_path / "lm" / "candidates", learnt_likelihood.corpus.fingerprint, 0.1)
    run(config(learnt_likelihood, tmp_path / "lm", system="rc", fusion=None))
    lm = scores_of(tmp_path / "lm")
    # P1344 is too improbable to the encoder.
    assert set(lm) == {("one", 2, 0, "P26"), ("three", 0, 1, "P17")}
    for (title, head, tail, relation), score in scores_of(tmp_path).items():
        index = [document.title for document in tiny.DOCUMENTS].index(title)
        candidate = next(pair for pair in proposed[index] if (pair.head, pair.tail) == (head, tail))
        value = dict(candidate.relations)[relation]
        if (title, head, tail, relation) in lm:
            answer = logit(min(max(lm[title, head, tail, relation], 1e-30), 1 - 1e-6))
            assert score == pytest.approx(sigmoid(WITH_LM.bias + WITH_LM.relation * value + WITH_LM.lm * answer))
        else:
            assert score == pytest.approx(without_lm(0.5, value), rel=1e-6)
    assert (counts["pairs"], counts["proposed_pairs"], counts["questions"]) == (2, 5, 9)
    points = json.loads((tmp_path / "classify" / "fusion-curve.json").read_text())["curve"]
    assert (points[-1]["questions"], points[-1]["share"]) == (2, pytest.approx(0.4))


@pytest.mark.parametrize("ask", ["band", "all"])
def test_answers_of_an_earlier_run(
    learnt_likelihood: Learnt, tmp_path: Path, ask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They give the same triples, and the LM is not loaded."""
    tiny.candidates(tmp_path / "candidates", learnt_likelihood.corpus)
    fusion(band=(0.5, 0.6), tokens_per_question=7.0).save(tmp_path / "fusion.json")
    counts = run(config(learnt_likelihood, tmp_path, ask=ask))
    expected = {file: scores_of(tmp_path, file) for file in ("predictions.json", "scores-of-all.json")}
    (tmp_path / "lm").mkdir()
    shutil.copytree(tmp_path / "candidates", tmp_path / "lm" / "candidates")
    asked = config(learnt_likelihood, tmp_path / "lm", system="rc", fusion=None)
    answers = RunFolder.of(asked.run)
    answers.prepare(asked)
    answers.finish(dict(run(asked)))
    monkeypatch.setattr(LocalBackend, "load", None)
    again = {"run": RunOptions(name="again", folder=tmp_path), "answers": answers.path, "rc": None, "ask": ask}
    found = run(config(learnt_likelihood, tmp_path, **again))
    for file, scores in expected.items():
        rows = read_predictions(tmp_path / "again" / file)
        # Other questions beside it change the last digits of a score.
        assert {(p.title, p.head, p.tail, p.relation): p.score for p in rows} == pytest.approx(scores, rel=1e-4)
    for name in ("pairs", "proposed_pairs", "asked_share", "questions", "predictions"):
        assert found[name] == counts[name]
    run(config(learnt_likelihood, tmp_path, **again, documents=1))
    # More documents than have answers.
    (answers.path / "config.yaml").write_text(
        (answers.path / "config.yaml").read_text().replace("documents: null", "documents: 1")
    )
    with pytest.raises(ConfigError, match=r"has answers for the first 1 of 3 documents: give --documents 1"):
        ClassifyInference(config(learnt_likelihood, tmp_path, **again))
    with pytest.raises(RunError, match="its system is fused, but a fusion needs answers of the LM"):
        other = tmp_path / "classify"
        RunFolder(other).finish({})
        fused = config(learnt_likelihood, tmp_path, ask=ask)
        RunFolder(other).prepare(fused)
        ClassifyInference(config(learnt_likelihood, tmp_path, **again | {"answers": other}))


def test_ask_all(learnt: Learnt, tmp_path: Path) -> None:
    """A pair without a question is not asked about."""
    counts = run(config(learnt, tmp_path, ask="all"))
    named = {title: [pair for pair, (_, logits) in pairs.items() if logits] for title, pairs in PROPOSED.items()}
    lm = lm_scores(learnt, tmp_path / "lm", named)
    assert scores_of(tmp_path) == pytest.approx(expected(lm, named), rel=1e-6)
    assert counts["pairs"] == 5


def test_precision_chooses_the_threshold(learnt: Learnt, tmp_path: Path) -> None:
    run(config(learnt, tmp_path, precision=0.9))
    scores = scores_of(tmp_path)
    predicted = scores_of(tmp_path, "predictions.json")
    assert predicted == {key: score for key, score in scores.items() if score >= 0.95}
    assert 0 < len(predicted) < 4
    with pytest.raises(UserError, match=r"no threshold of the fusion holds a precision of 0.95: .* at most 0.9"):
        ClassifyInference(config(learnt, tmp_path, precision=0.95))


def test_encoder_with_a_fusion(learnt: Learnt, tmp_path: Path) -> None:
    """No LM is loaded: neither adapter nor base exist."""
    options = config(learnt, tmp_path, system="encoder", rc=tmp_path / "none", decode=DecodeOptions())
    inference = ClassifyInference(options)
    inference.load()
    assert "_backend" not in vars(inference)
    counts = run(options)
    scores = scores_of(tmp_path)
    assert scores == pytest.approx(expected({}, {title: [] for title in PROPOSED}))
    assert scores_of(tmp_path, "predictions.json") == {key: score for key, score in scores.items() if score >= 0.6}
    assert (counts["pairs"], counts["asked_share"], counts["questions"]) == (0, 0.0, 7)
    written = {path.name for path in (tmp_path / "classify").iterdir()}
    assert written == {"generations.jsonl", "predictions.json", "scores-of-all.json", "reliability.json"}


def test_encoder_without_a_fusion(learnt: Learnt, tmp_path: Path) -> None:
    """The score is the probability by the relation head."""
    run(config(learnt, tmp_path, system="encoder", fusion=None, rc=None, decode=DecodeOptions(threshold=0.3)))
    logits = {
        (title, *pair, relation): value
        for title, pairs in PROPOSED.items()
        for pair, (_, values) in pairs.items()
        for relation, value in values.items()
    }
    assert scores_of(tmp_path) == pytest.approx({key: sigmoid(value) for key, value in logits.items()})
    predicted = scores_of(tmp_path, "predictions.json")
    assert set(predicted) == {key for key, value in logits.items() if sigmoid(value) >= 0.3}


def test_reliability_and_curve(learnt: Learnt, tmp_path: Path) -> None:
    run(config(learnt, tmp_path))
    folder = tmp_path / "classify"
    scores = scores_of(tmp_path)
    gold = {
        (document.title, label.head, label.tail, label.relation)
        for document in tiny.DOCUMENTS
        for label in document.labels or ()
    }
    found = json.loads((folder / "reliability.json").read_text())
    # A bin per question.
    assert found["ece"] == pytest.approx(sum(abs(scores[key] - (key in gold)) for key in scores) / 7)
    assert [row["questions"] for row in found["bins"]] == [1] * 7
    found = json.loads((folder / "fusion-curve.json").read_text())
    last = found["curve"][-1]
    right = sum(key in gold for key in scores if scores[key] >= 0.4)
    predicted = sum(score >= 0.4 for score in scores.values())
    assert last["f1"] == pytest.approx(200 * right / (predicted + len(gold)))
    assert (last["share"], last["questions"], found["tokens_per_question"]) == (pytest.approx(1 / 3), 4, 7.0)
    assert (last["low"], last["high"]) == BAND
    assert found["curve"][0]["questions"] == 0


def test_first_documents(learnt: Learnt, tmp_path: Path) -> None:
    counts = run(config(learnt, tmp_path, documents=2))
    assert (counts["documents"], counts["questions"], counts["proposed_pairs"]) == (2, 6, 5)
    assert {key[0] for key in scores_of(tmp_path)} == {"one", "two"}


def test_no_curves_without_labels(learnt: Learnt, tmp_path: Path) -> None:
    documents = [tiny.document([m[0].name for m in d.entities], [], d.title) for d in tiny.DOCUMENTS]
    unlabeled = [type(d)(d.title, d.sentences, d.entities, None) for d in documents]
    corpus = tiny.corpus(tmp_path / "unlabeled", unlabeled)
    other = learnt._replace(corpus=corpus)
    run(config(other, tmp_path))
    assert (
        not list((tmp_path / "classify").glob("*curve*")) and not (tmp_path / "classify" / "reliability.json").exists()
    )


@pytest.mark.parametrize("kind", ["rc", "likelihood"])
def test_files_do_not_depend_on_the_workers(
    learnt: Learnt, learnt_likelihood: Learnt, tmp_path: Path, kind: str
) -> None:
    """With kind likelihood not on the size of batches either."""
    if kind == "likelihood":
        tiny.candidates(tmp_path / "candidates", learnt.corpus)
    written = []
    for unit in (3, 2, 1):
        batch_size = unit if kind == "likelihood" else 8
        options = config(
            learnt_likelihood if kind == "likelihood" else learnt,
            tmp_path,
            decode=DecodeOptions(mode="score", batch_size=batch_size),
        )
        parts = {}
        for start in reversed(range(0, 3, unit)):
            worker = ClassifyInference(options)
            rows = worker.rows(range(start, min(start + unit, 3)))
            parts[start] = pa.Table.from_pylist(rows, schema=worker.schema)
        merged = pa.concat_tables(parts[start] for start in sorted(parts))
        ClassifyInference(options).finish(iter(merged.to_pylist()))
        written.append({path.name: path.read_bytes() for path in (tmp_path / "classify").iterdir()})
    assert written[0] == written[1] == written[2]
    assert len(written[0]) == 5


def test_identity(learnt: Learnt, tmp_path: Path) -> None:
    first = config(learnt, tmp_path)
    fusion(band=(0.1, 0.8)).save(tmp_path / "other.json")
    copy = tmp_path / "copy.json"
    copy.write_bytes((tmp_path / "fusion.json").read_bytes())
    identity = ClassifyInference(first).identity
    assert ClassifyInference(config(learnt, tmp_path, fusion=copy)).identity == identity
    others = [
        config(learnt, tmp_path, ask="all"),
        config(learnt, tmp_path, precision=0.9),
        config(learnt, tmp_path, fusion=tmp_path / "other.json"),
        config(learnt, tmp_path, system="rc", fusion=None),
        config(learnt, tmp_path, system="encoder"),
        config(learnt, tmp_path, system="encoder", fusion=None),
    ]
    assert len({identity, *(ClassifyInference(other).identity for other in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": None}, "system fused scores candidates: give --candidates"),
        ({"candidates": None, "system": "encoder"}, "system encoder scores candidates: give --candidates"),
        ({"fusion": None}, "system fused needs the weights of a fusion: give --fusion"),
        ({"decode": DecodeOptions()}, "give --decode.mode score"),
    ],
)
def test_missing_options(learnt: Learnt, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClassifyInference(config(learnt, tmp_path, **options))


def test_inputs_that_do_not_fit(learnt: Learnt, base: Path, tmp_path: Path) -> None:
    without = candidates(learnt, tmp_path / "without", named=False)
    with pytest.raises(UserError, match=r"the candidates have no relations.* --train.relation-weight 1"):
        ClassifyInference(config(learnt, tmp_path, candidates=without))
    fitted_on = fusion().fitted_on.model_copy(update={"relations_sha256": "1" * 64})
    fusion(fitted_on=fitted_on).save(tmp_path / "other.json")
    with pytest.raises(UserError, match="fitted with another relation set"):
        ClassifyInference(config(learnt, tmp_path, fusion=tmp_path / "other.json"))
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(UserError, match="is no fusion"):
        ClassifyInference(config(learnt, tmp_path, fusion=tmp_path / "empty.json"))
    yes_no = by_heart(base, tmp_path / "yes", "rcp-llm", tiny.DOCUMENTS, 1)
    with pytest.raises(ConfigError, match="system fused needs an LM that names relations"):
        ClassifyInference(config(learnt, tmp_path, rc=yes_no.adapter))
