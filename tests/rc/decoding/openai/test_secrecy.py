"""The key is only in the header of requests: not in files, output, logs, errors or the repr of objects."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmrc.common.errors import UserError
from lmrc.config.schema import ServerOptions
from lmrc.rc.decoding.openai.backend import ServerGenerator
from tests.rc.decoding.openai.scripted import ANSWER, Act, FastClock, messages_of, query, serve

SECRET = "sk-very-secret-0123"
ECHO = json.dumps({"error": {"message": f"Bearer {SECRET} is wrong", "code": SECRET}}).encode()
PASSING = [Act(status=500, body=ECHO), Act(status=429, body=ECHO), Act(body=ECHO), Act(closes=True), Act(sent=0.5)]
FATAL = [Act(status=status, body=ECHO, headers=(("Location", SECRET),)) for status in (301, 400, 401, 403, 404, 405)]


def shown(error: BaseException) -> str:
    """Return an error with its whole traceback, as it is written for a failed unit of work."""
    return f"{error!r} {''.join(traceback.format_exception(error))}"


def test_key_is_in_no_file_log_or_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MINE", SECRET)
    caplog.set_level(logging.DEBUG)
    seen: list[Any] = []
    for fatal in FATAL:

        def act(body: dict[str, Any], times: int, fatal: Act = fatal) -> Act:
            if body["max_tokens"] == 1:
                return fatal
            return PASSING[times] if times < len(PASSING) else ANSWER

        with serve(act) as server:
            options = ServerOptions(url=server.url, model="m", key_variable="MINE", concurrency=2)
            asked = ServerGenerator(options, tmp_path / "cache", clock=FastClock())
            # A run writes its options to this file.
            (tmp_path / "config.yaml").write_text(yaml.safe_dump(options.model_dump(mode="json")))
            assert len(list(asked.generate([query(1), query(2)], messages_of))) == 2
            with pytest.raises(UserError) as caught:
                list(asked.generate([query(3, room=1)], messages_of))
            assert all(headers["Authorization"] == f"Bearer {SECRET}" for headers in server.headers)
            seen += [repr(asked), str(asked), vars(asked), asked.usage, options, shown(caught.value)]
    output = capfd.readouterr()
    assert "***" in caplog.text  # The message of the server was shown.
    for text in [output.out, output.err, caplog.text, *map(str, seen)]:
        assert SECRET not in text
    # The libraries that see the key and the server's headers log nothing, even at DEBUG.
    assert not {"openai", "httpx2", "httpcore2"} & {record.name.split(".")[0] for record in caplog.records}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    for path in files:
        assert SECRET.encode() not in path.read_bytes()
        assert SECRET not in path.name


def test_invalid_key_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", f"{SECRET}\nX: y")
    with pytest.raises(UserError) as caught:
        ServerGenerator(ServerOptions(model="m", key_variable="MINE"), tmp_path)
    assert SECRET not in f"{caught.value!r}"


def test_pickled_options_contain_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", SECRET)
    assert SECRET.encode() not in pickle.dumps(ServerOptions(key_variable="MINE"))
