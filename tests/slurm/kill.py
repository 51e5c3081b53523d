"""Kill runs at random and compare them with undisturbed ones: `python tests/slurm/kill.py --kills 20 --seed 0`.

Each kill is a SIGKILL of a random process at a random moment, possibly during a save. The kills are spread over these
cases:

    rcp:0 … rc:3           trainings of RCP and LoRA under each ZeRO stage, which requeue themselves. Weights, optimizer
                           state, metrics.jsonl and the best score must be equal bit for bit.
    rcp:moving, rc:moving  trainings that are resumed on 1, 2 or 4 processes and another ZeRO stage after each kill.
                           The batches must be equal, and the losses too but for rounding.
    propose, classify      inferences on 2 to 4 workers, of which each kill is followed by another number. The output
                           must be equal byte for byte.

Wasted work is what was computed twice: steps since the last checkpoint, and units of killed or cancelled workers. With
fewer kills than cases, the remaining cases are listed and not run. Nightly: `--kills 200`, which takes over an hour.
Needs root and SLURM's packages, or SLURM_CONF.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.slurm.harness import Cluster, missing, write_data, write_models  # noqa: E402
from tests.slurm.killed import STEPS, UNITS, Killed  # noqa: E402
from tests.slurm.killed_inferences import MODELS, kill_workers  # noqa: E402
from tests.slurm.killed_trainings import kill_on_changing_ranks, kill_on_same_ranks  # noqa: E402

MOVING = "moving"
# With six kills, every second case gets one: each kind of run, and RC without ZeRO and with ZeRO 3.
CASES = (
    *("rcp:0", f"rcp:{MOVING}", "rcp:1", "propose", "rcp:2", "rc:0"),
    *("rcp:3", f"rc:{MOVING}", "rc:1", "classify", "rc:2", "rc:3"),
)
# A document takes RCP milliseconds and the LM some tenths of a second.
DOCUMENTS = {"propose": 600, "classify": 64}


def shares(kills: int, cases: int) -> list[int]:
    """Spread the kills over the cases as evenly as possible. Return the kills of each case, possibly 0."""
    return [(number + 1) * kills // cases - number * kills // cases for number in range(cases)]


def kill(cluster: Cluster, case: str, kills: int, chance: random.Random, folder: Path) -> Killed:
    """Kill runs of a case. `folder` has the corpora and models of all cases."""
    stage, _, variant = case.partition(":")
    data = folder / "data"
    if stage in MODELS:
        corpus = write_data(folder / f"data-{stage}", documents=DOCUMENTS[stage]) / "train"
        models = folder / "models"
        if not models.exists():
            write_models(models, data)
        return kill_workers(cluster, stage, kills, chance, corpus, models, folder)
    if variant == MOVING:
        return kill_on_changing_ranks(cluster, stage, kills, chance, data, folder)
    return kill_on_same_ranks(cluster, stage, int(variant), kills, chance, data, folder)


def check(cluster: Cluster, cases: Sequence[str], kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill runs of `cases` `kills` times in total, and compare. Return the figures of --json."""
    chance = random.Random(seed)
    write_data(folder / "data")
    found: dict[str, Killed] = {}
    left_over: list[str] = []
    for case, share in zip(cases, shares(kills, len(cases)), strict=True):
        if share == 0:
            left_over.append(case)
            continue
        try:
            killed = kill(cluster, case, share, chance, folder)
        except AssertionError as error:  # a wait that timed out, or a launch that was refused: the other cases go on
            killed = Killed(UNITS if case in MODELS else STEPS, differences=[str(error)])
        found[case] = killed
        for line in killed.lines:
            print(f"{case}: {line}", flush=True)
        result = "; ".join(killed.differences) or "equal"
        print(f"{case}: {killed.kills} of {share} kills: {result}; {killed.waste()}", flush=True)
    if left_over:
        print(f"{len(left_over)} of {len(cases)} cases got no kill and were not run: {'; '.join(left_over)}")
    return {
        "kills": sum(killed.kills for killed in found.values()),
        "identical": not any(killed.differences for killed in found.values()),
        "differences": {case: killed.differences for case, killed in found.items()},
        "wasted_percent": {unit: round(total(found, unit).percent, 2) for unit in (STEPS, UNITS)},
        "cases": {case: asdict(killed) | {"wasted_percent": killed.percent} for case, killed in found.items()},
        "not_killed": left_over,
        "seed": seed,
    }


def total(found: dict[str, Killed], unit: str) -> Killed:
    """Return the kills of all cases whose work is counted in this unit."""
    own = [killed for killed in found.values() if killed.unit == unit]
    needed, repeated = sum(killed.needed for killed in own), sum(killed.repeated for killed in own)
    return Killed(unit, sum(killed.kills for killed in own), needed, repeated)


def at_least_one(text: str) -> int:
    """Parse --kills.

    Raises:
        ArgumentTypeError: it is not a positive number.
    """
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} was given: give a whole number from 1 on, such as 20")
    return int(text)


def known_cases(text: str) -> list[str]:
    """Parse --cases.

    Raises:
        ArgumentTypeError: there is no such case.
    """
    cases = text.split(",")
    unknown = [case for case in cases if case not in CASES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no case {', '.join(unknown)}: give some of {', '.join(CASES)}")
    return cases


def main() -> int:
    """Run the command. Return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=at_least_one, default=20, help="kills in all [20]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=known_cases, default=list(CASES), help="such as rcp:0,rc:2,classify [all]")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    reason = missing()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    cluster = Cluster()
    with cluster.used(), tempfile.TemporaryDirectory() as folder:
        figures = check(cluster, given.cases, given.kills, given.seed, Path(folder))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    wasted = ", ".join(f"{percent} % of the {unit}" for unit, percent in figures["wasted_percent"].items())
    verdict = "equal" if figures["identical"] else "DIFFERENT"
    print(f"{figures['kills']} of {given.kills} kills, {verdict}; done twice: {wasted}")
    return 0 if figures["identical"] and figures["kills"] == given.kills else 1


if __name__ == "__main__":
    sys.exit(main())
