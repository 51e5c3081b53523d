"""What the LM reads and answers: one function for training and inference (tables 11 and 12 of the paper).

The words are the tables'; the layout (a heading on its own line, a blank line between sections, pairs and relations one
a line) is the Alpaca layout of the published code, which the tables print.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from lmrc.common.errors import UserError
from lmrc.config.schema import PromptKind
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document

Pair = tuple[int, int]
"""Entity indices (head, tail)."""

NONE = "None"
"""The answer for a pair without a relation."""
YES = RelationSet(ids=("Yes",), names=("Yes",))
NO = "No"
"""The answers of an LM in the place of RCP."""

_INSTRUCTIONS: dict[PromptKind, str] = {
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
    # The paper prints none for its table 5: table 11's words, as far as they apply.
    "rcp-llm": (
        "Your task is to determine whether there are relations between the entity pairs based on the information in "
        "the text. If any relation of the relation set exists, return Yes; if there is no relation, return No.\n"
        "The format of the input entity pair is '(head entity| -| tail entity)'.\n"
        "Your output format is '(head entity| Yes/No| tail entity)'."
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


class AnswerSet(NamedTuple):
    """What the line of a pair may say."""

    relations: RelationSet
    none: str
    """How a pair without a relation is answered,"""
    none_is_possible: bool
    """where it may be."""


def answer_set(kind: PromptKind, relations: RelationSet) -> AnswerSet:
    """The answers of a kind of prompt: the relations (and None), or whether there is one."""
    if kind == "rcp-llm":
        return AnswerSet(YES, NO, True)
    return AnswerSet(relations, NONE, kind == "direct")


def entity_name(document: Document, entity: int) -> str:
    """The name of the entity's first listed mention, on one line: runs of white space become one space."""
    return re.sub(r"\s+", " ", document.entities[entity][0].name).strip()


def line(head: str, relation: str, tail: str) -> str:
    """One line of a prompt (relation "-") or an answer."""
    return f"({head}| {relation}| {tail})"


def prompt(
    document: Document,
    pairs: Iterable[Pair],
    relations: RelationSet,
    kind: PromptKind,
    left_out: Collection[int] = (),
) -> str:
    """The prompt for `pairs`, always in the order of (head, tail), so that it says nothing about which ones are gold.

    Table 12 (`rc`), 11 (`direct`) or one like it (`rcp-llm`, for table 5), from "Below is an instruction" to
    "### Response:" and a newline. The relation set is printed as a list of the names in its order.
    `left_out`: sentences that are not in the text (`lmrc.rc.prompts.truncation`).
    """
    names = [entity_name(document, entity) for entity in range(len(document.entities))]
    lines = [line(names[head], "-", names[tail]) for head, tail in sorted(pairs)]
    sentences = (" ".join(words) for number, words in enumerate(document.sentences) if number not in left_out)
    return _TEMPLATE.format(
        instruction=_INSTRUCTIONS[kind],
        relations=list(relations.names),
        text=" ".join(sentences),
        count=len(lines),
        pairs="\n".join(lines),
    )


def answer(
    document: Document, pairs: Mapping[Pair, Sequence[str]], relations: RelationSet, kind: PromptKind = "rc"
) -> str:
    """The wanted answer: pairs in the order of (head, tail), the relation ids of each in the order of the relation set.

    A pair without a relation is answered `None`. `rcp-llm`: `Yes` or `No`.
    """
    lines: list[str] = []
    for (head, tail), ids in sorted(pairs.items()):
        found = [relations.name(id_) for id_ in sorted(set(ids), key=relations.index)]
        if kind == "rcp-llm":
            found = [*YES.names] if ids else []
        names = entity_name(document, head), entity_name(document, tail)
        none = answer_set(kind, relations).none
        lines.extend(line(names[0], relation, names[1]) for relation in found or [none])
    return "\n".join(lines)


def check_relations(relations: RelationSet) -> None:
    """Raises UserError where a relation's name could not be told apart in an answer."""
    for id_, name in zip(relations.ids, relations.names, strict=True):
        if name == NONE or "|" in name or name != " ".join(name.split()) or not name:
            raise UserError(
                f"relation {id_} is named {name!r}, which an answer could not carry: give it a name of words that is "
                f"not {NONE!r}, without a bar and with single spaces"
            )
