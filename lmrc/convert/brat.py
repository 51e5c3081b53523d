"""brat standoff: a text in NAME.txt and its annotations in NAME.ann.

T1	Person 0 3	Ada
T2	City 16 20	Rome
T3	Disease 25 32;45 51	ovarian cancer
R1	Born-In Arg1:T1 Arg2:T2
E1	Attack:T4 Target:T2
*	Equiv T1 T5
A1	Negation E1
N1	Reference T2 Wikipedia:25458	Rome
#1	AnnotatorNotes T1	a note
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from lmrc.common.errors import UserError
from lmrc.common.files import reading
from lmrc.convert.annotations import Annotations, Groups, RawRelation, Span, locate
from lmrc.corpus.text import tokenize
from lmrc.corpus.types import Document

# Relations that say that two mentions are one entity.
_COREFERENCE = {"coref", "coreference", "equiv", "same-as", "same_as", "sameas", "identity", "ident"}


@dataclass
class _File:
    """The lines of one .ann file.

    Attributes:
        texts: Type, parts and text of each T.
        triggers: T of each E.
        arguments: Identifier, role and argument of each argument of an E.
        relations: Type and two arguments of each R.
        references: References of each T to a knowledge base.
    """

    texts: dict[str, tuple[str, list[Span], str]] = field(default_factory=dict)
    triggers: dict[str, str] = field(default_factory=dict)
    arguments: list[tuple[str, str, str]] = field(default_factory=list)
    relations: list[tuple[str, str, str]] = field(default_factory=list)
    equivalents: list[list[str]] = field(default_factory=list)
    references: dict[str, set[str]] = field(default_factory=dict)


def read(path: Path, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the document of an .ann file, or of the .ann file beside a .txt file.

    An entity is the mentions that Equiv, relations such as Coref, or the same references (N lines) join. An argument of
    an event is a relation from its trigger.

    Raises:
        UserError: A file is missing or not in the format.
    """
    given = path
    path = path.with_suffix(".ann") if path.suffix == ".txt" else path
    stem = path.with_suffix("") if path.suffix == ".gz" else path
    for needed in (path, stem.with_suffix(".txt")):
        if needed != given and not needed.exists():
            raise UserError(
                f"{given}: {needed.name} is not beside it; brat has a text in NAME.txt and its annotations in NAME.ann"
            )
    text = _text(stem.with_suffix(".txt"))
    file = _File()
    # Not splitlines, which also takes a form feed for the end of a line.
    for number, line in enumerate(_text(path).split("\n"), 1):
        line = line.rstrip("\r")
        if line.strip():
            try:
                _add(file, line, remarks)
            except ValueError as error:
                raise UserError(f"{path}: line {number} is {line[:60]!r}, expected {error}") from None
    document = _document(file, stem.stem, text, remarks)
    if document is not None:
        yield document


def _text(path: Path) -> str:
    """Return the text of a file as it is: \\r\\n counts as two characters."""
    with reading(path) as stream:
        try:
            return stream.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: is not UTF-8 ({error.reason}); convert it first") from None


