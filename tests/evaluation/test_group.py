from __future__ import annotations

import json

import pytest

from lmrc.evaluation.metrics.bootstrap import paired_over_seeds
from tests.evaluation.tables.test_group_tables import GROUP, MEMBERS, ONE


def test_json_of_a_group() -> None:
    found = json.loads(json.dumps(GROUP.as_json()))
    assert found.keys() == {"systems", "against", "comparisons", "members", "unfinished"}
    first, second = found["systems"]
    assert first["options"] == {"rc.lora.r": "a"} and first["members"] == ["a_seed1", "a_seed2"]
    assert (first["mean"]["f1"], second["mean"]["f1"]) == (pytest.approx(65.0), pytest.approx(100.0))
    assert first["standard_deviation"]["f1"] == pytest.approx(21.2132, abs=1e-4)
    assert second["standard_deviation"] is None
    assert first["intervals"]["f1"] == [pytest.approx(50.0), pytest.approx(80.0)]
    assert [(member["name"], member["seed"]) for member in found["members"]] == [
        ("a_seed1", 1),
        ("a_seed2", 2),
        ("b_seed1", 1),
    ]
    assert found["members"][2]["f1"] == 100.0 and "per_relation" in found["members"][2]
    assert found["unfinished"] == {"b_seed2": "rc failed: out of memory"}


def test_comparisons_are_paired_bootstraps_over_seeds() -> None:
    counts = [member.scores.by_document for member in MEMBERS[:2]]
    assert GROUP.comparisons["a"] == paired_over_seeds([ONE.by_document], counts)
    assert GROUP.as_json()["comparisons"]["a"]["f1"]["difference"] == pytest.approx(15.0)
