from __future__ import annotations

import pytest

from lmrc.common.errors import ConfigError
from lmrc.config.schema import ServerOptions
from lmrc.rc.decoding.openai.client import ApiKey, is_loopback, needs_key, read_key

SECRET = "sk-very-secret-0123"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def options(url: str, variable: str | None = "OPENAI_API_KEY") -> ServerOptions:
    return ServerOptions(url=url, key_variable=variable, model="m")


def test_key_is_read_from_the_named_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", SECRET)
    key = read_key(options("https://api.example.org/v1", "MINE"))
    assert key is not None
    assert key.header() == f"Bearer {SECRET}"
    assert read_key(options("https://api.example.org/v1")) is None
    assert read_key(options("https://api.example.org/v1", None)) is None
    monkeypatch.setenv("MINE", "")
    assert read_key(options("https://api.example.org/v1", "MINE")) is None


def test_key_is_not_in_repr_and_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    key = ApiKey("MINE", SECRET)
    assert "MINE" in repr(key)
    assert SECRET not in f"{key} {key!r} {[key]} {vars(type(key))}"
    assert key.redact(f"wrong key {SECRET}!") == "wrong key ***!"


@pytest.mark.parametrize("value", [f"{SECRET}\n", f" {SECRET}", f"{SECRET}\r\nX: y", f"{SECRET}é", "two words"])
def test_invalid_key_is_refused_without_showing_it(value: str) -> None:
    with pytest.raises(ConfigError, match="MINE contains white space") as caught:
        ApiKey("MINE", value)
    assert SECRET not in str(caught.value)


def test_openai_key_is_not_sent_unencrypted_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("VLLM_API_KEY", "cluster")
    with pytest.raises(ConfigError, match=r"server\.key_variable=none") as caught:
        read_key(options("http://n12:8000/v1"))
    assert SECRET not in str(caught.value)
    for url in ["https://n12/v1", "http://localhost:8000/v1", "http://127.0.0.1:1/v1", "http://[::1]:8000/v1"]:
        assert read_key(options(url)) is not None
    assert read_key(options("http://n12:8000/v1", "VLLM_API_KEY")) is not None
    assert read_key(options("http://n12:8000/v1", None)) is None


def test_needs_key() -> None:
    assert needs_key(options("https://api.example.org/v1"))
    assert not needs_key(options("https://vllm.example.org/v1", None))
    assert not needs_key(options("http://n12:8000/v1"))
    assert not needs_key(options("http://localhost:8000/v1"))


def test_is_loopback() -> None:
    assert is_loopback("http://127.1.2.3/v1")
    assert not is_loopback("http://10.0.0.1/v1")
    assert not is_loopback("http://localhost.example.org/v1")
