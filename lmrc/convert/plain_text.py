"""Plain text, or JSON with texts: mentions that the rules find, or given as character spans.

Documents without labels, for propose and classify, which share many documents among workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lmrc.corpus.types import Document
from lmrc.text.entity_types import TypeMap
from lmrc.text.inputs import DocumentReader, read_raw
from lmrc.text.rules import RuleFinder


def read(path: Path, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the documents of a file.

    Raises:
        UserError: it is neither text nor JSON with texts, or mentions do not fit their text.
    """
    reader = DocumentReader(RuleFinder(), TypeMap(()))
    for raw in read_raw(path):
        document = reader.read(raw).document
        if document.entities:
            yield document
        else:
            remarks["documents without an entity left out"] += 1
    remarks["texts with mentions by rules"] += reader.texts
    for (old, new), count in reader.types.changed.items():
        remarks[f"mentions of type {old}, now {new}"] += count
