from __future__ import annotations

from typing import Any

import pytest
from transformers import BertConfig, BertModel

from lmrc.training.activation_checkpointing import enable_activation_checkpointing


class Recorder:
    """A model that records how its checkpointing was enabled."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def gradient_checkpointing_enable(self, options: Any) -> None:
        self.calls.append(("gradient", options))


class RecentRecorder(Recorder):
    def activation_checkpointing_enable(self, options: Any) -> None:
        self.calls.append(("activation", options))


@pytest.mark.parametrize(("model", "name"), [(Recorder(), "gradient"), (RecentRecorder(), "activation")])
def test_the_name_of_the_installed_version_is_used(model: Any, name: str) -> None:
    enable_activation_checkpointing(model)
    assert model.calls == [(name, {"use_reentrant": False})]


@pytest.mark.filterwarnings("error::FutureWarning")
def test_checkpointing_is_on_without_a_deprecation() -> None:
    model = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))
    enable_activation_checkpointing(model)
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
