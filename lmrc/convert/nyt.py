"""NYT: sentences with relations between names, in the forms of the field.

{"sentText": "…", "articleId": "…", "sentId": "1", "entityMentions": [{"text": "Ada", "label": "PERSON", "start": 0}],
 "relationMentions": [{"em1Text": "Ada", "em2Text": "Rome", "label": "/people/person/place_lived"}]}
{"text": "…", "triple_list": [["Ada", "/people/person/place_lived", "Rome"]]}
{"text": "…", "spo_list": [{"subject": "Ada", "predicate": "…", "object": "Rome", "subject_type": "…", …}]}  (DuIE)
{"tokens": ["…"], "spo_list": [["Ada", "…", "Rome"]], "spo_details": [[0, 1, "PERSON", "…", 4, 5, "LOCATION"]]}
{"text": "…", "relation": "…", "h": {"name": "Ada", "pos": [0, 3]}, "t": {…}}                       (OpenNRE)
{"sentence": "…", "relation": "…", "head": {"word": "Ada", "type": "…"}, "tail": {…}}
{"sentext": "…", "relations": [{"em1": "Ada", "em2": "Rome", "rtext": "…"}]}                                 (HRL)
{"text": "…", "relation_list": [{"subject": "Ada", "predicate": "…", "object": "Rome", "subj_char_span": [0, 3], …}],
 "entity_list": [{"text": "Ada", "type": "PERSON", "char_span": [0, 3]}]}                            (TPLinker)

Lines of NYT10: two identifiers, two names, relation, sentence and ###END###, separated by tabs. NYT24 and NYT29: a
sentence a line in NAME.sent, and its triples "Ada ; Rome ; /people/… | …" in the same line of NAME.tup.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

from lmrc.common.errors import UserError
from lmrc.common.files import reading
from lmrc.convert.annotations import Annotations, RawRelation, Span, is_whole, locate, occurrences
from lmrc.convert.json_records import json_records, list_of, member
from lmrc.convert.tacred import NO_RELATION
from lmrc.corpus.text import TokenizedText
from lmrc.corpus.types import Document

_WORD = re.compile(r"\S+")
# Names of a list of triples.
_TRIPLES = ("triple_list", "spo_list", "triples")
# End of the sentences of NYT10.
_END = "###END###"


@dataclass
class _Sentence:
    """A sentence in any of the forms.

    Attributes:
        types: Type of each entity by name; "" if unknown.
        spans: Characters of mentions, if the form has them: name, start, end.
        triples: Names of head and tail, and the relation.
        further_types: Number of further types of entities.
        further_values: Number of further values of objects (DuIE 2).
    """

    text: str
    types: dict[str, str] = field(default_factory=dict)
    spans: list[tuple[str, int, int]] = field(default_factory=list)
    triples: list[tuple[str, str, str]] = field(default_factory=list)
    further_types: int = 0
    further_values: int = 0

    def add(self, name: str, kind: str = "") -> str:
        """Add an entity by its name, and return the name."""
        known = self.types.get(name, "")
        self.further_types += bool(known and kind and known != kind)
        self.types[name] = known or kind
        return name


def read(path: Path, remarks: Counter[str]) -> Iterator[Document]:
    """Yield a document of one sentence for each record. An entity is a name; its mentions are where the name occurs.

    Raises:
        UserError: The file is in none of the forms.
    """
    for title, sentence in _sentences(path):
        annotations = Annotations(title, remarks)
        remarks["further types of entities left out"] += sentence.further_types
        remarks["further values of objects left out"] += sentence.further_values
        _add_mentions(annotations, sentence, remarks)
        for head, tail, relation in sentence.triples:
            if relation.lower() in NO_RELATION:
                remarks["pairs of no relation, which have no label"] += 1
            else:
                mentions = (annotations.entities[head] + annotations.entities[tail])[:1]
                annotations.relations.append(RawRelation(head, tail, relation, tuple(mentions)))
        document = annotations.to_document(TokenizedText(sentence.text, (_tokens(sentence.text, annotations.parts()),)))
        if document is not None:
            yield document


def _sentences(path: Path) -> Iterator[tuple[str, _Sentence]]:
    """Yield title and sentence of each record of a file."""
    if path.name.removesuffix(".gz").endswith((".sent", ".tup")):
        yield from _of_two_files(path)
        return
    with reading(path) as stream:
        is_json = stream.read(64).lstrip()[:1] in (b"{", b"[", b"")
    if not is_json:
        yield from _of_columns(path)
        return
    for index, record in enumerate(json_records(path)):
        title = f"{path.stem} {record.get('id', index)}"
        if "articleId" in record:
            title = f"{record['articleId']} {record.get('sentId', index)}"
        yield title, _parse(record, f"{path}: sentence {index}")


def _lines(path: Path) -> Iterator[str]:
    with reading(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: line {number} is not UTF-8 ({error.reason}); convert it first") from None


def _of_columns(path: Path) -> Iterator[tuple[str, _Sentence]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < 6:
            raise UserError(
                f"{path}: line {number} is {line[:60]!r}, expected JSON, or two identifiers, two names, relation and "
                "sentence, separated by tabs"
            )
        sentence = _Sentence(fields[5].removesuffix(_END).strip())
        sentence.triples.append((sentence.add(fields[2]), sentence.add(fields[3]), fields[4]))
        yield f"{path.stem} {number - 1}", sentence


def _of_two_files(path: Path) -> Iterator[tuple[str, _Sentence]]:
    base = path.with_name(path.name.removesuffix(".gz"))
    texts, triples = (base.with_suffix(suffix) for suffix in (".sent", ".tup"))
    for index, (text, line) in enumerate(zip_longest(_lines(texts), _lines(triples))):
        if text is None or line is None:
            raise UserError(f"{texts} and {triples} have not the same number of lines; fetch both again")
        sentence = _Sentence(text)
        for triple in filter(None, (part.strip() for part in line.split("|"))):
            parts = [part.strip() for part in triple.split(" ; ")]
            if len(parts) != 3:
                raise UserError(f"{triples}: line {index + 1} has {triple!r}, expected head ; tail ; relation")
            sentence.triples.append((sentence.add(parts[0]), sentence.add(parts[1]), parts[2]))
        yield f"{texts.stem} {index}", sentence


def _parse(record: dict[str, Any], where: str) -> _Sentence:
    """Return the sentence of a record, by the keys that it has."""
    if "sentText" in record:
        return _of_relation_mentions(record, where)
    if "sentext" in record:
        return _of_marked_relations(record, where)
    if "relation_list" in record:
        return _of_relation_list(record, where)
    for key in _TRIPLES:
        if key in record:
            return _of_triples(record, key, where)
    for text, head, tail, name in (("text", "h", "t", "name"), ("sentence", "head", "tail", "word")):
        if text in record and head in record and tail in record:
            return _of_one_pair(record, where, text, (head, tail), name)
    raise UserError(
        f"{where} has {', '.join(sorted(record)[:12]) or 'nothing'}; expected sentText with relationMentions, or text "
        "with triple_list, relation_list, or h, t and relation"
    )


def _of_relation_mentions(record: dict[str, Any], where: str) -> _Sentence:
    sentence = _Sentence(member(record, "sentText", str, where))
    for entity in list_of(record, "entityMentions", where):
        # `start` is the number of the mention in the published files, no offset.
        sentence.add(member(entity, "text", str, f"{where}: an entity mention"), str(entity.get("label") or ""))
    for relation in member(record, "relationMentions", list, where):
        about = f"{where}: a relation mention"
        head, tail = (sentence.add(member(relation, key, str, about)) for key in ("em1Text", "em2Text"))
        sentence.triples.append((head, tail, member(relation, "label", str, about)))
    return sentence


def _of_marked_relations(record: dict[str, Any], where: str) -> _Sentence:
    sentence = _Sentence(member(record, "sentext", str, where))
    for relation in member(record, "relations", list, where):
        about = f"{where}: a relation"
        head, tail = (sentence.add(member(relation, key, str, about)) for key in ("em1", "em2"))
        sentence.triples.append((head, tail, member(relation, "rtext", str, about)))
    return sentence


def _of_triples(record: dict[str, Any], key: str, where: str) -> _Sentence:
    raw = record.get("text", record.get("sentence", record.get("tokens")))
    text = " ".join(map(str, raw)) if isinstance(raw, list) else raw
    if not isinstance(text, str):
        raise UserError(f"{where}: text is missing; it has {', '.join(sorted(record)[:12])}")
    sentence = _Sentence(text)
    words = text.split()
    for details in list_of(record, "spo_details", where):
        # Tokens and types of the triples in `spo_list`.
        found = [type(part) for part in details] if isinstance(details, list) else []
        if found != [int, int, str, str, int, int, str]:
            raise UserError(
                f"{where}: spo_details has {details!r}, expected start, end and type of the head, the relation, and "
                "start, end and type of the tail"
            )
        sentence.add(" ".join(words[details[0] : details[1]]), details[2])
        sentence.add(" ".join(words[details[4] : details[5]]), details[6])
    for triple in member(record, key, list, where):
        kinds = ["", ""]
        if isinstance(triple, dict):
            keys = (("subject", "head"), ("predicate", "relation"), ("object", "tail"))
            kinds = [str(_value(triple.get(key)) or "") for key in ("subject_type", "object_type")]
            further = (triple.get("object"), triple.get("object_type"))
            # An object of DuIE 2 may have several slots; the triple has the first.
            sentence.further_values += max(len(value) - 1 if isinstance(value, dict) else 0 for value in further)
            triple = [_value(triple.get(key, triple.get(other))) for key, other in keys]
        if not isinstance(triple, (list, tuple)) or len(triple) != 3 or not all(isinstance(x, str) for x in triple):
            raise UserError(f"{where}: {key} has {triple!r}, expected subject, relation and object")
        head, relation, tail = triple
        sentence.triples.append((sentence.add(head, kinds[0]), sentence.add(tail, kinds[1]), relation))
    return sentence


def _value(value: Any) -> Any:
    """Return the value of {"@value": "Rome", "inWork": "…"}; anything else as it is."""
    return value["@value"] if isinstance(value, dict) and "@value" in value else value


def _of_relation_list(record: dict[str, Any], where: str) -> _Sentence:
    sentence = _Sentence(member(record, "text", str, where))
    for entity in list_of(record, "entity_list", where):
        name = sentence.add(member(entity, "text", str, f"{where}: an entity"), str(entity.get("type") or ""))
        _add_span(sentence, name, entity.get("char_span"))
    for relation in member(record, "relation_list", list, where):
        about = f"{where}: a relation"
        head, tail = (sentence.add(member(relation, key, str, about)) for key in ("subject", "object"))
        _add_span(sentence, head, relation.get("subj_char_span"))
        _add_span(sentence, tail, relation.get("obj_char_span"))
        sentence.triples.append((head, tail, member(relation, "predicate", str, about)))
    return sentence


def _of_one_pair(record: dict[str, Any], where: str, text: str, roles: tuple[str, str], key: str) -> _Sentence:
    sentence = _Sentence(member(record, text, str, where))
    names = []
    for role in roles:
        entity = member(record, role, dict, where)
        # A type of Freebase is a long list of them.
        kinds = str(entity.get("type") or "").split(",")
        sentence.further_types += len(kinds) - 1
        name = sentence.add(member(entity, key, str, f"{where}: {role}"), kinds[0])
        _add_span(sentence, name, entity.get("pos"))
        names.append(name)
    sentence.triples.append((names[0], names[1], member(record, "relation", str, where)))
    return sentence


def _add_span(sentence: _Sentence, name: str, span: Any) -> None:
    if isinstance(span, (list, tuple)) and len(span) == 2 and all(type(bound) is int for bound in span):
        sentence.spans.append((name, span[0], span[1]))


def _add_mentions(annotations: Annotations, sentence: _Sentence, remarks: Counter[str]) -> None:
    """Add the mentions of all entities: those with offsets there, the others where their name occurs."""
    placed: dict[str, set[Span]] = {name: set() for name in sentence.types}
    for name, start, end in sentence.spans:
        span = locate(sentence.text, start, end, name, remarks)
        if span is not None:
            placed[name].add(span)
    located = {name: spans or set(_occurrences(sentence.text, name)) for name, spans in placed.items()}
    for name, spans in located.items():
        others = [span for other, taken in located.items() if other != name for span in taken]
        # "York" in "New York" is another entity, unless it occurs nowhere else.
        outside = {span for span in spans if placed[name] or not any(_contains(other, span) for other in others)}
        annotations.entities[name] = []
        remarks["names that are not in their sentence"] += not spans
        for span in sorted(outside or spans):
            annotations.add_to_entity(name, annotations.add_mention([span], sentence.types[name]))


def _contains(outer: Span, inner: Span) -> bool:
    return outer != inner and outer[0] <= inner[0] and inner[1] <= outer[1]


def _occurrences(text: str, name: str) -> list[Span]:
    """Return where a name occurs: as whole words, or else with other white space or case, or else inside of words."""
    exact = occurrences(text, name.strip())
    if whole := [span for span in exact if is_whole(text, span)]:
        return whole
    letters = "".join(name.split())
    spaced = r"\s*".join(map(re.escape, letters))
    for flags in (0, re.IGNORECASE) if letters else ():
        found = [match.span() for match in re.finditer(spaced, text, flags)]
        if whole := [span for span in found if is_whole(text, span)]:
            return whole
    return exact


def _tokens(text: str, spans: list[Span]) -> tuple[Span, ...]:
    """Return the tokens of a sentence, which white space separates already; a token ends at each end of a mention."""
    bounds = sorted({0, len(text), *(bound for span in spans for bound in span)})
    return tuple(match.span() for start, end in pairwise(bounds) for match in _WORD.finditer(text, start, end))
