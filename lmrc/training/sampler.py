"""Which examples a step sees: a pure function of (seed, epoch, step, corpus), so that a resume needs one integer."""

from __future__ import annotations

import functools
import hashlib
import random
from dataclasses import dataclass


@functools.lru_cache(maxsize=2)
def epoch_order(examples: int, seed: int, epoch: int, fingerprint: str) -> list[int]:
    """A permutation of `range(examples)`, the same on every machine and in every version of Python."""
    order = list(range(examples))
    random.Random(f"order/{seed}/{epoch}/{fingerprint}").shuffle(order)
    return order


@dataclass(frozen=True)
class DeterministicSampler:
    """Global batches of a training. Every epoch visits each example once; its last batch may be smaller."""

    examples: int
    batch_size: int
    seed: int
    fingerprint: str

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        return -(-self.examples // self.batch_size)

    def epoch(self, step: int) -> int:
        """The epoch (from 0) that step `step` (from 0) belongs to."""
        return step // self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """True where `step` (from 0) is the last one of its epoch."""
        return (step + 1) % self.steps_per_epoch == 0

    def batch(self, step: int) -> list[int]:
        """Examples of step `step` (from 0), over all processes."""
        order = epoch_order(self.examples, self.seed, self.epoch(step), self.fingerprint)
        start = step % self.steps_per_epoch * self.batch_size
        return order[start : start + self.batch_size]


@dataclass(frozen=True)
class MicroBatches:
    """How one process walks its part of a global batch: `count` forward passes of at most `size` examples."""

    rank: int
    world_size: int
    count: int
    size: int

    @classmethod
    def plan(cls, rank: int, world_size: int, batch_size: int, micro_batch_size: int) -> MicroBatches:
        """The plan for a global batch: the same number of passes on every rank and in every step (ZeRO wants that)."""
        share = -(-batch_size // world_size)
        count = -(-share // micro_batch_size)
        return cls(rank, world_size, count, -(-share // count))

    def split(self, batch: list[int]) -> list[tuple[list[int], bool]]:
        """This rank's micro-batches of a global batch, each with whether it counts.

        Where a small batch leaves a pass without an example, the pass is made with one that does not count.
        """
        own = batch[self.rank :: self.world_size]
        pieces = [own[i * self.size : (i + 1) * self.size] for i in range(self.count)]
        return [(piece, True) if piece else (batch[:1], False) for piece in pieces]


def step_seed(seed: int, step: int, micro_batch: int, rank: int) -> int:
    """Seed of the random numbers (dropout) of one forward pass: nothing of a generator's state need be saved."""
    digest = hashlib.sha256(f"dropout/{seed}/{step}/{micro_batch}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
