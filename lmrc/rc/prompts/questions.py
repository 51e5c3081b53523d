"""Queries of prompt kind verify: questions whether a pair has a relation, answered with P(Yes) in one forward pass.

Each pair has a line after the prompt, which asks about the relations that the encoder finds possible:
`head| tail| relation? relation?`. The token after a question mark would be the answer. It is predicted there, but never
written. A line sees the prompt but no other line, so that scores do not depend on which pairs are asked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from lmrc.common.errors import UserError
from lmrc.config.schema import PromptOptions, PromptTemplate
from lmrc.corpus.candidates import Candidate, Candidates
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Mention, Triple
from lmrc.fusion.inputs import check_relations
from lmrc.rc.prompts.query_builder import EncodedQuestions, Example, Query, Questions, prompt_ids, shared_length
from lmrc.rc.prompts.templates import PROMPTS, entity_name
from lmrc.rc.prompts.truncation import sentences_to_drop

_LAYOUT = """\
### Instruction:
{instruction}

### Text:
{text}

### Entity pair:
"""


def answer_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the token ids that stand for No and Yes after a question mark.

    Raises:
        UserError: if the tokenizer does not tell them apart.
    """
    no, yes = (tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in ("No", "Yes"))
    count = shared_length([no, yes])
    if count >= min(len(no), len(yes)):
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path or 'the LM'} does not tell Yes from No: choose another base LM"
        )
    return int(no[count]), int(yes[count])


def relations_to_ask(candidate: Candidate, options: PromptOptions) -> tuple[str, ...]:
    """Return the relation ids to ask about for a pair, in the order of the relation set."""
    least = _log_odds(options.min_relation_probability)
    possible = [relation for relation in candidate.relations if relation.logit >= least]
    most = sorted(possible, key=lambda relation: -relation.logit)[: options.relations_per_pair]
    return tuple(relation.relation for relation in possible if relation in most)


def _log_odds(probability: float) -> float:
    return float(torch.logit(torch.tensor(probability, dtype=torch.float64)))


def open_candidates(folder: Path, corpus: Corpus) -> Candidates:
    """Open the candidates of a corpus, whose relations are asked about.

    Raises:
        CorpusError: if they are those of another corpus.
        UserError: if they were proposed without a relation head.
    """
    candidates = Candidates.open(folder)
    candidates.check(corpus)
    check_relations(candidates)
    return candidates


