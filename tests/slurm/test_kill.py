from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import pytest

from lmrc.inference.work_units import Units
from lmrc.runs.shared_fs import Files
from tests.slurm import kill
from tests.slurm.harness import Cluster, write_data
from tests.slurm.kill import CASES, at_least_one, check, known_cases, shares
from tests.slurm.killed import KILLS_PER_RUN, Killed, kill_points, most_runs
from tests.slurm.killed_inferences import UnitAttempts, file_differences
from tests.slurm.killed_trainings import moved_differences


def test_killed_trainings_equal_undisturbed_ones(cluster: Cluster, tmp_path: Path) -> None:
    """Run a short version of `python tests/slurm/kill.py`, which covers both stages and all ZeRO stages."""
    write_data(tmp_path / "data", documents=32)
    figures = check(cluster, ["rc:2"], kills=1, seed=1, folder=tmp_path)
    assert figures["differences"] == {"rc:2": []}
    assert figures["kills"] >= 1


@pytest.mark.parametrize("kills", [1, 5, 12, 200])
def test_kills_are_spread_over_the_cases(kills: int) -> None:
    spread = shares(kills, len(CASES))
    assert len(spread) == len(CASES)
    assert sum(spread) == kills
    assert max(spread) - min(spread) <= 1


def test_six_kills_reach_each_kind_of_run() -> None:
    killed = [case for case, share in zip(CASES, shares(6, len(CASES)), strict=True) if share]
    assert killed == ["rcp:moving", "propose", "rc:0", "rc:moving", "classify", "rc:3"]


def test_kills_are_spread_over_the_training() -> None:
    points = kill_points(4, 40, 2, random.Random(3))
    assert [step // 10 for step, _, _ in points] == [0, 1, 2, 3]
    assert {rank for _, rank, _ in points} <= {0, 1}


@pytest.mark.parametrize("kills", [1, 3, 17])
def test_runs_suffice_for_the_kills(kills: int) -> None:
    assert most_runs(kills) * KILLS_PER_RUN > 2 * kills


def test_fewer_kills_than_cases(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs are simulated. Only cases with a kill are run, and the others are listed."""
    run: list[str] = []

    def pretend(cluster: Any, case: str, kills: int, chance: random.Random, folder: Path) -> Killed:
        run.append(case)
        killed = Killed("units" if case in ("propose", "classify") else "steps")
        killed.add(kills, needed=64, repeated=8, differences=["DONE"] if case == "rc:3" else [], line="killed")
        return killed

    monkeypatch.setattr(kill, "kill", pretend)
    monkeypatch.setattr(kill, "write_data", lambda path: path)
    figures = check(None, list(CASES), kills=6, seed=0, folder=tmp_path)  # type: ignore[arg-type]
    assert (figures["kills"], figures["identical"]) == (6, False)
    assert figures["differences"]["rc:3"] == ["DONE"]
    assert figures["wasted_percent"] == {"steps": 12.5, "units": 12.5}
    assert len(run) == 6 and sorted([*run, *figures["not_killed"]]) == sorted(CASES)
    message = capsys.readouterr().out
    assert f"6 of 12 cases got no kill and were not run: {'; '.join(figures['not_killed'])}" in message
    assert "rc:3: 1 of 1 kills: DONE; 8 of 64 steps done twice (12.5 %)" in message
    json.dumps(figures)


def test_a_case_that_times_out_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def pretend(cluster: Any, case: str, kills: int, chance: random.Random, folder: Path) -> Killed:
        assert case != "propose", "no unit within 300 s"
        return Killed("steps", kills, needed=64)

    monkeypatch.setattr(kill, "kill", pretend)
    monkeypatch.setattr(kill, "write_data", lambda path: path)
    figures = check(None, ["propose", "rc:3"], kills=2, seed=0, folder=tmp_path)  # type: ignore[arg-type]
    assert (figures["kills"], figures["identical"]) == (1, False)
    assert "no unit within 300 s" in figures["differences"]["propose"][0] and figures["differences"]["rc:3"] == []


def test_a_moved_training_may_differ_by_rounding_only(tmp_path: Path) -> None:
    def write(name: str, loss: float, examples: list[int]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        row = {"step": 1, "examples": examples, "loss": loss, "gradient_norm": loss, "rate": 1.0}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        (folder / "DONE").write_text('{"steps": 1}')
        return folder

    whole = write("whole", 2.0, [3, 1])
    assert moved_differences(whole, write("rounded", 2.0001, [3, 1])) == []
    assert moved_differences(whole, write("other", 2.1, [3, 1])) == ["the loss of step 1: 2.1 and not 2.0"]
    assert moved_differences(whole, write("batches", 2.0, [1, 3])) == ["steps, batches or learning rates"]


def test_repeated_units_are_attempts_after_the_first(tmp_path: Path) -> None:
    attempts, units = UnitAttempts(tmp_path), Units(tmp_path, Files())
    assert not attempts.is_done() and attempts.units == 0
    units.folder.mkdir()
    (units.folder / "plan.json").write_text('{"units": 4}')
    for unit, attempt in ((0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (2, 3)):
        units.path("claim", unit, attempt).touch()
    assert not attempts.is_done()
    (tmp_path / "DONE").touch()
    for path in units.folder.iterdir():
        path.unlink()
    assert attempts.is_done()
    assert (attempts.units, attempts.repeated) == (4, 3)


def test_outputs_of_inferences_are_compared(tmp_path: Path) -> None:
    whole, other = tmp_path / "whole", tmp_path / "other"
    for folder, word in ((whole, "a"), (other, "b")):
        (folder / "candidates").mkdir(parents=True)
        (folder / "candidates" / "manifest.json").write_text("same")
        (folder / "candidates" / "part.arrow").write_text(word)
        (folder / "environment.json").write_text(word)
    (whole / "predictions.json").write_text("[]")
    assert file_differences(whole, other) == ["predictions.json", "candidates/part.arrow"]
    assert file_differences(tmp_path / "none", other) == ["no output"]


@pytest.mark.parametrize("text", ["0", "-1", "five"])
def test_zero_kills_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"{text} was given: give a whole number from 1 on"):
        at_least_one(text)
    assert at_least_one("5") == 5


def test_unknown_cases_are_refused() -> None:
    assert known_cases("rc:3,classify") == ["rc:3", "classify"]
    with pytest.raises(argparse.ArgumentTypeError, match="no case rc:4: give some of rcp:0"):
        known_cases("rcp:0,rc:4")
