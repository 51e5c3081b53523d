from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lmrc.common.cache import cache_folder, cached
from lmrc.common.errors import UserError
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMRC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "model").write_text(text)

    return make


def test_the_environment_chooses_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("LMRC_CACHE", "/own")
    assert cache_folder() == Path("/own")
    monkeypatch.setenv("LMRC_CACHE", "")
    assert cache_folder() == Path("/xdg/lmrc")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "lmrc"


def test_a_folder_is_made_once_with_a_notice(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = cached("some/model", write("first"), "converting …")
    assert folder == cache / "some" / "model"
    assert (folder / "model").read_text() == "first"
    before, after = caplog.messages
    assert before == "converting …" and after.startswith(f"{folder} is written after ")
    caplog.clear()
    assert cached("some/model", write("second"), "converting …") == folder
    assert (folder / "model").read_text() == "first"
    assert caplog.messages == []


def test_progress_bars_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def make(folder: Path) -> None:
        (folder / "model").touch()
        print("50 %", file=sys.stderr)

    cached("model", make, "converting …")
    assert capsys.readouterr().err == ""


def test_all_users_can_read_it() -> None:
    def make(folder: Path) -> None:
        (folder / "model").touch(mode=0o600)

    folder = cached("model", make)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (folder / "model").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("damage", ["shorter", "missing", "no manifest", "torn manifest"])
def test_a_damaged_folder_is_made_again(damage: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = cached("model", write("whole"))
    if damage == "shorter":
        (folder / "model").write_text("who")
    elif damage == "missing":
        (folder / "model").unlink()
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_text('{"files": {')
    caplog.clear()
    assert (cached("model", write("again")) / "model").read_text() == "again"
    assert "damaged" in caplog.text


def test_a_failure_leaves_nothing(cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "model").write_text("half")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        cached("model", fail)
    assert [file.name for file in cache.iterdir() if not file.name.endswith(".lock")] == []


def test_a_full_disk_is_a_user_error() -> None:
    def fail(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"No space left on device.*LMRC_CACHE"):
        cached("model", fail)


def test_a_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LMRC_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="LMRC_CACHE"):
        cached("model", write("never"))


def test_several_processes_make_it_once(cache: Path, tmp_path: Path) -> None:
    script = (
        "import os, time\n"
        "from pathlib import Path\n"
        "from lmrc.common.cache import cached\n"
        "from lmrc.common.logging import set_up_logging\n"
        "set_up_logging('stderr')\n"
        "def make(folder):\n"
        "    (folder / 'model').write_text(str(os.getpid())); time.sleep(0.3)\n"
        "print((cached('model', make, 'making') / 'model').read_text())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    results = [process.communicate(timeout=60) for process in processes]
    assert len({out for out, _ in results}) == 1
    assert sum("making" in said for _, said in results) == 1
    assert json.loads((cache / "model" / "manifest.json").read_text())["files"].keys() == {"model"}


def test_without_locks_the_first_writer_wins(cache: Path) -> None:

    def make_too_late(folder: Path) -> None:
        (folder / "model").write_text("late")
        other = cache / "model"
        other.mkdir()
        (other / "model").write_text("early")
        (other / "manifest.json").write_text('{"files": {"model": 5}}')

    folder = cached("model", make_too_late)
    assert (folder / "model").read_text() == "early"
    assert sorted(file.name for file in cache.iterdir()) == ["model", "model.lock"]
