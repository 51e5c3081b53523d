"""Tests of the vLLM backend with a fake vLLM, which the usual environment lacks. test_vllm_engine.py has the real one.

The fake has the signatures of vLLM's public interface and generates with transformers.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypedDict

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmrc.common.errors import ConfigError
from lmrc.config.schema import ClassifyConfig, DecodeOptions, PromptOptions, RunOptions
from lmrc.corpus.predictions import read_predictions
from lmrc.rc.decoding.vllm_engine import NextTokens, VllmEngine, max_lora_rank
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.predict import ClassifyInference
from tests.rc import tiny
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
    logprob_token_ids: list[int] | None = None


class TokensPrompt(TypedDict):
    prompt_token_ids: list[int]


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class Logprob:
    logprob: float


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    finish_reason: str | None
    logprobs: list[dict[int, Logprob]] | None = None


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]
    num_cached_tokens: int | None = None


class LLM:
    made: list[LLM]
    # As in vLLM's build for GPUs.
    is_cpu = False

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
        max_model_len: int | None = None,
        enable_prefix_caching: bool | None = None,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
    ) -> None:
        assert dtype in {"auto", "float32", "float16", "bfloat16"}
        assert max_lora_rank in RANKS
        assert isinstance(model, str)
        AutoTokenizer.from_pretrained(model)
        self.model, self.rank = model, max_lora_rank if enable_lora else 0
        self.length, self.caching = max_model_len, enable_prefix_caching
        self.dtype, self.gpus = dtype, tensor_parallel_size
        self.lora: LoRARequest | None = None
        self.rooms: list[int] = []
        self.calls = 0
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
        self.calls += 1
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
            ids = prompt["prompt_token_ids"]
            assert all(type(token) is int for token in ids)
            assert self.length is not None and len(ids) + params.max_tokens <= self.length
            self.rooms.append(params.max_tokens)
            if params.logprob_token_ids is not None:
                assert params.max_tokens == 1 and 0 < len(params.logprob_token_ids) <= 128
                logs = base(input_ids=torch.tensor([ids])).logits[0, -1].float().log_softmax(0)
                new = int(logs.argmax())
                found = {token: Logprob(float(logs[token])) for token in [new, *params.logprob_token_ids]}
                outputs.append(RequestOutput([CompletionOutput(0, "", (new,), "length", [found])]))
                continue
            assert params.ignore_eos and params.stop_token_ids is not None  # see `update_from_generation_config`
            output = base.generate(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=params.max_tokens,
                do_sample=False,
                eos_token_id=params.stop_token_ids,
                pad_token_id=params.stop_token_ids[0],
            )
            written = output[0, len(ids) :].tolist()
            reason = "stop" if written[-1] in params.stop_token_ids else "length"
            outputs.append(RequestOutput([CompletionOutput(0, "", tuple(written), reason)]))
        return outputs


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> list[LLM]:
    """Replace vLLM. Return the list of all LLMs that are created."""
    LLM.made = []
    package, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    platforms = ModuleType("vllm.platforms")
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: LLM.is_cpu)  # type: ignore[attr-defined]
    package.LLM, package.SamplingParams, package.TokensPrompt = LLM, SamplingParams, TokensPrompt  # type: ignore[attr-defined]
    request.LoRARequest = LoRARequest  # type: ignore[attr-defined]
    for module in (package, lora, request, platforms):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return LLM.made


def classify(
    learnt: Learnt,
    folder: Path,
    name: str,
    rc: Path | None = None,
    per_unit: int = 2,
    mode: str = "free",
    **options: Any,
) -> dict[str, int | float]:
    decode = DecodeOptions(mode=mode, **options)
    config = ClassifyConfig(
        run=RunOptions(name=name, folder=folder), corpus=learnt.corpus.folder, rc=rc or learnt.adapter, decode=decode
    )
    classifying = ClassifyInference(config)
    return classifying.finish(row for part in units(classifying.documents, per_unit) for row in classifying.rows(part))


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


def without_weights(learnt: Learnt, folder: Path) -> Path:
    """Return an adapter that changes nothing."""
    untrained = folder / "untrained"
    shutil.copytree(learnt.adapter, untrained)
    weights = load_file(untrained / "adapter_model.safetensors")
    save_file({name: 0 * tensor for name, tensor in weights.items()}, untrained / "adapter_model.safetensors")
    return untrained


def test_unfinished_answers_are_cut_at_the_same_token(learnt: Learnt, tmp_path: Path, vllm: list[LLM]) -> None:
    """With an untrained adapter, which never ends an answer."""
    untrained = without_weights(learnt, tmp_path)
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
    (adapter / "adapter_config.json").write_text(json.dumps({**peft, "use_dora": True}))
    with pytest.raises(ConfigError, match=r"has use_dora True in its adapter_config\.json, which vLLM does not"):
        classify(learnt, tmp_path, "vllm", adapter, backend="vllm")


def test_the_largest_rank_of_an_adapter_counts(learnt: Learnt, tmp_path: Path) -> None:
    shutil.copytree(learnt.adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rank_pattern": {"q_proj": 40}}))
    assert (max_lora_rank(learnt.adapter), max_lora_rank(tmp_path / "adapter")) == (16, 64)


def scores(path: Path) -> dict[tuple[str, int, int, str], float | None]:
    return {(each.title, each.head, each.tail, each.relation): each.score for each in read_predictions(path)}


@pytest.mark.parametrize("merges_newlines", [False, True])
def test_constrained_answers_and_scores_are_those_of_hf(
    learnt: Learnt, learnt_newline: Learnt, merges_newlines: bool, tmp_path: Path, vllm: list[LLM]
) -> None:
    model = learnt_newline if merges_newlines else learnt
    counts = classify(model, tmp_path, "vllm", per_unit=3, mode="constrained", backend="vllm")
    assert counts == classify(model, tmp_path, "hf", mode="constrained")
    assert (tmp_path / "vllm/generations.jsonl").read_text() == (tmp_path / "hf/generations.jsonl").read_text()
    found, expected = (scores(tmp_path / name / "predictions.json") for name in ("vllm", "hf"))
    assert len(found) == 4 and found == pytest.approx(expected, abs=1e-4)
    # Forced tokens need no requests of their own: each choice of an answer is one, and those of a unit are submitted at
    # once.
    assert vllm[0].calls < len(vllm[0].rooms) < 40
    assert set(vllm[0].rooms) == {1}


def test_cut_constrained_answers_end_with_the_same_line(learnt: Learnt, tmp_path: Path, vllm: list[LLM]) -> None:
    untrained = without_weights(learnt, tmp_path)
    for name in ("vllm", "hf"):
        counts = classify(learnt, tmp_path, name, untrained, mode="constrained", backend=name, max_new_tokens=40)
        assert counts["unfinished"] > 0
    assert (tmp_path / "vllm/generations.jsonl").read_text() == (tmp_path / "hf/generations.jsonl").read_text()


def test_scores_are_those_of_hf(learnt: Learnt, tmp_path: Path, vllm: list[LLM]) -> None:
    for name in ("vllm", "hf"):
        classify(learnt, tmp_path, name, mode="score", backend=name)
    found, expected = (scores(tmp_path / name / "scores-of-all.json") for name in ("vllm", "hf"))
    assert found == pytest.approx(expected, abs=2e-3)


def test_likelihoods_are_those_of_hf(learnt_likelihood: Learnt, tmp_path: Path, vllm: list[LLM]) -> None:
    tiny.candidates(tmp_path / "candidates", learnt_likelihood.corpus)
    results = []
    for name in ("vllm", "hf"):
        config = ClassifyConfig(
            run=RunOptions(name=name, folder=tmp_path),
            corpus=learnt_likelihood.corpus.folder,
            rc=learnt_likelihood.adapter,
            candidates=tmp_path / "candidates",
            decode=DecodeOptions(mode="score", backend=name),
        )
        inference = ClassifyInference(config)
        inference.finish(iter(inference.rows(range(3))))
        results.append(scores(tmp_path / name / "scores-of-all.json"))
    assert results[0] == pytest.approx(results[1], abs=1e-4)
    assert vllm[0].calls == 1


def test_many_tokens_are_asked_about_in_parts(base: Path, vllm: list[LLM]) -> None:
    engine = VllmEngine(str(base), None, "fp32", 4096)
    (logs,) = engine.next_logs([NextTokens([1, 2, 3], range(300))])
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([[1, 2, 3]])).logits[0, -1].log_softmax(0)[:300]
    assert logs == pytest.approx(expected.tolist(), abs=1e-4)
    assert engine.counts.requests == 3 and engine.counts.prompt_tokens == 9


def test_engine_that_does_not_start_is_a_config_error(
    base: Path, vllm: list[LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("1 validation error for ModelConfig\n  Value error, max_model_len (9) is greater\n  more")

    monkeypatch.setattr(LLM, "__init__", refuse)
    with pytest.raises(
        ConfigError, match=r"vLLM does not start with .*: Value error, max_model_len \(9\) is greater\."
    ):
        VllmEngine(str(base), None, "fp32", 9)