def _add(file: _File, line: str, remarks: Counter[str]) -> None:
    """Add a line. Raises ValueError with the form that it should have."""
    identifier, _, rest = line.partition("\t")
    head, _, text = rest.partition("\t")
    words = head.split()
    if identifier.startswith("T"):
        match = re.fullmatch(r"(\S+) (\d+ \d+(?:;\d+ \d+)*)", head.strip())
        if match is None:
            raise ValueError("ID, tab, type, start and end (start end;start end if discontinuous), tab, text")
        parts = [tuple(map(int, part.split())) for part in match[2].split(";")]
        file.texts[identifier] = (match[1], [(start, end) for start, end in parts], text)
    elif identifier.startswith("R"):
        pairs = [word.partition(":") for word in words[1:]]
        if len(pairs) != 2 or not all(argument for _, _, argument in pairs):
            raise ValueError("ID, tab, type Arg1:ID Arg2:ID")
        if pairs[0][0] == "Arg2" and pairs[1][0] == "Arg1":
            pairs.reverse()
        file.relations.append((words[0], pairs[0][2], pairs[1][2]))
    elif identifier.startswith("E"):
        pairs = [word.partition(":") for word in words]
        if not pairs or not all(argument for _, _, argument in pairs):
            raise ValueError("ID, tab, type:trigger role:ID …")
        file.triggers[identifier] = pairs[0][2]
        file.arguments += [(identifier, role, argument) for role, _, argument in pairs[1:]]
    elif identifier == "*":
        if len(words) < 2:
            raise ValueError("*, tab, type ID ID …")
        if words[0].lower() in _COREFERENCE:
            file.equivalents.append(words[1:])
        else:
            remarks[f"groups ({words[0]}) left out"] += 1
    elif identifier.startswith("N"):
        if len(words) != 3:
            raise ValueError("ID, tab, Reference ID database:entry, tab, name")
        file.references.setdefault(words[1], set()).add(words[2])
    elif identifier[:1] in ("A", "M"):
        remarks["attributes left out"] += 1
    elif identifier.startswith("#"):
        remarks["notes left out"] += 1
    else:
        raise ValueError("a line that begins with T, R, E, A, M, N, * or #, and a tab")


def _document(file: _File, title: str, text: str, remarks: Counter[str]) -> Document | None:
    annotations = Annotations(title, remarks)
    mentions: dict[str, int] = {}
    for identifier, (kind, parts, name) in file.texts.items():
        checked = _check(text, parts, name, remarks)
        if checked:
            mentions[identifier] = annotations.add_mention(checked, kind)
    groups = Groups()

    def mention_of(identifier: str) -> str:
        """Return the identifier of a mention, or that of the trigger of an event."""
        return file.triggers.get(identifier, identifier)

    by_reference: dict[frozenset[str], str] = {}
    for identifier, references in file.references.items():
        # Mentions with all references in common: a mention of two genes has one in common with each gene.
        groups.join(by_reference.setdefault(frozenset(references), identifier), identifier)
    remarks["entries in knowledge bases left out, which joined mentions"] += len(file.references)
    for group in file.equivalents:
        for identifier in group[1:]:
            groups.join(mention_of(group[0]), mention_of(identifier))
    links = [(head, name, tail) for name, head, tail in file.relations if name.lower() not in _COREFERENCE]
    for name, head, tail in file.relations:
        if name.lower() in _COREFERENCE:
            remarks[f"relations {name}, now one entity"] += 1
            groups.join(mention_of(head), mention_of(tail))
    remarks["arguments of events, now relations of the trigger"] += len(file.arguments)
    links += [(event, role, argument) for event, role, argument in file.arguments]
    for identifier in file.texts:
        annotations.entities.setdefault(groups.find(identifier), [])
        if identifier in mentions:
            annotations.add_to_entity(groups.find(identifier), mentions[identifier])
    for head, name, tail in links:
        pair = (mention_of(head), mention_of(tail))
        evidence = tuple(mentions[identifier] for identifier in pair if identifier in mentions)
        annotations.relations.append(RawRelation(groups.find(pair[0]), groups.find(pair[1]), name, evidence))
    tokenized = tokenize(text, annotations.parts())
    remarks["sentences, split by rule"] += len(tokenized.spans)
    return annotations.to_document(tokenized)


def _check(text: str, parts: list[Span], name: str, remarks: Counter[str]) -> list[Span]:
    """Return the parts of a mention, checked against its text. Parts of one line that touch are one."""
    parts = sorted(parts)
    whole = (parts[0][0], parts[-1][1])
    inside = all(0 <= start < end <= len(text) for start, end in parts)
    if len(parts) > 1 and inside:
        # brat splits a mention at the end of a line, and writes its text with a space there.
        if all(not text[before[1] : after[0]].strip() for before, after in pairwise(parts)):
            return _check(text, [whole], name, remarks)
        joined = " ".join(text[start:end] for start, end in parts)
        remarks["mentions whose name is not the text at their offsets"] += joined.split() != name.split()
        return parts
    span = locate(text, *whole, name, remarks)
    return [] if span is None else [span]
