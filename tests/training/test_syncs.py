"""Waits of the host for the device in a training step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmrc.config.schema import RcpConfig, Training
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.runs.run_folder import RunFolder
from lmrc.runs.signals import StopFlag
from lmrc.training.distributed import ALONE, World
from lmrc.training.task import Task
from lmrc.training.trainer import Trainer
from tests.training.toy import ToyTask

TRAIN = {"batch_size": 4, "micro_batch_size": 1, "precision": "fp32", "warmup": 0}
BACKENDS = [{"backend": "torch"}, {"backend": "deepspeed", "zero_stage": 0}]
# Operations that wait for a GPU: a value is read, or the shape of the result depends on values.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_consecutive"}


class Waits(TorchDispatchMode):
    """Counts operations that would wait for the device if the tensors were on one."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS or (name == "_to_copy" and "device" in (kwargs or {}) and not (kwargs or {})["non_blocking"]):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def waits_of_a_step(task: Task, options: Training, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, int]:
    """Return the operations of a training step that would wait for the device, and its reads by `World.sum`."""
    trainer = Trainer(task, options, 1, RunFolder(folder), ALONE)
    stop = StopFlag()
    trainer._step(None, stop, False)  # makes Adam's state
    reads = []
    add_up = World.sum

    def count(world: World, values: Any) -> list[float]:
        reads.append([value for value in values if isinstance(value, Tensor)])
        return add_up(world, values)

    with monkeypatch.context() as patch, Waits() as waits:
        patch.setattr(World, "sum", count)
        trainer._step(None, stop, False)
    assert all(reads)
    return waits.found, len(reads)


def test_the_count_sees_a_wait() -> None:
    with Waits() as waits:
        float(torch.ones(()))
        torch.ones(3).nonzero()
    assert waits.found == {"_local_scalar_dense": 1, "nonzero": 1}


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_a_step_waits_for_the_device_once(
    backend: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four micro-batches: the loss and the norm are read together, at the end of the step."""
    options = Training.model_validate({**TRAIN, **backend})
    assert waits_of_a_step(ToyTask(dropout=0.3), options, tmp_path, monkeypatch) == ({}, 1)


def test_a_step_of_rcp_waits_for_the_device_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmrc.rcp.task import RcpTask

    monkeypatch.setenv("LMRC_CACHE", str(tmp_path / "cache"))
    write_corpus(synthetic.generate(8, 1), tmp_path / "train", synthetic.RELATIONS, "train", "0" * 64)
    corpus = Corpus.open(tmp_path / "train")
    config = RcpConfig.model_validate(
        {"model": {"encoder": "embedded:tiny-encoder", "max_length": 512}, "train": {**TRAIN, "backend": "torch"}}
    )
    found = waits_of_a_step(RcpTask(config, corpus, corpus), config.train, tmp_path, monkeypatch)
    assert found == ({}, 1)
