"""Run a stage in a process of its own on this machine, while this process does something else."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from types import TracebackType

from lmrc.common import threads
from lmrc.common.errors import RunError
from lmrc.common.exit_codes import exit_status
from lmrc.common.logging import set_up_stage_logging
from lmrc.launcher.launch import launch
from lmrc.launcher.slurm.follow_log import Tail
from lmrc.launcher.stages import STAGES, Stage, StageConfig

POLL_SECONDS = 1.0


class BackgroundStage:
    """A stage in a new process, as a context manager. On exit a stage that still runs saves its state and stops.

    Args:
        log: File of its output.
        processes: Number of processes among which the cores are divided.
    """

    def __init__(self, stage: Stage, config: StageConfig, log: Path, processes: int) -> None:
        self._log = log
        self._tail = Tail(log, skip=True)
        self._environment = threads.environment_per_process(processes)
        self._process = multiprocessing.get_context("spawn").Process(target=_run, args=(stage.name, config, log))

    def __enter__(self) -> BackgroundStage:
        before = {name: os.environ.get(name) for name in self._environment}
        os.environ.update(self._environment)
        try:
            self._process.start()  # the new process inherits the environment of now
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        return self

    def wait(self) -> None:
        """Show the output of the stage until it ends.

        Raises:
            RunError: It failed.
        """
        while self._process.is_alive():
            self._tail.show()
            self._process.join(POLL_SECONDS)
        self._tail.show()
        if self._process.exitcode:
            raise RunError(f"a stage in the background ended with status {self._process.exitcode}: see {self._log}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()


def _run(stage: str, config: StageConfig, log: Path) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    set_up_stage_logging(config.run.verbose)
    sys.exit(exit_status(lambda: launch(STAGES[stage], config)))
