"""`lmrc extract` of texts and streams: documents are read, extracted and written a few at a time."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from lmrc.common.errors import UserError
from lmrc.common.exit_codes import Interrupted
from lmrc.common.files import sha256_of
from lmrc.common.progress import DocumentProgress
from lmrc.config.schema import ExtractConfig
from lmrc.evaluation.tables.table import Table
from lmrc.export.entities import EntityIds
from lmrc.export.formats import ResultWriter, format_of, graph_writer
from lmrc.export.lines import ResultLines, read_results
from lmrc.export.result import ExtractedDocument, extracted, to_bytes, valid
from lmrc.text.backends import load_finder
from lmrc.text.entity_types import TypeMap
from lmrc.text.inputs import STDIN, DocumentReader, RawDocument, check_raw, is_text, read_raw

logger = logging.getLogger(__name__)

# Options that change how results are written or computed, but not what they are.
_NOT_IN_KEY = {"documents", "out", "format", "merge_entities", "html", "batch_size", "gpus", "rcp", "rc"}


class StreamExtraction:
    """Extracts the triples of texts and documents, and writes them in a format with names and spans."""

    def __init__(self, config: ExtractConfig) -> None:
        """Check the documents, unless they come from standard input, and load RCP.

        Raises:
            UserError: documents break the form, a model or package is missing, or there is nowhere to write.
        """
        self._config = config
        is_single_text = is_text(config.documents) and not config.documents.is_dir()
        if config.out is None and config.html is None and not is_single_text:
            raise UserError(
                "--out is missing: give a file, such as triples.jsonl, or - for standard output; without it only the "
                "triples of a single text are printed"
            )
        self._prints_all = config.out is None and is_single_text
        finder = load_finder(config.mentions or "rules", config.mentions_model)
        # Before torch is imported and the models are loaded, which takes longer.
        self._total = None if config.documents == STDIN else check_raw(read_raw(config.documents), finder)
        from lmrc.extract import TripleExtractor
        from lmrc.launcher.stages import quieten

        quieten()
        self._extractor = TripleExtractor(config)
        self._reader = DocumentReader(finder, TypeMap(self._extractor.known_types))
        self._rows: list[tuple[str, ...]] = []

    def run(self) -> str:
        """Extract and write all documents. Return the summary for the user.

        Raises:
            UserError: a document of standard input breaks the form, or a file cannot be written.
            Interrupted: Ctrl-C was pressed.
        """
        config, ids = self._config, EntityIds(self._config.merge_entities is not None)
        lines: ResultLines | None = None
        try:
            with ExitStack() as stack:
                writers: list[ResultWriter] = []
                if config.out == STDIN:
                    writers.append(_StandardOutput())
                elif config.out is not None:
                    format = format_of(config.out, config.format)
                    if format == "jsonl":
                        lines = stack.enter_context(ResultLines(config.out, self._key()))
                        writers.append(lines)
                    else:
                        writers.append(stack.enter_context(graph_writer(config.out, format, ids)))
                if config.html is not None:
                    # matplotlib is not imported without need.
                    from lmrc.export.page import page_writer

                    writers.append(stack.enter_context(page_writer(config.html, f"Triples of {config.documents.name}")))
                    if lines is not None and lines.done and config.out is not None:
                        for result in islice(read_results(config.out), lines.done):
                            writers[-1].write(result)
                raw = read_raw(config.documents)
                if lines is not None and (lines.done or lines.removed):
                    self._skip(raw, lines)
                left = None if self._total is None else self._total - (lines.done if lines else 0)
                progress = stack.enter_context(DocumentProgress("extracting", left, sys.stderr))
                self._extractor.on_document = lambda: progress.add(1)
                for result in self._results(raw):
                    for writer in writers:
                        writer.write(result)
                    self._note(result)
        except KeyboardInterrupt:
            kept = "the same command goes on" if lines is not None else "nothing was written"
            raise Interrupted(f"stopped; {kept}") from None
        return self._summary(ids, lines)

    def _results(self, raw: Iterator[RawDocument]) -> Iterator[ExtractedDocument]:
        relations = self._extractor.relations
        for text, predictions in self._extractor.extract_long(map(self._reader.read, raw)):
            yield extracted(text, predictions, relations)

    def _skip(self, raw: Iterator[RawDocument], lines: ResultLines) -> None:
        """Read past the documents whose results are in the file.

        Raises:
            UserError: the file's results are of other documents.
        """
        incomplete = f"; {lines.removed} incomplete last line was removed" if lines.removed else ""
        logger.info(f"{self._config.out}: goes on after {lines.done:,} documents{incomplete}")
        for number, title in enumerate(lines.titles()):
            document = next(raw, None)
            if document is None or valid(document.title) != title:
                found = "ends before it" if document is None else f"has {document.title!r} there"
                raise UserError(
                    f"{self._config.out}: result {number} is of {title!r}, but {self._config.documents} {found}: give "
                    "the same documents again, or another --out"
                )

    def _key(self) -> str:
        """Return what identifies the models and the options that decide the results."""
        config = self._config
        options = config.model_dump(mode="json", exclude=_NOT_IN_KEY)
        files = {
            f"{stage}/{path.name}": sha256_of(path)
            for stage, folder in (("rcp", config.rcp), ("rc", config.rc))
            for path in sorted(folder.iterdir())
            if path.is_file() and not path.name.startswith(".")
        }
        for name in ("fusion", "relations", "schema"):
            path: Path | None = getattr(config, name)
            options[name] = None if path is None else sha256_of(path)
        return hashlib.sha256(json.dumps([options, files], sort_keys=True).encode()).hexdigest()[:16]

    def _note(self, result: ExtractedDocument) -> None:
        if self._prints_all:
            self._rows += [
                (t.head_name, t.relation_name, t.tail_name, f"{t.score:.3f}")
                for t in sorted(result.triples, key=lambda triple: -triple.score)
            ]

    def _summary(self, ids: EntityIds, lines: ResultLines | None) -> str:
        stats = self._extractor.stats
        if self._prints_all:
            # The summary would show the first ones again.
            stats.best.clear()
        parts = []
        if self._rows:
            parts += [Table(("head", "relation", "tail", "score"), tuple(self._rows), labels=3).text(), ""]
        parts += [str(stats), *self._reader.summary()]
        if lines is not None and lines.done:
            parts.append(f"{lines.done:,} documents were done before")
        if ids.entities:
            merged = f", {ids.merged:,} entities merged into others" if self._config.merge_entities else ""
            parts.append(f"{ids.entities:,} entities with a triple{merged}")
        files = (path for path in (self._config.out, self._config.html) if path is not None and path != STDIN)
        return "\n".join([*parts, *map(str, files)])


class _StandardOutput:
    """Writes lines of JSON to standard output."""

    def write(self, result: ExtractedDocument) -> None:
        sys.stdout.buffer.write(to_bytes(result))
        sys.stdout.buffer.flush()
