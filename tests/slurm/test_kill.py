from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import pytest

from tests.slurm import kill
from tests.slurm.harness import Cluster, write_data
from tests.slurm.kill import PAIRS, RANKS, at_least_one, check, kill_points, shares


def test_killed_trainings_equal_undisturbed_ones(cluster: Cluster, tmp_path: Path) -> None:
    """Run a short version of `python tests/slurm/kill.py`, which covers both stages and all ZeRO stages."""
    write_data(tmp_path / "data", documents=32)
    figures = check(cluster, [("rc", 2)], kills=1, seed=1, folder=tmp_path)
    assert figures["differences"] == {"rc, ZeRO 2": []}
    assert figures["kills"] >= 1


@pytest.mark.parametrize("kills", [1, 5, 8, 20])
def test_kills_are_spread_over_the_pairs(kills: int) -> None:
    spread = shares(kills, len(PAIRS))
    assert len(spread) == len(PAIRS)
    assert sum(spread) == kills
    assert max(spread) - min(spread) <= 1


def test_kills_are_spread_over_the_training() -> None:
    points = kill_points(4, 40, random.Random(3))
    assert [step // 10 for step, _, _ in points] == [0, 1, 2, 3]
    assert {rank for _, rank, _ in points} <= set(range(RANKS))


def test_fewer_kills_than_pairs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trainings are simulated. Only pairs with a kill are trained, and the others are listed."""
    trained: list[str] = []
    killed: list[int] = []

    class Pretended:
        def launch(self, stage: str, options: dict[str, Any]) -> None:
            trained.append(f"{stage}, ZeRO {options['train.zero_stage']}")

    def disturbed(cluster: Any, given: Any, run: Path, points: list[Any]) -> int:
        killed.append(len(points))
        return len(points)

    monkeypatch.setattr(kill, "disturbed", disturbed)
    monkeypatch.setattr(kill, "steps", lambda run: [64])
    for name in ("wait_until_done", "write_data"):
        monkeypatch.setattr(kill, name, lambda path: path)
    for name, result in (("differences", []), ("events", [])):
        monkeypatch.setattr(kill, name, lambda *_, result=result: list(result))
    figures = check(Pretended(), list(PAIRS), kills=5, seed=0, folder=tmp_path)  # type: ignore[arg-type]
    assert killed == [1] * 5
    assert (figures["kills"], figures["identical"]) == (5, True)
    assert len(trained) == 5 and not set(trained) & set(figures["not_killed"])
    assert len(figures["not_killed"]) == 3
    message = capsys.readouterr().out
    assert f"3 of 8 pairs got no kill and were not trained: {'; '.join(figures['not_killed'])}" in message


@pytest.mark.parametrize("text", ["0", "-1", "five"])
def test_zero_kills_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"{text} was given: give a whole number from 1 on"):
        at_least_one(text)
    assert at_least_one("5") == 5
