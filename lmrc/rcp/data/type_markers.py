"""Opening markers that name the type of what they open: a word such as "person" in the place of `*`.

Not of the paper (Zhou & Chen 2022 compare such markers for sentences); an option, off by default. A type is that of
the entity's first mention. Closing markers stay, and an encoded document keeps its length: one word piece a marker.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from transformers import PreTrainedTokenizerBase

from lmrc.rcp.data.tokenization import EncodedDocument

# What DocRED's types abbreviate.
NAMES = {
    "PER": "person",
    "LOC": "location",
    "ORG": "organization",
    "TIME": "time",
    "NUM": "number",
    "MISC": "other",
}


def type_words(types: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The word piece that opens mentions of each type.

    It is the first of its name (in lower case) that no type before it has, else the first.
    """
    words: dict[str, int] = {}
    for kind in types:
        pieces = tokenizer(NAMES.get(kind, kind.lower()), add_special_tokens=False)["input_ids"]
        pieces = pieces or [tokenizer.unk_token_id]
        words[kind] = next((piece for piece in pieces if piece not in words.values()), pieces[0])
    return words


def marked(document: EncodedDocument, words: Mapping[str, int]) -> EncodedDocument:
    """The document with the word of its type for each opening marker; `*` stays where a type has none.

    Of mentions of several entities that share an opening marker the last entity's type counts.
    """
    ids = document.input_ids.copy()
    for places, kind in zip(document.markers, document.types, strict=True):
        if kind in words:
            ids[list(places)] = words[kind]
    return dataclasses.replace(document, input_ids=ids)
