from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.relations import RelationSet
from lmrc.evaluation.metrics.scores import Counts, score
from lmrc.evaluation.plots.figures import (
    alignment,
    fusion_curves,
    learning_curves,
    precision_recall,
    relation_bars,
    reliability,
    split_bars,
)
from lmrc.evaluation.plots.read_curves import (
    Aligned,
    Calibration,
    read_calibration,
    read_curves,
    read_fusion_curve,
    read_reliability,
    read_sweep,
)
from lmrc.evaluation.plots.style import Plot
from tests.evaluation.examples import RELATIONS, document, family


def texts(plot: Plot) -> list[str]:
    return ["".join(e.itertext()) for e in ElementTree.fromstring(plot.svg).iter("{http://www.w3.org/2000/svg}text")]


def test_read_curves_by_name_and_step(tmp_path: Path) -> None:
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
def test_damaged_log_is_rejected_with_its_line(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=complaint):
        read_curves(path)
    with pytest.raises(UserError, match=r"absent\.jsonl"):
        read_curves(tmp_path / "absent.jsonl")


def test_learning_curves_have_a_panel_per_metric() -> None:
    runs = [
        ("_first $x$", {"loss": {1: 2.0, 2: 1.0}, "f1": {2: 50.0}}),
        ("<second> & more", {"loss": {1: 3.0, 2: 2.5}}),
    ]
    shown = texts(learning_curves(runs, ("loss", "f1", "absent")))
    assert "loss" in shown
    assert "f1" in shown
    assert "absent" not in shown
    assert {" _first $x$", "<second> & more"} <= set(shown)
    with pytest.raises(UserError, match="none of the runs has logged accuracy"):
        learning_curves(runs, ("accuracy",))


def test_long_curve_is_smoothed() -> None:
    values = {2 * step: float(step % 7) for step in range(1, 201)}
    plot = learning_curves([("run", {"loss": values, "dev_f1": {400: 50.0}})], ("loss", "dev_f1"))
    faint, bold = plot.figure.axes[0].lines
    assert [float(y) for y in faint.get_ydata()] == list(values.values())
    assert [float(x) for x in bold.get_xdata()] == list(values)
    steps = list(values.values())
    means = [sum(steps[max(0, end - 4) : end]) / min(end, 4) for end in range(1, 201)]  # the window is 200 / 50 steps
    assert [float(y) for y in bold.get_ydata()] == pytest.approx(means)
    assert float(faint.get_alpha() or 1) < 0.5 < float(bold.get_alpha() or 1)
    assert [axes.get_title(loc="left") for axes in plot.figure.axes] == ["loss", "F1 on dev in percent"]
    assert [axes.get_xlim()[0] for axes in plot.figure.axes] == [0, 0]
    assert len(plot.figure.axes[1].lines) == 1


def test_relation_bars_show_f1_and_support() -> None:
    gold = [family(), document("x", [[("a", 0)], [("b", 0)]], [(0, 1, "P3")])]
    shown = texts(relation_bars(score(gold, [Prediction("Family", 1, 2, "P3")], RELATIONS), RELATIONS))
    labels = ["part of (2)", "country (1)", "born in (1)"]
    assert [text for text in shown if text in labels] == labels
    assert shown.count("66.7") == 1
    assert shown.count("0.0") == 2
    with pytest.raises(UserError, match="no triples"):
        relation_bars(score([], [], RELATIONS), RELATIONS)


def test_names_are_escaped_in_svg() -> None:
    names = RelationSet(("P1", "P2", "P3"), ("<script>alert(1)</script>", "$\\frac{", "]]>&amp;"))
    plot = relation_bars(score([family()], [], names), names)
    assert "<script" not in plot.svg
    assert {"<script>alert(1)</script> (1)", "$\\frac{ (1)", "]]>&amp; (1)"} <= set(texts(plot))


