from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrc.common.errors import UserError
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.docred import read_documents
from lmrc.corpus.predictions import Prediction, read_predictions
from lmrc.corpus.relation_schema import (
    RelationRule,
    RelationSchema,
    SchemaEffect,
    SchemaStatistics,
    apply_schema,
    entity_types,
)
from lmrc.corpus.relations import DOCRED, RelationSet
from lmrc.corpus.types import Document, Label, Mention
from tests.conftest import ROOT
from tests.corpus.strategies import corpora

RELATIONS = RelationSet(("R1", "R2", "R3", "R4"), ("born in", "birthplace of", "near", "owns"))
TYPES = ("PER", "LOC", "ORG", "NEW")


def document(types: list[str], labels: list[tuple[int, int, str]] | None = None, title: str = "t") -> Document:
    """Return a document with an entity per type. Its later mentions have another type, which does not count."""
    entities = tuple((Mention("a", 0, 0, 1, name), Mention("a", 0, 0, 1, "LATER")) for name in types)
    return Document(title, (("a",),), entities, None if labels is None else tuple(Label(*label) for label in labels))


def open_corpus(folder: Path, documents: list[Document], relations: RelationSet = RELATIONS) -> Corpus:
    write_corpus(documents, folder, relations, "test", "0" * 64)
    return Corpus.open(folder)


def schema_of(**rules: Any) -> RelationSchema:
    return RelationSchema.of_json(rules, RELATIONS, "schema.json")


def slow_counts(documents: list[Document]) -> tuple[Counter[Any], Counter[Any], Counter[Any]]:
    """Return the types of all triples, related pairs and pairs, counted one by one."""
    triples: Counter[Any] = Counter()
    related: Counter[Any] = Counter()
    pairs: Counter[Any] = Counter()
    for doc in documents:
        types = [entity[0].type for entity in doc.entities]
        labels = {(label.head, label.tail, label.relation) for label in doc.labels or ()}
        for head, head_type in enumerate(types):
            for tail, tail_type in enumerate(types):
                if head != tail:
                    here = [relation for h, t, relation in labels if (h, t) == (head, tail)]
                    pairs[head_type, tail_type] += 1
                    related[head_type, tail_type] += bool(here)
                    triples.update((head_type, relation, tail_type) for relation in here)
    return triples, related, pairs


@settings(max_examples=40, deadline=None)
@given(documents=corpora(RELATIONS), minimum=st.integers(1, 3))
def test_learnt_schema_is_that_of_single_counts(
    tmp_path_factory: pytest.TempPathFactory, documents: list[Document], minimum: int
) -> None:
    corpus = open_corpus(tmp_path_factory.mktemp("corpora") / "corpus", documents)
    triples, related, pairs = slow_counts(documents)
    if all(doc.labels is None for doc in documents):
        with pytest.raises(UserError, match="no document has labels"):
            RelationSchema.of_corpus(corpus, minimum)
        return
    schema = RelationSchema.of_corpus(corpus, minimum)
    frequent = {triple for triple, count in triples.items() if count >= minimum}
    known = {name for head, _, tail in frequent for name in (head, tail)}
    assert schema.known_types == known
    offered: dict[tuple[str, str], list[int]] = {}
    names = {name for pair in pairs for name in pair} | {"never seen"}
    for head in names:
        for tail in names:
            expected = [
                index
                for index, relation in enumerate(RELATIONS.ids)
                if (head, relation, tail) in frequent or not {head, tail} <= known
            ]
            assert [schema.admits(head, relation, tail) for relation in RELATIONS] == [
                index in expected for index in range(len(RELATIONS))
            ]
            assert list(schema.admissible(head, tail)) == list(schema.admissible(head, tail)) == expected
            offered[head, tail] = expected
    everything = len(RELATIONS)
    assert SchemaStatistics.of(schema, corpus) == SchemaStatistics(
        relations=everything,
        pairs=sum(pairs.values()),
        offered=sum((len(offered[pair]) or everything) * count for pair, count in pairs.items()),
        unrestricted=sum(count for pair, count in pairs.items() if not offered[pair]),
        related=sum(related.values()),
        related_offered=sum((len(offered[pair]) or everything) * count for pair, count in related.items()),
        triples=sum(triples.values()),
        inadmissible=sum(
            count for (h, relation, t), count in triples.items() if RELATIONS.index(relation) not in offered[h, t]
        ),
        unknown_types=tuple(sorted({name for pair in pairs for name in pair} - known)),
    )


