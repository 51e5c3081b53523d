"""Fifteen checks of the suite on one GPU, in at most ten minutes. One line each: `name: ok|FAIL|skipped value`.

Models have random weights, so nothing is downloaded. A check that takes longer than its limit fails. `--tiny` runs
small shapes on the CPU.

    python benchmarks/gpu/verify.py [--tiny] [--only NAME ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gpu.check import Machine

Outcome = Literal["ok", "FAIL", "skipped"]
ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [str(ROOT / "benchmarks"), str(ROOT)]


@dataclass(frozen=True)
class Check:
    """A check, and the most seconds that it may take."""

    run: Callable[[Machine], str]
    limit: float


@dataclass(frozen=True)
class Result:
    """The line of a check.

    Attributes:
        value: what was measured, or what is wrong.
    """

    name: str
    outcome: Outcome
    value: str
    seconds: float


class TimeLimit(BaseException):
    """A check took longer than its limit. No handler of Exception in the check must catch it."""


def all_checks() -> dict[str, Check]:
    """Return the checks in their order. Their limits add up to ten minutes."""
    from gpu import attention, backends, decoding, environment, failures, rc, rcp, resume

    return {
        "environment": Check(environment.environment, 20),
        "cudnn-plans": Check(attention.cudnn_plans, 50),
        "rcp-correctness": Check(rcp.rcp_correctness, 20),
        "rcp-speed": Check(rcp.rcp_speed, 40),
        "rc-packing": Check(attention.rc_packing, 30),
        "rc-training": Check(rc.rc_training, 100),
        "decoding": Check(decoding.decoding, 85),
        "determinism": Check(backends.determinism, 30),
        "resume": Check(resume.resume, 60),
        "signals": Check(resume.signals, 25),
        "failure-reports": Check(failures.failure_reports, 75),
        "deepspeed-stages": Check(backends.deepspeed_stages, 30),
        "adam-on-device": Check(backends.adam_on_device, 10),
        "visible-gpus": Check(environment.visible_gpus, 22),
        "several-gpus": Check(environment.several_gpus, 3),
    }


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimit in the main thread after so many seconds."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimeLimit(f"not done in {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def run_check(name: str, check: Check, machine: Machine) -> Result:
    """Run a check. Any error in it is a FAIL."""
    from gpu.check import CheckFailed, CheckSkipped

    start = time.perf_counter()
    outcome: Outcome = "FAIL"
    try:
        with time_limit(check.limit):
            value = check.run(machine)
        outcome = "ok"
    except CheckSkipped as error:
        outcome, value = "skipped", str(error)
    except (CheckFailed, TimeLimit) as error:
        value = str(error)
    except Exception as error:
        value = f"{type(error).__name__}: {error}"
    return Result(name, outcome, " ".join(value.split()), round(time.perf_counter() - start, 1))


def run_checks(checks: Mapping[str, Check], tiny: bool) -> list[Result]:
    """Run checks and print their lines."""
    import torch
    from gpu.check import Machine

    results = []
    for name, check in checks.items():
        with tempfile.TemporaryDirectory(prefix="verify-") as folder:
            machine = Machine(torch.device("cpu") if tiny else torch.device("cuda", 0), tiny, Path(folder))
            result = run_check(name, check, machine)
        results.append(result)
        print(f"{name}: {result.outcome} {result.value}", flush=True)
        # The next check has the whole memory.
        gc.collect()
        if not tiny:
            torch.cuda.empty_cache()
    return results


def main(arguments: Sequence[str] | None = None, checks: Mapping[str, Check] | None = None) -> int:
    """Run the checks.

    Returns:
        1 if a check failed, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small shapes on the CPU, also if there is a GPU")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these checks only")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args(arguments)
    if options.tiny:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # cuBLAS reads it when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    if not options.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU: give --tiny to run small shapes on the CPU")
    checks = all_checks() if checks is None else checks
    unknown = sorted({*(options.only or ())} - {*checks})
    if unknown:
        parser.error(f"no check is named {', '.join(unknown)}: choose from {', '.join(checks)}")
    results = run_checks({name: checks[name] for name in checks if name in (options.only or checks)}, options.tiny)
    counts = {outcome: sum(result.outcome == outcome for result in results) for outcome in ("ok", "FAIL", "skipped")}
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    # In place of this folder, whose modules are those of the package `gpu`.
    sys.path[:1] = FOLDERS
    sys.exit(main())
