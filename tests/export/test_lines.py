from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.export.lines import ResultLines, read_results
from tests.export.examples import result


def test_a_second_call_goes_on_after_the_last_whole_line(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.jsonl"
    with ResultLines(out, "k") as lines:
        assert (lines.done, lines.removed) == (0, 0)
        lines.write(result("one"))
        lines.write(result("two"))
        assert out.read_bytes().count(b"\n") == 2  # a reader sees them at once
    whole = out.read_bytes()
    for cut in (1, len(whole) // 4):
        out.write_bytes(whole[:-cut])
        with ResultLines(out, "k") as lines:
            assert (lines.done, lines.removed) == (1, 1)
            assert list(lines.titles()) == ["one"]
            lines.write(result("two"))
            assert list(lines.titles()) == ["one"]
        assert out.read_bytes() == whole
    assert [found.title for found in read_results(out)] == ["one", "two"]


def test_a_line_cut_inside_of_a_character_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with ResultLines(out, "k") as lines:
        lines.write(result("\u4e2d"))
    out.write_bytes(out.read_bytes() + '{"title": "\u4e2d'.encode()[:-1])
    with ResultLines(out, "k") as lines:
        assert (lines.done, lines.removed) == (1, 1)


def test_files_of_others_stay_as_they_are(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with ResultLines(out, "k") as lines:
        lines.write(result())
    before = out.read_bytes()
    with pytest.raises(UserError, match="written with other models or options"):
        ResultLines(out, "other")
    assert out.read_bytes() == before
    for content in (b"[1]\n", b"text\n", b'{"a": 1}\nx'):
        out.write_bytes(content)
        with pytest.raises(UserError, match="line 1 is no result of lmrc extract"):
            ResultLines(out, "k")
        assert out.read_bytes() == content
    with pytest.raises(UserError, match="cannot be written"):
        ResultLines(tmp_path, "k")
    out.write_bytes(b"x")
    with pytest.raises(UserError, match="line 1 is not JSON"):
        list(read_results(out))
