"""Text to sentences of tokens: offsets are exact, and no sentence ends inside of a mention."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.corpus.text import tokenize


def sentences(text: str, *mentions: tuple[int, int]) -> list[str]:
    return [" ".join(tokens) for tokens in tokenize(text, mentions).sentences]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Marie Curie was born. She won.", ["Marie Curie was born .", "She won ."]),
        ("Dr. Smith met J. Doe.", ["Dr . Smith met J . Doe ."]),
        ("It fell by 2.5 mg. Then?  Yes! 3 died.", ["It fell by 2 . 5 mg .", "Then ?", "Yes !", "3 died ."]),
        ("“He left.” She stayed.", ["“ He left . ”", "She stayed ."]),
        ("a title\n\nthe text", ["a title", "the text"]),
        ("e.g. this and vs. that", ["e . g . this and vs . that"]),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_no_sentence_ends_inside_of_a_mention() -> None:
    text = "They like Who? Me! and go."
    assert sentences(text) == ["They like Who ?", "Me ! and go ."]
    assert sentences(text, (10, 18)) == ["They like Who ? Me ! and go ."]


def test_a_break_ends_a_sentence() -> None:
    assert [len(sentence) for sentence in tokenize("A title an abstract.", breaks=[7]).sentences] == [2, 3]


def test_a_mention_outside_of_the_text_or_blank() -> None:
    tokenized = tokenize("ab  cd", [(2, 4)])
    with pytest.raises(ValueError, match="characters 4 to 7 are not in the text, which has 6"):
        tokenized.mention(4, 7, "X")
    with pytest.raises(ValueError, match="characters 2 to 4 are blank"):
        tokenized.mention(2, 4, "X")


def test_a_mention_across_a_break() -> None:
    with pytest.raises(ValueError, match="characters 2 to 10 are in two sentences"):
        tokenize("A title an abstract.", [(2, 10)], breaks=[7]).mention(2, 10, "X")


@given(st.text(st.sampled_from("ab.A ?\n(é-"), max_size=60), st.data())
def test_tokens_and_mentions_are_the_text(text: str, data: st.DataObject) -> None:
    bound = st.integers(0, len(text))
    mentions = [
        (start, end)
        for start, end in (sorted(data.draw(st.tuples(bound, bound))) for _ in range(3))
        if text[start:end].strip()
    ]
    tokenized = tokenize(text, mentions)
    spans = [span for sentence in tokenized.spans for span in sentence]
    assert spans == sorted(spans) and all(sentence for sentence in tokenized.spans)
    assert "".join(text[start:end] for start, end in spans) == "".join(text.split())
    for start, end in mentions:
        mention = tokenized.mention(start, end, "X")
        covered = tokenized.spans[mention.sentence][mention.start : mention.end]
        assert text[covered[0][0] : covered[-1][1]] == text[start:end].strip()
