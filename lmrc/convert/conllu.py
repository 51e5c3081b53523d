"""CoNLL-U with coreference: CorefUD and Universal Anaphora, and the older Coref= and ClusterId= attributes.

# newdoc id = d1
# global.Entity = eid-etype-head-other
1	Ada	Ada	PROPN	_	_	2	nsubj	_	Entity=(e1-person-1-new)
2	left	leave	VERB	_	_	0	root	_	SpaceAfter=No
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from lmrc.common.errors import UserError
from lmrc.common.files import reading
from lmrc.convert.annotations import Annotations, lay_out
from lmrc.corpus.types import Document

_COLUMNS = ["ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC"]
_ID = re.compile(r"(\d+)(?:-(\d+)|\.(\d+))?")
# "(x" begins a mention, "x)" ends one, "(x)" is one of a single word.
_BRACKET = re.compile(r"\(([^()]+)(\)?)|([^()]+)\)")
_PART = re.compile(r"\[(\d+)/(\d+)\]")
# Names in `# global.Entity`.
_GROUP_NAMES = ("eid", "GRP")
_TYPE_NAMES = ("etype", "entity", "type")


@dataclass
class _Row:
    """A line of a word, of an empty node (1.1), or of several words (1-2) that are written as one."""

    first: int
    last: int
    is_empty: bool
    form: str
    brackets: str
    misc: dict[str, str]
    node: str

    def has(self, word: _Row) -> bool:
        """Return True if a row is one of the words that this one writes as one."""
        return word.first == word.last and not word.is_empty and self.first <= word.first <= self.last


@dataclass
class _Open:
    """A mention that has begun: rows [start, end] of each part."""

    group: str
    kind: str
    total: int = 1
    parts: list[list[int]] = field(default_factory=list)


@dataclass
class _Text:
    """The lines of one document, sentence by sentence."""

    title: str
    sentences: list[list[_Row]] = field(default_factory=list)


def read(path: Path, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the documents of a file. The format has no relations, so that no document has labels.

    Raises:
        UserError: A line is not in the format.
    """
    text = _Text(path.stem)
    columns, names = _COLUMNS, list[str]()
    rows: list[_Row] = []
    with reading(path) as stream:
        for number, raw in enumerate(stream, 1):
            try:
                line = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: line {number} is not UTF-8 ({error.reason}); convert it first") from None
            if not line.strip():
                text.sentences.append(rows)
                rows = []
            elif line.startswith("#"):
                key, _, value = line[1:].partition("=")
                key, value = key.strip(), value.strip()
                if key in ("newdoc id", "newdoc"):
                    text.sentences.append(rows)
                    yield from _documents(text, names, path, remarks)
                    text, rows = _Text(value or f"{path.stem} {number}"), []
                elif key == "global.columns":
                    columns = value.split()
                elif key == "global.Entity":
                    names = value.split("-")
            else:
                rows.append(_row(line, columns, f"{path}: line {number}"))
    text.sentences.append(rows)
    yield from _documents(text, names, path, remarks)


def _row(line: str, columns: list[str], where: str) -> _Row:
    fields = line.split("\t")
    if len(fields) != len(columns):
        raise UserError(f"{where} has {len(fields)} columns separated by tabs, expected {len(columns)}")
    values = dict(zip(columns, fields, strict=True))
    match = _ID.fullmatch(values["ID"])
    if match is None:
        raise UserError(f"{where} begins with {values['ID']!r}, expected the number of a word, such as 1, 1-2 or 1.1")
    misc: dict[str, str] = {}
    key = ""
    for part in values.get("MISC", "_").split("|"):
        name, equals, value = part.partition("=")
        if equals:
            key = name
            misc[key] = value
        elif key in ("Coref", "Entity") and re.search("[()]", part):
            # Coref=(1|(2 has the separator of CoNLL-2012, which also separates the attributes.
            misc[key] += part
    column = next(
        (value for name, value in values.items() if name.upper().rpartition(":")[2] in ("COREF", "ENTITY")), ""
    )
    brackets = misc.get("Entity") or misc.get("Coref") or ("" if column in ("_", "-", "*") else column)
    first = int(match[1])
    last = int(match[2] or first)
    return _Row(first, last, match[3] is not None, values["FORM"], brackets.replace("|", ""), misc, values["ID"])


def _documents(text: _Text, names: list[str], path: Path, remarks: Counter[str]) -> Iterator[Document]:
    """Yield the document of some lines, if it has an entity."""
    sentences = [rows for rows in text.sentences if rows]
    if not sentences:
        return
    rows = [row for sentence in sentences for row in sentence]
    # The number of the first row of each sentence.
    bases = [0, *accumulate(len(sentence) for sentence in sentences)]
    where = f"{path}: document {text.title!r}"
    found = _mentions(rows, names, remarks) + _of_clusters(sentences, bases, where)
    remarks["bridging links left out"] += sum(row.misc.get("Bridge", "").count("<") for row in rows)
    for key in ("SplitAnte", "Split"):
        remarks["split antecedents left out"] += sum(row.misc.get(key, "").count("<") for row in rows)
    bounds = {bound for mention in found for start, end in mention.parts for bound in (start, end + 1)}
    tokens, glued, token_of_row = _tokens(sentences, bounds, remarks)
    laid_out = lay_out(tokens, glued)
    spans = [span for sentence in laid_out.spans for span in sentence]
    annotations = Annotations(text.title, remarks, is_labeled=False)
    # Many files give the type at one mention of an entity only.
    types = {mention.group: mention.kind for mention in reversed(found) if mention.kind}
    for mention in found:
        kind = mention.kind or types.get(mention.group, "")
        parts = []
        for start, end in mention.parts:
            words = [token_of_row[row] for row in range(start, end + 1) if row in token_of_row]
            if words:
                parts.append((spans[words[0]][0], spans[words[-1]][1]))
        if parts:
            annotations.add_to_entity(mention.group, annotations.add_mention(parts, kind))
        else:
            annotations.entities.setdefault(mention.group, [])
            remarks["mentions of empty nodes alone left out"] += 1
    document = annotations.to_document(laid_out)
    if document is not None:
        yield document


