"""Check that training facts fit the gold documents. With facts of another data set, Ign F1 is too high."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

import numpy as np

from lmrc.config.schema import IgnVariant
from lmrc.corpus.download import FILES
from lmrc.corpus.relations import DOCRED
from lmrc.evaluation.metrics.gold_table import Gold, Source
from lmrc.evaluation.metrics.train_facts import Facts
from lmrc.evaluation.metrics.triple_table import Flags, Triples, distinct
from lmrc.evaluation.paper_scores import STATISTICS, data_set_by_statistics, load_paper_tables

NAMES = {"docred": "DocRED", "redocred": "Re-DocRED"}

# `_content_hash` of the 52,293 facts of DocRED's train_annotated.json. Files with these facts differ in their order.
DOCRED_FACTS = "119df01b4b27eaaeff85851f852277c14200709a7c4d7424b45b5504d24fdba6"

# Warn if labels per document differ by more than this factor between training and gold documents. Re-DocRED's dev and
# train differ by 1.2.
DENSITY_RATIO = 1.5

# Densities of fewer documents are not compared.
MIN_DOCUMENTS = 50

# Warn if more than this share of the gold triples are training facts. Re-DocRED dev has 8 % with DocRED's facts.
GOLD_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Density:
    """Labels per document."""

    documents: int
    labels: int

    def differs_from(self, other: Density) -> bool:
        """Return whether both have enough documents and differ by more than `DENSITY_RATIO`."""
        if min(self.documents, other.documents) < MIN_DOCUMENTS or not (self.labels and other.labels):
            return False
        ratio = (self.labels / self.documents) / (other.labels / other.documents)
        return not 1 / DENSITY_RATIO <= ratio <= DENSITY_RATIO


# DocRED's train_annotated.json (Yao et al., 2019) has 12.5 labels per document, as its dev. Re-DocRED has 28 to 35.
DOCRED_TRAINING = Density(3_053, 38_180)


def facts_warnings(triples: Triples, in_training: Flags, facts: Facts, ign_variant: IgnVariant) -> tuple[str, ...]:
    """Return reasons why Ign F1 may be misleading; `in_training` are the gold triples that are facts, `[triples]`."""
    gold = triples.documents
    warnings = []
    gold_set = data_set_of(gold)
    facts_set = _data_set_of_facts(facts)
    density = Density(len(gold), int(triples.gold.sum()))
    if gold_set and facts_set and gold_set != facts_set:
        warnings.append(
            f"the facts are those of {NAMES[facts_set]}, but the gold documents are {NAMES[gold_set]}'s: this Ign F1 "
            f"cannot be compared with scores that use {NAMES[gold_set]}'s training facts; give the training set of "
            f"{NAMES[gold_set]} as --train-facts"
        )
    elif (training := _training_density(facts, facts_set)) is not None and density.differs_from(training):
        warnings.append(
            f"the gold documents have {density.labels / density.documents:.1f} triples each, those of the training "
            f"facts {training.labels / training.documents:.1f}: they were annotated differently, as Re-DocRED and "
            "DocRED were; give the training set that belongs to the gold documents"
        )
    if gold_set and gold_set != ign_variant:
        warnings.append(
            f"the gold documents are {NAMES[gold_set]}'s, but Ign F1 uses the formula of {NAMES[ign_variant]}: give "
            f"--ign-variant {gold_set}, or omit the option"
        )
    shared = set(gold.titles) & facts.training.titles if facts.training is not None else set()
    if shared:
        warnings.append(
            f"{len(shared):,} of the {len(gold):,} gold documents are among the training documents, such as "
            f"{min(shared)!r}: Ign F1 ignores their own triples"
        )
    elif density.labels and (share := in_training.sum() / density.labels) > GOLD_SHARE:
        warnings.append(
            f"{100 * share:.0f} % of the gold triples are training facts: were these made from the gold documents?"
        )
    if density.labels and not np.isin(gold.relation, _fact_relations(triples, facts)).any():
        warnings.append("no relation of the gold documents occurs in the training facts: are they of another data set?")
    return tuple(warnings)


def _fact_relations(triples: Triples, facts: Facts) -> list[int]:
    relations = triples.documents.relations
    return [relations.index(relation) for relation in facts.by_relation() if relation in relations]


def _training_density(facts: Facts, facts_set: str | None) -> Density | None:
    if facts.training is not None:
        return Density(len(facts.training.titles), sum(facts.training.triples.values()))
    return DOCRED_TRAINING if facts_set == "docred" else None


def data_set_of(gold: Gold) -> IgnVariant | None:
    """Return the published data set of gold documents, by their file or by the statistics of table 1."""
    return _data_set_of_file(gold.source, gold.relations) or _data_set_by_statistics(gold)


def ign_variant_for(gold: Gold, facts: Facts | None) -> IgnVariant:
    """Return the Ign F1 variant of the data set of the gold documents, or of the facts, or else DocRED's."""
    return data_set_of(gold) or (_data_set_of_facts(facts) if facts is not None else None) or "docred"


def _data_set_of_facts(facts: Facts) -> IgnVariant | None:
    if _content_hash(facts) == DOCRED_FACTS:
        return "docred"
    return _data_set_of_file(facts.built_from, facts.by_relation())


def _data_set_by_statistics(gold: Gold) -> IgnVariant | None:
    entities = gold.entities.astype(np.int64)
    candidate_pairs = int((entities * (entities - 1)).sum())
    # Counting the pairs and triples below takes longer.
    if f"{candidate_pairs:,}" not in load_paper_tables()["1"].rows[0]["values"]:
        return None
    pairs = len(distinct(gold.document, gold.head, gold.tail)[0])
    triples = len(distinct(gold.document, gold.head, gold.tail, gold.relation)[0])
    statistics = dict(zip(STATISTICS, (candidate_pairs, candidate_pairs - pairs, pairs, triples), strict=True))
    name = data_set_by_statistics(statistics)
    return None if name is None else "redocred" if name.startswith("Re-") else "docred"


def _data_set_of_file(source: Source | None, relations: Iterable[str]) -> IgnVariant | None:
    """Return the published data set of a file, by its hash or by a name that only this data set uses.

    "train_annotated" is no such name: code that follows DocRED's writes files of other data sets under it.

    Args:
        relations: relations of the file. A file with others than DocRED's is of neither data set.
    """
    if source is None:
        return None
    names: tuple[IgnVariant, ...] = get_args(IgnVariant)
    for name in names:
        if any(file.sha256 == source.sha256 for file in FILES[name]):
            return name
    return "redocred" if "_revised" in source.name and all(relation in DOCRED for relation in relations) else None


def _content_hash(facts: Facts) -> str:
    """Return the SHA-256 of the sorted facts, whichever file they were read from."""
    return hashlib.sha256("\n".join(sorted(map("\t".join, facts.triples))).encode()).hexdigest()
