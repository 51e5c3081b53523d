"""Candidates: the pairs of entities that may have a relation, with their probability, for each document of a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from pydantic import Field

from lmrc.common.errors import CorpusError
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.shards import MANIFEST, FolderManifest, ShardFolder, read_manifest, write_folder

_RELATION = pa.struct({"relation": pa.string(), "logit": pa.float32()})
_CANDIDATE = pa.struct(
    {"head": pa.int32(), "tail": pa.int32(), "probability": pa.float64(), "relations": pa.list_(_RELATION)}
)
SCHEMA = pa.schema({"title": pa.string(), "candidates": pa.list_(_CANDIDATE)})


class RelationLogit(NamedTuple):
    """A relation id, and the log-odds that a pair has it, by the relation head of the encoder."""

    relation: str
    logit: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """An ordered pair of entities, and the probability that it has a relation (equation 6).

    Attributes:
        relations: its probable relations in the order of the relation set; empty if the model has no relation head.
    """

    head: int
    tail: int
    probability: float
    relations: tuple[RelationLogit, ...] = ()

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Candidate:
        """Return the candidate of an entry of the column `candidates` of `SCHEMA`."""
        # Folders written before the relation head was kept have no relations.
        relations = tuple(RelationLogit(**relation) for relation in row.get("relations") or ())
        return cls(row["head"], row["tail"], row["probability"], relations)

    def as_row(self) -> dict[str, Any]:
        """Return an entry of the column `candidates` of `SCHEMA`."""
        relations = [relation._asdict() for relation in self.relations]
        return {"head": self.head, "tail": self.tail, "probability": self.probability, "relations": relations}


class CandidatesManifest(FolderManifest):
    """Manifest of a candidates folder: its corpus, and the least probability of a candidate."""

    kind: Literal["candidates"] = "candidates"
    corpus_fingerprint: str
    threshold: float = Field(ge=0.0, le=1.0)
    candidates: int = Field(ge=0)


def write_candidates(
    rows: Iterable[tuple[str, Sequence[Candidate]]],
    out: Path,
    corpus_fingerprint: str,
    threshold: float,
    docs_per_shard: int = 256,
) -> CandidatesManifest:
    """Write candidates as a new folder, or nothing on any failure. Pairs are sorted by (head, tail).

    Args:
        rows: title and candidates of each document, in the order of the corpus.
        threshold: least probability of a candidate.

    Raises:
        ValueError: a pair occurs twice, pairs an entity with itself, or its probability is not in [0, 1].
        UserError: `out` exists and is not an empty folder, cannot be written, or the disk is full.
    """
    total = 0

    def checked_rows() -> Iterator[dict[str, Any]]:
        nonlocal total
        for title, candidates in rows:
            ordered = sorted(candidates, key=lambda candidate: (candidate.head, candidate.tail))
            previous = None
            for candidate in ordered:
                pair = (candidate.head, candidate.tail)
                if candidate.head == candidate.tail or min(pair) < 0:
                    raise ValueError(f"{title!r}: {pair} is not a pair of two entities")
                if pair == previous:
                    raise ValueError(f"{title!r}: the pair {pair} occurs twice")
                if not 0.0 <= candidate.probability <= 1.0:
                    raise ValueError(
                        f"{title!r}: the pair {pair} has the probability {candidate.probability}, expected 0 to 1"
                    )
                if any(not isfinite(logit) for _, logit in candidate.relations):
                    raise ValueError(f"{title!r}: a relation of the pair {pair} has no finite log-odds")
                previous = pair
            total += len(ordered)
            yield {
                "title": title,
                "candidates": [candidate.as_row() for candidate in ordered],
            }

    def manifest(**shards: Any) -> CandidatesManifest:
        return CandidatesManifest(
            corpus_fingerprint=corpus_fingerprint, threshold=threshold, candidates=total, **shards
        )

    return write_folder(Path(out), SCHEMA, checked_rows(), docs_per_shard, manifest)


class Candidates(ShardFolder):
    """Candidates on disk: item i holds the candidates of document i of the corpus, sorted by (head, tail)."""

    def __init__(self, folder: Path, manifest: CandidatesManifest) -> None:
        super().__init__(folder, manifest.shards)
        self.manifest = manifest
        self.threshold = manifest.threshold

    @classmethod
    def open(cls, folder: str | Path) -> Candidates:
        """Open the candidates in `folder`.

        Raises:
            CorpusError: the folder is missing, damaged, holds no candidates, or was written by a newer version.
        """
        path = Path(folder)
        try:
            return cls(path, read_manifest(folder, "candidates", CandidatesManifest))
        except CorpusError as error:
            if (path / "candidates" / MANIFEST).is_file():
                raise CorpusError(f"{folder}: holds no candidates, did you mean {path / 'candidates'}?") from None
            if not path.exists():
                raise CorpusError(f"{error}; launch/propose.py writes candidates, into runs/NAME/candidates") from None
            raise

    def __getitem__(self, index: int) -> tuple[Candidate, ...]:
        """Return the candidates of document `index`.

        Raises:
            IndexError: there is no such document.
            CorpusError: its shard is damaged.
        """
        batch, row = self.find(index)
        return tuple(Candidate.of_row(values) for values in batch.column("candidates")[row].as_py())

    def __iter__(self) -> Iterator[tuple[Candidate, ...]]:
        return (self[index] for index in range(len(self)))

    def title(self, index: int) -> str:
        """Return the title of document `index`. Raises the same exceptions as indexing."""
        batch, row = self.find(index)
        title: str = batch.column("title")[row].as_py()
        return title

    def check(self, corpus: Corpus) -> None:
        """Check that the candidates are those of all documents of `corpus`.

        Raises:
            CorpusError: they were proposed for another corpus, or for a part of it.
        """
        if self.manifest.corpus_fingerprint != corpus.fingerprint:
            raise CorpusError(
                f"{self.folder}: made from another corpus (fingerprint {self.manifest.corpus_fingerprint[:12]}) than "
                f"{corpus.folder} ({corpus.fingerprint[:12]}); propose candidates for this corpus"
            )
        if len(self) != len(corpus):
            raise CorpusError(
                f"{self.folder}: covers {len(self)} documents, but {corpus.folder} has {len(corpus)}; "
                "propose its candidates again"
            )
