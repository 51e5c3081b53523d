"""The browser of documents: what each run made of them, as data for `assets/report.js`, and the elements it fills."""

from __future__ import annotations

import html
import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from lmrc.corpus.types import Document, Triple
from lmrc.evaluation.metrics.error_analysis import CAUSES
from lmrc.evaluation.metrics.scores import Pair
from lmrc.evaluation.scored_run import ScoredRun

TYPES = {
    "PER": "person",
    "ORG": "organisation",
    "LOC": "location",
    "TIME": "time",
    "NUM": "number",
    "MISC": "miscellaneous",
}
"""The entity types of DocRED, each with a style of its own in the report; any other shares one style."""

KINDS = (
    ("correct", "correct", "correct"),
    ("not_proposed", "missed", "missed: the pair was not proposed"),
    ("relation_missed", "missed", "missed: the relation was not named"),
    ("relation_wrong", "missed", "missed: another relation was named"),
    ("relation_wrong", "wrong", "wrong: the pair has another relation"),
    ("false_pair", "wrong", "wrong: the pair has no relation"),
    ("no_such_pair", "wrong", "wrong: no such pair of entities"),
)
"""How a triple fared: its cause by `lmrc.evaluation.metrics.error_analysis`, whether it is missed or wrong, and what is said."""

PLACES = {(cause, group): place for place, (cause, group, _) in enumerate(KINDS)}

GROUPS = {"": "all", "errors": "all errors", "correct": "correct", "missed": "missed", "wrong": "wrong"}

BROWSED = 2000
"""Most documents of a corpus in the page: it opens in a blink with these, and holds ten times DocRED's text."""


def triples_of(document: Document, found: set[Triple], proposed: Collection[Pair]) -> list[tuple[int, int, str, int]]:
    """Every triple of a document that is gold or predicted, sorted, with its place in `KINDS`.

    `proposed` are the pairs of RCP; a pair with an answer counts as proposed too. Causes are those of `analyse`.
    """
    gold = {(label.head, label.tail, label.relation) for label in document.labels or ()}
    related = {triple[:2] for triple in gold}
    mistaken = {triple[:2] for triple in found - gold}
    answered = {triple[:2] for triple in found}
    entities = range(len(document.entities))

    def kind(triple: Triple) -> tuple[str, str]:
        head, tail, _ = triple
        pair = (head, tail)
        if triple in gold:
            if triple in found:
                return "correct", "correct"
            if pair in mistaken:
                return "relation_wrong", "missed"
            return ("relation_missed" if pair in answered or pair in proposed else "not_proposed"), "missed"
        if pair in related:
            return "relation_wrong", "wrong"
        return ("false_pair" if head in entities and tail in entities and head != tail else "no_such_pair"), "wrong"

    return [(*triple, PLACES[kind(Triple(*triple))]) for triple in sorted(gold | found)]


def browser_data(runs: Sequence[ScoredRun]) -> dict[str, Any]:
    """Return all that the page's script needs. Runs on the same documents share them.

    A relation is [id, name]: two relation sets may give an id different names. A triple is [head, tail, place in
    `relations`, place in `kinds`]; an entity is [first name, type, mentions], and its mentions are one list of
    (sentence, start, end) after the other.
    """
    names = dict.fromkeys(pair for run in runs for pair in zip(run.relations.ids, run.relations.names, strict=True))
    for run in runs:
        names.update(dict.fromkeys((id, _name(run, id)) for id in sorted({p.relation for p in run.predictions})))
    places = {pair: place for place, pair in enumerate(names)}
    corpora: dict[tuple[str, int], int] = {}
    documents = []
    rows: list[dict[str, Any]] = []
    for run in runs:
        key = (run.corpus, len(run.documents))
        if key not in corpora:
            corpora[key] = len(corpora)
            documents.append([_document(document) for document in run.documents[:BROWSED]])
        found: dict[str, set[Triple]] = {}
        for prediction in run.predictions:
            found.setdefault(prediction.title, set()).add(Triple(prediction.head, prediction.tail, prediction.relation))
        triples = [
            [
                [head, tail, places[relation, _name(run, relation)], kind]
                for head, tail, relation, kind in triples_of(
                    document,
                    found.get(document.title, set()),
                    (run.candidates or {}).get(document.title, frozenset()),
                )
            ]
            for document in run.documents[:BROWSED]
        ]
        rows.append({"name": run.name, "corpus": corpora[key], "triples": triples})
    present = {triple[3] for row in rows for triples in row["triples"] for triple in triples}
    return {
        "types": list(TYPES),
        "relations": list(names),
        "kinds": KINDS,
        "choices": [
            *GROUPS.items(),
            *((cause, CAUSES[cause]) for cause in CAUSES if any(KINDS[place][0] == cause for place in present)),
        ],
        "corpora": documents,
        "runs": rows,
    }


