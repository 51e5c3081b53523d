"""PubTator: abstracts with mentions at character offsets, such as BC5CDR (CDR), GDA and BioRED.

1|t|A title.
1|a|An abstract.
1	2	7	title	Disease	D003
1	CID	D008	D003

GDA is published as a folder with the same in three files: abstracts.txt (identifier, title, abstract, on a line each),
anns.txt (mentions) and labels.csv (identifier, gene, disease, 1 or 0).

CDR, GDA and BioRED are also published as BioC and as lines of candidate pairs, which their content tells.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lmrc.common.errors import UserError
from lmrc.common.files import reading
from lmrc.convert.annotations import Annotations, locate
from lmrc.convert.biomedical import bioc, pair_lines
from lmrc.convert.biomedical.concepts import add_mention, add_relation, resolve
from lmrc.corpus.text import tokenize
from lmrc.corpus.types import Document

_TEXT = re.compile(r"([^|\t]+)\|([ta])\|(.*)")


@dataclass
class _Record:
    """The lines of one document. A mention has start, end, name, type and identifiers."""

    identifier: str
    title: str = ""
    abstract: str = ""
    mentions: list[tuple[int, int, str, str, str]] = field(default_factory=list)
    relations: list[tuple[str, str, str]] = field(default_factory=list)
    # Columns of relations behind the second identifier: BioRED's Novel or No.
    further_columns: int = 0


def read(path: Path, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the documents of a PubTator file. The title is the document's identifier; an entity is an identifier.

    Raises:
        UserError: A line is not in the format.
    """
    has_parts = (path.parent / "abstracts.txt").is_file() and (path.parent / "anns.txt").is_file()
    if has_parts and path.name == "anns.txt":
        return
    if has_parts and path.name == "abstracts.txt":
        records = _gda_records(path.parent, remarks)
    else:
        with reading(path) as stream:
            first = stream.readline()
        if first.lstrip()[:1] in (b"{", b"[", b"<"):
            yield from bioc.read(path, remarks)
            return
        if pair_lines.is_pair_line(first):
            yield from pair_lines.read(path, remarks)
            return
        records = _records(path)
    for record in records:
        yield from _documents(record, remarks)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines that are not blank, each after its place for messages."""
    with reading(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: line {number} is not UTF-8 ({error.reason}); convert it first") from None
            if text.strip():
                yield f"{path}: line {number}", text


def _records(path: Path) -> Iterator[_Record]:
    record: _Record | None = None
    for where, text in _lines(path):
        identifier = re.split(r"[|\t]", text, maxsplit=1)[0]
        if record is None or identifier != record.identifier:
            if record is not None:
                yield record
            record = _Record(identifier)
        _add(record, text, where)
    if record is not None:
        yield record


def _gda_records(folder: Path, remarks: Counter[str]) -> Iterator[_Record]:
    """Yield the records of abstracts.txt, with their lines of anns.txt and the pairs with a 1 in labels.csv."""
    further: dict[str, list[tuple[str, str]]] = {}
    for where, text in _lines(folder / "anns.txt"):
        further.setdefault(text.partition("\t")[0], []).append((where, text))
    labels = folder / "labels.csv"
    for where, text in _lines(labels) if labels.is_file() else ():
        fields = text.split(",")
        if len(fields) < 4:
            raise UserError(f"{where} is {text[:60]!r}, expected identifier, gene, disease and 1 or 0")
        if fields[3].strip() == "1":
            further.setdefault(fields[0], []).append((where, "\t".join((fields[0], "GDA", *fields[1:3]))))
        # The first line has the names of the columns.
        remarks["pairs of no relation, which have no label"] += fields[3].strip() == "0"
    record: _Record | None = None
    for _, text in _lines(folder / "abstracts.txt"):
        if text.strip().isdigit():
            if record is not None:
                yield record
            record = _Record(text.strip())
            for where, line in further.pop(record.identifier, []):
                _add(record, line, where)
        elif record is not None and not record.title:
            record.title = text
        elif record is not None:
            record.abstract = f"{record.abstract} {text}".lstrip()
    if record is not None:
        yield record
    remarks["lines of documents that are not there left out"] += sum(map(len, further.values()))


def _add(record: _Record, line: str, where: str) -> None:
    if match := _TEXT.fullmatch(line):
        if match[2] == "t":
            record.title = match[3]
        else:
            record.abstract = match[3]
        return
    fields = [part.strip() for part in line.split("\t")]
    if len(fields) >= 4 and fields[1].isdigit() and fields[2].isdigit():
        # Seven columns: the last one has the parts of a mention of several concepts.
        kind, identifiers = (*fields[4:6], "", "")[:2]
        record.mentions.append((int(fields[1]), int(fields[2]), line.split("\t")[3], kind, identifiers))
    elif len(fields) >= 4:
        record.relations.append((fields[1], fields[2], fields[3]))
        record.further_columns += any(fields[4:])
    else:
        raise UserError(
            f"{where} is {line[:60]!r}, expected ID|t|title, ID|a|abstract, a mention (ID, start, end, name, type and "
            "identifier, separated by tabs) or a relation (ID, relation, identifier and identifier)"
        )


def _documents(record: _Record, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the document of a record, if it has a text and an entity."""
    if not record.title and not record.abstract:
        # Such as relations of all documents at the end of the file.
        lines = len(record.mentions) + len(record.relations)
        remarks["mentions and relations apart from the text of their document left out"] += lines
        return
    text = f"{record.title} {record.abstract}"
    annotations = Annotations(record.identifier, remarks)
    for index, (start, end, name, kind, identifiers) in enumerate(record.mentions):
        span = locate(text, start, end, name, remarks)
        add_mention(annotations, [] if span is None else [span], kind, identifiers, index, remarks)
    for relation, *pair in record.relations:
        heads, tails = (resolve(argument, annotations) for argument in pair)
        add_relation(annotations, relation, heads, tails, remarks)
    remarks["columns of relations behind the identifiers (novelty) left out"] += record.further_columns
    tokenized = tokenize(text, annotations.parts(), [len(record.title)])
    remarks["sentences, split by rule"] += len(tokenized.spans)
    document = annotations.to_document(tokenized)
    if document is not None:
        yield document
