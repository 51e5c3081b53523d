from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import replace
from typing import Any

from markupsafe import escape

from lmrc.corpus.predictions import Prediction
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Label, Mention
from lmrc.evaluation.metrics.scores import score
from lmrc.evaluation.report import document_browser as browser
from lmrc.evaluation.report.document_browser import OUTCOMES, browser_data, documents_html, triple_outcomes
from lmrc.evaluation.scored_run import ScoredRun
from tests.evaluation.examples import RELATIONS, document, family


def scored_run(
    documents: list[Document], predictions: list[Prediction], candidates: dict[str, Any] | None = None
) -> ScoredRun:
    scores = score(documents, predictions, RELATIONS)
    return ScoredRun("run", documents, RELATIONS, predictions, scores, "own", candidates)


def outcomes(made: Document, found: set[tuple[int, int, str]], proposed: set[tuple[int, int]]) -> dict[Any, str]:
    return {(h, t, r): "/".join(OUTCOMES[kind][:2]) for h, t, r, kind in triple_outcomes(made, found, proposed)}


def data_in(page: str) -> Any:
    (stored,) = re.findall(r'<script type="application/json" id="documents-data">(.*?)</script>', page, re.DOTALL)
    return json.loads(stored)


def test_outcome_of_each_triple() -> None:
    made = document(
        "x",
        [[(name, 0)] for name in "abcde"],
        [(0, 1, "P1"), (0, 1, "P2"), (1, 2, "P1"), (2, 3, "P1"), (3, 4, "P1"), (3, 4, "P2")],
    )
    found = {(0, 1, "P1"), (0, 1, "P3"), (3, 4, "P1"), (4, 0, "P1"), (0, 9, "P1"), (1, 1, "P1")}
    assert outcomes(made, found, {(1, 2)}) == {
        (0, 1, "P1"): "correct/correct",
        (0, 1, "P2"): "relation_wrong/missed",  # P3 was predicted instead
        (0, 1, "P3"): "relation_wrong/wrong",
        (1, 2, "P1"): "relation_missed/missed",  # proposed, without prediction
        (2, 3, "P1"): "not_proposed/missed",
        (3, 4, "P1"): "correct/correct",
        (3, 4, "P2"): "relation_missed/missed",  # only the other relation was predicted
        (4, 0, "P1"): "false_pair/wrong",
        (0, 9, "P1"): "no_such_pair/wrong",
        (1, 1, "P1"): "no_such_pair/wrong",
    }


def test_outcomes_agree_with_the_error_analysis() -> None:
    rng = random.Random(7)
    triples = [(h, t, r) for h in range(5) for t in range(5) for r in RELATIONS.ids]
    for _ in range(30):
        gold = rng.sample([triple for triple in triples if triple[0] != triple[1]], rng.randrange(12))
        names = [[(name, 0)] for name in "abcd"]
        documents = [document("x", names, [g for g in gold if max(g[:2]) < 4]), document("y", names, [])]
        found = [Prediction(rng.choice("xy"), *rng.choice(triples)) for _ in range(rng.randrange(15))]
        candidates = {"x": frozenset((rng.randrange(4), rng.randrange(4)) for _ in range(4)), "y": frozenset()}
        run = scored_run(documents, found, rng.choice([candidates, None]))
        counted = Counter(OUTCOMES[t[3]][:2] for part in browser_data([run])["runs"][0]["triples"] for t in part)
        for error in run.analysis.errors:
            assert (counted[error.cause, "missed"], counted[error.cause, "wrong"]) == (error.missed, error.wrong)
        assert counted["correct", "correct"] == run.scores.all.correct


def test_data_has_text_mentions_evidence_and_triples() -> None:
    labels = (Label(0, 1, "P1", (0, 2)), Label(1, 2, "P3"))
    made = replace(family(), labels=labels)
    page = "".join(documents_html([scored_run([made], [Prediction("Family", 0, 1, "P1")])]))
    data = data_in(page)
    assert data["corpora"] == [
        [
            {
                "title": "Family",
                "sentences": [["Ann", "Bob"], ["Paris"], ["Robert"]],
                "entities": [
                    ["Ann", "PER", [0, 0, 1]],
                    ["Bob", "PER", [0, 1, 2, 2, 0, 1]],
                    ["Paris", "PER", [1, 0, 1]],
                ],
                "evidence": {"0 1 P1": [0, 2]},
            }
        ]
    ]
    assert data["relations"] == [["P1", "country"], ["P2", "born in"], ["P3", "part of"]]
    assert data["runs"] == [{"name": "run", "corpus": 0, "triples": [[[0, 1, 0, 0], [1, 2, 2, 1]]]}]
    assert [value for value, _ in data["choices"]] == ["", "errors", "correct", "missed", "wrong", "not_proposed"]


def test_runs_on_the_same_documents_share_data() -> None:
    one = scored_run([family()], [])
    other = replace(scored_run([family()], [Prediction("Family", 0, 1, "P9")]), name="other")
    third = replace(scored_run([document("z", [[("a", 0)]], [])], []), name="third", corpus="elsewhere")
    data = browser_data([one, other, third])
    assert [len(documents) for documents in data["corpora"]] == [1, 1]
    assert [(run["name"], run["corpus"]) for run in data["runs"]] == [("run", 0), ("other", 0), ("third", 1)]
    assert data["relations"][3] == ("P9", "P9 (unknown)")


def test_relation_id_with_two_names_keeps_both() -> None:
    one = scored_run([family()], [Prediction("Family", 0, 1, "P1")])
    sets = RelationSet(("P1", "P2", "P3"), ("other country", "born in", "part of"))
    data = browser_data([one, replace(one, name="other", relations=sets)])
    assert data["relations"][0] == ("P1", "country")
    assert data["relations"][3] == ("P1", "other country")
    assert [sorted({row[2] for row in run["triples"][0]}) for run in data["runs"]] == [[0, 1, 2], [1, 2, 3]]


def test_omitted_documents_give_a_note(monkeypatch: Any) -> None:
    monkeypatch.setattr(browser, "MAX_DOCUMENTS", 2)
    documents = [replace(family(), title=f"Family {number}") for number in range(3)]
    page = "".join(documents_html([scored_run(documents, [Prediction("Nobody <b>", 0, 1, "P1")])]))
    assert "run: the first 2 of 3 documents are shown here; the scores are over all." in page
    assert "run: 1 titles of predictions are unknown: Nobody &lt;b&gt;; all of these predictions are wrong." in page
    assert len(data_in(page)["corpora"][0]) == 2
    assert "<noscript>" in page


def test_special_characters_stay_in_the_data() -> None:
    evil = "\"'></script><script>alert(1)</script><!--<script>&\u2028"
    entity = (Mention(evil, 0, 0, 1, evil),)
    made = Document(evil, ((evil, "b"),), (entity, (Mention("b", 0, 1, 2, "PER"),)), (Label(0, 1, "P1"),))
    run = replace(scored_run([made], [Prediction(evil, 0, 1, evil), Prediction(evil + "2", 0, 1, "P1")]), name=evil)
    page = "".join(documents_html([run]))
    assert page.count("<script") == 1
    assert page.count("</script") == 1
    assert "<!--" not in page
    data = data_in(page)
    assert data["corpora"][0][0]["title"] == data["runs"][0]["name"] == data["corpora"][0][0]["entities"][0][1] == evil
    assert escape(evil) in page  # the unknown title
