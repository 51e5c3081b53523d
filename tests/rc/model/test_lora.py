from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import deepspeed
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lmrc.common.errors import ConfigError, UserError
from lmrc.config.schema import LoraOptions, RcTraining, ResolvedPrecision
from lmrc.rc.model import lora
from lmrc.rc.model.adapter import adapter_base
from lmrc.training.backends.factory import loading
from lmrc.training.distributed import World
from tests.rc import tiny
from tests.training.processes import run_in_processes


def adapted(base: Path, precision: ResolvedPrecision = "fp32", seed: int = 1) -> PeftModel:
    model = lora.load_base(str(base), "sdpa", precision)
    return lora.add_adapter(model, LoraOptions(r=4, alpha=8, dropout=0.0), str(base), seed)


def randomize(model: PeftModel) -> dict[str, torch.Tensor]:
    """Set the trained weights to random values: a new LoRA changes nothing, which would hide errors."""
    generator = torch.Generator().manual_seed(3)
    weights = {
        name: torch.randn(parameter.shape, generator=generator) * 0.3
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
    return weights


def test_only_the_adapter_is_trainable_and_float32(base: Path) -> None:
    model = adapted(base, "bf16")
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)
    # 2 layers of 7 projections, with two matrices each.
    assert sum(parameter.requires_grad for parameter in model.parameters()) == 28


