from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrc.common.errors import UserError
from lmrc.corpus.docred import read_documents
from lmrc.corpus.predictions import Prediction, Predictions
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document, Label
from lmrc.evaluation.metrics.error_analysis import analyze
from lmrc.evaluation.metrics.gold_table import Gold
from lmrc.evaluation.metrics.scores import Counts, Scores, score
from lmrc.evaluation.metrics.train_facts import Facts, read_facts
from lmrc.evaluation.metrics.triple_table import Triples
from tests.evaluation.examples import RELATIONS, document, family
from tests.evaluation.strategies import as_predictions, documents, names, predicted, relation_ids


def slow_scores(
    gold: list[Document], predictions: list[Prediction], facts: set[tuple[str, str, str]], epsilon: float
) -> dict[str, float]:
    """Compute the scores by their definitions, over sets of (title, head, tail, relation)."""
    by_title = {d.title: d for d in gold}
    wanted = {(d.title, label.head, label.tail, label.relation) for d in gold for label in d.labels or ()}
    found = {(p.title, p.head, p.tail, p.relation) for p in predictions}

    def distance(triple: tuple[str, int, int, str]) -> str | None:
        title, head, tail, _ = triple
        if title not in by_title:
            return None
        entities = by_title[title].entities
        if not (0 <= head < len(entities) and 0 <= tail < len(entities)):
            return None
        pairs = [(a, b) for a in entities[head] for b in entities[tail]]
        return "intra" if any(a.sentence == b.sentence for a, b in pairs) else "inter"

    def in_train(triple: tuple[str, int, int, str]) -> bool:
        title, head, tail, relation = triple
        entities = by_title[title].entities
        return any((a.name, b.name, relation) in facts for a in entities[head] for b in entities[tail])

    def prf(found: set[Any], wanted: set[Any]) -> tuple[float, float, float]:
        p = 100 * len(found & wanted) / len(found) if found else 0.0
        r = 100 * len(found & wanted) / len(wanted) if wanted else 0.0
        return p, r, 2 * p * r / (p + r) if p + r else 0.0

    result: dict[str, float] = {"predictions": len(found), "gold": len(wanted)}
    result["precision"], result["recall"], result["f1"] = prf(found, wanted)
    for kind in ("intra", "inter"):
        parts = ({t for t in found if distance(t) == kind}, {t for t in wanted if distance(t) == kind})
        result[f"{kind}_precision"], result[f"{kind}_recall"], result[f"{kind}_f1"] = prf(*parts)
    for relation in RELATIONS:
        parts = ({t for t in found if t[3] == relation}, {t for t in wanted if t[3] == relation})
        result[relation] = prf(*parts)[2]
    evidence = (
        {(p.title, p.head, p.tail, p.relation, s) for p in predictions for s in p.evidence or ()},
        {(d.title, x.head, x.tail, x.relation, s) for d in gold for x in d.labels or () for s in x.evidence},
    )
    if any(p.evidence is not None for p in predictions):
        result["evidence_precision"], result["evidence_recall"], result["evidence_f1"] = prf(*evidence)
    known = {t for t in found & wanted if in_train(t)}
    left = len(found - known) + epsilon
    p = 100 * len(found & wanted - known) / left if left else 0.0
    r = result["recall"]
    result["ign_precision"], result["ign_f1"] = p, 2 * p * r / (p + r) if p + r else 0.0
    return result


facts_sets = st.frozensets(st.tuples(names, names, relation_ids), max_size=6)


@settings(deadline=None)
@given(documents(), predicted, facts_sets, st.data())
def test_scores_agree_with_the_definitions(
    gold: list[Document], guesses: list[Prediction], known: frozenset[tuple[str, str, str]], data: st.DataObject
) -> None:
    predictions = guesses + [p for p in as_predictions(gold) if data.draw(st.booleans())]
    for variant, epsilon in (("docred", 0.0), ("redocred", 1e-5)):
        found = score(gold, predictions, RELATIONS, Facts(known, "facts.json", "0" * 64), variant).as_json()
        found |= {relation: counts["f1"] for relation, counts in found["per_relation"].items()}
        for name, value in slow_scores(gold, predictions, set(known), epsilon).items():
            assert found[name] == pytest.approx(value, abs=1e-9), name


