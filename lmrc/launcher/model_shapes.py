"""Model shapes without weights: the config, and exact parameter counts from the meta device."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.request import Request, urlopen

import yaml

from lmrc.common.errors import UserError
from lmrc.config.schema import LoraOptions

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

Kind = Literal["encoder", "causal"]

# Configs by the name of the model.
KNOWN_CONFIGS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("known_models.yaml").read_text())
HUB_TIMEOUT_SECONDS = 3.0


class UnknownShape(Exception):
    """The model's config cannot be read on this machine."""


@dataclass(frozen=True)
class LoraShape:
    """LoRA on a model: total number of parameters, and the input width of each adapted layer."""

    parameters: int
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class ModelShape:
    """A model on the meta device, and the sizes in its config that determine memory."""

    model: nn.Module
    config: PretrainedConfig
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        """Return the number of parameters. Tied parameters count once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def linear_parameters(self) -> int:
        """Return the number of parameters in linear layers, of which autocast keeps bf16 copies."""
        from torch import nn

        linear = (module for module in self.model.modules() if isinstance(module, nn.Linear))
        return sum(parameter.numel() for module in linear for parameter in module.parameters())

    def lora_shape(self, options: LoraOptions) -> LoraShape:
        """Return the LoRA parameters on this model: matrices [r, in] and [out, r] per target.

        Raises:
            UserError: a target is not a linear layer of the model.
        """
        from torch import nn

        linear = [
            (path.rsplit(".", 1)[-1], module)
            for path, module in self.model.named_modules()
            if isinstance(module, nn.Linear)
        ]
        missing = sorted(set(options.targets) - {name for name, _ in linear})
        if missing:
            raise UserError(
                f"lora.targets: {', '.join(missing)} not among the linear layers of the base, which are "
                f"{', '.join(sorted({name for name, _ in linear} - {'lm_head'}))}"
            )
        targets = [module for name, module in linear if name in options.targets]
        return LoraShape(
            parameters=sum(options.r * (module.in_features + module.out_features) for module in targets),
            inputs=tuple(module.in_features for module in targets),
        )


def load_model_shape(name: str, kind: Kind) -> ModelShape:
    """Build a model without weights on the meta device.

    The config is looked up in the folder, the hub's cache, `KNOWN_CONFIGS` and the hub, in this order.

    Args:
        name: a folder, a name on the hub, or an embedded: name.

    Raises:
        UnknownShape: the config is in none of them.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    config = _read_config(name)
    factory = AutoModel if kind == "encoder" else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model = factory.from_config(config)
    except (ValueError, ImportError) as error:
        raise UnknownShape(f"transformers knows no {kind} model {name} ({first_line(error)})") from error
    if kind == "encoder" and getattr(model, "pooler", None) is not None:
        model.pooler = None
    text = config.get_text_config()
    hidden, heads = text.hidden_size, text.num_attention_heads
    return ModelShape(
        model=model,
        config=text,
        layers=text.num_hidden_layers,
        hidden=hidden,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_size=getattr(text, "head_dim", None) or hidden // heads,
        intermediate=getattr(text, "intermediate_size", None) or 4 * hidden,
        vocabulary=text.vocab_size,
    )


def _read_config(name: str) -> PretrainedConfig:
    from transformers import AutoConfig

    from lmrc.pretrained.packaged import resolve

    known = KNOWN_CONFIGS.get(name.removeprefix("FacebookAI/").removeprefix("google-bert/"))
    if name.startswith("embedded:") and known is None:
        name = resolve(name)
    try:
        return AutoConfig.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        if os.path.isdir(name):  # noqa: PTH112 - a hub name is no path
            raise UnknownShape(f"{name} has no usable config.json ({first_line(error)})") from error
    if known is not None:
        return AutoConfig.for_model(**known)
    try:
        return _from_hub(name)
    except (OSError, ValueError) as error:
        raise UnknownShape(
            f"{name} is neither a folder here nor in the hub's cache, and the hub cannot be reached "
            f"({first_line(error)})"
        ) from error


def _from_hub(name: str) -> PretrainedConfig:
    """Fetch the config from the hub with a single request. The hub's own client retries for half a minute."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, validate_repo_id  # type: ignore[attr-defined]
    from transformers import AutoConfig

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    validate_repo_id(name)
    request = Request(hf_hub_url(name, "config.json"))
    for key, value in build_hf_headers().items():
        # Unredirected, so that the token is not sent to another host.
        request.add_unredirected_header(key, value)
    with urlopen(request, timeout=HUB_TIMEOUT_SECONDS) as answer:
        options: dict[str, Any] = json.load(answer)
    return AutoConfig.for_model(options.pop("model_type", ""), **options)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
