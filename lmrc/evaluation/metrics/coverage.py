"""Which gold documents predictions are for, and over which of them scores are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lmrc.common.errors import UserError
from lmrc.corpus.predictions import Predictions
from lmrc.evaluation.metrics.gold_table import Gold

Missing = Literal["empty", "skip"]
"""What gold documents without predictions are: empty (nothing was found there), or skipped (not scored)."""

LEAST_SHARE = 0.5
"""A file with predictions for a smaller share of the gold documents is refused without an explicit choice."""

MOST_UNEVEN = 0.1
"""So is one that lacks more than this share of the documents that the predictions beside it are for."""

CHOICES = (
    "give --missing empty if nothing was found in the others (they count against recall), or --missing skip to leave "
    "them out of the scores"
)


@dataclass(frozen=True)
class System:
    """Predictions to score."""

    name: str
    predictions: Predictions
    classified: frozenset[str] | None = None
    """Titles of the documents that the run classified; None if that is not known, as of a plain file."""

    @property
    def titles(self) -> frozenset[str]:
        """Titles of the documents that have a prediction."""
        return frozenset(self.predictions.titles)


@dataclass(frozen=True)
class Selection:
    """The gold documents that are scored, and the predictions without those for the others."""

    gold: Gold
    predictions: list[Predictions]
    left_out: frozenset[str]
    """Titles of the gold documents that are not scored."""
    lines: tuple[str, ...]
    """Sentences that say so."""


def select(gold: Gold, systems: Sequence[System], missing: Missing | None = None) -> Selection:
    """Choose the gold documents that all `systems` are scored on.

    Without `missing` these are the documents that every run classified. Predictions of unknown origin must then cover
    at least half of them, and nearly all that the predictions beside them cover.

    Raises:
        UserError: nothing is left to score, or `missing` is needed.
    """
    titles = frozenset(gold.titles)
    kept = titles
    if missing != "empty":
        for system in systems:
            if system.classified is not None:
                kept &= system.classified
            elif missing == "skip":
                kept &= system.titles
    if titles and not kept:
        told = "; ".join(f"{system.name} {_covers(system, titles)}" for system in systems)
        raise UserError(f"no gold document is left to score: {told}; are these the documents of the predictions?")
    if missing is None:
        _refuse_parts(kept, systems)
    left_out = titles - kept
    if not left_out:
        return Selection(gold, [system.predictions for system in systems], left_out, ())
    lines = [f"{system.name} {_covers(system, titles)}." for system in systems]
    lines.append(f"Scores are over {len(kept):,} of {len(titles):,} gold documents; {len(left_out):,} are left out.")
    chosen = gold.only(np.array([title in kept for title in gold.titles], dtype=np.bool_))
    return Selection(chosen, [_without(system.predictions, left_out) for system in systems], left_out, tuple(lines))


def _covers(system: System, gold: frozenset[str]) -> str:
    if system.classified is not None:
        return f"classified {len(gold & system.classified):,} of the {len(gold):,} gold documents"
    told = f"has predictions for {len(gold & system.titles):,} of the {len(gold):,} gold documents"
    unknown = len(system.titles - gold)
    return f"{told} (and for {unknown:,} titles that are not among them)" if unknown else told


def _refuse_parts(kept: frozenset[str], systems: Sequence[System]) -> None:
    """Refuse files that seem to be of a part of the documents `kept` only."""
    covered = [system.titles & kept for system in systems]
    together = frozenset[str]().union(*covered)
    for system, titles in zip(systems, covered, strict=True):
        # Without any prediction for these documents nothing looks like a score: F1 is 0, and the first line says why.
        if system.classified is not None or not titles:
            continue
        if len(titles) < LEAST_SHARE * len(kept):
            raise UserError(f"{system.name} {_covers(system, kept)}: {CHOICES}")
        if len(together - titles) > MOST_UNEVEN * len(kept):
            raise UserError(
                f"{system.name} has no prediction for {len(together - titles):,} of the {len(kept):,} documents, "
                f"where the predictions beside it have some: {CHOICES}"
            )


def _without(predictions: Predictions, titles: frozenset[str]) -> Predictions:
    """The predictions without those for `titles`."""
    other = np.array([title not in titles for title in predictions.titles], dtype=np.bool_)
    kept = other[predictions.document]
    of_kept = kept[predictions.evidence_of]
    places = (np.cumsum(kept) - 1).astype(np.int32)
    return replace(
        predictions,
        document=predictions.document[kept],
        head=predictions.head[kept],
        tail=predictions.tail[kept],
        relation=predictions.relation[kept],
        score=predictions.score[kept],
        has_evidence=predictions.has_evidence[kept],
        evidence_of=places[predictions.evidence_of[of_kept]],
        evidence=predictions.evidence[of_kept],
    )
