"""The base LM and its low-rank adapter (LoRA): load, add, save, load again. PEFT's formats, nothing of ours in them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import is_bitsandbytes_available, is_flash_attn_2_available

from lmrc.common.errors import ConfigError, UserError
from lmrc.config.schema import LoraOptions, Quantization, ResolvedPrecision
from lmrc.pretrained.weights import load_model
from lmrc.rc.model.adapter import adapter_base, check_adapter
from lmrc.training.distributed import say

DTYPES: dict[ResolvedPrecision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


_say_once = functools.cache(say)


def attention_kernel(wanted: str) -> str:
    """The attention implementation that runs here: sdpa in place of flash_attention_2 without flash-attn or CUDA."""
    if wanted == "flash_attention_2" and not is_flash_attn_2_available():
        _say_once("attention: flash_attention_2 needs CUDA and the package flash-attn; using sdpa")
        return "sdpa"
    return wanted


def resolve(name: str) -> str:
    """The folder of an `embedded:` model; any other name as it is."""
    from lmrc.pretrained import packaged as embedded

    return embedded.resolve(name)


def own_gpus(count: int = 1) -> list[torch.device]:
    """The GPUs of this process; none on a machine without. Raises ConfigError where it has fewer than `count`."""
    if not torch.cuda.is_available():
        return []
    first, there = torch.cuda.current_device(), torch.cuda.device_count()
    if first + count > there:
        # Not in the pre-flight: GPUs are counted on the node.
        raise ConfigError(f"the LM shall lie on {count} GPUs, but this process has {there - first}: ask for as many")
    return [torch.device("cuda", first + number) for number in range(count)]


def load_base(
    name: str,
    attn_implementation: str,
    precision: ResolvedPrecision,
    quantization: Quantization | None = None,
    devices: Sequence[torch.device] = (),
) -> PreTrainedModel:
    """The frozen causal LM `name`: a folder, a hub name, or an `embedded:` one; on the CPU without `devices`.

    With one the files are read straight onto it, so that a node keeps them once, in its page cache; under ZeRO-3 see
    `lmrc.training.backends.factory.loading`. Of several, each holds some of the layers (accelerate's `device_map="auto"`).

    Raises ConfigError where there is no such model, it cannot be quantized here or does not fit, UserError where its
    weights are not those of its config.
    """
    folder = resolve(name)
    options: dict[str, Any] = {"dtype": DTYPES[precision], "attn_implementation": attention_kernel(attn_implementation)}
    if len(devices) == 1 and not is_deepspeed_zero3_enabled():
        options["device_map"] = {"": devices[0]}
    elif devices and not is_deepspeed_zero3_enabled():
        free = {device.index: torch.cuda.mem_get_info(device)[0] for device in devices}
        options |= {"device_map": "auto", "max_memory": free}
    if quantization is not None:
        options["quantization_config"] = quantized(quantization)
    try:
        model = load_model(AutoModelForCausalLM, folder, f"causal LM {name}", **options)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise _not_loaded("causal LM", name, error) from error
    except torch.OutOfMemoryError as error:
        raise _too_large(name, devices) from error
    if len(devices) > 1 and not {"cpu", "disk"}.isdisjoint(model.hf_device_map.values()):
        raise _too_large(name, devices)
    # Sampling and penalties that a model brings along would change what "greedy" means.
    model.generation_config = GenerationConfig()
    model.requires_grad_(False)
    return model


def quantized(quantization: Quantization) -> BitsAndBytesConfig:
    """8bit: LLM.int8; 4bit: NF4 with products in bf16 and constants quantized too, as QLoRA has it.

    Raises ConfigError where bitsandbytes is missing, there is no GPU, or the model shall be sharded by ZeRO-3.
    """
    why = None
    if not is_bitsandbytes_available():
        why = "the package bitsandbytes and a GPU are needed"
    elif is_deepspeed_zero3_enabled():
        why = "ZeRO-3 shards no quantized weights"
    if why:
        raise ConfigError(f"model.quantization is {quantization}, but {why}: choose none, or mend that")
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of `name`; where it has no padding token, the end of sequence serves (batches have masks).

    Raises ConfigError where there is none, UserError where it has no end of sequence.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(name))
    except (OSError, ValueError) as error:
        raise _not_loaded("tokenizer", name, error) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {name} has no end-of-sequence token, which ends an answer: set its eos_token"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _not_loaded(what: str, name: str, error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    # Not in the pre-flight: the files are read at the start; the pre-flight looks for them.
    return ConfigError(
        f"no {what} could be loaded from {name!r} ({reason}): give a folder with a transformers model, a name on the "
        "hub that this machine can reach, or embedded:smollm2"
    )


def _too_large(name: str, devices: Sequence[torch.device]) -> ConfigError:
    # Not in the pre-flight: the memory of a GPU is known on the node; the pre-flight estimates it.
    return ConfigError(
        f"{name} does not fit {len(devices)} GPU{'s' if len(devices) > 1 else ''}: answer with more of them "
        "(decode.gpus_per_worker, or --gpus of lmrc extract), train with more (ZeRO-3 shards the base), or choose a "
        "smaller or quantized one"
    )


def add_adapter(model: PreTrainedModel, options: LoraOptions, base_name: str, seed: int) -> PeftModel:
    """The model with a new adapter on `options.targets`; the adapter is float32 and alone is trained.

    `base_name` is what adapter_config.json will name as the base. The same `seed` gives the same adapter.

    Raises UserError where a target is no linear layer of the model.
    """
    linear = {path.rsplit(".", 1)[-1] for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    missing = [target for target in options.targets if target not in linear]
    if missing:
        raise UserError(
            f"lora.targets: {', '.join(missing)} not among the linear layers of {base_name}, "
            f"which are {', '.join(sorted(linear - {'lm_head'}))}"
        )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=list(options.targets),
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    return adapted


def save_adapter(model: PeftModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json; `weights` by the names of `model.named_parameters()`.

    Raises ValueError where a weight is missing or has another shape than the model's (as sharded weights would).
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            shape = getattr(parameter, "ds_shape", parameter.shape)
            if name not in weights or weights[name].shape != shape:
                got = tuple(weights[name].shape) if name in weights else "nothing"
                raise ValueError(f"adapter weight {name}: expected shape {tuple(shape)}, got {got}")
    folder.mkdir(parents=True, exist_ok=True)
    # Never ask the hub or the base whether its vocabulary was resized: embeddings are not adapted.
    state = get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    temporary = folder / "adapter_model.safetensors.tmp"
    # save_file would make it unreadable for the rest of the group.
    temporary.write_bytes(save({name: tensor.contiguous() for name, tensor in state.items()}, {"format": "pt"}))
    temporary.rename(folder / "adapter_model.safetensors")
    config = model.peft_config["default"]
    training, config.inference_mode = config.inference_mode, True
    config.save_pretrained(str(folder))
    config.inference_mode = training


def load_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Return the base with a trained adapter, for inference. Raises UserError if the adapter does not fit the base."""
    check_adapter(folder, adapter_base(folder), base.config)
    return PeftModel.from_pretrained(base, str(folder)).eval()
