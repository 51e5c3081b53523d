"""Mentions given with a text in JSON, as character spans, and their check.

{"title": "Ada", "text": "Ada was …", "mentions": [{"start": 0, "end": 3, "type": "PER", "id": "ada"}, …]}. The key may
also be "entities". Mentions with the same id are one entity; mentions without an id are, if they have the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmrc.common.errors import UserError
from lmrc.text.mentions import TextMention

KEYS = ("mentions", "entities")
_TYPE_KEYS, _ID_KEYS, _NAME_KEYS = ("type", "label"), ("id", "entity", "entity_id"), ("text", "name")
# Characters of a text that a message shows.
_SHOWN = 40


class SpanError(UserError):
    """A text or its mentions that break the form. The message lists all breaches."""

    def __init__(self, where: str, breaches: list[str]) -> None:
        if len(breaches) == 1:
            super().__init__(f"{where}: {breaches[0]}")
        else:
            super().__init__(
                "\n".join([f"{where}: {len(breaches):,} breaches:", *(f"  - {breach}" for breach in breaches)])
            )


def check_text(raw: Mapping[str, Any]) -> list[str]:
    """Return the breaches of title and text, without those of the mentions."""
    breaches = []
    text, title = raw.get("text"), raw.get("title", "")
    if not isinstance(text, str):
        breaches.append(f"text is {_shown(text)}, expected a string")
    elif _unpaired(text) is not None:
        breaches.append(f"text has half of a surrogate pair at {_unpaired(text)}, which is no character")
    if not isinstance(title, str) or _unpaired(title) is not None:
        breaches.append(f"title is {_shown(title)}, expected a string of characters")
    return breaches


def parse(raw: Mapping[str, Any]) -> tuple[list[TextMention] | None, list[str]]:
    """Return the mentions of a text, None if it has none of the keys, and all breaches.

    Args:
        raw: an object whose "text" is a string.
    """
    key = next((key for key in KEYS if key in raw), None)
    if key is None:
        return None, []
    if not isinstance(raw[key], list):
        return [], [f"{key} is {_shown(raw[key])}, expected a list of {{start, end, type, id}}"]
    found: dict[tuple[int, int, Any], TextMention] = {}
    breaches: list[str] = []
    for index, item in enumerate(raw[key]):
        where = f"{key}[{index}]"
        mention = _mention(item, raw["text"], where, breaches)
        if mention is not None:
            position = (mention.start, mention.end, mention.entity)
            if position in found:
                breaches.append(f"{where} repeats the span {mention.start} to {mention.end} of the same entity")
            found[position] = mention
    return list(found.values()), breaches


def _mention(item: Any, text: str, where: str, breaches: list[str]) -> TextMention | None:
    """Return a mention, or None after adding its breach."""
    if not isinstance(item, dict):
        breaches.append(f"{where} is {_shown(item)}, expected an object with start, end and type")
        return None
    start, end, type_ = item.get("start"), item.get("end"), _first(item, _TYPE_KEYS)
    identity, name = _first(item, _ID_KEYS), _first(item, _NAME_KEYS)
    problem = ""
    if type(start) is not int or type(end) is not int:
        problem = f"has start {_shown(start)} and end {_shown(end)}, expected two integers: characters of text"
    elif not 0 <= start < end <= len(text):
        kind = (
            "is empty" if 0 <= start == end <= len(text) else f"is not in the text, which has {len(text):,} characters"
        )
        problem = f"spans {start} to {end}, which {kind} (the end is the character behind the mention)"
    elif not text[start:end].strip() or not any(character.isalnum() for character in text[start:end]):
        problem = f"spans {start} to {end}, which is {text[start:end]!r}: no word"
    elif not isinstance(type_, str) or not type_.strip():
        problem = f"has the type {_shown(type_)}, expected a string such as PER"
    elif identity is not None and type(identity) not in (str, int):
        problem = f"has the id {_shown(identity)}, expected a string or an integer"
    elif name is not None and not isinstance(name, str):
        problem = f"has the text {_shown(name)}, expected a string"
    elif name is not None and name.split() != text[start:end].split():
        problem = f"is {_shown(name)}, but {start} to {end} of the text is {_shown(text[start:end])}"
        nearest = _nearest(text, name, start)
        if nearest is not None:
            problem += f"; it stands at {nearest} to {nearest + len(name)}"
    if problem:
        breaches.append(f"{where} {problem}")
        return None
    assert isinstance(start, int) and isinstance(end, int) and isinstance(type_, str)
    return TextMention(start, end, type_.strip(), identity)


def _first(item: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _nearest(text: str, name: str, start: int) -> int | None:
    """Return the position of the name that is nearest to `start`, or None."""
    places = [at for at in (text.rfind(name, 0, start + len(name)), text.find(name, start)) if name.strip() and at >= 0]
    return min(places, key=lambda at: abs(at - start), default=None)


def _unpaired(text: str) -> int | None:
    """Return the position of the first half of a surrogate pair: JSON can hold it, but UTF-8 cannot."""
    return next((at for at, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)


def _shown(value: Any) -> str:
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