def documents_html(runs: Sequence[ScoredRun]) -> Iterator[str]:
    """The elements that the script fills, and its data. Without a script there are no documents, and it says so."""
    marks = " ".join(
        f'<mark class="{type}">{words}</mark>' for type, words in (*TYPES.items(), ("other", "other type"))
    )
    yield (
        "<noscript><p>The documents are shown by a script, which this browser does not run.</p></noscript>\n"
        '<div id="browser" hidden>\n<form id="filters" role="search" aria-label="Filter documents">\n'
        '<label>Run <select name="run"></select></label>\n'
        '<label>Relation <select name="relation"></select></label>\n'
        '<label>Triples <select name="kind"></select></label>\n'
        '<label>Order <select name="order"><option value="">as in the corpus</option>'
        '<option value="worst">lowest F1 first</option><option value="most">most triples first</option></select>'
        "</label>\n"
        '<label>Search <input type="search" name="search" placeholder="title, entity, text"></label>\n</form>\n'
        '<p id="found" role="status"></p>\n'
        '<p class="remark keys"><kbd>/</kbd> search, <kbd>j</kbd> <kbd>k</kbd> next and previous document, '
        "<kbd>↑</kbd> <kbd>↓</kbd> in the list, <kbd>Tab</kbd> from triple to triple: its head and tail are framed, "
        "its evidence has a line at the side.</p>\n"
        f'<p class="legend">{marks} <small>The number after a name is that of its entity.</small></p>\n'
        '<div class="columns">\n<ol id="titles" aria-label="Documents"></ol>\n<article id="document"></article>\n'
        "</div>\n</div>\n"
    )
    for run in runs:
        yield from (f'<p class="remark">{html.escape(line)}</p>\n' for line in _left_out(run))
    data = json.dumps(browser_data(runs), ensure_ascii=False, separators=(",", ":"))
    # Nothing in the data can end the element.
    escaped = data.replace("<", "\\u003c")
    yield f'<script type="application/json" id="documents-data">{escaped}</script>\n'


def _left_out(run: ScoredRun) -> Iterator[str]:
    """What a run has that the browser does not show."""
    if len(run.documents) > BROWSED:
        yield f"{run.name}: the first {BROWSED:,} of {len(run.documents):,} documents are here; the scores are of all."
    titles = {document.title for document in run.documents}
    elsewhere = sorted({prediction.title for prediction in run.predictions} - titles)
    if elsewhere:
        more = ", …" if len(elsewhere) > 5 else ""
        yield (
            f"{run.name}: {len(elsewhere):,} titles of predictions are unknown: "
            f"{', '.join(elsewhere[:5])}{more}; all of these predictions are wrong."
        )


def _name(run: ScoredRun, relation: str) -> str:
    return run.relations.name(relation) if relation in run.relations else f"{relation} (unknown)"


def _document(document: Document) -> dict[str, Any]:
    return {
        "title": document.title,
        "sentences": document.sentences,
        "entities": [
            [
                entity[0].name,
                entity[0].type,
                [place for mention in entity for place in (mention.sentence, mention.start, mention.end)],
            ]
            for entity in document.entities
        ],
        "evidence": {
            f"{label.head} {label.tail} {label.relation}": label.evidence
            for label in document.labels or ()
            if label.evidence
        },
    }
