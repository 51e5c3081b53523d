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

# Any two word pieces; MISC has none.
WORDS = {"ORG": 10, "PER": 11}


def document(*spans: tuple[str, int, int]) -> Document:
    """One entity a span: (type, first word, end) in one sentence."""
    entities = tuple((Mention("n", 0, start, end, kind),) for kind, start, end in spans)
    return Document("d", (tuple("abcdefgh"),), entities, ())


@pytest.fixture(scope="module")
def minilm() -> object:
    return AutoTokenizer.from_pretrained(resolve("embedded:minilm"))


def test_the_words_of_docreds_types(minilm: object) -> None:
    types = ["LOC", "MISC", "NUM", "ORG", "PER", "TIME"]
    words = choose_type_markers(types, minilm)  # type: ignore[arg-type]
    assert list(words) == types
    pieces = minilm.convert_ids_to_tokens(list(words.values()))  # type: ignore[attr-defined]
    assert pieces == ["location", "other", "number", "organization", "person", "time"]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_types_of_ones_own(kind: tiny.Kind) -> None:
    """The first piece that no type before has; the first where all are taken; unknown letters are a piece too."""
    tokenizer = tiny.tokenizer(kind)
    words = choose_type_markers(["Ab", "Ac", "a", "?", ""], tokenizer)
    pieces = dict(zip(words, tokenizer.convert_ids_to_tokens(list(words.values())), strict=True))
    follows = "##c" if kind == "bert" else "c"
    assert pieces == {"Ab": "a", "Ac": follows, "a": "a", "?": tokenizer.unk_token, "": tokenizer.unk_token}


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_opening_markers_change_and_nothing_else(kind: tiny.Kind) -> None:
    encoder = DocumentTokenizer(tiny.tokenizer(kind), 64)
    # The last two share an opening marker; MISC has no word.
    plain = encoder.encode(document(("PER", 0, 2), ("MISC", 3, 4), ("PER", 5, 6), ("ORG", 5, 8)))
    found = replace_opening_markers(plain, WORDS)
    star = encoder.marker_id
    expected = plain.input_ids.tolist()
    assert [expected[at] for at in (1, 4, 6, 8, 10, 12)] == [star] * 6
    expected[1], expected[10] = 11, 10
    assert found.input_ids.tolist() == expected
    assert found.marker_positions == plain.marker_positions == ((1,), (6,), (10,), (10,))
    # What the cache holds is not written to.
    assert plain.input_ids[1] == star


def test_mentions_that_were_cut_off() -> None:
    encoder = DocumentTokenizer(tiny.tokenizer("bert"), 6)
    plain = encoder.encode(document(("PER", 0, 1), ("ORG", 6, 7)))
    assert plain.marker_positions == ((1,), ())
    assert replace_opening_markers(plain, WORDS).input_ids.tolist() == [
        11 if place == 1 else piece for place, piece in enumerate(plain.input_ids.tolist())
    ]


@torch.no_grad()
def test_the_model_reads_them_and_remembers_them(tmp_path: Path) -> None:
    words = choose_type_markers(["MISC", "ORG", "PER"], tiny.tokenizer("bert"))
    looking = RelationCandidateModel(tiny.encoder("bert"), 80, type_markers=words).eval()
    plain = RelationCandidateModel(tiny.encoder("bert"), 80).eval()
    plain.load_state_dict(looking.state_dict())
    documents = [
        DocumentTokenizer(tiny.tokenizer("bert"), 80).encode(tiny.document(40, [1, 2, 1], seed)) for seed in range(3)
    ]
    expected = plain(plain.collate([replace_opening_markers(one, words) for one in documents]))
    batch = looking.collate(documents)
    assert torch.equal(looking(batch), expected)
    assert not torch.equal(plain(plain.collate(documents)), expected)

    looking.save(tmp_path, tiny.tokenizer("bert"))
    loaded, _ = RelationCandidateModel.load(tmp_path)
    assert torch.equal(loaded(loaded.collate(documents)), expected)
    assert [loaded.features.count_unknown_types(one) for one in documents] == [0, 0, 0]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["relation_candidate_proposal"]["type_markers"] == words


def test_types_that_the_model_does_not_know_are_counted() -> None:
    model = RelationCandidateModel(tiny.encoder("bert"), 80, type_markers=WORDS)
    encoded = DocumentTokenizer(tiny.tokenizer("bert"), 80).encode(
        document(("PER", 0, 1), ("MISC", 3, 4), ("GENE", 5, 6))
    )
    assert model.features.count_unknown_types(encoded) == 2
    assert not model.features.types


def test_training_chooses_the_words_and_says_them(
    config: RcpConfig, make_corpus: MakeCorpus, capsys: pytest.CaptureFixture[str]
) -> None:
    train = [tiny.document(20, [1, 2, 1], seed=1, labels=((0, 1),))]
    model = config.model.model_copy(update={"type_markers": True})
    dev = [document(("PER", 0, 1), ("GENE", 2, 3))]
    task = RcpTask(config.model_copy(update={"model": model}), make_corpus("train", train), make_corpus("dev", dev))
    said = capsys.readouterr().out
    # Of other, organization and person: o, r (for o is taken), p.
    assert "opening markers of entity types: MISC o, ORG ##r, PER p" in said
    assert "types other than MISC, ORG, PER: 1 entities" in said
    own = task.model
    assert isinstance(own, RelationCandidateModel)
    assert (own.features.types, list(own.features.markers)) == ((), ["MISC", "ORG", "PER"])
    pieces = set(own.features.markers.values())
    assert pieces <= set(task.collate([0])["input_ids"].tolist())
