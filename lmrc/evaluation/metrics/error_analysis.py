"""Error analysis: causes of missed and wrong triples, and upper bounds of F1 for a perfect RCP or RC."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lmrc.evaluation.metrics.gold_table import Ints
from lmrc.evaluation.metrics.registry import Counts, percent
from lmrc.evaluation.metrics.triple_table import Triples, distinct

# Candidate pairs (head, tail) by title.
CandidatePairs = Iterable[tuple[str, Iterable[tuple[int, int]]]]

Cause = Literal["not_proposed", "relation_missed", "relation_wrong", "false_pair", "no_such_pair"]

# Every missed gold triple and every wrong prediction has exactly one cause. If a gold pair has a wrong prediction, all
# its missed and wrong triples are `relation_wrong`. Without candidates, a pair counts as proposed if it has a
# prediction; `not_proposed` then includes the pairs that RC did not answer.
CAUSES: dict[Cause, str] = {
    "not_proposed": "pair has a relation, but was not proposed",
    "relation_missed": "pair proposed, relation not named, none wrong",
    "relation_wrong": "pair has a relation, but another was named",
    "false_pair": "pair has no relation, but one was named",
    "no_such_pair": "document or entity does not exist, or head is tail",
}


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """Errors of one cause."""

    cause: Cause
    # Missed gold triples.
    missed: int
    # Wrong predictions.
    wrong: int
    # Counts over all triples if only these errors were fixed.
    counts_if_fixed: Counts


@dataclass(frozen=True, slots=True)
class Analysis:
    """Errors by cause, and upper bounds of F1 in percent.

    Attributes:
        counts: counts over all triples.
        errors: errors by cause.
        proposed: binary counts of RCP over unique (title, head, tail); None without candidates.
        unproposed: predictions for pairs that are not candidates, as with candidates of another run.
        seen: counts over the triples of proposed gold pairs, which are all that RC can get right.
        false_pairs: predictions for pairs without a relation.
    """

    counts: Counts
    errors: tuple[ErrorCount, ...]
    proposed: Counts | None
    unproposed: int
    seen: Counts
    false_pairs: int

    @property
    def perfect_rcp(self) -> float | None:
        """Return F1 in percent if RCP proposed exactly the gold pairs; None if RC saw no gold pair.

        The answers on proposed gold pairs stay, and those on false pairs are dropped. Gold pairs that were not
        proposed are assumed to be answered as well as the proposed ones, so the result is F1 on the proposed gold
        pairs.
        """
        return self.seen.f1 if self.seen.gold else None

    @property
    def perfect_rc(self) -> float:
        """Return F1 in percent if RC answered every proposed gold pair with exactly its gold relations.

        The predictions on false pairs stay: RC of the paper must name a relation for every pair.
        """
        return percent(2 * self.seen.gold, self.seen.gold + self.false_pairs + self.counts.gold)

    @property
    def perfect_rc_with_none(self) -> float:
        """Return F1 in percent if RC also answered false pairs with none; only unproposed pairs are lost."""
        return percent(2 * self.seen.gold, self.seen.gold + self.counts.gold)

    @property
    def lost_by_cause(self) -> list[tuple[Cause, float, float]]:
        """Return F1 in percent before and after the errors of each cause, from 100 down to F1 of the system.

        The errors are added in the order of `CAUSES`: what a cause takes depends on those before it.
        """
        counts, before, steps = Counts(self.counts.gold, self.counts.gold, self.counts.gold), 100.0, []
        for error in self.errors:
            counts += Counts(-error.missed, error.wrong - error.missed, 0)
            steps.append((error.cause, before, counts.f1))
            before = counts.f1
        return steps

    def as_json(self) -> dict[str, Any]:
        return {
            "losses": {
                error.cause: {"missed": error.missed, "wrong": error.wrong, "f1_if_mended": error.counts_if_fixed.f1}
                for error in self.errors
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


def analyze(triples: Triples, system: int = 0, proposed: CandidatePairs | None = None) -> Analysis:
    """Count the errors of one system by cause.

    Pairs with a prediction count as proposed even if `proposed` lacks them.
    """
    predicted, gold = triples.predicted[system], triples.gold
    candidates = None if proposed is None else _candidate_columns(proposed, triples.titles)
    columns = [(triples.document, triples.head, triples.tail), *([] if candidates is None else [candidates])]
    document, head, tail = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    first, inverse = distinct(document, head, tail)
    pair, candidate = inverse[: len(triples)], inverse[len(triples) :]

    def per_pair(mask: Any) -> Any:
        return np.bincount(pair[mask], minlength=len(first))

    gold_count, predicted_count, correct_count = per_pair(gold), per_pair(predicted), per_pair(predicted & gold)
    missed, wrong = gold_count - correct_count, predicted_count - correct_count
    has_prediction, has_relation = predicted_count > 0, gold_count > 0
    is_candidate = np.zeros(len(first), dtype=np.bool_)
    is_candidate[candidate] = True
    seen = is_candidate | has_prediction
    # Any triple of a pair says whether the pair exists; pairs that occur only as candidates do not need it.
    exists = np.zeros(len(first), dtype=np.bool_)
    exists[pair] = triples.entities_exist & (triples.head != triples.tail)
    causes: dict[Cause, Any] = {
        "not_proposed": has_relation & ~seen,
        "relation_missed": has_relation & seen & (wrong == 0),
        "relation_wrong": has_relation & (wrong > 0),
        "false_pair": ~has_relation & exists,
        "no_such_pair": ~has_relation & ~exists,
    }
    counts = Counts(int(correct_count.sum()), int(predicted_count.sum()), int(gold_count.sum()))
    errors = []
    for cause, pairs in causes.items():
        cause_missed, cause_wrong = int(missed[pairs].sum()), int(wrong[pairs].sum())
        fixed = counts + Counts(cause_missed, cause_missed - cause_wrong, 0)
        errors.append(ErrorCount(cause, cause_missed, cause_wrong, fixed))
    seen_gold = has_relation & seen
    return Analysis(
        counts=counts,
        errors=tuple(errors),
        proposed=None
        if candidates is None
        else Counts(int((is_candidate & has_relation).sum()), int(is_candidate.sum()), int(has_relation.sum())),
        unproposed=0 if candidates is None else int(predicted_count[~is_candidate].sum()),
        seen=Counts(*(int(count[seen_gold].sum()) for count in (correct_count, predicted_count, gold_count))),
        false_pairs=int(wrong[causes["false_pair"]].sum()),
    )


def _candidate_columns(proposed: CandidatePairs, titles: tuple[str, ...]) -> tuple[Ints, Ints, Ints]:
    """Return document, head and tail of the candidate pairs; unknown documents get indices beyond `titles`."""
    title_index = {title: index for index, title in enumerate(titles)}
    rows = [
        (title_index.setdefault(title, len(title_index)), head, tail)
        for title, pairs in proposed
        for head, tail in pairs
    ]
    document, head, tail = np.array(rows, dtype=np.int32).reshape(-1, 3).T
    return document, head, tail
