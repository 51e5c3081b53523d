from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from lmrc.common.errors import CorpusError
from lmrc.config.schema import RcpConfig, RcpTraining
from lmrc.corpus.docred import candidate_pairs, relations_by_pair
from lmrc.rcp.data.tokenization import DocumentTokenizer
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.rcp.task import RcpTask
from lmrc.training.distributed import ALONE, World
from tests.rcp import tiny
from tests.rcp.conftest import MakeCorpus

TRAIN = [
    tiny.document(20, [1, 2, 1], seed=1, labels=((0, 1), (1, 2))),
    tiny.document(30, [2, 1, 1, 1], seed=2, labels=((3, 0), (0, 3), (2, 1))),
    tiny.document(10, [3], seed=3),
    tiny.document(50, [1, 1, 2, 4, 1], seed=4, labels=((4, 0), (1, 3))),
    tiny.document(20, [1, 1], seed=5, labels=((0, 1),)),
]
DEV = [tiny.document(10 + 7 * n, [1 + n % 3, 1, 2, 1][: 1 + n % 4], seed=20 + n, labels=()) for n in range(7)]
DEV = [
    dataclasses.replace(d, labels=tiny.document(5, [], labels=((0, len(d.entities) - 1),)).labels)
    if len(d.entities) > 1
    else d
    for d in DEV
]


@pytest.fixture
def task(config: RcpConfig, make_corpus: MakeCorpus) -> RcpTask:
    torch.manual_seed(66)
    return RcpTask(config, make_corpus("train", TRAIN), make_corpus("dev", DEV))


def test_examples(task: RcpTask) -> None:
    assert len(task) == 5
    assert [task.weight(index) for index in range(5)] == [6, 12, 0, 20, 2]
    assert {task.size(index) for index in range(5)} == {1}
    assert task.unit == "documents"
    batch = task.collate([1, 2, 0])
    expected = []
    for document in (TRAIN[1], TRAIN[2], TRAIN[0]):
        gold = relations_by_pair(document)
        expected += [float(pair in gold) for pair in candidate_pairs(len(document.entities))]
    assert batch["targets"].tolist() == expected


def test_the_fingerprint_is_that_of_the_training_corpus(config: RcpConfig, make_corpus: MakeCorpus) -> None:
    train, dev = make_corpus("train", TRAIN), make_corpus("dev", DEV)
    assert RcpTask(config, train, dev).fingerprint() == train.fingerprint != dev.fingerprint


def test_loss_is_the_sum_over_pairs(task: RcpTask) -> None:
    task.model.eval()
    with torch.no_grad():
        batch = task.collate([0, 1, 2])
        expected = sum(
            -torch.log(torch.sigmoid(logit if target else -logit)).item()
            for logit, target in zip(task.model(batch).squeeze(1), batch["targets"], strict=True)
        )
        assert task.loss(task.model, batch).item() == pytest.approx(expected, rel=1e-5)
        alone = sum(task.loss(task.model, task.collate([index])).item() for index in (0, 1, 2))
        assert alone == pytest.approx(expected, rel=1e-4)


def test_loss_of_a_document_with_one_entity_is_zero(task: RcpTask) -> None:
    loss = task.loss(task.model, task.collate([2]))
    assert loss.item() == 0
    loss.backward()  # type: ignore[no-untyped-call]


def test_parameter_groups_hold_each_parameter_once(task: RcpTask) -> None:
    encoder, rest = task.parameter_groups()
    assert (encoder["lr"], rest["lr"]) == (1e-3, 5e-3)
    names = {parameter: name for name, parameter in task.model.named_parameters()}
    assert {names[p].split(".")[0] for p in encoder["params"]} == {"encoder"}
    assert {names[p].split(".")[0] for p in rest["params"]} == {"classifier"}
    assert len(encoder["params"]) + len(rest["params"]) == len(names)


def test_initial_weights_follow_the_seed(config: RcpConfig, make_corpus: MakeCorpus) -> None:
    train, dev = make_corpus("train", TRAIN), make_corpus("dev", DEV)

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in RcpTask(config, train, dev).model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@torch.no_grad()
def test_evaluation_by_hand(task: RcpTask) -> None:
    task.model.eval()
    torch.nn.init.normal_(task.model.get_parameter("classifier.bilinear.weight"), std=1.0)
    scores = task.evaluate(task.model, ALONE)
    model = task.model
    assert isinstance(model, RelationCandidateModel)
    tokenizer = DocumentTokenizer(task.tokenizer, model.max_length)
    correct = proposed = gold = pairs = 0
    loss = 0.0
    for document in DEV:
        related = relations_by_pair(document)
        logits = model.classifier.logits(model(model.collate([tokenizer.encode(document)])))
        gold += len(related)
        for pair, logit in zip(candidate_pairs(len(document.entities)), logits.tolist(), strict=True):
            pairs += 1
            proposed += logit >= 0
            correct += logit >= 0 and pair in related
            loss -= torch.nn.functional.logsigmoid(torch.tensor(logit if pair in related else -logit)).item()
    assert 0 < correct < proposed
    assert scores["precision"] == pytest.approx(100 * correct / proposed)
    assert scores["recall"] == pytest.approx(100 * correct / gold)
    assert scores["f1"] == pytest.approx(200 * correct / (proposed + gold))
    assert scores["loss"] == pytest.approx(loss / pairs, rel=1e-4)
    assert scores["best_f1"] >= scores["f1"]
    assert 0 < scores["average_precision"] <= 100


