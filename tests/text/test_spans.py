from __future__ import annotations

from typing import Any

import pytest

from lmrc.text.mentions import TextMention
from lmrc.text.spans import check_text, parse

TEXT = "Ada Lum met Orr. Lum left."


def test_both_keys_and_all_fields() -> None:
    ada, lum = (
        {"start": 0, "end": 7, "type": "PER", "id": "a", "text": "Ada Lum"},
        {"start": 17, "end": 20, "label": "PER"},
    )
    expected = [TextMention(0, 7, "PER", "a"), TextMention(17, 20, "PER", 3)]
    for key in ("mentions", "entities"):
        assert parse({"text": TEXT, key: [ada, {**lum, "entity": 3, "name": "Lum"}]}) == (expected, [])
    assert parse({"text": TEXT}) == (None, [])
    assert parse({"text": TEXT, "mentions": []}) == ([], [])


@pytest.mark.parametrize(
    ("mention", "breach"),
    [
        ({"start": 0, "end": 7}, "has the type missing"),
        ({"start": 0, "end": 7, "type": " "}, "has the type ' '"),
        ({"start": 0.0, "end": 7, "type": "PER"}, "has start 0.0 and end 7, expected two integers"),
        ({"start": True, "end": 7, "type": "PER"}, "has start True"),
        ({"start": 5, "end": 27, "type": "PER"}, "spans 5 to 27, which is not in the text, which has 26 characters"),
        ({"start": -3, "end": 4, "type": "PER"}, "is not in the text"),
        ({"start": 3, "end": 3, "type": "PER"}, "is empty (the end is the character behind the mention)"),
        ({"start": 15, "end": 17, "type": "PER"}, "is '. ': no word"),
        ({"start": 0, "end": 3, "type": "PER", "id": ["a"]}, "has the id ['a']"),
        ({"start": 1, "end": 4, "type": "PER", "text": "Orr"},
         "is 'Orr', but 1 to 4 of the text is 'da '; it stands at 12 to 15"),
        ({"start": 0, "end": 3, "type": "PER", "text": "Eve"}, "is 'Eve', but 0 to 3 of the text is 'Ada'"),
        ("Ada", "is 'Ada', expected an object"),
    ],
)  # fmt: skip
def test_breaches(mention: Any, breach: str) -> None:
    mentions, (found,) = parse({"text": TEXT, "mentions": [mention]})
    assert mentions == []
    assert found.startswith("mentions[0] ")
    assert breach in found


def test_all_breaches_are_named() -> None:
    one = {"start": 0, "end": 7, "type": "PER", "id": 1}
    mentions, breaches = parse({"text": TEXT, "entities": [{}, one, None, one, {**one, "id": 2}]})
    assert [breach.split()[0] for breach in breaches] == ["entities[0]", "entities[2]", "entities[3]"]
    assert "repeats the span 0 to 7 of the same entity" in breaches[2]
    assert mentions == [TextMention(0, 7, "PER", 1), TextMention(0, 7, "PER", 2)]
    assert parse({"text": TEXT, "mentions": {}})[1] == ["mentions is {}, expected a list of {start, end, type, id}"]


def test_texts_and_titles() -> None:
    assert check_text({"text": "", "title": ""}) == []
    assert len(check_text({"text": None, "title": 3})) == 2
    (breach,) = check_text({"text": "a\ud83d"})
    assert "half of a surrogate pair at 1" in breach
