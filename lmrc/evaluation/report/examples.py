"""Example documents of a report as static HTML: the best, a middling and the worst one, with their triples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from lmrc.corpus.types import Document, Triple
from lmrc.evaluation.metrics.registry import Counts
from lmrc.evaluation.report.document_browser import ENTITY_TYPES, MAX_DOCUMENTS, OUTCOMES, triple_outcomes
from lmrc.evaluation.report.page import TEMPLATES
from lmrc.evaluation.scored_run import ScoredRun

# Examples have at least FEWEST gold triples and at most MOST_WORDS words, if three documents do.
FEWEST, MOST_WORDS = 4, 150

SIGNS = {"correct": "✓", "missed": "○", "wrong": "✗"}


@dataclass(frozen=True, slots=True)
class Piece:
    """Words of a sentence; those of a mention have the type and the indices of its entities."""

    text: str
    type: str = ""
    entities: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """A document with the outcome of each triple: head, tail, relation, index in `OUTCOMES`."""

    index: int
    document: Document
    triples: Sequence[tuple[int, int, str, int]]

    @property
    def counts(self) -> Counts:
        groups = [OUTCOMES[outcome][1] for *_, outcome in self.triples]
        correct = groups.count("correct")
        return Counts(correct, correct + groups.count("wrong"), correct + groups.count("missed"))


def choose_examples(run: ScoredRun) -> list[tuple[str, Example]]:
    """Return the documents with the highest, the median and the lowest F1, by these words; fewer if there are fewer.

    Of documents with the same F1, those with more gold triples come first, then the first of the corpus.
    """
    predicted: dict[str, set[Triple]] = {}
    for p in run.predictions:
        predicted.setdefault(p.title, set()).add(Triple(p.head, p.tail, p.relation))
    candidates = run.candidates or {}
    examples = []
    # Only these documents are in the browser, to which an example links.
    for index, document in enumerate(run.documents[:MAX_DOCUMENTS]):
        proposed = candidates.get(document.title, frozenset())
        outcomes = triple_outcomes(document, predicted.get(document.title, set()), proposed)
        if outcomes:
            examples.append(Example(index, document, outcomes))
    handy = [
        example
        for example in examples
        if example.counts.gold >= FEWEST and sum(map(len, example.document.sentences)) <= MOST_WORDS
    ]
    chosen = handy if len(handy) >= 3 else examples
    ranked = sorted(chosen, key=lambda example: (-example.counts.f1, -example.counts.gold, example.index))
    if not ranked:
        return []
    last = ranked[-1].counts.f1
    worst = next(example for example in ranked if example.counts.f1 == last)
    named = [("Best", ranked[0]), ("Middling", ranked[len(ranked) // 2]), ("Worst", worst)]
    return [(word, example) for at, (word, example) in enumerate(named) if example not in [e for _, e in named[:at]]]


def examples_html(run: ScoredRun) -> Iterator[str]:
    """Yield the HTML of the examples of a run, which link to the browser of documents; nothing without documents."""
    examples = [
        {
            "word": word,
            "title": example.document.title,
            "f1": f"{example.counts.f1:.1f}",
            "address": urlencode({"run": run.name, "document": example.document.title}),
            "sentences": [marked(example.document, index) for index in range(len(example.document.sentences))],
            "triples": [_triple(run, example.document, *triple) for triple in sorted(example.triples, key=_outcome)],
        }
        for word, example in choose_examples(run)
    ]
    if examples:
        yield from TEMPLATES.get_template("examples.html").generate(
            run=run.name, fewest=FEWEST, most=MOST_WORDS, types=ENTITY_TYPES, signs=SIGNS, examples=examples
        )


def _outcome(triple: tuple[int, int, str, int]) -> int:
    return triple[3]


def _triple(run: ScoredRun, document: Document, head: int, tail: int, relation: str, outcome: int) -> tuple[str, ...]:
    """Return head, name and id of the relation, tail, and group and words of the outcome."""
    name = run.relations.name(relation) if relation in run.relations else f"{relation} (unknown)"
    return _name(document, head), name, relation, _name(document, tail), *OUTCOMES[outcome][1:]


def marked(document: Document, sentence: int) -> list[Piece]:
    """Return a sentence in pieces, as the browser of documents marks it."""
    tokens = document.sentences[sentence]
    covering: list[list[int]] = [[] for _ in tokens]
    ends: list[list[int]] = [[] for _ in tokens]
    for index, entity in enumerate(document.entities):
        for mention in entity:
            if mention.sentence == sentence:
                for token in range(mention.start, mention.end):
                    covering[token].append(index)
                ends[mention.end - 1].append(index)
    pieces, start = [], 0
    while start < len(tokens):
        end = start + 1
        while end < len(tokens) and covering[end] == covering[start] and not ends[end - 1]:
            end += 1
        inside = covering[start]
        type = document.entities[inside[0]][0].type if inside else ""
        pieces.append(Piece(" ".join(tokens[start:end]), type, tuple(inside), tuple(ends[end - 1])))
        start = end
    return pieces


def _name(document: Document, index: int) -> str:
    return document.entities[index][0].name if index in range(len(document.entities)) else "no such entity"