def test_a_corpus_of_several_shards_is_counted_as_a_whole(tmp_path: Path) -> None:
    documents = [document(["PER", "LOC"], [(0, 1, "R1")], f"t{number}") for number in range(3)]
    write_corpus(documents, tmp_path / "corpus", RELATIONS, "test", "0" * 64, docs_per_shard=1)
    corpus = Corpus.open(tmp_path / "corpus")
    assert RelationSchema.of_corpus(corpus, 3).rules["R1"].types == {("PER", "LOC")}
    assert RelationSchema.of_corpus(corpus, 4).rules["R1"].types == frozenset()


def test_minimum_must_be_positive(tmp_path: Path) -> None:
    corpus = open_corpus(tmp_path / "corpus", [document(["PER", "LOC"], [(0, 1, "R1")])])
    with pytest.raises(ValueError, match="minimum is 0, expected at least 1"):
        RelationSchema.of_corpus(corpus, 0)


def test_statistics_as_text(tmp_path: Path) -> None:
    labels = [(0, 1, "R1"), (0, 1, "R4"), (2, 3, "R3")]
    corpus = open_corpus(tmp_path / "corpus", [document(["PER", "LOC", "PER", "NEW"], labels)])
    schema = schema_of(**{relation: {"types": []} for relation in RELATIONS} | {"R1": {"types": [["PER", "LOC"]]}})
    # PER-LOC: 2 pairs with R1; PER-PER: 2 and LOC-PER: 2 pairs without any; NEW: 6 pairs with all.
    assert str(SchemaStatistics.of(schema, corpus)) == (
        f"the LM is offered {(2 * 1 + 4 * 4 + 6 * 4) / 12:.1f} of 4 relations for a pair on average (all, if none is "
        f"admissible), and {(1 + 4) / 2:.1f} for one with a relation; 4 of 12 pairs have no admissible relation; 1 of "
        "3 gold triples are not admissible; unknown types: NEW"
    )


def test_written_schema_is_read_back(tmp_path: Path) -> None:
    schema = schema_of(
        R1={"allowed_head": ["PER"], "allowed_tail": ["LOC"], "inverse": "R2", "functional": True},
        R2={"types": [["LOC", "PER"], ["ORG", "Größe"]]},
        R3={},
        R4={"types": []},
    )
    schema.write(tmp_path / "schema.json")
    assert RelationSchema.read(tmp_path / "schema.json", RELATIONS) == schema
    assert json.loads((tmp_path / "schema.json").read_text()) == schema.as_json()
    assert len((tmp_path / "schema.json").read_text().splitlines()) == 4 + 2
    learnt = RelationSchema.of_corpus(open_corpus(tmp_path / "c", [document(["PER", "LOC"], [(0, 1, "R1")])]), 1)
    learnt.write(tmp_path / "learnt.json")
    assert RelationSchema.read(tmp_path / "learnt.json", RELATIONS.ids) == learnt


def test_what_an_entry_leaves_open_is_admitted() -> None:
    schema = schema_of(
        R1={"allowed_head": ["PER"], "allowed_tail": ["LOC", "ORG"]}, R2={"allowed_head": ["LOC"]}, R3={"types": []}
    )

    def admitted(head: str, tail: str) -> list[str]:
        return [RELATIONS.ids[index] for index in schema.admissible(head, tail)]

    assert schema.known_types == {"PER", "LOC", "ORG"}
    assert admitted("PER", "ORG") == ["R1", "R4"]
    assert admitted("LOC", "PER") == admitted("LOC", "LOC") == ["R2", "R4"]
    assert admitted("ORG", "PER") == ["R4"]
    # NEW is unknown.
    assert admitted("NEW", "PER") == admitted("PER", "NEW") == list(RELATIONS.ids)
    # A relation outside the set has no entry.
    assert schema.admits("PER", "R9", "LOC")


