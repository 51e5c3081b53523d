"""Packed attention, compared with transformers' attention on each sequence alone."""

from __future__ import annotations

import sys
from copy import deepcopy
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from lmrc.common.errors import ConfigError, UserError
from lmrc.kernels import masked_attention
from lmrc.rc.model.kv_cache import KVCache, KVPool, TreeLayout, extend_caches
from lmrc.rc.model.packed_attention import IMPLEMENTATION, PackedSequences, packed_forward

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
CONFIGS = {
    "Llama": transformers.LlamaConfig(**GROUPED),
    "Mistral": transformers.MistralConfig(**GROUPED, sliding_window=32),
    "Qwen2": transformers.Qwen2Config(**GROUPED),
    "Qwen3": transformers.Qwen3Config(**GROUPED, head_dim=8),
    "Phi3": transformers.Phi3Config(**GROUPED),
    "OLMo2": transformers.Olmo2Config(**GROUPED),
    "GPT-NeoX": transformers.GPTNeoXConfig(**SIZES, hidden_act="gelu"),
}
TEXTS = [[5, 6, 7, 8, 9, 3], [5, 6, 7, 4], [5, 6, 7, 30, 31, 32, 33]]
SHARED = 3


def model(name: str, attention: str) -> transformers.PreTrainedModel:
    torch.manual_seed(1)
    made = transformers.AutoModelForCausalLM.from_config(deepcopy(CONFIGS[name]), attn_implementation=attention)
    assert isinstance(made, transformers.PreTrainedModel)
    return made.eval()


def packed(texts: list[list[int]], prefix_length: int) -> tuple[Tensor, PackedSequences]:
    layout = PackedSequences(prefix_length, [len(text) - prefix_length for text in texts])
    ids = texts[0][:prefix_length] + [token for text in texts for token in text[prefix_length:]]
    return torch.tensor(ids), layout


def packed_logits(lm: transformers.PreTrainedModel, texts: list[list[int]], prefix_length: int) -> Tensor:
    """Return the logits of all tokens of a packed pass."""
    ids, layout = packed(texts, prefix_length)
    return packed_forward(lm, ids, layout.positions(), layout, torch.arange(len(ids)))


def separate_logits(lm: transformers.PreTrainedModel, texts: list[list[int]], prefix_length: int) -> Tensor:
    """Return the same logits, computed by transformers for one sequence after another."""
    rows = [lm(input_ids=torch.tensor([text])).logits[0] for text in texts]
    return torch.cat([rows[0][:prefix_length], *(row[prefix_length:] for row in rows)])


@pytest.mark.parametrize("block", [256, 2])
@pytest.mark.parametrize("prefix_length", [0, SHARED])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_those_of_separate_sequences(
    name: str, prefix_length: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masked_attention, "_BLOCK", block)
    with torch.no_grad():
        actual = packed_logits(model(name, IMPLEMENTATION), TEXTS, prefix_length)
        expected = separate_logits(model(name, "sdpa"), TEXTS, prefix_length)
    assert torch.allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(("prefix_length", "block"), [(0, 256), (SHARED, 256), (SHARED, 2)])
def test_gradients_equal_those_of_separate_sequences(
    prefix_length: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masked_attention, "_BLOCK", block)
    ours, reference = model("Llama", IMPLEMENTATION), model("Llama", "sdpa")
    # The packed pass has the logits of the prefix once, the reference three times: compare those after it.
    packed_logits(ours, TEXTS, prefix_length)[prefix_length:].square().sum().backward()
    separate_logits(reference, TEXTS, prefix_length)[prefix_length:].square().sum().backward()
    for (name, parameter), other in zip(ours.named_parameters(), reference.parameters(), strict=True):
        assert parameter.grad is not None and other.grad is not None
        # The tolerance is that of float32, which transformers' norms always use.
        assert (parameter.grad - other.grad).abs().max() < 1e-4 * other.grad.abs().max(), name


def test_only_selected_logits_are_computed() -> None:
    lm = model("Llama", IMPLEMENTATION)
    rows: list[int] = []
    lm.get_submodule("lm_head").register_forward_hook(lambda _, __, output: rows.append(output.shape[1]))
    ids, layout = packed(TEXTS, SHARED)
    logit_positions = torch.tensor([4, 0, 9])
    with torch.no_grad():
        selected = packed_forward(lm, ids, layout.positions(), layout, logit_positions)
        everything = packed_logits(lm, TEXTS, SHARED)
    assert rows[0] == 3
    assert torch.allclose(selected, everything[logit_positions], atol=1e-5)


