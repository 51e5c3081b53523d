from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrc.corpus.docred import parse_document
from lmrc.corpus.reading.names import NameCounts, count_names, is_name, named_end
from lmrc.corpus.relations import DOCRED
from tests.corpus.reading.examples import GOOD, changed, mention

words = st.lists(st.text(min_size=1, max_size=5).filter(str.strip), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("name", "tokens", "same"),
    [
        ("Tallow Labs", ["Tallow", "Labs"], True),
        ("Tallow  labs", ["Tallow", "Labs"], True),
        ("東京都", ["東京", "都"], True),
        ("O'Brien (son)", ["O", "'", "Brien", "-LRB-", "son", "-RRB-"], True),
        ('the "Swan"', ["the", "``", "Swan", "''"], True),
        ("Café", ["Cafe\u0301"], True),
        ("Tallow Labs", ["Labs", "."], False),
        ("Tallow Labs", ["Tallow"], False),
        ("Tallow", ["Tallow", "Labs"], False),
        ("", ["x"], False),
    ],
)
def test_names_are_compared_without_spaces_and_case(name: str, tokens: list[str], same: bool) -> None:
    assert is_name(name, tokens) == same


@given(words, words, words)
def test_the_end_of_a_name_is_found(before: list[str], name: list[str], after: list[str]) -> None:
    tokens = before + name + after
    end = named_end(" ".join(name), tokens, len(before))
    assert end is not None
    assert is_name(" ".join(name), tokens[len(before) : end])
    assert named_end(" ".join([*name, "x" * 99]), tokens, len(before)) is None
    assert named_end("Labs", ["Lake", "."], 0) is None


def test_warning_counts_and_shows_examples() -> None:
    counts = NameCounts()
    counts.add(parse_document(GOOD, "x", 0, DOCRED), 0)
    assert (counts.mentions, counts.different, counts.warning("do this")) == (3, 0, None)
    for index in range(1, 3):
        raw = changed((mention(0, 0, "pos"), [1, 3]), (mention(0, 1, "pos"), [1, 2]))
        counts.add(parse_document(raw, "x", index, DOCRED), index)
    warning = str(counts.warning("do this"))
    assert warning.startswith(
        "4 of 9 mentions have a name that is not the tokens at their pos, such as 'Ada Lovelace' at"
    )
    assert "'Ada Lovelace' at [1, 3] is 'Lovelace lived' (document 1 ('Ada'), mention 0 of entity 0)" in warning
    assert warning.count("(document") == 3
    assert "inclusive" not in warning and "--fix" not in warning


def test_inclusive_ends_are_known_only_if_all_names_fit() -> None:
    inclusive = changed((mention(0, 0, "pos"), [0, 1]), (mention(0, 1, "pos"), [0, 0]), (mention(1, 0, "pos"), [4, 4]))
    counts = count_names([inclusive] * 4)
    assert (counts.mentions, counts.different, counts.inclusive) == (12, 12, 12)
    assert counts.all_inclusive
    assert "All names fit if pos is [first token, last token]: do this" in str(counts.warning("do this"))
    mixed = count_names([inclusive, GOOD])
    assert not mixed.all_inclusive
    assert "3 would fit if pos was [first token, last token]" in str(mixed.warning("do this"))
    assert not count_names([GOOD]).all_inclusive
    assert not count_names([]).all_inclusive


@settings(max_examples=50)
@given(st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda part: st.lists(part, max_size=3)))
def test_malformed_documents_are_not_counted(value: object) -> None:
    keys = ("name", "sent_id", "pos")
    raws = [value, changed((("sents",), value)), changed((("vertexSet",), value)), changed((("vertexSet", 0), value))]
    assert count_names(raws + [changed((mention(0, 0, key), value)) for key in keys]).mentions >= 0
