from __future__ import annotations

import json

import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.types import Document, Mention
from lmrc.export.result import extracted, from_line, to_bytes
from lmrc.text.layout import with_single_spaces
from tests.export.examples import RELATIONS, TEXT, result


def test_names_types_spans_and_evidence() -> None:
    found = result("one", (0, 2, "works for", 0.5), (0, 1, "P19", 0.75))
    first, second = found.triples
    assert (first.head_name, first.head_type, first.tail_name, first.tail_type) == ('A "x" <&>', "PER", "C\\D", "LOC")
    assert [TEXT[slice(*span)] for span in first.head_spans] == ['A "x" <&>', "A left"]
    assert (first.relation_name, first.score, second.relation) == ("place of birth", 0.75, "works for")
    assert (first.evidence, second.evidence) == ((0,), (0,))
    assert found.sentence(0) == 'A "x" <&>, was born in C\\D; the Bo.'
    apart = result("one", (1, 2, "P19", 0.5)).triples[0]
    assert apart.evidence == (0,)


def test_a_line_holds_the_whole_result() -> None:
    found = result("a\u2028b\nc\x85")
    line = to_bytes(found, "key")
    assert line.endswith(b"\n") and len(line.decode().splitlines()) == 1
    content = json.loads(line)
    assert content.pop("key") == "key"
    assert from_line(content, "f") == found
    assert "key" not in json.loads(to_bytes(found))
    with pytest.raises(UserError, match="f: is no result of lmrc extract"):
        from_line({"title": "t"}, "f")


def test_half_a_surrogate_pair_becomes_a_character_of_utf8() -> None:
    mentions = ((Mention("x\ud800", 0, 0, 1, "\udfff"),), (Mention("y", 0, 1, 2, "PER"),))
    source = with_single_spaces(Document("t\ud800", (("x\ud800", "y"),), mentions, None))
    found = extracted(source, [Prediction("t", 0, 1, "P19", 0.5)], RELATIONS)
    assert (found.title, found.text, found.triples[0].head_name) == ("t\ufffd", "x\ufffd y", "x\ufffd")
    to_bytes(found)
