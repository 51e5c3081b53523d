"""What a training starts from: a pretrained encoder, or a relation candidate model that was trained before.

The second is how training goes on after distantly supervised documents: encoder and classifier are both taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from lmrc.common.errors import UserError
from lmrc.pretrained.weights import POOLER, load_model
from lmrc.training.distributed import say

# Our part of config.json, beside the encoder's own keys.
KEY = "relation_candidate_proposal"
# Options of KEY that decide what the classifier's weights mean, with what they are in folders of earlier versions.
CLASSIFIER_OPTIONS: dict[str, Any] = {"classifier": "bilinear", "entity_types": [], "sentence_distance": False}


@dataclass(frozen=True)
class Pretrained:
    """An encoder with its weights, and what came with it."""

    name: str
    encoder: PreTrainedModel
    options: Mapping[str, Any] | None = None
    """KEY of a model that was trained before; None for an encoder alone."""
    classifier: Mapping[str, Tensor] = field(default_factory=dict)
    """The weights of its classifier."""

    def start(self, classifier: nn.Module, options: Mapping[str, Any]) -> None:
        """Give the trained weights to the new `classifier`, which has these `options`, if there are any and they fit.

        Prints what was taken, what was not, and why.
        """
        if self.options is None:
            return
        encoder = f"{len(self.encoder.state_dict())} encoder tensors"
        count = f"{len(self.classifier)} classifier tensors"
        why = self._difference(classifier, options)
        if why:
            taken = f"{encoder} are taken from it, the {count} are not ({why}): the classifier is new"
        else:
            classifier.load_state_dict(dict(self.classifier))
            taken = f"{encoder} and {count} are taken from it"
        say(f"model.encoder {self.name} is a trained RCP: {taken}; a relation task is never kept and begins anew")

    def _difference(self, classifier: nn.Module, options: Mapping[str, Any]) -> str:
        """Return why the trained weights are not those of this classifier; "" if they are."""
        assert self.options is not None
        for name, default in CLASSIFIER_OPTIONS.items():
            there, here = self.options.get(name, default), options[name]
            if there != here:
                return f"{name} was {_shown(there)} and is {_shown(here)} here"
        shapes = {name: tensor.shape for name, tensor in classifier.state_dict().items()}
        if shapes != {name: tensor.shape for name, tensor in self.classifier.items()}:
            return "its tensors have other names or shapes"
        return ""


def _shown(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)


def load_pretrained(source: str, name: str) -> Pretrained:
    """Load the encoder `source`, in float32, from a folder or the hub; `name` is what messages call it.

    Raises:
        UserError: if its weights do not fit its architecture, or it is a damaged relation candidate model.
        OSError, ValueError: of transformers, if there is no such model.
    """
    config = AutoConfig.from_pretrained(source)
    # Dropout of attention weights rules out the fast attention kernels, and would drop pooled rows as well.
    config.attention_probs_dropout_prob = 0.0
    options = getattr(config, KEY, None)
    if options is None:
        encoder = load_model(
            AutoModel, source, f"model.encoder {name}", optional=POOLER, config=config, dtype=torch.float32
        )
        return Pretrained(name, encoder)
    try:
        weights = load_file(str(cached_file(source, "model.safetensors")))
        encoder, rest = _encoder(config, weights)
    except (SafetensorError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0]
        # Not in the pre-flight: the weights are read at the start.
        raise UserError(
            f"model.encoder {name} is a trained RCP, but damaged ({line}): give another folder, or train it again"
        ) from error
    return Pretrained(name, encoder, options, rest)


def _encoder(config: PretrainedConfig, weights: Mapping[str, Tensor]) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """Return the encoder of a trained model, and the weights of its classifier."""
    encoder: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "classifier": {}}
    for name, tensor in weights.items():
        part, _, inner = name.partition(".")
        if part not in parts:
            raise RuntimeError(f"unknown tensor {name}")
        parts[part][inner] = tensor
    encoder.load_state_dict(parts["encoder"])
    return encoder, parts["classifier"]
