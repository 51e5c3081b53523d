"""Model options beyond the paper: entity types, sentence distances and the relation head."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmrc.config.schema import ClassifierKind
from lmrc.corpus.docred import candidate_pairs
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Label
from lmrc.rcp.data.collate import Batch
from lmrc.rcp.data.tokenization import DocumentTokenizer
from lmrc.rcp.model.model import RelationCandidateModel, predicts_relations
from lmrc.rcp.model.relation_head import relation_targets
from tests.rcp import reference, tiny
from tests.rcp.model.test_model import DOCUMENTS, KINDS, LONGEST, _Syncs

CLASSIFIERS: tuple[ClassifierKind, ...] = ("bilinear", "grouped")
# MISC is an unknown type.
TYPES = ("ORG", "PER")
RELATIONS = RelationSet(("P17", "P131", "P27"), ("country", "located in", "citizen of"))


def build(
    kind: tiny.Kind = "bert",
    classifier: ClassifierKind = "bilinear",
    relations: bool = False,
    dropout: float = 0.0,
    types: tuple[str, ...] = TYPES,
) -> RelationCandidateModel:
    """Return a model with large weights, so that differences are visible."""
    model = RelationCandidateModel(
        tiny.encoder(kind, dropout=dropout),
        1024,
        classifier,
        entity_types=types,
        sentence_distance=True,
        relations=RELATIONS.ids if relations else (),
    )
    torch.manual_seed(3)
    # Row 0, for unknown types, stays zero.
    for embedding in (model.classifier.head_type, model.classifier.tail_type):
        torch.nn.init.normal_(embedding.weight[1:], std=0.5)
    torch.nn.init.normal_(model.classifier.distance.weight, std=0.5)
    weight = model.classifier.bilinear.weight if classifier == "bilinear" else model.classifier.weight
    torch.nn.init.normal_(weight, std=0.5 if classifier == "bilinear" else 0.05)
    torch.nn.init.normal_(model.classifier.bias, std=0.3)
    return model.eval()


def labelled(document: Document, seed: int = 0) -> Document:
    """Return the document with random relations: about two thirds of the pairs have one or more."""
    pairs = candidate_pairs(len(document.entities))
    torch.manual_seed(seed)
    drawn = (torch.rand(len(pairs), len(RELATIONS)) < 0.3).nonzero().tolist()
    labels = tuple(Label(*pairs[pair], RELATIONS.ids[relation]) for pair, relation in drawn)
    return Document(document.title, document.sentences, document.entities, labels)


def batch_of(model: RelationCandidateModel, kind: tiny.Kind, documents: Sequence[Document], relations: bool) -> Batch:
    tokenizer = DocumentTokenizer(tiny.tokenizer(kind), model.max_length)
    batch = model.collate([tokenizer.encode(document) for document in documents])
    if not relations:
        return batch
    targets = [relation_targets(len(document.entities), document.labels or (), RELATIONS) for document in documents]
    return {**batch, "relations": torch.from_numpy(np.concatenate(targets))}


def reference_projections(
    model: RelationCandidateModel, kind: tiny.Kind, document: Document
) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    encoded = DocumentTokenizer(tiny.tokenizer(kind), model.max_length).encode(document)
    twin = tiny.encoder(kind).double().eval()
    hidden, attention = reference.encode(
        twin, encoded.input_ids.tolist(), tiny.POSITIONS, separators={"bert": 1, "roberta": 2}[kind]
    )
    markers = [list(positions) for positions in encoded.marker_positions]
    return reference.project(dict(model.state_dict()), hidden, attention, markers, document, TYPES)


@pytest.mark.parametrize(
    ("kind", "name", "classifier"),
    [(kind, name, "bilinear") for kind in KINDS for name in DOCUMENTS]
    + [("bert", "two windows", "grouped"), ("roberta", "cut off", "grouped")],
)
@torch.no_grad()
def test_equations_one_pair_at_a_time(kind: tiny.Kind, name: str, classifier: ClassifierKind) -> None:
    model = build(kind, classifier).double()
    assert model.max_length == LONGEST[kind]
    document = DOCUMENTS[name]
    actual = model.classifier.logits(model(batch_of(model, kind, [document], False)))
    expected = reference.logits(dict(model.state_dict()), reference_projections(model, kind, document))
    assert list(expected) == candidate_pairs(len(document.entities))
    assert torch.allclose(actual, torch.tensor(list(expected.values()), dtype=actual.dtype), atol=1e-10)
    if len(expected) > 1:
        assert actual.std() > 0.01
    if name == "cut off":
        encoded = DocumentTokenizer(tiny.tokenizer(kind), model.max_length).encode(document)
        assert () in encoded.marker_positions, "the document has no entity whose mentions are all truncated"


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@torch.no_grad()
def test_losses_of_relations_one_pair_at_a_time(classifier: ClassifierKind) -> None:
    """Compare the last column with the losses of all pairs; the other columns do not change."""
    model = build("bert", classifier, relations=True).double()
    documents = [labelled(DOCUMENTS[name]) for name in ("two windows", "single entity", "one window")]
    outputs = model(batch_of(model, "bert", documents, True))
    logits = model(batch_of(model, "bert", documents, False))
    assert torch.equal(outputs[:, :-1], logits[:, : -len(RELATIONS)])
    weights, expected = dict(model.state_dict()), []
    for document in documents:
        gold: dict[tuple[int, int], set[int]] = {}
        for label in document.labels or ():
            gold.setdefault((label.head, label.tail), set()).add(RELATIONS.index(label.relation))
        assert len(document.entities) == 1 or max(map(len, gold.values())) > 1
        for pair, (z_s, z_o) in reference_projections(model, "bert", document).items():
            expected.append(reference.relation_loss(weights, z_s, z_o, gold.get(pair, set())))
    assert len(expected) == 20 + 12
    assert torch.allclose(outputs[:, -1], torch.tensor(expected, dtype=outputs.dtype), atol=1e-10)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@torch.no_grad()
def test_logits_of_relations_one_pair_at_a_time(classifier: ClassifierKind) -> None:
    model, plain = build("bert", classifier, relations=True).double(), build("bert", classifier).double()
    documents = [DOCUMENTS[name] for name in ("two windows", "single entity", "one window")]
    batch = batch_of(model, "bert", documents, False)
    candidates, relations = model.split_outputs(model(batch))
    weights = dict(model.state_dict())
    pairs = [pair for document in documents for pair in reference_projections(model, "bert", document).values()]
    expected = torch.tensor([reference.relation_logits(weights, *pair) for pair in pairs], dtype=torch.float64)
    assert relations is not None and relations.shape == expected.shape == (20 + 12, len(RELATIONS))
    assert expected.std(0).min() > 0.01
    assert torch.allclose(relations, expected, atol=1e-10)
    # The classifier does not depend on the head. A model without one has no such logits.
    plain.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith("relation_head.")})
    alone, nothing = plain.split_outputs(plain(batch))
    assert torch.equal(candidates, alone) and nothing is None


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@torch.no_grad()
def test_features_do_not_change_initial_outputs(classifier: ClassifierKind) -> None:
    """Compare the logits of a seed with and without features, bit by bit."""
    results = []
    for options in ({}, {"entity_types": TYPES}, {"sentence_distance": True}):
        encoder = tiny.encoder("bert")
        torch.manual_seed(5)
        model = RelationCandidateModel(encoder, 1024, classifier, **options).eval()
        results.append((model(batch_of(model, "bert", list(DOCUMENTS.values()), False)), torch.rand(1)))
    assert all(torch.equal(outputs, results[0][0]) for outputs, _ in results)
    # Later random numbers are the same too.
    assert len({drawn.item() for _, drawn in results}) == 1


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_gradients_of_the_new_weights(classifier: ClassifierKind) -> None:
    """Compare with finite differences; the row of unknown types has no gradient and is omitted."""
    model = build("bert", classifier, relations=True, types=tiny.TYPES).double()
    batch = batch_of(model, "bert", [labelled(DOCUMENTS["one window"])], True)
    parts = ("classifier.head_type", "classifier.tail_type", "classifier.distance", "relation_head.")
    names = [name for name, _ in model.named_parameters() if name.startswith(parts)]
    assert len(names) == 3 + 6

    def loss(*new: Tensor) -> Tensor:
        outputs: Tensor = torch.func.functional_call(model, dict(zip(names, new, strict=True)), (batch,))
        return outputs.sum()

    given = tuple(model.get_parameter(name).detach().clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(loss, given, fast_mode=True)
    for name, grad in zip(names, torch.autograd.grad(loss(*given), given), strict=True):
        assert grad.abs().max() > 1e-4, name


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_blocks_of_pairs_equal_a_single_block(classifier: ClassifierKind, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for limit in (2**14, 40, 1):
        monkeypatch.setattr("lmrc.rcp.model.model.BLOCK_PAIRS", limit)
        model = build("bert", classifier, relations=True).double()
        documents = [
            labelled(tiny.document(25, [1 + index % 3 for index in range(14)], seed=5)),
            DOCUMENTS["one window"],
        ]
        outputs = model(batch_of(model, "bert", documents, True))
        (outputs * torch.arange(outputs.numel()).view_as(outputs).sin()).sum().backward()
        results.append((outputs.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}))
    for outputs, grads in results[1:]:
        assert torch.allclose(outputs, results[0][0], atol=1e-12)
        for name, grad in grads.items():
            assert torch.allclose(grad, results[0][1][name], atol=1e-10), name


def test_embedding_of_unknown_types_stays_zero() -> None:
    model = build("bert").train()
    assert "MISC" in {entity[0].type for entity in DOCUMENTS["one window"].entities}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    before = model.classifier.head_type.weight.clone()
    model(batch_of(model, "bert", [DOCUMENTS["one window"]], False)).sum().backward()
    optimizer.step()
    for embedding in (model.classifier.head_type, model.classifier.tail_type):
        assert not embedding.weight[0].any()
    assert (model.classifier.head_type.weight[1:] != before[1:]).any(1).all()


def test_batch_without_pairs_has_zero_gradients() -> None:
    model = build("bert", relations=True)
    documents = [DOCUMENTS["single entity"], tiny.document(200, [1], seed=6, labels=())]
    outputs = model(batch_of(model, "bert", documents, True))
    assert outputs.shape == (0, 2)
    outputs.sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_forward_and_backward_never_synchronize() -> None:
    model = build("bert", relations=True, dropout=0.1).train()
    documents = [labelled(DOCUMENTS[name]) for name in ("two windows", "one window", "60 entities")]
    batch = batch_of(model, "bert", documents, True)
    with _Syncs() as syncs:
        model(batch).sum().backward()
    assert syncs.operations == []


@torch.no_grad()
def test_bf16_keeps_outputs_and_losses_in_float32() -> None:
    model = build("bert", relations=True)
    batch = batch_of(model, "bert", [labelled(DOCUMENTS["two windows"])], True)
    exact = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = model(batch)
    assert coarse.dtype == torch.float32
    assert (exact - coarse).abs().max() < 0.3


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("relations", [False, True])
@torch.no_grad()
def test_save_and_load(classifier: ClassifierKind, relations: bool, tmp_path: Path) -> None:
    """Features and relation head are saved bit for bit."""
    model = build("bert", classifier, relations)
    model.save(tmp_path, tiny.tokenizer("bert"), dict(model.named_parameters()))
    assert predicts_relations(tmp_path) == relations
    loaded, _ = RelationCandidateModel.load(tmp_path)
    assert loaded.relations == model.relations == (RELATIONS.ids if relations else ())
    assert (loaded.features.types, loaded.features.distance) == (TYPES, True)
    expected, actual = model.state_dict(), loaded.state_dict()
    assert sum(name.startswith("relation_head.") for name in actual) == (6 if relations else 0)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())
    documents = list(DOCUMENTS.values())
    batch = batch_of(model, "bert", documents, False)
    assert torch.equal(loaded(batch_of(loaded, "bert", documents, False)), model(batch))


def test_load_model_saved_without_feature_options(tmp_path: Path) -> None:
    model = RelationCandidateModel(tiny.encoder("bert"), 80).eval()
    model.save(tmp_path, tiny.tokenizer("bert"))
    file = tmp_path / "config.json"
    config: dict[str, Any] = json.loads(file.read_text())
    config["relation_candidate_proposal"] = {"max_length": 80, "classifier": "bilinear"}
    file.write_text(json.dumps(config))
    loaded, _ = RelationCandidateModel.load(tmp_path)
    assert (loaded.features.types, loaded.features.distance, loaded.relations) == ((), False, ())
    assert not predicts_relations(tmp_path)
    with torch.no_grad():
        batch = batch_of(model, "bert", [DOCUMENTS["one window"]], False)
        assert "types" not in batch
        assert torch.equal(loaded(batch), model(batch))
