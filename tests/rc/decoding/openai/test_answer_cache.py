"""Tests of the answer cache: damaged files, failed writes and killed writers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.common.errors import RunError
from lmrc.config.schema import ServerOptions
from lmrc.rc.decoding.openai.answer_cache import AnswerCache, DamagedEntry
from lmrc.rc.decoding.openai.client import ServerAnswer, ServerRequest, build_request
from tests.conftest import ROOT

ANSWER = ServerAnswer("(Ada| spouse| Zoë)\n", "stop", 12, None)


def request(content: str = "who?") -> ServerRequest:
    return build_request(ServerOptions(model="m"), [{"role": "user", "content": content}], 5)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@given(asked=st.text(), text=st.text(), counts=st.tuples(st.none() | st.integers(0), st.none() | st.integers(0)))
def test_answer_round_trip(
    tmp_path_factory: pytest.TempPathFactory, asked: str, text: str, counts: tuple[int | None, int | None]
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    assert AnswerCache(folder).get(request(asked)) is None
    AnswerCache(folder).put(request(asked), ServerAnswer(text, "length", *counts))
    assert AnswerCache(folder).get(request(asked)) == ServerAnswer(text, "length", *counts)
    assert AnswerCache(folder).get(request(asked + "x")) is None


def test_files_are_named_by_the_cache_key(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "new" / "cache")
    assert cache.is_empty()
    cache.put(request(), ANSWER)
    assert not cache.is_empty()
    key = request().cache_key
    assert files(tmp_path) == [tmp_path / "new" / "cache" / key[:2] / f"{key}.json"]
    assert "(Ada| spouse| Zoë)" in files(tmp_path)[0].read_text(encoding="utf-8")
    assert json.loads(files(tmp_path)[0].read_text())["request"]["body"]["messages"][0]["content"] == "who?"


def test_truncated_or_changed_entry_is_refused(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    cache.put(request(), ANSWER)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedEntry):
            cache.get(request())
    for index, byte in enumerate(whole):
        path.write_bytes(whole[:index] + bytes([byte ^ 1]) + whole[index + 1 :])
        try:
            assert cache.get(request()) == ANSWER  # The changed byte is white space between fields.
        except DamagedEntry:
            continue
        assert chr(byte).isspace() or chr(byte ^ 1).isspace()
    for other in ["[]", "null", "{}", '{"sha256": 1}', '{"sha256": "x", "answer": {}}']:
        path.write_text(other)
        with pytest.raises(DamagedEntry):
            cache.get(request())
    cache.put(request(), ANSWER)
    assert cache.get(request()) == ANSWER


def test_entry_of_another_request_is_refused(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    cache.put(request("one"), ANSWER)
    (path,) = files(tmp_path)
    wrong = tmp_path / request("two").cache_key[:2] / f"{request('two').cache_key}.json"
    wrong.parent.mkdir(exist_ok=True)
    path.rename(wrong)
    with pytest.raises(DamagedEntry):
        cache.get(request("two"))


@pytest.mark.parametrize(("owner", "function"), [(os, "fsync"), (Path, "replace")])
def test_failed_write_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, function: str
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, refuse)
        with pytest.raises(RunError, match="No space left on device; free space"):
            AnswerCache(tmp_path).put(request(), ANSWER)
    assert files(tmp_path) == []
    assert AnswerCache(tmp_path).get(request()) is None


def test_unreadable_entry_is_an_error(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    (tmp_path / request().cache_key[:2] / f"{request().cache_key}.json").mkdir(parents=True)
    with pytest.raises(RunError, match="cannot read"):
        cache.get(request())


WRITER = """
import sys
from pathlib import Path
from lmrc.rc.decoding.openai.answer_cache import AnswerCache
from tests.rc.decoding.openai.test_answer_cache import ANSWER, request
cache = AnswerCache(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    for index in range(3):
        cache.put(request(str(index)), ANSWER)
"""


def test_killed_writers_leave_complete_entries(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        cache = AnswerCache(tmp_path)
        answers = [cache.get(request(str(index % 3))) for index in range(600)]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
    assert set(answers) <= {None, ANSWER}
    assert [cache.get(request(str(index))) for index in range(3)] == [ANSWER] * 3
