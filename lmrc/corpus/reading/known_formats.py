"""Recognition of files of the field that hold something else than documents in DocRED's format."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import islice
from pathlib import Path

import ijson

from lmrc.common.errors import UserError
from lmrc.common.file_kind import HEAD
from lmrc.common.files import reading

# Keys that the records of a format have, in the order in which they are tried. The names are those of
# `lmrc data convert --from`, but for the first three.
_KEYS: tuple[tuple[str, frozenset[str]], ...] = (
    ("docred", frozenset(["sents", "vertexSet"])),
    ("predictions", frozenset(["h_idx", "t_idx", "r"])),
    ("result of lmrc extract", frozenset(["title", "text", "triples", "sentences"])),
    ("scierc", frozenset(["sentences", "ner"])),
    ("scierc", frozenset(["tokens", "entities", "relations"])),
    ("dwie", frozenset(["mentions", "concepts"])),
    ("tacred", frozenset(["token", "subj_start", "obj_start"])),
    ("tacred", frozenset(["token", "h", "t"])),
    ("tacred", frozenset(["tokens", "h", "t"])),
    ("nyt", frozenset(["sentText", "relationMentions"])),
    ("nyt", frozenset(["sentext", "relations"])),
    ("nyt", frozenset(["text", "triple_list"])),
    ("nyt", frozenset(["text", "relation_list"])),
    ("nyt", frozenset(["text", "spo_list"])),
    ("nyt", frozenset(["tokens", "spo_list"])),
    ("nyt", frozenset(["text", "h", "t"])),
    ("nyt", frozenset(["sentence", "head", "tail"])),
    ("bioc", frozenset(["documents", "infons"])),
    ("bioc", frozenset(["passages"])),
    ("text", frozenset(["text"])),
)
# Begin of the text of a format.
_TEXTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("pubtator", re.compile(r"[^|\t\n]+\|[ta]\|")),
    ("pubtator", re.compile(r"[^\t\n]+\t[^\t\n]+\t(?:[\w:]+|not_include)\t(?:L2R|R2L)\t")),
    ("bioc", re.compile(r"<\?xml[^>]*>\s*(?:<!DOCTYPE[^>]*>\s*)?<collection\b|<collection\b")),
    ("conllu", re.compile(r"# ?(?:newdoc|newpar|global\.|sent_id|text)\b")),
    ("conllu", re.compile(r"\d+(?:-\d+)?\t[^\t\n]+(?:\t[^\t\n]*){8}\n")),
    ("brat", re.compile(r"T\d+\t\S+ \d+ \d+")),
    ("nyt", re.compile(r"\S+\t\S+\t[^\t\n]+\t[^\t\n]+\t[^\t\n]+\t[^\n]*###END###")),
)
# Most bytes of a file whose first record is looked at.
_LARGEST = 64 << 20


def format_of_keys(keys: Collection[str]) -> str | None:
    """Return the name of the format whose records have these keys, or None."""
    return next((name for name, needed in _KEYS if needed <= set(keys)), None)


def format_of_text(head: bytes) -> str | None:
    """Return the name of the format of a text by its first bytes, or None."""
    text = head.decode("utf-8", errors="ignore").lstrip()
    return next((name for name, pattern in _TEXTS if pattern.match(text)), None)


def format_of_file(path: Path) -> str | None:
    """Return the name of the format of a file, or None if it is not known or cannot be read."""
    try:
        with reading(path) as stream:
            start = stream.tell()
            head = stream.read(HEAD)
            stream.seek(start)
            if not head.lstrip().startswith((b"{", b"[")):
                return format_of_text(head)
            if path.stat().st_size > _LARGEST:
                return None
            is_list = head.lstrip().startswith(b"[")
            items = ijson.items(stream, "item" if is_list else "", use_float=True, multiple_values=not is_list)
            first = next(islice(items, 1), None)
    except (UserError, ijson.JSONError, OSError):
        return None
    return format_of_keys(first) if isinstance(first, dict) else None


def remedy(name: str | None, path: Path) -> str:
    """Return the sentence that says what to do with a file of this format, after "; "; "" without a format."""
    if name is None:
        return ""
    if name == "docred":
        return f"; it is in DocRED's format already: lmrc data build {path}"
    if name == "predictions":
        return f"; these are predictions: lmrc score {path} --gold DOCUMENTS"
    if name.startswith("result"):
        return "; these are results of lmrc extract, which have character spans in place of tokens"
    out = path.name.partition(".")[0]
    convert = f"lmrc data convert {path} --from {name} --out {out}.docred.json"
    if name == "text":
        return f"; these are texts: {convert}, or lmrc extract {path} --out {out}.triples.jsonl"
    return f"; it looks like {name}: {convert}"
