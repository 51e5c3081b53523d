"""Loading of the base LM, and creating, saving and loading of its LoRA adapter, in the file formats of PEFT."""

from __future__ import annotations

import logging
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
from transformers.utils import is_bitsandbytes_available

from lmrc.common.errors import ConfigError, UserError
from lmrc.config.schema import LoraOptions, Quantization, ResolvedPrecision
from lmrc.pretrained.packaged import resolve
from lmrc.pretrained.weights import load_model
from lmrc.rc.model.adapter import adapter_base, check_adapter, first_line

logger = logging.getLogger(__name__)

DTYPES: dict[ResolvedPrecision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def own_gpus(count: int = 1) -> list[torch.device]:
    """Return the GPUs of this process; an empty list without CUDA.

    Raises:
        ConfigError: if the process has fewer than `count` GPUs.
    """
    if not torch.cuda.is_available():
        return []
    first, available = torch.cuda.current_device(), torch.cuda.device_count()
    if first + count > available:
        # Not in the pre-flight: GPUs are counted on the node.
        raise ConfigError(
            f"the model needs {count} GPUs (decode.gpus_per_worker), but this process has {available - first}: "
            "raise --gpus"
        )
    return [torch.device("cuda", first + index) for index in range(count)]


def load_base(
    name: str,
    attn_implementation: str,
    precision: ResolvedPrecision,
    quantization: Quantization | None = None,
    devices: Sequence[torch.device] = (),
) -> PreTrainedModel:
    """Load a causal LM and freeze its weights.

    Under ZeRO-3 the weights are sharded, and `devices` is ignored (`lmrc.training.backends.factory.loading`).

    Args:
        name: a folder, a hub name or an embedded: name.
        quantization: 8bit or 4bit; by default none.
        devices: none loads onto the CPU. One loads the files directly onto it, so that a node has them in memory only
            once, in its page cache. Several share the layers (accelerate's `device_map="auto"`).

    Raises:
        ConfigError: if there is no such model, it cannot be quantized on this machine, or it does not fit the devices.
        UserError: if its weights do not match its config.
    """
    folder = resolve(name)
    options: dict[str, Any] = {"dtype": DTYPES[precision], "attn_implementation": attn_implementation}
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
    # Remove the sampling options and penalties of the model, which would also apply to greedy decoding.
    model.generation_config = GenerationConfig()
    model.requires_grad_(False)
    return model


def quantized(quantization: Quantization) -> BitsAndBytesConfig:
    """Return the bitsandbytes config: for 8bit LLM.int8; for 4bit NF4, double quantization and bf16 compute (QLoRA).

    Raises:
        ConfigError: if bitsandbytes or a GPU is missing, or ZeRO-3 is on.
    """
    reason = None
    if not is_bitsandbytes_available():
        reason = "the package bitsandbytes and a GPU are needed"
    elif is_deepspeed_zero3_enabled():
        reason = "ZeRO-3 cannot shard quantized weights"
    if reason:
        raise ConfigError(f"model.quantization is {quantization}, but {reason}: choose none, or fix that")
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer. If it has no padding token, the end of sequence is used for padding.

    Raises:
        ConfigError: if there is none.
        UserError: if it has no end-of-sequence token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(name))
    except (OSError, ValueError) as error:
        raise _not_loaded("tokenizer", name, error) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {name} has no end-of-sequence token, which must end an answer: set its eos_token"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _not_loaded(part: str, name: str, error: Exception) -> ConfigError:
    # Not in the pre-flight: the files are read at the start; the pre-flight looks for them.
    return ConfigError(
        f"no {part} could be loaded from {name!r} ({first_line(error)}): give a folder with a transformers model, a "
        "name on the hub that this machine can reach, or embedded:smollm2"
    )


def _too_large(name: str, devices: Sequence[torch.device]) -> ConfigError:
    # Not in the pre-flight: the memory of a GPU is known on the node; the pre-flight estimates it.
    return ConfigError(
        f"{name} does not fit {len(devices)} GPU{'s' if len(devices) > 1 else ''}: for inference, give more "
        "(decode.gpus_per_worker, or --gpus of lmrc extract); for training, give more (ZeRO-3 shards the base); or "
        "choose a smaller or quantized model"
    )


def add_adapter(model: PreTrainedModel, options: LoraOptions, base_name: str, seed: int) -> PeftModel:
    """Add a new LoRA adapter to the model. Only the adapter is trained, in float32.

    Args:
        base_name: the name of the base in adapter_config.json.

    Raises:
        UserError: if a target is not a linear layer of the model.
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
    """Write adapter_model.safetensors and adapter_config.json.

    Args:
        weights: weights of the adapter, by the names of `model.named_parameters()`.
        folder: folder to write to; created if missing.

    Raises:
        ValueError: if a weight is missing or has another shape than in the model, as a sharded weight would.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            shape = getattr(parameter, "ds_shape", parameter.shape)
            if name not in weights or weights[name].shape != shape:
                given = tuple(weights[name].shape) if name in weights else "nothing"
                raise ValueError(f"adapter weight {name}: expected shape {tuple(shape)}, got {given}")
    folder.mkdir(parents=True, exist_ok=True)
    # Embeddings are not adapted. Without this, PEFT would look up on the hub whether the vocabulary was resized.
    state = get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    temporary = folder / "adapter_model.safetensors.tmp"
    # Not save_file: it writes files that only their owner can read.
    temporary.write_bytes(save({name: tensor.contiguous() for name, tensor in state.items()}, {"format": "pt"}))
    temporary.rename(folder / "adapter_model.safetensors")
    config = model.peft_config["default"]
    training, config.inference_mode = config.inference_mode, True
    config.save_pretrained(str(folder))
    config.inference_mode = training


def load_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Load a trained adapter into the base, for inference.

    Raises:
        UserError: if the adapter does not fit the base.
    """
    check_adapter(folder, adapter_base(folder), base.config)
    return PeftModel.from_pretrained(base, str(folder)).eval()
