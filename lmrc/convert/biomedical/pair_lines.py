"""Lines of candidate pairs: CDR and GDA as the code of the field reads them (train_filter.data).

A line has an identifier, the text (sentences separated by "|", tokens by a space), and 17 columns for each pair:
relation (1:CID:2, 1:NR:2, not_include), direction (L2R, R2L), CROSS or NON-CROSS, two columns of distances, and for
each of the two entities its identifier, names, type, starts, ends and sentences. Starts and ends are tokens of the
document, separated by ":"; the ends are excluded. R2L: the second entity is the head.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lmrc.common.errors import UserError
from lmrc.common.files import reading
from lmrc.convert.annotations import Annotations, RawRelation, lay_out
from lmrc.corpus.types import Document

_COLUMNS = 17
_RELATION = re.compile(r"([12]):(.+):([12])")
# Relations of pairs that the scores do not count, and of pairs without a relation.
_NOT_INCLUDED, _NONE = "not_include", "NR"


def is_pair_line(line: bytes) -> bool:
    """Return True if a line has columns of candidate pairs."""
    fields = line.rstrip(b"\r\n").split(b"\t")
    return len(fields) > _COLUMNS and (len(fields) - 2) % _COLUMNS == 0 and fields[3] in (b"L2R", b"R2L")


def read(path: Path, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the document of each line. An entity is an identifier.

    Raises:
        UserError: A line is not in the format.
    """
    with reading(path) as stream:
        for number, raw in enumerate(stream, 1):
            where = f"{path}: line {number}"
            try:
                line = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{where} is not UTF-8 ({error.reason}); convert it first") from None
            if line.strip():
                document = _document(line, where, remarks)
                if document is not None:
                    yield document


def _document(line: str, where: str, remarks: Counter[str]) -> Document | None:
    fields = line.split("\t")
    if len(fields) < 2 or (len(fields) - 2) % _COLUMNS:
        raise UserError(
            f"{where} has {len(fields)} columns, expected an identifier, a text, and {_COLUMNS} columns for each pair"
        )
    identifier, text, *columns = fields
    laid_out = lay_out(sentence.split(" ") for sentence in text.split("|"))
    spans = [span for sentence in laid_out.spans for span in sentence]
    annotations = Annotations(identifier, remarks)
    for pair in range(0, len(columns), _COLUMNS):
        relation, direction, *_ = columns[pair : pair + _COLUMNS]
        ends = []
        for first in (5, 11):
            key, _, kind, starts, stops, _ = columns[pair + first : pair + first + 6]
            ends.append(key)
            if key not in annotations.entities:
                annotations.entities[key] = []
                for start, end in _tokens(starts, stops, where):
                    if 0 <= start < end <= len(spans):
                        mention = annotations.add_mention([(spans[start][0], spans[end - 1][1])], kind)
                        annotations.add_to_entity(key, mention)
                    else:
                        remarks["mentions outside of the text left out"] += 1
        _add_relation(annotations, relation, direction, ends, remarks)
    return annotations.to_document(laid_out)


def _tokens(starts: str, ends: str, where: str) -> list[tuple[int, int]]:
    try:
        return [(int(start), int(end)) for start, end in zip(starts.split(":"), ends.split(":"), strict=True)]
    except ValueError:
        raise UserError(
            f"{where}: the mentions {starts!r} to {ends!r} are no tokens, expected such as 0:6 and 1:8"
        ) from None


def _add_relation(
    annotations: Annotations, relation: str, direction: str, ends: list[str], remarks: Counter[str]
) -> None:
    match = _RELATION.fullmatch(relation)
    name = match[2] if match else relation
    if name == _NOT_INCLUDED:
        remarks["pairs that the file excludes (not_include), which have no label"] += 1
    elif name == _NONE:
        remarks["pairs of no relation, which have no label"] += 1
    else:
        is_reversed = (direction == "R2L") != (match is not None and match[1] == "2")
        head, tail = reversed(ends) if is_reversed else ends
        annotations.relations.append(RawRelation(head, tail, name))
