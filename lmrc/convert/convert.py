"""Convert files of another format to DocRED's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from lmrc.common.atomic_io import replacing, write_atomically
from lmrc.common.errors import UserError
from lmrc.convert.formats import FORMATS, Format
from lmrc.corpus.docred import parse_document, to_json
from lmrc.corpus.reading.known_formats import format_of_file, remedy
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document

# Names of files, without their ends, that stand beside the data.
_NO_DATA = ("readme", "license", "licence", "changelog")


@dataclass
class Conversion:
    """Sizes of a conversion.

    Attributes:
        relations: The file of the relation set; None if no document has a label.
        remarks: What was not carried over as it stands, with its number.
    """

    documents: int = 0
    entities: int = 0
    triples: int = 0
    relations: Path | None = None
    remarks: Counter[str] = field(default_factory=Counter)

    def account(self) -> str:
        """Return one line about all that was not carried over as it stands."""
        remarks = "; ".join(f"{count:,} {remark}" for remark, count in self.remarks.items() if count)
        return f"not as in the file: {remarks}" if remarks else "everything was carried over as it stands"


def convert(path: Path, out: Path, source: Format) -> Conversion:
    """Write the documents of a file or folder as DocRED JSON, and their relations as {id: name} to OUT.relations.json.

    Args:
        path: The file, or a folder with files of the format, at any depth.
        out: The file to write, which appears only when it is complete.
        source: The format of the files, an entry of `FORMATS`.

    Raises:
        UserError: A file is not in the format, there is no document with an entity, or `out` is the file to convert.
    """
    if path.is_file() and path.resolve() == out.resolve():
        raise UserError(f"--out {out} is the file to convert: give another name")
    conversion = Conversion()
    relations: set[str] = set()
    relations_file = out.with_name(out.stem + ".relations.json")
    # A second conversion into the folder that is read must not read the first one's output.
    files = [file for file in _files(path, source) if file.resolve() not in (out.resolve(), relations_file.resolve())]
    about = [file for file in files if path.is_dir() and file.name.lower().partition(".")[0] in _NO_DATA]
    conversion.remarks["files README or LICENSE left out"] += len(about)
    files = [file for file in files if file not in about]
    with replacing(out) as file:
        for index, document in enumerate(_documents(files, source, conversion.remarks)):
            found = sorted({label.relation for label in document.labels or ()})
            raw = to_json(document)
            parse_document(raw, path, index, RelationSet(tuple(found), tuple(found)))
            file.write(("[\n" if index == 0 else ",\n") + json.dumps(raw, ensure_ascii=False))
            relations.update(found)
            conversion.documents += 1
            conversion.entities += len(document.entities)
            conversion.triples += len(document.labels or ())
        if not conversion.documents:
            raise UserError(f"{path}: no document with an entity, as {source.content}; {conversion.account()}")
        file.write("\n]\n")
    if relations:
        conversion.relations = relations_file
        names = {relation: relation for relation in sorted(relations)}
        write_atomically(conversion.relations, json.dumps(names, indent=1, ensure_ascii=False) + "\n")
    return conversion


def _documents(files: list[Path], source: Format, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the documents of all files, each with a title of its own."""
    titles: set[str] = set()
    for file in files:
        for document in _read(file, source, remarks):
            title, number = document.title, 1
            while title in titles:
                number += 1
                title = f"{document.title} ({number})"
            remarks["documents with the title of another one, numbered"] += number > 1
            titles.add(title)
            yield replace(document, title=title)


def _read(file: Path, source: Format, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the documents of a file. An error says which format the file has, if it is another one."""
    try:
        yield from source.read(file, remarks)
    except UserError as error:
        name = format_of_file(file)
        if name is None or FORMATS.get(name) is source:
            raise
        raise UserError(f"{error}{remedy(name, file)}") from None


def _files(path: Path, source: Format) -> list[Path]:
    """Return the files to read, sorted by name, without hidden ones.

    Raises:
        UserError: There is no such file, or a folder has no file of the format.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [path]
    found = sorted(
        file
        for file in path.rglob("*")
        if file.name.lower().removesuffix(".gz").endswith(source.suffixes) and not file.name.startswith(".")
    )
    if not found:
        names = ", ".join(f"*{suffix}" for suffix in source.suffixes)
        raise UserError(f"{path}: has no file {names}, expected {source.content}")
    return found
