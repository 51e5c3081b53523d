"""Kill trainings at random and compare them with undisturbed ones: `python tests/slurm/kill.py --kills 20 --seed 0`.

For each pair of a stage (RCP, LoRA) and a ZeRO stage one training runs undisturbed. Another one is killed (SIGKILL of a
random rank at a random step, possibly during a save) and requeues itself. Weights, optimizer state, metrics.jsonl and
the best score of both must be equal bit for bit. With fewer kills than pairs, the remaining pairs are listed and not
trained. Needs root and SLURM's packages, or SLURM_CONF.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.slurm.harness import (  # noqa: E402
    Cluster,
    differences,
    done,
    events,
    missing,
    steps,
    submitted,
    training,
    wait_for,
    wait_until_done,
    write_data,
)

PAIRS = tuple((stage, zero) for stage in ("rcp", "rc") for zero in (0, 1, 2, 3))
RANKS = 2


def options(stage: str, zero: int, data: Path, run: Path) -> dict[str, Any]:
    """Return the options of a training of 64 (RCP) or 32 (LoRA) steps with dropout, saved about every second."""
    more: dict[str, Any] = {"train__zero_stage": zero, "train__checkpoint_minutes": 0.02}
    if stage == "rc":
        more["train__epochs"] = 2
    return training(stage, data, run, nodes=1, gpus=RANKS, **more)


def shares(kills: int, pairs: int) -> list[int]:
    """Spread the kills over the pairs as evenly as possible. Return the kills of each pair, possibly 0."""
    return [(number + 1) * kills // pairs - number * kills // pairs for number in range(pairs)]


def kill_points(count: int, steps: int, chance: random.Random) -> list[tuple[int, int, float]]:
    """Draw (step, rank, seconds after the step) of each kill, one from each of `count` equal parts of the training."""
    part = steps / count
    return [
        (round(part * number + chance.uniform(0.1, 0.9) * part), chance.randrange(RANKS), chance.uniform(0.0, 0.4))
        for number in range(count)
    ]


def disturbed(cluster: Cluster, given: dict[str, Any], run: Path, points: list[tuple[int, int, float]]) -> int:
    """Run a training and kill it at `points`. Return how many kills found it alive."""
    cluster.launch(str(given.pop("stage")), given)
    job, kills = submitted(run), 0
    for step, rank, delay in points:
        starts = len(events(run, "started"))
        wait_for(f"step {step}", lambda step=step: max(steps(run), default=0) >= step or done(run), run)  # type: ignore[misc]
        time.sleep(delay)
        pid = cluster.pid(job, rank)
        if pid is None or done(run):
            continue
        cluster.kill(job, rank)
        kills += 1
        wait_for("restart", lambda starts=starts: len(events(run, "started")) > starts or done(run), run)  # type: ignore[misc]
    wait_until_done(run)
    return kills


def check(cluster: Cluster, pairs: list[tuple[str, int]], kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill trainings of `pairs` `kills` times in total, and compare. Return the figures of --json."""
    chance = random.Random(seed)
    data = write_data(folder / "data")
    found: dict[str, list[str]] = {}
    kills_done = 0
    left_over: list[str] = []
    for (stage, zero), share in zip(pairs, shares(kills, len(pairs)), strict=True):
        if share == 0:
            left_over.append(f"{stage}, ZeRO {zero}")
            continue
        whole, killed = (folder / f"{stage}-zero{zero}-{kind}" for kind in ("whole", "killed"))
        cluster.launch(stage, options(stage, zero, data, whole))
        wait_until_done(whole)
        total = max(steps(whole))
        given = options(stage, zero, data, killed) | {"stage": stage}
        alive = disturbed(cluster, given, killed, kill_points(share, total, chance))
        kills_done += alive
        found[f"{stage}, ZeRO {zero}"] = differences(whole, killed)
        resumed = [event["step"] for event in events(killed, "died")]
        print(
            f"{stage}, ZeRO {zero}: killed {alive} times, resumed from steps {resumed} of {total}: "
            f"{found[f'{stage}, ZeRO {zero}'] or 'identical to the bit'}",
            flush=True,
        )
    if left_over:
        print(f"{len(left_over)} of {len(pairs)} pairs got no kill and were not trained: {'; '.join(left_over)}")
    return {
        "kills": kills_done,
        "identical": not any(found.values()),
        "differences": found,
        "not_killed": left_over,
        "seed": seed,
    }


def at_least_one(text: str) -> int:
    """Parse --kills.

    Raises:
        ArgumentTypeError: it is not a positive number.
    """
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} was given: give a whole number from 1 on, such as 20")
    return int(text)


def main() -> int:
    """Run the command. Return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=at_least_one, default=20, help="kills in all [20]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", default="all", help="such as rcp:0,rc:2 (stage:ZeRO) [all eight]")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    reason = missing()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    pairs = list(PAIRS)
    if given.pairs != "all":
        words = (word.split(":") for word in given.pairs.split(","))
        pairs = [(stage, int(zero)) for stage, zero in words]
    cluster = Cluster()
    with cluster.used(), tempfile.TemporaryDirectory() as folder:
        figures = check(cluster, pairs, given.kills, given.seed, Path(folder))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"{figures['kills']} kills, {'identical' if figures['identical'] else 'DIFFERENT'}")
    return 0 if figures["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
