"""SciERC: JSON Lines with tokens, typed spans, relations and coreference, the form of DyGIE++ and PURE.

{"doc_key": "1", "sentences": [["A", "parser", "."]], "ner": [[[1, 1, "Method"]]], "relations": [[]], "clusters": []}

All spans are of tokens of the document, both ends included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from lmrc.common.errors import UserError
from lmrc.convert.annotations import Annotations, Groups, RawRelation, Span, lay_out
from lmrc.convert.json_records import json_records, list_of, member, tokens_of
from lmrc.corpus.types import Document


def read(path: Path, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the documents of a file. An entity is a cluster, or a span that is in none.

    Raises:
        UserError: The file is not in the format.
    """
    for index, record in enumerate(json_records(path)):
        where = f"{path}: document {index}"
        title = str(record.get("doc_key") or record.get("doc_id") or record.get("orig_id") or f"{path.stem} {index}")
        document = _document(_as_dygie(record, where), title, where, remarks)
        if document is not None:
            yield document


def _as_dygie(record: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a record of SpERT's form ({tokens, entities, relations}, ends excluded) in DyGIE's, others as they are."""
    if "tokens" not in record or "entities" not in record:
        return record
    entities: list[tuple[int, int, str]] = []
    for number, item in enumerate(member(record, "entities", list, where)):
        about = f"{where}: entity {number}"
        start, end = (member(item, key, int, about) for key in ("start", "end"))
        entities.append((start, end - 1, member(item, "type", str, about)))
    relations = []
    for number, item in enumerate(list_of(record, "relations", where)):
        about = f"{where}: relation {number}"
        ends = [member(item, key, int, about) for key in ("head", "tail")]
        if not all(0 <= end < len(entities) for end in ends):
            raise UserError(f"{about} has the entities {ends}, but there are {len(entities)}")
        spans = [index for end in ends for index in entities[end][:2]]
        relations.append([*spans, member(item, "type", str, about)])
    return {"sentences": [record["tokens"]], "ner": [entities], "relations": [relations]}


def _document(record: dict[str, Any], title: str, where: str, remarks: Counter[str]) -> Document | None:
    raw = member(record, "sentences", list, where)
    sentences = [tokens_of(tokens, f"{where}: sentence {number}") for number, tokens in enumerate(raw)]
    laid_out = lay_out(sentences)
    tokens = [span for sentence in laid_out.spans for span in sentence]
    annotations = Annotations(title, remarks)
    starts = [0, *accumulate(len(sentence) for sentence in sentences)]
    typed = _labeled_spans(record, "ner", 1, where)
    offsets = starts if _are_of_sentences(typed, starts) else [0] * len(starts)
    remarks["documents whose spans are counted from the begin of each sentence"] += any(offsets)
    events = list_of(record, "events", where)
    remarks["event annotations left out"] += sum(len(found) for found in events if isinstance(found, list))

    groups = Groups()
    mentions: dict[Span, int] = {}

    def shifted(sentence: int, span: Span) -> Span:
        if sentence >= len(sentences):
            raise UserError(f"{where}: has spans of more sentences than the {len(sentences)} that it has")
        return span[0] + offsets[sentence], span[1] + offsets[sentence]

    def add(span: Span, kind: str) -> bool:
        """Add a mention if the span is new; return False if it is outside of the document."""
        if not 0 <= span[0] <= span[1] < len(tokens):
            remarks["spans outside of the document left out"] += 1
            return False
        if span not in mentions:
            mentions[span] = annotations.add_mention([(tokens[span[0]][0], tokens[span[1]][1])], kind)
        return True

    for sentence, (local,), kind in typed:
        span = shifted(sentence, local)
        remarks["further types of a span left out"] += (
            span in mentions and annotations.mentions[mentions[span]].type != kind
        )
        add(span, kind)
    for cluster in list_of(record, "clusters", where):
        if not isinstance(cluster, list):
            raise UserError(f"{where}: clusters has {cluster!r}, expected a list of spans")
        spans = [_span(item[:2] if isinstance(item, list) else item, where) for item in cluster]
        types = [annotations.mentions[mentions[span]].type for span in spans if span in mentions]
        for span in spans:
            if span not in mentions:
                # The type of the other mentions of the entity.
                remarks["mentions of a cluster without a type of their own, now that of the cluster"] += bool(types)
                if not add(span, Counter(types).most_common(1)[0][0] if types else ""):
                    continue
            groups.join(spans[0], span)
    for sentence, pair, relation in _labeled_spans(record, "relations", 2, where):
        head, tail = (shifted(sentence, span) for span in pair)
        for span in (head, tail):
            if span not in mentions:
                remarks["spans of a relation that are in no other list, now mentions"] += add(span, "")
        evidence = tuple(mentions[span] for span in (head, tail) if span in mentions)
        annotations.relations.append(RawRelation(groups.find(head), groups.find(tail), relation, evidence))
    for span, mention in mentions.items():
        annotations.add_to_entity(groups.find(span), mention)
    return annotations.to_document(laid_out)


def _labeled_spans(record: dict[str, Any], key: str, count: int, where: str) -> list[tuple[int, tuple[Span, ...], str]]:
    """Return sentence, spans and label of each item of a list per sentence.

    Args:
        count: Spans of an item, which is start, end, …, label, and maybe scores.
    """
    per_sentence = record.get(key) or []
    if not isinstance(per_sentence, list) or not all(isinstance(items, list) for items in per_sentence):
        raise UserError(f"{where}: {key} is no list of lists, expected one per sentence")
    found: list[tuple[int, tuple[Span, ...], str]] = []
    for sentence, items in enumerate(per_sentence):
        for item in items:
            if not isinstance(item, (list, tuple)) or len(item) <= 2 * count or not isinstance(item[2 * count], str):
                raise UserError(
                    f"{where}: {key} has {item!r}, expected {2 * count} token indices and a label, in a list for each "
                    "sentence"
                )
            spans = tuple(_span(item[2 * number : 2 * number + 2], where) for number in range(count))
            found.append((sentence, spans, item[2 * count]))
    return found


def _are_of_sentences(typed: list[tuple[int, tuple[Span, ...], str]], starts: list[int]) -> bool:
    """Return True if spans are only inside of their sentence if they are counted from its begin."""

    def fit(offsets: list[int]) -> bool:
        return all(
            sentence < len(starts) - 1
            and starts[sentence] <= offsets[sentence] + start
            and offsets[sentence] + end < starts[sentence + 1]
            for sentence, spans, _ in typed
            for start, end in spans
        )

    return not fit([0] * len(starts)) and fit(starts)


def _span(item: Any, where: str) -> Span:
    if not isinstance(item, (list, tuple)) or len(item) != 2 or not all(type(index) is int for index in item):
        raise UserError(f"{where}: {item!r} is no span, expected two token indices")
    return item[0], item[1]
