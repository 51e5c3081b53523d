from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from lmrc.corpus.docred import read_documents
from lmrc.corpus.predictions import Prediction, Predictions
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.facts_check import data_set_of, facts_warnings, ign_variant_for
from lmrc.evaluation.metrics.gold_table import Gold, Source, read_gold
from lmrc.evaluation.metrics.scores import score
from lmrc.evaluation.metrics.train_facts import Facts, Training, iterate_facts, read_facts
from lmrc.evaluation.metrics.triple_table import Triples

DOUBTS = {
    "set": "the facts are those of",
    "density": "triples each",
    "variant": "give --ign-variant",
    "titles": "are among the training documents",
    "share": "of the gold triples are training facts",
    "relations": "no relation of the gold documents",
}


def doubts(gold: Gold, facts: Facts, ign_variant: str = "docred") -> set[str]:
    triples = Triples.of(gold, [])
    found = facts_warnings(triples, triples.in_training(facts), facts, ign_variant)  # type: ignore[arg-type]
    kinds = [kind for told in found for kind, words in DOUBTS.items() if words in told]
    assert len(kinds) == len(found)
    return set(kinds)


def training(documents: list[Document]) -> Facts:
    labels = [x.relation for d in documents for x in d.labels or ()]
    known = Training(frozenset(d.title for d in documents), {r: labels.count(r) for r in set(labels)})
    return Facts(frozenset(iterate_facts(documents)), "train.json", "0" * 64, known)


def thinned(documents: list[Document], share: float) -> list[Document]:
    """The documents with this share of their labels."""
    rng = random.Random(1)
    return [replace(d, labels=tuple(x for x in d.labels or () if rng.random() < share)) for d in documents]


@pytest.fixture(scope="module")
def dev(shared_data: Path) -> Gold:
    return read_gold(shared_data / "redocred_dev.json")


def test_redocred_against_the_iterate_facts_docred(dev: Gold, shared_data: Path, tmp_path: Path) -> None:
    facts = read_facts(shared_data / "docred_train_facts.json", DOCRED)
    assert doubts(dev, facts, "redocred") == {"set"}
    assert doubts(dev, facts, "docred") == {"set", "variant"}
    # Facts are known by themselves, not by their file; gold by the figures of table 1, or else told by its density.
    moved = replace(facts, built_from=Source("facts.json", "1" * 64))
    assert doubts(replace(dev, source=None), moved, "redocred") == {"set"}
    some = list(islice(read_documents(shared_data / "redocred_dev.json", DOCRED), 100))
    labels = sum(len(document.labels or ()) for document in some) / 100
    told = " ".join(score(some, [], DOCRED, moved).facts_warnings)
    assert f"{labels:.1f} triples each, those of the training facts 12.5" in told


def test_the_formula_of_ign_f1_is_that_of_the_data_set(dev: Gold, shared_data: Path) -> None:
    docred = read_facts(shared_data / "docred_train_facts.json", DOCRED)
    mine = Gold.of(synthetic.generate(3, 1), synthetic.RELATIONS)
    theirs = replace(docred, built_from=Source("train_revised.json", "1" * 64))
    assert ign_variant_for(dev, docred) == ign_variant_for(dev, None) == "redocred"
    assert ign_variant_for(replace(dev, source=None), docred) == "redocred"  # by the figures of table 1
    assert ign_variant_for(replace(mine, source=Source("dev_revised.json", "1" * 64)), docred) == "redocred"
    assert ign_variant_for(mine, theirs) == "redocred"
    assert ign_variant_for(mine, None) == ign_variant_for(mine, docred) == "docred"
    one = [Prediction(dev.titles[0], int(dev.head[0]), int(dev.tail[0]), DOCRED.ids[dev.relation[0]])]
    assert score(dev, one, DOCRED, docred).ign_variant == "redocred"
    assert score(dev, one, DOCRED, docred, "docred").ign_variant == "docred"


def test_other_documents_with_as_many_pairs_are_not_the_data_set(dev: Gold) -> None:
    fewer = replace(dev, source=None, document=dev.document[1:], head=dev.head[1:], tail=dev.tail[1:],
                    relation=dev.relation[1:])  # fmt: skip
    assert data_set_of(fewer) is None


def test_redocred_against_its_own_facts(dev: Gold, shared_data: Path) -> None:
    facts = read_facts(shared_data / "redocred_train_992.json", DOCRED)
    assert doubts(dev, facts, "redocred") == set()
    known = replace(facts, built_from=Source("train_revised.json", "1" * 64))
    assert doubts(dev, known, "redocred") == set()
    assert doubts(dev, replace(facts, built_from=Source("train_annotated.json.gz", "1" * 64)), "redocred") == {"set"}


def test_gold_among_the_training_documents(dev: Gold, shared_data: Path) -> None:
    facts = read_facts(shared_data / "redocred_dev.json", DOCRED)
    assert doubts(dev, facts, "redocred") == {"titles"}
    assert "500 of the 500 gold documents" in " ".join(score(dev, Predictions.of([]), DOCRED, facts).facts_warnings)
    # A list of facts has no titles.
    assert doubts(dev, replace(facts, training=None), "redocred") == {"share"}


def test_documents_that_were_annotated_otherwise() -> None:
    gold, train = list(synthetic.generate(60, 1)), list(synthetic.generate(60, 2))
    train = [replace(d, title=f"train {d.title}") for d in train]
    columns = Gold.of(gold, synthetic.RELATIONS)
    assert doubts(columns, training(train)) == set()
    assert doubts(columns, training(thinned(train, 0.4))) == {"density"}
    assert doubts(Gold.of(thinned(gold, 0.4), synthetic.RELATIONS), training(train)) == {"density"}
    # A few documents say nothing of it.
    assert doubts(columns, training(thinned(train[:49], 0.4))) == set()


def test_iterate_facts_other_relations() -> None:
    gold = Gold.of(synthetic.generate(20, 1), synthetic.RELATIONS)
    assert doubts(gold, Facts(frozenset({("a", "b", "P9")}), "facts.json", "0" * 64)) == {"relations"}
    assert doubts(gold, Facts(frozenset({("a", "b", synthetic.RELATIONS.ids[0])}), "f.json", "0" * 64)) == set()
