from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from lmrc.corpus.relations import RelationSet
from lmrc.errors import UserError
from lmrc.evaluation.figures import learning_curves, read_curves, relation_bars
from lmrc.evaluation.metrics import score
from lmrc.evaluation.predictions import Prediction
from tests.evaluation.examples import RELATIONS, document, family


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_curves_are_read_by_name_and_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 2, "loss": 0.9, "phase": "train", "best": true}\n'
        '{"step": 4, "loss": 0.8}\n'
        '{"step": 4, "f1": 10}\n'
        '{"step": 3, "loss": 0.7}\n'  # resumed from step 2
        '{"step": 4, "loss": 0.6}\n'
        '{"step": 5, "lo'  # being written
    )
    assert read_curves(path) == {"loss": {2: 0.9, 3: 0.7, 4: 0.6}, "f1": {4: 10.0}}
    assert list(read_curves(path)["loss"]) == [2, 3, 4]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"step": 1}\n{"step"\n', "line 2 is not JSON"),
        ('{"loss": 1}\n', 'line 1 is not an object with an integer "step"'),
        ("[1]\n", "line 1 is not an object"),
        ('{"step": 1.5}\n', 'integer "step"'),
    ],
)
def test_a_damaged_log_is_refused_by_line(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=complaint):
        read_curves(path)
    with pytest.raises(UserError, match=r"absent\.jsonl"):
        read_curves(tmp_path / "absent.jsonl")


def test_learning_curves_have_a_panel_a_metric_and_name_runs() -> None:
    runs = [
        ("_first $x$", {"loss": {1: 2.0, 2: 1.0}, "f1": {2: 50.0}}),
        ("<second> & more", {"loss": {1: 3.0, 2: 2.5}}),
    ]
    svg = learning_curves(runs, ("loss", "f1", "absent"))
    shown = texts(svg)
    assert "loss" in shown
    assert "f1" in shown
    assert "absent" not in shown
    assert {" _first $x$", "<second> & more"} <= set(shown)
    with pytest.raises(UserError, match="none of the runs has logged accuracy"):
        learning_curves(runs, ("accuracy",))


def test_bars_show_f1_and_support_of_gold_relations() -> None:
    gold = [family(), document("x", [[("a", 0)], [("b", 0)]], [(0, 1, "P3")])]
    shown = texts(relation_bars(score(gold, [Prediction("Family", 1, 2, "P3")], RELATIONS), RELATIONS))
    labels = ["part of (2)", "country (1)", "born in (1)"]
    assert [text for text in shown if text in labels] == labels
    assert shown.count("66.7") == 1
    assert shown.count("0.0") == 2
    with pytest.raises(UserError, match="no triples"):
        relation_bars(score([], [], RELATIONS), RELATIONS)


def test_hostile_names_are_text() -> None:
    names = RelationSet(("P1", "P2", "P3"), ("<script>alert(1)</script>", "$\\frac{", "]]>&amp;"))
    svg = relation_bars(score([family()], [], names), names)
    assert "<script" not in svg
    assert {"<script>alert(1)</script> (1)", "$\\frac{ (1)", "]]>&amp; (1)"} <= set(texts(svg))


def test_a_figure_can_stand_in_a_page() -> None:
    svg = learning_curves([("run", {"loss": {1: 2.0, 2: 1.0}})])
    assert svg.startswith('<svg role="img" aria-label="Learning curves: loss by optimizer step"')
    root = ElementTree.fromstring(svg)
    ids = [element.get("id", "") for element in root.iter() if element.get("id")]
    assert not [id for id in ids if "_" in id]
    # What is referred to still exists.
    for element in root.iter():
        link = element.get("{http://www.w3.org/1999/xlink}href") or element.get("clip-path", "").strip("url()")
        assert not link or link.removeprefix("#") in ids
    assert "currentColor" in svg
    assert "#010203" not in svg


def test_the_same_input_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nlines.linewidth: 9\n")
    curves = {"loss": {step: 1.0 / step for step in range(1, 50)}, "dev_f1": {10: 1.0, 20: 2.0}}
    code = (
        "import json, sys; from lmrc.evaluation.figures import learning_curves\n"
        "curves = {k: {int(s): x for s, x in v.items()} for k, v in json.loads(sys.argv[1]).items()}\n"
        "sys.stdout.write(learning_curves([('run', curves)]))"
    )
    environment = {**os.environ, "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", code, json.dumps(curves)], check=True, capture_output=True, text=True, env=environment
    )
    assert other.stdout == learning_curves([("run", curves)])
