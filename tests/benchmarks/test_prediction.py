"""The comparison of predicted and taken times."""

from __future__ import annotations

from benchmarks.prediction import STAGES, compare


def test_each_stage_must_be_within_the_limit() -> None:
    taken = dict.fromkeys(STAGES, 100.0)
    table, within = compare({**taken, "rc": 109.0, "rcp": 91.0}, taken, 10.0)
    assert within and "rc             109.0 s   100.0 s       +9.0 %" in table
    assert table.splitlines()[-1].split() == ["all", "400.0", "s", "400.0", "s", "+0.0", "%"]
    # Two errors that cancel in the sum.
    assert not compare({**taken, "rc": 111.0, "rcp": 89.0}, taken, 10.0)[1]
