"""spaCy and GLiNER, which are optional, as stand-ins with the interface that the backends use.

spaCy (3.x): spacy.load(name) raises OSError if there is no such pipeline; nlp.max_length; nlp(text) → doc with doc.ents
(start_char, end_char, label_, text) and doc.spans, a dict of names to lists of spans with start_char and end_char.
GLiNER (0.2): GLiNER.from_pretrained(name) raises OSError if there is no such model; predict_entities(text, labels) →
list of {start, end, label} in characters of the text, and it cuts texts of more than 384 words.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from lmrc.common.errors import UserError
from lmrc.text.backends import load_finder
from lmrc.text.gliner_mentions import LABELS, TOKENS
from lmrc.text.mentions import TextMention


def module(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    made = ModuleType(name)
    made.__dict__.update(attributes)
    monkeypatch.setitem(sys.modules, name, made)


class Pipeline:
    """The stand-in of a pipeline: capitalized words are entities; `clusters` are its coreference."""

    def __init__(self, clusters: Mapping[str, list[tuple[int, int]]] | None = None) -> None:
        self.max_length = 30
        self._clusters = clusters or {}

    def __call__(self, text: str) -> Any:
        assert len(text) <= self.max_length
        ents = [
            SimpleNamespace(
                start_char=m.start(), end_char=m.end(), label_="PERSON" if m[0] != "--" else "ORG", text=m[0]
            )
            for m in re.finditer(r"[A-Z]\w+|--", text)
        ]
        spans = {
            name: [SimpleNamespace(start_char=start, end_char=end) for start, end in places]
            for name, places in self._clusters.items()
        }
        return SimpleNamespace(ents=ents, spans=spans)


def test_spacy(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    module(monkeypatch, "spacy", load=lambda name: loaded.append(name) or Pipeline())
    finder = load_finder("spacy", None)
    assert loaded == ["en_core_web_sm"]
    # Longer than the pipeline's limit; an entity without a letter is none.
    assert finder.find("Ada -- " + "left " * 10 + "Bly") == [TextMention(0, 3, "PERSON"), TextMention(57, 60, "PERSON")]
    load_finder("spacy", "own_model")
    assert loaded[1] == "own_model"


def test_coreference_of_spacy_joins_mentions(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, "spacy", load=lambda name: Pipeline({"coref_clusters_1": [(0, 3), (8, 11)], "sc": [(4, 7)]}))
    keys = [mention.entity for mention in load_finder("spacy", None).find("Ada Bob Eve")]
    assert keys == ["coref_clusters_1", None, "coref_clusters_1"]


class Gliner:
    """The stand-in of a GLiNER model."""

    texts: ClassVar[list[str]] = []

    @classmethod
    def from_pretrained(cls, name: str) -> Gliner:
        if name == "nowhere":
            raise OSError("no such model\nat all")
        return cls()

    def predict_entities(self, text: str, labels: list[str]) -> list[dict[str, Any]]:
        assert labels == list(LABELS)
        assert len(re.findall(r"\w+|[^\w\s]", text)) <= TOKENS < 384
        self.texts.append(text)
        return [
            {"start": m.start(), "end": m.end(), "text": m[0], "label": "person", "score": 0.9}
            for m in re.finditer(r"[A-Z]\w*\d", text)
        ]


def test_gliner_reads_all_of_a_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, "gliner", GLiNER=Gliner)
    Gliner.texts.clear()
    text = " ".join(f"N{number} is here, and is well." for number in range(100)) + " and" * 600 + " Z9"
    mentions = load_finder("gliner", None).find(text)
    assert [text[m.start : m.end] for m in mentions] == [*(f"N{number}" for number in range(100)), "Z9"]
    assert {m.type for m in mentions} == {"person"}
    assert len(Gliner.texts) > 5


@pytest.mark.parametrize(("name", "remedy"), [("spacy", r"\[spacy\]"), ("gliner", r"\[gliner\]")])
def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, name: str, remedy: str) -> None:
    # None in sys.modules makes an import fail.
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"needs the package {name}, which is not installed: pip install .*{remedy}"):
        load_finder(name, None)


def test_a_missing_model_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise OSError("[E050] Can't find model")

    module(monkeypatch, "spacy", load=load)
    with pytest.raises(UserError, match="python -m spacy download en_core_web_sm"):
        load_finder("spacy", None)
    module(monkeypatch, "gliner", GLiNER=Gliner)
    with pytest.raises(UserError, match=r"nowhere cannot be loaded \(no such model\): give a folder"):
        load_finder("gliner", "nowhere")


def test_real_spacy() -> None:
    spacy = pytest.importorskip("spacy")
    with pytest.raises(UserError, match="there is no pipeline"):
        load_finder("spacy", "no_such_pipeline")
    assert spacy.__version__


def test_spans_only_refuses_a_text_without_mentions() -> None:
    with pytest.raises(UserError, match="has no mentions, which --mentions spans expects"):
        load_finder("spans", None).find("Ada")
