"""Documents in DocRED's format: read, check, write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lmrc.common.errors import DocumentError, UserError
from lmrc.corpus.reading.breach_list import EXAMPLES, BreachList
from lmrc.corpus.reading.format_check import Breach, Kind, check_document
from lmrc.corpus.reading.hub_export import in_docred_layout
from lmrc.corpus.reading.raw_documents import RawDocuments
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document


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
    """Yield the checked documents of a file in DocRED's format, one at a time in constant memory.

    If a document breaks the format, the rest of the file is checked too before the error is raised.

    Args:
        path: a JSON list or JSON Lines (both also gzipped), or Parquet, also as the `datasets` library exports them.
        relations: relation set of the labels. If it is None, labels are ignored and `Document.labels` is None.

    Raises:
        UserError: the file cannot be read, or holds something else. The message says what it is.
        FormatError: documents break the format, have unknown relations, or repeat titles. The message counts all
            breaches by kind, with examples.
    """
    raw = RawDocuments(path)
    return (document for _, document in check_documents(enumerate(raw), path, relations, raw.starts))


def check_documents(
    raw: Iterable[tuple[int, Any]],
    path: str | Path,
    relations: RelationSet | None,
    starts: Sequence[tuple[int, str]] = (),
) -> Iterator[tuple[int, Document]]:
    """Yield index and checked document for each index and document as JSON decodes it; see `read_documents`.

    Args:
        path: their file, for messages.
        starts: index of the first document of each shard, and its name, for messages.
    """
    breaches = BreachList(path, starts)
    index_of_title: dict[str, int] = {}
    count = 0
    try:
        for index, item in raw:
            document, found = check_document(item, relations)
            title = item.get("title") if isinstance(item, dict) else None
            if isinstance(title, str) and (first := index_of_title.setdefault(title, index)) != index:
                found.append(Breach(Kind.TITLE, f"{breaches.place(first)} has the same title"))
            count += 1
            if found:
                breaches.add(index, item, found)
            elif document is not None and not breaches:
                yield index, document
    except UserError as error:
        if not breaches:
            raise
        raise breaches.error(count).with_remedy(f"and its end cannot be read: {error}") from None
    if breaches:
        raise breaches.error(count)


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
    raw = in_docred_layout(raw)
    document, found = check_document(raw, relations)
    if document is None:
        title = raw.get("title") if isinstance(raw, dict) else None
        problems = [breach.problem for breach in found[:EXAMPLES]]
        if len(found) > EXAMPLES:
            problems.append(f"and {len(found) - EXAMPLES:,} more")
        raise DocumentError(file, index, title if isinstance(title, str) else None, "; ".join(problems))
    return document
