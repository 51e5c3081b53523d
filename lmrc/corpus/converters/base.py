"""The converter interface, and the conversion of a file into DocRED's format."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lmrc.common.atomic_io import replacing, write_atomically
from lmrc.common.errors import DocumentError
from lmrc.corpus.converters import pubtator
from lmrc.corpus.docred import parse_document, to_json
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document

# Yields the documents of a file. A label's relation is its name in the file. The counter takes how often something was
# not converted as it stands, by a phrase for the user, such as "relations between unknown identifiers left out".
Converter = Callable[[Path, Counter[str]], Iterator[Document]]

CONVERTERS: dict[str, Converter] = {"pubtator": pubtator.read}


@dataclass
class Conversion:
    """Sizes of a converted file.

    Attributes:
        relations: The file of the relation set; None if no document has a label.
        remarks: What was not converted as it stands, with its number.
    """

    documents: int = 0
    entities: int = 0
    triples: int = 0
    relations: Path | None = None
    remarks: Counter[str] = field(default_factory=Counter)


def convert(path: Path, out: Path, converter: Converter) -> Conversion:
    """Write the documents of a file as DocRED JSON, and their relations as {id: name} to OUT.relations.json.

    Args:
        path: The file to convert.
        out: The file to write, which appears only when it is complete.
        converter: An entry of `CONVERTERS`.

    Raises:
        UserError: The file is not in the format, or a title occurs twice.
    """
    conversion = Conversion()
    relations: set[str] = set()
    titles: dict[str, int] = {}
    with replacing(out) as file:
        for index, document in enumerate(converter(path, conversion.remarks)):
            first = titles.setdefault(document.title, index)
            if first != index:
                raise DocumentError(path, index, document.title, f"document {first} has the same title")
            found = sorted({label.relation for label in document.labels or ()})
            raw = to_json(document)
            parse_document(raw, path, index, RelationSet(tuple(found), tuple(found)))
            file.write(("[\n" if index == 0 else ",\n") + json.dumps(raw, ensure_ascii=False))
            relations.update(found)
            conversion.documents += 1
            conversion.entities += len(document.entities)
            conversion.triples += len(document.labels or ())
        file.write("\n]\n" if conversion.documents else "[]\n")
    if relations:
        conversion.relations = out.with_name(out.stem + ".relations.json")
        names = {relation: relation for relation in sorted(relations)}
        write_atomically(conversion.relations, json.dumps(names, indent=1) + "\n")
    return conversion