def test_svg_can_be_embedded_in_html() -> None:
    svg = learning_curves([("run", {"loss": {1: 2.0, 2: 1.0}})]).svg
    assert svg.startswith('<svg role="img" aria-label="Learning curves of run: loss by optimizer step"')
    root = ElementTree.fromstring(svg)
    ids = [element.get("id", "") for element in root.iter() if element.get("id")]
    assert not [id for id in ids if "_" in id]
    # All references have a target.
    for element in root.iter():
        link = element.get("{http://www.w3.org/1999/xlink}href") or element.get("clip-path", "").strip("url()")
        assert not link or link.removeprefix("#") in ids
    assert "currentColor" in svg
    assert "#010203" not in svg


def test_the_same_input_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nlines.linewidth: 9\n")
    curves = {"loss": {step: 1.0 / step for step in range(1, 50)}, "dev_f1": {10: 1.0, 20: 2.0}}
    code = (
        "import json, sys; from lmrc.evaluation.plots.figures import learning_curves\n"
        "curves = {k: {int(s): x for s, x in v.items()} for k, v in json.loads(sys.argv[1]).items()}\n"
        "sys.stdout.write(learning_curves([('run', curves)]).svg)"
    )
    environment = {**os.environ, "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", code, json.dumps(curves)], check=True, capture_output=True, text=True, env=environment
    )
    assert other.stdout == learning_curves([("run", curves)]).svg


def points(plot: Plot, panel: int = 0) -> dict[str, list[tuple[float, float]]]:
    """Return the points of the lines of a panel by label."""
    lines = plot.figure.axes[panel].lines
    return {str(line.get_label()): [(float(x), float(y)) for x, y in line.get_xydata()] for line in lines}


def test_png_has_the_size_of_the_figure() -> None:
    image = learning_curves([("run", {"loss": {1: 2.0, 2: 1.0}})])
    png = image.png()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (840, 640)  # 4.2 x 3.2 inches, 200 dots each
    assert image.png() == png


def test_precision_recall_marks_thresholds(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    # Four pairs, three gold: (0.9 gold) (0.6 gold) (0.4 not) (0.2 gold); thresholds half-way to the next pair.
    curve = [[100 / 3, 0.75, 100.0], [200 / 3, 0.5, 100.0], [100.0, 0.1, 75.0]]
    path.write_text(json.dumps({"pairs": 4, "gold": 3, "f1": [0.1, 600 / 7], "curve": curve}))
    calibration = read_calibration(path)
    assert calibration is not None
    assert calibration.at(0.95) == (0.0, 100.0)
    drawn = points(precision_recall([("rcp", calibration, (0.05, 0.7))]))
    assert drawn["rcp"] == [(100 / 3, 100.0), (200 / 3, 100.0), (100.0, 75.0)]
    assert drawn["best F1 85.7: threshold 0.100"] == [(100.0, 75.0)]
    assert drawn["the paper's threshold 0.5"] == [(200 / 3, 100.0)]
    assert drawn["used: threshold 0.700"] == [(100 / 3, 100.0)]
    assert drawn["used: threshold 0.050"] == [(100.0, 75.0)]
    path.write_text('{"pairs": 4, "gold": 0, "f1": [0.5, 0.0], "curve": []}')
    assert read_calibration(path) is None
    for damaged in ("[]", '{"curve": [[1]], "f1": [0, 0]}', "{"):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"calibration\.json"):
            read_calibration(path)


def test_equal_f1_lines() -> None:
    plot = precision_recall([("rcp", Calibration((0.5, 80.0), ((80.0, 0.5, 80.0),)), ())])
    lines = [line.get_xydata() for line in plot.figure.axes[0].lines if str(line.get_label()).startswith("_")]
    for f1, line in zip((20, 40, 60, 80, 90), lines, strict=True):
        assert {round(2 * float(p) * float(r) / (float(p) + float(r)), 6) for r, p in line} == {f1}


