"""Trainings of which random ranks are killed: on the same number of processes, and on changing numbers of them."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from pathlib import Path
from typing import Any

from lmrc.launcher.slurm.commands import ACTIVE_STATES
from lmrc.launcher.slurm.job_chain import progress
from lmrc.pretrained.packaged import resolve
from tests.slurm.harness import (
    Cluster,
    differences,
    done,
    events,
    metrics,
    steps,
    submitted,
    training,
    wait_for,
    wait_until_done,
)
from tests.slurm.killed import KILLS_PER_RUN, STEPS, Killed, kill_points, most_runs, remove

RANKS = 2
WORLD_SIZES = (1, 2, 4)
# Losses of another number of processes: sums in another order, over 64 steps.
TOLERANCE = 1e-3


def options(stage: str, zero: int, data: Path, run: Path) -> dict[str, Any]:
    """Return the options of a training of 64 (RCP) or 32 (LoRA) steps with dropout, saved about every second."""
    more: dict[str, Any] = {"train__zero_stage": zero, "train__checkpoint_minutes": 0.02}
    if stage == "rc":
        more["train__epochs"] = 2
    return training(stage, data, run, nodes=1, gpus=RANKS, **more)


def without_dropout(stage: str, data: Path, run: Path) -> dict[str, Any]:
    """Return such options without dropout, whose masks depend on the rank."""
    given = options(stage, 0, data, run)
    if stage == "rc":
        return given | {"lora.dropout": 0.0}
    encoder = run.parent / "encoder-without-dropout"
    if not encoder.exists():
        shutil.copytree(resolve("embedded:tiny-encoder"), encoder)
        config = json.loads((encoder / "config.json").read_text())
        (encoder / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.0}))
    return given | {"model.encoder": encoder}


def kill_on_same_ranks(
    cluster: Cluster, stage: str, zero: int, kills: int, chance: random.Random, data: Path, folder: Path
) -> Killed:
    """Kill ranks of trainings that requeue themselves. They must equal an undisturbed one bit for bit."""
    whole = folder / f"{stage}-zero{zero}-whole"
    cluster.launch(stage, options(stage, zero, data, whole))
    wait_until_done(whole)
    total, found = max(steps(whole)), Killed(STEPS)
    for number in range(most_runs(kills)):
        if found.kills >= kills:
            break
        run = folder / f"{stage}-zero{zero}-killed{number}"
        points = kill_points(min(kills - found.kills, KILLS_PER_RUN), total, RANKS, chance)
        cluster.launch(stage, options(stage, zero, data, run))
        alive, repeated = _disturb(cluster, run, points)
        resumed = [event["step"] for event in events(run, "died")]
        line = f"killed {alive} times, resumed from steps {resumed} of {total}"
        found.add(alive, total, repeated, differences(whole, run), line)
        remove(cluster, submitted(run), run)
    return found


def _disturb(cluster: Cluster, run: Path, points: list[tuple[int, int, float]]) -> tuple[int, int]:
    """Kill a training at `points` until it is done. Return how many kills found it alive, and the repeated steps."""
    job, kills, repeated = submitted(run), 0, 0
    for step, rank, delay in points:
        starts = len(events(run, "started"))
        _wait_for_step(run, step)
        time.sleep(delay)
        lost = _kill(cluster, run, job, rank)
        if lost is None:
            continue
        kills += 1
        repeated += lost
        wait_for("restart", lambda starts=starts: len(events(run, "started")) > starts or done(run), run)  # type: ignore[misc]
    wait_until_done(run)
    return kills, repeated


def _wait_for_step(run: Path, step: int) -> None:
    """Wait until the training has reached a step, and has a newer checkpoint than at its last death."""
    saved = max((event["step"] for event in events(run, "died")), default=-1)
    wait_for(
        f"step {step} and a checkpoint after {saved}",
        lambda: done(run) or (max(steps(run), default=0) >= step and progress(run) > saved),
        run,
    )


def _kill(cluster: Cluster, run: Path, job: str, rank: int) -> int | None:
    """Kill a rank. Return the steps that are lost with it, or None if the training had ended."""
    deaths = len(events(run, "died"))
    if cluster.pid(job, rank) is None or done(run):
        return None
    cluster.kill(job, rank)
    wait_for("death", lambda: len(events(run, "died")) > deaths or done(run), run)
    # The requeued job drops the rows of steps that it makes again, seconds later.
    reached, died = max(steps(run), default=0), events(run, "died")
    # A rank that was killed in its last moments, after the result was written, loses nothing.
    return max(0, reached - died[-1]["step"]) if len(died) > deaths else 0


def kill_on_changing_ranks(
    cluster: Cluster, stage: str, kills: int, chance: random.Random, data: Path, folder: Path
) -> Killed:
    """Kill ranks of trainings, and resume on another number of processes and ZeRO stage.

    The batches must be those of an undisturbed training, and the losses too but for rounding.
    """
    whole = folder / f"{stage}-whole"
    cluster.launch(stage, without_dropout(stage, data, whole))
    wait_until_done(whole)
    total, found = max(steps(whole)), Killed(STEPS)
    for number in range(most_runs(kills)):
        if found.kills >= kills:
            break
        run = folder / f"{stage}-moved{number}"
        points = kill_points(min(kills - found.kills, KILLS_PER_RUN), total, max(WORLD_SIZES), chance)
        given = without_dropout(stage, data, run) | {"requeue": "never"}
        alive, repeated, sizes = _disturb_and_move(cluster, stage, given, run, points, chance)
        line = f"killed {alive} times, on {', '.join(map(str, sizes))} processes in turn, {total} steps"
        found.add(alive, total, repeated, moved_differences(whole, run), line)
        remove(cluster, submitted(run), run)
    return found


def _disturb_and_move(
    cluster: Cluster,
    stage: str,
    given: dict[str, Any],
    run: Path,
    points: list[tuple[int, int, float]],
    chance: random.Random,
) -> tuple[int, int, list[int]]:
    """Kill a training at `points` and launch it anew each time. Return kills, repeated steps, and numbers of ranks."""
    kills, repeated, sizes = 0, 0, list[int]()

    def launch() -> str:
        sizes.append(chance.choice([size for size in WORLD_SIZES if size not in sizes[-1:]]))
        cluster.launch(stage, given | {"gpus": sizes[-1], "train.zero_stage": chance.randrange(4)})
        return submitted(run)

    for step, rank, delay in points:
        job = launch()
        _wait_for_step(run, step)
        time.sleep(delay)
        lost = _kill(cluster, run, job, rank % sizes[-1])
        kills, repeated = kills + (lost is not None), repeated + (lost or 0)
        wait_for("end of the job", lambda job=job: cluster.state(job) not in ACTIVE_STATES, run)  # type: ignore[misc]
        if done(run):
            return kills, repeated, sizes
    launch()
    wait_until_done(run)
    return kills, repeated, sizes


def moved_differences(whole: Path, moved: Path) -> list[str]:
    """Return the differences between a training and one that moved to other processes; losses may be rounded."""
    found = []
    rows, others = ([row for row in metrics(run) if "loss" in row] for run in (whole, moved))
    rounded = ("loss", "gradient_norm")
    if [_without(row, rounded) for row in rows] != [_without(row, rounded) for row in others]:
        return ["steps, batches or learning rates"]
    for row, other in zip(rows, others, strict=True):
        if not math.isclose(row["loss"], other["loss"], rel_tol=TOLERANCE):
            found.append(f"the loss of step {row['step']}: {other['loss']} and not {row['loss']}")
            break
    results = [json.loads((run / "DONE").read_text()) for run in (whole, moved)]
    if results[0]["steps"] != results[1]["steps"]:
        found.append("steps of DONE")
    return found


def _without(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}
