"""Tokenization of documents with a `*` before and after each mention (section 3.1, "entity marker technique").

Words are tokenized one by one, as in the published code (`tokenizer.tokenize(word)`). With a RoBERTa vocabulary the
word pieces therefore lack the space that precedes a word in running text. The marker is the vocabulary's own `*`.

Mentions that start at the same word share one `*`, and so do mentions that end at the same word. If a mention ends
where another starts, there are two: the second is the opening marker, whose embedding represents the mention.

There is one path, vectorized with numpy over the Arrow columns of many documents; a single document is a batch of one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from lmrc.common.errors import UserError
from lmrc.corpus.corpus import SCHEMA as CORPUS_SCHEMA
from lmrc.corpus.types import Document

Int64Array = NDArray[np.int64]

MARKER = "*"
# Bounds the cache of word pieces (about 80 MB): new names never stop coming.
MAX_CACHED_WORDS = 250_000
WORDS_PER_ENCODING = 1000

# Columns of encoded documents. Ordered pairs are numbered in the order of (h, t).
ENCODED_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        # Positions of opening markers in input_ids, entity after entity.
        ("markers", pa.list_(pa.int32())),
        # Number of these markers per entity.
        ("mentions", pa.list_(pa.int32())),
        # Number of mentions whose opening marker is truncated.
        ("cut", pa.int32()),
        # Sorted numbers of the pairs with a relation.
        ("positive", pa.list_(pa.int32())),
        # Type of each entity's first mention.
        ("types", pa.list_(pa.string())),
        # Sentence of each mention, entity after entity, truncated mentions included.
        ("sentences", pa.list_(pa.int32())),
        # Number of mentions per entity, truncated mentions included.
        ("all_mentions", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedDocument:
    """A tokenized document.

    Attributes:
        input_ids: word pieces with both special tokens, [length].
        marker_positions: per entity, the position in `input_ids` of the opening marker of each mention that is not
            truncated.
        cut_mentions: number of mentions whose opening marker is truncated.
        entity_types: type of each entity's first mention.
        mention_sentences: sentence of each mention, entity after entity, truncated mentions included, [mentions].
        mention_counts: number of mentions of each entity, truncated mentions included, [entities].
    """

    input_ids: NDArray[np.int32]
    marker_positions: tuple[tuple[int, ...], ...]
    cut_mentions: int
    entity_types: tuple[str, ...]
    mention_sentences: NDArray[np.int32]
    mention_counts: NDArray[np.int32]

    @classmethod
    def from_row(cls, batch: pa.RecordBatch, row: int) -> EncodedDocument:
        """Return a row of `ENCODED_SCHEMA`. Its arrays are read-only views of the batch."""
        input_ids, markers, kept, sentences, counts = (
            batch.column(name)[row].values.to_numpy()
            for name in ("input_ids", "markers", "mentions", "sentences", "all_mentions")
        )
        positions = iter(markers.tolist())
        return cls(
            input_ids=input_ids,
            marker_positions=tuple(tuple(next(positions) for _ in range(count)) for count in kept.tolist()),
            cut_mentions=batch.column("cut")[row].as_py(),
            entity_types=tuple(batch.column("types")[row].as_py()),
            mention_sentences=sentences,
            mention_counts=counts,
        )

    @property
    def num_entities(self) -> int:
        """Return the number of entities, including those whose mentions are all truncated."""
        return len(self.marker_positions)

    @property
    def num_pairs(self) -> int:
        """Return the number of ordered pairs (h, t), h != t."""
        return self.num_entities * (self.num_entities - 1)


class DocumentTokenizer:
    """Tokenizer of documents that caches the word pieces of words."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer: tokenizer of a BERT- or RoBERTa-like encoder.
            max_length: maximum number of word pieces per document, both special tokens included.

        Raises:
            UserError: if the tokenizer lacks the marker or one of the special tokens.
        """
        marker_id = tokenizer.convert_tokens_to_ids(MARKER)
        for what, token in (
            (f"no word piece {MARKER!r}", marker_id if marker_id != tokenizer.unk_token_id else None),
            ("no token that opens a text (cls_token)", tokenizer.cls_token_id),
            ("no token that closes a text (sep_token)", tokenizer.sep_token_id),
        ):
            if token is None:
                raise UserError(
                    f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has {what}; "
                    "choose a BERT- or RoBERTa-like encoder in model.encoder"
                )
        self.tokenizer = tokenizer
        # Several times as fast as `tokenizer` itself. A copy, because `tokenizer` stores truncation and padding in it.
        self._backend: Tokenizer | None = copy.deepcopy(getattr(tokenizer, "backend_tokenizer", None))
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
        self._cache: dict[str, list[int]] = {}
        self.marker_id: int = marker_id
        self.cls_id: int = tokenizer.cls_token_id
        self.sep_id: int = tokenizer.sep_token_id
        self.max_length = max_length

    def tokenize_words(self, words: list[str]) -> list[list[int]]:
        """Return the word pieces of each word."""
        new = [word for word in dict.fromkeys(words) if word not in self._cache]
        if new:
            if len(self._cache) > MAX_CACHED_WORDS:
                self._cache.clear()
                return self.tokenize_words(words)
            self._cache.update(zip(new, self._tokenize(new), strict=True))
        return [self._cache[word] for word in words]

    def _tokenize(self, words: list[str]) -> list[list[int]]:
        if self._backend is None:
            ids: list[list[int]] = self.tokenizer(words, add_special_tokens=False)["input_ids"]
            return ids
        pieces: list[list[int]] = []
        # Many words share an encoding, because creating one costs more than tokenizing a word.
        chunks = [words[start : start + WORDS_PER_ENCODING] for start in range(0, len(words), WORDS_PER_ENCODING)]
        encodings = self._backend.encode_batch(chunks, is_pretokenized=True, add_special_tokens=False)
        for chunk, encoding in zip(chunks, encodings, strict=True):
            word_ids = np.array(encoding.word_ids, dtype=np.int64)
            ends = np.bincount(word_ids, minlength=len(chunk)).cumsum().tolist()
            all_pieces = encoding.ids
            pieces += [all_pieces[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return pieces

    def length(self, document: Document) -> int:
        """Return the number of word pieces of a document before truncation, with markers and special tokens."""
        words = self.tokenize_words([token for sentence in document.sentences for token in sentence])
        mentions = [mention for entity in document.entities for mention in entity]
        # Mentions that begin or end at the same word share a marker.
        opening = {(mention.sentence, mention.start) for mention in mentions}
        closing = {(mention.sentence, mention.end) for mention in mentions}
        return 2 + sum(map(len, words)) + len(opening) + len(closing)

    def encode(self, document: Document) -> EncodedDocument:
        """Return a tokenized document."""
        return self.encode_batch([document])[0]

    def encode_batch(self, documents: Sequence[Document]) -> list[EncodedDocument]:
        """Return the tokenized documents, in the same order."""
        batch = self.encode_columns(_to_columns(documents))
        return [EncodedDocument.from_row(batch, row) for row in range(batch.num_rows)]

    def encode_columns(self, documents: pa.RecordBatch) -> pa.RecordBatch:
        """Tokenize documents from Arrow columns to Arrow columns.

        Memory grows with the number of documents; a few hundred at a time are enough for full speed.

        Args:
            documents: the columns "sentences", "entities" and "labels" of a corpus (`lmrc.corpus.corpus.SCHEMA`).

        Returns:
            The columns of `ENCODED_SCHEMA`. "positive" is empty for documents without labels.
        """
        num_documents = documents.num_rows
        sentences = documents.column("sentences")
        first_sentence = _offsets(_lengths(sentences))  # [documents + 1]
        first_word = _offsets(_lengths(sentences.flatten()))  # [sentences + 1]

        entities = documents.column("entities")
        entity_counts, mention_counts = _lengths(entities), _lengths(entities.flatten())
        mentions = entities.flatten().flatten()
        entity = np.repeat(np.arange(len(mention_counts)), mention_counts)  # [mentions]
        document = np.repeat(np.arange(num_documents), entity_counts)[entity]  # [mentions]
        sentence = first_word[first_sentence[document] + _to_int64(mentions.field("sentence"))]
        starts = sentence + _to_int64(mentions.field("start"))  # [mentions]: index of the first word
        lasts = sentence + _to_int64(mentions.field("end")) - 1

        words = sentences.flatten().flatten()
        ids, word_positions, document_positions = self._write_ids(words, first_word[first_sentence], starts, lasts)
        markers = word_positions[starts] - document_positions[document]
        kept = markers < self.max_length - 1
        # A truncated document ends with [SEP] too.
        lengths = np.minimum(np.diff(document_positions), self.max_length)
        ids[document_positions[:-1] + lengths - 1] = self.sep_id
        inside = np.arange(len(ids)) < np.repeat(document_positions[:-1] + lengths, np.diff(document_positions))
        return pa.record_batch(
            [
                _to_lists(ids[inside], lengths),
                _to_lists(markers[kept], np.bincount(document[kept], minlength=num_documents)),
                _to_lists(np.bincount(entity[kept], minlength=len(mention_counts)), entity_counts),
                pa.array(np.bincount(document[~kept], minlength=num_documents), pa.int32()),
                _positive_pairs(documents.column("labels"), entity_counts),
                pa.ListArray.from_arrays(
                    pa.array(_offsets(entity_counts), pa.int32()),
                    mentions.field("type").take(pa.array(_offsets(mention_counts)[:-1])),
                ),
                _to_lists(_to_int64(mentions.field("sentence")), np.bincount(document, minlength=num_documents)),
                _to_lists(mention_counts, entity_counts),
            ],
            schema=ENCODED_SCHEMA,
        )

    def _write_ids(
        self, words: pa.Array, first_word: Int64Array, starts: Int64Array, lasts: Int64Array
    ) -> tuple[NDArray[np.int32], Int64Array, Int64Array]:
        """Return the concatenated word pieces of all documents, before truncation.

        Args:
            words: all words, [words].
            first_word: index of each document's first word, [documents + 1].
            starts: index of each mention's first word, [mentions].
            lasts: index of each mention's last word, [mentions].

        Returns:
            The word pieces; the position of each word in them, which is that of its opening marker if it has one,
            [words]; the position of each document, [documents + 1].
        """
        encoded = words.dictionary_encode()
        pieces = self.tokenize_words(_to_strings(encoded.dictionary))
        distinct = _to_int64(encoded.indices)  # [words]: index of the distinct word
        counts = np.fromiter(map(len, pieces), np.int64, len(pieces))  # [distinct words]
        flat = np.fromiter(chain.from_iterable(pieces), np.int32, counts.sum())

        opens, closes = np.zeros(len(words), dtype=np.bool_), np.zeros(len(words), dtype=np.bool_)
        opens[starts] = True
        closes[lasts] = True
        piece_counts = counts[distinct]  # [words]: word pieces without markers
        ends = _offsets(piece_counts + opens + closes)  # [words + 1]
        documents = np.arange(len(first_word))
        document_positions = ends[first_word] + 2 * documents
        word_positions = ends[:-1] + 2 * np.repeat(documents[:-1], np.diff(first_word)) + 1

        ids = np.full(document_positions[-1], self.marker_id, dtype=np.int32)
        ids[document_positions[:-1]] = self.cls_id
        ids[document_positions[1:] - 1] = self.sep_id
        # Word piece i of all is number i - first_piece of its word.
        first_piece = _offsets(piece_counts)
        piece = np.arange(first_piece[-1])
        ids[np.repeat(word_positions + opens - first_piece[:-1], piece_counts) + piece] = flat[
            np.repeat(_offsets(counts)[distinct] - first_piece[:-1], piece_counts) + piece
        ]
        return ids, word_positions, document_positions


_SENTENCES = CORPUS_SCHEMA.field("sentences").type
_ENTITIES = pa.list_(
    pa.list_(pa.struct([("sentence", pa.int32()), ("start", pa.int32()), ("end", pa.int32()), ("type", pa.string())]))
)
_LABELS = CORPUS_SCHEMA.field("labels").type


def _to_columns(documents: Sequence[Document]) -> pa.RecordBatch:
    """Return the columns that tokenization reads, without labels."""
    entities = [
        [
            [(mention.sentence, mention.start, mention.end, mention.type) for mention in entity]
            for entity in document.entities
        ]
        for document in documents
    ]
    return pa.RecordBatch.from_pydict(
        {
            "sentences": pa.array([document.sentences for document in documents], _SENTENCES),
            "entities": pa.array(entities, _ENTITIES),
            "labels": pa.nulls(len(documents), _LABELS),
        }
    )


def _positive_pairs(labels: pa.Array, entity_counts: Int64Array) -> pa.Array:
    """Return the sorted numbers of each document's pairs with a relation.

    Args:
        labels: lists of (head, tail, …), or null, [documents].
        entity_counts: number of entities, [documents].
    """
    label_counts = _lengths(labels)
    document = np.repeat(np.arange(len(entity_counts)), label_counts)
    head, tail = (_to_int64(labels.flatten().field(name)) for name in ("head", "tail"))
    first_pair = _offsets(entity_counts * (entity_counts - 1))
    # Row h of a document's pairs omits t = h. A pair with several relations counts once.
    pairs = np.unique(first_pair[document] + head * (entity_counts[document] - 1) + tail - (tail > head))
    document = np.searchsorted(first_pair, pairs, side="right") - 1
    return _to_lists(pairs - first_pair[document], np.bincount(document, minlength=len(entity_counts)))


def _to_int64(array: pa.Array) -> Int64Array:
    values: Int64Array = array.to_numpy(zero_copy_only=False).astype(np.int64)
    return values


def _to_strings(array: pa.Array) -> list[str]:
    values: list[str] = array.to_numpy(zero_copy_only=False).tolist()
    return values


def _lengths(lists: pa.Array) -> Int64Array:
    """Return the length of each list, 0 for null."""
    return _to_int64(lists.value_lengths().fill_null(0))


def _offsets(lengths: Int64Array) -> Int64Array:
    """Return Arrow offsets of lists of these lengths, [lists + 1]."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _to_lists(values: NDArray[np.integer], lengths: Int64Array) -> pa.Array:
    """Return an int32 list array that splits `values` into lists of these lengths."""
    return pa.ListArray.from_arrays(_offsets(lengths).astype(np.int32), values.astype(np.int32))
