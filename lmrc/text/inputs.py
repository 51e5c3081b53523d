"""Documents from texts, JSON or Parquet with texts or DocRED's documents, folders of these, or standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from lmrc.common.errors import UserError, counted
from lmrc.common.files import reading
from lmrc.corpus.docred import parse_document
from lmrc.corpus.reading.raw_documents import RawDocuments
from lmrc.corpus.reading.shard_folder import shards
from lmrc.text.backends import GivenOnly
from lmrc.text.document import document_of
from lmrc.text.entity_types import TypeMap
from lmrc.text.layout import TextDocument, with_single_spaces
from lmrc.text.mentions import MentionFinder, TextMention
from lmrc.text.spans import SpanError, check_text, parse

STDIN = Path("-")
TEXT_SUFFIXES = (".txt", ".text", ".md")
# Documents whose breaches a message shows.
_SHOWN = 10


@dataclass(frozen=True)
class RawDocument:
    """A document before the check.

    Attributes:
        file: its file, for messages.
        index: its number in the file.
        content: a text as {"title", "text"}, or what JSON holds.
    """

    file: str
    index: int
    content: Any

    @property
    def title(self) -> str:
        """Return the title; that of a text without one is made of its number."""
        title = (self.content.get("title") or self.content.get("id")) if isinstance(self.content, Mapping) else None
        return str(title) if title is not None else f"text {self.index}"


def is_text(path: Path) -> bool:
    """Return True if the path is a file of plain text or a folder of such files, by its name."""
    if path.is_dir():
        return not shards(path)
    return path.name.lower().removesuffix(".gz").endswith(TEXT_SUFFIXES)


def read_raw(path: Path) -> Iterator[RawDocument]:
    """Yield the documents of a file, of a folder's *.txt or shards, or of standard input (-), one at a time.

    Raises:
        UserError: there is nothing to read, or it is not UTF-8 or not JSON.
    """
    if path == STDIN:
        yield from _standard_input()
    elif path.is_dir():
        yield from _folder(path)
    elif is_text(path):
        yield RawDocument(str(path), 0, {"title": path.name.partition(".")[0] or path.name, "text": _text(path)})
    else:
        yield from _json_or_parquet(path)


def _folder(path: Path) -> Iterator[RawDocument]:
    files = sorted(file for file in path.rglob("*.txt") if not file.name.startswith("."))
    found = shards(path)
    if files and found:
        raise UserError(f"{path}: has texts ({files[0].name}) and shards ({found[0].name}): give a folder with either")
    if found:
        yield from _json_or_parquet(path)
    elif not files:
        raise UserError(
            f"{path}: has no file *.txt, *.jsonl or *.parquet; give a folder of texts or of shards, a text, or JSON "
            "with texts"
        )
    for index, file in enumerate(files):
        title = file.relative_to(path).with_suffix("").as_posix()
        yield RawDocument(str(file), index, {"title": title, "text": _text(file)})


def _json_or_parquet(path: Path) -> Iterator[RawDocument]:
    for index, raw in enumerate(RawDocuments(path, ("sents", "vertexSet", "text"))):
        yield RawDocument(str(path), index, raw)


def _standard_input() -> Iterator[RawDocument]:
    for index in count():
        line = sys.stdin.buffer.readline()
        if not line:
            return
        try:
            yield RawDocument("standard input", index, json.loads(line))
        except ValueError as error:
            raise UserError(
                f"standard input: line {index + 1} is not JSON ({error}); expected a document a line"
            ) from None


def _text(file: Path) -> str:
    with reading(file) as stream:
        try:
            return stream.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file}: is not UTF-8 ({error.reason} at byte {error.start:,}); convert it first"
            ) from None


class DocumentReader:
    """Makes documents of raw ones; mentions come with them or from a finder.

    Attributes:
        types: entity types that were changed for the model.
        texts: number of texts whose mentions the finder found.
        given: number of texts that brought their mentions.
    """

    def __init__(self, finder: MentionFinder, types: TypeMap) -> None:
        self._finder = finder
        self.types = types
        self.texts = 0
        self.given = 0

    def read(self, raw: RawDocument) -> TextDocument:
        """Return the document.

        Raises:
            UserError: it breaks the form. The message lists all breaches.
        """
        content, where = raw.content, f"{raw.file}: document {raw.index}"
        if not isinstance(content, Mapping) or "text" not in content:
            return with_single_spaces(parse_document(content, raw.file, raw.index, None))
        if breaches := check_text(content):
            raise SpanError(where, breaches)
        title, text = raw.title, content["text"]
        mentions, breaches = parse(content)
        if breaches:
            raise SpanError(f"{where} ({title!r})", breaches)
        if mentions is None:
            try:
                mentions = self._finder.find(text)
            except UserError as error:
                raise UserError(f"{where} ({title!r}) {error}") from None
            self.texts += 1
        else:
            self.given += 1
        return document_of(title, text, mentions, self.types)

    def summary(self) -> list[str]:
        """Return sentences for the user: what found the mentions, and which types were changed."""
        lines = []
        if self.texts:
            lines.append(f"{counted(self.texts, 'text')}: {self._finder.summary}")
        if self.given:
            lines.append(f"{counted(self.given, 'text')} with given mentions")
        return [*lines, *filter(None, [str(self.types)])]


def check_raw(documents: Iterable[RawDocument], finder: MentionFinder) -> int:
    """Check all documents and return their number. No mentions are looked for, unless `finder` refuses to.

    Raises:
        UserError: some break the form. The message counts them, and lists the breaches of the first ones.
    """
    reader = DocumentReader(finder if isinstance(finder, GivenOnly) else _Nothing(), TypeMap(()))
    problems: list[str] = []
    total = failed = 0
    for raw in documents:
        total += 1
        try:
            reader.read(raw)
        except UserError as error:
            failed += 1
            if failed <= _SHOWN:
                problems.append(str(error))
    if failed == 1:
        raise UserError(problems[0])
    if failed:
        more = [f"and {failed - _SHOWN:,} more documents"] if failed > _SHOWN else []
        raise UserError("\n".join([f"{failed:,} of {total:,} documents break the form:", *problems, *more]))
    return total


class _Nothing:
    """Finds no mentions."""

    summary = ""

    def find(self, text: str) -> list[TextMention]:
        return []
