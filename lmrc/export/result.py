"""The triples that were extracted from one document, and its line of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from lmrc.common.errors import UserError
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.relations import RelationSet
from lmrc.text.layout import TextDocument

# Start and end of a mention or sentence in `ExtractedDocument.text`, in characters; the end is exclusive.
CharacterSpan = tuple[int, int]
_HALF_PAIRS = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ExtractedTriple:
    """A triple of a document. `score` is P(pair) x P(relation), or with a fusion its calibrated probability.

    Attributes:
        head: index of the head entity in the document.
        head_name: name of its first mention.
        head_spans: its mentions, as character spans of `ExtractedDocument.text`.
        relation: relation id, such as "P19".
        relation_name: name of the relation, such as "place of birth".
        tail: index of the tail entity.
        tail_name: name of its first mention.
        tail_spans: its mentions.
        score: between 0 and 1.
        head_type: entity type of the head, such as "PER".
        tail_type: entity type of the tail.
        evidence: indices of the sentences that mention both entities; empty if none does. The models do not say which
            sentences they used.
    """

    head: int
    head_name: str
    head_spans: tuple[CharacterSpan, ...]
    relation: str
    relation_name: str
    tail: int
    tail_name: str
    tail_spans: tuple[CharacterSpan, ...]
    score: float
    head_type: str = ""
    tail_type: str = ""
    evidence: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ExtractedEntity:
    """An entity of a document: the name and type of its first mention, and the spans of all."""

    name: str
    type: str
    spans: tuple[CharacterSpan, ...]


@dataclass(frozen=True, slots=True)
class ExtractedDocument:
    """The triples of one document.

    Attributes:
        title: title of the document.
        text: its text; of a document in DocRED's format all tokens of all sentences, joined with single spaces.
            Character spans refer to it.
        triples: sorted by (head, tail, relation).
        sentences: span of each sentence.
        entities: all entities, also those without a triple.
    """

    title: str
    text: str
    triples: tuple[ExtractedTriple, ...]
    sentences: tuple[CharacterSpan, ...] = ()
    entities: tuple[ExtractedEntity, ...] = ()

    def sentence(self, index: int) -> str:
        """Return the text of a sentence on one line."""
        start, end = self.sentences[index]
        return " ".join(self.text[start:end].split())


def extracted(source: TextDocument, predictions: Iterable[Prediction], relations: RelationSet) -> ExtractedDocument:
    """Return the triples of a document with names, types and spans."""
    document, spans = source.document, source.entity_spans()
    entities = [
        ExtractedEntity(valid(" ".join(mentions[0].name.split())), valid(mentions[0].type), places)
        for mentions, places in zip(document.entities, spans, strict=True)
    ]
    sentences = [{mention.sentence for mention in mentions} for mentions in document.entities]
    triples = []
    for prediction in sorted(predictions, key=lambda p: (p.head, p.tail, p.relation)):
        head, tail = entities[prediction.head], entities[prediction.tail]
        triples.append(
            ExtractedTriple(
                prediction.head,
                head.name,
                head.spans,
                prediction.relation,
                relations.name(prediction.relation),
                prediction.tail,
                tail.name,
                tail.spans,
                prediction.score or 0.0,
                head.type,
                tail.type,
                tuple(sorted(sentences[prediction.head] & sentences[prediction.tail])),
            )
        )
    return ExtractedDocument(
        valid(document.title), valid(source.text.text), tuple(triples), source.sentence_spans(), tuple(entities)
    )


def valid(text: str) -> str:
    """Return a text in which half surrogate pairs, which JSON can hold and UTF-8 cannot, are U+FFFD."""
    return _HALF_PAIRS.sub("\ufffd", text)


def to_bytes(result: ExtractedDocument, key: str | None = None) -> bytes:
    """Return a result as one line of JSON in UTF-8, with its end.

    Args:
        key: identifies the options of the extraction, for `lmrc.export.lines`; None: it is left out.
    """
    content: dict[str, Any] = asdict(result) if key is None else {**asdict(result), "key": key}
    line = json.dumps(content, ensure_ascii=False)
    # These end a line for some readers.
    for character, escape in (("\u2028", "\\u2028"), ("\u2029", "\\u2029"), ("\x85", "\\u0085")):
        line = line.replace(character, escape)
    return f"{line}\n".encode()


def from_line(content: dict[str, Any], where: str) -> ExtractedDocument:
    """Return the result of a line, as JSON decodes it.

    Raises:
        UserError: it is no result.
    """
    try:
        triples = [
            ExtractedTriple(**{**triple, **{name: _spans(triple[name]) for name in ("head_spans", "tail_spans")},
                               "evidence": tuple(triple["evidence"])})
            for triple in content["triples"]
        ]  # fmt: skip
        entities = [ExtractedEntity(item["name"], item["type"], _spans(item["spans"])) for item in content["entities"]]
        return ExtractedDocument(
            content["title"], content["text"], tuple(triples), _spans(content["sentences"]), tuple(entities)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: is no result of lmrc extract ({type(error).__name__}: {error})") from None


def _spans(raw: Any) -> tuple[CharacterSpan, ...]:
    return tuple((int(start), int(end)) for start, end in raw)
