"""What the LM reads and answers: one function for training and inference (tables 11 and 12 of the paper).

The words are the tables'; the layout (a heading on its own line, a blank line between sections, pairs and relations one
a line) is the Alpaca layout of the published code, which the tables print.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from lmrc.corpus.docred import Document
from lmrc.corpus.relations import RelationSet
from lmrc.errors import UserError

Kind = Literal["rc", "direct"]
Pair = tuple[int, int]
"""Entity indices (head, tail)."""

NONE = "None"
"""The answer for a pair without a relation."""

_INSTRUCTIONS: dict[Kind, str] = {
    "direct": (
        "Your task is to determine whether there are relations between the entity pairs based on the information in "
        "the text. If there exists relations, select relations for the entity pairs from the relation set; if there "
        "is no relation, return None.\n"
        "The format of the input entity pair is '(head entity| -| tail entity)'.\n"
        "Your output format is '(head entity| relation/None| tail entity)'."
    ),
    "rc": (
        "This is a relation classification task. we will provide entity pairs that require relation classification. "
        "Your task is to select relations for each entity pair from the given relation set based on the information in "
        "the text. There may be multiple relations between an entity pair.\n"
        "The format of the input entity pair is '(head entity| -| tail entity)'.\n"
        "Your output format is '(head entity| relation| tail entity)'."
    ),
}

_TEMPLATE = """\
Below is an instruction that describes a task, paired with an input that provides further context. Write a response \
that appropriately completes the request.

### Instruction:
{instruction}

### Relation set:
{relations}

### Text:
{text}

### {count} Entity pairs:
{pairs}

### Response:
"""


def entity_name(document: Document, entity: int) -> str:
    """The name of the entity's first listed mention, on one line: runs of white space become one space."""
    return re.sub(r"\s+", " ", document.entities[entity][0].name).strip()


def line(head: str, relation: str, tail: str) -> str:
    """One line of a prompt (relation "-") or an answer."""
    return f"({head}| {relation}| {tail})"


def prompt(document: Document, pairs: Iterable[Pair], relations: RelationSet, kind: Kind) -> str:
    """The prompt for `pairs`, always in the order of (head, tail), so that it says nothing about which ones are gold.

    Table 12 (`rc`) or 11 (`direct`), from "Below is an instruction" to "### Response:" and a newline. The relation set
    is printed as a list of the names in its order.
    """
    names = [entity_name(document, entity) for entity in range(len(document.entities))]
    lines = [line(names[head], "-", names[tail]) for head, tail in sorted(pairs)]
    return _TEMPLATE.format(
        instruction=_INSTRUCTIONS[kind],
        relations=list(relations.names),
        text=" ".join(" ".join(sentence) for sentence in document.sentences),
        count=len(lines),
        pairs="\n".join(lines),
    )


def answer(document: Document, pairs: Mapping[Pair, Sequence[str]], relations: RelationSet) -> str:
    """The wanted answer: pairs in the order of (head, tail), the relation ids of each in the order of the relation set.

    A pair without a relation is answered `None`.
    """
    lines: list[str] = []
    for (head, tail), ids in sorted(pairs.items()):
        found = [relations.name(id_) for id_ in sorted(set(ids), key=relations.index)]
        names = entity_name(document, head), entity_name(document, tail)
        lines.extend(line(names[0], relation, names[1]) for relation in found or [NONE])
    return "\n".join(lines)


def check_relations(relations: RelationSet) -> None:
    """Raises UserError where a relation's name could not be told apart in an answer."""
    for id_, name in zip(relations.ids, relations.names, strict=True):
        if name == NONE or "|" in name or name != " ".join(name.split()) or not name:
            raise UserError(
                f"relation {id_} is named {name!r}, which an answer could not carry: give it a name of words that is "
                f"not {NONE!r}, without a bar and with single spaces"
            )
