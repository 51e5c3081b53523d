from __future__ import annotations

import io
import json
import socket
import time
from pathlib import Path
from urllib.request import Request

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, BertConfig

from lmrc.common.errors import UserError
from lmrc.config.schema import LLAMA_PROJECTIONS, LoraOptions
from lmrc.launcher import model_shapes as module
from lmrc.launcher.model_shapes import KNOWN_CONFIGS, UnknownShape, load_model_shape
from lmrc.pretrained.packaged import resolve


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Disable the network and use empty caches."""
    monkeypatch.setenv("LMRC_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", 6_738_415_616),
        ("meta-llama/Llama-2-13b-chat-hf", 13_015_864_320),
        ("mistralai/Mistral-7B-Instruct-v0.2", 7_241_732_096),
        ("embedded:smollm2", 134_515_008),
    ],
)
def test_published_parameter_counts_of_causal_models(name: str, parameters: int) -> None:
    assert load_model_shape(name, "causal").parameters == parameters


@pytest.mark.parametrize(
    ("name", "with_pooler", "hidden"),
    [
        ("roberta-large", 355_359_744, 1024),
        ("FacebookAI/roberta-large", 355_359_744, 1024),
        ("roberta-base", 124_645_632, 768),
        ("bert-base-cased", 108_310_272, 768),
    ],
)
def test_published_parameter_counts_of_encoders(name: str, with_pooler: int, hidden: int) -> None:
    # RCP removes the pooler, a single linear layer.
    assert load_model_shape(name, "encoder").parameters == with_pooler - hidden * (hidden + 1)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("meta-llama/Llama-2-7b-chat-hf", 19_988_480), ("meta-llama/Llama-2-13b-chat-hf", 31_293_440)],
)
def test_published_parameter_counts_of_adapters(name: str, parameters: int) -> None:
    assert load_model_shape(name, "causal").lora_shape(LoraOptions(r=8)).parameters == parameters


@pytest.mark.parametrize("targets", [LLAMA_PROJECTIONS, ("q_proj", "v_proj"), ("down_proj",)])
@pytest.mark.parametrize("r", [1, 8])
def test_lora_shape_equals_peft(targets: tuple[str, ...], r: int) -> None:
    shape = load_model_shape("embedded:tiny-llm", "causal")
    with torch.device("meta"):
        model = get_peft_model(
            AutoModelForCausalLM.from_config(shape.config), LoraConfig(r=r, target_modules=list(targets))
        )
    expected = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    adapted = shape.lora_shape(LoraOptions(r=r, targets=targets))
    assert adapted.parameters == expected
    assert len(adapted.inputs) == 2 * len(targets)


def test_unknown_lora_target() -> None:
    with pytest.raises(UserError, match=r"query not among .* q_proj"):
        load_model_shape("embedded:tiny-llm", "causal").lora_shape(LoraOptions(targets=("q_proj", "query")))


def test_embedded_models_have_the_loaded_parameter_count() -> None:
    model = AutoModel.from_pretrained(resolve("embedded:tiny-encoder"), add_pooling_layer=False)
    shape = load_model_shape("embedded:tiny-encoder", "encoder")
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.layers, shape.hidden, shape.heads, shape.head_size) == (2, 32, 4, 8)
    linear = sum(p.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) for p in m.parameters())
    assert shape.linear_parameters == linear


def test_folder_has_priority_over_known_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2).save_pretrained(
        "roberta-large"
    )
    assert load_model_shape("roberta-large", "encoder").hidden == 16


def test_no_weights_are_allocated() -> None:
    assert {p.device.type for p in load_model_shape("roberta-large", "encoder").model.parameters()} == {"meta"}


def test_hub_is_last_and_token_is_not_redirected(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []

    def answer(request: Request, timeout: float) -> io.BytesIO:
        asked.append(request)
        return io.BytesIO(json.dumps({**KNOWN_CONFIGS["embedded:smollm2"], "num_hidden_layers": 3}).encode())

    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(module, "urlopen", answer)
    load_model_shape("roberta-base", "encoder")
    assert asked == []
    assert load_model_shape("someone/model", "causal").layers == 3
    [request] = asked
    assert request.full_url.endswith("/someone/model/resolve/main/config.json")
    assert request.headers == {}  # these would be sent to a redirect


def test_hub_offline_sends_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnknownShape, match="HF_HUB_OFFLINE is set"):
        load_model_shape("someone/model", "causal")


def test_unreachable_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    started = time.monotonic()
    with pytest.raises(UnknownShape, match="no network"):
        load_model_shape("someone/model", "causal")
    assert time.monotonic() - started < module.HUB_TIMEOUT_SECONDS + 1


def test_unknown_model_and_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str) -> None:
        raise OSError("the hub is far away\nand more")

    monkeypatch.setattr(module, "_from_hub", unreachable)
    with pytest.raises(UnknownShape, match=r"someone/model .*\(the hub is far away\)"):
        load_model_shape("someone/model", "causal")


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(UnknownShape, match=r"no usable config.json"):
        load_model_shape(str(tmp_path), "causal")


def test_encoder_as_causal_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UnknownShape, match="no causal model"):
        load_model_shape(str(tmp_path), "causal")
