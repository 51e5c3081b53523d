from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmrc.rcp.model.pooling import pool_contexts, pool_entities


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


MENTIONS = torch.tensor([[0, 1, 2], [3, 0, 0], [0, 0, 0], [2, 3, 0]])
PRESENT = torch.tensor([[True, True, True], [True, False, False], [False, False, False], [True, True, False]])


def test_entities_are_logsumexp_of_their_mentions() -> None:
    hidden = double(4, 3)
    pooled = pool_entities(hidden, MENTIONS, PRESENT)
    for entity, mentions in enumerate([[0, 1, 2], [3], [], [2, 3]]):
        for k in range(3):
            expected = math.log(sum(math.exp(hidden[m, k].item()) for m in mentions)) if mentions else 0.0
            assert pooled[entity, k].item() == pytest.approx(expected, abs=1e-12)


def test_logsumexp_does_not_overflow() -> None:
    hidden = torch.tensor([[1000.0, -1000.0], [1000.0, -1000.0]])
    pooled = pool_entities(hidden, torch.tensor([[0, 1]]), torch.tensor([[True, True]]))
    assert torch.allclose(pooled, torch.tensor([[1000 + math.log(2), -1000 + math.log(2)]]))


def test_entities_without_mentions_in_the_batch() -> None:
    pooled = pool_entities(torch.zeros(0, 3), torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1, dtype=torch.bool))
    assert torch.equal(pooled, torch.zeros(2, 3))


def test_contexts_one_pair_at_a_time() -> None:
    hidden, attention = double(7, 5), torch.rand(4, 2, 7, dtype=torch.float64)
    first, second = torch.triu_indices(4, 4, 1)
    contexts = pool_contexts(hidden, attention.permute(2, 0, 1), slice(0, 4), first, second)
    for row, (s, o) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        q = [sum(attention[s, h, i] * attention[o, h, i] for h in range(2)) / 2 for i in range(7)]
        total = sum(q) + 1e-5
        expected = torch.stack([q[i] / total * hidden[i] for i in range(7)]).sum(0)
        assert torch.allclose(contexts[row], expected, atol=1e-14, rtol=0)


def test_context_without_shared_attention_is_zero() -> None:
    attention = torch.zeros(3, 2, 6)
    attention[0, :, :3] = 0.3
    attention[1, :, 3:] = 0.3  # entity 2 has no mention
    contexts = pool_contexts(
        torch.randn(6, 4), attention.permute(2, 0, 1), slice(0, 3), torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
    )
    assert torch.equal(contexts, torch.zeros(3, 4))


def test_gradients() -> None:
    """Include entities without mentions and pairs without shared attention."""
    assert torch.autograd.gradcheck(lambda hidden: pool_entities(hidden, MENTIONS, PRESENT), double(4, 3))
    first, second = torch.triu_indices(4, 4, 1)

    def contexts(hidden: Tensor, attention: Tensor) -> Tensor:
        return pool_contexts(hidden, attention.permute(2, 0, 1), slice(0, 4), first, second)

    attention = torch.rand(4, 2, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(contexts, (double(6, 3), attention.clone().requires_grad_()))
    attention[1] = 0
    # Steps far below EPSILON, which is the whole denominator here.
    assert torch.autograd.gradcheck(contexts, (double(6, 3), attention.requires_grad_()), eps=1e-10, atol=1e-3)
