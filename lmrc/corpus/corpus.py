"""Corpora: checked documents in memory-mapped Arrow shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from lmrc.common.errors import CorpusError, UserError
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.shards import MANIFEST, FolderManifest, ShardFolder, read_manifest, write_folder
from lmrc.corpus.statistics import CorpusCounts
from lmrc.corpus.types import Document, Entity, Label, Mention

_MENTION = pa.struct(
    {"name": pa.string(), "sentence": pa.int32(), "start": pa.int32(), "end": pa.int32(), "type": pa.string()}
)
_LABEL = pa.struct({"head": pa.int32(), "tail": pa.int32(), "relation": pa.string(), "evidence": pa.list_(pa.int32())})
SCHEMA = pa.schema(
    {
        "title": pa.string(),
        "sentences": pa.list_(pa.list_(pa.string())),
        "entities": pa.list_(pa.list_(_MENTION)),
        "labels": pa.list_(_LABEL),  # null if the document has no labels
        "duplicate_labels": pa.int32(),
    }
)


class Manifest(FolderManifest):
    """Manifest of a corpus folder: source, relation set and sizes.

    Pairs and triples are unique. `na_pairs` and `relation_pairs` count labeled documents only.
    """

    kind: Literal["corpus"] = "corpus"
    source: str
    source_sha256: str
    relations: dict[str, str]
    labelled_documents: int = Field(ge=0)
    candidate_pairs: int = Field(ge=0)
    na_pairs: int = Field(ge=0)
    relation_pairs: int = Field(ge=0)
    triples: int = Field(ge=0)
    duplicate_labels: int = Field(ge=0)


# Sizes of a corpus in its manifest.
SIZES = ("labelled_documents", "candidate_pairs", "na_pairs", "relation_pairs", "triples", "duplicate_labels")


def write_corpus(
    documents: Iterable[Document],
    out: Path,
    relations: RelationSet,
    source: str,
    source_sha256: str,
    docs_per_shard: int = 256,
) -> Manifest:
    """Write documents as a new corpus folder, or nothing on any failure. One shard at a time is in memory.

    Args:
        documents: are read once.
        source: name of the file that the documents came from, for the manifest.

    Raises:
        UserError: there are no documents, `out` exists and is not an empty folder, it cannot be written, or the disk
            is full.
    """
    counts = CorpusCounts()

    def rows() -> Iterator[dict[str, Any]]:
        for document in documents:
            counts.add(document)
            yield _row(document)

    def manifest(**shards: Any) -> Manifest:
        if not shards["shards"]:
            raise UserError(f"{source}: holds no documents, expected at least one")
        names = dict(zip(relations.ids, relations.names, strict=True))
        sizes = {name: getattr(counts, name) for name in SIZES}
        return Manifest(source=source, source_sha256=source_sha256, relations=names, **sizes, **shards)

    return write_folder(Path(out), SCHEMA, rows(), docs_per_shard, manifest)


class Corpus(ShardFolder):
    """A corpus on disk, as a sequence of documents. Only recently used shards are mapped into memory."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        super().__init__(folder, manifest.shards)
        self.manifest = manifest
        self.relations = RelationSet(tuple(manifest.relations), tuple(manifest.relations.values()))

    @classmethod
    def open(cls, folder: str | Path) -> Corpus:
        """Open the corpus in `folder`.

        >>> corpus = Corpus.open("data/dev")
        >>> len(corpus), corpus.relations.name("P19")
        (4, 'place of birth')

        Raises:
            CorpusError: the folder is missing, damaged, no corpus, or built by a newer version. The message says how
                to build a corpus.
        """
        try:
            manifest = read_manifest(folder, "corpus", Manifest)
        except CorpusError as error:
            raise _with_remedy(Path(folder), error) from None
        return cls(Path(folder), manifest)

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the manifest, in hexadecimal. Equal corpora have equal fingerprints."""
        return self.manifest.fingerprint

    def __getitem__(self, index: int) -> Document:
        """Return document `index`.

        Raises:
            IndexError: there is no such document.
            CorpusError: its shard is damaged.
        """
        return _document(*self.find(index))

    def labels(self, index: int) -> tuple[Label, ...] | None:
        """Return the labels of document `index` without reading the rest. Raises the same exceptions as indexing."""
        batch, row = self.find(index)
        return _labels(batch.column("labels")[row].values)

    def __iter__(self) -> Iterator[Document]:
        return (self[index] for index in range(len(self)))

    def slices(self, size: int) -> list[range]:
        """Return ranges that cover all documents in order: at most `size` documents each, all in one shard."""
        slices: list[range] = []
        first = 0
        for shard in self.manifest.shards:
            end = first + shard.rows
            slices += [range(start, min(start + size, end)) for start in range(first, end, size)]
            first = end
        return slices

    def columns(self, documents: range) -> pa.RecordBatch:
        """Return the rows of one of the `slices`, in the columns of `SCHEMA`.

        Raises:
            CorpusError: the shard is damaged.
        """
        batch, row = self.find(documents.start)
        return batch.slice(row, len(documents))


def _with_remedy(path: Path, error: CorpusError) -> CorpusError:
    """Return `error`, or an error that says how to build a corpus if `path` shows what went wrong."""
    try:
        corpora = sorted(manifest.parent for manifest in path.glob(f"*/{MANIFEST}"))
        is_file, is_missing = path.is_file(), not path.exists()
    except OSError:
        return error
    if is_file:
        return CorpusError(
            f"{path}: is a file, expected a corpus folder: type lmrc data build {path} --out data/NAME and give "
            "data/NAME"
        )
    if corpora:
        names = ", ".join(corpus.name for corpus in corpora)
        return CorpusError(f"{path}: holds the corpora {names}: give one of them, such as {corpora[0]}")
    if is_missing and path.parent.name in ("docred", "redocred"):
        return CorpusError(
            f"{error}; type lmrc data download {path.parent.name} to make it (lmrc data build makes a corpus of your "
            "own documents)"
        )
    if is_missing:
        return CorpusError(
            f"{error}; type lmrc data build DOCUMENTS --out {path} to make a corpus from documents in DocRED's format"
        )
    return error


def _row(document: Document) -> dict[str, Any]:
    return {
        "title": document.title,
        "sentences": document.sentences,
        "entities": [
            [{"name": m.name, "sentence": m.sentence, "start": m.start, "end": m.end, "type": m.type} for m in entity]
            for entity in document.entities
        ],
        "labels": None
        if document.labels is None
        else [
            {"head": label.head, "tail": label.tail, "relation": label.relation, "evidence": label.evidence}
            for label in document.labels
        ],
        "duplicate_labels": document.duplicate_labels,
    }


def _values(array: pa.Array) -> list[Any]:
    # Several times faster than to_pylist, which makes an Arrow scalar of each value.
    values: list[Any] = array.to_numpy(zero_copy_only=False).tolist()
    return values


def _split(values: Iterable[Any], lists: pa.Array) -> tuple[tuple[Any, ...], ...]:
    """Split the flattened values of a list array into one tuple per list."""
    remaining = iter(values)
    return tuple(tuple(islice(remaining, length)) for length in _values(lists.value_lengths()))


def _document(batch: pa.RecordBatch, row: int) -> Document:
    sentences = batch.column("sentences")[row].values
    return Document(
        title=batch.column("title")[row].as_py(),
        sentences=_split(_values(sentences.flatten()), sentences),
        entities=_entities(batch.column("entities")[row].values),
        labels=_labels(batch.column("labels")[row].values),
        duplicate_labels=batch.column("duplicate_labels")[row].as_py(),
    )


def _entities(entities: pa.Array) -> tuple[Entity, ...]:
    mentions = entities.flatten()
    fields = (_values(mentions.field(name)) for name in ("name", "sentence", "start", "end", "type"))
    return _split(map(Mention, *fields), entities)


def _labels(labels: pa.Array | None) -> tuple[Label, ...] | None:
    if labels is None:
        return None
    evidence = labels.field("evidence")
    fields = (_values(labels.field(name)) for name in ("head", "tail", "relation"))
    return tuple(map(Label, *fields, _split(_values(evidence.flatten()), evidence)))
