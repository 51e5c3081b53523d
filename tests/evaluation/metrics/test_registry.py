from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lmrc.corpus.predictions import Prediction
from lmrc.evaluation.metrics.registry import COLUMN_METRICS, METRICS, Counts, percent
from lmrc.evaluation.metrics.scores import score
from lmrc.evaluation.metrics.train_facts import Facts
from lmrc.evaluation.scored_run import ScoredRun
from lmrc.evaluation.tables.run_tables import summary_table
from lmrc.evaluation.tables.table import score_table
from tests.evaluation.examples import RELATIONS, family


def test_names_and_labels_are_unique() -> None:
    for values in ([metric.name for metric in METRICS], [metric.label for metric in METRICS]):
        assert Counter(values).most_common(1)[0][1] == 1


def test_every_output_reads_the_registry() -> None:
    facts = Facts(frozenset({("Ann", "Bob", "P1")}), "train.json", "ab" * 32)
    predictions = [Prediction("Family", 0, 1, "P1", None, (0,)), Prediction("Family", 2, 1, "P3")]
    scores = score([family()], predictions, RELATIONS, facts)
    found = scores.as_json()
    assert {metric.name: found[metric.name] for metric in METRICS} == scores.metrics
    assert set(scores.intervals) == {metric.name for metric in METRICS if metric.has_interval}
    assert score_table([("run", scores)]).header[1:] == tuple(metric.column for metric in COLUMN_METRICS)
    run = ScoredRun("run", [family()], RELATIONS, predictions, scores)
    labels = [row[0] for row in summary_table([run]).rows]
    assert labels == ["Data", *(metric.label for metric in METRICS if metric.in_summary)]
    with_candidates = summary_table([replace(run, candidates={"Family": frozenset({(0, 1)})})])
    assert [row[0] for row in with_candidates.rows][-3:] == ["F1 of RCP", "Predictions", "Gold triples"]


def test_format_follows_the_unit() -> None:
    by_name = {metric.name: metric for metric in METRICS}
    assert by_name["f1"].format(12.3) == "12.30"
    assert by_name["gold"].format(17_284) == "17,284"
    assert by_name["ign_f1"].format(None) == "-"


def test_counts_of_arrays_give_arrays() -> None:
    numbers = [(2, 4, 3), (0, 0, 5), (0, 0, 0)]
    arrays = Counts(*np.array(numbers, dtype=np.float64).T)
    for name in ("precision", "recall", "f1"):
        assert getattr(arrays, name).tolist() == pytest.approx([getattr(Counts(*n), name) for n in numbers])
    assert percent(1, 0) == 0.0
