from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from lmrc.config.schema import RcpConfig
from lmrc.corpus.types import Document, Mention
from lmrc.pretrained.packaged import resolve
from lmrc.rcp.data.tokenization import DocumentTokenizer
from lmrc.rcp.data.type_markers import choose_type_markers, replace_opening_markers
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.rcp.task import RcpTask
from tests.rcp import tiny
from tests.rcp.conftest import MakeCorpus

# Any two word pieces; MISC has no marker of its own.
WORDS = {"ORG": 10, "PER": 11}


def document(*spans: tuple[str, int, int]) -> Document:
    """Return a document of a sentence, with an entity per span (type, first word, end)."""
    entities = tuple((Mention("n", 0, start, end, kind),) for kind, start, end in spans)
    return Document("d", (tuple("abcdefgh"),), entities, ())


@pytest.fixture(scope="module")
def minilm() -> object:
    return AutoTokenizer.from_pretrained(resolve("embedded:minilm"))


def test_markers_of_docreds_types(minilm: object) -> None:
    types = ["LOC", "MISC", "NUM", "ORG", "PER", "TIME"]
    words = choose_type_markers(types, minilm)  # type: ignore[arg-type]
    assert list(words) == types
    pieces = minilm.convert_ids_to_tokens(list(words.values()))  # type: ignore[attr-defined]
    assert pieces == ["location", "other", "number", "organization", "person", "time"]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_markers_of_other_types(kind: tiny.Kind) -> None:
    """Choose the first unused word piece, or the first one if all are used."""
    tokenizer = tiny.tokenizer(kind)
    words = choose_type_markers(["Ab", "Ac", "a", "?", ""], tokenizer)
    pieces = dict(zip(words, tokenizer.convert_ids_to_tokens(list(words.values())), strict=True))
    follows = "##c" if kind == "bert" else "c"
    assert pieces == {"Ab": "a", "Ac": follows, "a": "a", "?": tokenizer.unk_token, "": tokenizer.unk_token}


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_only_opening_markers_change(kind: tiny.Kind) -> None:
    tokenizer = DocumentTokenizer(tiny.tokenizer(kind), 64)
    # The last two mentions share an opening marker.
    plain = tokenizer.encode(document(("PER", 0, 2), ("MISC", 3, 4), ("PER", 5, 6), ("ORG", 5, 8)))
    replaced = replace_opening_markers(plain, WORDS)
    star = tokenizer.marker_id
    expected = plain.input_ids.tolist()
    assert [expected[position] for position in (1, 4, 6, 8, 10, 12)] == [star] * 6
    expected[1], expected[10] = 11, 10
    assert replaced.input_ids.tolist() == expected
    assert replaced.marker_positions == plain.marker_positions == ((1,), (6,), (10,), (10,))
    # The cached document is not modified.
    assert plain.input_ids[1] == star


def test_truncated_mentions_have_no_marker_to_replace() -> None:
    tokenizer = DocumentTokenizer(tiny.tokenizer("bert"), 6)
    plain = tokenizer.encode(document(("PER", 0, 1), ("ORG", 6, 7)))
    assert plain.marker_positions == ((1,), ())
    assert replace_opening_markers(plain, WORDS).input_ids.tolist() == [
        11 if position == 1 else piece for position, piece in enumerate(plain.input_ids.tolist())
    ]


@torch.no_grad()
def test_model_replaces_and_saves_type_markers(tmp_path: Path) -> None:
    words = choose_type_markers(["MISC", "ORG", "PER"], tiny.tokenizer("bert"))
    typed = RelationCandidateModel(tiny.encoder("bert"), 80, type_markers=words).eval()
    plain = RelationCandidateModel(tiny.encoder("bert"), 80).eval()
    plain.load_state_dict(typed.state_dict())
    documents = [
        DocumentTokenizer(tiny.tokenizer("bert"), 80).encode(tiny.document(40, [1, 2, 1], seed)) for seed in range(3)
    ]
    expected = plain(plain.collate([replace_opening_markers(document, words) for document in documents]))
    batch = typed.collate(documents)
    assert torch.equal(typed(batch), expected)
    assert not torch.equal(plain(plain.collate(documents)), expected)

    typed.save(tmp_path, tiny.tokenizer("bert"))
    loaded, _ = RelationCandidateModel.load(tmp_path)
    assert torch.equal(loaded(loaded.collate(documents)), expected)
    assert [loaded.features.count_unknown_types(document) for document in documents] == [0, 0, 0]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["relation_candidate_proposal"]["type_markers"] == words


def test_count_unknown_types() -> None:
    model = RelationCandidateModel(tiny.encoder("bert"), 80, type_markers=WORDS)
    encoded = DocumentTokenizer(tiny.tokenizer("bert"), 80).encode(
        document(("PER", 0, 1), ("MISC", 3, 4), ("GENE", 5, 6))
    )
    assert model.features.count_unknown_types(encoded) == 2
    assert not model.features.types


def test_training_chooses_and_logs_type_markers(
    config: RcpConfig, make_corpus: MakeCorpus, caplog: pytest.LogCaptureFixture
) -> None:
    train = [tiny.document(20, [1, 2, 1], seed=1, labels=((0, 1),))]
    model = config.model.model_copy(update={"type_markers": True})
    dev = [document(("PER", 0, 1), ("GENE", 2, 3))]
    task = RcpTask(config.model_copy(update={"model": model}), make_corpus("train", train), make_corpus("dev", dev))
    output = caplog.text
    # other: o; organization: r, because o is used; person: p.
    assert "opening markers of entity types: MISC o, ORG ##r, PER p" in output
    assert "types other than MISC, ORG, PER: 1 entities" in output
    trained = task.model
    assert isinstance(trained, RelationCandidateModel)
    assert (trained.features.types, list(trained.features.markers)) == ((), ["MISC", "ORG", "PER"])
    pieces = set(trained.features.markers.values())
    assert pieces <= set(task.collate([0])["input_ids"].tolist())
