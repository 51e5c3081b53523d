"""Reader and checker of documents in the DocRED JSON format."""

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
    """All ordered pairs (h, t), h != t, of `entities` entities, sorted: the candidate space (section 2)."""
    return [(head, tail) for head in range(entities) for tail in range(entities) if head != tail]


def relations_by_pair(document: Document) -> dict[tuple[int, int], tuple[str, ...]]:
    """The gold relation ids of each pair that has any: pairs sorted, ids unique in the order of the labels.

    {} where the document has no labels.
    """
    found: dict[tuple[int, int], dict[str, None]] = {}
    for label in document.labels or ():
        found.setdefault((label.head, label.tail), {})[label.relation] = None
    return {pair: tuple(found[pair]) for pair in sorted(found)}


def to_json(document: Document) -> dict[str, Any]:
    """The document in the DocRED format; the key `labels` is absent where the document has none."""
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
    """The documents of a DocRED-format JSON file (also gzipped: .gz), checked, one at a time in constant memory.

    Without `relations` labels are not looked at: documents come as if they had none.

    Raises UserError where the file cannot be read or is not a JSON list, DocumentError at the first document that
    breaks the format, has a relation that is not of `relations`, or repeats a title.
    """
    first_with: dict[str, int] = {}
    with reading(path) as stream:
        _expect_list(stream, path)
        items = ijson.items(stream, "item", use_float=True)
        index = 0
        while True:
            try:
                raw = next(items)
            except StopIteration:
                return
            except ijson.JSONError as error:
                raise UserError(f"{path}: {_json_fault(error)} after {index} documents") from None
            document = parse_document(raw, path, index, relations)
            first = first_with.setdefault(document.title, index)
            if first != index:
                raise DocumentError(path, index, document.title, f"document {first} has the same title")
            yield document
            index += 1


def parse_document(raw: object, file: str | Path, index: int, relations: RelationSet | None) -> Document:
    """Checks one document as it came out of JSON, its labels where `relations` are given. The rest serves the message.

    Extra keys are ignored; `labels` and `evidence` may be absent; repeated (h, t, r) are merged, with all their
    evidence, and counted in `duplicate_labels`. Raises DocumentError at the first breach of the format.
    """
    try:
        return _document(raw, relations)
    except _Breach as breach:
        title = raw.get("title") if isinstance(raw, dict) else None
        raise DocumentError(file, index, title if isinstance(title, str) else None, str(breach)) from None


class _Breach(Exception):
    """What is wrong, before it is known where."""


_JSON_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
_LIST_STARTS = {b"{": "an object", b'"': "a string", b"t": "true", b"f": "false", b"n": "null"}


def _named(value: object) -> str:
    name = _JSON_NAMES.get(type(value))
    return name if name is not None else f"the number {value}"


def _expect_list(stream: IO[bytes], path: str | Path) -> None:
    """Refuses a file whose JSON is no list: ijson would find no documents in it and say nothing."""
    begin = stream.tell()
    while (byte := stream.read(1)).isspace():
        pass
    if byte == b"":
        raise UserError(f"{path}: is empty, expected a JSON list of documents")
    if byte == b"{":
        raise UserError(
            f"{path}: holds an object, expected a JSON list of documents: [{{…}}, {{…}}] (also around a single one)"
        )
    if byte in _LIST_STARTS or byte in b"-0123456789":
        raise UserError(f"{path}: holds {_LIST_STARTS.get(byte, 'a number')}, expected a JSON list of documents")
    if byte != b"[":
        raise UserError(f"{path}: is not JSON, expected a JSON list of documents")
    stream.seek(begin)


def _json_fault(error: Exception) -> str:
    text = str(error)
    if "premature EOF" in text:
        return "the JSON ends in the middle: the file is cut off,"
    reason = text.removeprefix("b'").replace("\\n", "\n").splitlines()[0].strip()
    return f"is not valid JSON ({reason})"


def _get(holder: dict[str, Any], key: str, kind: type, where: str) -> Any:
    try:
        value = holder[key]
    except KeyError:
        raise _Breach(f"{where}{key} is missing") from None
    # `type` and not isinstance: in JSON true is no number.
    if type(value) is not kind:
        expected = "a whole number" if kind is int else _JSON_NAMES[kind]
        raise _Breach(f"{where}{key} is {_named(value)}, expected {expected}")
    return value


