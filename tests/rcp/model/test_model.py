from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmrc.common.errors import UserError
from lmrc.config.schema import RcpTraining
from lmrc.corpus.docred import candidate_pairs
from lmrc.corpus.types import Document
from lmrc.rcp.data.tokenization import DocumentTokenizer
from lmrc.rcp.model.losses import training_loss
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.training.activation_checkpointing import enable_activation_checkpointing
from tests.rcp import reference, tiny

KINDS: tuple[tiny.Kind, ...] = ("bert", "roberta")
# Both windows contain [CLS]; the first one also has one or two [SEP].
LONGEST = {"bert": 2 * tiny.POSITIONS - 2, "roberta": 2 * tiny.POSITIONS - 3}
DOCUMENTS = {
    "one window": tiny.document(15, [1, 3, 2, 1], seed=1),
    "two windows": tiny.document(40, [1, 4, 2, 7, 1], seed=2),
    "cut off": tiny.document(120, [1, 2, 6, 1, 3, 1], seed=3),
    "single entity": tiny.document(12, [2], seed=4),
    "60 entities": tiny.document(25, [1 + (index % 3) for index in range(60)], seed=5),
}


def build(kind: tiny.Kind, dropout: float = 0.0, max_length: int = 1024) -> RelationCandidateModel:
    model = RelationCandidateModel(tiny.encoder(kind, dropout=dropout), max_length)
    # Large weights, so that differences are visible.
    torch.nn.init.normal_(model.classifier.bilinear.weight, std=0.5)
    torch.nn.init.constant_(model.classifier.bias, 0.3)
    return model.eval()


def scores(model: RelationCandidateModel, kind: tiny.Kind, documents: list[Document]) -> list[Tensor]:
    tokenizer = DocumentTokenizer(tiny.tokenizer(kind), model.max_length)
    encoded = [tokenizer.encode(document) for document in documents]
    logits = model.classifier.logits(model(model.collate(encoded)))
    return list(logits.split([document.num_pairs for document in encoded]))


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_equations_one_pair_at_a_time(kind: tiny.Kind, name: str) -> None:
    model = build(kind).double()
    assert model.max_length == LONGEST[kind]
    document = DocumentTokenizer(tiny.tokenizer(kind), model.max_length).encode(DOCUMENTS[name])
    length = len(document.input_ids)
    assert {
        "one window": length <= tiny.POSITIONS,
        "two windows": tiny.POSITIONS + 10 < length < LONGEST[kind],
        "cut off": length == LONGEST[kind] and document.cut_mentions > 0 and () in document.marker_positions,
    }.get(name, True), "the document does not match its name"
    actual = model.classifier.logits(model(model.collate([document])))

    twin = tiny.encoder(kind).double().eval()
    hidden, attention = reference.encode(
        twin, document.input_ids.tolist(), tiny.POSITIONS, separators={"bert": 1, "roberta": 2}[kind]
    )
    weights = dict(model.state_dict())
    expected = reference.logits(
        weights, reference.project(weights, hidden, attention, [list(m) for m in document.marker_positions])
    )
    pairs = candidate_pairs(document.num_entities)
    assert list(expected) == pairs
    assert torch.allclose(actual, torch.tensor([expected[pair] for pair in pairs], dtype=actual.dtype), atol=1e-10)
    if len(pairs) > 1:
        assert actual.std() > 0.01


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_scores_do_not_depend_on_the_batch(kind: tiny.Kind) -> None:
    model = build(kind)
    documents = list(DOCUMENTS.values())
    alone = [scores(model, kind, [document])[0] for document in documents]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [3, 0], [1, 3]):
        together = scores(model, kind, [documents[index] for index in order])
        for index, logits in zip(order, together, strict=True):
            assert torch.allclose(logits, alone[index], atol=2e-5), index


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_eager_attention(kind: tiny.Kind) -> None:
    """Gradients flow through the captured queries and keys of the last layer."""
    documents = [DOCUMENTS["two windows"], DOCUMENTS["one window"]]
    model = build(kind).double()
    torch.cat(scores(model, kind, documents)).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(grad is not None for grad in gradients.values())

    model = build(kind).double()
    weights, total = dict(model.named_parameters()), torch.zeros(()).double()
    for document in documents:
        encoded = DocumentTokenizer(tiny.tokenizer(kind), model.max_length).encode(document)
        hidden, attention = reference.encode(
            model.encoder, encoded.input_ids.tolist(), tiny.POSITIONS, separators={"bert": 1, "roberta": 2}[kind]
        )
        entities, pooled = [], []
        for positions in encoded.marker_positions:
            entities.append(hidden[list(positions)].logsumexp(0))
            pooled.append(attention[:, list(positions)].mean(1))
        context = weights["classifier.context.weight"].chunk(2)
        for s, o in candidate_pairs(len(entities)):
            q = (pooled[s] * pooled[o]).mean(0)
            c = (q / (q.sum() + 1e-5)) @ hidden
            z_s = torch.tanh(model.classifier.head(entities[s]) + context[0] @ c)
            z_o = torch.tanh(model.classifier.tail(entities[o]) + context[1] @ c)
            total = total + z_s @ weights["classifier.bilinear.weight"] @ z_o + model.classifier.bias[0]
    total.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        actual = gradients[name]
        assert parameter.grad is not None
        assert actual is not None
        assert torch.allclose(actual, parameter.grad, atol=1e-8), name
    query = gradients["encoder.encoder.layer.1.attention.self.query.weight"]
    assert query is not None
    assert query.abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_keeps_gradients(kind: tiny.Kind) -> None:
    grads = []
    for checkpointing in (False, True):
        model = build(kind).train()
        if checkpointing:
            enable_activation_checkpointing(model.encoder)
        torch.cat(scores(model, kind, [DOCUMENTS["two windows"]])).sum().backward()  # type: ignore[no-untyped-call]
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, grad in grads[0].items():
        other = grads[1][name]
        assert grad is not None
        assert other is not None
        assert torch.allclose(grad, other, atol=1e-6), name


