"""DWIE: news articles with mentions at character offsets, concepts, and relations between concepts.

{"id": "DW_1", "content": "…", "mentions": [{"begin": 0, "end": 6, "text": "Berlin", "concept": 0}],
 "concepts": [{"concept": 0, "text": "Berlin", "tags": ["type::location"]}],
 "relations": [{"s": 0, "p": "in0", "o": 1}]}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmrc.common.errors import UserError
from lmrc.convert.annotations import Annotations, RawRelation, locate
from lmrc.convert.json_records import json_records, list_of, member
from lmrc.corpus.text import tokenize
from lmrc.corpus.types import Document

# Types of the second level of the ontology. The first level ("entity", "value", "other") says less, the others more.
_TYPES = ("person", "organization", "location", "event", "work_of_art", "misc", "time", "money", "role")
_FIRST_LEVEL = {"entity", "value", "other"}


def read(path: Path, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the documents of a file: one article, several, or an object of articles by identifier.

    Raises:
        UserError: The file is not in the format, or has no texts.
    """
    for index, record in enumerate(json_records(path)):
        by_id = "mentions" not in record and record and all(isinstance(value, dict) for value in record.values())
        for identifier, article in record.items() if by_id else [(f"{path.stem} {index}", record)]:
            document = _document(article, identifier, f"{path}: document {index}", remarks)
            if document is not None:
                yield document


def _document(record: dict[str, Any], title: str, where: str, remarks: Counter[str]) -> Document | None:
    if "content" not in record and "mentions" in record:
        raise UserError(
            f"{where} has no content: data/annos of DWIE has no texts; run its scripts/dwie_download.py and convert "
            "data/annos_with_content"
        )
    text = member(record, "content", str, where)
    annotations = Annotations(str(record.get("id", title)), remarks)
    types: dict[int | str, str] = {}
    for concept in list_of(record, "concepts", where):
        number = member(concept, "concept", int, f"{where}: a concept")
        types[number] = _type_of(concept, f"{where}: concept {number}", remarks)
        annotations.entities[number] = []
        remarks["links of entities to Wikipedia left out"] += bool(concept.get("link"))
    for index, mention in enumerate(member(record, "mentions", list, where)):
        about = f"{where}: mention {index}"
        start, end = member(mention, "begin", int, about), member(mention, "end", int, about)
        span = locate(text, start, end, member(mention, "text", str, about), remarks)
        concept = None if mention.get("concept") is None else member(mention, "concept", int, about)
        remarks["mentions without a concept, each now an entity"] += concept is None
        key = f"mention {index}" if concept is None else concept
        if span is not None:
            kind = types.get(key) or _type_of(mention, about, remarks)
            annotations.add_to_entity(key, annotations.add_mention([span], kind))
    for index, relation in enumerate(list_of(record, "relations", where)):
        about = f"{where}: relation {index}"
        head, tail = member(relation, "s", int, about), member(relation, "o", int, about)
        annotations.relations.append(RawRelation(head, tail, member(relation, "p", str, about)))
    remarks["frames left out"] += len(list_of(record, "frames", where))
    tokenized = tokenize(text, annotations.parts())
    remarks["sentences, split by rule"] += len(tokenized.spans)
    return annotations.to_document(tokenized)


def _type_of(record: dict[str, Any], where: str, remarks: Counter[str]) -> str:
    """Return the type of the ontology's second level, or else the first finer one, or else that of the first level."""
    tags = list_of(record, "tags", where)
    if not all(isinstance(tag, str) for tag in tags):
        raise UserError(f"{where}: tags is {tags!r}, expected texts such as type::person")
    types = [tag.partition("::")[2] for tag in tags if tag.startswith("type::")]
    finer = [kind for kind in types if kind not in _FIRST_LEVEL]
    chosen = next((kind for kind in _TYPES if kind in types), (finer or types or [""])[0])
    remarks["finer types of entities left out"] += len({*finer} - {chosen})
    return chosen