@given(types=st.lists(st.sampled_from(TYPES), max_size=5))
def test_mask_has_the_order_of_the_pairs(types: list[str]) -> None:
    schema = schema_of(R1={"types": [["PER", "LOC"]]}, R2={"allowed_tail": ["ORG"]}, R3={"types": []})
    expected = [
        [schema.admits(head_type, relation, tail_type) for relation in RELATIONS]
        for head, head_type in enumerate(types)
        for tail, tail_type in enumerate(types)
        if head != tail
    ]
    mask = schema.mask(types)
    assert mask.shape == (len(expected), len(RELATIONS))
    assert mask.tolist() == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "expected an object of relation ids"),
        ('{"R1": {}, "R1": {}}', "'R1' occurs twice"),
        ('{"R1": {"types": [], "types": []}}', "'types' occurs twice"),
        ('{"R11": {}}', r"unknown relation 'R11'; did you mean R1\?"),
        ('{"R1": ["PER"]}', "relation 'R1': expected an object with the keys types, allowed_head"),
        ('{"R1": {"allowed_heads": []}}', r"relation 'R1': unknown key 'allowed_heads'; did you mean allowed_head\?"),
        ('{"R1": {"funktional": true}}', r"unknown key 'funktional'; did you mean functional\?"),
        ('{"R1": {"inverse": "R22"}}', r"its inverse 'R22' is no relation; did you mean R2\?"),
        ('{"R1": {"inverse": 3}}', "its inverse 3 is no relation"),
        ('{"R1": {"functional": "yes"}}', "functional is 'yes', expected true or false"),
        ('{"R1": {"allowed_head": "PER"}}', r"allowed_head must be a list of types, such as \[\"PER\"\], not 'PER'"),
        ('{"R1": {"allowed_tail": [3]}}', r"allowed_tail must be a list of types"),
        ('{"R1": {"types": {"PER": "LOC"}}}', "types must be a list of pairs of types"),
        ('{"R1": {"types": [["PER", "LOC"], ["PER"]]}}', r"but one of them is \['PER'\]"),
        ('{"R1": {"types": ["AB"]}}', "but one of them is 'AB'"),
        ('{"R1": {"types": [], "allowed_tail": []}}', "give either types, or allowed_head and allowed_tail"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "schema.json").write_text(content)
    with pytest.raises(UserError, match=f"schema.json: .*{message}"):
        RelationSchema.read(tmp_path / "schema.json", RELATIONS)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"schema\.json: no such file"):
        RelationSchema.read(tmp_path / "schema.json", RELATIONS)


DOCUMENT = document(["PER", "LOC", "LOC", "ORG", "NEW"])


def prediction(head: int, relation: str, tail: int, score: float | None = None, title: str = "t") -> Prediction:
    return Prediction(title, head, tail, relation, score)


def test_inadmissible_triples_are_left_out() -> None:
    schema = schema_of(R1={"types": [["PER", "LOC"]]}, R4={"allowed_head": ["ORG"]})
    kept = [
        prediction(0, "R1", 1),
        prediction(0, "R1", 1, 0.5),
        # An unknown type, a relation outside the set, an entity and a document that do not exist.
        prediction(4, "R1", 0),
        prediction(0, "R9", 1),
        prediction(0, "R4", 9),
        prediction(-1, "R4", 0),
        prediction(0, "R4", 1, title="other"),
    ]
    left_out = [prediction(1, "R1", 0), prediction(0, "R4", 3)]
    triples, effect = apply_schema([left_out[0], *kept, left_out[1]], iter([DOCUMENT]), schema)
    assert triples == kept
    assert effect == SchemaEffect(predictions=9, inadmissible=2, unknown_types=4)
    assert str(effect) == ("2 of 9 triples are not admissible and left out; 4 with an entity of unknown type are kept")


def test_functional_relation_keeps_the_best_tail() -> None:
    schema = schema_of(R1={"functional": True})
    best = [prediction(0, "R1", 2, 0.9), prediction(1, "R1", 3), prediction(2, "R1", 0, 0.5), prediction(0, "R3", 1)]
    others = [prediction(0, "R1", 1, 0.8), prediction(1, "R1", 0, 0.9), prediction(2, "R1", 1, 0.5)]
    elsewhere = prediction(0, "R1", 1, 0.1, title="other")
    again = prediction(0, "R1", 2, 0.2)
    triples, effect = apply_schema([*others, *best, elsewhere, again], [DOCUMENT], schema)
    assert triples == [*best, elsewhere, again]
    assert effect.further_tails == 3


def test_inverse_triples_are_added_with_score_and_evidence() -> None:
    schema = schema_of(
        R1={"inverse": "R2", "allowed_head": ["PER", "ORG"]},
        R2={"types": [["LOC", "PER"]]},
        R3={"inverse": "R3"},
    )
    given_triples = [
        replace(prediction(0, "R1", 1, 0.7), evidence=(0,)),
        prediction(3, "R1", 1, 0.6),
        prediction(0, "R1", 2, 0.4),
        prediction(2, "R2", 0, 0.9),
        prediction(1, "R3", 2),
    ]
    triples, effect = apply_schema(given_triples, [DOCUMENT], schema)
    added = [replace(prediction(1, "R2", 0, 0.7), evidence=(0,)), prediction(2, "R3", 1)]
    assert triples == [*given_triples, *added]
    assert effect == SchemaEffect(predictions=5, inverse=2, inadmissible_inverse=1)
    assert str(effect).endswith("left out; 2 inverse triples are added, 1 are not admissible")


