"""spaCy's DocBin (.spacy): entities, sentences, span groups, and relations in the documents' user data.

Relations are read from where components and annotation tools keep them: `doc._.rel` of spaCy's relation extractor,
{(start of head, start of tail): {relation: score}}, and lists of {head, child or tail, label} as in Prodigy.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from numbers import Real
from pathlib import Path
from typing import Any

from lmrc.common.errors import UserError
from lmrc.common.files import reading
from lmrc.convert.annotations import Annotations, Groups, RawRelation, Span
from lmrc.corpus.text import TokenizedText, tokenize
from lmrc.corpus.types import Document

# A relation of spaCy's relation extractor holds from this score on.
THRESHOLD = 0.5
_RELATION_KEYS = ("rel", "rels", "relation", "relations")
_TITLE_KEYS = ("title", "id")
_COREFERENCE = re.compile(r"coref_clusters|cluster")


def read(path: Path, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the documents of a DocBin.

    An entity is a coreference cluster (a span group coref_clusters_1, …), the entities with the same kb_id_, or an
    entity alone.

    Raises:
        UserError: spaCy is not installed, or the file is no DocBin.
    """
    try:
        import spacy
        from spacy.tokens import DocBin
    except ImportError:
        raise UserError(
            f"{path}: a DocBin is read with the package spacy, which is not installed: pip install 'lmrc-suite[spacy]'"
        ) from None
    with reading(path) as stream:
        content = stream.read()
    try:
        documents = list(DocBin().from_bytes(content).get_docs(spacy.blank("xx").vocab))
    except Exception as error:  # zlib, msgpack and spaCy raise their own
        raise UserError(
            f"{path}: is no DocBin of spaCy {spacy.__version__} ({type(error).__name__}: {error})"
        ) from None
    for index, doc in enumerate(documents):
        title = next((doc.user_data[key] for key in _TITLE_KEYS if doc.user_data.get(key)), f"{path.stem} {index}")
        document = _document(doc, str(title), remarks)
        if document is not None:
            yield document


def _document(doc: Any, title: str, remarks: Counter[str]) -> Document | None:
    annotations = Annotations(title, remarks)
    groups = Groups()
    # Tokens [start, end) of each mention, and its index.
    mentions: dict[Span, int] = {}

    def add(span: Any) -> Span:
        tokens = (span.start, span.end)
        if tokens not in mentions:
            mentions[tokens] = annotations.add_mention([(span.start_char, span.end_char)], span.label_)
        return tokens

    by_entry: dict[str, Span] = {}
    for entity in doc.ents:
        tokens = add(entity)
        if entity.kb_id_:
            groups.join(by_entry.setdefault(entity.kb_id_, tokens), tokens)
    links: list[tuple[Span | None, Span | None, str]] = []
    for name, spans in doc.spans.items():
        listed = list(spans)
        if name.lower().startswith("rel") and len(listed) == 2:
            relation = spans.attrs.get("label") or listed[0].label_ or name.partition(":")[2] or name
            links.append((add(listed[0]), add(listed[1]), str(relation)))
        elif _COREFERENCE.match(name):
            for span in listed:
                groups.join(add(listed[0]), add(span))
        elif listed and all(span.label_ for span in listed):
            for span in listed:
                known = annotations.mentions[mentions[add(span)]].type
                remarks["further types of a span left out"] += known != span.label_
        else:
            remarks["span groups without labels left out"] += 1
    entities = [(entity.start, entity.end) for entity in doc.ents]
    places = _Places(doc, mentions)
    for value in _relation_values(doc, remarks):
        if isinstance(value, dict):
            links += _of_pairs(value, places, remarks)
        else:
            links += _of_list(value, places, entities, remarks)
    for tokens, mention in mentions.items():
        annotations.add_to_entity(groups.find(tokens), mention)
    for head, tail, relation in links:
        evidence = tuple(mentions[tokens] for tokens in (head, tail) if tokens is not None)
        annotations.relations.append(RawRelation(groups.find(head), groups.find(tail), relation, evidence))
    return annotations.to_document(_sentences(doc, annotations.parts(), remarks))


