"""Texts end to end against transformers' own attention on each text alone."""

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
from lmrc.rc.model import packed_attention as packing
from lmrc.rc.model.kv_cache import KVCache, TreeLayout, read
from lmrc.rc.model.packed_attention import IMPLEMENTATION, PackedSequences, run

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


def packed(texts: list[list[int]], beginning: int) -> tuple[Tensor, PackedSequences]:
    layout = PackedSequences(beginning, [len(text) - beginning for text in texts])
    ids = texts[0][:beginning] + [token for text in texts for token in text[beginning:]]
    return torch.tensor(ids), layout


def whole(lm: transformers.PreTrainedModel, texts: list[list[int]], beginning: int) -> Tensor:
    """All logits, end to end."""
    ids, layout = packed(texts, beginning)
    return run(lm, ids, layout.positions(), layout, torch.arange(len(ids)))


def alone(lm: transformers.PreTrainedModel, texts: list[list[int]], beginning: int) -> Tensor:
    """The same logits from one text after another, by transformers."""
    rows = [lm(input_ids=torch.tensor([text])).logits[0] for text in texts]
    return torch.cat([rows[0][:beginning], *(row[beginning:] for row in rows)])


@pytest.mark.parametrize("block", [256, 2])
@pytest.mark.parametrize("beginning", [0, SHARED])
@pytest.mark.parametrize("name", CONFIGS)
def test_equals_each_text_alone(name: str, beginning: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_BLOCK", block)
    with torch.no_grad():
        found = whole(model(name, IMPLEMENTATION), TEXTS, beginning)
        wanted = alone(model(name, "sdpa"), TEXTS, beginning)
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("beginning", "block"), [(0, 256), (SHARED, 256), (SHARED, 2)])
def test_gradients_equal_those_of_each_text_alone(beginning: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_BLOCK", block)
    mine, theirs = model("Llama", IMPLEMENTATION), model("Llama", "sdpa")
    # The logits behind a shared beginning are one set here and three there: compare what follows.
    whole(mine, TEXTS, beginning)[beginning:].square().sum().backward()
    alone(theirs, TEXTS, beginning)[beginning:].square().sum().backward()
    for (name, parameter), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert parameter.grad is not None and other.grad is not None
        # In float32: transformers' norms know no other.
        assert (parameter.grad - other.grad).abs().max() < 1e-4 * other.grad.abs().max(), name


def test_only_wanted_logits_are_computed() -> None:
    lm = model("Llama", IMPLEMENTATION)
    rows: list[int] = []
    lm.get_submodule("lm_head").register_forward_hook(lambda _, __, output: rows.append(output.shape[1]))
    ids, layout = packed(TEXTS, SHARED)
    wanted = torch.tensor([4, 0, 9])
    with torch.no_grad():
        found = run(lm, ids, layout.positions(), layout, wanted)
        everything = whole(lm, TEXTS, SHARED)
    assert rows[0] == 3
    assert torch.allclose(found, everything[wanted], atol=1e-5)


@pytest.mark.parametrize("beginning", [0, SHARED])
def test_flash_attention_is_told_the_same(monkeypatch: pytest.MonkeyPatch, beginning: int) -> None:
    """A stand-in with flash-attn's contract: queries are aligned with the last keys of their text."""

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
    ids, layout = packed(TEXTS, beginning)
    by_flash = PackedSequences(layout.beginning, layout.lengths, flash=True)
    with torch.no_grad():
        found = run(lm, ids, by_flash.positions(), by_flash, torch.arange(len(ids)))
        wanted = whole(lm, TEXTS, beginning)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_lms_that_cannot_are_refused() -> None:
    torch.manual_seed(0)
    sizes = {**GROUPED, "head_dim": 8}
    soft = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**sizes, attn_implementation=IMPLEMENTATION))
    with pytest.raises(ConfigError, match=r"softcap.*choose a Llama-like causal LM in model\.base"):
        whole(soft, TEXTS, 0)
    bloom = transformers.BloomConfig(vocab_size=50, hidden_size=32, n_layer=2, n_head=4)
    with pytest.raises((UserError, TypeError, ValueError)):
        whole(transformers.BloomForCausalLM(bloom), TEXTS, 0)
    with pytest.raises(UserError, match="sees 32 tokens only"):
        whole(model("Mistral", IMPLEMENTATION), [list(range(40))], 0)


@pytest.mark.parametrize("beginning", [0, SHARED])
def test_texts_within_a_sliding_window_may_lie_end_to_end_beyond_it(beginning: int) -> None:
    """Mistral's window of 32 is each text's own: 32 + 20 + 11 tokens give what each gives alone."""
    shared = [5, 6, 7]
    texts = [shared + [(7 * place + size) % 50 for place in range(size - 3)] for size in (32, 20, 11)]
    with torch.no_grad():
        found = whole(model("Mistral", IMPLEMENTATION), texts, beginning)
        wanted = alone(model("Mistral", "sdpa"), texts, beginning)
        assert torch.allclose(found, wanted, atol=1e-5)
        with pytest.raises(UserError, match="sees 32 tokens only: lower prompt"):
            whole(model("Mistral", IMPLEMENTATION), [*texts, [*texts[0], 1]], beginning)


@torch.inference_mode()
def test_a_text_read_in_steps_beyond_a_sliding_window_is_refused() -> None:
    """Also where no step is so long, and where only a continuation would be."""
    lm, text = model("Mistral", IMPLEMENTATION), [(7 * place) % 50 for place in range(40)]
    memory, other = KVCache(), KVCache()
    read(lm, [memory, other], [text[:20], text[:5]])
    found = read(lm, [memory], [text[20:32]])
    alone = model("Mistral", "sdpa")(input_ids=torch.tensor([text[:32]])).logits[0, -1:]
    assert torch.allclose(found, alone, atol=1e-5)
    with pytest.raises(UserError, match="sees 32 tokens only"):
        read(lm, [memory, other], [text[32:33], text[5:6]])
    assert (memory.length, other.length) == (32, 5)
    tree = TreeLayout([other], [[-1, *range(26)]])
    run(lm, torch.tensor(text[:27]), tree.positions(), tree, torch.tensor([26]))
    deeper = TreeLayout([other], [[-1, *range(27)]])
    with pytest.raises(UserError, match="sees 32 tokens only"):
        run(lm, torch.tensor(text[:28]), deeper.positions(), deeper, torch.tensor([27]))


@torch.inference_mode()
def test_texts_that_are_longer_than_the_lm_knows_positions_are_refused() -> None:
    """64 of them; rotary positions would go on without an error."""
    lm, memory = model("Llama", IMPLEMENTATION), KVCache()
    whole(lm, [list(range(40)), list(range(40))], 0)
    read(lm, [memory], [[3] * 60])
    read(lm, [memory], [[3] * 4])
    with pytest.raises(UserError, match=r"65 tokens, but the LM \(llama\) knows 64 positions: lower prompt"):
        read(lm, [memory], [[3]])


def test_rows_without_a_layout_are_refused() -> None:
    """Some may be padded, and nothing would mask that."""
    lm = model("Llama", IMPLEMENTATION)
    with pytest.raises(ValueError, match="2 rows of texts"):
        lm(input_ids=torch.ones(2, 4, dtype=torch.long))
