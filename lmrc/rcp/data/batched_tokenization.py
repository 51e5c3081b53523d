"""Word pieces, markers and gold pairs of many documents at once, from Arrow columns to Arrow columns.

What `DocumentTokenizer.encode` does word by word is done here with numpy on all words of all documents: each distinct word
becomes word pieces once, a running sum over the words tells where each begins, and one assignment puts them there.
"""

from __future__ import annotations

from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lmrc.rcp.data.tokenization import DocumentTokenizer

Numbers = NDArray[np.int64]

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        # Positions of opening markers in input_ids, entity after entity; `mentions` tells how many each entity has.
        ("markers", pa.list_(pa.int32())),
        ("mentions", pa.list_(pa.int32())),
        # Mentions whose opening marker lies beyond the longest length.
        ("cut", pa.int32()),
        # Sorted numbers of the pairs with a relation, among the ordered pairs sorted by (h, t).
        ("positive", pa.list_(pa.int32())),
        # For each entity the type of its first mention.
        ("types", pa.list_(pa.string())),
        # Of all mentions, cut or not: their sentences, entity after entity, and how many each entity has.
        ("sentences", pa.list_(pa.int32())),
        ("all_mentions", pa.list_(pa.int32())),
    ]
)


def encode_columns(encoder: DocumentTokenizer, documents: pa.RecordBatch) -> pa.RecordBatch:
    """Documents in the columns of a corpus, encoded as `DocumentTokenizer.encode` encodes each, in the columns of `SCHEMA`.

    `positive` is empty where a document has no labels. A few hundred documents at a time keep the memory flat.
    """
    count = documents.num_rows
    sentences = documents.column("sentences")
    first_sentence = _starts(_lengths(sentences))  # [documents + 1]
    sentence_at = _starts(_lengths(sentences.flatten()))  # [sentences + 1]: number of its first word

    entities = documents.column("entities")
    entity_counts, mention_counts = _lengths(entities), _lengths(entities.flatten())
    mentions = entities.flatten().flatten()
    entity_of = np.repeat(np.arange(len(mention_counts)), mention_counts)  # [mentions]
    document_of = np.repeat(np.arange(count), entity_counts)[entity_of]  # [mentions]
    sentence_of = sentence_at[first_sentence[document_of] + _numbers(mentions.field("sentence"))]
    starts = sentence_of + _numbers(mentions.field("start"))  # [mentions]: number of its first word
    lasts = sentence_of + _numbers(mentions.field("end")) - 1

    words = sentences.flatten().flatten()
    ids, word_at, document_at = _write(encoder, words, sentence_at[first_sentence], starts, lasts)
    marker_at = word_at[starts] - document_at[document_of]
    kept = marker_at < encoder.limit
    # A document that is too long ends with its closing token all the same.
    lengths = np.minimum(np.diff(document_at), encoder.limit + 1)
    ids[document_at[:-1] + lengths - 1] = encoder.closing
    inside = np.arange(len(ids)) < np.repeat(document_at[:-1] + lengths, np.diff(document_at))
    return pa.record_batch(
        [
            _lists(ids[inside], lengths),
            _lists(marker_at[kept], np.bincount(document_of[kept], minlength=count)),
            _lists(np.bincount(entity_of[kept], minlength=len(mention_counts)), entity_counts),
            pa.array(np.bincount(document_of[~kept], minlength=count), pa.int32()),
            _positive(documents.column("labels"), entity_counts),
            pa.ListArray.from_arrays(
                pa.array(_starts(entity_counts), pa.int32()),
                mentions.field("type").take(pa.array(_starts(mention_counts)[:-1])),
            ),
            _lists(_numbers(mentions.field("sentence")), np.bincount(document_of, minlength=count)),
            _lists(mention_counts, entity_counts),
        ],
        schema=SCHEMA,
    )


def _write(
    encoder: DocumentTokenizer, words: pa.Array, first_word: Numbers, starts: Numbers, lasts: Numbers
) -> tuple[NDArray[np.int32], Numbers, Numbers]:
    """(all documents' word pieces one after the other, where each word begins there, where each document begins).

    A word begins with its opening marker, if it has one. words: [words]; first_word: [documents + 1], number of each
    document's first word; starts, lasts: [mentions], numbers of their words. Where documents begin: [documents + 1].
    """
    encoded = words.dictionary_encode()
    pieces = encoder.pieces(_strings(encoded.dictionary))
    number = _numbers(encoded.indices)  # [words], of the distinct word
    counts = np.fromiter(map(len, pieces), np.int64, len(pieces))  # [distinct words]
    flat = np.fromiter(chain.from_iterable(pieces), np.int32, counts.sum())

    opens, closes = np.zeros(len(words), dtype=np.bool_), np.zeros(len(words), dtype=np.bool_)
    opens[starts] = True
    closes[lasts] = True
    own = counts[number]  # [words]: word pieces without markers
    end = _starts(own + opens + closes)  # [words + 1]
    documents = np.arange(len(first_word))
    document_at = end[first_word] + 2 * documents
    word_at = end[:-1] + 2 * np.repeat(documents[:-1], np.diff(first_word)) + 1

    ids = np.full(document_at[-1], encoder.marker, dtype=np.int32)
    ids[document_at[:-1]] = encoder.opening
    ids[document_at[1:] - 1] = encoder.closing
    # Piece i of all is the (i - before)th of its word.
    before = _starts(own)
    each = np.arange(before[-1])
    ids[np.repeat(word_at + opens - before[:-1], own) + each] = flat[
        np.repeat(_starts(counts)[number] - before[:-1], own) + each
    ]
    return ids, word_at, document_at


def _positive(labels: pa.Array, entity_counts: Numbers) -> pa.Array:
    """For each document the sorted numbers of its pairs with a relation. labels: lists of (head, tail, …), or null."""
    label_counts = _lengths(labels)
    document_of = np.repeat(np.arange(len(entity_counts)), label_counts)
    head, tail = (_numbers(labels.flatten().field(name)) for name in ("head", "tail"))
    pairs = _starts(entity_counts * (entity_counts - 1))
    # Row h of a document's pairs leaves out t = h. A pair with several relations counts once.
    numbers = np.unique(pairs[document_of] + head * (entity_counts[document_of] - 1) + tail - (tail > head))
    document_of = np.searchsorted(pairs, numbers, side="right") - 1
    return _lists(numbers - pairs[document_of], np.bincount(document_of, minlength=len(entity_counts)))


def _numbers(array: pa.Array) -> Numbers:
    values: Numbers = array.to_numpy(zero_copy_only=False).astype(np.int64)
    return values


def _strings(array: pa.Array) -> list[str]:
    values: list[str] = array.to_numpy(zero_copy_only=False).tolist()
    return values


def _lengths(lists: pa.Array) -> Numbers:
    """Lengths of the lists, 0 for null."""
    return _numbers(lists.value_lengths().fill_null(0))


def _starts(lengths: Numbers) -> Numbers:
    """[n + 1], where each of n runs begins and, last, where all end."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def _lists(values: NDArray[np.integer], lengths: Numbers) -> pa.Array:
    """A list array of int32 that cuts `values` into runs of `lengths`."""
    return pa.ListArray.from_arrays(_starts(lengths).astype(np.int32), values.astype(np.int32))
