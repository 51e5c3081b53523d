from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lmrc.common.check import Check
from lmrc.common.errors import UserError
from lmrc.config.schema import ClassifyConfig, DecodeOptions, PromptOptions, ProposeConfig
from lmrc.corpus.candidates import write_candidates
from lmrc.corpus.corpus import Corpus
from lmrc.launcher.plan import LaunchPlan, plan_launch
from lmrc.launcher.preflight import inference
from lmrc.launcher.preflight.data import Inputs
from lmrc.launcher.preflight.evaluation import evaluated_corpus
from lmrc.launcher.preflight.inference import check_classify, check_propose
from lmrc.launcher.stages import CLASSIFY
from tests.launcher.site import Partition, fake_site
from tests.slurm.harness import write_data, write_models


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make small corpora, models, and candidates of dev."""
    home = tmp_path_factory.mktemp("home")
    write_models(home, write_data(home / "data", documents=6))
    corpus = Corpus.open(home / "data" / "dev")
    rows = [(document.title, []) for document in corpus]
    write_candidates(rows, home / "candidates", corpus.fingerprint, 0.5)
    return home


def reasons(checks: list[Check]) -> list[str]:
    return [str(check) for check in checks if check.level == "missing"]


def propose(home: Path, inputs: Inputs | None = None, **more: Any) -> list[str]:
    given = {"corpus": home / "data" / "dev", "rcp": home / "rcp" / "best", **more}
    return reasons(list(check_propose(ProposeConfig.model_validate(given), None, inputs or Inputs())))


def classify(home: Path, inputs: Inputs | None = None, **more: Any) -> list[str]:
    given = {"corpus": home / "data" / "dev", "candidates": home / "candidates", "rc": home / "rc" / "best", **more}
    return reasons(list(check_classify(ClassifyConfig.model_validate(given), None, inputs or Inputs())))


def test_existing_inputs_pass(home: Path) -> None:
    assert not propose(home) and not classify(home)
    assert not propose(home, threshold="f1")


def test_schemas_are_read(home: Path, tmp_path: Path) -> None:
    """Also if an earlier step builds the corpus: then its relation set is not known yet."""
    file = tmp_path / "schema.json"
    (message,) = classify(home, decode={"schema": file})
    assert message == f"{file}: no such file"
    later = {"corpus": tmp_path / "later", "candidates": None}
    assert classify(home, Inputs(frozenset({tmp_path / "later"})), decode={"schema": file}, **later) == [message]
    file.write_text('{"P0": {}}')
    assert "unknown relation 'P0'" in classify(home, decode={"schema": file})[0]
    assert classify(home, Inputs(frozenset({tmp_path / "later"})), decode={"schema": file}, **later) == []
    file.write_text('{"P17": {}}')
    assert not classify(home, decode={"schema": file})


def test_run_folder_suggests_its_best(home: Path) -> None:
    assert propose(home, rcp=home / "rcp")[0].endswith(f"did you mean {home / 'rcp' / 'best'}?")
    assert classify(home, rc=home / "rc")[0].endswith(f"did you mean {home / 'rc' / 'best'}?")


def test_all_missing_inputs_are_named(home: Path, tmp_path: Path) -> None:
    message = classify(home, corpus=tmp_path / "no", candidates=tmp_path / "none", rc=tmp_path / "nothing")
    assert [any(name in reason for reason in message) for name in ("/no:", "/none", "/nothing")] == [True] * 3
    assert len(message) == 3


def test_candidates_of_another_corpus(home: Path) -> None:
    assert "made from another corpus" in classify(home, corpus=home / "data" / "train")[0]


def test_threshold_without_a_curve(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "rcp" / "best", tmp_path / "best")
    (tmp_path / "best" / "calibration.json").unlink()
    assert "has no calibration.json" in propose(home, rcp=tmp_path / "best", threshold="f1")[0]


def test_relation_threshold_without_a_relation_head(home: Path) -> None:
    (message,) = propose(home, relation_threshold=0.4)
    assert "--relation-threshold has no effect" in message and "has no relation head" in message


def test_adapter_that_does_not_fit_its_base(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "rc" / "best", tmp_path / "bad")
    path = tmp_path / "bad" / "adapter_model.safetensors"
    names = {name: name.replace("model.model.", "model.language_model.") for name in load_file(path)}
    save_file({names[name]: value for name, value in load_file(path).items()}, path, {"format": "pt"})
    (message,) = classify(home, rc=tmp_path / "bad")
    assert "does not fit its base embedded:tiny-llm" in message and "0 fit" in message


def test_missing_base(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "rc" / "best", tmp_path / "moved")
    path = tmp_path / "moved" / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "base_model_name_or_path": "/models/gone"}))
    assert "base: /models/gone: no such folder" in classify(home, rc=tmp_path / "moved")[0]


def test_decoding_backend_must_be_available(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"mode": "free"}
    monkeypatch.setattr(inference, "is_importable", lambda package: package != "vllm")
    assert "decode.backend is vllm, which is not installed" in classify(home, decode={"backend": "vllm", **free})[0]
    monkeypatch.setattr(inference, "is_importable", lambda package: True)
    assert not classify(home, decode={"backend": "vllm"})
    assert "4 attention heads, which vLLM cannot distribute over 3 GPUs" in "".join(
        classify(home, decode={"backend": "vllm", "gpus_per_worker": 3})
    )
    untrained = {"rc": None, "base": "embedded:tiny-llm", "decode": {"backend": "vllm"}}
    assert "positions" in classify(home, **untrained, prompt={"max_length": 10**6})[0]
    assert not classify(home, **untrained)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = {"url": "https://api.example.com/v1", "model": "m"}
    asked = {"rc": None, "base": "embedded:tiny-llm", "decode": {"backend": "openai", **free}}
    assert "OPENAI_API_KEY is not set" in classify(home, **asked, server=server)[0]
    assert "server.model is empty" in classify(home, **asked, server={**server, "model": ""})[0]
    monkeypatch.setenv("OPENAI_API_KEY", "none-of-anybody")
    assert not classify(home, **asked, server=server)
    few = {"examples": 50, "corpus": home / "data" / "train"}
    assert "documents with pairs" in classify(home, **asked, server=server, few_shot=few)[0]


@pytest.mark.parametrize(
    ("executor", "for_cpus", "level"), [("here", False, "missing"), ("slurm", False, None), ("here", True, "warning")]
)
def test_vllm_for_gpus_needs_one_if_it_runs_here(
    executor: str, for_cpus: bool, level: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "is_importable", lambda package: True)
    monkeypatch.setattr(inference, "is_built_for_cpus", lambda: for_cpus)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    plan = LaunchPlan(CLASSIFY, ClassifyConfig(corpus=Path("x")), executor, 1, "", ())
    assert [check.level for check in inference._check_vllm(plan)] == ([] if level is None else [level])


@pytest.mark.parametrize(
    ("option", "value"), [("use_dora", True), ("modules_to_save", ["lm_head"]), ("init_lora_weights", "pissa")]
)
def test_adapters_that_vllm_does_not_support(
    home: Path, tmp_path: Path, option: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM would refuse them at the first query, after the start."""
    monkeypatch.setattr(inference, "is_importable", lambda package: True)
    shutil.copytree(home / "rc" / "best", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), option: value}))
    (message,) = classify(home, rc=tmp_path / "adapter", decode={"backend": "vllm"})
    assert f"has {option} {value} in its adapter_config.json, which vLLM does not support" in message


