from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given, settings

from lmrc.corpus.docred import read_documents
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.scores import Counts, score
from lmrc.evaluation.metrics.splits import frequent_relations
from lmrc.evaluation.metrics.train_facts import Facts, Training, read_facts
from tests.evaluation.examples import RELATIONS, document, family
from tests.evaluation.strategies import as_predictions, documents, predicted


def part_of(split: str, value: int) -> str:
    """Return the name of the part that contains a number."""
    parts = {
        "sentence_distance": ["0", "1", "2", "3", "4+"],
        "mentions": ["2", "3", "4", "5-6", "7-9", "10+"],
        "document_words": ["1-150", "151-200", "201-250", "251-300", "301-500", "501-1000", "1001+"],
    }[split]
    for part in parts:
        low, _, high = part.partition("-")
        if part.endswith("+") or int(low) <= value <= int(high or low):
            return part
    raise AssertionError(value)


def slow_splits(gold: list[Document], predictions: list[Prediction]) -> dict[str, dict[str, Counts]]:
    """Compute the splits over sets of triples."""
    by_title = {d.title: d for d in gold}
    gold_set = {(d.title, x.head, x.tail, x.relation) for d in gold for x in d.labels or ()}
    predicted_set = {(p.title, p.head, p.tail, p.relation) for p in predictions}
    parts: dict[tuple[str, str], tuple[set[Any], set[Any]]] = {}
    for side, triples in enumerate((predicted_set, gold_set)):
        for triple in triples:
            title, head, tail, _ = triple
            if title not in by_title:
                continue
            made = by_title[title]
            values = [("document_words", sum(len(s) for s in made.sentences))]
            if 0 <= head < len(made.entities) and 0 <= tail < len(made.entities):
                h, t = made.entities[head], made.entities[tail]
                values.append(("mentions", len(h) + len(t)))
                values.append(("sentence_distance", min(abs(a.sentence - b.sentence) for a in h for b in t)))
            for split, value in values:
                parts.setdefault((split, part_of(split, value)), (set(), set()))[side].add(triple)
    result: dict[str, dict[str, Counts]] = {}
    for (split, part), (f, w) in parts.items():
        result.setdefault(split, {})[part] = Counts(len(f & w), len(f), len(w))
    return result


def nonempty_splits(
    gold: list[Document], predictions: list[Prediction], relations: Any
) -> dict[str, dict[str, Counts]]:
    """Return the splits of `score` without empty parts."""
    splits = {s.name: s.parts for s in score(gold, predictions, relations).splits if s.name != "relation_frequency"}
    filled = {name: {p: c for p, c in parts.items() if c != Counts()} for name, parts in splits.items()}
    return {name: parts for name, parts in filled.items() if parts}


@settings(deadline=None)
@given(documents(), predicted)
def test_splits_agree_with_sets(gold: list[Document], predictions: list[Prediction]) -> None:
    assert nonempty_splits(gold, predictions, RELATIONS) == slow_splits(gold, predictions)


def test_splits_of_real_documents(shared_data: Path) -> None:
    dev = list(read_documents(shared_data / "redocred_dev.json", DOCRED))
    gold = as_predictions(dev)
    predictions = gold[::2] + [Prediction(p.title, p.tail, p.head, p.relation) for p in gold[::3]]
    found = nonempty_splits(dev, predictions, DOCRED)
    assert found == slow_splits(dev, predictions)
    assert found["sentence_distance"]["0"].gold == 7_982  # the intra triples
    assert sum(part.gold for part in found["document_words"].values()) == 17_284


def test_frequent_relations_come_from_the_training_set_if_known(shared_data: Path) -> None:
    train = read_facts(shared_data / "redocred_train_992.json", DOCRED)
    counted = Counter(
        x.relation for d in read_documents(shared_data / "redocred_train_992.json", DOCRED) for x in d.labels or ()
    )
    assert set(frequent_relations(train.by_relation(), DOCRED)) == {relation for relation, _ in counted.most_common(10)}
    dev = list(read_documents(shared_data / "redocred_dev.json", DOCRED))[:40]
    for facts, counts in ((train, counted), (None, Counter(x.relation for d in dev for x in d.labels or ()))):
        top = {relation for relation, _ in sorted(counts.items(), key=lambda x: (-x[1], DOCRED.index(x[0])))[:10]}
        split = next(s for s in score(dev, [], DOCRED, facts).splits if s.name == "relation_frequency")
        assert split.parts["frequent"].gold == sum(x.relation in top for d in dev for x in d.labels or ())
        assert split.parts["long_tail"].gold == sum(x.relation not in top for d in dev for x in d.labels or ())
        assert ("training triples" if facts else "gold triples") in split.meaning


def test_ties_of_frequent_relations_follow_the_relation_set() -> None:
    ids = DOCRED.ids
    counts = {**{relation: 5 for relation in reversed(ids[3:30])}, ids[90]: 9}
    assert frequent_relations(counts, DOCRED) == (ids[90], *ids[3:12])


def test_facts_by_relation_without_training_documents() -> None:
    facts = frozenset({("a", "b", "P2"), ("a", "c", "P2"), ("a", "b", "P1")})
    assert Facts(facts, "x", "0" * 64).by_relation() == {"P1": 1, "P2": 2}
    known = Facts(facts, "x", "0" * 64, Training(frozenset({"t"}), {"P1": 7}))
    assert known.by_relation() == {"P1": 7}


def test_unknown_titles_entities_and_relations_are_in_no_part() -> None:
    predictions = [
        Prediction("Nobody", 0, 1, "P1"),
        Prediction("Family", 0, 9, "P1"),
        Prediction("Family", 0, 2, "P9"),
    ]
    gold = [family(), document("x", [[("a", 0)], [("b", 0)]], [])]
    splits = {split.name: split.parts for split in score(gold, predictions, RELATIONS).splits}
    predicted = {name: sum(part.predicted for part in parts.values()) for name, parts in splits.items()}
    # A prediction with an unknown title may have a known relation; one with an unknown entity a known document.
    assert predicted == {"relation_frequency": 2, "sentence_distance": 1, "mentions": 1, "document_words": 2}
