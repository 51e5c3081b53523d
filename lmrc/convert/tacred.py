"""TACRED: sentences of tokens with one subject, one object and their relation, also Re-TACRED and OpenNRE's form.

{"id": "1", "token": ["Ada", "was", "born", "in", "Rome"], "relation": "per:city_of_birth", "subj_start": 0,
 "subj_end": 0, "obj_start": 4, "obj_end": 4, "subj_type": "PERSON", "obj_type": "CITY"}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmrc.common.errors import UserError
from lmrc.convert.annotations import Annotations, RawRelation, lay_out
from lmrc.convert.json_records import json_records, member, tokens_of
from lmrc.corpus.types import Document

# Relations that say that there is none.
NO_RELATION = {"no_relation", "na", "none", "no relation", "other"}


def read(path: Path, remarks: Counter[str]) -> Iterator[Document]:
    """Yield a document of one sentence and two entities for each example.

    Raises:
        UserError: The file is not in the format.
    """
    for index, record in enumerate(json_records(path)):
        where = f"{path}: example {index}"
        if _is_patch(record):
            raise UserError(
                f"{path}: has labels of TACRED's examples, and no sentences (a patch of TACREV or Re-TACRED): apply it "
                "to TACRED by the script of its repository, and convert the result"
            )
        key = "token" if "token" in record else "tokens" if "tokens" in record else "token"
        tokens = tokens_of(member(record, key, list, where), f"{where}: {key}")
        title = str(record.get("id") or record.get("docid") or f"{path.stem} {index}")
        annotations = Annotations(title, remarks)
        laid_out = lay_out([tokens])
        (spans,) = laid_out.spans
        for role, (start, end, kind) in _roles(record, where).items():
            annotations.entities[role] = []
            if 0 <= start < end <= len(spans):
                mention = annotations.add_mention([(spans[start][0], spans[end - 1][1])], kind)
                annotations.add_to_entity(role, mention)
            else:
                remarks["mentions outside of the text left out"] += 1
        annotations.is_labeled = "relation" in record
        relation = member(record, "relation", str, where) if annotations.is_labeled else ""
        if not annotations.is_labeled:
            remarks["examples without a relation"] += 1
        elif relation.lower() in NO_RELATION:
            remarks["pairs of no relation, which have no label"] += 1
        else:
            mentions = tuple(range(len(annotations.mentions)))
            annotations.relations.append(RawRelation("subject", "object", relation, mentions))
        document = annotations.to_document(laid_out)
        if document is not None:
            yield document


def _is_patch(record: dict[str, Any]) -> bool:
    """Return True for {id: label} of Re-TACRED and {"id", "relation"} of TACREV."""
    if "token" in record or "tokens" in record or not record:
        return False
    return all(isinstance(value, str) for value in record.values()) or {"id", "relation"} <= record.keys()


def _roles(record: dict[str, Any], where: str) -> dict[str, tuple[int, int, str]]:
    """Return first token, end and type of subject and object."""
    if "h" in record and "t" in record:
        found = {}
        for role, key in (("subject", "h"), ("object", "t")):
            entity = member(record, key, dict, where)
            pos = member(entity, "pos", list, f"{where}: {key}")
            if len(pos) != 2 or not all(type(index) is int for index in pos):
                raise UserError(f"{where}: {key} has the pos {pos}, expected [start, end)")
            found[role] = (pos[0], pos[1], str(entity.get("type") or ""))
        return found
    return {
        role: (
            member(record, f"{key}_start", int, where),
            # The last token, not the one behind it.
            member(record, f"{key}_end", int, where) + 1,
            str(record.get(f"{key}_type") or ""),
        )
        for role, key in (("subject", "subj"), ("object", "obj"))
    }
