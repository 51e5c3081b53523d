"""Tests of a single request against a scripted HTTP server."""

from __future__ import annotations

import json
import socket
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from lmrc.common.errors import ConfigError, UserError
from lmrc.config.schema import ServerOptions
from lmrc.rc.decoding.openai import client as client_module
from lmrc.rc.decoding.openai.client import ApiKey, Client, RetryableError, ServerAnswer, build_request
from tests.rc.decoding.openai.scripted import ANSWER, Act, right_answer, serve, text_for

SECRET = "sk-very-secret-0123"


def ask(
    act: Act, endpoint: str = "chat", key: ApiKey | None = None, finish_reason: str = "stop", **given: Any
) -> ServerAnswer:
    """Send a request to a server that does `act`, and return the answer."""
    with serve(lambda body, times: act) as server:
        server.finish_reason = finish_reason
        options = ServerOptions(**{"url": server.url, "model": "m", "endpoint": endpoint, **given})
        client = Client(options, key)
        return client.ask(build_request(options, [{"role": "user", "content": "who?"}], 5))


def error(message: str, code: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": "t", "code": code}}).encode()


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_an_answer(endpoint: str, finish_reason: str) -> None:
    body = build_request(ServerOptions(model="m", endpoint=endpoint), [{"role": "user", "content": "who?"}], 5).body
    assert ask(ANSWER, endpoint, finish_reason=finish_reason) == ServerAnswer(text_for(body), finish_reason, 100, 5)


def test_path_body_and_authorization_header(monkeypatch: pytest.MonkeyPatch) -> None:
    for endpoint, path in [("chat", "/v1/chat/completions"), ("completions", "/v1/completions")]:
        for key in (None, ApiKey("MINE", SECRET)):
            with serve() as server:
                options = ServerOptions(url=server.url, model="m", endpoint=endpoint)
                request = build_request(options, [{"role": "user", "content": "Zoë?"}], 5)
                Client(options, key).ask(request)
                assert server.paths == [path]
                assert server.asked == [request.body]
                assert server.headers[0].get("Authorization") == (key and f"Bearer {SECRET}")


def test_no_credentials_of_the_environment_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(variable, SECRET)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"Authorization: Bearer {SECRET}\nX-Other: {SECRET}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    for key in (None, ApiKey("MINE", "mine")):
        with serve() as server:
            options = ServerOptions(url=server.url, model="m")
            Client(options, key).ask(build_request(options, [{"role": "user", "content": "who?"}], 5))
            assert server.headers[0].get("Authorization") == (key and "Bearer mine")
            assert SECRET not in str(server.headers)


def test_requests_ca_bundle_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module.ssl, "create_default_context", lambda **given: given)
    bundle = tmp_path / "ca.pem"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    assert client_module._ssl_context() is True
    bundle.write_text("")
    assert client_module._ssl_context() == {"cafile": str(bundle)}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    assert client_module._ssl_context() == {"capath": str(tmp_path)}
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    assert client_module._ssl_context() is True


@pytest.mark.parametrize("here", [True, False])
def test_netrc_and_proxies_do_not_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        # For a server on another machine, NO_PROXY decides.
        monkeypatch.setenv(name, "" if here else "127.0.0.1")
    monkeypatch.setattr(client_module, "is_loopback", lambda url: here)
    for key in (None, ApiKey("MINE", SECRET)):
        with serve() as server:
            options = ServerOptions(url=server.url, model="m")
            Client(options, key).ask(build_request(options, [{"role": "user", "content": "who?"}], 5))
            assert server.headers[0].get("Authorization") == (key and f"Bearer {SECRET}")


@pytest.mark.parametrize(
    ("act", "kind", "says"),
    [
        (Act(status=429, body=error("slow down")), "429", "answered 429: slow down"),
        (Act(status=500, body=b"Internal Server Error"), "500", "answered 500: Internal Server Error"),
        (Act(status=502, body=b"<html>\n bad  gateway</html>"), "502", "<html> bad gateway</html>"),
        (Act(status=503, body=b""), "503", "answered 503"),
        (Act(status=504, body=b""), "504", "answered 504"),
        (Act(status=529, body=error("overloaded")), "529", "overloaded"),
        (Act(status=408, body=b""), "408", "answered 408"),
        (Act(closes=True), "connection", "the connection failed"),
        (Act(sent=0.5), "connection", "the connection failed"),
        (Act(sent=0.0), "connection", "the connection failed"),
        (Act(body=b""), "malformed", "not have the expected format"),
        (Act(body=b'{"choices": [{"mess'), "malformed", "not have the expected format"),
        (Act(body=b"\xff\xfe"), "malformed", "not have the expected format"),
        (Act(body=b"[]"), "malformed", "not have the expected format"),
        (Act(body=b"{}"), "malformed", "not have the expected format"),
        (Act(body=b'{"choices": []}'), "malformed", "not have the expected format"),
        (Act(body=b'{"choices": [{"finish_reason": "stop"}]}'), "malformed", "expected format"),
        (Act(body=b'{"choices": [{"message": {"content": "x"}}]}'), "malformed", "expected format"),
        (Act(body=b'{"choices": [{"message": {"content": "x"}, "finish_reason": null}]}'), "malformed", "format"),
        (Act(body=b'{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}'), "malformed", "format"),
        (Act(body=error("provider is down")), "error", "an error instead of an answer: provider is down"),
    ],
)
def test_retryable_failures(act: Act, kind: str, says: str) -> None:
    with pytest.raises(RetryableError, match=says) as caught:
        ask(act)
    assert caught.value.kind == kind
    assert caught.value.wait == 0


