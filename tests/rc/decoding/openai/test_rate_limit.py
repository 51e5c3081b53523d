"""Tests of the rate limit over every window of a minute."""

from __future__ import annotations

import threading
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.rc.decoding.openai.backend import Clock, RateLimiter, backoff_seconds
from tests.rc.decoding.openai.scripted import FastClock


def start(limiter: RateLimiter, clock: FastClock, tokens: int) -> float:
    """Wait until a request may start, and return the time."""
    while seconds := limiter.try_start(tokens):
        clock.sleep(seconds, threading.Event())
    return clock.time


sizes = st.lists(st.tuples(st.integers(1, 3000), st.floats(0, 20)), min_size=2, max_size=40)


@given(sizes=sizes, requests=st.integers(1, 100), tokens=st.integers(100, 10000))
def test_no_minute_exceeds_the_limits(sizes: list[tuple[int, float]], requests: int, tokens: int) -> None:
    clock = FastClock()
    limiter = RateLimiter(clock, requests, tokens)
    begun = []
    for size, pause in sizes:
        begun.append((start(limiter, clock, size), size))
        clock.time += pause
    for first, _ in begun:
        minute = [size for time, size in begun if first <= time < first + 60 - 1e-6]
        assert len(minute) <= requests
        assert sum(minute[:-1]) <= tokens


def test_request_rate_reaches_the_limit() -> None:
    clock = FastClock()
    limiter = RateLimiter(clock, 120, None)
    times = [start(limiter, clock, 5) for _ in range(241)]
    assert times[-1] - times[0] == pytest.approx(120)
    unlimited = RateLimiter(clock, None, None)
    assert [unlimited.try_start(10**9) for _ in range(100)] == [0.0] * 100


def test_counted_tokens_replace_the_estimate() -> None:
    clock = FastClock()
    limiter = RateLimiter(clock, None, 600)  # ten tokens per second
    assert limiter.try_start(100) == 0
    assert limiter.try_start(1) == pytest.approx(10)
    limiter.correct(100, 250)
    assert limiter.try_start(1) == pytest.approx(25)
    limiter.correct(100, 50)
    assert limiter.try_start(1) == pytest.approx(20)


def test_pause_holds_all_requests_and_is_never_shortened() -> None:
    clock = FastClock()
    limiter = RateLimiter(clock, None, None)
    limiter.pause(30)
    limiter.pause(5)
    assert limiter.try_start(1) == pytest.approx(30)
    clock.time += 31
    assert limiter.try_start(1) == 0


def test_threads_share_the_limit() -> None:
    clock = FastClock()
    limiter = RateLimiter(clock, 60, None)
    times: list[float] = []

    def work() -> None:
        for _ in range(10):
            times.append(start(limiter, clock, 1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(times) == 40
    assert max(times) - 1000 >= 39 - 1e-6


def test_backoff_doubles_up_to_a_minute_with_jitter() -> None:
    waits = [[backoff_seconds(failures, Random(seed)) for seed in range(200)] for failures in range(1, 12)]
    for expected, seconds in zip([1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60], waits, strict=True):
        assert expected / 2 <= min(seconds) < expected * 0.55
        assert expected * 0.95 < max(seconds) <= expected
    assert backoff_seconds(3, Random(7)) == backoff_seconds(3, Random(7))


def test_sleep_ends_when_the_event_is_set() -> None:
    stop = threading.Event()
    clock = Clock()
    threading.Timer(0.05, stop.set).start()
    before = clock.now()
    clock.sleep(30, stop)
    assert 0.04 < clock.now() - before < 5
