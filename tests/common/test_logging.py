from __future__ import annotations

import io
import logging
import re
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
from tqdm import tqdm

from lmrc.common.logging import set_up_logging, set_up_stage_logging
from tests.conftest import ROOT

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
OTHER = f"rank 3 on {socket.gethostname()}"

logger = logging.getLogger("lmrc.some.module")


def log_at_all_levels() -> None:
    logger.debug("detail")
    logger.info("line")
    logger.warning("remark")
    logger.error("problem")


def without_times(text: str) -> list[str]:
    """Return the lines without their times. Each must have one."""
    lines = [re.fullmatch(rf"{TIME} (.*)", line) for line in text.splitlines()]
    return [line[1] if line else "no time" for line in lines]


@pytest.mark.parametrize(
    ("rank", "verbose", "expected"),
    [
        (0, False, ["line", "WARNING remark", "ERROR problem"]),
        (0, True, ["detail", "line", "WARNING remark", "ERROR problem"]),
        (3, False, [f"WARNING {OTHER}: remark", f"ERROR {OTHER}: problem"]),
        (3, True, [f"{OTHER}: detail", f"{OTHER}: line", f"WARNING {OTHER}: remark", f"ERROR {OTHER}: problem"]),
    ],
)
def test_lines_of_a_rank(rank: int, verbose: bool, expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("stdout", rank, verbose)
    log_at_all_levels()
    output = capsys.readouterr()
    assert without_times(output.out) == expected
    assert output.err == ""


def test_the_rank_of_a_stage_is_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    set_up_stage_logging()
    logger.info("one")
    monkeypatch.setenv("RANK", "0")
    set_up_stage_logging()
    logger.info("two")
    monkeypatch.delenv("RANK")
    set_up_stage_logging()
    logger.info("three")
    assert without_times(capsys.readouterr().out) == ["two", "three"]


def test_the_last_set_up_counts(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger("lmrc")
    others = len(root.handlers)
    for stream in ("stderr", "stderr", "stdout"):
        set_up_logging(stream)
    assert len(root.handlers) == others + 1
    assert root.propagate
    logger.info("once")
    output = capsys.readouterr()
    assert without_times(output.out) == ["once"]
    assert output.err == ""


def test_the_stream_is_looked_up_for_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_logging("stderr")
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    logger.info("line")
    assert without_times(later.getvalue()) == ["line"]


def test_each_line_is_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(disk)))  # type: ignore[type-var]
    set_up_logging("stdout")
    logger.info("line")
    assert disk.getvalue().endswith(b" line\n")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_line_stands_above_the_bar(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    set_up_logging("stdout" if stream == "stdout" else "stderr")
    with tqdm(total=2, desc="steps", mininterval=0.0) as bar:
        bar.update()
        logger.info("line")
    # A carriage return and spaces clear the bar; the line then starts in the first column.
    line = re.search(rf"\r *\r{TIME} line\n\rsteps:", terminal.getvalue())
    assert line, repr(terminal.getvalue())


def test_a_closed_pipe_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    set_up_logging("stdout")
    with pytest.raises(BrokenPipeError):
        logger.info("line")


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("problem", [full_disk, lambda *_: 1 / 0])
def test_a_line_that_cannot_be_written_does_not_end_the_run(
    problem: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "write", problem)
    monkeypatch.setattr(sys, "stdout", stream)
    set_up_logging("stdout")
    logger.info("line")
    assert "--- Logging error ---" in capsys.readouterr().err


def test_a_library_configures_nothing() -> None:
    code = (
        "import logging, sys, lmrc\nlmrc.Corpus\n"
        "print(logging.getLogger('lmrc').handlers, logging.getLogger('lmrc').level, logging.root.handlers)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[] 0 []\n"
