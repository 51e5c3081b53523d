"""Initial weights of a training: a pretrained encoder, or a trained RCP model.

A trained RCP model provides encoder and classifier, for example to continue after training on distantly supervised
documents.
"""

from __future__ import annotations

import logging
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

logger = logging.getLogger(__name__)

# Key of RCP's options in the encoder's config.json.
KEY = "relation_candidate_proposal"
# Options that define the classifier's weights, with their values for models saved by earlier versions.
CLASSIFIER_OPTIONS: dict[str, Any] = {"classifier": "bilinear", "entity_types": [], "sentence_distance": False}


@dataclass(frozen=True)
class Pretrained:
    """An encoder with its weights, and the classifier weights of a trained RCP model.

    Attributes:
        name: name of the encoder in messages.
        encoder: the encoder.
        options: options of the trained RCP model (`KEY` in config.json); None if this is only an encoder.
        classifier: state dict of the trained classifier.
        relation_head: state dict of its relation head; empty if it has none.
    """

    name: str
    encoder: PreTrainedModel
    options: Mapping[str, Any] | None = None
    classifier: Mapping[str, Tensor] = field(default_factory=dict)
    relation_head: Mapping[str, Tensor] = field(default_factory=dict)

    def init_new_layers(
        self, classifier: nn.Module, relation_head: nn.Module | None, options: Mapping[str, Any]
    ) -> None:
        """Load the trained weights into the layers after the encoder, if they fit, and log what was loaded.

        Args:
            classifier: the new classifier.
            relation_head: the new relation head; None if the model has none.
            options: options of the new model.
        """
        if self.options is None:
            return
        encoder = f"{len(self.encoder.state_dict())} encoder tensors"
        count = f"{len(self.classifier)} classifier tensors"
        difference = self._difference(classifier, options)
        if difference:
            loaded = f"{encoder} are loaded from it, the {count} are not ({difference}): the classifier is new"
        else:
            classifier.load_state_dict(dict(self.classifier))
            loaded = f"{encoder} and {count} are loaded from it"
        if relation_head is not None:
            fits = not difference and self.relation_head and self.options.get("relations") == options["relations"]
            if fits:
                relation_head.load_state_dict(dict(self.relation_head))
            loaded += f"; the relation head is {'loaded too' if fits else 'new'}"
        logger.info(f"model.encoder {self.name} is a trained RCP model: {loaded}")

    def _difference(self, classifier: nn.Module, options: Mapping[str, Any]) -> str:
        """Return why the trained weights do not fit the classifier, or an empty string if they do."""
        assert self.options is not None
        for name, default in CLASSIFIER_OPTIONS.items():
            old, new = self.options.get(name, default), options[name]
            if old != new:
                return f"{name} was {_format(old)} and is {_format(new)} here"
        shapes = {name: tensor.shape for name, tensor in classifier.state_dict().items()}
        if shapes != {name: tensor.shape for name, tensor in self.classifier.items()}:
            return "its tensors have other names or shapes"
        return ""


def _format(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)


def load_pretrained(source: str, name: str) -> Pretrained:
    """Load an encoder in float32.

    Args:
        source: folder or name on the hub.
        name: name of the encoder in messages.

    Raises:
        UserError: if the weights do not fit the architecture, or a trained RCP model is damaged.
        OSError, ValueError: from transformers, if there is no such model.
    """
    config = AutoConfig.from_pretrained(source)
    # Dropout of attention weights would rule out the fused kernels, and drop rows that are pooled.
    config.attention_probs_dropout_prob = 0.0
    options = getattr(config, KEY, None)
    if options is None:
        encoder = load_model(
            AutoModel, source, f"model.encoder {name}", optional=POOLER, config=config, dtype=torch.float32
        )
        return Pretrained(name, encoder)
    try:
        weights = load_file(str(cached_file(source, "model.safetensors")))
        encoder, classifier, relation_head = _split_weights(config, weights)
    except (SafetensorError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0]
        # Not in the pre-flight: the weights are read at the start.
        raise UserError(
            f"model.encoder {name} is a trained RCP model, but damaged ({line}): give another folder, or train it again"
        ) from error
    return Pretrained(name, encoder, options, classifier, relation_head)


def _split_weights(
    config: PretrainedConfig, weights: Mapping[str, Tensor]
) -> tuple[PreTrainedModel, dict[str, Tensor], dict[str, Tensor]]:
    """Return the encoder of a trained model with its weights, and the state dicts of classifier and relation head."""
    encoder: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "classifier": {}, "relation_head": {}}
    for name, tensor in weights.items():
        part, _, inner = name.partition(".")
        if part not in parts:
            raise RuntimeError(f"unknown tensor {name}")
        parts[part][inner] = tensor
    encoder.load_state_dict(parts["encoder"])
    return encoder, parts["classifier"], parts["relation_head"]
