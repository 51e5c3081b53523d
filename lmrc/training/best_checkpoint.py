"""The best (or last) weights of a training, in `best/` as later stages load them, with their step and score.

If the process dies during a save, either the old or the new best weights survive, possibly under a temporary name.
`recover` renames them back. They may be of a later step than the newest checkpoint. The resumed training then repeats
that step, and its score may differ by rounding. `held` is the step and score of the weights that are in `best/`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from torch import Tensor

from lmrc.common.atomic_io import fsync
from lmrc.runs.run_folder import RunFolder
from lmrc.training.backends.base import Backend
from lmrc.training.distributed import World
from lmrc.training.task import Task

RECORD = "best.json"


@dataclass(frozen=True)
class BestRecord:
    """The step and the dev score of the weights in `best/`."""

    step: int
    score: float


class BestCheckpoint:
    """The folder of the best weights, on one rank.

    Attributes:
        held: The record of the weights in `best/`; None if there are none. The same on all ranks.
    """

    def __init__(self, run: RunFolder, task: Task, backend: Backend, names: Iterable[str], world: World) -> None:
        self._current = run.best
        self._new, self._old = run.path / ".best.new", run.path / ".best.old"
        self._task = task
        self._backend = backend
        self._names = list(names)
        self._world = world
        self.held: BestRecord | None = None

    def recover(self) -> None:
        """Complete a replacement that a kill interrupted, and read the record. Collective.

        Raises:
            RunError: The folder cannot be read or renamed; raised on all ranks.
        """

        def act() -> BestRecord | None:
            if self._old.exists() and not self._current.exists():
                self._old.rename(self._current)
            self._clear()
            record = self._current / RECORD
            return BestRecord(**json.loads(record.read_text())) if record.exists() else None

        self.held = self._on_first(act, f"{self._current} could not be recovered")

    def replace(self, step: int, score: float) -> None:
        """Write the current weights to `best/` in place of those there. Collective.

        Args:
            step: Optimizer steps done.
            score: Dev score of these weights.

        Raises:
            RunError: They cannot be written; raised on all ranks.
        """
        weights: dict[str, Tensor] = {}
        for name in self._names:
            value = self._backend.weight(name, copy=self._world.is_first)
            if self._world.is_first:
                weights[name] = value

        def act() -> BestRecord:
            held = BestRecord(step, score)
            self._clear()
            self._new.mkdir(parents=True)
            try:
                self._task.export(self._new, weights)
                (self._new / RECORD).write_text(json.dumps(asdict(held)) + "\n")
                # The next checkpoint relies on these files, so they must survive a power failure too.
                for path in [*self._new.rglob("*"), self._new]:
                    fsync(path)
            except Exception:
                shutil.rmtree(self._new, ignore_errors=True)
                raise
            if self._current.exists():
                self._current.rename(self._old)
            self._new.rename(self._current)
            fsync(self._current.parent)
            self._clear()
            return held

        self.held = self._on_first(act, f"the best weights could not be written to {self._current}")

    def _clear(self) -> None:
        for folder in (self._new, self._old):
            shutil.rmtree(folder, ignore_errors=True)

    def _on_first(self, act: Callable[[], BestRecord | None], problem: str) -> BestRecord | None:
        held: BestRecord | None = self._world.run_on_all_ranks(
            lambda: act() if self._world.is_first else None, problem
        )[0]
        return held
