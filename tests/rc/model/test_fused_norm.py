from __future__ import annotations

import copy

import pytest
import torch
import transformers
from torch import nn

from lmrc.rc.model.fused_norm import fuse_norms
from tests.rc.model.test_packed_attention import CONFIGS, GROUPED


def random_lm(config: transformers.PreTrainedConfig) -> transformers.PreTrainedModel:
    """Return an LM whose norms have random weights."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, 1.0, 0.3)
    assert isinstance(model, transformers.PreTrainedModel)
    return model


@pytest.mark.parametrize(("name", "count"), [("Llama", 5), ("Mistral", 5), ("Qwen2", 5), ("Qwen3", 9), ("OLMo2", 9)])
def test_logits_are_the_same(name: str, count: int) -> None:
    model = random_lm(CONFIGS[name])
    ids = torch.randint(0, 50, (1, 20))
    expected = model(input_ids=ids).logits
    parameters = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    fuse_norms(model)
    assert sum(isinstance(module, nn.RMSNorm) for module in model.modules()) == count
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == parameters
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=0, atol=2e-5)


def test_norms_with_another_formula_are_left() -> None:
    """Gemma's weight counts from 1, and GPT-NeoX has layer norms."""
    gemma = random_lm(transformers.GemmaConfig(**GROUPED, head_dim=8))
    neox = random_lm(CONFIGS["GPT-NeoX"])
    for model in (gemma, neox):
        before = copy.deepcopy(model)
        fuse_norms(model)
        assert [type(module) for module in model.modules()] == [type(module) for module in before.modules()]


@pytest.mark.parametrize("seed", range(3))
def test_bf16_is_nearer_to_fp32(seed: int) -> None:
    """The fused norm rounds once."""
    torch.manual_seed(seed)
    norm = transformers.models.llama.modeling_llama.LlamaRMSNorm(256, eps=1e-6)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    rounded = copy.deepcopy(norm).bfloat16()
    values = torch.randn(64, 256).bfloat16()
    exact = torch.nn.functional.rms_norm(values.double(), (256,), rounded.weight.double(), 1e-6)
    fused = torch.nn.functional.rms_norm(values, (256,), rounded.weight, 1e-6)
    assert (fused - exact).abs().mean() <= (rounded(values) - exact).abs().mean()