@pytest.mark.parametrize(
    "act", [Act(seconds=5), Act(trickles=True), Act(status=500, trickles=True), Act(sent=0.5, stalls=True)]
)
def test_timeout(act: Act) -> None:
    begun = time.monotonic()
    with pytest.raises(RetryableError, match=r"no complete answer within 0\.2 s") as caught:
        ask(act, timeout_seconds=0.2)
    assert caught.value.kind == "timeout"
    assert time.monotonic() - begun < 2


def test_connection_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        options = ServerOptions(url=f"http://127.0.0.1:{unused.getsockname()[1]}/v1", model="m")
        with pytest.raises(RetryableError, match=r"the connection failed: \[Errno \d+\] Connection refused$"):
            Client(options, None).ask(build_request(options, [{"role": "user", "content": "who?"}], 5))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("0.5", 0.5), ("0", 0), ("-3", 0), ("soon", 0), ("", 0), ("nan", 0), ("inf", 0)],
)
def test_retry_after_in_seconds(value: str, seconds: float) -> None:
    for status in (429, 503):
        with pytest.raises(RetryableError) as caught:
            ask(Act(status=status, body=b"", headers=(("Retry-After", value),)))
        assert caught.value.wait == seconds


def test_retry_after_as_a_date() -> None:
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=90), usegmt=True)
    with pytest.raises(RetryableError) as caught:
        ask(Act(status=429, body=b"", headers=(("Retry-After", date),)))
    assert 85 < caught.value.wait <= 90


@pytest.mark.parametrize(
    ("act", "kind", "says"),
    [
        (Act(status=401, body=error("who are you?")), ConfigError, "who are you.*put the right key into MINE"),
        (Act(status=403, body=error("not yours")), ConfigError, "not yours.*right key into MINE"),
        (Act(status=402, body=error("pay")), ConfigError, "pay.*no credit left"),
        (Act(status=429, body=error("pay", "insufficient_quota")), ConfigError, "pay.*no credit left"),
        (Act(status=404, body=error("no model m")), ConfigError, r"no model m.*server.url.*/v1.*server.model \(m\)"),
        (Act(status=404, body=b'{"detail": "Not Found"}'), ConfigError, "answered 404: Not Found. Check server.url"),
        (Act(status=405, body=b""), ConfigError, "answered 405. Check that server.url"),
        (Act(status=501, body=b""), ConfigError, "answered 501. Check that server.url"),
        (
            Act(status=307, body=b"", headers=(("Location", "https://b.org/v1"),)),
            ConfigError,
            "redirects to https://b.or",
        ),
        (Act(status=400, body=error("too long")), UserError, "too long.*prompt.max_length.*server.body"),
        (Act(status=422, body=b'{"detail": "no seed"}'), UserError, "answered 422: no seed.*seed=null"),
        (Act(status=413, body=b""), UserError, "answered 413. The server refuses"),
    ],
)
def test_permanent_failures(act: Act, kind: type[UserError], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        ask(act, key=ApiKey("MINE", SECRET), key_variable="MINE")
    # A ConfigError ends the run; a failure of one document must not.
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_unauthorized_without_a_key() -> None:
    with pytest.raises(ConfigError, match="no key was sent, because OPENAI_API_KEY is not set"):
        ask(Act(status=401, body=b""))
    with pytest.raises(ConfigError, match=r"no key was sent: give the name of the variable.*server\.key_variable"):
        ask(Act(status=401, body=b""), key_variable=None)


def test_withheld_answer_has_no_text() -> None:
    body = json.dumps({"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}).encode()
    assert ask(Act(body=body)) == ServerAnswer("", "content_filter", None, None)


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    """JSON can contain an emoji that was cut in two, which no text file can."""
    body = b'{"choices": [{"message": {"content": "a \\ud83d\\ude00 b \\ud83d c"}, "finish_reason": "length"}]}'
    assert ask(Act(body=body)).text == "a \N{GRINNING FACE} b \N{REPLACEMENT CHARACTER} c"


def test_white_space_before_an_answer_is_ignored() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "who?"}], "max_tokens": 5}
    assert ask(Act(body=b"\n \n" + right_answer(body, "/v1/chat/completions"))).text == text_for(body)


def test_messages_are_shortened_and_redacted() -> None:
    for act in [
        Act(status=400, body=error(f"wrong key {SECRET}" + "x" * 5000)),
        Act(status=500, body=f"<pre>Authorization: Bearer {SECRET}</pre>".encode()),
        Act(body=f"not json {SECRET}".encode()),
        Act(status=302, body=b"", headers=(("Location", f"https://b.org?key={SECRET}"),)),
    ]:
        with pytest.raises((UserError, RetryableError)) as caught:
            ask(act, key=ApiKey("MINE", SECRET), key_variable="MINE")
        assert SECRET not in str(caught.value)
        assert "***" in str(caught.value)
        assert len(str(caught.value)) < 700
