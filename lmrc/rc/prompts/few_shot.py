"""Few-shot demonstrations for an LM that was not fine-tuned: the paper's test of an API model (appendix C, table 8).

The paper chose three examples by hand from annotated documents, with and without a relation, and tested on 100 dev
documents. It prints neither the examples nor the prompt. Here a seed draws the examples. The prompt is that of table 11
(`direct`), because table 12 has no answer for a pair without a relation. Each demonstration is a turn of a
conversation: a prompt and its gold answer. The query is the last turn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from transformers import PreTrainedTokenizerBase

from lmrc.common.errors import UserError
from lmrc.config.schema import PromptKind
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import candidate_pairs, relations_by_pair
from lmrc.corpus.types import Document
from lmrc.rc.prompts.query_builder import Query, answer_ids, prompt_ids
from lmrc.rc.prompts.templates import PROMPTS, Pair


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and its gold answer.

    Attributes:
        document: index in the training corpus.
        pairs: the pairs, sorted by (head, tail).
    """

    document: int
    title: str
    pairs: tuple[Pair, ...]
    prompt: str
    answer: str


def demonstrations(
    corpus: Corpus, kind: PromptKind, count: int = 3, pairs: int = 10, seed: int = 66
) -> list[Demonstration]:
    """Draw demonstrations from a labeled training corpus; the same arguments give the same ones.

    `rc` shows pairs with a relation only. The other kinds show pairs with and without one, up to half of `pairs` each.

    Args:
        count: number of documents.
        pairs: maximum number of pairs per document.
        seed: seed for drawing documents and pairs.

    Raises:
        UserError: if the corpus has too few documents with such pairs, or `pairs` is too small to show both.
    """
    prompt = PROMPTS[kind]
    min_pairs = 2 if prompt.asks_all_pairs else 1
    if pairs < min_pairs:
        raise UserError(f"a demonstration of {pairs} pairs cannot show what {kind} asks: give it at least {min_pairs}")
    drawn: list[Demonstration] = []
    random = Random(seed)
    # Documents are read one by one until enough are drawn, because the corpus may be large.
    for index in random.sample(range(len(corpus)), len(corpus)):
        if len(drawn) == count:
            break
        document = corpus[index]
        if document.labels is None:
            continue
        gold = relations_by_pair(document)
        chosen = _draw_pairs(document, gold.keys(), prompt.asks_all_pairs, pairs, random)
        if chosen:
            answer = prompt.answer(document, {pair: gold.get(pair, ()) for pair in chosen}, corpus.relations)
            text = prompt.render(document, chosen, corpus.relations)
            drawn.append(Demonstration(index, document.title, tuple(chosen), text, answer))
    if len(drawn) < count:
        needed = "pairs with and pairs without a relation" if prompt.asks_all_pairs else "pairs with a relation"
        raise UserError(
            f"{corpus.folder} has {len(drawn)} documents with {needed}, but few_shot.examples is {count}: give a "
            "labeled training corpus, or lower few_shot.examples"
        )
    return drawn


def few_shot_messages(shown: Sequence[Demonstration], query: Query) -> list[dict[str, str]]:
    """Return the conversation: the demonstrations, then the query. All queries share the demonstrations as a prefix."""
    messages: list[dict[str, str]] = []
    for demonstration in shown:
        messages += [
            {"role": "user", "content": demonstration.prompt},
            {"role": "assistant", "content": demonstration.answer},
        ]
    return [*messages, {"role": "user", "content": query.prompt}]


def demonstration_tokens(shown: Iterable[Demonstration], tokenizer: PreTrainedTokenizerBase) -> int:
    """Count the tokens of the demonstrations, without those that a chat template adds around turns."""
    return sum(
        len(prompt_ids(demonstration.prompt, tokenizer)) + len(answer_ids(demonstration.answer, tokenizer))
        for demonstration in shown
    )


def _draw_pairs(
    document: Document, gold: Collection[Pair], with_unrelated: bool, max_pairs: int, random: Random
) -> list[Pair]:
    """Return the pairs to show; none if the document lacks pairs with a relation, or the unrelated ones asked for."""
    related = sorted(gold)
    if not with_unrelated:
        return sorted(random.sample(related, min(max_pairs, len(related))))
    unrelated = [pair for pair in candidate_pairs(len(document.entities)) if pair not in gold]
    if not related or not unrelated:
        return []
    # Few pairs of one kind are not filled up with the other. In real text, far less than half of the pairs are related.
    drawn = random.sample(related, min(max_pairs - max_pairs // 2, len(related)))
    return sorted(drawn + random.sample(unrelated, min(max_pairs // 2, len(unrelated))))
