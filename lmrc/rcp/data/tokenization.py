"""Word pieces of a document with a `*` before and after each mention (section 3.1, "entity marker technique").

Words become word pieces one by one, as the published code does (`tokenizer.tokenize(word)`): for a RoBERTa vocabulary
that means without the space that would precede the word in running text. The marker is the vocabulary's own `*`,
without a space too.

Where several mentions start at the same word they share one `*`, likewise where they end. An end followed by a start is
two: the second is the opening marker whose embedding stands for the mention. Nested and overlapping mentions have a
marker at each of their ends.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from lmrc.common.errors import UserError
from lmrc.corpus.types import Document

MARKER = "*"
# Words whose pieces are remembered at a time (some 80 MB): a language has no end of names.
MOST_WORDS = 250_000
WORDS_A_TEXT = 1000


@dataclass(frozen=True, slots=True, eq=False)
class EncodedDocument:
    """Word pieces of a document, where its mentions' opening markers are, and what `lmrc.rcp.data.features` is made of."""

    input_ids: NDArray[np.int32]
    """[length], the special tokens at both ends included."""
    markers: tuple[tuple[int, ...], ...]
    """Per entity, for each mention that was not cut off, the position of its opening marker in `input_ids`."""
    cut: int
    """Mentions whose opening marker lies beyond the longest length."""
    types: tuple[str, ...]
    """Per entity the type of its first mention."""
    sentences: NDArray[np.int32]
    """[mentions], entity after entity, those that were cut off included: the sentence of each."""
    mentions: NDArray[np.int32]
    """[entities]: how many each has, those that were cut off included."""

    @property
    def entities(self) -> int:
        """Number of entities, those without a mention left included."""
        return len(self.markers)

    @property
    def pairs(self) -> int:
        """Number of ordered pairs (h, t), h != t."""
        return self.entities * (self.entities - 1)


class DocumentTokenizer:
    """Documents to word pieces. Remembers the word pieces of words, for words repeat."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        """`max_length`: most word pieces of a document, the two special tokens included.

        Raises UserError where the tokenizer lacks the marker or the special tokens around a text.
        """
        marker = tokenizer.convert_tokens_to_ids(MARKER)
        for what, token in (
            (f"no word piece {MARKER!r}", marker if marker != tokenizer.unk_token_id else None),
            ("no token that opens a text (cls_token)", tokenizer.cls_token_id),
            ("no token that closes a text (sep_token)", tokenizer.sep_token_id),
        ):
            if token is None:
                raise UserError(
                    f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has {what}; "
                    "choose a BERT- or RoBERTa-like encoder in model.encoder"
                )
        self.tokenizer = tokenizer
        # Several times as fast as by way of `tokenizer`, which wraps each word's result. A copy: the state that
        # `tokenizer` keeps in it, such as truncation, is not ours.
        self._backend: Tokenizer | None = copy.deepcopy(getattr(tokenizer, "backend_tokenizer", None))
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
        self._pieces: dict[str, list[int]] = {}
        self.marker: int = marker
        self.opening: int = tokenizer.cls_token_id
        self.closing: int = tokenizer.sep_token_id
        self.max_length = max_length

    @property
    def limit(self) -> int:
        """Most word pieces of a document without its closing token."""
        return self.max_length - 1

    def pieces(self, words: list[str]) -> list[list[int]]:
        """The word pieces of each of `words`, which are best distinct."""
        unseen = [word for word in dict.fromkeys(words) if word not in self._pieces]
        if unseen:
            if len(self._pieces) > MOST_WORDS:
                self._pieces.clear()
                return self.pieces(words)
            self._pieces.update(zip(unseen, self._tokenize(unseen), strict=True))
        return [self._pieces[word] for word in words]

    def _tokenize(self, words: list[str]) -> list[list[int]]:
        if self._backend is None:
            ids: list[list[int]] = self.tokenizer(words, add_special_tokens=False)["input_ids"]
            return ids
        found: list[list[int]] = []
        # Many words share a result, for a result costs more than a word does.
        texts = [words[start : start + WORDS_A_TEXT] for start in range(0, len(words), WORDS_A_TEXT)]
        encodings = self._backend.encode_batch(texts, is_pretokenized=True, add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            each = np.array(encoding.word_ids, dtype=np.int64)
            ends = np.bincount(each, minlength=len(text)).cumsum().tolist()
            pieces = encoding.ids
            found += [pieces[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return found

    def encode(self, document: Document) -> EncodedDocument:
        """The document's word pieces, at most `max_length`, and its opening markers."""
        mentions = [mention for entity in document.entities for mention in entity]
        starts = {(mention.sentence, mention.start) for mention in mentions}
        lasts = {(mention.sentence, mention.end - 1) for mention in mentions}

        ids = [self.opening]
        opening: dict[tuple[int, int], int] = {}
        remaining = iter(self.pieces(list(chain.from_iterable(document.sentences))))
        for sentence, words in enumerate(document.sentences):
            for index, pieces in enumerate(islice(remaining, len(words))):
                place = (sentence, index)
                if place in starts:
                    opening[place] = len(ids)
                    ids.append(self.marker)
                ids += pieces
                if place in lasts:
                    ids.append(self.marker)
        markers = tuple(
            tuple(at for mention in entity if (at := opening[mention.sentence, mention.start]) < self.limit)
            for entity in document.entities
        )
        return EncodedDocument(
            input_ids=np.array([*ids[: self.limit], self.closing], dtype=np.int32),
            markers=markers,
            cut=len(mentions) - sum(map(len, markers)),
            types=tuple(entity[0].type for entity in document.entities),
            sentences=np.array([mention.sentence for mention in mentions], dtype=np.int32),
            mentions=np.array(list(map(len, document.entities)), dtype=np.int32),
        )
