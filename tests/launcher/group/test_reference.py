from __future__ import annotations

from pathlib import Path

from lmrc.launcher.group.reference import prediction_files
from tests.launcher.group.site import write_group


def test_runs_pipelines_groups_and_files(tmp_path: Path) -> None:
    home = tmp_path / "all"
    write_group(home, {"seed1": ("all", 1), "seed2": ("all", 2), "seed3": ("all", 3)})
    assert prediction_files(home) == []
    for name in ("seed1", "seed3"):
        (home / name / "classify").mkdir(parents=True)
        (home / name / "classify" / "predictions.json").touch()
    run = home / "seed1" / "classify"
    assert prediction_files(run / "predictions.json") == [run / "predictions.json"]
    assert prediction_files(run) == prediction_files(home / "seed1") == [run]
    # Without the member that has not finished.
    assert prediction_files(home) == [run, home / "seed3" / "classify"]
    assert prediction_files(tmp_path) == prediction_files(tmp_path / "none") == []
