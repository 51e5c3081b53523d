"""Gold documents as columns: 100,000 documents take a few hundred MB."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
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
Indices = npt.NDArray[np.int64]

DOCUMENTS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Source:
    """The file that documents were read from; for a corpus, the file that it was built from."""

    name: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Gold:
    """Labeled documents as columns, in the order of the documents.

    Attributes:
        titles: `[documents]`.
        sentences: `[documents]` number of sentences.
        words: `[documents]` number of tokens.
        entities: `[documents]` number of entities.
        mentions: `[entities]` number of mentions.
        mention_sentence: `[mentions]` sentence of each mention.
        mention_name: `[mentions]` indices into `names`.
        names: the distinct names of all mentions.
        document: `[labels]` indices into `titles`. This and the next three columns are the gold triples.
        head: `[labels]` entity index in the document.
        tail: `[labels]` entity index in the document.
        relation: `[labels]` indices into `relations`.
        evidence_of: `[evidence]` label index of each evidence sentence, ascending.
        evidence: `[evidence]` sentence index.
    """

    relations: RelationSet
    titles: tuple[str, ...]
    sentences: Ints
    words: Ints
    entities: Ints
    mentions: Ints
    mention_sentence: Ints
    mention_name: Ints
    names: tuple[str, ...]
    document: Ints
    head: Ints
    tail: Ints
    relation: Ints
    evidence_of: Ints
    evidence: Ints
    source: Source | None = None

    @classmethod
    def of(cls, documents: Iterable[Document], relations: RelationSet) -> Gold:
        """Build the columns from `documents`, which are read once, as a stream.

        Raises:
            UserError: a document has no labels, a title occurs twice, or a relation is not in `relations`.
        """
        builder = _GoldBuilder(relations)
        for document in documents:
            builder.add_document(document)
        return builder.build()

    @classmethod
    def of_corpus(cls, corpus: Corpus) -> Gold:
        """Build the columns from a corpus without making document objects, ten times faster than `of`.

        Raises:
            UserError: a document has no labels, or a title occurs twice.
            CorpusError: a shard is damaged.
        """
        builder = _GoldBuilder(corpus.relations)
        for part in corpus.slices(DOCUMENTS_AT_ONCE):
            builder.add_batch(corpus.columns(part))
        return replace(builder.build(), source=Source(corpus.manifest.source, corpus.manifest.source_sha256))

    def __len__(self) -> int:
        return len(self.titles)

    @cached_property
    def first_entity(self) -> Indices:
        """Return the index of the first entity of each document, `[documents + 1]`."""
        return _offsets(self.entities)

    @cached_property
    def first_mention(self) -> Indices:
        """Return the index of the first mention of each entity, `[entities + 1]`."""
        return _offsets(self.mentions)

    def select(self, kept: npt.NDArray[np.bool_]) -> Gold:
        """Return the documents with True in `kept` [documents], in their order."""
        kept_labels = kept[self.document]
        kept_evidence = kept_labels[self.evidence_of]
        kept_entities = np.repeat(kept, self.entities)
        kept_mentions = np.repeat(kept_entities, self.mentions)
        new_document, new_label = ((np.cumsum(mask) - 1).astype(np.int32) for mask in (kept, kept_labels))
        return replace(
            self,
            titles=tuple(title for title, keep in zip(self.titles, kept.tolist(), strict=True) if keep),
            sentences=self.sentences[kept],
            words=self.words[kept],
            entities=self.entities[kept],
            mentions=self.mentions[kept_entities],
            mention_sentence=self.mention_sentence[kept_mentions],
            mention_name=self.mention_name[kept_mentions],
            document=new_document[self.document[kept_labels]],
            head=self.head[kept_labels],
            tail=self.tail[kept_labels],
            relation=self.relation[kept_labels],
            evidence_of=new_label[self.evidence_of[kept_evidence]],
            evidence=self.evidence[kept_evidence],
        )

    def name(self, document: int, entity: int) -> str | None:
        """Return the first listed name of an entity; None if there is no such document or entity."""
        if not (0 <= document < len(self) and 0 <= entity < self.entities[document]):
            return None
        mention = int(self.first_mention[self.first_entity[document] + entity])
        return self.names[int(self.mention_name[mention])]


def read_gold(path: str | Path, relations: RelationSet | None = None) -> Gold:
    """Read a corpus folder, or a file in DocRED's format with `relations` (by default DocRED's).

    Raises:
        UserError: the documents cannot be read, break the format, or have no labels.
    """
    path = Path(path)
    if path.is_dir():
        return Gold.of_corpus(Corpus.open(path))
    gold = Gold.of(read_documents(path, relations or DOCRED), relations or DOCRED)
    return replace(gold, source=Source(path.name, sha256_of(path)))


COLUMNS = tuple(field.name for field in fields(Gold) if field.type == "Ints")


class _GoldBuilder:
    """Growing columns of a `Gold` table."""

    def __init__(self, relations: RelationSet) -> None:
        self.relations = relations
        self.titles: list[str] = []
        self.names: dict[str, int] = {}
        self.columns = {name: array("i") for name in COLUMNS}

    def add_document(self, document: Document) -> None:
        if document.labels is None:
            raise _unlabeled(document.title)
        columns = self.columns
        self.titles.append(document.title)
        columns["sentences"].append(len(document.sentences))
        columns["words"].append(sum(map(len, document.sentences)))
        columns["entities"].append(len(document.entities))
        columns["mentions"].extend(map(len, document.entities))
        for entity in document.entities:
            columns["mention_sentence"].extend(mention.sentence for mention in entity)
            columns["mention_name"].extend(self._name_index(mention.name) for mention in entity)
        for label in document.labels:
            columns["evidence_of"].extend([len(columns["document"])] * len(label.evidence))
            columns["evidence"].extend(label.evidence)
            columns["document"].append(len(self.titles) - 1)
            columns["head"].append(label.head)
            columns["tail"].append(label.tail)
            columns["relation"].append(self._relation_index(label.relation, document.title))

    def add_batch(self, batch: pa.RecordBatch) -> None:
        """Append the documents of a corpus (`lmrc.corpus.corpus.SCHEMA`)."""
        titles = batch.column("title").to_pylist()
        labels = batch.column("labels")
        if labels.null_count:
            raise _unlabeled(titles[labels.is_null().to_pylist().index(True)])
        per_document = {
            name: batch.column(name).value_lengths().to_numpy(zero_copy_only=False)
            for name in ("sentences", "entities", "labels")
        }
        tokens = batch.column("sentences").flatten().value_lengths().to_numpy(zero_copy_only=False)
        entities = batch.column("entities").flatten()
        mentions, triples = entities.flatten(), labels.flatten()
        evidence = triples.field("evidence")
        evidence_per_triple = evidence.value_lengths().to_numpy(zero_copy_only=False)
        triples_before, documents_before = len(self.columns["document"]), len(self.titles)
        new: dict[str, Any] = {
            "sentences": per_document["sentences"],
            "words": np.diff(_offsets(tokens)[_offsets(per_document["sentences"])]),
            "entities": per_document["entities"],
            "mentions": entities.value_lengths().to_numpy(zero_copy_only=False),
            "mention_sentence": mentions.field("sentence").to_numpy(zero_copy_only=False),
            "mention_name": _encode(mentions.field("name"), self._name_index),
            "document": documents_before + np.repeat(np.arange(len(titles)), per_document["labels"]),
            "head": triples.field("head").to_numpy(zero_copy_only=False),
            "tail": triples.field("tail").to_numpy(zero_copy_only=False),
            "relation": _encode(triples.field("relation"), self.relations.index),
            "evidence_of": triples_before + np.repeat(np.arange(len(evidence_per_triple)), evidence_per_triple),
            "evidence": evidence.flatten().to_numpy(zero_copy_only=False),
        }
        for name, values in new.items():
            self.columns[name].frombytes(np.ascontiguousarray(values, dtype=np.int32).tobytes())
        self.titles += titles

    def build(self) -> Gold:
        if len(set(self.titles)) != len(self.titles):
            seen: set[str] = set()
            twice = next(title for title in self.titles if title in seen or seen.add(title))  # type: ignore[func-returns-value]
            raise UserError(f"two gold documents have the title {twice!r}; predictions name documents by title")
        columns: dict[str, Any] = {name: np.frombuffer(values, dtype=np.int32) for name, values in self.columns.items()}
        return Gold(self.relations, tuple(self.titles), names=tuple(self.names), **columns)

    def _name_index(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))

    def _relation_index(self, relation: str, title: str) -> int:
        if relation not in self.relations:
            raise UserError(
                f"the gold document {title!r} has a relation outside the relation set, {relation!r}; "
                f"{nearest(relation, self.relations.ids)}"
            )
        return self.relations.index(relation)


def _unlabeled(title: str) -> UserError:
    return UserError(f"the gold document {title!r} has no labels; scores need labeled documents")


def _offsets(lengths: npt.NDArray[Any]) -> Indices:
    """Return the start of each of consecutive ranges, and the end of the last one."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _encode(strings: pa.Array, index_of: Callable[[str], int]) -> Ints:
    """Return the index of each string; each distinct string is looked up once."""
    encoded = strings.dictionary_encode()
    codes: Ints = np.array([index_of(value) for value in encoded.dictionary.to_pylist()], dtype=np.int32)
    indices: Ints = encoded.indices.to_numpy(zero_copy_only=False)
    return codes[indices]
