"""Documents from texts, and character spans of all tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lmrc.corpus.types import Document, Mention
from lmrc.text.document import document_of
from lmrc.text.entity_types import TypeMap
from lmrc.text.layout import with_single_spaces
from lmrc.text.mentions import TextMention
from lmrc.text.rules import RuleFinder

TEXT = "Ada  Lum left\nPort-Bly. Lum, 90, said: no!"


def test_spans_are_those_of_the_text() -> None:
    mentions = [TextMention(0, 8, "PERSON", "a"), TextMention(14, 22, "GPE"), TextMention(24, 27, "PERSON", "a")]
    found = document_of("t", TEXT, mentions, TypeMap(()))
    assert [[mention.name for mention in entity] for entity in found.document.entities] == [
        ["Ada Lum", "Lum"],
        ["Port-Bly"],
    ]
    assert [[TEXT[a:b] for a, b in spans] for spans in found.entity_spans()] == [["Ada  Lum", "Lum"], ["Port-Bly"]]
    assert [TEXT[a:b] for a, b in found.sentence_spans()] == ["Ada  Lum left\nPort-Bly.", "Lum, 90, said: no!"]
    assert {m.type for entity in found.document.entities for m in entity} == {"PER", "LOC"}
    assert found.document.labels is None


def test_a_text_without_mentions_or_words() -> None:
    assert document_of("t", "none here", [], TypeMap(())).document.entities == ()
    empty = document_of("t", " \n ", [], TypeMap(()))
    assert (empty.document.sentences, empty.sentence_spans()) == ((), ())


@given(st.text(alphabet="Aab .,\n'(-1\u00e9\u0130\ud7ff", max_size=80))
def test_every_mention_of_the_rules_is_placed(text: str) -> None:
    mentions = RuleFinder().find(text)
    found = document_of("t", text, mentions, TypeMap(()))
    spans = sorted(span for spans in found.entity_spans() for span in spans)
    assert spans == [(mention.start, mention.end) for mention in mentions]


def test_tokens_without_a_text_are_joined_with_spaces() -> None:
    mention = Mention("c d", 2, 0, 2, "MISC")
    found = with_single_spaces(Document("x", (("a", "b"), (), ("c", "d")), ((mention,),), None))
    assert found.text.text == "a b c d"
    assert found.sentence_spans() == ((0, 3), (3, 3), (4, 7))
    assert found.entity_spans() == (((4, 7),),)
