"""Facts of a training set, which Ign F1 takes out of the precision."""

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
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Entity
from lmrc.evaluation.metrics.gold_table import Source

Fact = tuple[str, str, str]
"""Name of a head mention, name of a tail mention, relation id; case-sensitive."""


@dataclass(frozen=True, slots=True)
class Training:
    """The training documents that facts were read from."""

    titles: frozenset[str]
    triples: Mapping[str, int]
    """Labels by relation id."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Name-level facts and where they come from: published scores differ because scorers read different facts files."""

    triples: frozenset[Fact]
    source: str
    """The file or folder they were read from, as given."""
    sha256: str
    """Of the file; of a corpus folder its fingerprint."""
    training: Training | None = None
    """None where only the facts are known."""
    built_from: Source | None = None
    """The published file: itself, or what the corpus was built from."""

    @property
    def named(self) -> str:
        """What was given, with its SHA-256; of a corpus that of the file that it was built from."""
        if self.built_from is None or self.built_from.sha256 == self.sha256:
            return f"{self.source} (sha256 {self.sha256})"
        return f"{self.source} (built from {self.built_from.name}, sha256 {self.built_from.sha256})"

    def as_json(self) -> dict[str, str | int | None]:
        """For programs."""
        file = self.built_from
        return {
            "source": self.source,
            "sha256": self.sha256,
            "file": None if file is None else file.name,
            "file_sha256": None if file is None else file.sha256,
            "facts": len(self.triples),
        }

    def by_relation(self) -> Mapping[str, int]:
        """How often each relation occurs: labels of the training documents, or facts where these are unknown."""
        if self.training is not None:
            return self.training.triples
        return Counter(relation for _, _, relation in self.triples)

    def known(self, head: Entity, tail: Entity, relation: str) -> bool:
        """Whether any name of the head with any name of the tail is a fact with this relation."""
        tails = {mention.name for mention in tail}
        return any((h, t, relation) in self.triples for h in {mention.name for mention in head} for t in tails)


def facts_of(documents: Iterable[Document]) -> Iterator[Fact]:
    """Every (head name, tail name, relation) that the labels of training documents state; repeats occur.

    This is `gen_train_facts` of the official scorer (thunlp/DocRED, code/evaluation.py).
    """
    for document in documents:
        for label in document.labels or ():
            for head in document.entities[label.head]:
                for tail in document.entities[label.tail]:
                    yield head.name, tail.name, label.relation


def read_facts(path: str | Path, relations: RelationSet) -> Facts:
    """Read facts from training documents, a corpus folder, or a JSON list of [head name, tail name, relation id].

    Raises:
        UserError: the file is missing, of neither form, names an unknown relation, or holds no fact.
    """
    path = Path(path)
    if path.is_dir():
        corpus = Corpus.open(path)
        triples, training = _stated(corpus)
        sha256, source = corpus.fingerprint, Source(corpus.manifest.source, corpus.manifest.source_sha256)
    else:
        expected = "training documents, or facts [head name, tail name, relation id]"
        elements = json_list(path, f"a list of {expected}")
        first = list(islice(elements, 1))
        if first and isinstance(first[0], dict):
            triples, training = _stated(read_documents(path, relations))
        else:
            triples, training = frozenset(_listed(chain(first, elements), path, relations, expected)), None
        sha256 = sha256_of(path)
        source = Source(path.name, sha256)
    if not triples:
        raise UserError(f"{path}: holds no facts; give the labelled training set, or leave the facts away")
    return Facts(triples, str(path), sha256, training, source)


def _stated(documents: Iterable[Document]) -> tuple[frozenset[Fact], Training]:
    """The facts of training documents, and what these are."""
    titles: set[str] = set()
    labels = Counter[str]()

    def counted() -> Iterator[Document]:
        for document in documents:
            titles.add(document.title)
            labels.update(label.relation for label in document.labels or ())
            yield document

    facts = frozenset(facts_of(counted()))
    return facts, Training(frozenset(titles), labels)


def _listed(elements: Iterable[Any], path: Path, relations: RelationSet, expected: str) -> Iterator[Fact]:
    """The facts of a facts file, checked."""
    known = frozenset(relations.ids)
    for index, raw in enumerate(elements):
        if type(raw) is not list or len(raw) != 3 or not all(type(part) is str for part in raw):
            raise UserError(f"{path}: element {index} is not a fact; expected {expected}")
        head, tail, relation = raw
        if relation not in known:
            raise UserError(f"{path}: fact {index}: unknown relation {relation!r}; {nearest(relation, relations.ids)}")
        yield head, tail, relation
