from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from lmrc.config.schema import (
    LoraOptions,
    PromptKind,
    PromptOptions,
    PromptTemplate,
    RcConfig,
    RcModelOptions,
    RcTraining,
    TrainingData,
)
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.types import Document
from lmrc.rc.task import RcTask
from lmrc.training.distributed import ALONE
from tests.rc import tiny


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny random causal LM with its tokenizer."""
    return tiny.save_base(tmp_path_factory.mktemp("base"))


class Learnt(NamedTuple):
    """A task that knows its corpus by heart."""

    task: RcTask
    corpus: Corpus
    adapter: Path
    """What the task exported."""
    loss_before: float
    loss: float
    """A token, of the corpus itself."""


def by_heart(
    base: Path,
    folder: Path,
    kind: PromptKind,
    documents: list[Document],
    steps: int,
    template: PromptTemplate | None = None,
) -> Learnt:
    corpus = tiny.corpus(folder / "corpus", documents)
    config = RcConfig(
        data=TrainingData(train=corpus.folder, dev=corpus.folder),
        model=RcModelOptions(base=str(base)),
        lora=LoraOptions(r=16, alpha=32, dropout=0.0),
        prompt=PromptOptions(kind=kind, template=template),
        train=RcTraining(learning_rate=0.02, precision="fp32"),
    )
    task = RcTask(config, corpus, corpus)
    with torch.no_grad():
        before = task.evaluate(task.model, ALONE)["loss"]
    everything = range(len(task))
    batch = task.collate(everything)
    weight = sum(task.weight(index) for index in everything)
    optimizer = torch.optim.AdamW(task.parameter_groups())
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (task.loss(task.model, batch) / weight).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    task.model.eval()
    with torch.no_grad():
        after = task.evaluate(task.model, ALONE)["loss"]
    weights = {name: p.detach().clone() for name, p in task.model.named_parameters() if p.requires_grad}
    task.export(folder / "adapter", weights)
    return Learnt(task, corpus, folder / "adapter", before, after)


@pytest.fixture(scope="session")
def learnt(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    """Return an adapter that has memorized the relations of the gold pairs."""
    return by_heart(base, tmp_path_factory.mktemp("learnt"), "rc", tiny.DOCUMENTS, 130)


@pytest.fixture(scope="session")
def learnt_newline(tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    """Return the same with a tokenizer that merges brackets with newlines."""
    base = tiny.save_base(tmp_path_factory.mktemp("newline_base"), lm_tokenizer=tiny.newline_tokenizer())
    return by_heart(base, tmp_path_factory.mktemp("newline"), "rc", tiny.DOCUMENTS, 130)


@pytest.fixture(scope="session")
def learnt_wide(tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    """Return the same with a base whose head size vLLM has kernels for."""
    base = tiny.save_base(tmp_path_factory.mktemp("wide_base"), head_size=32)
    return by_heart(base, tmp_path_factory.mktemp("wide"), "rc", tiny.DOCUMENTS, 60)


@pytest.fixture(scope="session")
def learnt_direct(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    """Return an adapter that has memorized the answers for all pairs of the last two documents."""
    return by_heart(base, tmp_path_factory.mktemp("direct"), "direct", tiny.DOCUMENTS[1:], 80)


@pytest.fixture(scope="session")
def learnt_likelihood(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    """Return an adapter that has memorized the lines of the gold triples."""
    return by_heart(base, tmp_path_factory.mktemp("likelihood"), "likelihood", tiny.DOCUMENTS, 80)