def test_limits_of_vllm() -> None:
    """Key-value heads are distributed over GPUs or repeated on them; scaled rotary embeddings have more positions."""
    small = PromptOptions(max_length=2000)

    def reasons_of(gpus: int, prompt: PromptOptions = small, **model: Any) -> list[str]:
        config = ClassifyConfig(rc=None, prompt=prompt, decode=DecodeOptions(backend="vllm", gpus_per_worker=gpus))
        shape = SimpleNamespace(max_position_embeddings=2048, num_attention_heads=28, num_key_value_heads=4, **model)
        return reasons(list(inference._check_vllm_limits(config, "base", shape)))

    for gpus in (1, 2, 4, 28):
        assert not reasons_of(gpus)
    assert "4 key-value heads, which vLLM can neither distribute over 7 GPUs nor repeat" in "".join(reasons_of(7))
    assert "28 attention heads" in "".join(reasons_of(8))
    long = PromptOptions(max_length=4096)
    assert "base has 2048 positions" in "".join(reasons_of(1, long))
    assert not reasons_of(1, long, rope_parameters={"rope_type": "linear", "factor": 2.0})
    assert "2048 positions" in "".join(reasons_of(1, long, rope_parameters={"rope_type": "llama3", "factor": 8.0}))


def test_outputs_of_earlier_steps_may_be_missing(home: Path, tmp_path: Path) -> None:
    made = frozenset(tmp_path / name for name in ("best", "candidates", "dev"))
    assert not propose(home, Inputs(made), rcp=tmp_path / "best", corpus=tmp_path / "dev")
    assert not classify(home, Inputs(made), rc=tmp_path / "best", candidates=tmp_path / "candidates")


