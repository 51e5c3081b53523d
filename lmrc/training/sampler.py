"""The deterministic batch sampler. Batches are a pure function of seed, step and corpus.

So a resume needs no state of the sampler but the number of steps done.
"""

from __future__ import annotations

import functools
import hashlib
import random
from dataclasses import dataclass


@functools.lru_cache(maxsize=2)
def epoch_order(examples: int, seed: int, epoch: int, fingerprint: str) -> list[int]:
    """Return a permutation of `range(examples)` that is the same on every machine and in every version of Python."""
    order = list(range(examples))
    random.Random(f"order/{seed}/{epoch}/{fingerprint}").shuffle(order)
    return order


@dataclass(frozen=True)
class DeterministicSampler:
    """Global batches of a training. An epoch has each example once, and its last batch may be smaller.

    Attributes:
        examples: Number of training examples.
        batch_size: Examples per optimizer step, over all processes.
        seed: Seed of the order.
        fingerprint: Fingerprint of the examples, which is part of the seed.
    """

    examples: int
    batch_size: int
    seed: int
    fingerprint: str

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return -(-self.examples // self.batch_size)

    def epoch(self, step: int) -> int:
        """Return the epoch (from 0) of a step (from 0)."""
        return step // self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Return True if the step (from 0) is the last one of its epoch."""
        return (step + 1) % self.steps_per_epoch == 0

    def batch(self, step: int) -> list[int]:
        """Return the indices of the examples of a step (from 0), over all processes."""
        order = epoch_order(self.examples, self.seed, self.epoch(step), self.fingerprint)
        start = step % self.steps_per_epoch * self.batch_size
        return order[start : start + self.batch_size]


@dataclass(frozen=True)
class MicroBatches:
    """The division of one rank's part of a global batch: `count` forward passes of at most `size` examples."""

    rank: int
    world_size: int
    count: int
    size: int

    @classmethod
    def plan(cls, rank: int, world_size: int, batch_size: int, micro_batch_size: int) -> MicroBatches:
        """Divide a global batch into the same number of passes on every rank and in every step, as ZeRO requires."""
        share = -(-batch_size // world_size)
        count = -(-share // micro_batch_size)
        return cls(rank, world_size, count, -(-share // count))

    def split(self, batch: list[int]) -> list[tuple[list[int], bool]]:
        """Return this rank's micro-batches of a global batch.

        Returns:
            (indices, counts) per pass. If a small batch leaves a pass without an example, the pass runs on one that
            does not count.
        """
        own = batch[self.rank :: self.world_size]
        pieces = [own[i * self.size : (i + 1) * self.size] for i in range(self.count)]
        return [(piece, True) if piece else (batch[:1], False) for piece in pieces]


def step_seed(seed: int, step: int, micro_batch: int, rank: int) -> int:
    """Return the seed of dropout in one forward pass. So checkpoints need no state of a random generator."""
    digest = hashlib.sha256(f"dropout/{seed}/{step}/{micro_batch}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
