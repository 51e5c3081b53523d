from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lmrc.training.sampler import DeterministicSampler, MicroBatches, step_seed

sizes = st.integers(1, 60)


@given(examples=sizes, batch_size=st.integers(1, 16), seed=st.integers(0, 5), epochs=st.integers(1, 3))
def test_every_epoch_visits_each_example_once(examples: int, batch_size: int, seed: int, epochs: int) -> None:
    order = DeterministicSampler(examples, batch_size, seed, "corpus")
    for epoch in range(epochs):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        seen = Counter(index for step in steps for index in order.batch(step))
        assert seen == Counter(range(examples))
        assert [order.ends_epoch(step) for step in steps] == [False] * (len(steps) - 1) + [True]
        assert {order.epoch(step) for step in steps} == {epoch}


def test_order_depends_only_on_seed_epoch_and_corpus() -> None:
    first = DeterministicSampler(50, 50, 1, "corpus").batch(0)
    assert first == DeterministicSampler(50, 50, 1, "corpus").batch(0)
    assert first != DeterministicSampler(50, 50, 2, "corpus").batch(0)
    assert first != DeterministicSampler(50, 50, 1, "another").batch(0)
    assert first != DeterministicSampler(50, 50, 1, "corpus").batch(1)
    # The batch size does not change the order.
    small = DeterministicSampler(50, 10, 1, "corpus")
    assert [index for step in range(5) for index in small.batch(step)] == first


def test_order_is_the_same_on_every_machine() -> None:
    # This value must never change: old checkpoints would resume on other data.
    assert DeterministicSampler(8, 8, 66, "corpus").batch(0) == [4, 7, 0, 6, 5, 3, 1, 2]


@given(
    batch=st.lists(st.integers(0, 99), min_size=1, max_size=20, unique=True),
    world_size=st.integers(1, 8),
    micro_batch_size=st.integers(1, 6),
)
def test_ranks_divide_a_batch_without_loss_or_repetition(
    batch: list[int], world_size: int, micro_batch_size: int
) -> None:
    plans = [MicroBatches.plan(rank, world_size, 20, micro_batch_size) for rank in range(world_size)]
    split = [plan.split(batch) for plan in plans]
    # ZeRO needs the same number of passes on each rank.
    assert {len(pieces) for pieces in split} == {plans[0].count}
    assert all(0 < len(piece) <= micro_batch_size for pieces in split for piece, _ in pieces)
    counted = [index for pieces in split for piece, counts in pieces if counts for index in piece]
    assert sorted(counted) == sorted(batch)


def test_no_more_passes_than_needed() -> None:
    assert MicroBatches.plan(0, 4, batch_size=32, micro_batch_size=4) == MicroBatches(0, 4, count=2, size=4)
    assert MicroBatches.plan(0, 1, batch_size=4, micro_batch_size=16) == MicroBatches(0, 1, count=1, size=4)
    # Passes are of equal size: 3, 3 and 3, not 4, 4 and 1.
    assert MicroBatches.plan(0, 1, batch_size=9, micro_batch_size=4) == MicroBatches(0, 1, count=3, size=3)


def test_dropout_differs_between_steps_passes_and_ranks() -> None:
    seeds = {step_seed(1, step, pass_, rank) for step in range(5) for pass_ in range(3) for rank in range(4)}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)
