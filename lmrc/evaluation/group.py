"""Scores of a group of runs: mean and standard deviation over seeds, and paired tests against a reference.

The runs of a group are scored on the same documents. Those that differ only in their seed form a system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev
from typing import Any

from lmrc.evaluation.metrics.bootstrap import Difference, Interval, intervals_over_seeds, paired_over_seeds
from lmrc.evaluation.metrics.scores import Scores


@dataclass(frozen=True)
class MemberScores:
    """A run of the group with its scores.

    Attributes:
        system: name of the system that it is a seed of.
        options: values that distinguish the system, by option.
    """

    name: str
    system: str
    seed: int
    options: Mapping[str, str]
    scores: Scores


@dataclass(frozen=True)
class SystemScores:
    """The finished seeds of a system."""

    name: str
    members: Sequence[MemberScores]

    @cached_property
    def mean(self) -> dict[str, float]:
        """Return the mean over the seeds of each metric that has an interval, in percent."""
        runs = [member.scores.by_document.whole() for member in self.members]
        return {name: mean(run[name] for run in runs) for name in runs[0]}

    @cached_property
    def standard_deviation(self) -> dict[str, float] | None:
        """Return the sample standard deviation over the seeds of each of these metrics; None for a single seed."""
        runs = [member.scores.by_document.whole() for member in self.members]
        return {name: stdev(run[name] for run in runs) for name in runs[0]} if len(runs) > 1 else None

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Return the 95 % interval of each mean, over documents and seeds."""
        return intervals_over_seeds([member.scores.by_document for member in self.members])

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "options": dict(self.members[0].options),
            "members": [member.name for member in self.members],
            "mean": self.mean,
            "standard_deviation": self.standard_deviation,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
        }


@dataclass(frozen=True)
class Reference:
    """The runs that the group is compared with, on the same documents. Several are seeds of a system.

    Attributes:
        members: names of those that are members of the group.
    """

    name: str
    scores: Sequence[Scores]
    members: frozenset[str] = frozenset()


@dataclass(frozen=True)
class GroupScores:
    """The scores of a group.

    Attributes:
        unfinished: why a member has no scores, by its name.
        reference: None if nothing is compared.
    """

    members: Sequence[MemberScores]
    unfinished: Mapping[str, str]
    reference: Reference | None = None

    @cached_property
    def systems(self) -> list[SystemScores]:
        """Return the systems, in the order of their first members."""
        grouped: dict[str, list[MemberScores]] = {}
        for member in self.members:
            grouped.setdefault(member.system, []).append(member)
        return [SystemScores(name, members) for name, members in grouped.items()]

    @cached_property
    def comparisons(self) -> dict[str, dict[str, Difference]]:
        """Return the differences to the reference by metric: of each system of several seeds, then of each member.

        Systems and members that the reference contains are left out.
        """
        if self.reference is None:
            return {}
        compared = {
            system.name: system.members
            for system in self.systems
            if len(system.members) > 1 and not self.reference.members & {member.name for member in system.members}
        }
        compared |= {member.name: [member] for member in self.members if member.name not in self.reference.members}
        counts = [scores.by_document for scores in self.reference.scores]
        return {
            name: paired_over_seeds(counts, [member.scores.by_document for member in members])
            for name, members in compared.items()
        }

    def as_json(self) -> dict[str, Any]:
        """Return systems, comparisons, members with all their scores, and unfinished members."""
        return {
            "systems": [system.as_json() for system in self.systems],
            "against": None if self.reference is None else self.reference.name,
            "comparisons": {
                name: {metric: difference.as_json() for metric, difference in differences.items()}
                for name, differences in self.comparisons.items()
            },
            "members": [
                {
                    "name": member.name,
                    "system": member.system,
                    "seed": member.seed,
                    "options": dict(member.options),
                    **member.scores.as_json(),
                }
                for member in self.members
            ],
            "unfinished": dict(self.unfinished),
        }
