"""Adapters on the disk, and whether their weights fit a base: asked without the weights of the base."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from lmrc.common.errors import ConfigError, UserError
from lmrc.pretrained.packaged import resolve

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
# PEFT puts it before the names of the base's own weights.
_PREFIX = "base_model.model."
_REMEDY = "give the adapter that was trained on this base, or name the right base in adapter_config.json"

Shapes = dict[str, tuple[int, ...]]


def read_adapter_config(folder: Path) -> LoraConfig:
    """Read adapter_config.json.

    Raises:
        UserError: if `folder` holds no adapter, or none that is a LoRA.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} holds no adapter ({CONFIG}, {WEIGHTS}): train one with launch/rc.py")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        line = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{folder / CONFIG} is damaged ({line[0]}): export the adapter again") from error
    if not isinstance(config, LoraConfig):
        raise UserError(f"{folder} is a {config.peft_type} adapter: give one of LoRA, as launch/rc.py trains it")
    return config


def adapter_base(folder: Path) -> str:
    """Return the name of the base that an adapter was trained on. Raises UserError if `folder` holds no adapter."""
    name = read_adapter_config(folder).base_model_name_or_path
    if not name:
        raise UserError(f"{folder / CONFIG} does not name its base: set base_model_name_or_path")
    return str(name)


def adapter_rank(folder: Path) -> int:
    """Return the rank of the adapter in `folder`."""
    return int(read_adapter_config(folder).r)


def check_adapter(folder: Path, base: str, config: PretrainedConfig | None = None) -> None:
    """Check that every weight of an adapter fits its base, by names and shapes alone.

    PEFT leaves out what does not fit, and answers as the base alone. Takes a second or two, whatever the size of the
    base: its layers are made on the meta device.

    Args:
        folder: the adapter.
        base: the name of the base: a folder, a hub or embedded: name.
        config: the config of the base, if it is known already.

    Raises:
        UserError: if the adapter does not fit or is damaged, or the base has no config.
    """
    adapter = read_adapter_config(folder)
    # PEFT would warn that the model on the meta device has another name.
    adapter.base_model_name_or_path = None
    found = _shapes(folder / WEIGHTS)
    config = copy.deepcopy(_config_of(base) if config is None else config)
    if hasattr(config, "quantization_config"):
        # The shapes that count are those of the whole weights.
        del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        names = {_PREFIX + name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        try:
            adapted = get_peft_model(model, adapter)
        except ValueError as error:
            line = str(error).strip().splitlines()[0]
            raise UserError(f"{folder} does not fit its base {base} ({line}): {_REMEDY}") from error
    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    # Adapters of others may also hold weights of the base, such as its embeddings, in an adapted layer as base_layer.
    inside = {name: tuple(tensor.shape) for name, tensor in adapted.state_dict().items() if ".base_layer." in name}
    own = names | inside
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys() - own.keys())
    if missing or unknown:
        raise UserError(
            f"{folder} does not fit its base {base}: of the {len(found)} tensors in {WEIGHTS} "
            f"{len(found) - len(unknown)} fit{_example('no layer has', unknown)}{_example('missing are', missing)}; "
            f"{_REMEDY}"
        )
    for name, shape in found.items():
        wanted = (expected | own)[name]
        if shape == wanted:
            continue
        # The rank is the first dimension of lora_A, and the second of lora_B.
        axis = 0 if ".lora_A." in name else 1
        if ".lora_" in name and shape[axis] != wanted[axis]:
            raise UserError(
                f"{folder}: the rank of {name} is {shape[axis]} in {WEIGHTS}, but {wanted[axis]} by {CONFIG}: "
                "copy both files from the same training"
            )
        raise UserError(
            f"{folder} does not fit its base {base}: {name} is {list(shape)} in {WEIGHTS}, but this base needs "
            f"{list(wanted)}; {_REMEDY}"
        )


def _config_of(base: str) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(resolve(base))
    except UserError:
        raise
    except (OSError, ValueError) as error:
        line = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(f"the base {base!r} of the adapter has no config that can be read ({line[0]})") from error


def _shapes(path: Path) -> Shapes:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error}): export the adapter again") from error


def _example(what: str, names: list[str]) -> str:
    return f", {what} {len(names)} ({names[0]}{', …' if len(names) > 1 else ''})" if names else ""
