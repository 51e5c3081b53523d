"""Model folders: complete when saved, loaded only if all weights fit, one message instead of the load report."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from lmrc.common.errors import UserError
from lmrc.pretrained.weights import POOLER, check_headers, load_model, save_model

SIZES = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}


@pytest.fixture
def reports() -> Iterator[list[str]]:
    """Yield the messages that transformers logs while it loads."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler, logger = Keep(), logging.getLogger("transformers.modeling_utils")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.mark.parametrize("tied", [True, False])
def test_saved_files_equal_those_of_transformers(tied: bool, tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied)).to(torch.bfloat16)
    save_model(model, tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs")
    written = {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()} == written
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_one_message_replaces_the_load_report(
    reports: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(tmp_path)
    AutoModel.from_pretrained(tmp_path)
    assert any("LOAD REPORT" in line for line in reports), "transformers logs no report any more"
    reports.clear()
    caplog.clear()
    load_model(AutoModel, str(tmp_path), "mine", optional=POOLER)
    assert not reports
    assert caplog.messages == ["mine: 5 tensors of its file are not used, they belong to other heads (cls)"]
    AutoModel.from_pretrained(tmp_path)
    assert reports, "the filter was not removed"


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"mine: the weights do not fit BertModel.* 2 are missing \(pooler"):
        load_model(AutoModel, str(tmp_path), "mine")
    with pytest.raises(OSError, match="nowhere"):
        load_model(AutoModel, str(tmp_path / "nowhere"), "mine")


def test_weights_of_another_size_are_found_without_reading_them(tmp_path: Path) -> None:
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(tmp_path)
    # In the base model the names have no prefix.
    for kind in (BertForMaskedLM, BertModel):
        check_headers(tmp_path, kind(BertConfig(**SIZES)), "mine")
        with pytest.raises(
            UserError, match=r"of the \d+ weights of Bert.* 3 have another shape .* with \[12\], expected \[16\]"
        ):
            check_headers(tmp_path, kind(BertConfig(**SIZES | {"intermediate_size": 16})), "mine")
    quantized = BertConfig(**SIZES | {"intermediate_size": 16}, quantization_config={"quant_method": "bitsandbytes"})
    check_headers(tmp_path, BertModel(quantized), "mine")


def test_cudnn_attention_is_switched_off() -> None:
    code = (
        "import os, torch, lmrc.pretrained.weights; "
        "print(os.environ['TORCH_CUDNN_SDPA_DEPRIORITIZED'], torch.backends.cuda.cudnn_sdp_enabled())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_CUDNN_SDPA_DEPRIORITIZED"}
    for own, expected in (({}, "1 False"), ({"TORCH_CUDNN_SDPA_DEPRIORITIZED": "0"}, "0 False")):
        output = subprocess.run(
            [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, env=environment | own
        ).stdout
        assert output.strip() == expected


@pytest.mark.parametrize(
    "module", ["lmrc.rcp.predict", "lmrc.rc.decoding.hf_backend", "lmrc.rc.alignment", "lmrc.rcp.task"]
)
def test_every_model_on_a_gpu_is_loaded_by_this_module(module: str) -> None:
    code = f"import sys, {module}; sys.exit('lmrc.pretrained.weights' not in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
