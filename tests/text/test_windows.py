from __future__ import annotations

import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.types import Document, Mention
from lmrc.text.windows import Split, Window, merged, split


def document(*sentences: str) -> Document:
    """Return a document in which each capitalized word is a mention, and equal words one entity."""
    tokens = tuple(tuple(sentence.split()) for sentence in sentences)
    entities: dict[str, list[Mention]] = {}
    for number, sentence in enumerate(tokens):
        for index, token in enumerate(sentence):
            if token[0].isupper():
                entities.setdefault(token, []).append(Mention(token, number, index, index + 1, "PER"))
    return Document("t", tokens, tuple(map(tuple, entities.values())), None)


def refuse(document: Document) -> None:
    raise UserError(f"{document.title} does not fit")


def cut(whole: Document, limit: int) -> Split:
    """Split a document into windows of at most so many tokens."""
    return split(whole, lambda part: sum(map(len, part.sentences)) <= limit, refuse)


def texts(found: Split) -> list[str]:
    return [" / ".join(" ".join(sentence) for sentence in window.document.sentences) for window in found.windows]


def test_a_document_that_fits_is_one_window() -> None:
    whole = document("A b B", "C d")
    assert cut(whole, 5) == Split((Window(whole, (0, 1, 2)),), 1, 0, 0)


def test_a_document_without_pairs_has_no_window() -> None:
    assert cut(document("A b c d e f A"), 3) == Split((), 1, 0, 0)


def test_windows_overlap_and_cover_all_sentences() -> None:
    whole = document("A a", "B b", "C c", "D d", "E e", "F f")
    found = cut(whole, 6)
    assert texts(found) == ["A a / B b / C c", "C c / D d / E e", "E e / F f"]
    assert [window.entities for window in found.windows] == [(0, 1, 2), (2, 3, 4), (4, 5)]
    assert (found.parts, found.divided) == (3, 0)
    # 30 ordered pairs, of which 6 + 6 + 2 are in a window.
    assert found.apart == 16
    for window in found.windows:
        for entity, index in zip(window.document.entities, window.entities, strict=True):
            for mention in entity:
                assert window.document.sentences[mention.sentence][mention.start] == whole.entities[index][0].name


def test_a_quarter_of_a_window_is_repeated() -> None:
    found = cut(document(*(f"N{index}" for index in range(14))), 8)
    assert [window.entities for window in found.windows] == [tuple(range(8)), tuple(range(6, 14))]


def test_an_entity_of_several_windows_has_its_mentions_in_each() -> None:
    found = cut(document("A a", "B A", "A b", "B b"), 4)
    mentions = [[len(entity) for entity in window.document.entities] for window in found.windows]
    assert texts(found)[0] == "A a / B A"
    assert mentions[0] == [2, 1]
    assert found.apart == 0


def test_a_repeated_sentence_that_leaves_no_room_is_left_out() -> None:
    found = cut(document("A a", "B b c d e F", "G g"), 6)
    assert texts(found) == ["B b c d e F"]
    assert found.parts == 3


def test_a_sentence_longer_than_a_window_is_divided_between_mentions() -> None:
    long = Document(
        "t",
        (tuple("abcdefgh"),),
        ((Mention("x", 0, 2, 6, "PER"),), (Mention("y", 0, 6, 8, "PER"),)),
        None,
    )
    found = split(long, lambda part: sum(map(len, part.sentences)) <= 6, refuse)
    # The middle is inside of a mention: the nearest place before it or behind it.
    assert (found.parts, found.divided) == (2, 1)
    assert texts(found) == ["c d e f g h"]
    assert found.apart == 0
    wide = Document(
        "t",
        (tuple("abcdefghi"),),
        ((Mention("x", 0, 0, 1, "PER"),), (Mention("y", 0, 1, 2, "PER"),)),
        None,
    )
    found = split(wide, lambda part: sum(map(len, part.sentences)) <= 5, refuse)
    assert texts(found) == ["a b c d"]


def test_a_mention_longer_than_a_window_is_an_error() -> None:
    with pytest.raises(UserError, match="t does not fit"):
        long = Document(
            "t", (("a", "b", "c"),), ((Mention("x", 0, 0, 3, "PER"),), (Mention("y", 0, 1, 2, "PER"),)), None
        )
        split(long, lambda part: sum(map(len, part.sentences)) <= 2, refuse)


@pytest.mark.parametrize("limit", [4, 5, 7, 11, 40])
def test_each_window_fits_and_each_sentence_is_in_one(limit: int) -> None:
    sentences = [" ".join(f"N{i}" if j == 0 else f"w{i}.{j}" for j in range(1 + i % 3)) for i in range(40)]
    found = cut(document(*sentences), limit)
    lengths = [sum(map(len, window.document.sentences)) for window in found.windows]
    assert max(lengths) <= limit
    tokens = {token for window in found.windows for sentence in window.document.sentences for token in sentence}
    assert tokens == {token for sentence in sentences for token in sentence.split()}


def test_triples_of_windows_are_merged_with_the_best_score() -> None:
    windows = [Window(document("A B"), (0, 1)), Window(document("B C"), (1, 2))]
    first = [Prediction("t", 0, 1, "P1", 0.5), Prediction("t", 1, 0, "P1", 0.5)]
    second = [Prediction("t", 1, 0, "P2", 0.1)]
    assert [(p.head, p.tail, p.relation, p.score) for p in merged("title", windows, [first, second])] == [
        (0, 1, "P1", 0.5),
        (1, 0, "P1", 0.5),
        (2, 1, "P2", 0.1),
    ]
    same = [Window(document("A B"), (3, 4)), Window(document("B A"), (4, 3))]
    (best,) = merged("title", same, [[Prediction("t", 0, 1, "P1", 0.5)], [Prediction("t", 1, 0, "P1", 0.7)]])
    assert (best.title, best.head, best.tail, best.score) == ("title", 3, 4, 0.7)
