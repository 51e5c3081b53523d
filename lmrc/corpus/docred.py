"""Documents in the DocRED JSON format: read, check, write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import ijson

from lmrc.common.errors import DocumentError, UserError, nearest
from lmrc.common.files import reading
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Entity, Label, Mention


def candidate_pairs(entities: int) -> list[tuple[int, int]]:
    """Return all ordered pairs (h, t), h != t, of `entities` entities, sorted: the candidate space (section 2)."""
    return [(head, tail) for head in range(entities) for tail in range(entities) if head != tail]


def relations_by_pair(document: Document) -> dict[tuple[int, int], tuple[str, ...]]:
    """Return the unique gold relation ids of each pair that has any, in the order of the labels. Pairs are sorted.

    Empty if the document has no labels.
    """
    # A dict keeps the order of its keys, unlike a set.
    relations: dict[tuple[int, int], dict[str, None]] = {}
    for label in document.labels or ():
        relations.setdefault((label.head, label.tail), {})[label.relation] = None
    return {pair: tuple(relations[pair]) for pair in sorted(relations)}


def to_json(document: Document) -> dict[str, Any]:
    """Return the document in the DocRED format, without the key `labels` if the document has none."""
    raw: dict[str, Any] = {
        "title": document.title,
        "sents": [list(sentence) for sentence in document.sentences],
        "vertexSet": [
            [{"name": m.name, "sent_id": m.sentence, "pos": [m.start, m.end], "type": m.type} for m in entity]
            for entity in document.entities
        ],
    }
    if document.labels is not None:
        raw["labels"] = [
            {"h": label.head, "t": label.tail, "r": label.relation, "evidence": list(label.evidence)}
            for label in document.labels
        ]
    return raw


def read_documents(path: str | Path, relations: RelationSet | None) -> Iterator[Document]:
    """Yield the checked documents of a DocRED JSON file, one at a time in constant memory.

    Args:
        path: the file, gzipped if its name ends in .gz.
        relations: relation set of the labels. If it is None, labels are ignored and `Document.labels` is None.

    Raises:
        UserError: the file cannot be read or is not a JSON list.
        DocumentError: a document breaks the format, has an unknown relation, or repeats a title.
    """
    index_of_title: dict[str, int] = {}
    with reading(path) as stream:
        _check_is_list(stream, path)
        items = ijson.items(stream, "item", use_float=True)
        index = 0
        while True:
            try:
                raw = next(items)
            except StopIteration:
                return
            except ijson.JSONError as error:
                raise UserError(f"{path}: {_describe_json_error(error)} after {index} documents") from None
            document = parse_document(raw, path, index, relations)
            first = index_of_title.setdefault(document.title, index)
            if first != index:
                raise DocumentError(path, index, document.title, f"document {first} has the same title")
            yield document
            index += 1


def parse_document(raw: object, file: str | Path, index: int, relations: RelationSet | None) -> Document:
    """Check one document and return it.

    Extra keys are ignored; `labels` and `evidence` may be absent. Repeated labels (h, t, r) are merged with all their
    evidence, and counted in `duplicate_labels`.

    Args:
        file: name of its file, for messages.
        index: its index in the file, for messages.
        relations: relation set of the labels; if it is None, labels are ignored.

    Raises:
        DocumentError: the document breaks the format.
    """
    try:
        return _document(raw, relations)
    except _FormatError as error:
        title = raw.get("title") if isinstance(raw, dict) else None
        raise DocumentError(file, index, title if isinstance(title, str) else None, str(error)) from None


class _FormatError(Exception):
    """A violation of the format, without the document's file and index."""


_JSON_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
_LIST_STARTS = {b"{": "an object", b'"': "a string", b"t": "true", b"f": "false", b"n": "null"}


def _describe(value: object) -> str:
    name = _JSON_NAMES.get(type(value))
    return name if name is not None else f"the number {value}"


def _check_is_list(stream: IO[bytes], path: str | Path) -> None:
    """Raise UserError if the JSON is no list: ijson would silently find no documents in anything else."""
    start = stream.tell()
    while (byte := stream.read(1)).isspace():
        pass
    if byte == b"":
        raise UserError(f"{path}: is empty, expected a JSON list of documents")
    if byte == b"{":
        raise UserError(
            f"{path}: holds an object, expected a JSON list of documents: [{{…}}, {{…}}] "
            "(a list also for a single document)"
        )
    if byte in _LIST_STARTS or byte in b"-0123456789":
        raise UserError(f"{path}: holds {_LIST_STARTS.get(byte, 'a number')}, expected a JSON list of documents")
    if byte != b"[":
        raise UserError(f"{path}: is not JSON, expected a JSON list of documents")
    stream.seek(start)


def _describe_json_error(error: Exception) -> str:
    text = str(error)
    if "premature EOF" in text:
        return "the JSON ends in the middle: the file is cut off,"
    reason = text.removeprefix("b'").replace("\\n", "\n").splitlines()[0].strip()
    return f"is not valid JSON ({reason})"


