"""Copies of linear weights, compared with autocast's own."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, BertConfig, PreTrainedModel

from lmrc.rcp.model.linear_casts import LinearCasts

LAYERS, WIDTH, TOKENS = 3, 24, 11


class Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def encoder() -> PreTrainedModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=40,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
    )
    made: PreTrainedModel = AutoModel.from_config(config)
    made.pooler = None
    return made.train()


def step(model: PreTrainedModel, casts: LinearCasts | None, precision: str = "bf16") -> tuple[Tensor, Counter[str]]:
    """Return the output, and the calls of a forward and a backward pass."""
    ids = torch.arange(TOKENS)[None] + 5
    weight = torch.arange(WIDTH) / WIDTH
    with Calls() as calls:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            if casts is None:
                output = model(input_ids=ids).last_hidden_state
            else:
                with casts.active():
                    output = model(input_ids=ids).last_hidden_state
        (output.float() * weight).square().sum().backward()
    return output, calls.names


def test_results_equal_those_of_autocast() -> None:
    plain, ours = encoder(), encoder()
    exact = encoder()
    expected, _ = step(plain, None)
    actual, _ = step(ours, LinearCasts(ours))
    assert torch.allclose(actual.float(), expected.float(), atol=0.05)
    step(exact, None, "fp32")
    for (name, parameter), theirs, true in zip(
        ours.named_parameters(), plain.parameters(), exact.parameters(), strict=True
    ):
        if true.grad is None:
            assert parameter.grad is None
            continue
        assert parameter.grad is not None and theirs.grad is not None
        assert parameter.grad.dtype == torch.float32
        # No farther from the exact gradient than autocast's, up to the rounding of bf16.
        error, usual = ((part.grad - true.grad).abs().max() for part in (parameter, theirs))  # type: ignore[operator]
        assert error < 2 * usual + 2**-7 * true.grad.abs().max(), name


def test_one_call_casts_all_weights() -> None:
    plain, ours = encoder(), encoder()
    _, before = step(plain, None)
    _, after = step(ours, LinearCasts(ours))
    assert after["aten::_foreach_copy_"] == 2
    # In each of 6 layers, the casts of weight and bias, forward and backward, and those of the input of key and value.
    assert before["aten::_to_copy"] - after["aten::_to_copy"] >= LAYERS * (2 * 12 + 2 * 2)
    assert before["aten::addmm"] - after["aten::addmm"] == 2 * LAYERS
    assert before["aten::mm"] - after["aten::mm"] == 2 * 2 * LAYERS


@pytest.mark.parametrize("use", ["fp32", "recomputed", "sharded"])
def test_nothing_changes_without_copies(use: str) -> None:
    plain, ours = encoder(), encoder()
    casts = LinearCasts(ours)
    if use == "recomputed":
        for model in (plain, ours):
            model.gradient_checkpointing_enable({"use_reentrant": False})
    if use == "sharded":
        ours.get_submodule("encoder.layer.0.attention.self.query").weight.ds_id = 1  # type: ignore[union-attr]
    precision = "fp32" if use == "fp32" else "bf16"
    expected, _ = step(plain, None, precision)
    actual, calls = step(ours, casts, precision)
    assert torch.equal(actual, expected)
    assert not calls["aten::_foreach_copy_"]
    for parameter, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert parameter.grad is other.grad or torch.equal(parameter.grad, other.grad)  # type: ignore[arg-type]


def test_state_dict_is_unchanged_and_copies_are_dropped() -> None:
    plain, ours = encoder(), encoder()
    casts = LinearCasts(ours)
    step(ours, casts)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert all(group.weight is None and not group._outputs for group in casts._groups)
    # Only the copy's own group is used by a copy of the model.
    with torch.no_grad():
        assert torch.equal(
            copy.deepcopy(ours)(torch.ones(1, 3, dtype=torch.long))[0], plain(torch.ones(1, 3, dtype=torch.long))[0]
        )


def test_other_inputs_are_not_mixed_up() -> None:
    """Key gets another input than query: the shared product must not be used."""
    model = encoder()
    casts = LinearCasts(model)
    attention = model.get_submodule("encoder.layer.0.attention.self")
    first, second = torch.randn(2, 4, WIDTH)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected = attention.query(first), attention.key(second), attention.value(first)  # type: ignore[operator]
        with casts.active():
            actual = attention.query(first), attention.key(second), attention.value(first)  # type: ignore[operator]
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=0.02)
