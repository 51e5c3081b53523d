"""Documents as the `datasets` library exports them, in DocRED's layout.

`load_dataset("docred")` holds the labels of a document as columns {head, tail, relation_id, relation_text, evidence}.
A data set has no absent keys: a document without labels has null.
"""

from __future__ import annotations

from typing import Any

# Keys of a label in the export, and in DocRED's files.
_LABEL_KEYS = {"head": "h", "tail": "t", "relation_id": "r"}


def in_docred_layout(raw: Any) -> Any:
    """Return a document with lists of objects in place of columns, DocRED's keys of labels, and no null labels.

    Anything that is not such an export is returned as it is, for the check of the format.
    """
    if not isinstance(raw, dict):
        return raw
    if "labels" in raw and raw["labels"] is None:
        raw = {key: value for key, value in raw.items() if key != "labels"}
    labels, entities = raw.get("labels"), raw.get("vertexSet")
    if isinstance(labels, dict):
        labels = _rows(labels)
    if isinstance(labels, list) and any(type(label) is dict and "h" not in label for label in labels):
        labels = [_renamed(label) for label in labels]
    if isinstance(entities, list) and any(type(entity) is dict for entity in entities):
        entities = [_rows(entity) if type(entity) is dict else entity for entity in entities]
    if labels is raw.get("labels") and entities is raw.get("vertexSet"):
        return raw
    return {**raw, "vertexSet": entities} | ({"labels": labels} if "labels" in raw else {})


def _rows(columns: dict[str, Any]) -> Any:
    """Return the rows of columns of one length; anything else as it is."""
    if not columns or not all(type(column) is list for column in columns.values()):
        return columns
    if len({len(column) for column in columns.values()}) > 1:
        return columns
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _renamed(label: Any) -> Any:
    if type(label) is not dict or "h" in label or not _LABEL_KEYS.keys() <= label.keys():
        return label
    return {_LABEL_KEYS.get(key, key): value for key, value in label.items()}
