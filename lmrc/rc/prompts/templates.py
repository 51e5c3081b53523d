"""The prompts of the LM and their gold answers, for training and inference (tables 11 and 12 of the paper).

The wording is that of the tables. The layout is the Alpaca layout of the published code: each heading on its own line,
a blank line between sections, one pair per line.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

from lmrc.common.errors import UserError
from lmrc.config.schema import PromptKind
from lmrc.corpus.docred import candidate_pairs, relations_by_pair
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document

# Entity indices (head, tail).
Pair = tuple[int, int]

# The answer for a pair without a relation.
NONE = "None"
# The answers of an LM that replaces the candidate classifier.
YES = RelationSet(ids=("Yes",), names=("Yes",))
NO = "No"

_LAYOUT = """\
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
    """The possible answers for a pair.

    Attributes:
        relations: relations that an answer may name, or `YES`.
        none: answer for a pair without a relation.
        none_is_possible: whether that answer is allowed.
    """

    relations: RelationSet
    none: str
    none_is_possible: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """A kind of prompt (option `prompt.kind`): its wording, the pairs it asks about and the possible answers.

    An answer has one line per relation, in the format of `line`. `answer_set` says what may stand between the names.

    Attributes:
        kind: value of the option.
        summary: a sentence for the model card.
        instruction: text of the section "### Instruction:".
        asks_all_pairs: whether all pairs of entities are asked about, or only the gold pairs.
        names_relations: whether answers name relations, or say Yes or No.
        asks_relations: whether it asks about single relations of candidates (`lmrc.rc.prompts.questions`); no answer
            is written.
    """

    kind: PromptKind
    summary: str
    instruction: str
    asks_all_pairs: bool
    names_relations: bool = True
    asks_relations: bool = False

    def pairs(self, document: Document) -> list[Pair]:
        """Return the pairs to ask about if no candidates are given, sorted by (head, tail).

        Raises:
            UserError: if these are the gold pairs and the document has no labels.
        """
        return candidate_pairs(len(document.entities)) if self.asks_all_pairs else gold_pairs(document)

    def answer_set(self, relations: RelationSet) -> AnswerSet:
        """Return the possible answers for a pair."""
        if not self.names_relations:
            return AnswerSet(YES, NO, True)
        return AnswerSet(relations, NONE, self.asks_all_pairs)

    def render(
        self, document: Document, pairs: Iterable[Pair], relations: RelationSet, left_out: Collection[int] = ()
    ) -> str:
        """Return the prompt for `pairs`, from "Below is an instruction" to "### Response:" and a newline.

        Pairs are sorted, so that their order does not reveal which ones are gold.

        Args:
            relations: the relation set, printed as a list of names in its order.
            left_out: indices of sentences to leave out of the text (`lmrc.rc.prompts.truncation`).
        """
        names = [entity_name(document, entity) for entity in range(len(document.entities))]
        lines = [line(names[head], "-", names[tail]) for head, tail in sorted(pairs)]
        sentences = (" ".join(words) for index, words in enumerate(document.sentences) if index not in left_out)
        return _LAYOUT.format(
            instruction=self.instruction,
            relations=list(relations.names),
            text=" ".join(sentences),
            count=len(lines),
            pairs="\n".join(lines),
        )

    def answer(self, document: Document, gold: Mapping[Pair, Sequence[str]], relations: RelationSet) -> str:
        """Return the gold answer: pairs sorted by (head, tail), the relations of a pair in the order of the set.

        Args:
            gold: relation ids of each pair; empty for a pair without a relation.
        """
        answers = self.answer_set(relations)
        lines: list[str] = []
        for (head, tail), ids in sorted(gold.items()):
            if ids and not self.names_relations:
                ids = YES.ids
            ordered = sorted(set(ids), key=answers.relations.index)
            head_name, tail_name = entity_name(document, head), entity_name(document, tail)
            names = [answers.relations.name(id_) for id_ in ordered] or [answers.none]
            lines.extend(line(head_name, name, tail_name) for name in names)
        return "\n".join(lines)


def _read_prompts() -> dict[PromptKind, Prompt]:
    kinds = yaml.safe_load(Path(__file__).with_name("prompts.yaml").read_text(encoding="utf-8"))
    return {kind: Prompt(kind=kind, **options) for kind, options in kinds.items()}


# All prompts by the value of prompt.kind.
PROMPTS = _read_prompts()


def gold_pairs(document: Document) -> list[Pair]:
    """Return the pairs with a relation, sorted by (head, tail).

    Raises:
        UserError: if the document has no labels.
    """
    if document.labels is None:
        raise UserError(f"document {document.title!r} has no labels: gold pairs are not known, give candidates instead")
    return list(relations_by_pair(document))


def entity_name(document: Document, entity: int) -> str:
    """Return the name of the entity's first mention on one line, with runs of white space replaced by one space."""
    return re.sub(r"\s+", " ", document.entities[entity][0].name).strip()


def line(head: str, relation: str, tail: str) -> str:
    """Return one line of a prompt (relation "-") or of an answer."""
    return f"({head}| {relation}| {tail})"


def check_relations(relations: RelationSet) -> None:
    """Check that every relation name can be read back from an answer.

    Raises:
        UserError: if a name is empty or "None", or has a bar or white space other than single spaces.
    """
    for id_, name in zip(relations.ids, relations.names, strict=True):
        if name == NONE or "|" in name or name != " ".join(name.split()) or not name:
            raise UserError(
                f"relation {id_} is named {name!r}, which cannot be read back from an answer: give it a name of words "
                f"that is not {NONE!r}, without a bar and with single spaces"
            )
