"""Measure how long a training waits for a checkpoint that is written at once or in the background.

The same loop runs in turn without checkpoints, with `save`, and with `begin` and `finish` as in the trainer. Steps are
slower while a thread writes, so the total time lost per checkpoint is printed too.

    python benchmarks/checkpoint.py [--megabytes 300] [--every 100] [--saves 3] [--folder FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from lmrc.training.backends.base import STATE_KEYS, StateKey
from lmrc.training.checkpoint import Checkpoints, Progress
from lmrc.training.distributed import ALONE

STEP_SECONDS = 0.02
MATRIX = 1000


class State:
    """A backend that holds a state of the given size, in tensors of 4 MB."""

    name = "benchmark"
    model = nn.Module()

    def __init__(self, megabytes: int) -> None:
        count = max(1, megabytes // 4 // len(STATE_KEYS))
        self.names = [f"layer.{index}.weight" for index in range(count)]
        self.tensors = {(name, key): torch.randn(1000, 1000) for name in self.names for key in STATE_KEYS}

    @property
    def megabytes(self) -> float:
        """Size of all tensors."""
        return sum(value.nbytes for value in self.tensors.values()) / 1e6

    def get(self, name: str, key: StateKey, copy: bool = True) -> Tensor:
        return self.tensors[name, key].clone() if copy else self.tensors[name, key]

    def weight(self, name: str, copy: bool = True) -> Tensor:
        return self.get(name, "master", copy)

    def put(self, name: str, key: StateKey, value: Tensor) -> None:
        self.tensors[name, key].copy_(value)

    def set_step(self, step: int) -> None:
        """Do nothing: there is no step counter."""

    def loss(self, batch: object) -> Tensor:
        raise NotImplementedError

    def backward(self, loss: Tensor) -> None:
        raise NotImplementedError

    def step(self, scale: float) -> Tensor | float:
        raise NotImplementedError


def products_per_step(matrix: Tensor) -> int:
    """Return the number of products of the matrix that take about STEP_SECONDS."""
    matrix @ matrix
    begun = time.perf_counter()
    for _ in range(5):
        matrix @ matrix
    return max(1, round(5 * STEP_SECONDS / (time.perf_counter() - begun)))


def run(mode: str, saver: Checkpoints, first: int, steps: int, every: int, products: int) -> tuple[float, float]:
    """Run `steps` steps with a checkpoint every `every` steps.

    Returns:
        The seconds in total, and the seconds in which the loop waited for checkpoints.
    """
    matrix = torch.randn(MATRIX, MATRIX)
    waited = 0.0
    begun = time.perf_counter()
    for step in range(first + 1, first + steps + 1):
        for _ in range(products):
            matrix @ matrix
        before = time.perf_counter()
        if saver.is_begun() and not saver.is_writing():
            saver.finish()
        # In the middle of the interval, so that steps follow the last checkpoint too.
        if mode != "none" and (step - first) % every == every // 2:
            (saver.save if mode == "save" else saver.begin)(Progress(step=step))
        waited += time.perf_counter() - before
    before = time.perf_counter()
    if saver.is_begun():
        saver.finish()
    end = time.perf_counter()
    return end - begun, waited + end - before


def main() -> int:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=300, help="state: weights and Adam's moments")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--saves", type=int, default=3, help="checkpoints written with each method")
    parser.add_argument("--folder", type=Path, help="where to write (default: the folder of temporary files)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    state = State(options.megabytes)
    products = products_per_step(torch.randn(MATRIX, MATRIX))
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-benchmark-", dir=options.folder))
    seconds = dict.fromkeys(("none", "save", "begin"), 0.0)
    waited = dict(seconds)
    try:
        saver = Checkpoints(folder, state, state.names, ALONE, keep=1)
        saver.save(Progress(step=0))  # not measured: the first save has no file to replace
        step = 0
        for _ in range(options.saves):
            for mode in seconds:
                total, waiting = run(mode, saver, step, options.every, options.every, products)
                seconds[mode] += total / options.saves
                waited[mode] += waiting / options.saves
                step += options.every
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures = {
        "megabytes": state.megabytes,
        "saves": options.saves,
        "step_seconds": seconds["none"] / options.every,
        "standstill_seconds": {"save": waited["save"], "begin_finish": waited["begin"]},
        "standstill_ratio": waited["begin"] / waited["save"],
        "lost_seconds": {mode: seconds[mode] - seconds["none"] for mode in ("save", "begin")},
    }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    lost = figures["lost_seconds"]
    print(
        f"state of {state.megabytes:.0f} MB, steps of {1000 * seconds['none'] / options.every:.1f} ms, {options.saves} "
        f"checkpoints with each method\n"
        f"  total time lost per checkpoint: save {lost['save']:.3f} s, begin and finish {lost['begin']:.3f} s\n"
        f"wait per checkpoint: save {waited['save']:.3f} s, begin and finish {waited['begin']:.3f} s: "
        f"{waited['begin'] / waited['save']:.3f} x"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
