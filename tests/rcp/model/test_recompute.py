from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.rcp.model.recompute import Activation, recompute_in_backward, replace_activations
from tests.rcp import tiny


def feed_forward(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(8, 32), activation, nn.Linear(32, 8)),
        *(nn.LayerNorm(8), nn.Linear(8, 32), copy.deepcopy(activation), nn.Linear(32, 8)),
    )


def gradients(module: nn.Module, inputs: Tensor) -> list[Tensor]:
    loss = module(inputs).square().sum()
    return list(torch.autograd.grad(loss, [inputs, *module.parameters()]))


@pytest.mark.parametrize("name", ["gelu", "plain"])
@pytest.mark.parametrize("shape", [(5, 8), (2, 5, 8), (1, 0, 8), (8,)])
def test_gradients_are_the_same_to_the_bit(name: str, shape: tuple[int, ...]) -> None:
    plain = feed_forward(ACT2FN["gelu"] if name == "gelu" else nn.GELU())
    ours = copy.deepcopy(plain)
    replace_activations(ours)
    inputs = torch.randn(shape, requires_grad=True)
    expected = gradients(plain, inputs)
    with recompute_in_backward():
        loss = ours(inputs).square().sum()
    actual = torch.autograd.grad(loss, [inputs, *ours.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))


def products(output: Tensor) -> list[Any]:
    """The graph's products with a bias, last first."""
    found, waiting, seen = [], [output.grad_fn], set()
    while waiting:
        node = waiting.pop(0)
        if node is not None and node not in seen:
            seen.add(node)
            found += [node] if node.name() == "AddmmBackward0" else []
            waiting += [following for following, _ in node.next_functions]
    return found


def is_computed_again(node: Any) -> bool:
    """Whether the product's input is another tensor whenever it is asked for."""
    first, second = node._saved_mat1, node._saved_mat1
    assert torch.equal(first, second)
    return bool(first.data_ptr() != second.data_ptr())


def test_only_outputs_of_activations_are_not_kept() -> None:
    module = feed_forward(nn.GELU())
    inputs = torch.randn(5, 8, requires_grad=True)
    assert [is_computed_again(node) for node in products(module(inputs))] == [False, False, False, False]
    replace_activations(module)
    with recompute_in_backward():
        output = module(inputs)
    assert [is_computed_again(node) for node in products(output)] == [True, False, True, False]
    # Once closed, all is as it was.
    assert not any(is_computed_again(node) for node in products(module(inputs)))


def test_what_an_encoder_in_windows_does_not_keep() -> None:
    """Of each layer the windows' attention put together, and the output of its activation function."""
    encoder = tiny.encoder("bert").train()
    packed = RelationCandidateModel(encoder)._packed
    ids = torch.arange(30) + 6
    hidden, _, _ = packed(ids, torch.arange(30) % 20, [20, 10])
    widths = [(node._saved_mat1.shape[1], is_computed_again(node)) for node in products(hidden)]
    # 16 numbers a token, and 24 amid its feed-forward network; query, key, value and intermediate keep theirs.
    assert sorted(widths) == [(16, False)] * 8 + [(16, True)] * 2 + [(24, True)] * 2


def test_a_tensor_in_the_memory_of_a_gone_output_is_not_taken_for_it() -> None:
    """What does not keep the activation's output (frozen weights) leaves its memory to tensors of another content."""
    torch.manual_seed(0)
    activation = Activation(nn.GELU())
    weight = torch.randn(64, 64, requires_grad=True)
    inputs = torch.randn(64, 64)
    with recompute_in_backward():
        for _ in range(20):
            # Nothing here needs a gradient, so nothing is kept.
            activation(inputs).sum().item()
            other = torch.randn(64, 64)
            expected = other.clone()
            product = other @ weight
            del other
            assert torch.equal(product.grad_fn._saved_self, expected)


def test_second_derivatives() -> None:
    module = feed_forward(nn.GELU()).double()
    replace_activations(module)
    inputs = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)

    def function(values: Tensor) -> Tensor:
        with recompute_in_backward():
            result: Tensor = module(values)
        return result

    assert torch.autograd.gradgradcheck(function, inputs)


def test_every_gelu_of_an_encoder_and_no_weight_has_another_name() -> None:
    encoder = tiny.encoder("bert")
    names = list(encoder.state_dict())
    replace_activations(encoder)
    replace_activations(encoder)
    assert list(encoder.state_dict()) == names
    found = [part for part in encoder.modules() if isinstance(part, Activation)]
    assert len(found) == encoder.config.num_hidden_layers
    assert not any(isinstance(part.function, Activation) for part in found)
