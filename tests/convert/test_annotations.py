"""The common form: no mention is lost, offsets are checked, and sets of mentions are joined."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.convert.annotations import Annotations, Groups, RawRelation, lay_out, locate
from lmrc.corpus.text import tokenize

TEXT = "Ada met Bo. Adam met ada in Orr-on-Tamm"


@given(st.text(st.sampled_from("ab.A ?\n(é-"), min_size=1, max_size=40), st.data())
def test_every_mention_keeps_its_words(text: str, data: st.DataObject) -> None:
    """Mentions may overlap, cut words, and cross the ends of sentences and forced breaks."""
    bound = st.integers(0, len(text))
    spans = {tuple(sorted(data.draw(st.tuples(bound, bound)))) for _ in range(3)}
    spans = {(start, end) for start, end in spans if text[start:end].strip()}
    annotations = Annotations("x", Counter())
    for start, end in spans:
        annotations.add_to_entity((start, end), annotations.add_mention([(start, end)], "T"))
    document = annotations.to_document(tokenize(text, annotations.parts(), [data.draw(bound)]))
    assert (document is None) == (not spans)
    if document is not None:
        assert "".join(token for sentence in document.sentences for token in sentence) == "".join(text.split())
        found = [
            "".join(document.sentences[mention.sentence][mention.start : mention.end])
            for (mention,) in document.entities
        ]
        assert found == ["".join(text[start:end].split()) for start, end in spans]


@pytest.mark.parametrize(
    ("start", "end", "name", "expected", "remark"),
    [
        (0, 3, "Ada", (0, 3), None),
        (0, 7, "Ada\nmet", (0, 7), None),
        (0, 3, "", (0, 3), None),
        (0, 2, "Ada", (0, 3), "mentions whose end is their last character, now the one behind it"),
        (0, 3, "ada", (0, 3), "mentions whose name is not the text at their offsets"),
        (0, 3, "Eve", (0, 3), "mentions whose name is not the text at their offsets"),
        # "Adam" has the name too, but inside of a word.
        (
            11,
            14,
            "Ada",
            (0, 3),
            "mentions whose name is not the text at their offsets, moved to its nearest occurrence",
        ),
        (
            90,
            93,
            "Tam",
            (35, 38),
            "mentions whose name is not the text at their offsets, moved to its nearest occurrence",
        ),
        # Too short to be looked for inside of words.
        (90, 92, "am", None, "mentions outside of the text left out"),
        (3, 3, "Eve", None, "mentions outside of the text left out"),
    ],
)
def test_locate(start: int, end: int, name: str, expected: tuple[int, int] | None, remark: str | None) -> None:
    remarks: Counter[str] = Counter()
    assert locate(TEXT, start, end, name, remarks) == expected
    assert +remarks == ({} if remark is None else {remark: 1})


def test_groups() -> None:
    groups = Groups()
    for pair in ((1, 2), (3, 4), (5, 6), (2, 4)):
        groups.join(*pair)
    assert groups.find(3) == groups.find(1) == groups.find(2) == groups.find(4)
    assert groups.find(5) == groups.find(6) != groups.find(1)
    assert groups.find(7) == 7


def test_tokens_without_a_space_behind_them() -> None:
    assert lay_out([["a", "b"], ["c"]], {0}).text == "ab c "


def test_a_relation_without_a_name() -> None:
    annotations = Annotations("x", Counter())
    for key, span in (("a", (0, 3)), ("b", (8, 10))):
        annotations.add_to_entity(key, annotations.add_mention([span], "T"))
    annotations.relations = [RawRelation("a", "b", " "), RawRelation("a", "b", " r ")]
    document = annotations.to_document(tokenize(TEXT, annotations.parts()))
    assert document is not None and document.labels is not None
    assert [label.relation for label in document.labels] == ["r"]
    assert +annotations.remarks == {"relations without a name left out": 1}
