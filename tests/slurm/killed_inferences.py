"""Inferences of which random workers are killed, on changing numbers of workers."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from typing import Any

from lmrc.inference.work_units import Units, counts
from lmrc.monitor.run_state import inference_progress
from lmrc.runs.shared_fs import Files
from tests.slurm.harness import Cluster, done, run_here, submitted, wait_for
from tests.slurm.killed import KILLS_PER_RUN, UNITS, Killed, most_runs, remove

# At least two, so that they are an array.
WORKERS = (2, 3, 4)
LEASE_SECONDS = 20
MODELS = {"propose": "rcp", "classify": "rc"}


def options(stage: str, corpus: Path, models: Path, run: Path) -> dict[str, Any]:
    """Return the options of an inference with a unit per document."""
    more: dict[str, Any] = {"decode.max_new_tokens": 500} if stage == "classify" else {"top_k": 50}
    trained = {MODELS[stage]: models / MODELS[stage] / "best"}
    work = {"work.docs_per_unit": 1, "work.lease_seconds": LEASE_SECONDS}
    return {"run": run.name, "run.folder": run.parent, "corpus": corpus, "cpus-per-gpu": 1, **trained, **work, **more}


class UnitAttempts:
    """Counts the attempts at units while an inference runs, which removes their files at its end."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self.units = self.repeated = 0

    def is_done(self) -> bool:
        """Count again, and return True if the inference is done."""
        units = Units(self._run, Files())
        with contextlib.suppress(FileNotFoundError):
            total = units.read_plan()["units"]
            units.look()
            self.units = total
            self.repeated = max(self.repeated, sum(units.attempts.values()) - len(units.attempts))
        return done(self._run)


def kill_workers(
    cluster: Cluster, stage: str, kills: int, chance: random.Random, corpus: Path, models: Path, folder: Path
) -> Killed:
    """Kill workers, and replace the others by another number. The output must be that of a single worker.

    Repeated units are all attempts after the first one: of workers that were killed, cancelled or slow.
    """
    whole = folder / f"{stage}-whole"
    run_here(stage, options(stage, corpus, models, whole))
    found = Killed(UNITS)
    for number in range(most_runs(kills)):
        if found.kills >= kills:
            break
        run = folder / f"{stage}-killed{number}"
        attempts, sizes = UnitAttempts(run), list[int]()
        given = options(stage, corpus, models, run) | {"where": "slurm", "time": 60, "sbatch": "spread-job"}
        alive = _disturb(cluster, stage, given, run, min(kills - found.kills, KILLS_PER_RUN), chance, attempts, sizes)
        line = f"killed {alive} times, {', '.join(map(str, sizes))} workers in turn"
        found.add(alive, attempts.units, attempts.repeated, file_differences(whole, run), line)
        # A worker that was killed comes back, and finds the work done.
        cluster.cancel(submitted(run))
        remove(cluster, submitted(run), run)
    return found


def _disturb(
    cluster: Cluster,
    stage: str,
    given: dict[str, Any],
    run: Path,
    kills: int,
    chance: random.Random,
    attempts: UnitAttempts,
    sizes: list[int],
) -> int:
    """Kill a worker of each of several arrays, until the inference is done. Return how many kills found one alive."""
    alive = 0
    for _ in range(kills):
        sizes.append(chance.choice([size for size in WORKERS if size not in sizes[-1:]]))
        cluster.launch(stage, given | {"gpus": sizes[-1]})
        array, before = submitted(run), counts(run).done
        tasks = [f"{array}_{task}" for task in range(sizes[-1])]
        chance.shuffle(tasks)
        wait_for("a unit", lambda before=before: attempts.is_done() or counts(run).done > before, run)  # type: ignore[misc]
        time.sleep(chance.uniform(0.0, 0.3))
        # A worker in the queue cannot be killed. One that has begun to work loses a unit.
        running = [pid for task in tasks if (pid := cluster.worker(task)) is not None]
        begun = inference_progress(run, LEASE_SECONDS)
        working = {process.pid for process in begun.workers} if begun is not None else set()
        if attempts.is_done() or not running:
            break
        cluster.kill_process(next((pid for pid in running if pid in working), running[0]))
        alive += 1
        if alive < kills:
            # Also the killed one, which requeues itself.
            cluster.cancel(array)
            words = ("squeue", "--noheader", "--format=%i", f"--jobs={array}")
            wait_for("end of the array", lambda words=words: attempts.is_done() or not cluster.run(*words).strip(), run)  # type: ignore[misc]
    wait_for("end of the run", attempts.is_done, run)
    return alive


def file_differences(whole: Path, other: Path) -> list[str]:
    """Return the outputs of an inference that are not equal byte for byte."""
    names = [
        path.relative_to(whole)
        for path in [*whole.glob("*.json*"), *whole.glob("candidates/**/*")]
        if path.is_file() and path.name != "environment.json"
    ]
    found = [str(name) for name in names if not (other / name).exists()]
    found += [
        str(name)
        for name in names
        if (other / name).exists() and (whole / name).read_bytes() != (other / name).read_bytes()
    ]
    return found if names else ["no output"]