@st.composite
def schemas(draw: st.DrawFn) -> RelationSchema:
    types = st.frozensets(st.sampled_from(TYPES[:3]))
    entries = st.one_of(
        st.builds(RelationRule, types=st.frozensets(st.tuples(*2 * [st.sampled_from(TYPES[:3])]))),
        st.builds(RelationRule, allowed_head=st.none() | types, allowed_tail=st.none() | types),
    )
    rules = draw(st.dictionaries(st.sampled_from(RELATIONS.ids), entries))
    return RelationSchema(
        RELATIONS.ids,
        {
            relation: replace(
                rule, inverse=draw(st.none() | st.sampled_from(RELATIONS.ids)), functional=draw(st.booleans())
            )
            for relation, rule in rules.items()
        },
    )


def slow_apply(predictions: list[Prediction], doc: Document, schema: RelationSchema) -> set[Prediction]:
    """The definition of `apply_schema` for one document, with sets."""
    types = entity_types(doc)
    named = {
        name
        for rule in schema.rules.values()
        for name in [
            *(n for pair in rule.types or () for n in pair),
            *(rule.allowed_head or ()),
            *(rule.allowed_tail or ()),
        ]
    }

    def admits(p: Prediction) -> bool:
        head, tail = types[p.head], types[p.tail]
        rule = schema.rules.get(p.relation)
        if rule is None or head not in named or tail not in named:
            return True
        if rule.types is not None:
            return (head, tail) in rule.types
        heads = named if rule.allowed_head is None else rule.allowed_head
        return head in heads and tail in (named if rule.allowed_tail is None else rule.allowed_tail)

    def is_functional(relation: str) -> bool:
        return relation in schema.rules and schema.rules[relation].functional

    def best(triples: set[Prediction]) -> set[Prediction]:
        def beaten(p: Prediction) -> bool:
            rivals = [q for q in triples if (q.head, q.relation) == (p.head, p.relation) and q.tail != p.tail]
            own = max(q.score or 0.0 for q in triples if (q.head, q.relation, q.tail) == (p.head, p.relation, p.tail))
            return any((q.score, -q.tail) > (own, -p.tail) for q in rivals)

        return {p for p in triples if not is_functional(p.relation) or not beaten(p)}

    kept = best({p for p in predictions if admits(p)})
    # Of repeated triples the first one gives the score.
    inverse: dict[tuple[int, int, str], Prediction] = {}
    for p in predictions:
        other = schema.rules[p.relation].inverse if p.relation in schema.rules else None
        if p in kept and other is not None:
            inverse.setdefault((p.tail, p.head, other), Prediction(p.title, p.tail, p.head, other, p.score))
    new = {q for key, q in inverse.items() if admits(q) and key not in {(p.head, p.tail, p.relation) for p in kept}}
    return best(kept | new)


@settings(max_examples=300)
@given(data=st.data(), schema=schemas(), types=st.lists(st.sampled_from(TYPES), min_size=2, max_size=4))
def test_result_is_that_of_the_definition(data: st.DataObject, schema: RelationSchema, types: list[str]) -> None:
    pairs = [(h, t) for h in range(len(types)) for t in range(len(types)) if h != t]
    triple = st.builds(
        lambda pair, relation, score: prediction(pair[0], relation, pair[1], score),
        st.sampled_from(pairs),
        st.sampled_from(RELATIONS.ids),
        st.sampled_from([0.1, 0.5, 0.9]),
    )
    predictions = data.draw(st.lists(triple, max_size=8, unique=True))
    doc = document(types)
    triples, effect = apply_schema(predictions, [doc], schema)
    assert set(triples) == slow_apply(predictions, doc, schema)
    assert (
        len(triples)
        == len(set(triples))
        == (effect.predictions - effect.inadmissible + effect.inverse - effect.further_tails)
    )


def test_the_study_gains_three_points(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Issue 22: F1 of the study rises from 34.4 to 37.6 with the same recall."""
    train = open_corpus(
        tmp_path / "train", list(read_documents(shared_data / "redocred_train_992.json", DOCRED)), DOCRED
    )
    schema = RelationSchema.of_corpus(train, 3)
    dev = list(read_documents(shared_data / "redocred_dev.json", DOCRED))
    gold = {(doc.title, label.head, label.tail, label.relation) for doc in dev for label in doc.labels or ()}
    predictions = read_predictions(ROOT / "benchmarks/study/results/earlier/lmrc-dev.predictions.json")

    def scores(triples: list[Prediction]) -> tuple[float, float]:
        correct = sum((p.title, p.head, p.tail, p.relation) in gold for p in triples)
        return 200 * correct / (len(triples) + len(gold)), 100 * correct / len(gold)

    kept, effect = apply_schema(predictions, dev, schema)
    assert scores(predictions) == pytest.approx((34.39, 31.40), abs=0.005)
    assert scores(kept) == pytest.approx((37.58, 31.37), abs=0.005)
    assert effect == SchemaEffect(predictions=14_276, inadmissible=2_706)
