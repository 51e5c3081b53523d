"""Training options beyond the paper: entity types, sentence distances and the auxiliary relation head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lmrc.config.schema import RcpConfig
from lmrc.corpus.docred import candidate_pairs
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Label
from lmrc.rcp.data.collate import ordered_pair_indices
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.rcp.model.relation_head import AuxiliaryRelationHead, relation_targets
from lmrc.rcp.task import RcpTask
from lmrc.training.distributed import ALONE
from tests.rcp import tiny
from tests.rcp.conftest import MakeCorpus
from tests.rcp.test_task import DEV

RELATIONS = RelationSet(("P17", "P131", "P27"), ("country", "located in", "citizen of"))
WEIGHT = 0.5


def labelled(document: Document, *labels: tuple[int, int, str]) -> Document:
    return Document(document.title, document.sentences, document.entities, tuple(Label(*label) for label in labels))


TRAIN = [
    labelled(tiny.document(20, [1, 2], seed=1), (0, 1, "P27"), (0, 1, "P17"), (1, 0, "P131")),
    labelled(tiny.document(30, [2, 1, 1], seed=2), (2, 0, "P131"), (0, 2, "P131")),
    labelled(tiny.document(10, [3], seed=3)),
]
MakeTask = Callable[..., RcpTask]


@pytest.fixture
def make_task(config: RcpConfig, make_corpus: MakeCorpus) -> MakeTask:
    made = []

    def make(
        train: Sequence[Document] = TRAIN,
        dev: Sequence[Document] = DEV,
        weight: float = WEIGHT,
        positive_weight: float = 1.0,
        **options: Any,
    ) -> RcpTask:
        made.append(1)
        training = {"relation_weight": weight, "positive_weight": positive_weight}
        changed = config.model_copy(
            update={
                "model": config.model.model_copy(update=options),
                "train": config.train.model_copy(update=training),
            }
        )
        torch.manual_seed(66)
        number = len(made)
        corpora = make_corpus(f"train-{number}", train, RELATIONS), make_corpus(f"dev-{number}", dev, RELATIONS)
        return RcpTask(changed, *corpora)

    return make


def test_targets_by_hand() -> None:
    """Rows of three entities are (0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)."""
    targets = [relation_targets(len(d.entities), d.labels or (), RELATIONS).astype(int).tolist() for d in TRAIN]
    assert targets[0] == [[1, 0, 1], [0, 1, 0]]
    assert targets[1] == [[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert targets[2] == []


@pytest.mark.parametrize("seed", range(5))
def test_targets_in_pair_order_equal_the_labels(seed: int) -> None:
    torch.manual_seed(seed)
    pairs = candidate_pairs(6)
    expected = torch.rand(len(pairs), 3) < 0.2
    labels = [Label(*pairs[pair], RELATIONS.ids[relation]) for pair, relation in expected.nonzero().tolist()]
    targets = relation_targets(6, labels, RELATIONS)
    assert targets[ordered_pair_indices(6)].tolist() == expected.tolist()


@torch.no_grad()
def test_loss_is_the_sum_of_both_losses(make_task: MakeTask) -> None:
    task = make_task()
    model = task.model.eval()
    batch = task.collate([0, 1, 2])
    outputs = model(batch)
    assert outputs.shape == (2 + 6, 2)
    candidates = torch.nn.functional.binary_cross_entropy_with_logits(
        outputs[:, 0], batch["targets"], reduction="sum"
    ).item()
    # Initial probabilities are low, so the loss is small without relations and large with two of them.
    relation_losses = outputs[:, 1].tolist()
    assert relation_losses[0] > 11 and relation_losses[1] > 5 and relation_losses[2] < 0.1
    assert task.loss(model, batch).item() == pytest.approx(candidates + WEIGHT * sum(relation_losses), rel=1e-5)
    alone = sum(task.loss(model, task.collate([index])).item() for index in (0, 1, 2))
    assert alone == pytest.approx(task.loss(model, batch).item(), rel=1e-4)


@pytest.mark.parametrize("weight", [0.0, WEIGHT])
@torch.no_grad()
def test_positive_weight(make_task: MakeTask, weight: float) -> None:
    """Only the candidate loss is weighted, not the relation loss."""
    plain, task = make_task(weight=weight), make_task(weight=weight, positive_weight=3.0)
    batch = plain.collate([0, 1])
    outputs = plain.model.eval()(batch)
    positive = batch["targets"] > 0
    more = 2 * -torch.nn.functional.logsigmoid(outputs[positive, 0]).sum().item()
    assert more > 1
    expected = plain.loss(plain.model, batch).item() + more
    assert task.loss(task.model.eval(), batch).item() == pytest.approx(expected, rel=1e-5)
    # The dev loss is not weighted.
    assert task.evaluate(task.model, ALONE)["loss"] == plain.evaluate(plain.model, ALONE)["loss"]


def test_relation_head_is_trained_and_checkpointed(make_task: MakeTask) -> None:
    """Parameters of `task.model` are optimized and saved by the training loop."""
    task = make_task(entity_types=True, sentence_distance=True)
    names = {parameter: name for name, parameter in task.model.named_parameters()}
    layers = {name for name in names.values() if name.startswith("relation_head.")}
    assert layers == {
        f"relation_head.{layer}.{kind}" for layer in ("head", "tail", "relation") for kind in ("weight", "bias")
    }
    encoder, new = task.parameter_groups()
    assert new["lr"] == 5e-3
    assert {names[parameter].split(".")[0] for parameter in new["params"]} == {"classifier", "relation_head"}
    assert len(encoder["params"]) + len(new["params"]) == len(names) == len({*encoder["params"], *new["params"]})
    task.loss(task.model.train(), task.collate([0, 1])).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in new["params"])


def test_relation_head_does_not_change_other_weights(make_task: MakeTask) -> None:
    task, plain = make_task(), make_task(weight=0.0)
    assert "relations" not in plain.collate([0])
    weights = dict(task.model.named_parameters())
    for name, parameter in plain.model.named_parameters():
        assert torch.equal(parameter, weights.pop(name)), "the other weights depend on the seed alone"
    assert len(weights) == 6


@torch.no_grad()
def test_evaluation_skips_the_relation_head(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    task, plain = make_task(), make_task(weight=0.0)
    monkeypatch.setattr(AuxiliaryRelationHead, "forward", None)
    assert task.evaluate(task.model.eval(), ALONE) == plain.evaluate(plain.model.eval(), ALONE)


def test_relation_head_is_not_exported(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task(entity_types=True, sentence_distance=True)
    weights = {name: parameter.detach() + 1 for name, parameter in task.model.named_parameters()}
    task.export(tmp_path / "best", weights)
    file = load_file(tmp_path / "best" / "model.safetensors")
    assert {*weights} - {*file} == {name for name in weights if name.startswith("relation_head.")} != set()
    loaded, _ = RelationCandidateModel.load(tmp_path / "best")
    assert loaded.relation_head is None
    for name, value in loaded.named_parameters():
        assert torch.equal(value, weights[name])


def test_types_are_those_of_training(make_task: MakeTask, caplog: pytest.LogCaptureFixture) -> None:
    """TRAIN has the types PER, ORG and MISC; only its second document has MISC."""
    task = make_task(entity_types=True)
    assert isinstance(task.model, RelationCandidateModel)
    assert task.model.features.types == ("MISC", "ORG", "PER")
    assert "MISC, ORG, PER: 0 entities" in caplog.text
    caplog.clear()
    task = make_task([TRAIN[0]], entity_types=True)
    assert isinstance(task.model, RelationCandidateModel)
    assert task.model.features.types == ("ORG", "PER")
    unknown = sum(entity[0].type == "MISC" for document in DEV for entity in document.entities)
    assert unknown > 0
    train, dev = caplog.messages
    assert train.startswith("train") and train.endswith("types other than ORG, PER: 0 entities")
    assert dev.startswith("dev") and dev.endswith(f"types other than ORG, PER: {unknown} entities")
    caplog.clear()
    make_task()
    assert "types other" not in caplog.text


@pytest.mark.parametrize("classifier", ["bilinear", "grouped"])
def test_it_learns(make_task: MakeTask, classifier: str) -> None:
    task = make_task(TRAIN, TRAIN, classifier=classifier, entity_types=True, sentence_distance=True)
    optimizer = torch.optim.AdamW(task.parameter_groups(), eps=1e-6, weight_decay=0.0)
    losses = []
    for _ in range(40):
        loss = task.loss(task.model.train(), task.collate(range(3)))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < losses[0] / 5
    with torch.no_grad():
        assert task.evaluate(task.model.eval(), ALONE)["f1"] == 100.0
