"""One self-contained page of texts, entities and triples: the report's browser of documents, without gold triples."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from lmrc.evaluation.report.document_browser import ENTITY_TYPES, MAX_DOCUMENTS
from lmrc.evaluation.report.page import TEMPLATES, Section, write_report
from lmrc.export.result import CharacterSpan, ExtractedDocument

_WORD = re.compile(r"\S+")


class PageWriter:
    """Collects the first `MAX_DOCUMENTS` results for a page, and counts the others."""

    def __init__(self) -> None:
        self._relations: dict[tuple[str, str], int] = {}
        self._documents: list[dict[str, Any]] = []
        self._triples: list[list[list[float]]] = []
        self._left_out = 0

    def write(self, result: ExtractedDocument) -> None:
        """Add a document."""
        if len(self._documents) == MAX_DOCUMENTS:
            self._left_out += 1
            return
        self._documents.append(document_data(result))
        self._triples.append(
            [
                [
                    triple.head,
                    triple.tail,
                    self._relations.setdefault((triple.relation, triple.relation_name), len(self._relations)),
                    0,
                    round(triple.score, 6),
                ]
                for triple in sorted(result.triples, key=lambda triple: -triple.score)
            ]
        )

    def sections(self) -> Iterator[Section]:
        """Yield the section with the browser."""
        left_out = []
        if self._left_out:
            shown = len(self._documents)
            left_out = [f"The first {shown:,} of {shown + self._left_out:,} documents are shown here."]
        data = {
            "types": list(ENTITY_TYPES),
            "relations": list(self._relations),
            "kinds": [("found", "correct", "")],
            "choices": [("", "all")],
            "corpora": [self._documents],
            "runs": [{"name": "triples", "corpus": 0, "triples": self._triples}],
        }
        body = TEMPLATES.get_template("documents.html").generate(
            judged=False, entity_types=ENTITY_TYPES, left_out=left_out, data=data
        )
        yield Section("documents", "Documents", body)


@contextmanager
def page_writer(out: Path, title: str) -> Iterator[PageWriter]:
    """Collect results, and write the page when the block ends well.

    Raises:
        RunError: it cannot be written.
    """
    writer = PageWriter()
    yield writer
    write_report(out, title, *writer.sections())


def document_data(result: ExtractedDocument) -> dict[str, Any]:
    """Return a document as `assets/report.js` reads it: see `lmrc.evaluation.report.document_browser.browser_data`.

    Words of the text end at the bounds of mentions. "glued" lists, by sentence, those with no space before them.
    """
    bounds = sorted({bound for entity in result.entities for span in entity.spans for bound in span})
    sentences = [_words(result.text, span, bounds) for span in result.sentences]
    starts = [start for start, _ in result.sentences]
    entities = []
    for entity in result.entities:
        numbers: list[int] = []
        for start, end in entity.spans:
            sentence = bisect_left(starts, start + 1) - 1
            words = sentences[sentence]
            numbers += [sentence, bisect_left(words, (start, start)), bisect_left(words, (end, end))]
        entities.append([entity.name, entity.type, numbers])
    return {
        "title": result.title,
        "sentences": [[result.text[start:end] for start, end in words] for words in sentences],
        "glued": [
            [index for index in range(1, len(words)) if words[index - 1][1] == words[index][0]] for words in sentences
        ],
        "entities": entities,
        "evidence": {f"{t.head} {t.tail} {t.relation}": t.evidence for t in result.triples if t.evidence},
    }


def _words(text: str, sentence: CharacterSpan, bounds: list[int]) -> list[CharacterSpan]:
    """Return the spans of the words of a sentence."""
    start, end = sentence
    inside = bounds[bisect_left(bounds, start + 1) : bisect_left(bounds, end)]
    edges = [start, *inside, end]
    return [match.span() for first, last in pairwise(edges) for match in _WORD.finditer(text, first, last)]
