from __future__ import annotations

import pytest
import torch
from torch import nn

from lmrc.rcp.model.dropout import Dropout, replace_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_share_and_scale(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ones = torch.ones(401, 503, dtype=dtype)
    out = Dropout(p).train()(ones)
    assert out.dtype == dtype
    assert out.shape == ones.shape
    kept = out != 0
    assert torch.allclose(out[kept].double(), torch.tensor(1 / (1 - p)).double(), rtol=1e-2)
    # Five standard deviations.
    assert abs(kept.double().mean().item() - (1 - p)) < 5 * (p * (1 - p) / ones.numel()) ** 0.5 + 2**-16
    # The four numbers of 64 bits have the same distribution and are uncorrelated.
    flat = kept.flatten()[: 4 * (ones.numel() // 4)].view(-1, 4).double()
    assert (flat.mean(0) - (1 - p)).abs().max() < 5 * (p * (1 - p) / len(flat)) ** 0.5 + 2**-16
    assert torch.corrcoef(flat.t()).fill_diagonal_(0).abs().max() < 5 / len(flat) ** 0.5


def test_gradients_use_the_same_mask() -> None:
    torch.manual_seed(0)
    values = torch.randn(50, 7, requires_grad=True)
    out = Dropout(0.3).train()(values)
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert torch.allclose(values.grad * values, out)


def test_one_byte_per_element_is_saved_for_backward() -> None:
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (saved.append(tensor), tensor)[1], lambda tensor: tensor
    ):
        Dropout(0.3).train()(torch.randn(50, 7, requires_grad=True))
    assert [tensor.nbytes for tensor in saved] == [50 * 7]


def test_seed_determines_the_mask() -> None:
    drop, values = Dropout(0.3).train(), torch.ones(1000)
    torch.manual_seed(1)
    first, second = drop(values), drop(values)
    torch.manual_seed(1)
    assert torch.equal(drop(values), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_probabilities_zero_and_one(p: float) -> None:
    values = torch.randn(10)
    assert torch.equal(Dropout(p).train()(values), values * (1 - p))
    assert torch.equal(Dropout(0.5).eval()(values), values)


def test_empty_input() -> None:
    assert Dropout(0.5).train()(torch.zeros(0, 3)).shape == (0, 3)


def test_replace_every_dropout() -> None:
    module = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2)), nn.Identity())
    replace_dropout(module)
    replaced = [child for child in module.modules() if isinstance(child, nn.Dropout)]
    assert [(type(child), child.p) for child in replaced] == [(Dropout, 0.1), (Dropout, 0.2)]
