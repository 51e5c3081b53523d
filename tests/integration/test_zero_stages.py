"""RCP and LoRA with every ZeRO stage in two processes give the losses and weights of plain torch in one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lmrc.config.schema import RcConfig, RcpConfig
from lmrc.corpus.corpus import write_corpus
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.launcher.stages import RC, RCP
from lmrc.pretrained import packaged as embedded
from lmrc.training.distributed import ALONE, World
from tests.training.processes import run_in_processes

TRAIN = {"epochs": 1, "batch_size": 4, "micro_batch_size": 1, "precision": "fp32", "warmup": 0, "eval_every": 0}
STAGES = range(4)


def config(stage: str, data: Path, name: str, **train: Any) -> RcpConfig | RcConfig:
    common = {
        "run": {"name": f"{stage}-{name}", "folder": data / "runs"},
        "data": {"train": data / "train", "dev": data / "dev"},
    }
    if stage == "rcp":
        model = {"encoder": str(data / "encoder")}
        return RcpConfig.model_validate({**common, "model": model, "train": {**TRAIN, "learning_rate": 1e-3, **train}})
    return RcConfig.model_validate(
        {
            **common,
            "model": {"base": "embedded:tiny-llm"},
            "lora": {"dropout": 0.0},
            "prompt": {"max_length": 2048},
            "train": {**TRAIN, "learning_rate": 1e-2, "gradient_checkpointing": True, **train},
        }
    )


def train_all(world: World, data: Path) -> None:
    for stage in STAGES:
        for kind, run in (("rcp", RCP.train), ("rc", RC.train)):
            options = config(kind, data, f"zero{stage}", backend="deepspeed", zero_stage=stage)
            (options.run.folder / options.run.name).mkdir(parents=True, exist_ok=True)
            world.barrier()
            assert run is not None
            run(options, world)
    options = config("rc", data, "zero3-bf16", backend="deepspeed", zero_stage=3, precision="bf16")
    options.run.folder.joinpath(options.run.name).mkdir(exist_ok=True)
    world.barrier()
    assert RC.train is not None
    RC.train(options, world)


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row.get("loss", row.get("dev_loss")) for row in rows]


@pytest.mark.slow
def test_both_stages_under_every_zero_stage(tmp_path: Path) -> None:
    for part, documents, seed in (("train", 12, 1), ("dev", 3, 2)):
        write_corpus(synthetic.generate(documents, seed), tmp_path / part, synthetic.RELATIONS, part, "0" * 64)
    _without_dropout(tmp_path / "encoder")
    run_in_processes(2, train_all, tmp_path)
    for kind, run, exported in (("rcp", RCP.train, "model.safetensors"), ("rc", RC.train, "adapter_model.safetensors")):
        options = config(kind, tmp_path, "plain", backend="torch")
        reference = options.run.folder / options.run.name
        reference.mkdir(parents=True)
        assert run is not None
        run(options, ALONE)
        expected, weights = losses(reference), load_file(reference / "best" / exported)
        assert len(expected) == 4  # 3 steps and the evaluation after the epoch
        for stage in STAGES:
            other = options.run.folder / f"{kind}-zero{stage}"
            assert losses(other) == pytest.approx(expected, rel=2e-4), (kind, stage)
            for name, value in load_file(other / "best" / exported).items():
                torch.testing.assert_close(value, weights[name], rtol=1e-2, atol=2e-4, msg=f"{kind} {stage} {name}")
    options = config("rc", tmp_path, "bf16", backend="torch", precision="bf16")
    options.run.folder.joinpath(options.run.name).mkdir()
    assert RC.train is not None
    RC.train(options, ALONE)
    expected = losses(options.run.folder / "rc-bf16")
    assert losses(options.run.folder / "rc-zero3-bf16") == pytest.approx(expected, rel=2e-4)


def _without_dropout(folder: Path) -> None:
    shutil.copytree(embedded.resolve("embedded:tiny-encoder"), folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "hidden_dropout_prob": 0.0}))