class _Places:
    """Finds the mention that a relation names.

    Attributes:
        mentions: Tokens [start, end) of all mentions.
    """

    def __init__(self, doc: Any, mentions: Iterable[Span]) -> None:
        self.mentions = list(mentions)
        spans = {span: doc[span[0] : span[1]] for span in reversed(self.mentions)}
        self._of_characters = {(span.start_char, span.end_char): tokens for tokens, span in spans.items()}
        # The first of several mentions with one text.
        self._of_text = {span.text: tokens for tokens, span in spans.items()}

    def find(self, place: Any) -> Span | None:
        """Return the mention of a token, of a span ({token_start, token_end}, {start, end}), or of a text."""
        if isinstance(place, str):
            return self._of_text.get(place)
        if isinstance(place, dict):
            # Prodigy's last token is inside of the span; start and end are characters.
            first, last = place.get("token_start"), place.get("token_end")
            if isinstance(first, int) and isinstance(last, int) and (first, last + 1) in self.mentions:
                return first, last + 1
            span = (place.get("start", -1), place.get("end", -1))
            return self._of_characters.get(span) or self.find(first)
        if not isinstance(place, int):
            return None
        starting = [span for span in self.mentions if span[0] == place]
        return next(iter(starting or [span for span in self.mentions if span[0] <= place < span[1]]), None)


def _relation_values(doc: Any, remarks: Counter[str]) -> list[Any]:
    """Return what the user data has under the name of relations, as a key or as an extension attribute doc._.NAME."""
    values = []
    for key, value in doc.user_data.items():
        name = key[1] if isinstance(key, tuple) and len(key) == 4 and key[0] == "._." and key[2] is None else key
        if name in _RELATION_KEYS and isinstance(value, (dict, list, tuple)):
            values.append(value)
        else:
            remarks["other entries of the user data left out"] += name not in _TITLE_KEYS
    return values


def _of_pairs(
    pairs: dict[Any, Any], places: _Places, remarks: Counter[str]
) -> list[tuple[Span | None, Span | None, str]]:
    """Return the relations of {(start of head, start of tail): {relation: score}}, or a relation in place of scores."""
    links = []
    for pair, relations in pairs.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            remarks["relations in another form left out"] += 1
            continue
        head, tail = (places.find(token) for token in pair)
        names = [relations] if isinstance(relations, str) else relations
        scores = dict.fromkeys(names, 1.0) if isinstance(names, (list, tuple, set)) else names
        if not isinstance(scores, dict) or not all(isinstance(score, Real) for score in scores.values()):
            remarks["relations in another form left out"] += 1
            continue
        for relation, score in scores.items():
            if score >= THRESHOLD:
                links.append((head, tail, str(relation)))
            elif score > 0:
                remarks[f"relations with a score below {THRESHOLD} left out"] += 1
    return links


def _of_list(
    items: Any, places: _Places, entities: list[Span], remarks: Counter[str]
) -> list[tuple[Span | None, Span | None, str]]:
    """Return the relations of a list of {head, child or tail, label}, or of (head, label, tail) in numbers."""
    links: list[tuple[Span | None, Span | None, str]] = []
    for item in items:
        if isinstance(item, dict):
            tail_key = "tail" if "tail" in item else "child"
            label = item.get("label", item.get("relation", item.get("type", "")))
            ends = [item.get(f"{key}_span", item.get(key)) for key in ("head", tail_key)]
        elif isinstance(item, (list, tuple)):
            label = next((part for part in item if isinstance(part, str)), "")
            ends = [part for part in item if not isinstance(part, str)]
        else:
            remarks["relations in another form left out"] += 1
            continue
        head, tail = (places.find(end) for end in (*ends, None, None)[:2])
        numbers = [end for end in ends if isinstance(end, int) and 0 <= end < len(entities)]
        if len(numbers) == 2 and (head is None or tail is None or head == tail):
            # They are no tokens of two mentions: numbers of entities.
            head, tail = (entities[number] for number in numbers)
        links.append((head, tail, str(label)))
    return links


def _sentences(doc: Any, parts: list[Span], remarks: Counter[str]) -> TokenizedText:
    """Return the tokens that are no white space, in the sentences of the document, or of our rule if it has none."""
    if doc.has_annotation("SENT_START"):
        starts = [sentence.start_char for sentence in doc.sents]
    else:
        starts = [sentence[0][0] for sentence in tokenize(doc.text, parts).spans]
        remarks["sentences, split by rule"] += len(starts)
    sentences: list[list[Span]] = [[] for _ in starts]
    for token in doc:
        if not token.is_space:
            span = (token.idx, token.idx + len(token.text))
            sentences[max(0, bisect_right(starts, token.idx) - 1)].append(span)
    return TokenizedText(doc.text, tuple(tuple(sentence) for sentence in sentences))
