from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings

from lmrc.corpus.docred import read_documents, to_json
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.statistics import count, statistics
from lmrc.corpus.types import Document, Label, Mention
from tests.corpus.strategies import corpora


def slow_statistics(raw: list[dict]) -> dict[str, int]:  # type: ignore[type-arg]
    """Compute the statistics directly from JSON, by their definitions."""
    triples = {(n, x["h"], x["t"], x["r"]) for n, doc in enumerate(raw) for x in doc.get("labels", [])}
    pairs = {
        (n, h, t)
        for n, doc in enumerate(raw)
        for h in range(len(doc["vertexSet"]))
        for t in range(len(doc["vertexSet"]))
        if h != t
    }
    positive = {triple[:3] for triple in triples}
    intra = {
        (n, h, t, r)
        for n, h, t, r in triples
        if any(a["sent_id"] == b["sent_id"] for a in raw[n]["vertexSet"][h] for b in raw[n]["vertexSet"][t])
    }
    return {
        "documents": len(raw),
        "candidate_pairs": len(pairs),
        "na_pairs": len([pair for pair in pairs if "labels" in raw[pair[0]] and pair not in positive]),
        "relation_pairs": len(positive),
        "triples": len(triples),
        "intra_triples": len(intra),
        "inter_triples": len(triples - intra),
        "relations": len({triple[3] for triple in triples}),
        "entities": sum(len(doc["vertexSet"]) for doc in raw),
        "mentions": sum(len(entity) for doc in raw for entity in doc["vertexSet"]),
        "sentences": sum(len(doc["sents"]) for doc in raw),
        "words": sum(len(sentence) for doc in raw for sentence in doc["sents"]),
    }


@settings(max_examples=40, deadline=None)
@given(corpora())
def test_statistics_equal_the_slow_count(given: list[Document]) -> None:
    expected = slow_statistics([to_json(document) for document in given])
    assert {key: value for key, value in statistics(given).items() if key in expected} == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "redocred_dev.json",
            {
                "documents": 500,
                "candidate_pairs": 193_232,
                "na_pairs": 179_870,
                "relation_pairs": 13_362,
                "triples": 17_284,
                "intra_triples": 7_982,
                "inter_triples": 9_302,
            },
        ),
        (
            "redocred_train_992.json",
            {
                "documents": 992,
                "candidate_pairs": 401_182,
                "na_pairs": 378_123,
                "relation_pairs": 23_059,
                "triples": 28_146,
            },
        ),
    ],
)
def test_statistics_of_real_data(shared_data: Path, name: str, expected: dict[str, int]) -> None:
    figures = statistics(read_documents(shared_data / name, DOCRED))
    assert {key: figures[key] for key in expected} == expected
    slow = slow_statistics(json.loads((shared_data / name).read_text()))
    assert {key: figures[key] for key in slow} == slow


def test_means_and_shares() -> None:
    a = (Mention("A", 0, 0, 1, "PER"), Mention("A", 1, 0, 1, "PER"))
    b = (Mention("B", 0, 1, 2, "PER"),)
    c = (Mention("C", 1, 1, 2, "PER"),)
    labels = (Label(0, 1, "P17"), Label(0, 1, "P6"), Label(1, 2, "P17"))
    labelled = Document("one", (("A", "B"), ("A", "C", ".")), (a, b, c), labels, duplicate_labels=2)
    unlabelled = Document("two", (("A", "B"),), (b, b), None)
    counts = count([labelled, unlabelled])
    assert counts.per_relation == {"P17": 2, "P6": 1}
    assert counts.summary() == {
        "documents": 2,
        "labelled_documents": 1,
        "candidate_pairs": 8,
        "na_pairs": 4,
        "relation_pairs": 2,
        "triples": 3,
        "intra_triples": 2,
        "inter_triples": 1,
        "relations": 2,
        "duplicate_labels": 2,
        "entities": 5,
        "mentions": 6,
        "sentences": 3,
        "words": 7,
        "relation_pair_share": 2 / 6,
        "mentions_per_entity": 6 / 5,
        "mean_candidate_pairs": 4.0,
        "mean_triples": 3.0,
        "mean_entities": 2.5,
        "mean_sentences": 1.5,
        "mean_words": 3.5,
    }


def test_empty_corpus_has_only_zeros() -> None:
    assert set(statistics([]).values()) == {0}
