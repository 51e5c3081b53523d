from __future__ import annotations

import re

import pytest

from lmrc.text.coreference import grouped, normal_name
from lmrc.text.mentions import TextMention


def groups(marked: str) -> list[list[str]]:
    """Return the names of each entity of a text with mentions as [name|TYPE] or [name|TYPE|key]."""
    text, mentions, at = "", [], 0
    for match in re.finditer(r"\[([^]|]+)\|(\w+)(?:\|(\w+))?\]", marked):
        text += marked[at : match.start()]
        mentions.append(TextMention(len(text), len(text) + len(match[1]), match[2], match[3]))
        text, at = text + match[1], match.end()
    text += marked[at:]
    return [[text[m.start : m.end] for m in entity] for entity in grouped(text, mentions)]


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        ("[Ada Lum|PER] left. [Lum|MISC] and [Ada|PER] are one.", [["Ada Lum", "Lum", "Ada"]]),
        # The last person with this surname.
        ("[Ada Lum|PER], [Bo Lum|PER]: [Lum|PER]", [["Ada Lum"], ["Bo Lum", "Lum"]]),
        ("[Ada Lum|PER], [Bo Lum|PER], [Ada Lum|PER]: [Lum|PER]", [["Ada Lum", "Ada Lum", "Lum"], ["Bo Lum"]]),
        # A place is no part of a person's name, and a surname before the full name is another entity.
        ("[Ada Lum|PER] in [Lum|LOC]", [["Ada Lum"], ["Lum"]]),
        ("[Lum|MISC] is [Ada Lum|PER]", [["Lum"], ["Ada Lum"]]),
        ("the [World Health Organization|ORG] ([WHO|ORG]); [WHO|ORG]", [["World Health Organization", "WHO", "WHO"]]),
        ("the [Bank of England|ORG] ([BOE|ORG], [BE|ORG])", [["Bank of England", "BOE"], ["BE"]]),
        ("the [World Bank|ORG] ([WHO|ORG])", [["World Bank"], ["WHO"]]),
        ("the [World Health Organization|ORG] and [WHO|ORG]", [["World Health Organization"], ["WHO"]]),
        ("[The U.S.|LOC], [U.S|LOC] and [the US's|LOC]", [["The U.S.", "U.S", "the US's"]]),
        # Keys decide alone.
        ("[Lum|PER|a] [Lum|PER|b] [she|PER|a] [Lum|PER]", [["Lum", "she"], ["Lum"], ["Lum"]]),
        ("[Ada Lum|PER|a] [Lum|PER]", [["Ada Lum"], ["Lum"]]),
    ],
)  # fmt: skip
def test_entities(marked: str, expected: list[list[str]]) -> None:
    assert groups(marked) == expected


def test_normal_names() -> None:
    assert normal_name("The  Orr\nBank\u2019s") == "orr bank"
    assert normal_name("Theo") == "theo"
    # A full-width letter is the plain one.
    assert normal_name("\uff21da") == "ada"
