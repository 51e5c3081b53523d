"""LoRA adapters on disk, and the check that their weights fit a base model, without loading the base."""

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
# Prefix that PEFT adds to the names of the base's weights.
_PREFIX = "base_model.model."
_REMEDY = "give the adapter that was trained on this base, or name the right base in adapter_config.json"

# Shape of each weight by its name.
Shapes = dict[str, tuple[int, ...]]


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def read_adapter_config(folder: Path) -> LoraConfig:
    """Read adapter_config.json.

    Raises:
        UserError: if `folder` holds no adapter, or one of another type than LoRA.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} holds no adapter ({CONFIG}, {WEIGHTS}): train one with launch/rc.py")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / CONFIG} is damaged ({first_line(error)}): export the adapter again") from error
    if not isinstance(config, LoraConfig):
        raise UserError(f"{folder} is a {config.peft_type} adapter: give a LoRA adapter, as trained by launch/rc.py")
    return config


def adapter_base(folder: Path) -> str:
    """Return the name of the base model that an adapter was trained on.

    Raises:
        UserError: if `folder` holds no adapter, or its config does not name the base.
    """
    name = read_adapter_config(folder).base_model_name_or_path
    if not name:
        raise UserError(f"{folder / CONFIG} does not name its base: set base_model_name_or_path")
    return str(name)


def adapter_rank(folder: Path) -> int:
    """Return the rank of the adapter in `folder`: the largest one, if its layers have several."""
    config = read_adapter_config(folder)
    return max([int(config.r), *map(int, (config.rank_pattern or {}).values())])


def check_adapter(folder: Path, base: str, config: PretrainedConfig | None = None) -> None:
    """Check that every weight of an adapter fits its base, by names and shapes.

    Without this check, PEFT skips weights that do not fit and runs the base without them. The base is built on the meta
    device, so this takes a second or two at any size.

    Args:
        base: the base model: a folder, a hub name or an embedded: name.
        config: the config of the base, if it is already loaded.

    Raises:
        UserError: if the adapter does not fit or is damaged, or the base has no config.
    """
    adapter = read_adapter_config(folder)
    # Otherwise PEFT warns that the model on the meta device has another name.
    adapter.base_model_name_or_path = None
    stored = _shapes(folder / WEIGHTS)
    config = copy.deepcopy(_config_of(base) if config is None else config)
    if hasattr(config, "quantization_config"):
        # Compare with the shapes of the unquantized weights.
        del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        of_base = {_PREFIX + name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        try:
            adapted = get_peft_model(model, adapter)
        except ValueError as error:
            raise UserError(f"{folder} does not fit its base {base} ({first_line(error)}): {_REMEDY}") from error
    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    # Adapters of other tools may also hold weights of the base, such as embeddings, as base_layer of an adapted layer.
    of_base |= {name: tuple(tensor.shape) for name, tensor in adapted.state_dict().items() if ".base_layer." in name}
    missing = sorted(expected.keys() - stored.keys())
    unknown = sorted(stored.keys() - expected.keys() - of_base.keys())
    if missing or unknown:
        raise UserError(
            f"{folder} does not fit its base {base}: of the {len(stored)} tensors in {WEIGHTS} "
            f"{len(stored) - len(unknown)} fit{_example('no layer has', unknown)}{_example('missing are', missing)}; "
            f"{_REMEDY}"
        )
    for name, shape in stored.items():
        expected_shape = (expected | of_base)[name]
        if shape == expected_shape:
            continue
        # The rank is the first dimension of lora_A, and the second of lora_B.
        axis = 0 if ".lora_A." in name else 1
        if ".lora_" in name and shape[axis] != expected_shape[axis]:
            raise UserError(
                f"{folder}: the rank of {name} is {shape[axis]} in {WEIGHTS}, but {expected_shape[axis]} by {CONFIG}: "
                "copy both files from the same training"
            )
        raise UserError(
            f"{folder} does not fit its base {base}: {name} is {list(shape)} in {WEIGHTS}, but this base needs "
            f"{list(expected_shape)}; {_REMEDY}"
        )


def _config_of(base: str) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(resolve(base))
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the base {base!r} of the adapter has no readable config ({first_line(error)}): give the right base, or "
            "its folder"
        ) from error


def _shapes(path: Path) -> Shapes:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error}): export the adapter again") from error


def _example(label: str, names: list[str]) -> str:
    """Return the number of names and the first of them, for a message."""
    return f", {label} {len(names)} ({names[0]}{', …' if len(names) > 1 else ''})" if names else ""