@torch.no_grad()
def test_bf16_keeps_the_logits_in_float32() -> None:
    model = build("bert")
    documents = [DOCUMENTS["two windows"], DOCUMENTS["60 entities"]]
    exact = torch.cat(scores(model, "bert", documents))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = torch.cat(scores(model, "bert", documents))
    assert coarse.dtype == torch.float32
    assert (exact - coarse).abs().max() < 0.25
    assert np.corrcoef(exact, coarse)[0, 1] > 0.995


@pytest.mark.parametrize("kind", KINDS)
def test_batch_without_pairs_has_zero_gradients(kind: tiny.Kind) -> None:
    model = build(kind)
    documents = [DOCUMENTS["single entity"], tiny.document(200, [1], seed=6)]
    logits = torch.cat(scores(model, kind, documents))
    assert logits.shape == (0,)
    logits.sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_blocks_of_pairs_equal_a_single_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare values and gradients of 60 entities, in blocks of three head entities and of one."""
    results = []
    for limit in (2**14, 180, 1):
        monkeypatch.setattr("lmrc.rcp.model.model.BLOCK_PAIRS", limit)
        model = build("bert").double()
        logits = torch.cat(scores(model, "bert", [DOCUMENTS["60 entities"], DOCUMENTS["one window"]]))
        (logits * torch.arange(len(logits)).sin()).sum().backward()  # type: ignore[no-untyped-call]
        results.append((logits.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}))
    for logits, grads in results[1:]:
        assert torch.allclose(logits, results[0][0], atol=1e-12)
        for name, grad in grads.items():
            expected = results[0][1][name]
            assert grad is not None
            assert expected is not None
            assert torch.allclose(grad, expected, atol=1e-10), name


class _Syncs(TorchDispatchMode):
    """Recorder of operations that synchronize with the device: values read, and shapes that depend on values."""

    SYNCHRONIZING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in self.SYNCHRONIZING):
            self.operations.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_backward_never_synchronize(kind: tiny.Kind) -> None:
    model = build(kind, dropout=0.1).train()
    tokenizer = DocumentTokenizer(tiny.tokenizer(kind), model.max_length)
    batch = model.collate([tokenizer.encode(DOCUMENTS[name]) for name in ("two windows", "one window", "60 entities")])
    targets = torch.zeros(len(batch["pair_indices"]))
    with _Syncs() as syncs:
        training_loss(model(batch), {"targets": targets}, RcpTraining()).backward()
        assert syncs.operations == []
        # Check that the recorder works.
        float(targets.sum())
    assert len(syncs.operations) == 1


def test_max_length_is_kept() -> None:
    model = build("bert", max_length=20)
    assert model.max_length == 20
    assert len(DocumentTokenizer(tiny.tokenizer("bert"), model.max_length).encode(DOCUMENTS["cut off"]).input_ids) == 20


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_save_and_load(kind: tiny.Kind, tmp_path: Path) -> None:
    model = build(kind, dropout=0.1, max_length=80)
    tokenizer = tiny.tokenizer(kind)
    model.save(tmp_path / "best", tokenizer)
    files = {file.name for file in (tmp_path / "best").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    assert not any(name.startswith(".") for name in files)
    config = json.loads((tmp_path / "best" / "config.json").read_text())
    assert config["model_type"] == kind
    assert config["relation_candidate_proposal"] == {
        "max_length": 80,
        "classifier": "bilinear",
        "entity_types": [],
        "sentence_distance": False,
        "relations": [],
        "type_markers": {},
        "precision": "fp32",
    }

    loaded, loaded_tokenizer = RelationCandidateModel.load(tmp_path / "best")
    assert not loaded.training
    assert loaded.max_length == 80
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    document = DOCUMENTS["two windows"]
    before, after = (
        DocumentTokenizer(tokenizer, 80).encode(document),
        DocumentTokenizer(loaded_tokenizer, 80).encode(document),
    )
    assert before.input_ids.tolist() == after.input_ids.tolist()
    assert torch.equal(model(model.collate([before])), loaded(loaded.collate([after])))


def test_save_given_weights(tmp_path: Path) -> None:
    model = build("bert")
    given = {name: torch.full_like(value, 0.5) for name, value in model.named_parameters()}
    model.save(tmp_path, tiny.tokenizer("bert"), given)
    loaded, _ = RelationCandidateModel.load(tmp_path)
    assert all((parameter == 0.5).all() for parameter in loaded.parameters())
    given["classifier.bias"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"classifier\.bias"):
        model.save(tmp_path, tiny.tokenizer("bert"), given)
    del given["classifier.bias"]
    with pytest.raises(ValueError, match=r"classifier\.bias"):
        model.save(tmp_path, tiny.tokenizer("bert"), given)


def test_missing_or_damaged_models_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing.*runs/"):
        RelationCandidateModel.load(tmp_path)
    model = build("bert")
    model.save(tmp_path, tiny.tokenizer("bert"))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        RelationCandidateModel.load(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="damaged"):
        RelationCandidateModel.load(tmp_path)
    tiny.encoder("bert").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="not a relation candidate model"):
        RelationCandidateModel.load(tmp_path)


def test_from_encoder(tmp_path: Path) -> None:
    encoder = tiny.encoder("roberta")
    encoder.config.attention_probs_dropout_prob = 0.1
    encoder.save_pretrained(tmp_path)
    tiny.tokenizer("roberta").save_pretrained(tmp_path)
    model, tokenizer = RelationCandidateModel.from_encoder(str(tmp_path), max_length=60)
    assert model.max_length == 60
    assert model.encoder.config.attention_probs_dropout_prob == 0.0
    assert model.encoder.config._attn_implementation == "packed_windows"
    assert tokenizer.convert_tokens_to_ids("*") == 5
    pretrained = dict(encoder.named_parameters())
    for name, parameter in model.encoder.named_parameters():
        assert torch.equal(parameter, pretrained[name])
    assert not any("pooler" in name for name, _ in model.named_parameters())


def test_missing_encoder_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot load .*nowhere.* embedded:minilm"):
        RelationCandidateModel.from_encoder(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"cannot load 'no/such-model'"):
        RelationCandidateModel.from_encoder("no/such-model")
