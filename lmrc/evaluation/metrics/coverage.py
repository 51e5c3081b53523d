"""Coverage: which gold documents have predictions, and which of them are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lmrc.common.errors import UserError
from lmrc.corpus.predictions import Predictions
from lmrc.evaluation.metrics.gold_table import Gold

# Treatment of gold documents without predictions. empty: they are scored as documents without triples; skip: they are
# not scored.
Missing = Literal["empty", "skip"]

# A file of predictions must cover at least this share of the gold documents, unless `missing` is given.
MIN_SHARE = 0.5

# A file of predictions may lack at most this share of the documents that the other files cover.
MAX_UNEVEN_SHARE = 0.1

CHOICES = (
    "give --missing empty if nothing was found in the others (they count against recall), or --missing skip to leave "
    "them out of the scores"
)


@dataclass(frozen=True)
class System:
    """Predictions to score."""

    name: str
    predictions: Predictions
    # Titles of the documents that the run classified; None if not known, as for a plain file.
    classified: frozenset[str] | None = None

    @property
    def titles(self) -> frozenset[str]:
        """Return the titles of the documents that have a prediction."""
        return frozenset(self.predictions.titles)


@dataclass(frozen=True)
class Selection:
    """The gold documents to score, and the predictions for them and for unknown titles."""

    gold: Gold
    predictions: list[Predictions]
    # Titles of the gold documents that are not scored.
    left_out: frozenset[str]
    # Messages that say which documents are left out.
    lines: tuple[str, ...]


def select(gold: Gold, systems: Sequence[System], missing: Missing | None = None) -> Selection:
    """Select the gold documents that all `systems` are scored on.

    By default these are the documents that every run classified. A file of predictions from an unknown run must then
    cover at least half of them, and nearly all that the other files cover.

    Raises:
        UserError: no document is left to score, or `missing` is needed.
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
        covered = "; ".join(f"{system.name} {_coverage(system, titles)}" for system in systems)
        raise UserError(f"no gold document is left to score: {covered}; are these the documents of the predictions?")
    if missing is None:
        _check_coverage(kept, systems)
    left_out = titles - kept
    if not left_out:
        return Selection(gold, [system.predictions for system in systems], left_out, ())
    lines = [f"{system.name} {_coverage(system, titles)}." for system in systems]
    lines.append(f"Scores are over {len(kept):,} of {len(titles):,} gold documents; {len(left_out):,} are left out.")
    selected = gold.select(np.array([title in kept for title in gold.titles], dtype=np.bool_))
    return Selection(selected, [_without(system.predictions, left_out) for system in systems], left_out, tuple(lines))


def _coverage(system: System, gold: frozenset[str]) -> str:
    if system.classified is not None:
        return f"classified {len(gold & system.classified):,} of the {len(gold):,} gold documents"
    text = f"has predictions for {len(gold & system.titles):,} of the {len(gold):,} gold documents"
    unknown = len(system.titles - gold)
    return f"{text} (and for {unknown:,} titles that are not among them)" if unknown else text


def _check_coverage(kept: frozenset[str], systems: Sequence[System]) -> None:
    """Raise UserError if a file seems to cover only a part of the documents `kept`."""
    covered = [system.titles & kept for system in systems]
    together = frozenset[str]().union(*covered)
    for system, titles in zip(systems, covered, strict=True):
        # A file without any prediction for these documents passes: its F1 is 0, and the output says why.
        if system.classified is not None or not titles:
            continue
        if len(titles) < MIN_SHARE * len(kept):
            raise UserError(f"{system.name} {_coverage(system, kept)}: {CHOICES}")
        if len(together - titles) > MAX_UNEVEN_SHARE * len(kept):
            raise UserError(
                f"{system.name} has no prediction for {len(together - titles):,} of the {len(kept):,} documents, "
                f"but the other predictions have some: {CHOICES}"
            )


def _without(predictions: Predictions, titles: frozenset[str]) -> Predictions:
    """Return the predictions except those for `titles`."""
    kept_titles = np.array([title not in titles for title in predictions.titles], dtype=np.bool_)
    kept = kept_titles[predictions.document]
    kept_evidence = kept[predictions.evidence_of]
    new_rows = (np.cumsum(kept) - 1).astype(np.int32)
    per_prediction = ("document", "head", "tail", "relation", "score", "has_evidence")
    return replace(
        predictions,
        **{name: getattr(predictions, name)[kept] for name in per_prediction},
        evidence_of=new_rows[predictions.evidence_of[kept_evidence]],
        evidence=predictions.evidence[kept_evidence],
    )