def _document(raw: object, relations: RelationSet | None) -> Document:
    if not isinstance(raw, dict):
        raise _Breach(f"is {_named(raw)}, expected an object with title, sents and vertexSet")
    title = _get(raw, "title", str, "")
    sentences = tuple(_sentence(s, number) for number, s in enumerate(_get(raw, "sents", list, "")))
    vertices = _get(raw, "vertexSet", list, "")
    if not vertices:
        raise _Breach("vertexSet is empty, expected at least one entity")
    entities = tuple(_entity(vertex, number, sentences) for number, vertex in enumerate(vertices))
    if relations is None or "labels" not in raw:
        return Document(title, sentences, entities, None)
    given = [
        _label(label, number, len(entities), len(sentences), relations)
        for number, label in enumerate(_get(raw, "labels", list, ""))
    ]
    merged: dict[tuple[int, int, str], Label] = {}
    for label in given:
        key = (label.head, label.tail, label.relation)
        if key in merged:
            evidence = tuple(dict.fromkeys(merged[key].evidence + label.evidence))
            label = Label(*key, evidence)
        merged[key] = label
    return Document(title, sentences, entities, tuple(merged.values()), len(given) - len(merged))


def _sentence(tokens: object, number: int) -> tuple[str, ...]:
    if not isinstance(tokens, list):
        raise _Breach(f"sentence {number} is {_named(tokens)}, expected a list of tokens")
    for place, token in enumerate(tokens):
        if type(token) is not str:
            raise _Breach(f"token {place} of sentence {number} is {_named(token)}, expected a string")
    return tuple(tokens)


def _entity(mentions: object, number: int, sentences: tuple[tuple[str, ...], ...]) -> Entity:
    if not isinstance(mentions, list):
        raise _Breach(f"entity {number} is {_named(mentions)}, expected a list of mentions")
    if not mentions:
        raise _Breach(f"entity {number} has no mentions, expected at least one")
    return tuple(
        _mention(mention, f"mention {place} of entity {number}", sentences) for place, mention in enumerate(mentions)
    )


def _mention(raw: object, which: str, sentences: tuple[tuple[str, ...], ...]) -> Mention:
    if not isinstance(raw, dict):
        raise _Breach(f"{which} is {_named(raw)}, expected an object with name, sent_id, pos and type")
    where = f"{which}: "
    name = _get(raw, "name", str, where)
    sentence = _get(raw, "sent_id", int, where)
    pos = _get(raw, "pos", list, where)
    kind = _get(raw, "type", str, where)
    if not 0 <= sentence < len(sentences):
        raise _Breach(f"{where}sent_id is {sentence}, but the document has {len(sentences)} sentences")
    if len(pos) != 2 or type(pos[0]) is not int or type(pos[1]) is not int:
        raise _Breach(f"{where}pos is {pos}, expected two whole numbers [start, end)")
    start, end = pos
    if not 0 <= start < end <= len(sentences[sentence]):
        raise _Breach(
            f"{where}pos is [{start}, {end}], expected 0 <= start < end <= {len(sentences[sentence])}, "
            f"the length of sentence {sentence}"
        )
    return Mention(name, sentence, start, end, kind)


def _label(raw: object, number: int, entities: int, sentences: int, relations: RelationSet) -> Label:
    if not isinstance(raw, dict):
        raise _Breach(f"label {number} is {_named(raw)}, expected an object with h, t, r and evidence")
    where = f"label {number}: "
    head, tail = _get(raw, "h", int, where), _get(raw, "t", int, where)
    relation = _get(raw, "r", str, where)
    for key, value in (("h", head), ("t", tail)):
        if not 0 <= value < entities:
            raise _Breach(f"{where}{key} is {value}, but the document has {entities} entities")
    if head == tail:
        raise _Breach(f"{where}h and t are both {head}, expected two different entities")
    if relation not in relations:
        raise _Breach(
            f"{where}unknown relation {relation!r}; {nearest(relation, relations.ids)}; give another relation set "
            "({id: name} in a JSON file) as --relations FILE"
        )
    evidence = _get(raw, "evidence", list, where) if "evidence" in raw else []
    for sentence in evidence:
        if type(sentence) is not int or not 0 <= sentence < sentences:
            raise _Breach(f"{where}evidence names {_named(sentence)}, but the document has {sentences} sentences")
    return Label(head, tail, relation, tuple(evidence))