def _tokens(
    sentences: list[list[_Row]], bounds: set[int], remarks: Counter[str]
) -> tuple[list[list[str]], set[int], dict[int, int]]:
    """Return the tokens of each sentence, those without a space behind them, and the token of each word's row.

    A multiword token (1-2) is one token as it is written, unless a mention begins or ends inside of it: then it is its
    words. Empty nodes have no token.
    """
    tokens: list[list[str]] = []
    glued: set[int] = set()
    token_of_row: dict[int, int] = {}
    number = count = 0
    for sentence in sentences:
        written: list[str] = []
        whole: _Row | None = None
        for index, row in enumerate(sentence, number):
            if row.last > row.first:
                words = [place for place, word in enumerate(sentence, number) if row.has(word)]
                if words and any(place in bounds for place in range(words[0] + 1, words[-1] + 1)):
                    remarks["words written as one, now apart, as a mention is of one of them"] += 1
                    continue
                whole = row
                written.append(row.form)
                # An attribute may also be at the line of the whole.
                token_of_row.update({place: count for place in (index, *words)})
            elif row.is_empty or (whole is not None and row.first <= whole.last):
                continue
            else:
                written.append(row.form)
                token_of_row[index] = count
            if row.misc.get("SpaceAfter") == "No":
                glued.add(count)
            count += 1
        tokens.append(written)
        number += len(sentence)
    return tokens, glued, token_of_row


def _mentions(rows: list[_Row], names: list[str], remarks: Counter[str]) -> list[_Open]:
    """Return the mentions in bracket notation, with rows as their parts. A bracket without a partner is counted."""
    found: list[_Open] = []
    still_open: list[tuple[str, _Open]] = []
    discontinuous: dict[str, _Open] = {}
    for index, row in enumerate(rows):
        remarks["coreference attributes in no form of brackets left out"] += bool(_BRACKET.sub("", row.brackets))
        for begun, single, ended in _BRACKET.findall(row.brackets):
            if begun:
                key, part, total, group, kind = _attributes(begun, names)
                mention = discontinuous.get(f"{group}/{total}") if part > 1 else None
                if mention is None:
                    mention = _Open(group or f"\0{index} {len(found)}", kind, total)
                    found.append(mention)
                    if total > 1:
                        discontinuous[f"{group}/{total}"] = mention
                mention.parts.append([index, index])
                if not single:
                    still_open.append((key, mention))
            else:
                place = _partner(still_open, ended)
                if place is None:
                    remarks["brackets that end no mention left out"] += 1
                else:
                    still_open.pop(place)[1].parts[-1][1] = index
    remarks["mentions that never end left out"] += len(still_open)
    never_ended = {id(mention) for _, mention in still_open}
    return [mention for mention in found if id(mention) not in never_ended]


def _attributes(begun: str, names: list[str]) -> tuple[str, int, int, str, str]:
    """Return the bracket's text, the part and the number of parts, the entity and the type of a mention.

    The entity is "" if the format names none.
    """
    match = _PART.search(begun)
    part, total = (int(match[1]), int(match[2])) if match else (1, 1)
    values = _PART.sub("", begun).split("-")
    if not names:
        # Without `# global.Entity`, an entity has a digit: (e1-person, (person-1, (1. In (person there is only a type.
        group, kind = (*values, "", "")[:2]
        if not re.search(r"\d", group):
            group, kind = (kind if kind else "", group)
        return begun, part, total, group, "" if kind.isdigit() else kind
    named = dict(zip(names, values, strict=False))
    group, kind = (next((named[name] for name in known if name in named), "") for known in (_GROUP_NAMES, _TYPE_NAMES))
    return begun, part, total, group, kind


def _partner(still_open: list[tuple[str, _Open]], ended: str) -> int | None:
    """Return the place of the mention that a closing bracket ends: the last one with its text, or with its entity."""
    bare = _PART.sub("", ended)
    for matches in (
        lambda key, mention: key == ended,
        lambda key, mention: mention.group in (bare, bare.rpartition("-")[2], bare.partition("-")[0]),
        lambda key, mention: mention.kind == bare,
    ):
        for place in range(len(still_open) - 1, -1, -1):
            if matches(*still_open[place]):
                return place
    return None


def _of_clusters(sentences: list[list[_Row]], bases: list[int], where: str) -> list[_Open]:
    """Return the mentions of CorefUD 0.1 and 0.2: ClusterId=c1|MentionSpan=1,3-5|ClusterType=person at a word."""
    found = []
    for base, sentence in zip(bases, sentences, strict=False):
        place = {row.node: base + index for index, row in enumerate(sentence)}
        for row in sentence:
            for key, group in row.misc.items():
                match = re.fullmatch(r"ClusterId(\[\d+\])?", key)
                if match is None:
                    continue
                suffix = match[1] or ""
                span = row.misc.get(f"MentionSpan{suffix}", row.node)
                mention = _Open(group, row.misc.get(f"ClusterType{suffix}", ""))
                for part in span.split(","):
                    start, _, end = part.partition("-")
                    if start not in place or (end or start) not in place:
                        raise UserError(f"{where}: MentionSpan={span} at {row.form!r} names a word that is not there")
                    mention.parts.append([place[start], place[end or start]])
                found.append(mention)
    return found
