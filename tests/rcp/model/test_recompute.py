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
def test_gradients_are_bit_identical(name: str, shape: tuple[int, ...]) -> None:
    plain = feed_forward(ACT2FN["gelu"] if name == "gelu" else nn.GELU())
    ours = copy.deepcopy(plain)
    replace_activations(ours)
    inputs = torch.randn(shape, requires_grad=True)
    expected = gradients(plain, inputs)
    with recompute_in_backward():
        loss = ours(inputs).square().sum()
    actual = torch.autograd.grad(loss, [inputs, *ours.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))


def linear_nodes(output: Tensor) -> list[Any]:
    """Return the graph nodes of linear layers with a bias, last first."""
    nodes, queue, seen = [], [output.grad_fn], set()
    while queue:
        node = queue.pop(0)
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [node] if node.name() == "AddmmBackward0" else []
            queue += [following for following, _ in node.next_functions]
    return nodes


def is_recomputed(node: Any) -> bool:
    """Return True if the layer's saved input is a new tensor at each access."""
    first, second = node._saved_mat1, node._saved_mat1
    assert torch.equal(first, second)
    return bool(first.data_ptr() != second.data_ptr())


def test_only_activation_outputs_are_recomputed() -> None:
    module = feed_forward(nn.GELU())
    inputs = torch.randn(5, 8, requires_grad=True)
    assert [is_recomputed(node) for node in linear_nodes(module(inputs))] == [False, False, False, False]
    replace_activations(module)
    with recompute_in_backward():
        output = module(inputs)
    assert [is_recomputed(node) for node in linear_nodes(output)] == [True, False, True, False]
    # Outside the context, nothing is recomputed.
    assert not any(is_recomputed(node) for node in linear_nodes(module(inputs)))


def test_tensors_that_the_packed_encoder_recomputes() -> None:
    """Per layer: the concatenated attention output, and the output of the activation function."""
    encoder = tiny.encoder("bert").train()
    packed = RelationCandidateModel(encoder)._packed
    ids = torch.arange(30) + 6
    hidden, _, _ = packed(ids, torch.arange(30) % 20, [20, 10])
    widths = [(node._saved_mat1.shape[1], is_recomputed(node)) for node in linear_nodes(hidden)]
    # Hidden size 16, intermediate size 24. Inputs of query, key, value and intermediate are saved.
    assert sorted(widths) == [(16, False)] * 8 + [(16, True)] * 2 + [(24, True)] * 2


def test_reused_memory_is_not_mistaken_for_the_output() -> None:
    """If no layer saves the output (frozen weights), another tensor may reuse its memory."""
    torch.manual_seed(0)
    activation = Activation(nn.GELU())
    weight = torch.randn(64, 64, requires_grad=True)
    inputs = torch.randn(64, 64)
    with recompute_in_backward():
        for _ in range(20):
            # Without gradients, autograd saves nothing.
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


def test_replace_every_gelu_and_keep_weight_names() -> None:
    encoder = tiny.encoder("bert")
    names = list(encoder.state_dict())
    replace_activations(encoder)
    replace_activations(encoder)
    assert list(encoder.state_dict()) == names
    activations = [module for module in encoder.modules() if isinstance(module, Activation)]
    assert len(activations) == encoder.config.num_hidden_layers
    assert not any(isinstance(module.function, Activation) for module in activations)