def test_alignment_marks_the_best_theta(tmp_path: Path) -> None:
    path = tmp_path / "alignment.json"
    rows = [(0.9, 60.0, 40.0, 48.0), (0.5, 58.0, 42.0, 48.7), (0.0, 50.0, 43.0, 46.2)]
    path.write_text(json.dumps([dict(zip(("theta", "precision", "recall", "f1"), row, strict=True)) for row in rows]))
    sweep = read_sweep(path)
    assert sweep == [Aligned(*row) for row in reversed(rows)]
    plot = alignment([("direct", sweep)])
    assert points(plot)["direct: 48.70 at θ = 0.5"] == [(0.0, 46.2), (0.5, 48.7), (0.9, 48.0)]
    line = next(line for line in plot.figure.axes[0].lines if str(line.get_label()).startswith("direct"))
    assert line.get_markevery() == [1]
    for damaged in ("[]", "{}", '[{"theta": 1}]', "x"):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"alignment\.json"):
            read_sweep(path)


def test_reliability_is_drawn_by_run(tmp_path: Path) -> None:
    path = tmp_path / "reliability.json"
    rows = [(0.01, 0.02, 5), (0.3, 0.25, 5), (0.9, 1.0, 4)]
    bins = [dict(zip(("probability", "correct", "questions"), row, strict=True)) for row in rows]
    path.write_text(json.dumps({"ece": 0.0625, "bins": bins}))
    found = read_reliability(path)
    assert found is not None and found.bins == tuple(rows)
    plot = reliability([("fused", found), ("encoder", found)])
    drawn = points(plot)
    # A share of 1 has no log-odds.
    assert drawn["fused: ECE 0.0625"] == drawn["encoder: ECE 0.0625"] == [(0.01, 0.02), (0.3, 0.25), (0.9, 0.9995)]
    assert "0.999" in texts(plot) and "mean probability of the questions of a bin" in texts(plot)
    path.write_text('{"ece": 0.0, "bins": []}')
    assert read_reliability(path) is None
    for damaged in ("[]", '{"bins": [{}], "ece": 1}', "{"):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"reliability\.json"):
            read_reliability(path)


def test_cost_of_the_lm_is_drawn_in_tokens_if_all_runs_know_them(tmp_path: Path) -> None:
    path = tmp_path / "fusion-curve.json"
    rows = [(0.0, 0, 55.0), (0.1, 20, 57.5), (0.2, 50, 58.0)]
    curve = [dict(zip(("share", "questions", "f1"), row, strict=True), low=0.1, high=0.2) for row in rows]
    path.write_text(json.dumps({"tokens_per_question": 10.0, "curve": curve}))
    known = read_fusion_curve(path)
    path.write_text(json.dumps({"tokens_per_question": None, "curve": curve}))
    unknown = read_fusion_curve(path)
    label = "a: 58.00 with 20.0 % of the pairs"
    assert points(fusion_curves([("a", known)]))[label] == [(0.0, 55.0), (200.0, 57.5), (500.0, 58.0)]
    assert "LM tokens" in texts(fusion_curves([("a", known)]))
    both = fusion_curves([("a", known), ("b", unknown)])
    assert points(both)[label] == [(0.0, 55.0), (10.0, 57.5), (20.0, 58.0)]
    assert "proposed pairs that the LM is asked about, in percent" in texts(both)
    for damaged in ("[]", '{"curve": [{"share": 1}], "tokens_per_question": null}', '{"curve": []}', "x"):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"fusion-curve\.json"):
            read_fusion_curve(path)


def test_split_bars_of_runs_are_side_by_side() -> None:
    runs = [
        ("a", {"0": Counts(1, 2, 2), "long_tail": Counts(0, 0, 3)}),
        ("b", {"0": Counts(2, 2, 2), "long_tail": Counts(3, 3, 3)}),
    ]
    plot = split_bars("sentences between", runs)
    shown = texts(plot)
    assert [text for text in shown if text in ("50.0", "0.0", "100.0")] == ["50.0", "0.0", "100.0", "100.0"]
    assert "sentences between (gold triples)" in shown
    assert [label.get_text() for label in plot.figure.axes[0].get_xticklabels()] == ["0\n(2)", "long tail\n(3)"]
    lefts = [bar.get_x() for bars in plot.figure.axes[0].containers if hasattr(bars, "patches") for bar in bars]
    assert lefts[0] < lefts[2] < lefts[1] < lefts[3]  # type: ignore[attr-defined]
