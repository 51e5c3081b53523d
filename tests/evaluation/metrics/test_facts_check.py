from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from lmrc.corpus.docred import read_documents
from lmrc.corpus.predictions import Prediction, Predictions
from lmrc.corpus.relations import DOCRED, RelationSet
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.facts_check import data_set_of, facts_warnings, ign_variant_for
from lmrc.evaluation.metrics.gold_table import Gold, Source, read_gold
from lmrc.evaluation.metrics.scores import score
from lmrc.evaluation.metrics.train_facts import Facts, Training, iterate_facts, read_facts
from lmrc.evaluation.metrics.triple_table import Triples

WARNINGS = {
    "set": "the facts are those of",
    "density": "triples each",
    "variant": "give --ign-variant",
    "titles": "are among the training documents",
    "share": "of the gold triples are training facts",
    "relations": "no relation of the gold documents",
}


def warning_kinds(gold: Gold, facts: Facts, ign_variant: str = "docred") -> set[str]:
    triples = Triples.of(gold, [])
    warnings = facts_warnings(triples, triples.in_training(facts), facts, ign_variant)  # type: ignore[arg-type]
    kinds = [kind for text in warnings for kind, words in WARNINGS.items() if words in text]
    assert len(kinds) == len(warnings)
    return set(kinds)


def training(documents: list[Document]) -> Facts:
    labels = [x.relation for d in documents for x in d.labels or ()]
    known = Training(frozenset(d.title for d in documents), {r: labels.count(r) for r in set(labels)})
    return Facts(frozenset(iterate_facts(documents)), "train.json", "0" * 64, known)


def thinned(documents: list[Document], share: float) -> list[Document]:
    """Return the documents with about this share of their labels."""
    rng = random.Random(1)
    return [replace(d, labels=tuple(x for x in d.labels or () if rng.random() < share)) for d in documents]


@pytest.fixture(scope="module")
def dev(shared_data: Path) -> Gold:
    return read_gold(shared_data / "redocred_dev.json")


def test_redocred_with_docred_facts(dev: Gold, shared_data: Path, tmp_path: Path) -> None:
    facts = read_facts(shared_data / "docred_train_facts.json", DOCRED)
    assert warning_kinds(dev, facts, "redocred") == {"set"}
    assert warning_kinds(dev, facts, "docred") == {"set", "variant"}
    # Facts are recognized by their content, gold documents by the statistics of table 1, parts of them by density.
    moved = replace(facts, built_from=Source("facts.json", "1" * 64))
    assert warning_kinds(replace(dev, source=None), moved, "redocred") == {"set"}
    some = list(islice(read_documents(shared_data / "redocred_dev.json", DOCRED), 100))
    labels = sum(len(document.labels or ()) for document in some) / 100
    text = " ".join(score(some, [], DOCRED, moved).facts_warnings)
    assert f"{labels:.1f} triples each, those of the training facts 12.5" in text


def test_ign_variant_follows_the_data_set(dev: Gold, shared_data: Path) -> None:
    docred = read_facts(shared_data / "docred_train_facts.json", DOCRED)
    mine = Gold.of(synthetic.generate(3, 1), synthetic.RELATIONS)
    theirs = replace(docred, triples=frozenset({("a", "b", "P17")}), built_from=Source("train_revised.json", "1" * 64))
    assert ign_variant_for(dev, docred) == ign_variant_for(dev, None) == "redocred"
    assert ign_variant_for(replace(dev, source=None), docred) == "redocred"  # by table 1
    some = replace(dev, relation=dev.relation[:9], document=dev.document[:9], head=dev.head[:9], tail=dev.tail[:9],
                   source=Source("dev_revised.json", "1" * 64))  # fmt: skip
    assert ign_variant_for(some, docred) == "redocred"
    assert ign_variant_for(mine, theirs) == "redocred"
    assert ign_variant_for(mine, None) == ign_variant_for(mine, docred) == "docred"
    one = [Prediction(dev.titles[0], int(dev.head[0]), int(dev.tail[0]), DOCRED.ids[dev.relation[0]])]
    assert score(dev, one, DOCRED, docred).ign_variant == "redocred"
    assert score(dev, one, DOCRED, docred, "docred").ign_variant == "docred"


def test_equal_number_of_pairs_is_not_enough_to_recognize_a_data_set(dev: Gold) -> None:
    fewer = replace(dev, source=None, document=dev.document[1:], head=dev.head[1:], tail=dev.tail[1:],
                    relation=dev.relation[1:])  # fmt: skip
    assert data_set_of(fewer) is None


def test_redocred_with_its_own_facts(dev: Gold, shared_data: Path) -> None:
    facts = read_facts(shared_data / "redocred_train_992.json", DOCRED)
    assert warning_kinds(dev, facts, "redocred") == set()
    known = replace(facts, built_from=Source("train_revised.json", "1" * 64))
    assert warning_kinds(dev, known, "redocred") == set()
    # Code that follows DocRED's writes files of other data sets under the name of its training set.
    assert warning_kinds(dev, replace(facts, built_from=Source("train_annotated.json", "1" * 64)), "redocred") == set()


def test_names_of_files_of_other_data_sets_say_nothing() -> None:
    ids = tuple(f"{relation}-of-mine" for relation in synthetic.RELATIONS.ids)
    gold = replace(Gold.of(synthetic.generate(60, 1), synthetic.RELATIONS), relations=RelationSet(ids, ids))
    known = iterate_facts(synthetic.generate(60, 2))
    facts = Facts(frozenset((head, tail, f"{relation}-of-mine") for head, tail, relation in known), "x", "0" * 64)
    for name in ("train_annotated.fact", "train_revised.fact", "other.fact"):
        named = replace(facts, built_from=Source(name, "1" * 64))
        assert warning_kinds(gold, named) == set()
        assert ign_variant_for(gold, named) == "docred"
        assert ign_variant_for(replace(gold, source=Source(name, "2" * 64)), None) == "docred"


def test_gold_documents_in_the_training_set(dev: Gold, shared_data: Path) -> None:
    facts = read_facts(shared_data / "redocred_dev.json", DOCRED)
    assert warning_kinds(dev, facts, "redocred") == {"titles"}
    assert "500 of the 500 gold documents" in " ".join(score(dev, Predictions.of([]), DOCRED, facts).facts_warnings)
    # A list of facts has no titles.
    assert warning_kinds(dev, replace(facts, training=None), "redocred") == {"share"}


def test_different_label_density() -> None:
    gold, train = list(synthetic.generate(60, 1)), list(synthetic.generate(60, 2))
    train = [replace(d, title=f"train {d.title}") for d in train]
    columns = Gold.of(gold, synthetic.RELATIONS)
    assert warning_kinds(columns, training(train)) == set()
    assert warning_kinds(columns, training(thinned(train, 0.4))) == {"density"}
    assert warning_kinds(Gold.of(thinned(gold, 0.4), synthetic.RELATIONS), training(train)) == {"density"}
    # The density of a few documents is not compared.
    assert warning_kinds(columns, training(thinned(train[:49], 0.4))) == set()


def test_facts_with_other_relations() -> None:
    gold = Gold.of(synthetic.generate(20, 1), synthetic.RELATIONS)
    assert warning_kinds(gold, Facts(frozenset({("a", "b", "P9")}), "facts.json", "0" * 64)) == {"relations"}
    assert warning_kinds(gold, Facts(frozenset({("a", "b", synthetic.RELATIONS.ids[0])}), "f.json", "0" * 64)) == set()
