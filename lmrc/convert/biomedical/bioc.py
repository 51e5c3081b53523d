"""BioC, in JSON or XML: passages with annotations at offsets of the document, such as BioRED and CDR.

{"documents": [{"id": "1", "passages": [{"offset": 0, "text": "…", "annotations": [{"id": "0", "text": "…",
  "infons": {"type": "Disease", "identifier": "D003"}, "locations": [{"offset": 0, "length": 4}]}]}],
  "relations": [{"infons": {"entity1": "D003", "entity2": "D008", "type": "Association", "novel": "Novel"}}]}]}
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmrc.common.errors import UserError
from lmrc.common.files import reading
from lmrc.convert.annotations import Annotations, Span, locate
from lmrc.convert.biomedical.concepts import add_mention, add_relation, resolve
from lmrc.convert.json_records import describe, json_records, member
from lmrc.corpus.text import tokenize
from lmrc.corpus.types import Document

# Keys of a document's list in a collection; the second is that of PubTator's web service.
_COLLECTIONS = ("documents", "PubTator3")
# Infons with the identifier of an annotation, in lower case.
_IDENTIFIERS = ("identifier", "mesh", "omim", "ncbi gene", "ncbigene", "gene", "dbsnp", "normalized id", "id")
# Infons of a relation that are no argument, in lower case.
_NO_ARGUMENT = {"relation", "type", "novel", "novelty", "score", "annotator", "updated_at", "note"}


def read(path: Path, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the documents of a collection. An entity is an identifier, or an annotation without one.

    Raises:
        UserError: The file is not in the format.
    """
    with reading(path) as stream:
        is_xml = stream.read(64).lstrip().startswith(b"<")
    for index, record in enumerate(_xml_documents(path) if is_xml else _json_documents(path)):
        document = _document(record, f"{path}: document {index}", remarks)
        if document is not None:
            yield document


def _json_documents(path: Path) -> Iterator[Any]:
    for record in json_records(path):
        lists = [record[key] for key in _COLLECTIONS if isinstance(record.get(key), list)]
        yield from lists[0] if lists else [record]


