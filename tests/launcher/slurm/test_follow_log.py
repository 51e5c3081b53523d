from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.follow_log import Tail, follow_job


def test_complete_lines_are_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    tail.show()  # the file does not exist yet
    with path.open("w") as file:
        file.write("submitit INFO (…) - Starting\nstep 1\nste")
        file.flush()
        tail.show()
        assert capsys.readouterr().out == "step 1\n"
        file.write("p 2\n")
        file.flush()
        tail.show()
    assert capsys.readouterr().out == "step 2\n"


def states(*names: str) -> Iterator[slurm.SlurmJob | None]:
    for name in names:
        yield slurm.SlurmJob("4711", name, "Priority" if name == "PENDING" else "None", 0, "n1")
    yield None


def test_follow_job_until_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "4711_0_log.out").write_text("step 1\n")
    # PREEMPTED does not end the job.
    answers = states("PENDING", "RUNNING", "RUNNING", "PENDING", "RUNNING", "COMPLETED")
    monkeypatch.setattr(slurm, "job", lambda identifier: next(answers))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    follow_job("4711", tmp_path, is_array=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("[")] == [
        *("[job 4711: PENDING, Priority]", "[job 4711: RUNNING]"),
        *("[job 4711: PENDING, Priority]", "[job 4711: RUNNING]", "[job 4711: COMPLETED]"),
    ]
    assert lines.count("step 1") == 1


def test_ctrl_c_does_not_stop_the_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(identifier: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm, "job", interrupt)
    follow_job("4711", tmp_path, is_array=True)
    message = capsys.readouterr().out
    assert f"lmrc status {tmp_path}" in message
    assert f"tail -F {tmp_path}/log/4711_0_0_log.out" in message
