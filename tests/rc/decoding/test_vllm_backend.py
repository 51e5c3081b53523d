"""Tests of the vLLM backend with a fake vLLM, because the real one needs a GPU.

The fake has the signatures of vLLM's public interface and generates with transformers.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmrc.common.errors import ConfigError
from lmrc.config.schema import ClassifyConfig, DecodeOptions, PromptOptions, RunOptions
from lmrc.corpus.predictions import read_predictions
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.predict import ClassifyInference
from tests.rc.conftest import Learnt
from tests.rc.test_predict import GOLD, units

RANKS = {1, 8, 16, 32, 64, 128, 256, 320, 512}


@dataclass(frozen=True)
class SamplingParams:
    """The parameters of vLLM that matter here, with its defaults."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    detokenize: bool = True
    skip_special_tokens: bool = True


class TokensPrompt(TypedDict):
    prompt_token_ids: list[int]


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    finish_reason: str | None


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]


class LLM:
    made: list[LLM]

    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
        max_model_len: int | None = None,
        enable_prefix_caching: bool | None = None,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
    ) -> None:
        assert dtype in {"auto", "float32", "float16", "bfloat16"}
        assert max_lora_rank in RANKS
        assert isinstance(model, str) and isinstance(tokenizer, str)
        AutoTokenizer.from_pretrained(tokenizer)
        self.model, self.rank = model, max_lora_rank if enable_lora else 0
        self.length, self.caching = max_model_len, enable_prefix_caching
        self.dtype, self.gpus = dtype, tensor_parallel_size
        self.lora: LoRARequest | None = None
        self.rooms: list[int] = []
        self.made.append(self)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[TokensPrompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
    ) -> list[RequestOutput]:
        assert isinstance(sampling_params, list) and len(sampling_params) == len(prompts)
        base: Any = AutoModelForCausalLM.from_pretrained(self.model, dtype=getattr(torch, self.dtype))
        self.lora = lora_request
        if lora_request is not None:
            assert lora_request.lora_int_id > 0 and Path(lora_request.lora_path).is_absolute()
            base = PeftModel.from_pretrained(base, lora_request.lora_path)
            assert base.peft_config["default"].r <= self.rank
        outputs = []
        for prompt, params in zip(prompts, sampling_params, strict=True):
            assert params.temperature == 0 and params.n == 1 and params.max_tokens is not None
            assert params.ignore_eos and params.stop_token_ids is not None  # see `update_from_generation_config`
            ids = prompt["prompt_token_ids"]
            assert all(type(token) is int for token in ids)
            assert self.length is not None and len(ids) + params.max_tokens <= self.length
            self.rooms.append(params.max_tokens)
            output = base.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=params.max_tokens,
                do_sample=False,
                eos_token_id=params.stop_token_ids,
                pad_token_id=params.stop_token_ids[0],
            )
            new = output[0, len(ids) :].tolist()
            reason = "stop" if new[-1] in params.stop_token_ids else "length"
            outputs.append(RequestOutput([CompletionOutput(0, "", tuple(new), reason)]))
        return outputs


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> list[LLM]:
    """Replace vLLM. Return the list of all LLMs that are created."""
    LLM.made = []
    package, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    package.LLM, package.SamplingParams, package.TokensPrompt = LLM, SamplingParams, TokensPrompt  # type: ignore[attr-defined]
    request.LoRARequest = LoRARequest  # type: ignore[attr-defined]
    for module in (package, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return LLM.made


def classify(learnt: Learnt, folder: Path, name: str, rc: Path | None = None, **options: Any) -> dict[str, int]:
    decode = DecodeOptions(mode="free", **options)
    config = ClassifyConfig(
        run=RunOptions(name=name, folder=folder), corpus=learnt.corpus.folder, rc=rc or learnt.adapter, decode=decode
    )
    classifying = ClassifyInference(config)
    return classifying.finish(row for part in units(classifying.documents, 2) for row in classifying.rows(part))


def test_vllm_gives_the_answers_of_hf(learnt: Learnt, tmp_path: Path, vllm: list[LLM]) -> None:
    counts = classify(learnt, tmp_path, "vllm", backend="vllm", gpus_per_worker=2)
    assert counts == classify(learnt, tmp_path, "hf", backend="hf")
    files = [
        (tmp_path / name / file).read_text()
        for name in ("vllm", "hf")
        for file in ("generations.jsonl", "predictions.json")
    ]
    assert files[:2] == files[2:]
    assert set(read_predictions(tmp_path / "vllm" / "predictions.json")) == GOLD
    (model,) = vllm
    # One engine for all units; the rank is that of the adapter, the length that of the prompts.
    assert (model.rank, model.length, model.caching, model.dtype) == (16, 4096, True, "float32")
    assert model.gpus == 2
    assert model.lora == LoRARequest("rc", 1, str(learnt.adapter.resolve()))


def test_unfinished_answers_are_cut_at_the_same_token(learnt: Learnt, tmp_path: Path, vllm: list[LLM]) -> None:
    """With an untrained adapter, which never ends an answer."""
    untrained = tmp_path / "untrained"
    shutil.copytree(learnt.adapter, untrained)
    weights = load_file(untrained / "adapter_model.safetensors")
    save_file({name: 0 * tensor for name, tensor in weights.items()}, untrained / "adapter_model.safetensors")
    counts = classify(learnt, tmp_path, "vllm", untrained, backend="vllm", max_new_tokens=90)
    assert counts["unfinished"] == 2 and counts == classify(learnt, tmp_path, "hf", untrained, max_new_tokens=90)
    written = [(tmp_path / name / "generations.jsonl").read_text() for name in ("vllm", "hf")]
    assert written[0] == written[1]
    assert all(room <= 90 for room in vllm[0].rooms)


def test_base_without_adapter(learnt: Learnt, base: Path, tmp_path: Path, vllm: list[LLM]) -> None:
    config = ClassifyConfig(
        run=RunOptions(name="plain", folder=tmp_path),
        corpus=learnt.corpus.folder,
        rc=None,
        base=str(base),
        prompt=PromptOptions(),
        decode=DecodeOptions(backend="vllm", mode="free", max_new_tokens=50),
    )
    ClassifyInference(config).rows(range(3))
    assert (vllm[0].lora, vllm[0].rank, vllm[0].dtype) == (None, 0, "bfloat16")


def test_missing_vllm_is_a_config_error(learnt: Learnt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Because a worker would retry any other error for each unit of work."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"decode\.backend is vllm, but .*install it .*or choose hf"):
        classify(learnt, tmp_path, "vllm", backend="vllm")


def test_unsupported_options_are_refused(learnt: Learnt, tmp_path: Path, vllm: list[LLM]) -> None:
    with pytest.raises(ConfigError, match="vLLM supports mode free only, not constrained"):
        ClassifyInference(
            ClassifyConfig(corpus=learnt.corpus.folder, rc=learnt.adapter, decode=DecodeOptions(backend="vllm"))
        )
    adapter = tmp_path / "adapter"
    shutil.copytree(learnt.adapter, adapter)
    settings = json.loads((adapter / "lmrc.json").read_text())
    (adapter / "lmrc.json").write_text(json.dumps({**settings, "quantization": "4bit"}))
    assert AdapterMetadata.read(adapter).quantization == "4bit"
    with pytest.raises(ConfigError, match="trained on a base in 4bit"):
        classify(learnt, tmp_path, "vllm", adapter, backend="vllm")
    (adapter / "lmrc.json").write_text(json.dumps(settings))
    peft = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**peft, "r": 300}))
    with pytest.raises(ConfigError, match="has rank 300, but vLLM accepts at most 256: merge it"):
        classify(learnt, tmp_path, "vllm", adapter, backend="vllm")
