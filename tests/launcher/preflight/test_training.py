from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lmrc.common.check import Check
from lmrc.config.schema import RcConfig, RcpConfig
from lmrc.corpus.corpus import write_corpus
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.launcher.plan import LaunchPlan, plan_launch
from lmrc.launcher.preflight import training
from lmrc.launcher.preflight.data import Inputs
from lmrc.launcher.preflight.training import GB, check_rc, check_rcp, memory_of
from lmrc.launcher.stages import RC, RCP
from tests.launcher.site import Partition, fake_site
from tests.slurm.harness import write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), documents=6)


def rc(folder: Path, **more: Any) -> list[Check]:
    model = {"base": "embedded:tiny-llm", **more.pop("model", {})}
    paths = {"train": folder / "train", "dev": folder / "dev", **more.pop("data", {})}
    config = RcConfig.model_validate({"data": paths, "model": model, **more})
    return list(check_rc(config, None, Inputs()))


def rcp(folder: Path, **more: Any) -> list[Check]:
    model = {"encoder": "embedded:tiny-encoder", "max_length": 512, **more.pop("model", {})}
    paths = {"train": folder / "train", "dev": folder / "dev", **more.pop("data", {})}
    config = RcpConfig.model_validate({"data": paths, "model": model, **more})
    return list(check_rcp(config, None, Inputs()))


def reasons(checks: list[Check]) -> list[str]:
    return [str(check) for check in checks if check.level == "missing"]


def test_correct_config_passes(data: Path) -> None:
    assert not reasons(rcp(data)) and not reasons(rc(data))
    assert any("LoRA: " in check.what for check in rc(data))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"lora": {"targets": ["wq"]}}, "lora.targets: wq not among the linear layers"),
        ({"prompt": {"max_length": 8192}}, "prompt.max_length is 8192, but embedded:tiny-llm reads 4096 tokens"),
        ({"prompt": {"template": "chat"}}, "the tokenizer has no chat template"),
        ({"train": {"negative_ratio": 3.0}}, "train.negative_ratio samples pairs"),
        ({"model": {"quantization": "4bit"}}, "model.quantization is 4bit, which needs bitsandbytes"),
        ({"prompt": {"schema": "./no.json"}}, "no.json: no such file"),
        ({"model": {"base": "./no"}}, "model.base: ./no: no such folder"),
    ],
)
def test_errors_of_a_fine_tuning(data: Path, more: dict[str, Any], reason: str) -> None:
    (message,) = reasons(rc(data, **more))
    assert reason in message


def test_documents_longer_than_two_windows(data: Path) -> None:
    (message,) = reasons(rcp(data, model={"max_length": 4096}))
    assert "model.max_length is 4096" in message and "--model.max_length 1022 or less" in message
    checks = rcp(data, model={"max_length": 1024})
    assert not reasons(checks)
    assert any("up to 1022 word pieces, lowered from model.max_length 1024" in check.what for check in checks)


def test_zero_config_is_checked(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmrc.training.backends.zero_config.ZERO_CONFIGS", tmp_path)
    assert "zero2.yaml is missing" in reasons(rc(data))[0]
    assert not reasons(rc(data, train={"backend": "torch"}))


def test_backend_is_not_installed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "is_importable", lambda package: package != "deepspeed")
    assert reasons(rc(data, train={"backend": "deepspeed"})) == [
        "train.backend is deepspeed, which is not installed: pip install deepspeed"
    ]
    assert any("plain torch, without ZeRO" in check.what for check in rc(data) if check.level == "warning")


def test_corpora_must_have_the_same_relations(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    unlabelled = [dataclasses.replace(document, labels=None) for document in synthetic.generate(2, 3)]
    write_corpus(unlabelled, other, synthetic.RELATIONS, "other.json", "0" * 64)
    assert "2 of 2 documents have no labels" in reasons(rcp(data, data={"dev": other}))[0]
    assert "no document has a pair with a relation" in reasons(rc(data, data={"dev": other}))[0]
    missing = reasons(rc(data, data={"dev": tmp_path / "none"}))
    assert len(missing) == 1 and str(tmp_path / "none") in missing[0]


def test_relation_head_needs_the_relations_of_dev(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    relations = RelationSet(synthetic.RELATIONS.ids[::-1], synthetic.RELATIONS.names[::-1])
    write_corpus(synthetic.generate(2, 3), other, relations, "other.json", "0" * 64)
    assert not reasons(rcp(data, data={"dev": other}))
    (message,) = reasons(rcp(data, data={"dev": other}, train={"relation_weight": 1.0}))
    assert "have different relation sets" in message


def test_metric_of_the_relation_head_needs_a_head(data: Path) -> None:
    (message,) = reasons(rcp(data, train={"metric": "relation_f1"}))
    assert "train.metric is relation_f1" in message and "--train.relation-weight 1" in message
    assert not reasons(rcp(data, train={"metric": "relation_f1", "relation_weight": 0.5}))


def test_encoder_without_tokenizer_or_config(data: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    message = reasons(rcp(data, model={"encoder": str(tmp_path)}))
    assert any("tokenizer" in reason for reason in message)


def plan_on(gres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: RcConfig | RcpConfig) -> LaunchPlan:
    fake_site(tmp_path / "site", monkeypatch, Partition(gres=gres))
    return plan_launch(RC if isinstance(config, RcConfig) else RCP, config)


@pytest.mark.parametrize(
    ("gres", "level", "words"),
    [
        ("gpu:a30:8", "warning", "but a30 has 24 GiB"),
        ("gpu:h100:8", "ok", "h100 has 79 GiB"),
        ("gpu:8", "ok", "fits a GPU of 40 GB"),
    ],
)
def test_memory_estimate_is_compared_with_the_partition(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gres: str, level: str, words: str
) -> None:
    config = RcConfig.model_validate({"data": {"train": data / "train", "dev": data / "dev"}, "train": {
        "gradient_checkpointing": True, "zero_stage": 0, "micro_batch_size": 1,
    }})  # fmt: skip
    checks = check_rc(config, plan_on(gres, tmp_path, monkeypatch, config), Inputs())
    (check,) = [check for check in checks if "memory per GPU" in check.what]
    assert check.level == level and words in check.what


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("a100", 80), ("nvidia_a100_80gb", 80), ("a100-40gb", 40), ("A40", 48), ("l40s", 48), ("gh200_120gb", 120)),
        *(("h100_nvl", 80), ("tesla_v100", 32), ("1g.10gb", 10), ("unknown", None)),
    ],
)
def test_memory_of_gpu_types(name: str, size: int | None) -> None:
    assert memory_of(name) == (None if size is None else size * GB)


def test_nearly_full_disk(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from types import SimpleNamespace

    config = RcpConfig.model_validate({
        "data": {"train": data / "train", "dev": data / "dev"}, "model": {"encoder": "roberta-large"},
    })  # fmt: skip
    settled = plan_on("gpu:8", tmp_path, monkeypatch, config)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=5 * 2**30))
    (check,) = [check for check in check_rcp(config, settled, Inputs()) if "free for" in check.what]
    # 356 M parameters in fp32: three checkpoints of three tensors each, and two copies of the best weights.
    assert check.level == "warning" and "5.0 GiB free" in check.what and "about 14.7 GiB" in check.what