@settings(deadline=None)
@given(documents(), predicted, st.randoms(use_true_random=False), st.data())
def test_order_and_repeats_change_only_the_duplicates(
    gold: list[Document], predictions: list[Prediction], shuffler: random.Random, data: st.DataObject
) -> None:
    again = predictions + [p for p in predictions if data.draw(st.booleans())]
    shuffler.shuffle(again)
    first, second = score(gold, predictions, RELATIONS).as_json(), score(gold, again, RELATIONS).as_json()
    assert second.pop("duplicates") - first.pop("duplicates") == len(again) - len(predictions)
    assert first == second
    assert score(gold, predictions, RELATIONS).examples == score(gold, again, RELATIONS).examples


@settings(deadline=None)
@given(documents())
def test_gold_predictions_score_100(gold: list[Document]) -> None:
    scores = score(gold, as_predictions(gold), RELATIONS)
    if scores.all.gold:
        assert (scores.all.precision, scores.all.recall, scores.all.f1) == (100.0, 100.0, 100.0)
    if scores.evidence is not None:
        assert scores.evidence.f1 == (100.0 if scores.evidence.gold else 0.0)
    split = [part for split in scores.splits for part in split.parts.values()]
    for part in (scores.intra, scores.inter, *scores.per_relation.values(), *split):
        assert part.f1 == (100.0 if part.gold else 0.0)


def test_by_hand() -> None:
    predictions = [
        Prediction("Family", 0, 1, "P1"),  # correct, intra, a training fact by Bob's other name
        Prediction("Family", 1, 2, "P3"),  # correct, inter
        Prediction("Family", 2, 0, "P1"),  # wrong, inter; a training fact, but not removed
        Prediction("Family", 1, 0, "P1"),  # wrong, intra
        Prediction("Family", 1, 0, "P1", 0.5),  # repeated
    ]
    facts = Facts(frozenset({("Ann", "Robert", "P1"), ("Paris", "Ann", "P1")}), "train.json", "ab" * 32)
    found = score([family()], predictions, RELATIONS, facts).as_json()
    # With one document, all samples are equal.
    metrics = found.pop("intervals")
    assert metrics == {name: pytest.approx([found[name]] * 2) for name in metrics}
    assert {"precision", "recall", "f1", "ign_f1", "intra_f1", "inter_f1"} < metrics.keys()
    assert found.pop("splits").keys() == {"relation_frequency", "sentence_distance", "mentions", "document_words"}
    third, two_thirds = pytest.approx(100 / 3), pytest.approx(200 / 3)
    ign = 2 * (100 / 3) * (200 / 3) / 100
    assert found == {
        "precision": 50.0,
        "recall": two_thirds,
        "f1": pytest.approx(400 / 7),
        "ign_precision": third,  # 1 of the remaining 3
        "ign_f1": pytest.approx(ign),  # with the full recall
        "intra_precision": 50.0,
        "intra_recall": 50.0,
        "intra_f1": 50.0,
        "inter_precision": 50.0,
        "inter_recall": 100.0,
        "inter_f1": two_thirds,
        "evidence_precision": None,
        "evidence_recall": None,
        "evidence_f1": None,
        "documents": 1,
        "documents_with_predictions": 1,
        "predictions": 4,
        "gold": 3,
        "correct": 2,
        "correct_in_train": 1,
        "intra_gold": 2,
        "inter_gold": 1,
        "duplicates": 1,
        "problems": {
            "unknown_title": 0,
            "unknown_entity": 0,
            "same_entity": 0,
            "unknown_relation": 0,
            "unknown_sentence": 0,
        },
        "ign_variant": "docred",
        "train_facts": {"source": "train.json", "sha256": "ab" * 32, "file": None, "file_sha256": None, "facts": 2},
        "warnings": [],
        "per_relation": {
            "P1": {"precision": third, "recall": 100.0, "f1": 50.0, "support": 1},
            "P2": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
            "P3": {"precision": 100.0, "recall": 100.0, "f1": 100.0, "support": 1},
        },
    }
    json.dumps(found, allow_nan=False)


