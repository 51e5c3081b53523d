"""DocBin: entities, sentences, clusters and relations of spaCy's documents. spaCy is optional."""

from __future__ import annotations

import builtins
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lmrc.common.errors import UserError
from lmrc.convert.convert import convert
from lmrc.convert.docbin import _of_pairs
from lmrc.convert.formats import FORMATS
from tests.convert.examples import Converted, converted, entities, sentences, triples

WORDS = ["Ada", "Lum", "runs", "Tamm", ".", "\n", "She", "met", "Orr", "Bank", "."]


def test_without_spacy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == "spacy":
            raise ImportError(name)
        return importing(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        UserError, match=r"read with the package spacy, which is not installed: pip install .*\[spacy\]"
    ):
        path = tmp_path / "train.spacy"
        path.touch()
        convert(path, tmp_path / "out.json", FORMATS["docbin"])


def test_scores_in_another_form_are_counted() -> None:
    places: Any = SimpleNamespace(find=lambda token: (token, token + 1))
    remarks = Counter[str]()
    pairs = {
        **{(0, 1): None, (0, 2): {"met": "high"}, (0, 3): 7},
        **{(0, 4): ("met",), (0, 5): {"met": np.float32(0.75)}, (0, 6): {"met": 1}},
    }
    assert _of_pairs(pairs, places, remarks) == [((0, 1), (tail, tail + 1), "met") for tail in (4, 5, 6)]
    assert remarks == {"relations in another form left out": 3}


class Documents:
    """Makes documents and converts them."""

    def __init__(self, folder: Path) -> None:
        self.spacy = pytest.importorskip("spacy")
        self.path = folder / "train.spacy"
        self.vocab = self.spacy.blank("xx").vocab

    def doc(self, has_sentences: bool = True, ids: bool = False) -> Any:
        """Return a document with three entities, of tokens [0, 2), [3, 4) and [8, 10), and two sentences."""
        starts = [index in (0, 6) for index in range(len(WORDS))] if has_sentences else None
        doc = self.spacy.tokens.Doc(self.vocab, words=WORDS, sent_starts=starts)
        spans = [(0, 2, "PER"), (3, 4, "ORG"), (8, 10, "ORG")]
        entries = ["", "Q1", "Q1"] if ids else ["", "", ""]
        make = self.spacy.tokens.Span
        doc.ents = [
            make(doc, start, end, label, kb_id=entry) for (start, end, label), entry in zip(spans, entries, strict=True)
        ]
        return doc

    def span(self, doc: Any, start: int, end: int, label: str = "") -> Any:
        return self.spacy.tokens.Span(doc, start, end, label)

    def convert(self, *docs: Any) -> Converted:
        binary = self.spacy.tokens.DocBin(store_user_data=True)
        for doc in docs:
            binary.add(doc)
        binary.to_disk(self.path)
        return converted(self.path, "spacy")


@pytest.fixture
def make(tmp_path: Path) -> Documents:
    return Documents(tmp_path)


ENTITIES = [["PER: Ada Lum"], ["ORG: Tamm"], ["ORG: Orr Bank"]]


def test_entities_and_the_relations_of_the_relation_extractor(make: Documents) -> None:
    doc = make.doc()
    # What `doc._.rel = …` stores: starts of head and tail, and a score for each relation.
    doc.user_data[("._.", "rel", None, None)] = {
        (0, 3): {"runs": 1.0, "owns": 0.0},
        (0, 8): {"met": 0.75, "owns": 0.25},
        (3, 8): {},
        (7, 8): {"met": 1.0},
    }
    doc.user_data["title"] = "a story"
    doc.user_data["source"] = "a book"
    (document,), remarks, relations = make.convert(doc)
    assert document["title"] == "a story"
    assert sentences(document) == ["Ada Lum runs Tamm .", "She met Orr Bank ."]
    assert entities(document) == ENTITIES
    assert triples(document) == [(0, "runs", 1, [0]), (0, "met", 2, [0, 1])]
    assert relations == ["met", "runs"]
    assert remarks == {
        "relations with a score below 0.5 left out": 1,
        "other entries of the user data left out": 1,
        "relations of an entity without a mention left out": 1,
    }


@pytest.mark.parametrize(
    "listed",
    [
        # Prodigy: the last token of each span, and the spans.
        [
            {
                "head": 1,
                "child": 9,
                "head_span": {"token_start": 0, "token_end": 1},
                "child_span": {"token_start": 8, "token_end": 9},
                "label": "met",
            }
        ],
        [{"head": 1, "child": 9, "label": "met"}],
        # Characters, and names.
        [{"head": {"start": 0, "end": 7}, "tail": {"start": 30, "end": 38}, "label": "met"}],
        [{"head": "Ada Lum", "tail": "Orr Bank", "type": "met"}],
        # Starts of head and tail with a relation, or several, in place of scores.
        {(0, 8): "met"},
        {(0, 8): ["met"]},
        # Numbers of entities: no two tokens of different mentions.
        [{"head": 0, "tail": 2, "relation": "met"}],
        [(0, "met", 8)],
    ],
    ids=["prodigy", "tokens", "characters", "names", "pair", "pair-list", "numbers", "tuples"],
)
def test_lists_of_relations(make: Documents, listed: list[Any]) -> None:
    doc = make.doc()
    doc.user_data["relations"] = listed
    (document,), _, _ = make.convert(doc)
    assert triples(document) == [(0, "met", 2, [0, 1])]


def test_a_span_of_prodigy_names_one_of_two_mentions_that_begin_alike(make: Documents) -> None:
    doc = make.doc()
    doc.spans["sc"] = [make.span(doc, 8, 9, "NAME")]
    head, child = {"token_start": 0, "token_end": 1}, {"token_start": 8, "token_end": 8}
    doc.user_data["relations"] = [{"head": 1, "child": 8, "head_span": head, "child_span": child, "label": "met"}]
    (document,), _, _ = make.convert(doc)
    assert entities(document) == [*ENTITIES, ["NAME: Orr"]]
    assert triples(document) == [(0, "met", 3, [0, 1])]


def test_span_groups(make: Documents) -> None:
    doc = make.doc(ids=True)
    doc.spans["coref_clusters_1"] = [make.span(doc, 0, 2), make.span(doc, 6, 7)]
    doc.spans["sc"] = [make.span(doc, 9, 10, "WORD"), make.span(doc, 3, 4, "FIRM")]
    doc.spans["rel:met"] = [make.span(doc, 6, 7), make.span(doc, 8, 10)]
    doc.spans["other"] = [make.span(doc, 2, 3)]
    (document,), remarks, _ = make.convert(doc)
    assert entities(document) == [["PER: Ada Lum", "ENTITY: She"], ["ORG: Tamm", "ORG: Orr Bank"], ["WORD: Bank"]]
    assert triples(document) == [(0, "met", 1, [1])]
    assert remarks == {
        "mentions without a type, now ENTITY": 1,
        "further types of a span left out": 1,
        "span groups without labels left out": 1,
    }


def test_sentences_by_rule(make: Documents) -> None:
    (document,), remarks, _ = make.convert(make.doc(has_sentences=False))
    assert document["title"] == "train 0"
    assert sentences(document) == ["Ada Lum runs Tamm .", "She met Orr Bank ."]
    assert remarks == {"sentences, split by rule": 2}


def test_no_docbin(make: Documents) -> None:
    make.path.write_bytes(b"no such thing")
    with pytest.raises(UserError, match=r"train.spacy: is no DocBin of spaCy 3"):
        convert(make.path, make.path.with_suffix(".json"), FORMATS["docbin"])
