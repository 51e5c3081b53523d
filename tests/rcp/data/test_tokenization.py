from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizer, RobertaTokenizer

from lmrc.common.errors import UserError
from lmrc.corpus.docred import read_documents
from lmrc.corpus.relations import read_relations
from lmrc.corpus.types import Document, Mention
from lmrc.rcp.data.tokenization import DocumentTokenizer
from tests.rcp import tiny

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "*", "a", "b", "c", "d", "##x"]
TOKENIZER = BertTokenizer(vocab={piece: index for index, piece in enumerate(PIECES)})


def encode(
    sentences: list[str], entities: list[list[tuple[int, int, int]]], limit: int = 100
) -> tuple[str, list[list[int]], int]:
    """Return the word pieces as a string, the positions of the markers, and the number of truncated mentions."""
    document = Document(
        title="t",
        sentences=tuple(tuple(sentence.split()) for sentence in sentences),
        entities=tuple(tuple(Mention("n", *span, "MISC") for span in entity) for entity in entities),
        labels=None,
    )
    encoded = DocumentTokenizer(TOKENIZER, limit).encode(document)
    text = " ".join(TOKENIZER.convert_ids_to_tokens(encoded.input_ids.tolist()))
    return text, [list(markers) for markers in encoded.marker_positions], encoded.cut_mentions


@pytest.mark.parametrize(
    ("entities", "text", "markers"),
    [
        pytest.param([[(0, 1, 2)]], "a * bx * c d", [[2]], id="one mention"),
        pytest.param([[(0, 1, 2)], [(0, 1, 2)]], "a * bx * c d", [[2], [2]], id="the same span twice"),
        pytest.param([[(0, 1, 2)], [(0, 1, 3)]], "a * bx * c * d", [[2], [2]], id="starts coincide"),
        pytest.param([[(0, 0, 2)], [(0, 1, 2)]], "* a * bx * c d", [[1], [3]], id="ends coincide, nested"),
        pytest.param([[(0, 0, 1)], [(0, 1, 2)]], "* a * * bx * c d", [[1], [4]], id="adjacent"),
        pytest.param([[(0, 0, 2)], [(0, 1, 3)]], "* a * bx * c * d", [[1], [3]], id="overlapping"),
        pytest.param([[(0, 0, 1), (1, 0, 1)]], "* a * bx c * d *", [[1, 7]], id="two sentences"),
    ],
)
def test_markers(entities: list[list[tuple[int, int, int]]], text: str, markers: list[list[int]]) -> None:
    expected = "[CLS] " + text.replace("bx", "b ##x") + " [SEP]"
    assert encode(["a bx c", "d"], entities) == (expected, markers, 0)


def test_truncated_mentions_are_counted() -> None:
    # [CLS] * a * b c * d * [SEP]: the second marker is at 6.
    entities = [[(0, 0, 1), (1, 0, 1)], [(1, 0, 1)]]
    assert encode(["a b c", "d"], entities, limit=9) == ("[CLS] * a * b c * d [SEP]", [[1, 6], [6]], 0)
    assert encode(["a b c", "d"], entities, limit=8) == ("[CLS] * a * b c * [SEP]", [[1, 6], [6]], 0)
    assert encode(["a b c", "d"], entities, limit=7) == ("[CLS] * a * b c [SEP]", [[1], []], 2)


def test_roberta_vocabulary(shared_data: Path) -> None:
    folder = shared_data / "tokenizers" / "roberta"
    roberta = RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    document = Document(
        title="t",
        sentences=(("Hello", "world", "."),),
        entities=((Mention("Hello", 0, 0, 1, "MISC"),), (Mention("world", 0, 1, 2, "MISC"),)),
        labels=None,
    )
    encoded = DocumentTokenizer(roberta, 1024).encode(document)
    # From vocab.json: "<s>" 0, "*" 3226, "Hello" 31414, "world" 8331 (without a space before it), "." 4, "</s>" 2.
    assert encoded.input_ids.tolist() == [0, 3226, 31414, 3226, 3226, 8331, 3226, 4, 2]
    assert encoded.marker_positions == ((1,), (4,))


def test_real_documents_equal_the_published_preprocessing(shared_data: Path) -> None:
    folder = shared_data / "tokenizers" / "roberta"
    roberta = RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    document_tokenizer = DocumentTokenizer(roberta, 1021)
    documents = read_documents(shared_data / "redocred_dev.json", read_relations(shared_data / "rel_info.json"))
    for document, _ in zip(documents, range(12), strict=False):
        pieces: list[str] = ["<s>"]
        starts = {}
        for sentence, words in enumerate(document.sentences):
            for index, word in enumerate(words):
                starts[sentence, index] = len(pieces)
                if any((m.sentence, m.start) == (sentence, index) for e in document.entities for m in e):
                    pieces.append("*")
                pieces.extend(roberta.tokenize(word))
                if any((m.sentence, m.end - 1) == (sentence, index) for e in document.entities for m in e):
                    pieces.append("*")
        pieces.append("</s>")
        encoded = document_tokenizer.encode(document)
        assert encoded.input_ids.tolist() == roberta.convert_tokens_to_ids(pieces)
        assert encoded.marker_positions == tuple(
            tuple(starts[m.sentence, m.start] for m in e) for e in document.entities
        )


@given(
    seed=st.integers(0, 10**6),
    entities=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    limit=st.integers(4, 160),
    kind=st.sampled_from(["bert", "roberta"]),
)
def test_marker_positions_hold_markers(seed: int, entities: list[int], limit: int, kind: tiny.Kind) -> None:
    tokenizer = tiny.tokenizer(kind)
    document = tiny.document(40, entities, seed)
    encoded = DocumentTokenizer(tokenizer, limit).encode(document)
    whole = DocumentTokenizer(tokenizer, 10**6).encode(document)
    assert DocumentTokenizer(tokenizer, limit).length(document) == len(whole.input_ids)
    assert len(encoded.input_ids) == min(limit, len(whole.input_ids))
    assert encoded.input_ids[-1] == tokenizer.sep_token_id
    assert all(
        encoded.input_ids[position] == tokenizer.convert_tokens_to_ids("*")
        for e in encoded.marker_positions
        for position in e
    )
    assert encoded.cut_mentions + sum(map(len, encoded.marker_positions)) == sum(entities)
    assert whole.cut_mentions == 0
    # Without markers, the word pieces are those of the words.
    marker = tokenizer.convert_tokens_to_ids("*")
    words = [word for sentence in document.sentences for word in sentence]
    expected = [piece for word in words for piece in tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word))]
    assert [piece for piece in whole.input_ids[1:-1].tolist() if piece != marker] == expected


def test_tokenizer_without_the_marker_is_rejected() -> None:
    tokenizer = BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5})
    with pytest.raises(UserError, match=r"no word piece '\*'"):
        DocumentTokenizer(tokenizer, 16)
