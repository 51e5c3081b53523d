from __future__ import annotations

import html
import re

from lmrc.corpus.docred import Document, Mention
from lmrc.evaluation.browser import documents_html, marked_sentence
from lmrc.evaluation.predictions import Prediction
from tests.evaluation.examples import RELATIONS, document, family


def plain(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def test_mentions_are_marked_with_type_and_number() -> None:
    shown = marked_sentence(family(), 0)
    assert shown == (
        '<mark class="PER" title="entity 0: Ann (PER)">Ann<sub>0</sub></mark> '
        '<mark class="PER" title="entity 1: Bob (PER)">Bob<sub>1</sub></mark>'
    )
    assert plain(marked_sentence(family(), 2)) == "Robert1"


def test_nested_and_overlapping_mentions_are_all_shown() -> None:
    entities = (
        (Mention("New York City", 0, 1, 4, "LOC"),),
        (Mention("New York", 0, 1, 3, "LOC"),),
        (Mention("City Hall", 0, 3, 5, "ORG"),),
    )
    shown = marked_sentence(Document("x", (("in", "New", "York", "City", "Hall", "."),), entities, ()), 0)
    assert plain(shown) == "in New York1 City0 Hall2 ."
    titles = re.findall(r'class="(\w+)" title="([^"]*)"', shown)
    assert titles == [
        ("LOC", "entity 0: New York City (LOC); entity 1: New York (LOC)"),
        ("LOC", "entity 0: New York City (LOC); entity 2: City Hall (ORG)"),
        ("ORG", "entity 2: City Hall (ORG)"),
    ]


def test_triples_stand_under_correct_missed_and_wrong() -> None:
    predictions = [
        Prediction("Family", 0, 1, "P1"),
        Prediction("Family", 0, 1, "P1"),
        Prediction("Family", 2, 9, "P1"),
        Prediction("Family", 2, 0, "P9"),
        Prediction("Nobody", 0, 1, "P1"),
    ]
    page = "".join(documents_html([family()], predictions, RELATIONS))
    assert "F1 33.3: 1 correct, 2 missed, 2 wrong" in page
    columns = dict(re.findall(r'<div class="(correct|missed|wrong)">(.*?)</div>', page, re.DOTALL))
    items = {kind: [plain(i) for i in re.findall(r"<li>(.*?)</li>", text)] for kind, text in columns.items()}
    assert items == {
        "correct": ["Ann0 country Bob1"],
        "missed": ["Ann0 born in Bob1", "Bob1 part of Paris2"],
        "wrong": ["Paris2 P9 (unknown) Ann0", "Paris2 country no such entity9"],
    }
    assert "Predictions for unknown titles: 1, all wrong" in page
    assert "<li>Nobody: 1</li>" in page


def test_hostile_text_is_escaped_everywhere() -> None:
    evil = "\"'><script>alert(1)</script>&"
    made = document(evil, [[(evil, 0)], [("b", 0)]], [(0, 1, "P1")], type=evil)
    page = "".join(
        documents_html([made], [Prediction(evil + "2", 0, 1, evil), Prediction(evil, 0, 1, evil)], RELATIONS)
    )
    assert "<script" not in page
    # Title, token, mention title, first name in triples, relation, unknown title: all as text.
    assert page.count(html.escape(evil)) >= 7
    for attribute in re.findall(r'"[^"]*"', page):
        assert "<" not in attribute
    assert '<mark class="other"' in page


def test_unlabelled_documents_show_predictions_as_wrong_only() -> None:
    made = document("Test", [[("a", 0)], [("b", 0)]], None)
    page = "".join(documents_html([made], [Prediction("Test", 0, 1, "P1")], RELATIONS))
    assert "0 correct, 0 missed, 1 wrong" in page