class QuestionBuilder:
    """Splits the questions about a document into as few queries as fit `prompt.max_length`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, relations: RelationSet, options: PromptOptions) -> None:
        """Keep the arguments.

        Raises:
            UserError: if the tokenizer gives no character offsets.
        """
        if not tokenizer.is_fast:
            raise UserError("prompt.kind verify needs a fast tokenizer: choose another base LM, or prompt.kind rc")
        self._tokenizer, self._relations, self._options = tokenizer, relations, options
        self._instruction = PROMPTS[options.kind].instruction

    def build(self, index: int, document: Document, candidates: Iterable[Candidate]) -> Iterator[Query]:
        """Yield the queries about the candidates of a document; none if no relation is probable enough.

        If the text does not fit with a single pair and `options.truncate` is set, sentences are dropped for this pair.

        Raises:
            UserError: if a single pair does not fit.
        """
        asked = [(c, relations) for c in candidates if (relations := relations_to_ask(c, self._options))]
        lines = [self._line(document, candidate, relations) for candidate, relations in asked]
        tokens = [self._count(line.text) for line in lines]
        limit = self._options.pairs_per_query or len(lines)
        while lines:
            room = self._options.max_length - self._prompt_tokens(document)
            count = min(limit, bisect_right(list(accumulate(tokens)), room))
            left_out = () if count else self._shorten(document, lines[0], tokens[0])
            count = count or 1
            yield self._query(index, document, lines[:count], left_out)
            lines, tokens = lines[count:], tokens[count:]

    def shared_prefix(self) -> list[int]:
        """Return the token ids at the start of every prompt."""
        prompts = []
        for word in ("A", "0", "(", "\u4e2d"):
            document = Document(word, ((word,),), ((Mention(word, 0, 0, 1, "MISC"),),), None)
            prompts.append(prompt_ids(self._render(document), self._tokenizer, self._options.template))
        return prompts[0][: shared_length(prompts)]

    def _render(self, document: Document, left_out: Collection[int] = ()) -> str:
        sentences = (" ".join(words) for number, words in enumerate(document.sentences) if number not in left_out)
        return _LAYOUT.format(instruction=self._instruction, text=" ".join(sentences))

    def _name(self, document: Document, entity: int) -> str:
        name = entity_name(document, entity)
        return f"{name} ({document.entities[entity][0].type})" if self._options.entity_types else name

    def _line(self, document: Document, candidate: Candidate, relations: Sequence[str]) -> Questions:
        text = f"{self._name(document, candidate.head)}| {self._name(document, candidate.tail)}|"
        ends = []
        for relation in relations:
            text += f" {self._relations.name(relation)}?"
            ends.append(len(text) - 1)
        triples = tuple(Triple(candidate.head, candidate.tail, relation) for relation in relations)
        return Questions(text, triples, tuple(ends))

    def _query(self, index: int, document: Document, lines: Sequence[Questions], left_out: tuple[int, ...]) -> Query:
        pairs = tuple(line.triples[0][:2] for line in lines)
        prompt = self._render(document, left_out)
        return Query(index, document.title, pairs, prompt, None, 0, left_out, tuple(lines))

    def _count(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _prompt_tokens(self, document: Document, left_out: Collection[int] = ()) -> int:
        return len(prompt_ids(self._render(document, left_out), self._tokenizer, self._options.template))

    def _shorten(self, document: Document, line: Questions, tokens: int) -> tuple[int, ...]:
        """Return the sentences to drop so that a query for this line alone fits."""
        limit, (head, tail, _) = self._options.max_length, line.triples[0]
        left_out: tuple[int, ...] = ()
        if self._options.truncate == "sentences":
            left_out = sentences_to_drop(
                document, (head, tail), lambda dropped: self._prompt_tokens(document, dropped) + tokens <= limit
            )
        needed = self._prompt_tokens(document, left_out) + tokens
        if needed > limit:
            shorter = "" if self._options.truncate else "give --prompt.truncate sentences, "
            # Not in the pre-flight: every document would have to be tokenized.
            raise UserError(
                f"document {document.title!r} needs {needed} tokens with the questions about a single pair, but "
                f"prompt.max_length is {limit}: {shorter}split the document, or raise prompt.max_length (an adapter "
                "must be trained with it)"
            )
        return left_out


def encode_questions(
    query: Query,
    tokenizer: PreTrainedTokenizerBase,
    template: PromptTemplate | None = None,
    gold: Collection[Triple] = (),
) -> Example:
    """Return the token ids of a query of kind verify, with its questions.

    Args:
        gold: the triples that hold; without them all labels are 0.
    """
    ids = prompt_ids(query.prompt, tokenizer, template)
    prompt_tokens, lengths, positions = len(ids), list[int](), list[int]()
    encoded = tokenizer([line.text for line in query.questions], add_special_tokens=False, return_offsets_mapping=True)
    for line, line_ids, offsets in zip(query.questions, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        starts = [start for start, _ in offsets]
        # The token that holds the question mark is the last one that starts at or before it.
        positions += [len(ids) + bisect_right(starts, end) - 1 for end in line.ends]
        lengths.append(len(line_ids))
        ids += line_ids
    labels = [triple in gold for line in query.questions for triple in line.triples]
    questions = EncodedQuestions(*(torch.tensor(values, dtype=torch.int32) for values in (lengths, positions, labels)))
    return Example(torch.tensor(ids, dtype=torch.int32), prompt_tokens, questions)
