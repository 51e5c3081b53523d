"""Facts of a training set. Ign F1 removes them from the precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lmrc.common.errors import UserError, nearest
from lmrc.common.files import sha256_of
from lmrc.common.json_stream import json_list
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import read_documents
from lmrc.corpus.reading.raw_documents import is_without_list
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Entity
from lmrc.evaluation.metrics.gold_table import Source

# Name of a head mention, name of a tail mention, relation id; case-sensitive.
Fact = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Training:
    """The training documents that facts were read from."""

    titles: frozenset[str]
    # Number of labels by relation id.
    triples: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts by mention names, and their source. Published scores differ because scorers read different facts files.

    Attributes:
        source: the file or folder as given.
        sha256: hash of the file; for a corpus folder, its fingerprint.
        training: the training documents; None if only the facts are known.
        built_from: the published file: the given one, or the file that the corpus was built from.
    """

    triples: frozenset[Fact]
    source: str
    sha256: str
    training: Training | None = None
    built_from: Source | None = None

    @property
    def description(self) -> str:
        """Return the source with the SHA-256 of the published file."""
        if self.built_from is None or self.built_from.sha256 == self.sha256:
            return f"{self.source} (sha256 {self.sha256})"
        return f"{self.source} (built from {self.built_from.name}, sha256 {self.built_from.sha256})"

    def as_json(self) -> dict[str, str | int | None]:
        file = self.built_from
        return {
            "source": self.source,
            "sha256": self.sha256,
            "file": None if file is None else file.name,
            "file_sha256": None if file is None else file.sha256,
            "facts": len(self.triples),
        }

    def by_relation(self) -> Mapping[str, int]:
        """Return the number of training labels by relation, or of facts if the training documents are not known."""
        if self.training is not None:
            return self.training.triples
        return Counter(relation for _, _, relation in self.triples)

    def contains(self, head: Entity, tail: Entity, relation: str) -> bool:
        """Return whether any name of the head with any name of the tail is a fact of this relation."""
        tails = {mention.name for mention in tail}
        return any((h, t, relation) in self.triples for h in {mention.name for mention in head} for t in tails)


def iterate_facts(documents: Iterable[Document]) -> Iterator[Fact]:
    """Yield (head name, tail name, relation) for all labels and mention names, with repeats.

    Source: `gen_train_facts` of the official scorer (thunlp/DocRED, code/evaluation.py).
    """
    for document in documents:
        for label in document.labels or ():
            for head in document.entities[label.head]:
                for tail in document.entities[label.tail]:
                    yield head.name, tail.name, label.relation


def read_facts(path: str | Path, relations: RelationSet) -> Facts:
    """Read facts from training documents, a corpus folder, or a JSON list of [head name, tail name, relation id].

    Raises:
        UserError: the file is missing, has another format or an unknown relation, or contains no fact.
    """
    path = Path(path)
    if path.is_dir():
        corpus = Corpus.open(path)
        triples, training = _from_documents(corpus)
        sha256, source = corpus.fingerprint, Source(corpus.manifest.source, corpus.manifest.source_sha256)
    else:
        expected = "training documents, or facts [head name, tail name, relation id]"
        elements = iter(()) if is_without_list(path) else json_list(path, f"a list of {expected}")
        first = list(islice(elements, 1))
        if not first or isinstance(first[0], dict):
            triples, training = _from_documents(read_documents(path, relations))
        else:
            triples, training = frozenset(_checked(chain(first, elements), path, relations, expected)), None
        sha256 = sha256_of(path)
        source = Source(path.name, sha256)
    if not triples:
        raise UserError(f"{path}: holds no facts; give the labeled training set, or omit --train-facts")
    return Facts(triples, str(path), sha256, training, source)


def _from_documents(documents: Iterable[Document]) -> tuple[frozenset[Fact], Training]:
    """Return the facts of training documents, and their titles and label counts."""
    titles: set[str] = set()
    labels = Counter[str]()

    def counted() -> Iterator[Document]:
        for document in documents:
            titles.add(document.title)
            labels.update(label.relation for label in document.labels or ())
            yield document

    facts = frozenset(iterate_facts(counted()))
    return facts, Training(frozenset(titles), labels)


def _checked(elements: Iterable[Any], path: Path, relations: RelationSet, expected: str) -> Iterator[Fact]:
    """Yield the facts of a facts file; raise UserError if one is malformed."""
    known = frozenset(relations.ids)
    for index, raw in enumerate(elements):
        if type(raw) is not list or len(raw) != 3 or not all(type(part) is str for part in raw):
            raise UserError(f"{path}: element {index} is not a fact; expected {expected}")
        head, tail, relation = raw
        if relation not in known:
            raise UserError(f"{path}: fact {index}: unknown relation {relation!r}; {nearest(relation, relations.ids)}")
        yield head, tail, relation
