"""Where F1 is lost, and how far a better RCP or RC could bring it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lmrc.evaluation.metrics.counts import Counts, percent
from lmrc.evaluation.metrics.gold_table import Ints
from lmrc.evaluation.metrics.triple_table import Triples, distinct

ProposalStats = Iterable[tuple[str, Iterable[tuple[int, int]]]]
"""The pairs (head, tail) that RCP proposed, by title."""

Cause = Literal["not_proposed", "relation_missed", "relation_wrong", "false_pair", "no_such_pair"]

CAUSES: dict[Cause, str] = {
    "not_proposed": "pair has a relation, but was not proposed",
    "relation_missed": "pair proposed, relation not named, none wrong",
    "relation_wrong": "pair has a relation, but another was named",
    "false_pair": "pair has no relation, but one was named",
    "no_such_pair": "document or entity does not exist, or head is tail",
}
"""Every missed gold triple and every wrong prediction has exactly one cause. Of a pair that was given a wrong relation
all missed and wrong triples are `relation_wrong`. Without candidates a pair counts as proposed where it was given any
relation, so that `not_proposed` then holds what RC did not answer too."""


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """What one cause costs."""

    cause: Cause
    missed: int
    """Gold triples."""
    wrong: int
    """Predictions."""
    counts_if_fixed: Counts
    """The triples if this cause alone were no more: its missed ones found, its wrong ones not given."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Losses by cause, and ceilings. All F1 are in percent."""

    counts: Counts
    losses: tuple[ErrorCount, ...]
    proposed: Counts | None
    """The binary scores of RCP, over unique (title, head, tail); None without candidates."""
    unproposed: int
    """Predictions for pairs that were not proposed: candidates of another run, or a score of RC without RCP."""
    seen: Counts
    """The triples of pairs that have a relation and were proposed: all that RC could get right."""
    false_pairs: int
    """Predictions for pairs that have no relation."""

    @property
    def perfect_rcp(self) -> float | None:
        """F1 if RCP proposed the pairs that have a relation, and only these, and RC were as it is.

        RC's answers on the pairs it saw stay, those on false pairs go, and the pairs it did not see are answered as
        well as those it saw, with as many triples for each gold one and as many of them right: that is F1 on the pairs
        it saw. None where it saw no pair with a relation.
        """
        return self.seen.f1 if self.seen.gold else None

    @property
    def perfect_rc(self) -> float:
        """F1 if RC named exactly the gold relations of each proposed pair that has any, and RCP were as it is.

        The wrong answers on false pairs stay: RC of the paper has to name a relation for every pair it is given.
        """
        return percent(2 * self.seen.gold, self.seen.gold + self.false_pairs + self.counts.gold)

    @property
    def perfect_rc_with_none(self) -> float:
        """The same if RC answered pairs without a relation with none: what the pairs not proposed leave to be had."""
        return percent(2 * self.seen.gold, self.seen.gold + self.counts.gold)

    def as_json(self) -> dict[str, Any]:
        """For programs; F1 in percent, the rest are counts."""
        return {
            "losses": {
                loss.cause: {"missed": loss.missed, "wrong": loss.wrong, "f1_if_mended": loss.counts_if_fixed.f1}
                for loss in self.losses
            },
            "ceilings": {
                "perfect_rcp_f1": self.perfect_rcp,
                "perfect_rc_f1": self.perfect_rc,
                "perfect_rc_with_none_f1": self.perfect_rc_with_none,
            },
            "rcp": None
            if self.proposed is None
            else {**self.proposed.as_json(), "proposed": self.proposed.predicted, "correct": self.proposed.correct},
            "predictions_not_proposed": self.unproposed,
        }


def analyse(triples: Triples, system: int = 0, proposed: ProposalStats | None = None) -> Analysis:
    """Say why each missed triple was missed, and each wrong one given.

    A pair that RC answered counts as proposed, also where `proposed` lacks it.
    """
    predicted, gold = triples.predicted[system], triples.gold
    candidates = None if proposed is None else _columns(proposed, triples.titles)
    columns = [(triples.document, triples.head, triples.tail), *([] if candidates is None else [candidates])]
    document, head, tail = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    first, which = distinct(document, head, tail)
    pair, candidate = which[: len(triples)], which[len(triples) :]

    def by_pair(mask: Any) -> Any:
        return np.bincount(pair[mask], minlength=len(first))

    of_gold, found, right = by_pair(gold), by_pair(predicted), by_pair(predicted & gold)
    missed, wrong = of_gold - right, found - right
    answered, related = found > 0, of_gold > 0
    offered = np.zeros(len(first), dtype=np.bool_)
    offered[candidate] = True
    seen = offered | answered
    # Where a pair of the triples stands is known of one of its triples; pairs of candidates alone need none.
    exists = np.zeros(len(first), dtype=np.bool_)
    exists[pair] = triples.placed & (triples.head != triples.tail)
    causes: dict[Cause, Any] = {
        "not_proposed": related & ~seen,
        "relation_missed": related & seen & (wrong == 0),
        "relation_wrong": related & (wrong > 0),
        "false_pair": ~related & exists,
        "no_such_pair": ~related & ~exists,
    }
    counts = Counts(int(right.sum()), int(found.sum()), int(of_gold.sum()))
    losses = []
    for cause, pairs in causes.items():
        lacking, excess = int(missed[pairs].sum()), int(wrong[pairs].sum())
        losses.append(ErrorCount(cause, lacking, excess, counts + Counts(lacking, lacking - excess, 0)))
    of_seen = related & seen
    return Analysis(
        counts=counts,
        losses=tuple(losses),
        proposed=None
        if candidates is None
        else Counts(int((offered & related).sum()), int(offered.sum()), int(related.sum())),
        unproposed=0 if candidates is None else int(found[~offered].sum()),
        seen=Counts(int(right[of_seen].sum()), int(found[of_seen].sum()), int(of_gold[of_seen].sum())),
        false_pairs=int(wrong[causes["false_pair"]].sum()),
    )


def _columns(proposed: ProposalStats, titles: tuple[str, ...]) -> tuple[Ints, Ints, Ints]:
    """Documents, heads and tails of the pairs; documents beyond `titles` are unknown."""
    places = {title: place for place, title in enumerate(titles)}
    rows = [(places.setdefault(title, len(places)), head, tail) for title, pairs in proposed for head, tail in pairs]
    document, head, tail = np.array(rows, dtype=np.int32).reshape(-1, 3).T
    return document, head, tail
