"""Packed attention, compared with transformers' attention on each sequence alone."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import transformers
from torch import Tensor

from lmrc.common.errors import ConfigError, UserError
from lmrc.kernels import masked_attention
from lmrc.rc.model.kv_cache import KVCache, KVPool, TreeLayout, extend_caches
from lmrc.rc.model.packed_attention import IMPLEMENTATION, PackedGroups, PackedSequences, packed_forward
from tests.kernels.fakes import fake_kernel

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


@pytest.mark.parametrize("kernel", ["flash-attn", "torch varlen_attn"])
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1]])
@pytest.mark.parametrize("prefix_length", [0, SHARED])
def test_one_kernel_call_per_layer(prefix_length: int, texts: list[list[int]], kernel: str) -> None:
    lm = model("Llama", IMPLEMENTATION).bfloat16()
    with torch.no_grad():
        expected = packed_logits(lm, texts, prefix_length)
        with fake_kernel(kernel) as calls:
            actual = packed_logits(lm, texts, prefix_length)
    assert calls == [kernel] * lm.config.num_hidden_layers
    assert torch.allclose(actual.float(), expected.float(), atol=0.1)


def test_keys_are_copied_only_if_a_prefix_is_shared() -> None:
    key = torch.randn(9, 2, 8)
    for layout in (PackedSequences(0, [4, 5]), PackedSequences(3, [6])):
        assert layout.with_prefix(key) is key
    shared = PackedSequences(2, [3, 4]).with_prefix(key)
    assert torch.equal(shared, key[[0, 1, 2, 3, 4, 0, 1, 5, 6, 7, 8]])


def test_gradients_of_a_shared_prefix_are_summed_in_float32() -> None:
    """In bf16, 256 + 1 is 256, so adding one sequence after another would lose the others."""
    key = torch.zeros(5, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    shared = PackedSequences(1, [1, 1, 1, 1]).with_prefix(key)
    gradient = torch.zeros_like(shared)
    gradient[::2, 0, 0] = torch.tensor([256, 1, 1, 1])
    shared.backward(gradient)
    assert key.grad is not None
    # The nearest bf16 of 259 is 260.
    assert key.grad[0].item() == 260


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


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_groups_do_not_see_each_other(name: str) -> None:
    """Two groups with prefixes of their own give the logits of each group alone."""
    lm = model(name, IMPLEMENTATION)
    other = [[9, 8, 7, 6], [9, 8, 20, 21, 22]]
    (first, first_layout), (second, second_layout) = packed(TEXTS, SHARED), packed(other, 2)
    layout = PackedGroups([first_layout, second_layout])
    ids = torch.cat([first, second])
    together = packed_forward(lm, ids, layout.positions(), layout, torch.arange(len(ids)))
    alone = torch.cat([packed_logits(lm, TEXTS, SHARED), packed_logits(lm, other, 2)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert layout.max_length == 7
