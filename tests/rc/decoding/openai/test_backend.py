"""Tests of the backend against a scripted HTTP server: order, cache, retries, rate limit and shutdown."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmrc.common.errors import ConfigError, RunError, UserError
from lmrc.config.schema import ServerOptions
from lmrc.rc.decoding.generate import Generation
from lmrc.rc.decoding.openai.backend import ServerGenerator
from lmrc.rc.decoding.openai.client import build_request
from lmrc.rc.prompts.query_builder import Query
from tests.rc.decoding.openai.scripted import ANSWER, Act, FastClock, Server, messages_of, query, serve, text_for

# No server listens on this port.
DEAD = "http://127.0.0.1:9/v1"


def backend(server: Server | str, folder: Path, clock: FastClock | None = None, **given: Any) -> ServerGenerator:
    url = server if isinstance(server, str) else server.url
    options = ServerOptions(**{"url": url, "model": "m", "concurrency": 4, **given})
    return ServerGenerator(options, folder, clock=clock or FastClock(), random=Random(0))


def ask(asked: ServerGenerator, queries: list[Query]) -> list[Generation]:
    return list(asked.generate(queries, messages_of))


def expected(asked: Query) -> str:
    options = ServerOptions(model="m")
    return text_for(build_request(options, messages_of(asked), asked.answer_room).body)


QUERIES = [query(index, room=10 + index) for index in range(12)]
# Longer than an answer takes on a busy machine.
TIMEOUT = 1.0
PASSING = [
    Act(status=429, body=b"{}", headers=(("Retry-After", "3"),)),
    Act(status=500, body=b""),
    Act(status=503, body=b"busy"),
    Act(closes=True),
    Act(sent=0.5),
    Act(body=b"no json"),
    Act(body=b"{}"),
    Act(seconds=2 * TIMEOUT),
]


def test_answers_are_in_order_and_usage_is_counted(tmp_path: Path) -> None:
    with serve(lambda body, times: Act(seconds=Random(body["max_tokens"]).random() / 20)) as server:
        asked = backend(server, tmp_path, prompt_price=10.0, completion_price=30.0)
        answers = ask(asked, QUERIES)
    assert answers == [Generation(query, expected(query), True) for query in QUERIES]
    # Each answer has 100 prompt tokens and max_tokens completion tokens.
    tokens = sum(range(10, 22))
    assert asked.usage.as_json() == {
        "requests": 12,
        "prompt_tokens": 1200,
        "completion_tokens": tokens,
        "cost": pytest.approx((1200 * 10 + tokens * 30) / 1e6),
        "cached": 0,
        "cached_prompt_tokens": 0,
        "cached_completion_tokens": 0,
        "cached_cost": 0.0,
        "uncounted": 0,
        "withheld": 0,
        "damaged": 0,
        "retries": 0,
        "failures": {},
    }


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    prompts=st.lists(st.sampled_from("abcdefgh"), max_size=14),
    kept=st.sets(st.sampled_from("abcdefgh"), max_size=4),
    troubles=st.dictionaries(
        st.sampled_from("abcdefgh"), st.lists(st.sampled_from(range(len(PASSING))), max_size=3), max_size=4
    ),
    concurrency=st.integers(1, 5),
)
def test_each_request_is_paid_once_despite_failures(
    tmp_path_factory: pytest.TempPathFactory,
    prompts: list[str],
    kept: set[str],
    troubles: dict[str, list[int]],
    concurrency: int,
) -> None:
    folder = tmp_path_factory.mktemp("cache")

    def act(body: dict[str, Any], times: int) -> Act:
        ahead = troubles.get(body["messages"][0]["content"], [])
        return PASSING[ahead[times]] if times < len(ahead) else ANSWER

    queries = [query(index, prompt) for index, prompt in enumerate(prompts)]
    with serve() as before:
        ask(backend(before, folder), [query(0, prompt) for prompt in sorted(kept)])
    with serve(act) as server:
        asked = backend(server, folder, concurrency=concurrency, timeout_seconds=TIMEOUT)
        answers = ask(asked, queries)
        new = set(prompts) - kept
        assert answers == [Generation(query, expected(query), True) for query in queries]
        assert server.paid == Counter(expected(query(0, prompt)) for prompt in new)
        assert server.most_at_once <= concurrency + sum(
            map(len, troubles.values())
        )  # Requests that timed out stay open on the server.
    failed = sum(len(troubles.get(prompt, [])) for prompt in new)
    usage = asked.usage
    assert (usage.requests, usage.cached) == (len(new), len(queries) - len(new))
    assert (usage.retries, sum(usage.failures.values())) == (failed, failed)
    assert usage.prompt_tokens == 100 * len(new)
    assert usage.cached_prompt_tokens == 100 * (len(queries) - len(new))


def test_concurrency_is_used_and_not_exceeded(tmp_path: Path) -> None:
    with serve(lambda body, times: Act(seconds=0.1)) as server:
        ask(backend(server, tmp_path, concurrency=3), QUERIES[:9])
        assert server.most_at_once == 3


def test_queries_are_read_lazily(tmp_path: Path) -> None:
    read = []

    def source() -> Iterator[Query]:
        for index in range(1000):
            read.append(index)
            yield query(index)

    with serve() as server:
        answers = backend(server, tmp_path, concurrency=2).generate(source(), messages_of)
        assert next(answers).query.document == 0
        answers.close()
    assert len(read) <= 4 * 2 + 1


def test_finish_reasons(tmp_path: Path) -> None:
    for reason, withheld in [("length", 0), ("content_filter", 1)]:
        with serve() as server:
            server.finish_reason = reason
            asked = backend(server, tmp_path / reason)
            assert [answer.finished for answer in ask(asked, QUERIES[:1])] == [False]
            assert asked.usage.withheld == withheld


def test_cost_is_none_without_prices_or_token_counts(tmp_path: Path) -> None:
    body = b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}'
    with serve(lambda asked, times: Act(body=body)) as server:
        asked = backend(server, tmp_path, prompt_price=1.0)
        ask(asked, QUERIES[:2])
    assert (asked.usage.cost, asked.usage.cached_cost, asked.usage.uncounted) == (None, None, 2)


# --- the cache


def test_cached_answers_need_neither_server_nor_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serve() as server:
        ask(backend(server, tmp_path), QUERIES)
    away = backend("https://api.example.invalid/v1", tmp_path, prompt_price=1.0, completion_price=0.0)
    assert ask(away, QUERIES) == [Generation(query, expected(query), True) for query in QUERIES]
    assert (away.usage.requests, away.usage.cached, away.usage.cost) == (0, 12, 0.0)
    assert away.usage.cached_cost == pytest.approx(1200 / 1e6)
    with pytest.raises(ConfigError, match=r"OPENAI_API_KEY is not set, but https://api\.example\.invalid/v1"):
        ask(away, [*QUERIES, query(99)])


def test_missing_key_is_refused_at_once_if_the_cache_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"OPENAI_API_KEY is not set.*server\.key_variable=none"):
        backend("https://api.example.invalid/v1", tmp_path)
    backend("https://api.example.invalid/v1", tmp_path, key_variable=None)
    backend("http://n12:8000/v1", tmp_path)


def test_damaged_answer_is_requested_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serve() as server:
        ask(backend(server, tmp_path), QUERIES)
        (path, *_) = tmp_path.glob("??/*.json")
        path.write_bytes(path.read_bytes()[:-20])
        again = backend(server, tmp_path)
        assert ask(again, QUERIES) == [Generation(query, expected(query), True) for query in QUERIES]
        assert sum(server.paid.values()) == 13
    assert (again.usage.damaged, again.usage.requests, again.usage.cached) == (1, 1, 11)
    assert f"{path} is damaged" in caplog.text


def killed(pipe: Connection) -> None:
    # A shell starts background jobs with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    url, folder = pipe.recv()
    ask(backend(url, folder, concurrency=2), QUERIES)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_killed_run_pays_again_only_for_requests_in_flight(tmp_path: Path, signal_number: int) -> None:
    here, there = Pipe()
    # Fork before the server starts its threads.
    run = get_context("fork").Process(target=killed, args=(there,))
    run.start()
    assert run.pid is not None
    later = [4.0]  # Long, so that the run is not over before it is killed.
    with serve(lambda body, times: Act(seconds=0.05 if len(server.asked) < 7 else later[0])) as server:
        here.send((server.url, tmp_path))
        while sum(server.paid.values()) < 5 and run.is_alive():
            time.sleep(0.005)
        os.kill(run.pid, signal_number)
        run.join(30)
        assert run.exitcode not in (0, None)
        assert 5 <= sum(server.paid.values()) < 12
        later[0] = 0.0
        assert ask(backend(server, tmp_path), QUERIES) == [
            Generation(query, expected(query), True) for query in QUERIES
        ]
        twice = sum(server.paid.values()) - 12
    # After SIGINT, requests in flight finish; after SIGKILL they do not.
    assert twice <= (2 if signal_number == signal.SIGKILL else 0)


# --- failures


def test_retry_after_is_respected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def act(body: dict[str, Any], times: int) -> Act:
        return Act(status=429, body=b"slow", headers=(("Retry-After", "40"),)) if times < 2 else ANSWER

    clock = FastClock()
    with serve(act) as server:
        asked = backend(server, tmp_path, clock, concurrency=1)
        ask(asked, QUERIES[:2])
    assert clock.slept == [40, 40, 40, 40]
    assert asked.usage.failures == {"429": 4}
    (line,) = [line for line in caplog.messages if "429" in line]
    assert "answered 429: slow; retrying in 40 s" in line


def test_retry_after_pauses_all_requests(tmp_path: Path) -> None:
    """Use the real clock. Without the pause, the third request would start when the second is answered."""
    begun: dict[int, float] = {}

    def act(body: dict[str, Any], times: int) -> Act:
        begun.setdefault(body["max_tokens"], time.monotonic())
        if body["max_tokens"] == 10 and not times:
            return Act(status=429, body=b"", headers=(("Retry-After", "0.6"),))
        return Act(seconds=0.1)

    with serve(act) as server:
        options = ServerOptions(url=server.url, model="m", concurrency=2)
        assert len(list(ServerGenerator(options, tmp_path).generate(QUERIES[:3], messages_of))) == 3
    assert begun[12] - begun[10] >= 0.6


def test_exponential_backoff_without_retry_after(tmp_path: Path) -> None:
    clock = FastClock()
    with serve(lambda body, times: Act(status=500, body=b"") if times < 7 else ANSWER) as server:
        ask(backend(server, tmp_path, clock, concurrency=1), QUERIES[:1])
    for slept, most in zip(clock.slept, [1, 2, 4, 8, 16, 32, 60], strict=True):
        assert most / 2 <= slept <= most


def test_rate_limit_includes_retries(tmp_path: Path) -> None:
    times_asked: list[float] = []
    clock = FastClock()

    def act(body: dict[str, Any], times: int) -> Act:
        times_asked.append(clock.time)
        return Act(status=500, body=b"") if times < 2 else ANSWER

    with serve(act) as server:
        ask(backend(server, tmp_path, clock, concurrency=1, requests_per_minute=2), QUERIES[:3])
    gaps = [after - before for before, after in pairwise(times_asked)]
    assert len(gaps) == 8
    assert min(gaps) == pytest.approx(30)


def test_token_limit_uses_the_counts_of_the_server(tmp_path: Path) -> None:
    times_asked: list[float] = []
    clock = FastClock()

    def act(body: dict[str, Any], times: int) -> Act:
        times_asked.append(clock.time)
        return ANSWER

    with serve(act) as server:
        queries = [query(index, room=20) for index in range(5)]
        ask(backend(server, tmp_path, clock, concurrency=1, tokens_per_minute=60), queries)
    # Each request has 100 + 20 tokens; the limit is one token per second.
    gaps = [after - before for before, after in pairwise(times_asked)]
    assert gaps == pytest.approx([120] * 4)


def test_run_ends_after_the_retries_and_keeps_its_answers(tmp_path: Path) -> None:
    def act(body: dict[str, Any], times: int) -> Act:
        return Act(status=503, body=b"busy") if body["max_tokens"] == 15 else ANSWER

    with serve(act) as server:
        with pytest.raises(RunError, match=r"no answer in 4 attempts; the last: .*answered 503: busy.*are kept"):
            ask(backend(server, tmp_path, retries=3), QUERIES)
        assert Counter(body["max_tokens"] for body in server.asked)[15] == 4
        server.act = lambda body, times: ANSWER
        assert len(ask(backend(server, tmp_path), QUERIES)) == 12
        assert sum(server.paid.values()) == 12


def test_long_retry_after_ends_the_run(tmp_path: Path) -> None:
    clock = FastClock()
    with (
        serve(lambda body, times: Act(status=429, body=b"", headers=(("Retry-After", "7200"),))) as server,
        pytest.raises(RunError, match="asks to wait 7200 s"),
    ):
        ask(backend(server, tmp_path, clock), QUERIES)
    assert clock.slept == []


def test_permanent_failure_ends_the_run_at_once(tmp_path: Path) -> None:
    """Although the first query hangs, and answers are read in order."""
    troubles: list[tuple[Act, type[UserError]]] = [
        (Act(status=401, body=b"no"), ConfigError),
        (Act(status=400, body=b"no"), UserError),
    ]
    for trouble, kind in troubles:

        def act(body: dict[str, Any], times: int, trouble: Act = trouble) -> Act:
            return trouble if body["max_tokens"] == 11 else Act(seconds=1.0)

        begun = time.monotonic()
        with serve(act) as server:
            with pytest.raises(UserError, match="answered 40") as caught:
                ask(backend(server, tmp_path, concurrency=2), QUERIES)
            # The run waited for the request in flight, which is paid for.
            assert sum(server.paid.values()) == 1
            assert len(server.asked) == 2
        assert type(caught.value) is kind
        assert time.monotonic() - begun < 3
        for path in tmp_path.glob("??/*.json"):
            path.unlink()


def test_unusable_cache_folder_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with serve() as server, pytest.raises(RunError, match=r"cannot read .*: Not a directory"):
        ask(backend(server, tmp_path / "file"), QUERIES)


def test_closing_ends_sleeping_threads(tmp_path: Path) -> None:
    """With the real clock: three threads sleep after a failure, and send no request after they are woken."""
    with serve(lambda body, times: ANSWER if body["max_tokens"] == 10 else Act(status=500, body=b"")) as server:
        options = ServerOptions(url=server.url, model="m", concurrency=4)
        answers = ServerGenerator(options, tmp_path, random=Random(1)).generate(QUERIES, messages_of)
        next(answers)
        while len(server.asked) < 4:
            time.sleep(0.005)
        begun = time.monotonic()
        answers.close()
        assert time.monotonic() - begun < 0.5
        asked = len(server.asked)
        time.sleep(1.2)
        assert len(server.asked) == asked
        assert not [thread for thread in threading.enumerate() if thread.name == "server"]


def test_no_socket_stays_open(tmp_path: Path) -> None:
    def sockets() -> int:
        return sum(Path(f"/proc/self/fd/{fd}").is_socket() for fd in os.listdir("/proc/self/fd"))  # noqa: PTH208

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc")
    with serve() as server:
        ask(backend(server, tmp_path / "0"), QUERIES)
    gc.collect()
    before = sockets()
    for index in range(1, 4):
        with serve() as server:
            ask(backend(server, tmp_path / str(index)), QUERIES)
    gc.collect()
    assert sockets() <= before


def test_unreachable_server_ends_the_run(tmp_path: Path) -> None:
    asked = backend(DEAD, tmp_path, retries=2)
    with pytest.raises(RunError, match=r"in 3 attempts; the last: the connection failed: .*refused.*Check that"):
        ask(asked, QUERIES)
    assert asked.usage.failures["connection"] >= 3
