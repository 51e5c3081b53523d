"""Tests of an LM whose layers are on several devices."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lmrc.common.errors import ConfigError
from lmrc.rc.model import lora
from lmrc.rc.model.kv_cache import KVCache, KVPool, TreeLayout, extend_caches
from lmrc.rc.model.lora import load_base
from lmrc.rc.model.packed_attention import IMPLEMENTATION, PackedSequences, packed_forward
from tests.integration.devices import Devices, spread
from tests.rc import tiny

TWO = {
    "model.embed_tokens": "cuda:0",
    "model.rotary_emb": "cuda:0",
    "model.layers.0": "cuda:0",
    "model.layers.1": "cuda:1",
    "model.norm": "cuda:1",
    "lm_head": "cuda:1",
}
TEXTS = [[5, 6, 7, 8, 9], [10, 11, 12]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny random causal LM with its tokenizer."""
    return tiny.save_base(tmp_path_factory.mktemp("base"))


@torch.inference_mode()
def packed(model: nn.Module) -> Tensor:
    """Return the logits at the ends of two texts that share a prefix."""
    layout = PackedSequences(2, [4, 3])
    device = next(model.parameters()).device
    ids = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 9], device=device)
    return packed_forward(model, ids, layout.positions().to(device), layout, torch.tensor([5, 8], device=device))


@torch.inference_mode()
def step_by_step(model: nn.Module) -> Tensor:
    """Return the same logits, computed in two steps from a KV cache of the prefix."""
    pool = KVPool()
    prefix = KVCache(pool)
    extend_caches(model, [prefix], [[1, 2, 3]])
    caches = [KVCache(pool, prefix), KVCache(pool, prefix)]
    first = extend_caches(model, caches, TEXTS)
    return torch.cat([first, extend_caches(model, caches, [[13], [14, 15, 16]])])


@torch.inference_mode()
def branches(model: nn.Module) -> Tensor:
    """Return the logits of a tree of continuations."""
    cache = KVCache(KVPool())
    extend_caches(model, [cache], [[1, 2, 3]])
    layout = TreeLayout([cache], [[-1, 0, 0, 2]])
    device = next(model.parameters()).device
    positions = layout.positions().to(device)
    ids = torch.tensor([4, 5, 6, 7], device=device)
    return packed_forward(model, ids, positions, layout, torch.arange(4, device=device))


@pytest.mark.parametrize("logits_of", [packed, step_by_step, branches])
def test_two_devices_give_what_one_gives(
    base: Path, monkeypatch: pytest.MonkeyPatch, logits_of: Callable[[nn.Module], Tensor]
) -> None:
    """Masks, keys and values are on the device of the layer that asks for them."""
    plain = load_base(str(base), IMPLEMENTATION, "fp32")
    expected = logits_of(plain)
    with Devices():
        both = spread(copy.deepcopy(plain), TWO, monkeypatch)
        found = logits_of(both)
    devices = {name.rpartition(".layers.")[2][0]: p.place for name, p in both.named_parameters() if ".layers." in name}  # type: ignore[attr-defined]
    assert devices == {"0": torch.device("cuda:0"), "1": torch.device("cuda:1")}
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_devices_of_these_tests_refuse_what_gpus_would() -> None:
    with Devices():
        first, second = torch.ones(2, device="cuda:0"), torch.ones(2, device="cuda:1")
        with pytest.raises(RuntimeError, match="same device"):
            first + second
        assert (first.to("cuda:1") + second).device == torch.device("cuda:1")
        with pytest.raises(RuntimeError, match="same device"):
            first[torch.tensor([1], device="cuda:1")]


def test_layers_on_the_disk(base: Path) -> None:
    """accelerate's hooks for real: the second layer is read from its file at each pass."""
    plain = load_base(str(base), IMPLEMENTATION, "fp32")
    partly = AutoModelForCausalLM.from_pretrained(
        base, attn_implementation=IMPLEMENTATION, dtype=torch.float32, device_map="auto", max_memory={"cpu": "200KB"}
    ).eval()
    assert set(partly.hf_device_map.values()) == {"cpu", "disk"}
    for logits_of in (packed, step_by_step, branches):
        torch.testing.assert_close(logits_of(partly), logits_of(plain), rtol=0, atol=0)


def asked_for(monkeypatch: pytest.MonkeyPatch, base: Path, devices: int, **outcome: Any) -> dict[str, Any]:
    """What transformers is told when a base is loaded on GPUs with 10, 20 … bytes of memory."""
    told: dict[str, Any] = {}

    def load_model(factory: type, folder: str, name: str, **options: Any) -> nn.Module:
        told.update(options)
        model = nn.Linear(1, 1)
        model.hf_device_map = outcome.get("hf_device_map", {"": 0})  # type: ignore[assignment]
        return model

    monkeypatch.setattr(lora, "load_model", load_model)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * (device.index + 1), 1000))
    load_base(str(base), "sdpa", "fp32", None, [torch.device("cuda", index) for index in range(devices)])
    return told


def test_layers_are_spread_over_the_gpus_of_the_process_alone(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "device_map" not in asked_for(monkeypatch, base, 0)
    assert asked_for(monkeypatch, base, 1)["device_map"] == {"": torch.device("cuda:0")}
    told = asked_for(monkeypatch, base, 3, hf_device_map={"a": 0, "b": 1, "c": 2})
    assert (told["device_map"], told["max_memory"]) == ("auto", {0: 10, 1: 20, 2: 30})


@pytest.mark.parametrize("rest", ["cpu", "disk"])
def test_an_lm_that_does_not_fit_its_gpus_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch, rest: str) -> None:
    with pytest.raises(ConfigError, match=r"does not fit 2 GPUs: for inference, give more \(decode\.gpus_per_worker"):
        asked_for(monkeypatch, base, 2, hf_device_map={"a": 0, "b": 1, "c": rest})


def test_the_gpus_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lora.own_gpus() == []
    monkeypatch.setattr(
        torch, "cuda", SimpleNamespace(is_available=lambda: True, current_device=lambda: 1, device_count=lambda: 4)
    )
    assert lora.own_gpus(2) == [torch.device("cuda:1"), torch.device("cuda:2")]
    with pytest.raises(ConfigError, match=r"needs 4 GPUs .* but this process has 3"):
        lora.own_gpus(4)
