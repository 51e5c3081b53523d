"""Relation schema: the relations that may hold between two entity types.

A schema is learnt from the labels of a corpus, or written by a user in the same JSON form:

    {
     "P17": {"types": [["LOC", "LOC"], ["ORG", "LOC"]]},
     "P19": {"allowed_head": ["PER"], "allowed_tail": ["LOC"], "functional": true},
     "P22": {"inverse": "P40"}
    }

A relation without an entry, or without types in its entry, may hold between any types. A type that no entry names is
unknown to the schema, and all relations may hold for it. An entity's type is that of its first mention.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import UserError, nearest
from lmrc.common.files import reading
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import candidate_pairs
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.types import Document

# Head type and tail type.
TypePair = tuple[str, str]

# Keys of an entry.
KEYS = ("types", "allowed_head", "allowed_tail", "inverse", "functional")
EXAMPLE = '{"P17": {"types": [["LOC", "LOC"]]}}'
# Documents that are counted at once.
_BATCH_SIZE = 1024


@dataclass(frozen=True, slots=True)
class RelationRule:
    """The entry of one relation.

    Attributes:
        types: the pairs of types that it may hold between; None if `allowed_head` and `allowed_tail` say it.
        allowed_head: types that its head may have; None for all.
        allowed_tail: types that its tail may have; None for all.
        inverse: relation id that holds from tail to head.
        functional: True if a head has at most one tail.
    """

    types: frozenset[TypePair] | None = None
    allowed_head: frozenset[str] | None = None
    allowed_tail: frozenset[str] | None = None
    inverse: str | None = None
    functional: bool = False

    @property
    def known_types(self) -> frozenset[str]:
        """Return all types that the entry names."""
        pairs = frozenset(name for pair in self.types or () for name in pair)
        return pairs | (self.allowed_head or frozenset()) | (self.allowed_tail or frozenset())

    def admits(self, head_type: str, tail_type: str) -> bool:
        """Return True if the relation may hold between two types that the schema knows."""
        if self.types is not None:
            return (head_type, tail_type) in self.types
        return (self.allowed_head is None or head_type in self.allowed_head) and (
            self.allowed_tail is None or tail_type in self.allowed_tail
        )

    def as_json(self) -> dict[str, Any]:
        """Return the entry as JSON, without what it leaves open."""
        content: dict[str, Any] = {}
        if self.types is not None:
            content["types"] = [list(pair) for pair in sorted(self.types)]
        for name, types in (("allowed_head", self.allowed_head), ("allowed_tail", self.allowed_tail)):
            if types is not None:
                content[name] = sorted(types)
        if self.inverse is not None:
            content["inverse"] = self.inverse
        if self.functional:
            content["functional"] = True
        return content


_ANY_TYPES = RelationRule()


@dataclass(frozen=True)
class RelationSchema:
    """The relations that may hold between two entity types.

    Attributes:
        relations: relation ids of the relation set, in its order.
        rules: the entries by relation id.
    """

    relations: tuple[str, ...]
    rules: Mapping[str, RelationRule]
    # Results of `admissible`, by the pair of types.
    _admissible: dict[TypePair, tuple[int, ...]] = field(default_factory=dict, init=False, compare=False, repr=False)

    @classmethod
    def of_corpus(cls, corpus: Corpus, minimum: int) -> RelationSchema:
        """Learn a schema: a relation may hold between types that it was seen between at least `minimum` times.

        Every relation of the corpus gets an entry.

        Raises:
            ValueError: `minimum` is below 1.
            UserError: the corpus has no labels.
            CorpusError: the corpus is damaged.
        """
        if minimum < 1:
            raise ValueError(f"minimum is {minimum}, expected at least 1: a relation must be seen to be admissible")
        if not corpus.manifest.labelled_documents:
            raise UserError(f"{corpus.folder}: no document has labels, and a schema is learnt from them")
        types: dict[str, set[TypePair]] = {relation: set() for relation in corpus.relations}
        for (head, relation, tail), count in _count_types(corpus).triples.items():
            if count >= minimum:
                types[relation].add((head, tail))
        return cls(corpus.relations.ids, {name: RelationRule(frozenset(pairs)) for name, pairs in types.items()})

    @classmethod
    def read(cls, path: str | Path, relations: Iterable[str]) -> RelationSchema:
        """Read a schema from a JSON file.

        Args:
            relations: the relation set, or its ids.

        Raises:
            UserError: the file is unreadable or has another form, or names a relation outside the set.
        """

        def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
            for key, count in Counter(key for key, _ in pairs).items():
                if count > 1:
                    raise UserError(f"{path}: {key!r} occurs twice in one object; every key must be unique")
            return dict(pairs)

        with reading(path) as stream:
            content = stream.read()
        try:
            raw = json.loads(content, object_pairs_hook=unique_keys)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: is not JSON ({error})") from None
        return cls.of_json(raw, relations, path)

    @classmethod
    def of_json(cls, raw: object, relations: Iterable[str], source: str | Path) -> RelationSchema:
        """Return the schema in decoded JSON.

        Args:
            relations: the relation set, or its ids.
            source: name of the file, for messages.

        Raises:
            UserError: it has another form, or names a relation outside the set.
        """
        ids = tuple(relations)
        if not isinstance(raw, dict):
            raise UserError(f"{source}: expected an object of relation ids and their entries, such as {EXAMPLE}")
        rules = {}
        for relation, entry in raw.items():
            if relation not in ids:
                raise UserError(f"{source}: unknown relation {relation!r}; {nearest(relation, ids)}")
            rules[relation] = _read_rule(entry, ids, f"{source}: relation {relation!r}")
        return cls(ids, rules)

    def as_json(self) -> dict[str, Any]:
        """Return the schema in the form that `of_json` reads."""
        return {relation: rule.as_json() for relation, rule in self.rules.items()}

    def write(self, path: str | Path) -> None:
        """Write the schema as JSON, one relation per line.

        Raises:
            RunError: the file cannot be written.
        """
        lines = (
            f" {json.dumps(key, ensure_ascii=False)}: {json.dumps(entry, ensure_ascii=False)}"
            for key, entry in self.as_json().items()
        )
        write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")

    @cached_property
    def known_types(self) -> frozenset[str]:
        """Return all types that an entry names."""
        return frozenset().union(*(rule.known_types for rule in self.rules.values()))

    def admits(self, head_type: str, relation: str, tail_type: str) -> bool:
        """Return True if the relation may hold between the types, or if the schema does not know one of the types."""
        if head_type not in self.known_types or tail_type not in self.known_types:
            return True
        return self.rules.get(relation, _ANY_TYPES).admits(head_type, tail_type)

    def admissible(self, head_type: str, tail_type: str) -> tuple[int, ...]:
        """Return the indices in `relations` of those that may hold between the types, ascending."""
        pair = (head_type, tail_type)
        if pair not in self._admissible:
            self._admissible[pair] = tuple(
                index for index, relation in enumerate(self.relations) if self.admits(head_type, relation, tail_type)
            )
        return self._admissible[pair]

    def mask(self, entity_types: Sequence[str]) -> NDArray[np.bool_]:
        """Return which relations may hold between the entities of a document.

        Args:
            entity_types: type of each entity.

        Returns:
            True if admissible, [ordered pairs sorted by (h, t), relations].
        """
        names = sorted(set(entity_types))
        table = np.zeros((len(names), len(names), len(self.relations)), dtype=np.bool_)
        for head, head_type in enumerate(names):
            for tail, tail_type in enumerate(names):
                table[head, tail, list(self.admissible(head_type, tail_type))] = True
        codes = np.array([names.index(name) for name in entity_types], dtype=np.int64)
        pairs = np.array(candidate_pairs(len(entity_types)), dtype=np.int64).reshape(-1, 2)
        mask: NDArray[np.bool_] = table[codes[pairs[:, 0]], codes[pairs[:, 1]]]
        return mask


def _read_rule(entry: object, ids: Sequence[str], where: str) -> RelationRule:
    """Return the entry of a relation.

    Args:
        where: start of the messages.

    Raises:
        UserError: it has another form.
    """
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object with the keys {', '.join(KEYS)}, such as {EXAMPLE}")
    for key in entry:
        if key not in KEYS:
            raise UserError(f"{where}: unknown key {key!r}; {nearest(key, KEYS)}")
    if "types" in entry and ("allowed_head" in entry or "allowed_tail" in entry):
        raise UserError(f"{where}: give either types, or allowed_head and allowed_tail, but not both")
    inverse, functional = entry.get("inverse"), entry.get("functional", False)
    if inverse is not None and inverse not in ids:
        raise UserError(f"{where}: its inverse {inverse!r} is no relation; {nearest(str(inverse), ids)}")
    if not isinstance(functional, bool):
        raise UserError(f"{where}: functional is {functional!r}, expected true or false")
    heads, tails = (
        frozenset(_texts(entry[key], f"{where}: {key}")) if key in entry else None
        for key in ("allowed_head", "allowed_tail")
    )
    types = None
    if "types" in entry:
        pairs = entry["types"]
        expected = f"{where}: types must be a list of pairs of types, such as [['PER', 'LOC']]"
        if not isinstance(pairs, list):
            raise UserError(f"{expected}, not {pairs!r}")
        if wrong := [pair for pair in pairs if not _is_texts(pair) or len(pair) != 2]:
            raise UserError(f"{expected}, but one of them is {wrong[0]!r}")
        types = frozenset((head, tail) for head, tail in pairs)
    return RelationRule(types, heads, tails, inverse, functional)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _texts(value: Any, where: str) -> list[str]:
    if not _is_texts(value):
        raise UserError(f'{where} must be a list of types, such as ["PER"], not {value!r}')
    texts: list[str] = value
    return texts


def entity_types(document: Document) -> tuple[str, ...]:
    """Return the type of each entity, which is that of its first mention."""
    return tuple(entity[0].type for entity in document.entities)


class _TypeCounts(NamedTuple):
    """Numbers of triples and pairs of a corpus by their types.

    Attributes:
        triples: gold triples by (head type, relation, tail type).
        related: pairs with a relation.
        pairs: all ordered pairs of entities.
    """

    triples: Counter[tuple[str, str, str]]
    related: Counter[TypePair]
    pairs: Counter[TypePair]


def _count_types(corpus: Corpus) -> _TypeCounts:
    """Count the types of a corpus by columns, because document objects take far longer to make.

    Raises:
        CorpusError: the corpus is damaged.
    """
    counts = _TypeCounts(Counter(), Counter(), Counter())
    for part in corpus.slices(_BATCH_SIZE):
        batch = corpus.columns(part)
        entities, labels = batch.column("entities"), batch.column("labels")
        mention_counts = entities.flatten().value_lengths().to_numpy()
        first_mentions = pa.array(np.cumsum(mention_counts) - mention_counts)
        types = entities.flatten().flatten().field("type").take(first_mentions).dictionary_encode()
        codes, names = types.indices.to_numpy().astype(np.int64), types.dictionary.to_pylist()

        # Entities of each document and type, [documents, types].
        sizes = entities.value_lengths().to_numpy()
        table = np.zeros((len(sizes), len(names)), dtype=np.int64)
        np.add.at(table, (np.repeat(np.arange(len(sizes)), sizes), codes), 1)
        pairs = table.T @ table - np.diag(table.sum(0))
        for head, tail in np.argwhere(pairs).tolist():
            counts.pairs[names[head], names[tail]] += int(pairs[head, tail])

        triples = labels.flatten()
        relations = triples.field("relation").dictionary_encode()
        # Index in the batch of the first entity of each label's document, [labels].
        first = np.repeat(np.cumsum(sizes) - sizes, labels.value_lengths().fill_null(0).to_numpy())
        heads, tails = (first + triples.field(name).to_numpy() for name in ("head", "tail"))
        rows = np.stack([codes[heads], relations.indices.to_numpy(), codes[tails]], 1)
        ids = relations.dictionary.to_pylist()
        for (head, relation, tail), count in _count_rows(rows):
            counts.triples[names[head], ids[relation], names[tail]] += count
        related = np.unique(np.stack([heads, tails], 1), axis=0)
        for (head, tail), count in _count_rows(codes[related]):
            counts.related[names[head], names[tail]] += count
    return counts


def _count_rows(rows: NDArray[np.int64]) -> Iterable[tuple[list[int], int]]:
    """Return the distinct rows, each with its number."""
    distinct, numbers = np.unique(rows, axis=0, return_counts=True)
    return zip(distinct.tolist(), numbers.tolist(), strict=True)


@dataclass(frozen=True, slots=True)
class SchemaStatistics:
    """The effect of a schema on a labeled corpus.

    Attributes:
        relations: size of the relation set.
        pairs: ordered pairs of entities.
        offered: sum over the pairs of the relations that a pair is offered: the admissible ones, or all if there are
            none.
        unrestricted: pairs without an admissible relation.
        related: pairs with a relation.
        related_offered: `offered` of these pairs.
        triples: gold triples.
        inadmissible: gold triples that the schema does not admit.
        unknown_types: types that the schema does not know.
    """

    relations: int
    pairs: int
    offered: int
    unrestricted: int
    related: int
    related_offered: int
    triples: int
    inadmissible: int
    unknown_types: tuple[str, ...]

    @classmethod
    def of(cls, schema: RelationSchema, corpus: Corpus) -> SchemaStatistics:
        """Count what the schema leaves of a corpus with the same relation set.

        Raises:
            CorpusError: the corpus is damaged.
        """
        counts = _count_types(corpus)
        total = len(schema.relations)
        admissible = {pair: len(schema.admissible(*pair)) for pair in counts.pairs}
        return cls(
            relations=total,
            pairs=counts.pairs.total(),
            offered=sum((admissible[pair] or total) * count for pair, count in counts.pairs.items()),
            unrestricted=sum(count for pair, count in counts.pairs.items() if not admissible[pair]),
            related=counts.related.total(),
            related_offered=sum((admissible[pair] or total) * count for pair, count in counts.related.items()),
            triples=counts.triples.total(),
            inadmissible=sum(count for triple, count in counts.triples.items() if not schema.admits(*triple)),
            unknown_types=tuple(sorted({name for pair in counts.pairs for name in pair} - schema.known_types)),
        )

    def __str__(self) -> str:
        mean = self.offered / max(self.pairs, 1)
        text = f"the LM is offered {mean:.1f} of {self.relations} relations for a pair on average"
        text += " (all, if none is admissible)"
        if self.related:
            text += f", and {self.related_offered / self.related:.1f} for one with a relation"
        text += (
            f"; {self.unrestricted:,} of {self.pairs:,} pairs have no admissible relation; "
            f"{self.inadmissible:,} of {self.triples:,} gold triples are not admissible"
        )
        return f"{text}; unknown types: {', '.join(self.unknown_types)}" if self.unknown_types else text


@dataclass(frozen=True, slots=True)
class SchemaEffect:
    """Numbers of predictions that `apply_schema` changed.

    Attributes:
        predictions: predictions before.
        inadmissible: left out, because the schema does not admit them.
        unknown_types: kept, because the schema does not know the type of an entity, or the entity does not exist.
        further_tails: left out, because a functional relation has another tail with a higher score.
        inverse: added as the inverse of another triple.
        inadmissible_inverse: inverse triples that are not added, because the schema does not admit them.
    """

    predictions: int = 0
    inadmissible: int = 0
    unknown_types: int = 0
    further_tails: int = 0
    inverse: int = 0
    inadmissible_inverse: int = 0

    def __add__(self, other: SchemaEffect) -> SchemaEffect:
        return SchemaEffect(*(first + second for first, second in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        text = f"{self.inadmissible:,} of {self.predictions:,} triples are not admissible and left out"
        if self.unknown_types:
            text += f"; {self.unknown_types:,} with an entity of unknown type are kept"
        if self.further_tails:
            text += f"; {self.further_tails:,} further tails of functional relations are left out"
        if self.inverse or self.inadmissible_inverse:
            text += f"; {self.inverse:,} inverse triples are added"
        if self.inadmissible_inverse:
            text += f", {self.inadmissible_inverse:,} are not admissible"
        return text


def apply_schema(
    predictions: Iterable[Prediction], documents: Iterable[Document], schema: RelationSchema
) -> tuple[list[Prediction], SchemaEffect]:
    """Return the predictions that the schema admits, with the inverse triples that it demands.

    The steps are, in this order:

    1. Inadmissible triples are left out. Those of unknown documents and entities stay: scoring reports them.
    2. A functional relation keeps the tail with the highest score of each head of a document. Of equal scores, the
       first entity wins. A triple without a score has the score 1.
    3. Each triple of a relation with an inverse adds the inverse triple with its score and evidence, if this triple
       is not among the predictions and is admissible.
    4. Step 2 again, for the added triples.

    Args:
        predictions: predicted triples; their order and repetitions are kept.
        documents: the documents of the predictions, which are read once.
    """
    predictions = list(predictions)
    titles = {prediction.title for prediction in predictions}
    types = {document.title: entity_types(document) for document in documents if document.title in titles}

    def types_of(prediction: Prediction) -> TypePair | None:
        """Return the types of head and tail; None if the schema does not know them."""
        known = types.get(prediction.title, ())
        if not (0 <= prediction.head < len(known) and 0 <= prediction.tail < len(known)):
            return None
        pair = known[prediction.head], known[prediction.tail]
        return pair if schema.known_types.issuperset(pair) else None

    def admits(prediction: Prediction) -> bool:
        pair = types_of(prediction)
        return pair is None or schema.admits(pair[0], prediction.relation, pair[1])

    admitted = [prediction for prediction in predictions if admits(prediction)]
    kept = _best_tails(admitted, schema)
    present = {(p.title, p.head, p.tail, p.relation) for p in kept}
    added: list[Prediction] = []
    refused = 0
    for prediction in kept:
        inverse = schema.rules.get(prediction.relation, _ANY_TYPES).inverse
        if inverse is None or (prediction.title, prediction.tail, prediction.head, inverse) in present:
            continue
        present.add((prediction.title, prediction.tail, prediction.head, inverse))
        triple = Prediction(
            prediction.title, prediction.tail, prediction.head, inverse, prediction.score, prediction.evidence
        )
        if admits(triple):
            added.append(triple)
        else:
            refused += 1
    result = _best_tails([*kept, *added], schema)
    return result, SchemaEffect(
        predictions=len(predictions),
        inadmissible=len(predictions) - len(admitted),
        unknown_types=sum(types_of(prediction) is None for prediction in predictions),
        further_tails=len(admitted) + len(added) - len(result),
        inverse=len(added),
        inadmissible_inverse=refused,
    )


def _best_tails(predictions: list[Prediction], schema: RelationSchema) -> list[Prediction]:
    """Return the predictions, those of a functional relation with the best tail of each head only."""

    def rank(prediction: Prediction) -> tuple[float, int]:
        return (1.0 if prediction.score is None else prediction.score, -prediction.tail)

    functional = {relation for relation, rule in schema.rules.items() if rule.functional}
    best: dict[tuple[str, int, str], Prediction] = {}
    for prediction in predictions:
        if prediction.relation in functional:
            key = (prediction.title, prediction.head, prediction.relation)
            best[key] = max(best.get(key, prediction), prediction, key=rank)
    return [p for p in predictions if p.relation not in functional or best[p.title, p.head, p.relation].tail == p.tail]