def _get(raw: dict[str, Any], key: str, kind: type, context: str) -> Any:
    try:
        value = raw[key]
    except KeyError:
        raise _FormatError(f"{context}{key} is missing") from None
    # Not isinstance: True is an int in Python, but not in JSON.
    if type(value) is not kind:
        expected = "a whole number" if kind is int else _JSON_NAMES[kind]
        raise _FormatError(f"{context}{key} is {_describe(value)}, expected {expected}")
    return value


def _document(raw: object, relations: RelationSet | None) -> Document:
    if not isinstance(raw, dict):
        raise _FormatError(f"is {_describe(raw)}, expected an object with title, sents and vertexSet")
    title = _get(raw, "title", str, "")
    sentences = tuple(_sentence(tokens, index) for index, tokens in enumerate(_get(raw, "sents", list, "")))
    vertices = _get(raw, "vertexSet", list, "")
    if not vertices:
        raise _FormatError("vertexSet is empty, expected at least one entity")
    entities = tuple(_entity(mentions, index, sentences) for index, mentions in enumerate(vertices))
    if relations is None or "labels" not in raw:
        return Document(title, sentences, entities, None)
    labels = [
        _label(label, index, len(entities), len(sentences), relations)
        for index, label in enumerate(_get(raw, "labels", list, ""))
    ]
    merged: dict[tuple[int, int, str], Label] = {}
    for label in labels:
        key = (label.head, label.tail, label.relation)
        if key in merged:
            evidence = tuple(dict.fromkeys(merged[key].evidence + label.evidence))
            label = Label(*key, evidence)
        merged[key] = label
    return Document(title, sentences, entities, tuple(merged.values()), len(labels) - len(merged))


def _sentence(tokens: object, index: int) -> tuple[str, ...]:
    if not isinstance(tokens, list):
        raise _FormatError(f"sentence {index} is {_describe(tokens)}, expected a list of tokens")
    for position, token in enumerate(tokens):
        if type(token) is not str:
            raise _FormatError(f"token {position} of sentence {index} is {_describe(token)}, expected a string")
    return tuple(tokens)


def _entity(mentions: object, index: int, sentences: tuple[tuple[str, ...], ...]) -> Entity:
    if not isinstance(mentions, list):
        raise _FormatError(f"entity {index} is {_describe(mentions)}, expected a list of mentions")
    if not mentions:
        raise _FormatError(f"entity {index} has no mentions, expected at least one")
    return tuple(
        _mention(mention, f"mention {position} of entity {index}", sentences)
        for position, mention in enumerate(mentions)
    )


def _mention(raw: object, description: str, sentences: tuple[tuple[str, ...], ...]) -> Mention:
    if not isinstance(raw, dict):
        raise _FormatError(f"{description} is {_describe(raw)}, expected an object with name, sent_id, pos and type")
    context = f"{description}: "
    name = _get(raw, "name", str, context)
    sentence = _get(raw, "sent_id", int, context)
    pos = _get(raw, "pos", list, context)
    kind = _get(raw, "type", str, context)
    if not 0 <= sentence < len(sentences):
        raise _FormatError(f"{context}sent_id is {sentence}, but the document has {len(sentences)} sentences")
    if len(pos) != 2 or type(pos[0]) is not int or type(pos[1]) is not int:
        raise _FormatError(f"{context}pos is {pos}, expected two whole numbers [start, end)")
    start, end = pos
    if not 0 <= start < end <= len(sentences[sentence]):
        raise _FormatError(
            f"{context}pos is [{start}, {end}], expected 0 <= start < end <= {len(sentences[sentence])}, "
            f"the length of sentence {sentence}"
        )
    return Mention(name, sentence, start, end, kind)


def _label(raw: object, index: int, entities: int, sentences: int, relations: RelationSet) -> Label:
    if not isinstance(raw, dict):
        raise _FormatError(f"label {index} is {_describe(raw)}, expected an object with h, t, r and evidence")
    context = f"label {index}: "
    head, tail = _get(raw, "h", int, context), _get(raw, "t", int, context)
    relation = _get(raw, "r", str, context)
    for key, value in (("h", head), ("t", tail)):
        if not 0 <= value < entities:
            raise _FormatError(f"{context}{key} is {value}, but the document has {entities} entities")
    if head == tail:
        raise _FormatError(f"{context}h and t are both {head}, expected two different entities")
    if relation not in relations:
        raise _FormatError(
            f"{context}unknown relation {relation!r}; {nearest(relation, relations.ids)}; give another relation set "
            "({id: name} in a JSON file) as --relations FILE"
        )
    evidence = _get(raw, "evidence", list, context) if "evidence" in raw else []
    for sentence in evidence:
        if type(sentence) is not int or not 0 <= sentence < sentences:
            raise _FormatError(
                f"{context}evidence names {_describe(sentence)}, but the document has {sentences} sentences"
            )
    return Label(head, tail, relation, tuple(evidence))
