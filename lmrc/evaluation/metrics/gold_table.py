"""Gold documents as columns: what scores need of them, for a hundred thousand documents in some hundred megabytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmrc.common.errors import UserError, nearest
from lmrc.common.files import sha256_of
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import read_documents
from lmrc.corpus.relations import DOCRED, RelationSet
from lmrc.corpus.types import Document

Ints = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]

DOCUMENTS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Source:
    """The file that documents come from; of a corpus that which it was built from."""

    name: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Gold:
    """Labelled documents as columns. Entities and mentions stand in the order of the documents."""

    relations: RelationSet
    titles: tuple[str, ...]
    sentences: Ints
    """[documents] number of sentences."""
    words: Ints
    """[documents] number of tokens."""
    entities: Ints
    """[documents] number of entities."""
    mentions: Ints
    """[entities] number of mentions."""
    mention_sentence: Ints
    """[mentions]"""
    mention_name: Ints
    """[mentions] places in `names`."""
    names: tuple[str, ...]
    """The names of all mentions, each once."""
    document: Ints
    """[labels] places in `titles`; this and the three that follow are the gold triples."""
    head: Ints
    tail: Ints
    relation: Ints
    """[labels] places in `relations`."""
    evidence_of: Ints
    """[evidence] places of labels, ascending."""
    evidence: Ints
    """[evidence] numbers of sentences."""
    source: Source | None = None

    @classmethod
    def of(cls, documents: Iterable[Document], relations: RelationSet) -> Gold:
        """The columns of `documents`, which are read once, as a stream.

        Raises:
            UserError: a document without labels, a title twice, a relation outside of `relations`.
        """
        columns = _Columns(relations)
        for document in documents:
            if document.labels is None:
                raise _unlabelled(document.title)
            columns.titles.append(document.title)
            columns.ints["sentences"].append(len(document.sentences))
            columns.ints["words"].append(sum(map(len, document.sentences)))
            columns.ints["entities"].append(len(document.entities))
            columns.ints["mentions"].extend(map(len, document.entities))
            for entity in document.entities:
                columns.ints["mention_sentence"].extend(mention.sentence for mention in entity)
                columns.ints["mention_name"].extend(columns.name(mention.name) for mention in entity)
            for label in document.labels:
                columns.ints["evidence_of"].extend([len(columns.ints["document"])] * len(label.evidence))
                columns.ints["evidence"].extend(label.evidence)
                columns.ints["document"].append(len(columns.titles) - 1)
                columns.ints["head"].append(label.head)
                columns.ints["tail"].append(label.tail)
                columns.ints["relation"].append(columns.relation(label.relation, document.title))
        return columns.whole()

    @classmethod
    def of_corpus(cls, corpus: Corpus) -> Gold:
        """The columns of a corpus, without making its documents: a tenth of the time.

        Raises:
            UserError: a document without labels, or a title twice.
            CorpusError: a shard is damaged.
        """
        columns = _Columns(corpus.relations)
        for part in corpus.slices(DOCUMENTS_AT_ONCE):
            columns.add(corpus.columns(part))
        return replace(columns.whole(), source=Source(corpus.manifest.source, corpus.manifest.source_sha256))

    def __len__(self) -> int:
        return len(self.titles)

    @cached_property
    def first_entity(self) -> Places:
        """[documents + 1] where the entities of each document begin."""
        return _starts(self.entities)

    @cached_property
    def first_mention(self) -> Places:
        """[entities + 1] where the mentions of each entity begin."""
        return _starts(self.mentions)

    def only(self, kept: npt.NDArray[np.bool_]) -> Gold:
        """Return the documents with True in `kept` [documents], in their order."""
        labels = kept[self.document]
        evidence = labels[self.evidence_of]
        of_entities = np.repeat(kept, self.entities)
        of_mentions = np.repeat(of_entities, self.mentions)
        new_document, new_label = ((np.cumsum(mask) - 1).astype(np.int32) for mask in (kept, labels))
        return Gold(
            relations=self.relations,
            titles=tuple(title for title, keep in zip(self.titles, kept.tolist(), strict=True) if keep),
            sentences=self.sentences[kept],
            words=self.words[kept],
            entities=self.entities[kept],
            mentions=self.mentions[of_entities],
            mention_sentence=self.mention_sentence[of_mentions],
            mention_name=self.mention_name[of_mentions],
            names=self.names,
            document=new_document[self.document[labels]],
            head=self.head[labels],
            tail=self.tail[labels],
            relation=self.relation[labels],
            evidence_of=new_label[self.evidence_of[evidence]],
            evidence=self.evidence[evidence],
            source=self.source,
        )

    def name(self, document: int, entity: int) -> str | None:
        """The first listed name of an entity; None where there is no such document or entity."""
        if not (0 <= document < len(self) and 0 <= entity < self.entities[document]):
            return None
        mention = int(self.first_mention[self.first_entity[document] + entity])
        return self.names[int(self.mention_name[mention])]


def read_gold(path: str | Path, relations: RelationSet | None = None) -> Gold:
    """Labelled documents: a corpus folder, or a DocRED-format file whose relation set is `relations`, or DocRED's.

    Raises UserError or a subclass where they cannot be read, break the format, or have no labels.
    """
    path = Path(path)
    if path.is_dir():
        return Gold.of_corpus(Corpus.open(path))
    gold = Gold.of(read_documents(path, relations or DOCRED), relations or DOCRED)
    return replace(gold, source=Source(path.name, sha256_of(path)))


COLUMNS = (
    "sentences",
    "words",
    "entities",
    "mentions",
    "mention_sentence",
    "mention_name",
    "document",
    "head",
    "tail",
    "relation",
    "evidence_of",
    "evidence",
)


class _Columns:
    """Columns while they grow."""

    def __init__(self, relations: RelationSet) -> None:
        self.relations = relations
        self.titles: list[str] = []
        self.names: dict[str, int] = {}
        self.ints = {name: array("i") for name in COLUMNS}

    def name(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))

    def relation(self, relation: str, title: str) -> int:
        if relation not in self.relations:
            raise UserError(
                f"the gold document {title!r} has a relation outside the relation set, {relation!r}; "
                f"{nearest(relation, self.relations.ids)}"
            )
        return self.relations.index(relation)

    def add(self, batch: pa.RecordBatch) -> None:
        """Append the rows of a corpus (`lmrc.corpus.corpus.SCHEMA`)."""
        titles = batch.column("title").to_pylist()
        labels = batch.column("labels")
        if labels.null_count:
            raise _unlabelled(titles[labels.is_null().to_pylist().index(True)])
        counted = {
            name: batch.column(column).value_lengths().to_numpy(zero_copy_only=False)
            for name, column in (("sentences", "sentences"), ("entities", "entities"), ("labels", "labels"))
        }
        tokens = batch.column("sentences").flatten().value_lengths().to_numpy(zero_copy_only=False)
        entities = batch.column("entities").flatten()
        mentions, triples = entities.flatten(), labels.flatten()
        evidence = triples.field("evidence")
        per_triple = evidence.value_lengths().to_numpy(zero_copy_only=False)
        triples_before, documents_before = len(self.ints["document"]), len(self.titles)
        new: dict[str, Any] = {
            "sentences": counted["sentences"],
            "words": np.diff(_starts(tokens)[_starts(counted["sentences"])]),
            "entities": counted["entities"],
            "mentions": entities.value_lengths().to_numpy(zero_copy_only=False),
            "mention_sentence": mentions.field("sentence").to_numpy(zero_copy_only=False),
            "mention_name": _coded(mentions.field("name"), self.name),
            "document": documents_before + np.repeat(np.arange(len(titles)), counted["labels"]),
            "head": triples.field("head").to_numpy(zero_copy_only=False),
            "tail": triples.field("tail").to_numpy(zero_copy_only=False),
            "relation": _coded(triples.field("relation"), self.relations.index),
            "evidence_of": triples_before + np.repeat(np.arange(len(per_triple)), per_triple),
            "evidence": evidence.flatten().to_numpy(zero_copy_only=False),
        }
        for name, values in new.items():
            self.ints[name].frombytes(np.ascontiguousarray(values, dtype=np.int32).tobytes())
        self.titles += titles

    def whole(self) -> Gold:
        if len(set(self.titles)) != len(self.titles):
            seen: set[str] = set()
            twice = next(title for title in self.titles if title in seen or seen.add(title))  # type: ignore[func-returns-value]
            raise UserError(f"two gold documents are titled {twice!r}; predictions name documents by title")
        columns: dict[str, Any] = {name: np.frombuffer(values, dtype=np.int32) for name, values in self.ints.items()}
        return Gold(self.relations, tuple(self.titles), names=tuple(self.names), **columns)


def _unlabelled(title: str) -> UserError:
    return UserError(f"the gold document {title!r} has no labels; scores need labelled documents")


def _starts(lengths: npt.NDArray[Any]) -> Places:
    """Where each of consecutive stretches begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _coded(strings: pa.Array, code: Any) -> Ints:
    """The code of each string; each distinct one is looked up once."""
    encoded = strings.dictionary_encode()
    codes: Ints = np.array([code(value) for value in encoded.dictionary.to_pylist()], dtype=np.int32)
    places: Ints = encoded.indices.to_numpy(zero_copy_only=False)
    return codes[places]