@pytest.mark.parametrize("prefix_length", [0, SHARED])
def test_flash_attention_gives_the_same_logits(monkeypatch: pytest.MonkeyPatch, prefix_length: int) -> None:
    """Uses a stand-in for flash-attn, which aligns queries with the last keys of their sequence."""

    def varlen(q: Tensor, k: Tensor, v: Tensor, *ends_and_longest: Any, softmax_scale: float, causal: bool) -> Tensor:
        ends_q, ends_k, longest_q, longest_k = ends_and_longest
        assert causal and ends_q.dtype == ends_k.dtype == torch.int32
        outputs: list[Tensor] = []
        lengths: tuple[list[int], list[int]] = ([], [])
        for text in range(len(ends_q) - 1):
            queries, keys = (slice(int(ends[text]), int(ends[text + 1])) for ends in (ends_q, ends_k))
            new, tokens = queries.stop - queries.start, keys.stop - keys.start
            lengths[0].append(new)
            lengths[1].append(tokens)
            group = q.shape[1] // k.shape[1]
            scores = torch.einsum("qhd,khd->hqk", q[queries], k[keys].repeat_interleave(group, 1)) * softmax_scale
            hidden = torch.ones(new, tokens).triu(tokens - new + 1).bool()
            weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
            outputs.append(torch.einsum("hqk,khd->qhd", weights, v[keys].repeat_interleave(group, 1)))
        assert (longest_q, longest_k) == (max(lengths[0]), max(lengths[1]))
        return torch.cat(outputs)

    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = varlen  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    lm = model("Llama", IMPLEMENTATION)
    ids, layout = packed(TEXTS, prefix_length)
    flash = PackedSequences(layout.prefix_length, layout.lengths, flash=True)
    with torch.no_grad():
        actual = packed_forward(lm, ids, flash.positions(), flash, torch.arange(len(ids)))
        expected = packed_logits(lm, TEXTS, prefix_length)
    assert torch.allclose(actual, expected, atol=1e-5)


def test_unsupported_lms_are_refused() -> None:
    torch.manual_seed(0)
    sizes = {**GROUPED, "head_dim": 8}
    soft = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**sizes, attn_implementation=IMPLEMENTATION))
    with pytest.raises(ConfigError, match=r"softcap.*choose a Llama-like causal LM in model\.base"):
        packed_logits(soft, TEXTS, 0)
    bloom = transformers.BloomConfig(vocab_size=50, hidden_size=32, n_layer=2, n_head=4)
    with pytest.raises((UserError, TypeError, ValueError)):
        packed_logits(transformers.BloomForCausalLM(bloom), TEXTS, 0)
    with pytest.raises(UserError, match="limited to a window of 32 tokens"):
        packed_logits(model("Mistral", IMPLEMENTATION), [list(range(40))], 0)


@pytest.mark.parametrize("prefix_length", [0, SHARED])
def test_packed_length_may_exceed_a_sliding_window(prefix_length: int) -> None:
    """Mistral's window of 32 applies to each sequence: 32 + 20 + 11 tokens give the same logits as each alone."""
    shared = [5, 6, 7]
    texts = [shared + [(7 * index + size) % 50 for index in range(size - 3)] for size in (32, 20, 11)]
    with torch.no_grad():
        actual = packed_logits(model("Mistral", IMPLEMENTATION), texts, prefix_length)
        expected = separate_logits(model("Mistral", "sdpa"), texts, prefix_length)
        assert torch.allclose(actual, expected, atol=1e-5)
        with pytest.raises(UserError, match="limited to a window of 32 tokens: lower prompt"):
            packed_logits(model("Mistral", IMPLEMENTATION), [*texts, [*texts[0], 1]], prefix_length)


@torch.inference_mode()
def test_cached_length_beyond_a_sliding_window_is_refused() -> None:
    """Also if no single step is that long, and if only a branch of a tree is."""
    lm, text = model("Mistral", IMPLEMENTATION), [(7 * index) % 50 for index in range(40)]
    pool = KVPool()
    cache, other = KVCache(pool), KVCache(pool)
    extend_caches(lm, [cache, other], [text[:20], text[:5]])
    actual = extend_caches(lm, [cache], [text[20:32]])
    expected = model("Mistral", "sdpa")(input_ids=torch.tensor([text[:32]])).logits[0, -1:]
    assert torch.allclose(actual, expected, atol=1e-5)
    with pytest.raises(UserError, match="limited to a window of 32 tokens"):
        extend_caches(lm, [cache, other], [text[32:33], text[5:6]])
    assert (cache.length, other.length) == (32, 5)
    tree = TreeLayout([other], [[-1, *range(26)]])
    packed_forward(lm, torch.tensor(text[:27]), tree.positions(), tree, torch.tensor([26]))
    deeper = TreeLayout([other], [[-1, *range(27)]])
    with pytest.raises(UserError, match="limited to a window of 32 tokens"):
        packed_forward(lm, torch.tensor(text[:28]), deeper.positions(), deeper, torch.tensor([27]))


@torch.inference_mode()
def test_sequences_beyond_the_position_limit_are_refused() -> None:
    """Rotary embeddings alone would raise no error beyond 64 positions."""
    lm, cache = model("Llama", IMPLEMENTATION), KVCache(KVPool())
    packed_logits(lm, [list(range(40)), list(range(40))], 0)
    extend_caches(lm, [cache], [[3] * 60])
    extend_caches(lm, [cache], [[3] * 4])
    with pytest.raises(UserError, match=r"65 tokens, but the LM \(llama\) is limited to 64 positions: lower prompt"):
        extend_caches(lm, [cache], [[3]])


def test_several_rows_without_a_layout_are_refused() -> None:
    """Some may be padded, and the padding would not be masked."""
    lm = model("Llama", IMPLEMENTATION)
    with pytest.raises(ValueError, match="a batch of 2 rows without a layout"):
        lm(input_ids=torch.ones(2, 4, dtype=torch.long))
