from __future__ import annotations

import pytest

from lmrc.training.distributed import say


def test_only_rank_0_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    say("one")
    monkeypatch.setenv("RANK", "0")
    say("two")
    monkeypatch.delenv("RANK")
    say("three")
    assert capsys.readouterr().out == "two\nthree\n"
