from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from lmrc.errors import UserError
from lmrc.evaluation.files import json_list, replacing


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ('{"item": [1]}', "no JSON list"),
        ("17", "no JSON list"),
        ('"[1]"', "no JSON list"),
        ("[1, 2,", "not valid JSON after 2 elements"),
        ("[1, }", "not valid JSON"),
        ("[1] [2]", "not valid JSON"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UserError, match=complaint) as caught:
        list(json_list(path, "a list of numbers"))
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("; expected a list of numbers")
    assert "\n" not in str(caught.value)


def test_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json: no such file"):
        list(json_list(tmp_path / "absent.json", "a list"))


def test_elements_come_as_json_has_them_also_gzipped(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b' [1, 2.5, true, null, {"a": ["b"]}]\n'))
    assert list(json_list(path, "a list")) == [1, 2.5, True, None, {"a": ["b"]}]
    (tmp_path / "empty.json").write_text("[]")
    assert list(json_list(tmp_path / "empty.json", "a list")) == []


def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    with replacing(path) as file:
        file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), replacing(tmp_path / "file" / "x.txt") as file:
        file.write("never")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written"), replacing(tmp_path / "folder") as file:
        file.write("never")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_the_evaluation_runs_without_torch() -> None:
    code = "import lmrc.evaluation.report, lmrc.evaluation.figures, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
