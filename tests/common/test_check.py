from __future__ import annotations

import pytest

from lmrc.common.check import format_check, missing, ok


def test_color_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert format_check(ok("torch")) == "\x1b[32mok     \x1b[0m  torch"
    assert format_check(missing("torch", "install it")) == "\x1b[31mmissing\x1b[0m  torch\n         → install it"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_color_for_who_wants_none(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    assert format_check(ok("torch")) == "ok       torch"
