"""Activation checkpointing of a transformers model, under the name that the installed version has for it."""

from __future__ import annotations

from transformers import PreTrainedModel


def enable_activation_checkpointing(model: PreTrainedModel) -> None:
    """Recompute the activations of each layer in the backward pass instead of keeping them."""
    # transformers 5.17 has only the older name, which later versions deprecate.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    # Reentrant checkpointing needs inputs that require a gradient; those of frozen embeddings do not.
    enable({"use_reentrant": False})
