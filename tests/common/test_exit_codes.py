"""Exit status of commands, and commands whose reader closes the pipe, such as `head`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lmrc.common.errors import UserError
from lmrc.common.exit_codes import Failed, Interrupted, exit_status
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("no file"), 2, "Error: no file\n"),
        (Failed("two units failed"), 1, "two units failed\n"),
        (Interrupted("saved"), 1, "saved\n"),
        (KeyboardInterrupt(), 1, "Stopped; the same command resumes.\n"),
    ],
)
def test_errors_are_one_line(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    assert exit_status(command) == status
    assert capsys.readouterr().err == message
    assert exit_status(lambda: None) == 0


def test_errors_that_are_bugs_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: 1 / 0)


def run_without_reader(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose standard output is a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    finally:
        os.close(writer)


# Little text stays in Python's buffer until the end of the process; much text is written before.
@pytest.mark.parametrize("lines", [1, 10_000])
def test_closed_pipe_ends_a_command_quietly(lines: int) -> None:
    code = (
        "import sys; from lmrc.common.exit_codes import exit_status; "
        f"sys.exit(exit_status(lambda: print('a\\n' * {lines})))"
    )
    done = run_without_reader(sys.executable, "-c", code)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    "command",
    [
        "launch/rcp.py --help",
        "launch/pipeline.py --help",
        "-m lmrc.cli.main --help",
        "-m lmrc.cli.main train rcp --help",
    ],
)
def test_closed_pipe_ends_help_quietly(command: str) -> None:
    done = run_without_reader(sys.executable, *command.split())
    assert (done.returncode, done.stderr) == (1, "")
