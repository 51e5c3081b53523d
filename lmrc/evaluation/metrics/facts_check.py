"""Whether training facts fit the gold documents: Ign F1 with those of another data set looks better than it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import get_args

import numpy as np

from lmrc.config.schema import IgnVariant
from lmrc.corpus.download import FILES
from lmrc.evaluation.metrics.gold_table import Gold, Source
from lmrc.evaluation.metrics.train_facts import Facts
from lmrc.evaluation.metrics.triple_table import Flags, Triples, distinct
from lmrc.evaluation.paper_scores import STATISTICS, data_set, printed

NAMES = {"docred": "DocRED", "redocred": "Re-DocRED"}

DOCRED_FACTS = "119df01b4b27eaaeff85851f852277c14200709a7c4d7424b45b5504d24fdba6"
"""`_content` of the 52,293 facts of DocRED's train_annotated.json. Lists of them differ in order, so files do too."""


DENSITY_RATIO = 1.5
"""Labels a document differ by more between documents that were not annotated alike. Re-DocRED's dev and train: 1.2."""

FEWEST_DOCUMENTS = 50
"""Fewer say nothing of labels a document."""

GOLD_SHARE = 0.5
"""So many gold triples among the facts of other documents are not to be believed. Re-DocRED dev has 8 % of DocRED's."""


@dataclass(frozen=True, slots=True)
class Density:
    """Labels a document."""

    documents: int
    labels: int

    def far_from(self, other: Density) -> bool:
        """Whether both are known well, and one is much larger than the other."""
        if min(self.documents, other.documents) < FEWEST_DOCUMENTS or not (self.labels and other.labels):
            return False
        ratio = (self.labels / self.documents) / (other.labels / other.documents)
        return not 1 / DENSITY_RATIO <= ratio <= DENSITY_RATIO


DOCRED_TRAINING = Density(3_053, 38_180)
"""DocRED's train_annotated.json (Yao et al., 2019): 12.5 labels a document, as its dev. Re-DocRED's have 28 to 35."""


def facts_warnings(triples: Triples, in_training: Flags, facts: Facts, ign_variant: IgnVariant) -> tuple[str, ...]:
    """Reasons to doubt Ign F1, as sentences for the user. `in_training`: which gold triples are facts."""
    gold = triples.known
    found = []
    ours = data_set_of(gold)
    theirs = "docred" if _content(facts) == DOCRED_FACTS else _data_set(facts.built_from)
    density = Density(len(gold), int(triples.gold.sum()))
    if ours and theirs and ours != theirs:
        found.append(
            f"the facts are those of {NAMES[theirs]}, the gold documents are {NAMES[ours]}'s: Ign F1 will not compare "
            f"with scores that use the facts of {NAMES[ours]}'s training set; give that as training facts"
        )
    elif (training := _training_density(facts, theirs)) is not None and density.far_from(training):
        found.append(
            f"the gold documents have {density.labels / density.documents:.1f} triples each, those of the training "
            f"facts {training.labels / training.documents:.1f}: they were not annotated alike, as with Re-DocRED and "
            "facts of DocRED; give the training set that belongs to the gold documents"
        )
    if ours and ours != ign_variant:
        found.append(
            f"the gold documents are {NAMES[ours]}'s, but Ign F1 is computed as for {NAMES[ign_variant]}: give "
            f"--ign-variant {ours}, or leave it away"
        )
    shared = set(gold.titles) & facts.training.titles if facts.training is not None else set()
    if shared:
        found.append(
            f"{len(shared):,} of the {len(gold):,} gold documents are among the training documents, such as "
            f"{min(shared)!r}: their own triples are taken out of Ign F1"
        )
    elif density.labels and (share := in_training.sum() / density.labels) > GOLD_SHARE:
        found.append(
            f"{100 * share:.0f} % of the gold triples are training facts: were these made from the gold documents?"
        )
    if density.labels and not np.isin(gold.relation, _places(triples, facts)).any():
        found.append("no relation of the gold documents occurs in the training facts: are these of another data set?")
    return tuple(found)


def _places(triples: Triples, facts: Facts) -> list[int]:
    relations = triples.known.relations
    return [relations.index(relation) for relation in facts.by_relation() if relation in relations]


def _training_density(facts: Facts, data_set: str | None) -> Density | None:
    if facts.training is not None:
        return Density(len(facts.training.titles), sum(facts.training.triples.values()))
    return DOCRED_TRAINING if data_set == "docred" else None


def data_set_of(gold: Gold) -> IgnVariant | None:
    """The published data set that gold documents are of: by their file, or by the figures of table 1."""
    return _data_set(gold.source) or _by_figures(gold)


def variant_of(gold: Gold, facts: Facts | None) -> IgnVariant:
    """Whose formula of Ign F1 is usual: that of the gold documents' data set, or of the facts', or else DocRED's."""
    return data_set_of(gold) or (_data_set(facts.built_from) if facts is not None else None) or "docred"


def _by_figures(gold: Gold) -> IgnVariant | None:
    entities = gold.entities.astype(np.int64)
    candidate_pairs = int((entities * (entities - 1)).sum())
    if f"{candidate_pairs:,}" not in printed()["1"].rows[0]["values"]:
        return None
    pairs = len(distinct(gold.document, gold.head, gold.tail)[0])
    triples = len(distinct(gold.document, gold.head, gold.tail, gold.relation)[0])
    known = data_set(dict(zip(STATISTICS, (candidate_pairs, candidate_pairs - pairs, pairs, triples), strict=True)))
    return None if known is None else "redocred" if known.startswith("Re-") else "docred"


def _data_set(source: Source | None) -> IgnVariant | None:
    """The published data set that a file is of: by its hash, or by a name that only that data set uses."""
    if source is None:
        return None
    names: tuple[IgnVariant, ...] = get_args(IgnVariant)
    for name in names:
        if any(file.sha256 == source.sha256 for file in FILES[name]):
            return name
    if "_revised" in source.name:
        return "redocred"
    return "docred" if "train_annotated" in source.name else None


def _content(facts: Facts) -> str:
    """SHA-256 of the facts themselves, whatever file they come from."""
    return hashlib.sha256("\n".join(sorted(map("\t".join, facts.triples))).encode()).hexdigest()
