"""Documents as HTML: text with entities marked by type, and the correct, missed and wrong triples beside each other."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from lmrc.corpus.docred import Document
from lmrc.corpus.relations import RelationSet
from lmrc.evaluation.metrics import Counts, Triple
from lmrc.evaluation.predictions import Prediction

TYPES = {
    "PER": "person",
    "ORG": "organisation",
    "LOC": "location",
    "TIME": "time",
    "NUM": "number",
    "MISC": "miscellaneous",
}
"""The entity types of DocRED, each with a style of its own in the report; any other shares one style."""

COLUMNS = {
    "correct": ("Correct", "gold and predicted"),
    "missed": ("Missed", "gold, not predicted"),
    "wrong": ("Wrong", "predicted, not gold"),
}
"""How a triple fared: its class, the heading of its column, and what that means."""


def documents_html(
    gold: Iterable[Document], predictions: Iterable[Prediction], relations: RelationSet
) -> Iterator[str]:
    """A legend, then one `<details>` a document, in the order given; gold is read as a stream.

    Predictions for titles that no document has are listed at the end.
    """
    by_title: dict[str, set[Triple]] = {}
    for prediction in predictions:
        triple = (prediction.head, prediction.tail, prediction.relation)
        by_title.setdefault(prediction.title, set()).add(triple)
    marks = " ".join(
        f'<mark class="{type}">{words}</mark>' for type, words in (*TYPES.items(), ("other", "other type"))
    )
    yield f'<p class="legend">{marks} The number after a name is that of its entity.</p>\n'
    for document in gold:
        yield _document(document, by_title.pop(document.title, set()), relations)
    if by_title:
        count = sum(map(len, by_title.values()))
        titles = "".join(f"<li>{html.escape(title)}: {len(by_title[title]):,}</li>\n" for title in sorted(by_title))
        yield (
            f"<details><summary>Predictions for unknown titles: {count:,}, all wrong</summary>\n"
            f"<ul>\n{titles}</ul></details>\n"
        )


def marked_sentence(document: Document, sentence: int) -> str:
    """The tokens of one sentence, joined by spaces, with every stretch that belongs to mentions in a `<mark>`.

    Mentions may overlap or nest: a stretch belongs to all mentions that cover it, is styled by the type of the first
    entity, and carries the numbers of all entities of which a mention ends with it.
    """
    tokens = document.sentences[sentence]
    mentions = [
        (number, mention)
        for number, entity in enumerate(document.entities)
        for mention in entity
        if mention.sentence == sentence
    ]
    covering: list[list[int]] = [[] for _ in tokens]
    for index, (_, mention) in enumerate(mentions):
        for token in range(mention.start, mention.end):
            covering[token].append(index)
    parts = []
    for covers, stretch in groupby(range(len(tokens)), key=covering.__getitem__):
        places = list(stretch)
        words = html.escape(" ".join(tokens[place] for place in places))
        if not covers:
            parts.append(words)
            continue
        here = [mentions[index] for index in covers]
        numbers = sorted({number for number, mention in here if mention.end == places[-1] + 1})
        label = "".join(f"<sub>{number}</sub>" for number in numbers)
        told = "; ".join(f"entity {number}: {mention.name} ({mention.type})" for number, mention in here)
        style = here[0][1].type if here[0][1].type in TYPES else "other"
        parts.append(f'<mark class="{style}" title="{html.escape(told)}">{words}{label}</mark>')
    return " ".join(parts)


def _document(document: Document, found: set[Triple], relations: RelationSet) -> str:
    wanted = {(label.head, label.tail, label.relation) for label in document.labels or ()}
    counts = Counts(len(found & wanted), len(found), len(wanted))
    groups = {"correct": found & wanted, "missed": wanted - found, "wrong": found - wanted}
    tally = ", ".join(f"{len(triples)} {kind}" for kind, triples in groups.items())
    text = "\n".join(f"<li>{marked_sentence(document, index)}</li>" for index in range(len(document.sentences)))
    columns = "\n".join(
        f'<div class="{kind}"><h3>{COLUMNS[kind][0]} <small>{COLUMNS[kind][1]}, {len(triples)}</small></h3>\n'
        f"{_triples(document, sorted(triples), relations)}</div>"
        for kind, triples in groups.items()
    )
    return (
        f"<details><summary>{html.escape(document.title)} <small>F1 {counts.f1:.1f}: {tally}</small></summary>\n"
        f'<ol class="text" start="0">{text}</ol>\n<div class="triples">{columns}</div></details>\n'
    )


def _triples(document: Document, triples: Sequence[Triple], relations: RelationSet) -> str:
    if not triples:
        return "<p>none</p>"
    items = (
        f"<li>{_entity(document, head)} <b>{_relation(relation, relations)}</b> {_entity(document, tail)}</li>"
        for head, tail, relation in triples
    )
    return f"<ul>{''.join(items)}</ul>"


def _entity(document: Document, number: int) -> str:
    """The first name of an entity with its number."""
    known = number in range(len(document.entities))
    name = html.escape(document.entities[number][0].name) if known else "<i>no such entity</i>"
    return f"{name}<sub>{number}</sub>"


def _relation(relation: str, relations: RelationSet) -> str:
    """The name of a relation with its id; the id alone where it is unknown."""
    if relation not in relations:
        return html.escape(f"{relation} (unknown)")
    return f'<span title="{html.escape(relation)}">{html.escape(relations.name(relation))}</span>'
