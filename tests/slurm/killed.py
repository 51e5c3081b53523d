"""Result of killing processes of one kind of run, and the limits that all kinds share."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.slurm.harness import Cluster, wait_for

# Words for what is counted.
STEPS, UNITS = "steps", "units"
# Kills of one run. More would need longer trainings: a job may die only twice in a row without a new checkpoint.
KILLS_PER_RUN = 3


@dataclass
class Killed:
    """The kills of several runs of one kind, and what they cost.

    Attributes:
        unit: what is counted, STEPS or UNITS.
        kills: kills that found a process alive.
        needed: steps or units that the runs need without kills.
        repeated: steps or units that were computed, or begun, once more.
        differences: differences from the undisturbed run.
        lines: a description of each run.
    """

    unit: str
    kills: int = 0
    needed: int = 0
    repeated: int = 0
    differences: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def add(self, kills: int, needed: int, repeated: int, differences: list[str], line: str) -> None:
        """Add one run."""
        self.kills += kills
        self.needed += needed
        self.repeated += repeated
        self.differences += differences
        self.lines.append(line)

    @property
    def percent(self) -> float:
        """Return the wasted work: what was computed once more, in percent of what is needed."""
        return 100.0 * self.repeated / self.needed if self.needed else 0.0

    def waste(self) -> str:
        """Return the wasted work in words."""
        return f"{self.repeated} of {self.needed} {self.unit} done twice ({self.percent:.1f} %)"


def most_runs(kills: int) -> int:
    """Return after how many runs to give up, because runs end before they can be killed."""
    return 2 * -(-kills // KILLS_PER_RUN) + 2


def kill_points(count: int, steps: int, ranks: int, chance: random.Random) -> list[tuple[int, int, float]]:
    """Draw (step, rank, seconds after the step) of each kill, one from each of `count` equal parts of the training."""
    part = steps / count
    return [
        (round(part * number + chance.uniform(0.1, 0.9) * part), chance.randrange(ranks), chance.uniform(0.0, 0.4))
        for number in range(count)
    ]


def remove(cluster: Cluster, job: str, run: Path) -> None:
    """Remove a finished run, once no process of the job or array writes to it."""
    words = ("squeue", "--noheader", "--format=%i", f"--jobs={job}")
    wait_for("end of the job", lambda: not cluster.run(*words).strip(), run)
    shutil.rmtree(run)
