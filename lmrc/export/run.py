"""Triples of a finished run of classify with names and spans, in the formats of `lmrc extract`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import IO

from lmrc.common.atomic_io import replacing
from lmrc.common.errors import UserError, counted
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document
from lmrc.evaluation.inputs import corpus_of, predictions_file, read_systems
from lmrc.export.entities import EntityIds
from lmrc.export.formats import ResultWriter, format_of, graph_writer
from lmrc.export.page import page_writer
from lmrc.export.result import ExtractedDocument, extracted, to_bytes
from lmrc.text.layout import with_single_spaces


def export_run(
    run: Path, out: Path | None, format: str | None = None, merge_entities: bool = False, html: Path | None = None
) -> str:
    """Write the triples of all documents of a run, and return a summary.

    Args:
        run: run folder of classify, or of propose with a relation head.
        out: file of the triples; None: only the page is written.
        format: format of `out`; None: by the end of its name.
        merge_entities: entities of all documents with one name and type are one, in CSV and graphs.
        html: page to write.

    Raises:
        UserError: the run is not finished, its corpus is missing, or a file cannot be written.
    """
    name = None if out is None else format_of(out, format)
    if out is None and html is None:
        raise UserError("nothing to write: give --out, such as triples.ttl, or --html page.html")
    if name == "json":
        raise UserError(f"the submission format has no names, and {predictions_file(run)} has it: give another format")
    if merge_entities and name in (None, "jsonl"):
        raise UserError("--merge-entities has no effect: it is read only with csv, turtle, graphml and neo4j")
    (system,) = read_systems([run])
    corpus = Corpus.open(corpus_of([run]))
    by_title: dict[str, list[Prediction]] = {}
    for prediction in system.predictions:
        by_title.setdefault(prediction.title, []).append(prediction)
    ids, documents, triples, left_out = EntityIds(merge_entities), 0, 0, 0
    with ExitStack() as stack:
        writers: list[ResultWriter] = []
        if out is not None and name == "jsonl":
            writers.append(_Lines(stack.enter_context(replacing(out))))
        elif out is not None and name is not None:
            writers.append(stack.enter_context(graph_writer(out, name, ids)))
        if html is not None:
            writers.append(stack.enter_context(page_writer(html, f"Triples of {run.name}")))
        for document in corpus:
            if system.classified is not None and document.title not in system.classified:
                continue
            documents += 1
            predictions = by_title.pop(document.title, [])
            known = [prediction for prediction in predictions if _is_known(prediction, document, corpus.relations)]
            triples += len(known)
            left_out += len(predictions) - len(known)
            result = extracted(with_single_spaces(document), known, corpus.relations)
            for writer in writers:
                writer.write(result)
    left_out += sum(map(len, by_title.values()))
    parts = [f"{counted(triples, 'triple')} of {counted(documents, 'document')}"]
    if left_out:
        parts.append(f"{counted(left_out, 'triple')} of unknown documents, entities or relations left out")
    if ids.merged:
        parts.append(f"{counted(ids.merged, 'entity', 'entities')} merged into others")
    return "\n".join([*parts, *(str(path) for path in (out, html) if path is not None)])


def _is_known(prediction: Prediction, document: Document, relations: RelationSet) -> bool:
    """Return False for relations outside of the set, which mode free can answer, and for unknown entities."""
    entities = range(len(document.entities))
    return prediction.relation in relations and prediction.head in entities and prediction.tail in entities


class _Lines:
    """Writes lines of JSON to an open file."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, result: ExtractedDocument) -> None:
        """Write a document."""
        self._file.write(to_bytes(result).decode())
