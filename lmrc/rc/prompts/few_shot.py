"""Demonstrations for an LM that was not fine-tuned: the paper's test of an API model (appendix C, table 8).

The paper's three examples were chosen by hand from annotated documents, so that there are pairs with and without a
relation among them; 100 documents of dev were drawn. It prints neither examples nor prompt: ours are drawn by a seed,
and the prompt is table 11's (`direct`), as that of table 12 has no answer for a pair without a relation. Each
demonstration is a turn of a conversation, the prompt to the letter and the gold answer; the query is the last turn.
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
from lmrc.rc.prompts.templates import Pair, answer, prompt


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One example: a prompt and its gold answer."""

    document: int
    """Index in the training corpus."""
    title: str
    pairs: tuple[Pair, ...]
    """Sorted by (head, tail)."""
    prompt: str
    answer: str


def demonstrations(
    corpus: Corpus, kind: PromptKind, count: int = 3, pairs: int = 10, seed: int = 66
) -> list[Demonstration]:
    """`count` documents of a labelled training corpus, with at most `pairs` pairs each, the same at each call.

    `direct`: each has pairs with a relation and pairs without one, half of `pairs` each, or as many as there are;
    `rc`: pairs with a relation. Documents and pairs are drawn by `seed`, and pairs stand in the order of (head, tail).

    Raises UserError where the corpus has not so many documents with such pairs, or `pairs` is too small for both kinds.
    """
    least = 1 if kind == "rc" else 2
    if pairs < least:
        raise UserError(f"a demonstration of {pairs} pairs cannot show what {kind} asks: give it at least {least}")
    found: list[Demonstration] = []
    # A few labelled documents are all that is read of a large corpus.
    random = Random(seed)
    for index in random.sample(range(len(corpus)), len(corpus)):
        if len(found) == count:
            break
        document = corpus[index]
        if document.labels is None:
            continue
        gold = relations_by_pair(document)
        chosen = _choose(document, gold.keys(), kind, pairs, random)
        if chosen:
            shown = answer(document, {pair: gold.get(pair, ()) for pair in chosen}, corpus.relations)
            asked = prompt(document, chosen, corpus.relations, kind)
            found.append(Demonstration(index, document.title, tuple(chosen), asked, shown))
    if len(found) < count:
        wanted = "pairs with a relation" if kind == "rc" else "pairs with and pairs without a relation"
        raise UserError(
            f"{corpus.folder} has {len(found)} documents with {wanted}, but {count} are to be shown: give a labelled "
            "training corpus, or show fewer"
        )
    return found


def few_shot_messages(shown: Sequence[Demonstration], query: Query) -> list[dict[str, str]]:
    """The conversation that asks `query` after the demonstrations; the same beginning for all queries."""
    messages: list[dict[str, str]] = []
    for one in shown:
        messages += [{"role": "user", "content": one.prompt}, {"role": "assistant", "content": one.answer}]
    return [*messages, {"role": "user", "content": query.prompt}]


def demonstrated_tokens(shown: Iterable[Demonstration], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the demonstrations, without those that the server's chat template puts around turns."""
    return sum(len(prompt_ids(one.prompt, tokenizer)) + len(answer_ids(one.answer, tokenizer)) for one in shown)


def _choose(document: Document, gold: Collection[Pair], kind: PromptKind, most: int, random: Random) -> list[Pair]:
    """The pairs to show; none where the document lacks a kind of them."""
    related = sorted(gold)
    if kind == "rc":
        return sorted(random.sample(related, min(most, len(related))))
    unrelated = [pair for pair in candidate_pairs(len(document.entities)) if pair not in gold]
    if not related or not unrelated:
        return []
    # Where one kind has few, the other does not fill up: half of them related is already far from real text.
    first = random.sample(related, min(most - most // 2, len(related)))
    return sorted(first + random.sample(unrelated, min(most // 2, len(unrelated))))