def test_evidence_scores() -> None:
    labels = (Label(0, 1, "P1", (0, 2)), Label(1, 2, "P3", (1,)))
    gold = [replace(family(), labels=labels)]
    predictions = [
        Prediction("Family", 0, 1, "P1", None, (0, 0, 1)),  # one of two correct
        Prediction("Family", 0, 1, "P1", None, (2,)),  # repeated triple: its evidence is added
        Prediction("Family", 1, 2, "P3"),  # no evidence
        Prediction("Family", 2, 1, "P3", None, (7, -1)),  # wrong triple, unknown sentences
        Prediction("Nobody", 0, 1, "P1", None, (9,)),
    ]
    scores = score(gold, predictions, RELATIONS)
    assert scores.evidence == Counts(correct=2, predicted=6, gold=3)
    assert scores.unknown_sentences == 2
    assert score(gold, predictions[2:3], RELATIONS).evidence is None
    assert score(gold, [Prediction("Family", 0, 1, "P1", None, ())], RELATIONS).evidence == Counts(0, 0, 3)


def test_redocred_variant_adds_epsilon_to_the_denominator() -> None:
    facts = Facts(frozenset({("Ann", "Bob", "P1")}), "train.json", "0" * 64)
    scores = score([family()], as_predictions([family()]), RELATIONS, facts, "redocred")
    assert scores.ign_precision == pytest.approx(100 * 2 / 2.00001, rel=1e-12)
    assert scores.all.f1 == 100.0


@pytest.mark.parametrize("variant", ["docred", "redocred"])
def test_ign_f1_is_zero_if_all_predictions_are_facts(variant: Any) -> None:
    facts = Facts(frozenset({("Ann", "Bob", "P1")}), "train.json", "0" * 64)
    scores = score([family()], [Prediction("Family", 0, 1, "P1")], RELATIONS, facts, variant)
    assert (scores.ign_precision, scores.ign_f1) == (0.0, 0.0)


def test_scores_are_zero_without_predictions() -> None:
    facts = Facts(frozenset({("Ann", "Bob", "P1")}), "train.json", "0" * 64)
    found = score([family()], [], RELATIONS, facts).as_json()
    assert found["intervals"]["f1"] == [0.0, 0.0]
    for name in ("precision", "recall", "f1", "ign_f1", "intra_f1", "inter_f1", "predictions"):
        assert found[name] == 0
    assert found["gold"] == 3
    assert score([], [], RELATIONS).all == Counts()
    assert score([], [], RELATIONS).intervals == {}


def test_single_prediction() -> None:
    assert score([family()], [Prediction("Family", 0, 1, "P1")], RELATIONS).all == Counts(1, 1, 3)


def test_invalid_predictions_are_wrong_and_counted_by_reason() -> None:
    predictions = [
        Prediction("Familie", 0, 1, "P1"),
        Prediction("Familie", 9, 9, "P9"),
        Prediction("Family", 0, 3, "P1"),
        Prediction("Family", -1, 0, "P1"),  # not an index from the end
        Prediction("Family", 1, 1, "P1"),
        Prediction("Family", 0, 1, "P9"),
    ]
    scores = score([family()], predictions, RELATIONS)
    assert scores.all == Counts(0, 6, 3)
    assert scores.problems == {"unknown_title": 2, "unknown_entity": 2, "same_entity": 1, "unknown_relation": 1}
    assert scores.examples == {
        "unknown_title": predictions[0],
        "unknown_entity": predictions[3],
        "same_entity": predictions[4],
        "unknown_relation": predictions[5],
    }
    # Predictions with an unknown title or entity have no distance.
    assert (scores.intra, scores.inter) == (Counts(0, 2, 2), Counts(0, 0, 1))
    assert scores.per_relation["P1"] == Counts(0, 4, 1)


