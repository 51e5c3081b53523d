"""Typed entity markers: an opening marker such as "person" instead of `*` (compare Zhou & Chen 2022).

Not part of the paper; off by default. An entity's type is that of its first mention. Closing markers stay `*`. A marker
is one word piece, so the document keeps its length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from transformers import PreTrainedTokenizerBase

from lmrc.rcp.data.tokenization import EncodedDocument

# Names of DocRED's types.
TYPE_NAMES = {
    "PER": "person",
    "LOC": "location",
    "ORG": "organization",
    "TIME": "time",
    "NUM": "number",
    "MISC": "other",
}


def choose_type_markers(types: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the opening marker of each type, as a word piece.

    It is the first word piece of the type's name in lower case that no earlier type uses. If all are used, it is the
    first one.
    """
    markers: dict[str, int] = {}
    for name in types:
        pieces = tokenizer(TYPE_NAMES.get(name, name.lower()), add_special_tokens=False)["input_ids"]
        pieces = pieces or [tokenizer.unk_token_id]
        markers[name] = next((piece for piece in pieces if piece not in markers.values()), pieces[0])
    return markers


def replace_opening_markers(document: EncodedDocument, markers: Mapping[str, int]) -> EncodedDocument:
    """Return the document with typed opening markers.

    `*` stays for types that are not in `markers`. If several entities share an opening marker, the type of the last one
    decides.
    """
    ids = document.input_ids.copy()
    for positions, name in zip(document.marker_positions, document.entity_types, strict=True):
        if name in markers:
            ids[list(positions)] = markers[name]
    return dataclasses.replace(document, input_ids=ids)
