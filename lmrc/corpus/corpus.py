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
from lmrc.corpus.docred import relations_by_pair
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.shards import MANIFEST, FolderManifest, Shard, ShardFolder, read_manifest, write_folder
from lmrc.corpus.types import Document, Entity, Label, Mention

SCHEMA = pa.schema(
    [
        ("title", pa.string()),
        ("sentences", pa.list_(pa.list_(pa.string()))),
        (
            "entities",
            pa.list_(
                pa.list_(
                    pa.struct(
                        [
                            ("name", pa.string()),
                            ("sentence", pa.int32()),
                            ("start", pa.int32()),
                            ("end", pa.int32()),
                            ("type", pa.string()),
                        ]
                    )
                )
            ),
        ),
        # Null where the document has no labels.
        (
            "labels",
            pa.list_(
                pa.struct(
                    [
                        ("head", pa.int32()),
                        ("tail", pa.int32()),
                        ("relation", pa.string()),
                        ("evidence", pa.list_(pa.int32())),
                    ]
                )
            ),
        ),
        ("duplicate_labels", pa.int32()),
    ]
)


class Manifest(FolderManifest):
    """What a corpus is made of. Pairs and triples are unique; `na_pairs` are those of labelled documents only."""

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


def write_corpus(
    documents: Iterable[Document],
    out: Path,
    relations: RelationSet,
    source: str,
    source_sha256: str,
    docs_per_shard: int = 256,
) -> Manifest:
    """Writes documents, drawn one shard at a time, as a new corpus folder; on any failure nothing is left of it.

    `source` is the name of the file they came from, which the manifest keeps beside its hash. Raises UserError where
    there are no documents, where `out` exists and is no empty folder, where it cannot be written, or the disk is full.
    """
    count = dict.fromkeys(
        ("labelled_documents", "candidate_pairs", "na_pairs", "relation_pairs", "triples", "duplicate_labels"), 0
    )

    def rows() -> Iterator[dict[str, Any]]:
        for document in documents:
            pairs = len(document.entities) * (len(document.entities) - 1)
            count["candidate_pairs"] += pairs
            if document.labels is not None:
                gold = relations_by_pair(document)
                count["labelled_documents"] += 1
                count["na_pairs"] += pairs - len(gold)
                count["relation_pairs"] += len(gold)
                count["triples"] += sum(len(found) for found in gold.values())
                count["duplicate_labels"] += document.duplicate_labels
            yield _row(document)

    def manifest(shards: tuple[Shard, ...]) -> Manifest:
        if not shards:
            raise UserError(f"{source}: holds no documents, expected at least one")
        return Manifest(
            documents=sum(shard.rows for shard in shards),
            docs_per_shard=docs_per_shard,
            shards=shards,
            source=source,
            source_sha256=source_sha256,
            relations=dict(zip(relations.ids, relations.names, strict=True)),
            **count,
        )

    return write_folder(Path(out), SCHEMA, rows(), docs_per_shard, manifest)


class Corpus:
    """A corpus on disk, as a sequence of documents. Memory stays flat: only recently used shards are mapped."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.relations = RelationSet(tuple(manifest.relations), tuple(manifest.relations.values()))
        self._shards = ShardFolder(folder, manifest.shards)

    @classmethod
    def open(cls, folder: str | Path) -> Corpus:
        """Open the corpus in `folder`.

        Raises:
            CorpusError: the folder is missing, damaged, no corpus, or built by a newer version. The message says how
                to make a corpus.
        """
        try:
            manifest = read_manifest(folder, "corpus", Manifest)
        except CorpusError as error:
            raise _with_remedy(Path(folder), error) from None
        return cls(Path(folder), manifest)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest's content, in hexadecimal: equal for equal corpora."""
        return self.manifest.fingerprint

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> Document:
        """Raises IndexError beyond the last document, CorpusError where its shard is damaged."""
        return _document(*self._shards.find(index))

    def labels(self, index: int) -> tuple[Label, ...] | None:
        """The labels of a document, without reading the rest of it. Raises as `corpus[index]`."""
        batch, row = self._shards.find(index)
        return _labels(batch.column("labels")[row].values)

    def __iter__(self) -> Iterator[Document]:
        return (self[index] for index in range(len(self)))

    def slices(self, most: int) -> list[range]:
        """All documents in order, cut into ranges of at most `most` documents of one shard."""
        slices: list[range] = []
        first = 0
        for shard in self.manifest.shards:
            end = first + shard.rows
            slices += [range(start, min(start + most, end)) for start in range(first, end, most)]
            first = end
        return slices

    def columns(self, documents: range) -> pa.RecordBatch:
        """The rows of one of the `slices`, as in `SCHEMA`. Raises CorpusError where the shard is damaged."""
        batch, row = self._shards.find(documents.start)
        return batch.slice(row, len(documents))

    def verify(self) -> None:
        """Checks the sha256 of every shard. Raises CorpusError at the first that differs."""
        self._shards.verify()


def _with_remedy(path: Path, error: CorpusError) -> CorpusError:
    """Return the error for a path that cannot be opened; if there is no corpus, it says how to get one."""
    try:
        parts = sorted(manifest.parent for manifest in path.glob(f"*/{MANIFEST}"))
        is_file, is_missing = path.is_file(), not path.exists()
    except OSError:
        return error
    if is_file:
        return CorpusError(
            f"{path}: is a file, expected a corpus, the folder that is built from documents: type "
            f"lmrc data build {path} --out data/NAME and give data/NAME"
        )
    if parts:
        return CorpusError(
            f"{path}: holds the corpora {', '.join(part.name for part in parts)}: give one of them, such as {parts[0]}"
        )
    if is_missing and path.parent.name in ("docred", "redocred"):
        return CorpusError(
            f"{error}; it is a corpus that lmrc data download {path.parent.name} makes (lmrc data build makes one of "
            "your own documents)"
        )
    if is_missing:
        return CorpusError(
            f"{error}; a corpus is the folder that lmrc data build DOCUMENTS --out {path} makes from documents in "
            "DocRED's format"
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
    # By way of numpy: several times faster than to_pylist, which makes an Arrow scalar of each value.
    values: list[Any] = array.to_numpy(zero_copy_only=False).tolist()
    return values


def _cut(values: Iterable[Any], lists: pa.Array) -> tuple[tuple[Any, ...], ...]:
    """Cuts the flattened values of a list array into one tuple for each of its lists."""
    remaining = iter(values)
    return tuple(tuple(islice(remaining, length)) for length in _values(lists.value_lengths()))


def _document(batch: pa.RecordBatch, row: int) -> Document:
    sentences = batch.column("sentences")[row].values
    return Document(
        title=batch.column("title")[row].as_py(),
        sentences=_cut(_values(sentences.flatten()), sentences),
        entities=_entities(batch.column("entities")[row].values),
        labels=_labels(batch.column("labels")[row].values),
        duplicate_labels=batch.column("duplicate_labels")[row].as_py(),
    )


def _entities(entities: pa.Array) -> tuple[Entity, ...]:
    mentions = entities.flatten()
    fields = (_values(mentions.field(name)) for name in ("name", "sentence", "start", "end", "type"))
    return _cut(map(Mention, *fields), entities)


def _labels(labels: pa.Array | None) -> tuple[Label, ...] | None:
    if labels is None:
        return None
    evidence = labels.field("evidence")
    fields = (_values(labels.field(name)) for name in ("head", "tail", "relation"))
    return tuple(map(Label, *fields, _cut(_values(evidence.flatten()), evidence)))
