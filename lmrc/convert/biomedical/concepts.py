"""Concepts of a terminology that mentions and relations name, such as D003 or rs123."""

from __future__ import annotations

import re
from collections import Counter

from lmrc.convert.annotations import Annotations, RawRelation, Span

# A variant's identifier of tmVar, such as p|SUB|V|600|E: its bars separate no concepts.
_VARIANT = re.compile(r"[a-z]?\|[A-Za-z]+\|")
_WITHOUT_IDENTIFIER = {"", "-", "-1", "none", "null"}


def concepts(identifiers: str) -> list[str]:
    """Return the concepts of a mention: D010|D001 has two, and 12;13 or 12,13 too."""
    # PubTator 3 gives a variant in several notations: tmVar:p|SUB|V|600|E;HGVS:p.V600E;RS#:113488022.
    if identifiers.startswith("tmVar:"):
        return [identifiers]
    parts: list[str] = []
    for part in re.split(r"[;,]", identifiers):
        parts += [part] if _VARIANT.match(part.strip()) else part.split("|")
    return list(dict.fromkeys(part.strip() for part in parts if part.strip().lower() not in _WITHOUT_IDENTIFIER))


def add_mention(
    annotations: Annotations, parts: list[Span], kind: str, identifiers: str, index: int, remarks: Counter[str]
) -> list[str]:
    """Add a mention to the entity of each of its concepts, and return their keys.

    Args:
        parts: its parts; none if it is nowhere in the text. Its concepts are entities all the same.
        index: number of the mention, which is the key of one without a concept.
    """
    keys = concepts(identifiers)
    remarks["mentions without an identifier, each now an entity"] += not keys
    remarks["mentions of several concepts, each now in the entity of each"] += len(keys) > 1
    keys = keys or [f"\0{index}"]
    mention = annotations.add_mention(parts, kind) if parts else None
    for key in keys:
        known = annotations.entities.setdefault(key, [])
        if mention is not None:
            # A number may be a gene's and an organism's; relations have no types that would tell which.
            other = bool(known) and annotations.mentions[known[0]].type != annotations.mentions[mention].type
            remarks["mentions of another type than the first one with their identifier"] += other
            annotations.add_to_entity(key, mention)
    return keys


def add_relation(
    annotations: Annotations, name: str, heads: list[str], tails: list[str], remarks: Counter[str]
) -> None:
    """Add a relation between each of the head's concepts and each of the tail's."""
    remarks["relations of several identifiers, now one of each"] += len(heads) * len(tails) > 1
    annotations.relations += [RawRelation(head, tail, name) for head in heads for tail in tails]


def resolve(argument: str, annotations: Annotations) -> list[str]:
    """Return the concepts that an argument of a relation names: itself, or each of several."""
    if argument in annotations.entities:
        return [argument]
    # PubTator 3 writes Chemical|MESH:D003, some exports MESH:D003 in one place and D003 in the other.
    bare = {str(key).rpartition(":")[2]: str(key) for key in annotations.entities}
    parts = [bare.get(part.rpartition(":")[2], part) for part in concepts(argument)]
    types = {mention.type for mention in annotations.mentions}
    return [part for part in parts if part not in types] or [argument]