def test_evaluation_batches_are_larger_on_a_gpu(task: RcpTask, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    collate = task._collate

    def counted(examples: Any) -> Any:
        sizes.append(len(examples))
        return collate(examples)

    monkeypatch.setattr(task, "_collate", counted)
    monkeypatch.setattr("lmrc.rcp.task.to_device", lambda batch, device: batch)
    monkeypatch.setattr(task, "_config", task._config.model_copy(update={"train": RcpTraining(micro_batch_size=1)}))
    task.model.eval()
    with torch.no_grad():
        on_cpu = task.evaluate(task.model, ALONE)
        assert sizes == [1] * 7
        sizes.clear()
        assert task.evaluate(task.model, World(0, 1, torch.device("cuda"))) == pytest.approx(on_cpu, rel=1e-4)
        assert sizes == [4, 3]


class _Thread(World):
    """World of a rank that is a thread; `gather` exchanges values in a list."""

    def gather(self, value: Any) -> list[Any]:
        PARTS[self.rank] = value
        BARRIER.wait(60)
        return list(PARTS)


PARTS: list[Any] = []
BARRIER = threading.Barrier(1)


def evaluate_on_ranks(task: RcpTask, size: int) -> list[dict[str, float]]:
    """Return the scores that each rank gets; all ranks make the same number of forward passes."""
    global BARRIER
    model = task.model.eval()
    passes = [0] * size
    BARRIER = threading.Barrier(size)
    PARTS[:] = [None] * size
    results: list[dict[str, float]] = [{}] * size

    def evaluate(rank: int) -> None:
        def counted(batch: dict[str, Any]) -> torch.Tensor:
            passes[rank] += 1
            with lock, torch.no_grad():  # the hooks of the encoder are not thread-safe
                outputs: torch.Tensor = model(batch)
            return outputs

        results[rank] = task.evaluate(counted, _Thread(rank, size, torch.device("cpu")))  # type: ignore[arg-type]

    lock = threading.Lock()
    threads = [threading.Thread(target=evaluate, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(passes)) == 1
    return results


@pytest.mark.parametrize("size", [2, 3, 9])
def test_evaluation_does_not_depend_on_the_number_of_ranks(task: RcpTask, size: int) -> None:
    """With 9 ranks for 7 documents, two ranks only repeat documents."""
    results = evaluate_on_ranks(task, size)
    with torch.no_grad():
        alone = task.evaluate(task.model, ALONE)
    assert len(results) == size
    for result in results:
        assert result == pytest.approx(alone, rel=1e-4)


def test_it_learns(config: RcpConfig, make_corpus: MakeCorpus) -> None:
    corpus = make_corpus("four", [TRAIN[0], TRAIN[1], TRAIN[3], TRAIN[4]])
    torch.manual_seed(66)
    task = RcpTask(config, corpus, corpus)
    optimizer = torch.optim.AdamW(task.parameter_groups(), eps=1e-6, weight_decay=0.0)
    losses = []
    for _ in range(80):
        batch = task.collate(range(4))
        loss = task.loss(task.model.train(), batch)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        scores = task.evaluate(task.model.eval(), ALONE)
    assert losses[-1] < losses[0] / 5
    assert scores["f1"] == scores["average_precision"] == 100.0


def test_export_and_load(task: RcpTask, tmp_path: Path) -> None:
    weights = {name: parameter.detach() + 1 for name, parameter in task.model.named_parameters()}
    task.export(tmp_path / "best", weights)
    loaded, _ = RelationCandidateModel.load(tmp_path / "best")
    assert {name: value.tolist() for name, value in loaded.named_parameters()} == {
        name: value.tolist() for name, value in weights.items()
    }


@pytest.mark.parametrize("native", [True, False])
def test_precision_is_exported(
    config: RcpConfig, make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr("lmrc.training.precision.bf16_is_native", lambda: native)
    train = config.train.model_copy(update={"precision": "auto"})
    task = RcpTask(config.model_copy(update={"train": train}), make_corpus("train", TRAIN), make_corpus("dev", DEV))
    task.export(tmp_path / "best", dict(task.model.named_parameters()))
    loaded, _ = RelationCandidateModel.load(tmp_path / "best")
    assert loaded.precision == ("bf16" if native else "fp32")


def test_truncation_is_logged(config: RcpConfig, make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture) -> None:
    long = tiny.document(60, [1] * 12, seed=8, labels=((0, 1),))
    short = config.model_copy(update={"model": config.model.model_copy(update={"max_length": 16})})
    corpus = make_corpus("long", [long])
    RcpTask(short, corpus, corpus)
    cut = DocumentTokenizer(tiny.tokenizer("bert"), 16).encode(long).cut_mentions
    assert cut > 0
    assert f"beyond 16 word pieces: {cut} mentions, {cut} entities with all their mentions" in caplog.text


def test_documents_without_labels_are_rejected(config: RcpConfig, make_corpus: MakeCorpus) -> None:
    unlabelled = make_corpus("test", [tiny.document(10, [1, 1], title="A film", labels=None)])
    with pytest.raises(CorpusError, match="'A film' has no labels"):
        RcpTask(config, unlabelled, unlabelled)


def test_card_states_the_lowered_max_length(config: RcpConfig, make_corpus: MakeCorpus, tmp_path: Path) -> None:
    asked = config.model_copy(update={"model": config.model.model_copy(update={"max_length": 2 * tiny.POSITIONS})})
    task = RcpTask(asked, make_corpus("train", TRAIN), make_corpus("dev", DEV))
    task.export(tmp_path / "best", dict(task.model.named_parameters()))
    assert "documents up to 94 word pieces" in (tmp_path / "best" / "README.md").read_text()
    assert RelationCandidateModel.load(tmp_path / "best")[0].max_length == 94
