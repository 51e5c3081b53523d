"""Build a corpus from a file of documents, or from shards."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import IO, Any

from lmrc.common.atomic_io import replacing
from lmrc.common.errors import UserError
from lmrc.corpus.corpus import Manifest, write_corpus
from lmrc.corpus.docred import check_documents
from lmrc.corpus.reading.breach_list import FormatError
from lmrc.corpus.reading.fixes import Change, Fix, fixed, summary
from lmrc.corpus.reading.format_check import Kind
from lmrc.corpus.reading.names import NameCounts, count_names
from lmrc.corpus.reading.raw_documents import RawDocuments
from lmrc.corpus.reading.shard_folder import sha256_of_documents
from lmrc.corpus.reading.values import with_clear_values
from lmrc.corpus.relations import DOCRED, RelationSet, read_relations
from lmrc.corpus.shards import check_new_folder
from lmrc.corpus.types import Document

logger = logging.getLogger(__name__)


def build_corpus(
    documents: Path,
    out: Path,
    relations: Path | None = None,
    docs_per_shard: int = 256,
    sample_size: int | None = None,
    seed: int = 66,
    fix: bool = False,
    fix_command: str | None = None,
) -> Manifest:
    """Read and check documents in DocRED's format, and write them as the new corpus `out`.

    A warning says how many mentions have a name that is not the tokens at their position.

    Args:
        documents: file of the documents, or folder of their shards; see `lmrc.corpus.docred.read_documents`.
        relations: file of the relation set; see `read_relations`. By default DocRED's 96 relations.
        sample_size: if given, keep only this many documents, sampled with `seed`, in the order of the file.
        fix: mend or leave out what breaks the format, write each change to `fixes_path(out)`, and log a summary.
        fix_command: what to type to get `fix`, for messages; by default `lmrc data build … --fix`.

    Raises:
        UserError: a file is missing or breaks the format, has fewer documents than `sample_size`, or `out` exists.
    """
    check_new_folder(out)
    relation_set = DOCRED if relations is None else read_relations(relations)
    source = f"{documents.name}, mended" if fix else documents.name
    with ExitStack() as stack:
        log = stack.enter_context(_FixLog(documents, fixes_path(out))) if fix else None
        try:
            reader = _Reader(documents, relation_set, log)
            kept = None
            if sample_size is not None:
                kept = set(sample(sum(1 for _ in reader.documents()), sample_size, seed))
                source = f"{source}, {sample_size} drawn by seed {seed}"
            names = NameCounts()
            stream = _counted(reader.documents(), kept, names)
            manifest = write_corpus(stream, out, relation_set, source, sha256_of_documents(documents), docs_per_shard)
        except FormatError as error:
            command = fix_command or (
                f"lmrc data build {documents} --out {out}{f' --relations {relations}' if relations else ''} --fix"
            )
            remedy = None if fix else _remedy(error, documents, out, command)
            raise (error if remedy is None else error.with_remedy(remedy)) from None
    _warn(documents, manifest, names, fix_command or "--fix")
    return manifest


def fixes_path(out: Path) -> Path:
    """Return the file of the changes that were made for the corpus `out`, in JSON Lines."""
    return out.with_name(f"{out.name}.fixes.jsonl")


def sample(documents: int, count: int, seed: int) -> list[int]:
    """Return `count` different indices below `documents`, ascending. The same arguments give the same indices.

    Raises:
        UserError: there are fewer documents than `count`.
    """
    if count > documents:
        raise UserError(f"cannot sample {count} documents of {documents}: give at most {documents}")
    return sorted(Random(seed).sample(range(documents), count))


class _FixLog:
    """The file of the changes, which appears only if there are any and the block ends without an exception."""

    def __init__(self, documents: Path, path: Path) -> None:
        self._documents = documents
        self._path = path
        self._counts: Counter[Change] = Counter()
        self._stack = ExitStack()
        self._file: IO[str] | None = None

    def __enter__(self) -> _FixLog:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        if error[0] is not None:
            return
        if self._counts:
            logger.info(f"{self._documents}: mended: {self.summary}; each change is in {self._path}")
        else:
            # An older file of this name lists the changes of another corpus.
            self._path.unlink(missing_ok=True)
            logger.info(f"{self._documents}: nothing to mend")

    @property
    def summary(self) -> str:
        """Return the counts of the changes in one line."""
        return summary(self._counts)

    def restart(self) -> None:
        """Forget the changes of an earlier reading."""
        self._counts.clear()
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()

    def add(self, fixes: Iterable[Fix]) -> None:
        for fix in fixes:
            if self._file is None:
                self._file = self._stack.enter_context(replacing(self._path))
            self._counts[fix.change] += 1
            self._file.write(fix.line())


class _Reader:
    """Reader of a file, as often as needed."""

    def __init__(self, path: Path, relations: RelationSet, log: _FixLog | None) -> None:
        """Look at all names first if documents are mended.

        Args:
            log: takes the changes. If it is None, documents are not mended.
        """
        self._path = path
        self._relations = relations
        self._log = log
        self._inclusive_ends = log is not None and self._count_names().all_inclusive

    def documents(self) -> Iterator[tuple[int, Document]]:
        """Yield index in the file and checked document."""
        raw = RawDocuments(self._path)
        indexed = enumerate(raw) if self._log is None else self._mended(raw, self._log)
        return check_documents(indexed, self._path, self._relations, raw.starts)

    def _count_names(self) -> NameCounts:
        return count_names(with_clear_values(raw, self._relations)[0] for raw in RawDocuments(self._path))

    def _mended(self, documents: Iterable[Any], log: _FixLog) -> Iterator[tuple[int, Any]]:
        log.restart()
        read = kept = 0
        for index, raw, fixes in fixed(documents, self._relations, self._inclusive_ends):
            log.add(fixes)
            read += 1
            if raw is not None:
                kept += 1
                yield index, raw
        if read and not kept:
            raise UserError(f"{self._path}: --fix would leave out all {read:,} documents: {log.summary}")


def _counted(documents: Iterable[tuple[int, Document]], kept: set[int] | None, names: NameCounts) -> Iterator[Document]:
    """Yield the documents (those whose number is in `kept`, if it is given) and count their names."""
    for number, (index, document) in enumerate(documents):
        if kept is None or number in kept:
            names.add(document, index)
            yield document


def _remedy(error: FormatError, documents: Path, out: Path, command: str) -> str | None:
    """Return the sentence that says what `command` would do about the breaches, or None if it can mend none."""
    fixable = sum(count for kind, count in error.counts.items() if kind.fixable)
    total = error.counts.total()
    if not fixable:
        return None
    which = ("it" if total == 1 else "all of them") if fixable == total else f"{fixable:,} of them"
    sentence = (
        f"{command} mends {which} or leaves out what cannot be mended, and writes each change to {fixes_path(out)}"
    )
    spans = error.counts[Kind.EMPTY_SPAN] + error.counts[Kind.SPAN]
    if spans and count_names(RawDocuments(documents)).all_inclusive:
        return f"all names fit if pos is [first token, last token]; {sentence}"
    return sentence


def _warn(documents: Path, manifest: Manifest, names: NameCounts, fix_command: str) -> None:
    if warning := names.warning(f"{fix_command} moves the ends"):
        logger.warning(f"{documents}: {warning}")
    if manifest.labelled_documents and not manifest.triples:
        logger.warning(
            f"{documents}: all {manifest.labelled_documents:,} documents have labels, but none has a triple: all pairs "
            "count as NA. If the labels are unknown (the hub's export of a test set has empty columns), remove the "
            "key labels"
        )