def test_systems_with_the_encoder(home: Path, tmp_path: Path) -> None:
    """Without an LM, neither adapter nor base are looked for."""
    encoder = {"system": "encoder", "rc": None}
    assert not classify(home, **encoder)
    assert classify(home, **encoder, candidates=None) == [
        "system encoder scores candidates: give --candidates, which propose writes"
    ]
    assert "no such file" in classify(home, **encoder, fusion=tmp_path / "none.json")[0]
    fused = {"system": "fused", "decode": {"mode": "score"}}
    assert "system fused needs the weights of a fusion" in classify(home, **fused)[0]
    (tmp_path / "fusion.json").write_text("{}")
    (message,) = classify(home, **fused, fusion=tmp_path / "fusion.json")
    assert "is no fusion" in message
    # Also before the steps that make its other inputs.
    made = Inputs(frozenset({tmp_path / "candidates", tmp_path / "best"}))
    later = {"rc": tmp_path / "best", "candidates": tmp_path / "candidates", "fusion": tmp_path / "fusion.json"}
    assert classify(home, made, **fused, **later) == [message]
    assert not classify(home, made, **encoder, candidates=tmp_path / "candidates")


def test_fusion_of_an_earlier_step(home: Path, tmp_path: Path) -> None:
    later = tmp_path / "fusion.json"
    for options in ({"system": "encoder", "rc": None}, {"system": "fused", "decode": {"mode": "score"}}):
        assert not classify(home, Inputs(frozenset({later})), **options, fusion=later)
        (message,) = classify(home, **options, fusion=later)
        assert "fusion.json: no such file" in message


def test_eval_uses_the_dev_corpus_of_rcp(home: Path, tmp_path: Path) -> None:
    assert evaluated_corpus(home, None) == home / "data" / "dev"
    assert evaluated_corpus(home, home / "data" / "train") == home / "data" / "train"
    with pytest.raises(
        UserError, match=r"no .*rcp/best and .*rc/best; train with launch/rcp.py and launch/rc.py first"
    ):
        evaluated_corpus(tmp_path, None)
    (tmp_path / "rcp-redocred" / "best").mkdir(parents=True)
    with pytest.raises(UserError, match=r"trained runs here: .*rcp-redocred"):
        evaluated_corpus(tmp_path, None)


@pytest.mark.parametrize(("gres", "level"), [("gpu:l40s:8", "warning"), ("gpu:h100:8", "ok")])
def test_memory_of_the_kv_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gres: str, level: str) -> None:
    """LLaMA2-13B on 8 queries of 4,096 tokens needs 53 GiB."""
    fake_site(tmp_path / "site", monkeypatch, Partition(gres=gres))
    config = ClassifyConfig.model_validate({"rc": None, "base": "meta-llama/Llama-2-13b-chat-hf"})
    (check,) = inference._check_memory(config, plan_launch(CLASSIFY, config))
    assert check.level == level and "about 53.4 GiB" in check.what