def _xml_documents(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the documents of BioC XML with the keys of BioC JSON."""
    try:
        with reading(path) as stream:
            for _, element in ElementTree.iterparse(stream):
                if element.tag == "document":
                    yield _of_element(element)
                    element.clear()
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: is not valid XML ({error})") from None


def _of_element(element: ElementTree.Element) -> dict[str, Any]:
    """Return a document, a passage, a sentence, an annotation or a relation as a dict."""
    record: dict[str, Any] = {**element.attrib}
    record["infons"] = {infon.get("key", ""): infon.text or "" for infon in element.findall("infon")}
    for key in ("id", "offset", "text"):
        if (child := element.find(key)) is not None:
            record[key] = child.text or ""
    record["locations"] = [dict(child.attrib) for child in element.findall("location")]
    record["nodes"] = [dict(child.attrib) for child in element.findall("node")]
    for key in ("passage", "sentence", "annotation", "relation"):
        record[f"{key}s"] = [_of_element(child) for child in element.findall(key)]
    return record


def _document(record: Any, where: str, remarks: Counter[str]) -> Document | None:
    passages = member(record, "passages", list, where)
    annotations = Annotations(str(record.get("id") or where.rpartition(": ")[2]), remarks)
    units = [unit for passage in passages for unit in _units(passage, where)]
    text, places = "", []
    for unit in units:
        # A unit stands where its offset says, or behind the one before it.
        offset = _number(unit.get("offset", len(text)), f"{where}: the offset of a passage")
        text = text.ljust(offset) if offset >= len(text) else f"{text}\n"
        places.append((len(text) - offset, len(text)))
        text += str(unit.get("text") or "")
    keys: dict[str, list[str]] = {}
    index = 0
    for unit, (shift, _) in zip(units, places, strict=True):
        for annotation in _list(unit, "annotations", where):
            about = f"{where}: annotation {index}"
            keys[str(annotation.get("id"))] = _add_annotation(annotations, annotation, text, shift, index, about)
            index += 1
    sentences = [sentence for passage in passages for sentence in _list(passage, "sentences", where)]
    relations = [relation for part in (record, *passages, *sentences) for relation in _list(part, "relations", where)]
    for number, relation in enumerate(relations):
        _add_relation(annotations, relation, keys, f"{where}: relation {number}")
    tokenized = tokenize(text, annotations.parts(), [start for _, start in places[1:]])
    remarks["sentences, split by rule"] += len(tokenized.spans)
    return annotations.to_document(tokenized)


def _units(passage: Any, where: str) -> list[dict[str, Any]]:
    """Return a passage, or its sentences if they hold its text."""
    sentences = _list(passage, "sentences", where)
    if passage.get("text") or not sentences:
        return [passage]
    return sentences


def _list(record: Any, key: str, where: str) -> list[Any]:
    """Return a list of objects, which may be absent.

    Raises:
        UserError: It is something else.
    """
    if not isinstance(record, dict):
        raise UserError(f"{where} has {describe(record)} for a passage, expected an object")
    items = record.get(key) or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UserError(f"{where}: {key} is no list of objects")
    return items


def _infons(record: dict[str, Any], where: str) -> dict[str, Any]:
    infons = record.get("infons") or {}
    if not isinstance(infons, dict):
        raise UserError(f"{where}: infons is {describe(infons)}, expected an object")
    return infons


def _number(value: Any, where: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise UserError(f"{where} is {describe(value)}, expected a whole number") from None


def _add_annotation(
    annotations: Annotations, annotation: dict[str, Any], text: str, shift: int, index: int, where: str
) -> list[str]:
    """Add a mention and return the keys of its entities."""
    infons = _infons(annotation, where)
    parts: list[Span] = []
    locations = _list(annotation, "locations", where)
    for location in locations:
        start = _number(location.get("offset"), f"{where}: offset") + shift
        parts.append((start, start + _number(location.get("length"), f"{where}: length")))
    if len(locations) == 1:
        span = locate(text, *parts[0], str(annotation.get("text") or ""), annotations.remarks)
        parts = [] if span is None else [span]
    elif not all(0 <= start < end <= len(text) for start, end in parts):
        annotations.remarks["mentions outside of the text left out"] += 1
        parts = []
    lower = {str(key).lower(): value for key, value in infons.items()}
    identifiers = next((str(lower[key]) for key in _IDENTIFIERS if lower.get(key)), "")
    return add_mention(annotations, parts, str(infons.get("type") or ""), identifiers, index, annotations.remarks)


def _add_relation(annotations: Annotations, relation: dict[str, Any], keys: dict[str, list[str]], where: str) -> None:
    """Add a relation between identifiers, or between annotations."""
    remarks = annotations.remarks
    infons = _infons(relation, where)
    lower = {str(key).lower(): value for key, value in infons.items()}
    name = str(lower.get("relation") or lower.get("type") or "")
    remarks["novelty of relations left out"] += "novel" in lower
    named = [
        lower[pair[side]]
        for pair in (("entity1", "entity2"), ("role1", "role2"))
        if all(key in lower for key in pair)
        for side in (0, 1)
    ][:2]
    nodes = [keys[str(node.get("refid"))] for node in _list(relation, "nodes", where) if str(node.get("refid")) in keys]
    # CDR: {"relation": "CID", "Chemical": "D003", "Disease": "D007"}.
    others = [value for key, value in infons.items() if str(key).lower() not in _NO_ARGUMENT]
    if len(named) == 2 or (len(nodes) != 2 and len(others) == 2):
        values = named or others
        ends = [value.get("identifier", "") if isinstance(value, dict) else value for value in values]
        heads, tails = (resolve(str(end), annotations) for end in ends)
    elif len(nodes) == 2:
        heads, tails = nodes
    else:
        remarks["relations that have not two arguments left out"] += 1
        return
    add_relation(annotations, name, heads, tails, remarks)
