from __future__ import annotations

import os
from pathlib import Path

import pytest

from lmrc.common import threads
from lmrc.common.errors import RunError
from lmrc.config.schema import ClusterOptions, ProposeConfig, RunOptions
from lmrc.demo.background import BackgroundStage
from lmrc.launcher.stages import PROPOSE


def without_corpus(folder: Path) -> ProposeConfig:
    return ProposeConfig(
        run=RunOptions(name="x", folder=folder), corpus=folder / "none", cluster=ClusterOptions(where="here")
    )


def test_a_failed_stage_is_an_error_that_names_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    stage = BackgroundStage(PROPOSE, without_corpus(tmp_path), log, processes=2)
    with pytest.raises(RunError, match=f"ended with status 2: see {log}"), stage:
        stage.wait()
    assert f"{tmp_path / 'none'}: no such folder" in log.read_text()
    assert "no such folder" in capsys.readouterr().out


def test_an_error_beside_the_stage_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(threads.THREADS, raising=False)
    stage = BackgroundStage(PROPOSE, without_corpus(tmp_path), tmp_path / "log", processes=2)
    with pytest.raises(KeyError), stage:
        assert stage._process.is_alive()
        assert threads.THREADS not in os.environ  # set for the new process only
        raise KeyError
    assert stage._process.exitcode
