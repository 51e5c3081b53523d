"""Training options beyond the paper: entity types, sentence distances and the relation head."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lmrc.common.errors import ConfigError, CorpusError
from lmrc.config.schema import RcpConfig
from lmrc.corpus.docred import candidate_pairs
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Label
from lmrc.rcp.data.collate import ordered_pair_indices
from lmrc.rcp.data.tokenization import DocumentTokenizer
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.rcp.model.relation_head import relation_targets
from lmrc.rcp.task import RcpTask
from lmrc.rcp.thresholds import FILE, MIN_LOGIT, find_relation_threshold
from lmrc.training.distributed import ALONE
from tests.rcp import tiny
from tests.rcp.conftest import MakeCorpus
from tests.rcp.test_task import DEV, evaluate_on_ranks

RELATIONS = RelationSet(("P17", "P131", "P27"), ("country", "located in", "citizen of"))
WEIGHT = 0.5


def labelled(document: Document, *labels: tuple[int, int, str]) -> Document:
    return Document(document.title, document.sentences, document.entities, tuple(Label(*label) for label in labels))


TRAIN = [
    labelled(tiny.document(20, [1, 2], seed=1), (0, 1, "P27"), (0, 1, "P17"), (1, 0, "P131")),
    labelled(tiny.document(30, [2, 1, 1], seed=2), (2, 0, "P131"), (0, 2, "P131")),
    labelled(tiny.document(10, [3], seed=3)),
]
RELATED_DEV = [
    labelled(
        document,
        *(
            (head, tail, RELATIONS.ids[(head + tail + number) % 3])
            for number, (head, tail) in enumerate(candidate_pairs(len(document.entities)))
            if number % 3 == 0
        ),
    )
    for document in DEV
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
        metric: str = "f1",
        dev_relations: RelationSet = RELATIONS,
        **options: Any,
    ) -> RcpTask:
        made.append(1)
        training = {"relation_weight": weight, "positive_weight": positive_weight, "metric": metric}
        changed = config.model_copy(
            update={
                "model": config.model.model_copy(update=options),
                "train": config.train.model_copy(update=training),
            }
        )
        torch.manual_seed(66)
        number = len(made)
        corpora = make_corpus(f"train-{number}", train, RELATIONS), make_corpus(f"dev-{number}", dev, dev_relations)
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


def spread(task: RcpTask) -> RelationCandidateModel:
    """Give the relation head logits on both sides of `MIN_LOGIT`, and return the model."""
    model = task.model.eval()
    assert isinstance(model, RelationCandidateModel) and model.relation_head is not None
    torch.manual_seed(4)
    torch.nn.init.normal_(model.relation_head.relation.weight, std=1.0)
    torch.nn.init.constant_(model.relation_head.relation.bias, -4.0)
    return model


def slow_f1(model: RelationCandidateModel, task: RcpTask) -> dict[float, float]:
    """Return F1 of the triples at every threshold of at least `MIN_LOGIT`, counted one by one."""
    tokenizer = DocumentTokenizer(task.tokenizer, model.max_length)
    scored: list[tuple[float, bool]] = []
    for document in RELATED_DEV:
        gold = {(label.head, label.tail, label.relation) for label in document.labels or ()}
        with torch.no_grad():
            _, logits = model.split_outputs(model(model.collate([tokenizer.encode(document)])))
        assert logits is not None
        for pair, row in zip(candidate_pairs(len(document.entities)), logits.tolist(), strict=True):
            scored += [(logit, (*pair, relation) in gold) for relation, logit in zip(RELATIONS.ids, row, strict=True)]
    total = sum(is_gold for _, is_gold in scored)
    kept = [logit for logit, _ in scored if logit >= MIN_LOGIT]
    assert 10 < len(kept) < len(scored)
    assert any(is_gold for logit, is_gold in scored if logit < MIN_LOGIT), "no gold triple is missing"
    f1 = {}
    for threshold in kept:
        found = [is_gold for logit, is_gold in scored if logit >= threshold]
        f1[threshold] = 200 * sum(found) / (len(found) + total)
    return f1


def test_relation_f1_and_its_threshold_equal_a_slow_loop(make_task: MakeTask, tmp_path: Path) -> None:
    """Also over 2, 3 and 9 shards of the 7 documents, whose padding documents must not count."""
    task = make_task(dev=RELATED_DEV)
    model = spread(task)
    f1 = slow_f1(model, task)
    best = max(f1.values())
    assert 5 < best < 95
    with torch.no_grad():
        scores = task.evaluate(model, ALONE)
    assert scores["relation_f1"] == pytest.approx(best)
    task.export(tmp_path / "best", dict(model.named_parameters()))
    threshold, stored = json.loads((tmp_path / "best" / FILE).read_text())["relations"]["f1"]
    assert stored == scores["relation_f1"]
    assert find_relation_threshold(tmp_path / "best", "f1") == threshold
    logit = math.log(threshold / (1 - threshold))
    assert f1[min(kept for kept in f1 if kept >= logit)] == pytest.approx(best)
    for size in (2, 3, 9):
        for result in evaluate_on_ranks(task, size):
            assert result["relation_f1"] == pytest.approx(best)
        task.export(tmp_path / str(size), dict(model.named_parameters()))
        assert find_relation_threshold(tmp_path / str(size), "f1") == pytest.approx(threshold, rel=1e-4)


@torch.no_grad()
def test_evaluation_without_relation_head(make_task: MakeTask, tmp_path: Path) -> None:
    """The other scores do not depend on the head, and there is no relation_f1 without one."""
    task, plain = make_task(), make_task(weight=0.0)
    scores = task.evaluate(task.model.eval(), ALONE)
    relation_f1 = scores.pop("relation_f1")
    # Initial log-odds of all relations are below the floor.
    assert relation_f1 == 0.0
    assert scores == plain.evaluate(plain.model.eval(), ALONE)
    plain.export(tmp_path / "best", dict(plain.model.named_parameters()))
    assert "relations" not in json.loads((tmp_path / "best" / FILE).read_text())


def test_relation_head_is_exported(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task(entity_types=True, sentence_distance=True)
    weights = {name: parameter.detach() + 1 for name, parameter in task.model.named_parameters()}
    task.export(tmp_path / "best", weights)
    loaded, _ = RelationCandidateModel.load(tmp_path / "best")
    assert loaded.relations == RELATIONS.ids
    parameters = dict(loaded.named_parameters())
    assert parameters.keys() == weights.keys()
    assert all(torch.equal(parameters[name], value) for name, value in weights.items())


def test_training_continues_with_the_relation_head(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    weights = {name: parameter.detach() + 0.01 for name, parameter in task.model.named_parameters()}
    task.export(tmp_path / "best", weights)
    further = make_task(encoder=str(tmp_path / "best"))
    assert all(torch.equal(parameter, weights[name]) for name, parameter in further.model.named_parameters())


def test_metric_of_the_relation_head_needs_a_head(make_task: MakeTask) -> None:
    assert make_task(metric="relation_f1")
    with pytest.raises(ConfigError, match=r"train\.metric is relation_f1.*give --train\.relation.weight 1, or another"):
        make_task(weight=0.0, metric="relation_f1")


def test_relation_head_needs_the_relations_of_dev(make_task: MakeTask) -> None:
    other = RelationSet(("P17", "P131"), ("country", "located in"))
    assert make_task(weight=0.0, dev_relations=other)
    with pytest.raises(CorpusError, match=r"have different relation sets, but train\.relation_weight trains"):
        make_task(dev_relations=other)


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