def test_same_seed_gives_the_same_adapter(base: Path) -> None:
    state = torch.random.get_rng_state()
    weights = [
        {name: p.detach().clone() for name, p in adapted(base, seed=seed).named_parameters() if "lora_A" in name}
        for seed in (1, 1, 2)
    ]
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not any(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_saved_adapter_loads_with_peft_alone(base: Path, tmp_path: Path) -> None:
    model = adapted(base).eval()
    weights = randomize(model)
    lora.save_adapter(model, weights, tmp_path)
    ids = torch.arange(20)[None]
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, model(ids).logits)
        assert not torch.allclose(plain(ids).logits, lora.load_base(str(base), "sdpa", "fp32")(ids).logits, atol=1e-2)
    assert adapter_base(tmp_path) == str(base)
    loaded = lora.load_adapter(lora.load_base(str(base), "sdpa", "fp32"), tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_saved_files_hold_only_the_given_weights(base: Path, tmp_path: Path) -> None:
    model = adapted(base)
    weights = {name: torch.full_like(value, 7.0) for name, value in randomize(model).items()}
    lora.save_adapter(model, weights, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert len(saved) == 28
    modes = {path.stat().st_mode for path in tmp_path.iterdir() if path.suffix in (".json", ".safetensors")}
    assert len(modes) == 1  # The weights have the same permissions as the config.
    assert all((tensor == 7.0).all() and tensor.dtype == torch.float32 for tensor in saved.values())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (4, 8, True)
    assert not model.peft_config["default"].inference_mode
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".md") == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.mark.parametrize("missing", [True, False])
def test_missing_or_sharded_weights_are_not_written(base: Path, tmp_path: Path, missing: bool) -> None:
    model = adapted(base)
    weights = randomize(model)
    name = next(iter(weights))
    if missing:
        del weights[name]
    else:
        weights[name] = torch.empty(0)
    with pytest.raises(ValueError, match=r"adapter weight .* expected shape"):
        lora.save_adapter(model, weights, tmp_path)
    assert not (tmp_path / "adapter_model.safetensors").exists()


def test_message_for_an_unknown_target_lists_the_linear_layers(base: Path) -> None:
    model = lora.load_base(str(base), "sdpa", "fp32")
    with pytest.raises(UserError, match=r"c_attn not among the linear layers .* down_proj, gate_proj, k_proj, o_proj"):
        lora.add_adapter(model, LoraOptions(targets=("q_proj", "c_attn")), str(base), 0)


def test_message_for_a_missing_model_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no causal LM could be loaded from .*nowhere.* give a folder"):
        lora.load_base(str(tmp_path / "nowhere"), "sdpa", "fp32")
    with pytest.raises(ConfigError, match="no tokenizer could be loaded"):
        lora.load_tokenizer(str(tmp_path / "nowhere"))


def test_folder_without_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no adapter"):
        adapter_base(tmp_path)


def test_sampling_options_of_the_base_are_removed(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    model.generation_config.update(do_sample=True, temperature=0.6, repetition_penalty=1.5)
    model.save_pretrained(tmp_path)
    loaded = lora.load_base(str(tmp_path), "sdpa", "fp32")
    assert not loaded.generation_config.do_sample
    assert loaded.generation_config.repetition_penalty in (None, 1.0)


def save_shard(world: World, out: Path) -> None:
    """Load a base under ZeRO-3 and save the sizes of this rank's shards and the gathered weights."""
    options = RcTraining(zero_stage=3)
    with loading(options, world):
        model = lora.load_base("embedded:tiny-llm", "sdpa", "fp32")
        half = lora.load_base("embedded:tiny-llm", "sdpa", "bf16")
        lora.load_base(str(out / "tied"), "sdpa", "fp32")
        # All ranks compare names with the file; only the first rank reads the weights.
        with pytest.raises(UserError, match=r"3 are missing \(model\.layers\.1\.mlp"):
            lora.load_base(str(out / "incomplete"), "sdpa", "fp32")
        with pytest.raises(UserError, match="size mismatch") if world.is_first else contextlib.nullcontext():
            lora.load_base(str(out / "other"), "sdpa", "fp32")
    local = [parameter.numel() for parameter in model.parameters()]
    shards = [parameter.ds_tensor.numel() for parameter in model.parameters()]
    gathered = {}
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            gathered[name] = parameter.detach().clone()
    for name, parameter in half.named_parameters():
        assert parameter.dtype == parameter.ds_tensor.dtype == torch.bfloat16, name
    torch.save((local, shards, gathered, dict(half.named_buffers())), out / f"{world.rank}.pt")


@pytest.mark.slow
def test_base_is_sharded_while_loading(tmp_path: Path) -> None:
    base = tiny.save_base(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    changes: dict[str, tuple[str, dict[str, object]]] = {
        "tied": ("lm_head", {"tie_word_embeddings": True}),
        "incomplete": ("layers.1.mlp", {}),
        "other": ("nothing", {"intermediate_size": 80}),
    }
    for name, (removed, options) in changes.items():
        folder = Path(shutil.copytree(base, tmp_path / name))
        (folder / "config.json").write_text(json.dumps({**config, **options}))
        kept = {name: tensor for name, tensor in weights.items() if removed not in name}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
    run_in_processes(2, save_shard, tmp_path)
    plain = dict(lora.load_base("embedded:tiny-llm", "sdpa", "fp32").named_parameters())
    plain_buffers = dict(lora.load_base("embedded:tiny-llm", "sdpa", "bf16").named_buffers())
    frequencies = next(buffer for name, buffer in plain_buffers.items() if name.endswith("rotary_emb.inv_freq"))
    assert frequencies.dtype == torch.float32
    for rank in (0, 1):
        local, shards, gathered, buffers = torch.load(tmp_path / f"{rank}.pt")
        assert buffers.keys() == plain_buffers.keys()
        for name, buffer in plain_buffers.items():
            assert buffers[name].dtype == buffer.dtype and torch.equal(buffers[name], buffer), name
        assert not any(local)
        total = sum(parameter.numel() for parameter in plain.values())
        assert total / 2 <= sum(shards) < total / 2 + len(shards)
        assert all(torch.equal(gathered[name], parameter) for name, parameter in plain.items())


def test_quantization_needs_bitsandbytes_and_no_zero_3(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"model\.quantization is 4bit, but the package bitsandbytes"):
        lora.load_base(str(base), "sdpa", "bf16", "4bit")
    monkeypatch.setattr(lora, "is_bitsandbytes_available", lambda: True)
    four, eight = lora.quantized("4bit"), lora.quantized("8bit")
    assert four.load_in_4bit and four.bnb_4bit_quant_type == "nf4" and four.bnb_4bit_compute_dtype == torch.bfloat16
    assert eight.load_in_8bit and not eight.load_in_4bit
    monkeypatch.setattr(lora, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ConfigError, match="ZeRO-3 cannot shard quantized weights"):
        lora.quantized("4bit")
