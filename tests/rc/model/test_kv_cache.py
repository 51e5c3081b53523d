"""KV caches of a pool, compared with forward passes over whole sequences."""

from __future__ import annotations

import gc
import random

import pytest
import torch

from lmrc.rc.model import kv_cache
from lmrc.rc.model.kv_cache import KVCache, KVPool, PrefixCache, extend_caches
from lmrc.rc.model.packed_attention import IMPLEMENTATION
from tests.kernels.fakes import fake_kernel
from tests.rc.model.test_packed_attention import model


@torch.inference_mode()
def last_logits(name: str, text: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(name, "sdpa")(input_ids=torch.tensor([text])).logits[0, -1]
    return logits


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_passes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences begin, end and grow, alone or together, with and without a shared prefix."""
    monkeypatch.setattr(kv_cache, "_MIN_SPARE", 2)  # Regions move often.
    generator = random.Random(seed)
    name = generator.choice(["Llama", "GPT-NeoX"])
    lm, pool, prefix_ids = model(name, IMPLEMENTATION), KVPool(), [4, 9, 2]
    prefix = KVCache(pool)
    extend_caches(lm, [prefix], [prefix_ids])
    live: list[tuple[KVCache, list[int]]] = []
    for _ in range(25):
        if not live or generator.random() < 0.4:
            shared = generator.random() < 0.5
            live.append((KVCache(pool, prefix), [*prefix_ids]) if shared else (KVCache(pool), []))
        chosen = generator.sample(live, generator.randint(1, len(live)))
        new = [[generator.randrange(50) for _ in range(generator.choice([1, 1, 2, 7]))] for _ in chosen]
        logits = extend_caches(lm, [cache for cache, _ in chosen], new)
        for row, ((cache, text), ids) in enumerate(zip(chosen, new, strict=True)):
            text += ids
            assert cache.length == len(text)
            torch.testing.assert_close(logits[row], last_logits(name, text), rtol=0, atol=2e-5)
        live = [pair for pair in live if len(pair[1]) < 40 and generator.random() < 0.9]
        del chosen, cache


def test_a_finished_sequence_makes_room() -> None:
    lm, pool = model("Llama", IMPLEMENTATION), KVPool()
    caches = [KVCache(pool) for _ in range(3)]
    extend_caches(lm, caches, [[3] * 20, [4] * 30, [5] * 10])
    buffers = pool.get(0)
    assert buffers is not None
    start = caches[1].start
    del caches[1]
    gc.collect()
    late = KVCache(pool)
    extend_caches(lm, [late, *caches], [[6] * 25, [1], [1]])
    assert late.start == start
    assert pool.get(0) is buffers


@pytest.mark.parametrize("kernel", ["flash-attn", "torch varlen_attn"])
def test_one_call_per_layer(kernel: str) -> None:
    """With rows of different lengths, gaps between them and grouped heads."""
    lm, pool = model("Llama", IMPLEMENTATION).bfloat16(), KVPool()
    texts = [[7, 8, 9, 10], [11, 12], [13, 14, 15, 16, 17, 18]]
    new = [[1], [2, 3, 4], [5]]
    with fake_kernel(kernel) as calls:
        caches = [KVCache(pool) for _ in texts]
        extend_caches(lm, caches[::-1], texts[::-1])
        assert len(calls) == 2
        actual = extend_caches(lm, caches, new)
        assert len(calls) == 4
    for row, (text, ids) in enumerate(zip(texts, new, strict=True)):
        torch.testing.assert_close(actual[row].float(), last_logits("Llama", text + ids), rtol=0.1, atol=0.1)


def test_a_cleared_prefix_is_computed_again() -> None:
    lm, prefix_cache = model("Llama", IMPLEMENTATION), PrefixCache([4, 9, 2])
    cache, suffix = prefix_cache.lookup(lm, [4, 9, 2, 8, 8])
    assert (cache.length, list(suffix)) == (3, [8, 8])
    expected = extend_caches(lm, [cache], [suffix])
    prefix_cache.clear()
    again, _ = prefix_cache.lookup(lm, [4, 9, 2, 8, 8])
    assert again.pool is not cache.pool
    torch.testing.assert_close(extend_caches(lm, [again], [suffix]), expected)