def test_without_facts_there_is_no_ign_f1() -> None:
    found = score([family()], [], RELATIONS).as_json()
    assert (found["ign_precision"], found["ign_f1"], found["train_facts"]) == (None, None, None)


def test_invalid_gold_is_rejected() -> None:
    with pytest.raises(UserError, match="'Test' has no labels"):
        score([document("Test", [[("a", 0)]], None)], [], RELATIONS)
    with pytest.raises(UserError, match="two gold documents have the title 'Family'"):
        score([family(), family()], [], RELATIONS)
    with pytest.raises(UserError, match="outside the relation set, 'P9'"):
        score([document("x", [[("a", 0)], [("b", 0)]], [(0, 1, "P9")])], [], RELATIONS)
    with pytest.raises(UserError, match="'re-docred'; did you mean redocred"):
        score([family()], [], RELATIONS, None, "re-docred")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def dev(shared_data: Path) -> list[Document]:
    return list(read_documents(shared_data / "redocred_dev.json", DOCRED))


@pytest.fixture(scope="module")
def facts(shared_data: Path) -> Facts:
    return read_facts(shared_data / "docred_train_facts.json", DOCRED)


def test_redocred_dev_gold_scores_100(dev: list[Document], facts: Facts) -> None:
    start = time.perf_counter()
    scores: Scores = score(dev, as_predictions(dev), DOCRED, facts, "docred")
    assert time.perf_counter() - start < 3.0  # measured: 0.2 s
    assert (scores.all.f1, scores.ign_f1, scores.intra.f1, scores.inter.f1) == (100.0, 100.0, 100.0, 100.0)
    # Epsilon in the denominator makes the score slightly less than 100.
    redocred = score(dev, as_predictions(dev), DOCRED, facts, "redocred").ign_f1
    assert redocred is not None and 99.9999999 < redocred < 100
    assert (scores.all.gold, scores.intra.gold, scores.inter.gold) == (17_284, 7_982, 9_302)
    pairs = [(d.title, [(label.head, label.tail) for label in d.labels or ()]) for d in dev]
    triples = Triples.of(Gold.of(dev, DOCRED), [Predictions.of([])])
    assert analyze(triples, 0, pairs).proposed == Counts(13_362, 13_362, 13_362)


def test_redocred_dev_agrees_with_the_official_scorer(dev: list[Document], facts: Facts, shared_data: Path) -> None:
    """Compare with the steps of the official scorer, without its bugs, on the raw JSON and facts."""
    rng = random.Random(66)
    predictions = [p for p in as_predictions(dev) if rng.random() < 0.6]
    predictions += [
        Prediction(d.title, rng.randrange(len(d.entities)), rng.randrange(len(d.entities)), rng.choice(DOCRED.ids))
        for d in dev
        for _ in range(15)
    ]
    raw = {d["title"]: d for d in json.loads((shared_data / "redocred_dev.json").read_text())}
    in_train = {tuple(fact) for fact in json.loads((shared_data / "docred_train_facts.json").read_text())}
    std = {(d["title"], x["h"], x["t"], x["r"]) for d in raw.values() for x in d["labels"]}
    submitted = sorted({(p.title, p.head, p.tail, p.relation) for p in predictions})
    correct = correct_in_train = 0
    for title, h, t, r in submitted:
        if (title, h, t, r) in std:
            correct += 1
            vertices = raw[title]["vertexSet"]
            correct_in_train += any((a["name"], b["name"], r) in in_train for a in vertices[h] for b in vertices[t])
    assert correct_in_train > 500
    p = (correct - correct_in_train) / (len(submitted) - correct_in_train + 1e-5)
    r = correct / len(std)
    scores = score(dev, predictions, DOCRED, facts, "redocred")
    assert scores.all == Counts(correct, len(submitted), 17_284)
    assert scores.correct_in_train == correct_in_train
    assert scores.ign_f1 == pytest.approx(100 * 2 * p * r / (p + r), rel=1e-12)
