"""The document browser of a report: data for `assets/report.js`, and the elements that the script fills."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from lmrc.corpus.types import Document, Triple
from lmrc.evaluation.metrics.error_analysis import CAUSES
from lmrc.evaluation.metrics.scores import Pair
from lmrc.evaluation.report.page import TEMPLATES
from lmrc.evaluation.scored_run import ScoredRun

# The entity types of DocRED, which have styles of their own.
ENTITY_TYPES = {
    "PER": "person",
    "ORG": "organization",
    "LOC": "location",
    "TIME": "time",
    "NUM": "number",
    "MISC": "miscellaneous",
}

# Outcomes of a triple: cause (see `lmrc.evaluation.metrics.error_analysis`), group, text.
OUTCOMES = (
    ("correct", "correct", "correct"),
    ("not_proposed", "missed", "missed: the pair was not proposed"),
    ("relation_missed", "missed", "missed: the relation was not named"),
    ("relation_wrong", "missed", "missed: another relation was named"),
    ("relation_wrong", "wrong", "wrong: the pair has another relation"),
    ("false_pair", "wrong", "wrong: the pair has no relation"),
    ("no_such_pair", "wrong", "wrong: no such pair of entities"),
)

OUTCOME_INDEX = {(cause, group): index for index, (cause, group, _) in enumerate(OUTCOMES)}

GROUPS = {"": "all", "errors": "all errors", "correct": "correct", "missed": "missed", "wrong": "wrong"}

# Most documents of a corpus in the page, so that it opens fast.
MAX_DOCUMENTS = 2000


def triple_outcomes(
    document: Document, predicted: set[Triple], proposed: Collection[Pair]
) -> list[tuple[int, int, str, int]]:
    """Return each gold or predicted triple of a document with the index of its outcome, sorted.

    Pairs with a prediction count as proposed even if `proposed` lacks them.
    """
    gold = {Triple(label.head, label.tail, label.relation) for label in document.labels or ()}
    gold_pairs = {triple[:2] for triple in gold}
    wrong_pairs = {triple[:2] for triple in predicted - gold}
    predicted_pairs = {triple[:2] for triple in predicted}
    entities = range(len(document.entities))

    def outcome(triple: Triple) -> tuple[str, str]:
        head, tail, _ = triple
        pair = (head, tail)
        if triple in gold:
            if triple in predicted:
                return "correct", "correct"
            if pair in wrong_pairs:
                return "relation_wrong", "missed"
            return ("relation_missed" if pair in predicted_pairs or pair in proposed else "not_proposed"), "missed"
        if pair in gold_pairs:
            return "relation_wrong", "wrong"
        return ("false_pair" if head in entities and tail in entities and head != tail else "no_such_pair"), "wrong"

    return [(*triple, OUTCOME_INDEX[outcome(Triple(*triple))]) for triple in sorted(gold | predicted)]


def browser_data(runs: Sequence[ScoredRun]) -> dict[str, Any]:
    """Return the data of the page's script. Runs on the same documents share them.

    Formats:
        relation: [id, name]. An id may have different names in two relation sets.
        triple: [head, tail, index in "relations", index in "kinds"].
        entity: [first name, type, mentions], with the mentions as one flat list of sentence, start, end.
    """
    names = dict.fromkeys(pair for run in runs for pair in zip(run.relations.ids, run.relations.names, strict=True))
    for run in runs:
        names.update(dict.fromkeys((id, _name(run, id)) for id in sorted({p.relation for p in run.predictions})))
    relation_index = {pair: index for index, pair in enumerate(names)}
    corpora: dict[tuple[str, int], int] = {}
    documents = []
    rows: list[dict[str, Any]] = []
    for run in runs:
        key = (run.corpus, len(run.documents))
        if key not in corpora:
            corpora[key] = len(corpora)
            documents.append([_document_data(document) for document in run.documents[:MAX_DOCUMENTS]])
        predicted: dict[str, set[Triple]] = {}
        for p in run.predictions:
            predicted.setdefault(p.title, set()).add(Triple(p.head, p.tail, p.relation))
        candidates = run.candidates or {}
        triples = [
            [
                [head, tail, relation_index[relation, _name(run, relation)], outcome]
                for head, tail, relation, outcome in triple_outcomes(
                    document, predicted.get(document.title, set()), candidates.get(document.title, frozenset())
                )
            ]
            for document in run.documents[:MAX_DOCUMENTS]
        ]
        rows.append({"name": run.name, "corpus": corpora[key], "triples": triples})
    causes = {OUTCOMES[triple[3]][0] for row in rows for triples in row["triples"] for triple in triples}
    return {
        "types": list(ENTITY_TYPES),
        "relations": list(names),
        "kinds": OUTCOMES,
        "choices": [*GROUPS.items(), *((cause, text) for cause, text in CAUSES.items() if cause in causes)],
        "corpora": documents,
        "runs": rows,
    }


def documents_html(runs: Sequence[ScoredRun]) -> Iterator[str]:
    """Yield the elements that the script fills, and its data. Without a script a message is shown."""
    return TEMPLATES.get_template("documents.html").generate(
        judged=True,
        entity_types=ENTITY_TYPES,
        left_out=[line for run in runs for line in _left_out(run)],
        data=browser_data(runs),
    )


def _left_out(run: ScoredRun) -> Iterator[str]:
    """Yield sentences about documents and predictions that the browser does not show."""
    if len(run.documents) > MAX_DOCUMENTS:
        count = f"{MAX_DOCUMENTS:,} of {len(run.documents):,}"
        yield f"{run.name}: the first {count} documents are shown here; the scores are over all."
    titles = {document.title for document in run.documents}
    unknown = sorted({prediction.title for prediction in run.predictions} - titles)
    if unknown:
        more = ", …" if len(unknown) > 5 else ""
        yield (
            f"{run.name}: {len(unknown):,} titles of predictions are unknown: "
            f"{', '.join(unknown[:5])}{more}; all of these predictions are wrong."
        )


def _name(run: ScoredRun, relation: str) -> str:
    return run.relations.name(relation) if relation in run.relations else f"{relation} (unknown)"


def _document_data(document: Document) -> dict[str, Any]:
    return {
        "title": document.title,
        "sentences": document.sentences,
        "entities": [
            [
                entity[0].name,
                entity[0].type,
                [number for mention in entity for number in (mention.sentence, mention.start, mention.end)],
            ]
            for entity in document.entities
        ],
        "evidence": {
            f"{label.head} {label.tail} {label.relation}": label.evidence
            for label in document.labels or ()
            if label.evidence
        },
    }
