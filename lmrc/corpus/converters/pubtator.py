"""PubTator: abstracts with mentions at character offsets, such as BC5CDR (CDR) and BioRED.

1|t|A title.
1|a|An abstract.
1	2	7	title	Disease	D003
1	CID	D008	D003
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lmrc.common.errors import UserError
from lmrc.common.files import reading
from lmrc.corpus.text import tokenize
from lmrc.corpus.types import Document, Label, Mention

_TEXT = re.compile(r"([^|\t]+)\|([ta])\|(.*)")
# A mention of several concepts, such as "ovarian and breast cancer".
_SEPARATORS = re.compile(r"[|,;]")
_WITHOUT_IDENTIFIER = {"", "-", "-1"}


@dataclass
class _Record:
    """The lines of one document."""

    identifier: str
    title: str = ""
    abstract: str = ""
    mentions: list[tuple[int, int, str, str, str]] = field(default_factory=list)
    relations: list[tuple[str, str, str]] = field(default_factory=list)


def read(path: Path, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the documents of a PubTator file. The title is the document's identifier; an entity is an identifier.

    Args:
        path: The file, gzipped if its name ends in .gz.
        remarks: Counts mentions without an identifier (each becomes an entity), mentions whose name is not the text at
            their offsets, repeated relations, and relations and documents that are left out.

    Raises:
        UserError: A line is not in the format.
    """
    record: _Record | None = None
    with reading(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: line {number} is not UTF-8 ({error.reason}); convert it first") from None
            if not text.strip():
                continue
            identifier = re.split(r"[|\t]", text, maxsplit=1)[0]
            if record is None or identifier != record.identifier:
                if record is not None:
                    yield from _documents(record, path, remarks)
                record = _Record(identifier)
            _add(record, text, f"{path}: line {number}")
    if record is not None:
        yield from _documents(record, path, remarks)


def _add(record: _Record, line: str, where: str) -> None:
    if match := _TEXT.fullmatch(line):
        if match[2] == "t":
            record.title = match[3]
        else:
            record.abstract = match[3]
        return
    fields = line.split("\t")
    if len(fields) >= 5 and fields[1].isdigit() and fields[2].isdigit():
        # Seven columns: the last one has the parts of a mention of several concepts.
        identifiers = fields[5] if len(fields) > 5 else ""
        record.mentions.append((int(fields[1]), int(fields[2]), fields[3], fields[4], identifiers))
    elif len(fields) >= 4:
        record.relations.append((fields[1], fields[2], fields[3]))
    else:
        raise UserError(
            f"{where} is {line[:60]!r}, expected ID|t|title, ID|a|abstract, a mention (ID, start, end, name, type and "
            "identifier, separated by tabs) or a relation (ID, relation, identifier and identifier)"
        )


def _documents(record: _Record, path: Path, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the document of a record, if it has an entity."""
    text = f"{record.title} {record.abstract}"
    tokenized = tokenize(text, [(start, end) for start, end, *_ in record.mentions], [len(record.title)])
    entities: dict[str, list[Mention]] = {}
    for index, (start, end, name, kind, identifiers) in enumerate(record.mentions):
        try:
            mention = tokenized.mention(start, end, kind, name)
        except ValueError as error:
            raise UserError(f"{path}: document {record.identifier}: mention {name!r}: {error}") from None
        remarks["mentions whose name is not the text at their offsets"] += text[start:end] != name
        known = [part for part in _SEPARATORS.split(identifiers) if part not in _WITHOUT_IDENTIFIER]
        remarks["mentions without an identifier, each now an entity"] += not known
        for key in dict.fromkeys(known or [f"\0{index}"]):
            entities.setdefault(key, []).append(mention)
    if not entities:
        remarks["documents without an entity left out"] += 1
        return
    indices = {key: index for index, key in enumerate(entities)}
    labels: dict[tuple[int, int, str], Label] = {}
    for relation, head, tail in record.relations:
        if head not in indices or tail not in indices:
            remarks["relations of an identifier without a mention left out"] += 1
        elif head == tail:
            remarks["relations of an entity with itself left out"] += 1
        else:
            key = (indices[head], indices[tail], relation)
            remarks["repeated relations kept once"] += key in labels
            labels[key] = Label(*key)
    mentions = tuple(tuple(mentions) for mentions in entities.values())
    yield Document(record.identifier, tokenized.sentences, mentions, tuple(labels.values()))
