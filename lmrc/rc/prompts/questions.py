"""Queries of prompt kind likelihood: how probable is the name of a tail after the text, the head and a relation?

Each relation that the encoder finds possible for a pair is a line after the prompt, `head - relation: tail`. Only the
tokens of the tail are predicted. A line sees the prompt but no other line, so that scores do not depend on which pairs
are asked about. The LM is trained on the lines of gold triples.
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
from lmrc.rc.prompts.query_builder import EncodedQuestions, Example, Query, Question, prompt_ids, shared_length
from lmrc.rc.prompts.templates import Pair, entity_name
from lmrc.rc.prompts.truncation import sentences_to_drop


def relations_to_ask(candidate: Candidate, options: PromptOptions) -> tuple[str, ...]:
    """Return the relation ids to ask about for a pair, in the order of the relation set."""
    least = _log_odds(options.min_relation_probability)
    possible = [relation for relation in candidate.relations if relation.logit >= least]
    most = sorted(possible, key=lambda relation: -relation.logit)[: options.relations_per_pair]
    return tuple(relation.relation for relation in possible if relation in most)


def questions_about(candidates: Iterable[Candidate], options: PromptOptions) -> list[tuple[Pair, tuple[str, ...]]]:
    """Return the pairs, and the relation ids to ask about for each."""
    return [((pair.head, pair.tail), relations_to_ask(pair, options)) for pair in candidates]


def _log_odds(probability: float) -> float:
    return float(torch.logit(torch.tensor(probability, dtype=torch.float64)))


def check_candidates(folder: Path, corpus: Corpus) -> None:
    """Check the candidates of a corpus, whose relations are asked about.

    Raises:
        CorpusError: if they are those of another corpus.
        UserError: if they were proposed without a relation head.
    """
    candidates = Candidates.open(folder)
    candidates.check(corpus)
    check_relations(candidates)


class QuestionBuilder:
    """Splits the questions about a document into as few queries as fit `prompt.max_length`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, relations: RelationSet, options: PromptOptions) -> None:
        """Keep the arguments."""
        self._tokenizer, self._relations, self._options = tokenizer, relations, options

    def build(self, index: int, document: Document, asked: Iterable[tuple[Pair, Sequence[str]]]) -> Iterator[Query]:
        """Yield the queries about pairs of a document; none if there is nothing to ask.

        If the text does not fit with a single pair and `options.truncate` is set, sentences are dropped for this pair.

        Args:
            asked: the pairs, and the relation ids to ask about for each.

        Raises:
            UserError: if a single pair does not fit.
        """
        pairs = [
            [self._question(document, Triple(head, tail, relation)) for relation in relations]
            for (head, tail), relations in asked
            if relations
        ]
        tokens = [sum(len(self._ids(question.cue + question.name)) for question in pair) for pair in pairs]
        limit = self._options.pairs_per_query or len(pairs)
        while pairs:
            room = self._options.max_length - self._prompt_tokens(document)
            count = min(limit, bisect_right(list(accumulate(tokens)), room))
            left_out = () if count else self._shorten(document, pairs[0][0].triple[:2], tokens[0])
            count = count or 1
            yield Query(
                document=index,
                title=document.title,
                pairs=tuple(pair[0].triple[:2] for pair in pairs[:count]),
                prompt=_render(document, left_out),
                answer=None,
                answer_room=0,
                left_out=left_out,
                questions=tuple(question for pair in pairs[:count] for question in pair),
            )
            pairs, tokens = pairs[count:], tokens[count:]

    def shared_prefix(self) -> list[int]:
        """Return the token ids at the start of every prompt."""
        prompts = []
        for word in ("A", "0", "(", "\u4e2d"):
            document = Document(word, ((word,),), ((Mention(word, 0, 0, 1, "MISC"),),), None)
            prompts.append(prompt_ids(_render(document), self._tokenizer, self._options.template))
        return prompts[0][: shared_length(prompts)]

    def _question(self, document: Document, triple: Triple) -> Question:
        head, tail = entity_name(document, triple.head), entity_name(document, triple.tail)
        return Question(triple, f"{head} - {self._relations.name(triple.relation)}:", f" {tail}\n")

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _prompt_tokens(self, document: Document, left_out: Collection[int] = ()) -> int:
        return len(prompt_ids(_render(document, left_out), self._tokenizer, self._options.template))

    def _shorten(self, document: Document, pair: Pair, tokens: int) -> tuple[int, ...]:
        """Return the sentences to drop so that a query for this pair alone fits."""
        limit = self._options.max_length
        left_out: tuple[int, ...] = ()
        if self._options.truncate == "sentences":
            left_out = sentences_to_drop(
                document, pair, lambda dropped: self._prompt_tokens(document, dropped) + tokens <= limit
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


def _render(document: Document, left_out: Collection[int] = ()) -> str:
    """Return the prompt: the text without some sentences."""
    sentences = (" ".join(words) for number, words in enumerate(document.sentences) if number not in left_out)
    return f"Text: {' '.join(sentences)}\n\n"


def encode_questions(
    query: Query, tokenizer: PreTrainedTokenizerBase, template: PromptTemplate | None = None
) -> Example:
    """Return the token ids of a query of kind likelihood."""
    ids = prompt_ids(query.prompt, tokenizer, template)
    prompt_tokens, lengths, name_tokens = len(ids), list[int](), list[int]()
    texts = [question.cue + question.name for question in query.questions]
    cues = [question.cue for question in query.questions]
    lines, known = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (texts, cues))
    for line, cue in zip(lines, known, strict=True):
        ids += line
        lengths.append(len(line))
        name_tokens.append(len(line) - shared_length([line, cue]))
    counts = (torch.tensor(values, dtype=torch.int32) for values in (lengths, name_tokens))
    return Example(torch.tensor(ids, dtype=torch.int32), prompt_tokens, EncodedQuestions(*counts))
