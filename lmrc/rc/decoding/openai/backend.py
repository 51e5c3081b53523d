"""Answers of an OpenAI-compatible server in the place of a model of ours."""

from __future__ import annotations

import itertools
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, wait
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, NoReturn

from lmrc.common.errors import ConfigError, RunError
from lmrc.config.schema import ServerOptions
from lmrc.rc.decoding.generate import Generation
from lmrc.rc.decoding.openai.cache import Cache, Damaged
from lmrc.rc.decoding.openai.client import Answer, Client, PassingFailure
from lmrc.rc.decoding.openai.key import needs_key, read_key
from lmrc.rc.decoding.openai.pacing import Clock, Pace, back_off
from lmrc.rc.decoding.openai.request import Message, Request, check_body, request_for
from lmrc.rc.decoding.openai.usage import Meter, Usage
from lmrc.rc.prompts.query_builder import Query

_AHEAD = 4
"""Queries read ahead of the one whose turn it is, for each request in flight."""
_GRACE = 5.0
"""Seconds that requests in flight get to end when the work stops: they are paid for already."""
_LONGEST_PAUSE = 600.0
"""Seconds. A server that asks for more is not waited for."""


class _Stopped(Exception):
    """The work ended while a request waited for its turn."""


class _Task(NamedTuple):
    request: Request
    answer: Future[Answer]


class _Waiting(NamedTuple):
    query: Query
    key: str
    answer: Future[Answer]
    repeated: bool
    """Whether another query before it asked the same."""


class ServerBackend:
    """Asks a server, each different question once, and keeps the answers in a folder.

    Limits and counts are this process's. A request that was cut off in flight is asked again, and may be paid twice:
    so many at most as `options.concurrency`.
    """

    def __init__(
        self, options: ServerOptions, cache_folder: Path, clock: Clock | None = None, random: Random | None = None
    ) -> None:
        """Raises ConfigError where `options` cannot work: no model, or no key and no answer to be had without.

        With all answers in `cache_folder`, neither a server nor a key is needed.
        """
        check_body(options)
        self._options = options
        self._key = read_key(options)
        self._cache = Cache(cache_folder)
        if self._lacks_key and self._cache.is_empty():
            self._refuse_without_key()
        self._client = Client(options, self._key)
        self._clock = clock or Clock()
        self._random = random or Random()
        self._pace = Pace(self._clock, options.requests_per_minute, options.tokens_per_minute)
        self._meter = Meter(options)

    @property
    def usage(self) -> Usage:
        """What was asked and paid so far."""
        return self._meter.usage()

    def generate(
        self, queries: Iterable[Query], messages_of: Callable[[Query], Sequence[Message]]
    ) -> Generator[Generation, None, None]:
        """The answers to `queries`, in their order; `messages_of` says how each is asked.

        An answer ends after `answer_room` tokens of its query. When the iterator is closed, or anything is raised,
        requests in flight get a few seconds to end; what they bring is kept.

        Raises ConfigError where no request can succeed (address, key, model, credit), RunError where the server gave no
        answer in all retries or the cache cannot be used, UserError where it refuses one query.
        """
        crew = _Crew(self._options.concurrency, self._ask)
        waiting: deque[_Waiting] = deque()
        begun: dict[str, Future[Answer]] = {}

        def next_answer() -> Generation:
            query, key, future, repeated = waiting.popleft()
            answer = crew.result(future)
            # Who asks the same later finds it in the cache.
            begun.pop(key, None)
            if repeated:
                self._meter.answered(answer, cached=True)
            return Generation(query, answer.text, finished=answer.finish_reason == "stop")

        try:
            for query in queries:
                request = request_for(self._options, messages_of(query), query.answer_room)
                repeated = request.key in begun
                if not repeated:
                    begun[request.key] = self._begin(request, crew)
                waiting.append(_Waiting(query, request.key, begun[request.key], repeated))
                while waiting and (waiting[0].answer.done() or len(waiting) > _AHEAD * self._options.concurrency):
                    yield next_answer()
            while waiting:
                yield next_answer()
        finally:
            crew.dismiss()

    def _begin(self, request: Request, crew: _Crew) -> Future[Answer]:
        """The answer that is there, or that a thread will bring."""
        try:
            known = self._cache.get(request)
        except Damaged as damaged:
            self._meter.count("damaged")
            self._say(f"{damaged} is damaged: asking again")
            known = None
        if known is None:
            if self._lacks_key:
                self._refuse_without_key()
            return crew.put(request)
        self._meter.answered(known, cached=True)
        future: Future[Answer] = Future()
        future.set_result(known)
        return future

    def _ask(self, request: Request, stop: threading.Event) -> Answer:
        """The server's answer, kept in the cache; after as many retries as it takes and may take."""
        for failures in itertools.count(1):
            self._wait_for_turn(request, stop)
            try:
                answer = self._client.ask(request)
            except PassingFailure as failure:
                first = self._meter.failed(failure.kind)
                self._check_worth_waiting(failure, failures)
                # All requests wait, not only this one: what the server counts is all of ours.
                self._pace.pause(failure.wait)
                seconds = max(failure.wait, back_off(failures, self._random))
                if first:
                    self._say(f"{failure}; trying again in {seconds:.0f} s (more of this kind are only counted)")
                self._sleep(seconds, stop)
                self._meter.count("retries")
                continue
            # First of all: whatever happens next, it is paid.
            self._cache.put(request, answer)
            self._meter.answered(answer, cached=False)
            if answer.prompt_tokens is not None and answer.completion_tokens is not None:
                self._pace.correct(request.tokens, answer.prompt_tokens + answer.completion_tokens)
            return answer
        raise AssertionError

    def _check_worth_waiting(self, failure: PassingFailure, failures: int) -> None:
        again = "the answers so far are kept, and the same command goes on"
        if failure.wait > _LONGEST_PAUSE:
            # Not in the pre-flight: a server may fail at any time.
            raise RunError(f"{failure}. It asks to wait {failure.wait:.0f} s; do so: {again}")
        if failures > self._options.retries:
            # Not in the pre-flight: a server may fail at any time.
            raise RunError(
                f"{self._options.url}: no answer in {failures} attempts; the last: {failure}. See whether the server "
                f"runs and how much it bears (server.concurrency, server.requests_per_minute, server.timeout_seconds); "
                f"{again}"
            ) from failure

    def _wait_for_turn(self, request: Request, stop: threading.Event) -> None:
        while seconds := self._pace.start(request.tokens):
            self._sleep(seconds, stop)

    def _sleep(self, seconds: float, stop: threading.Event) -> None:
        if not stop.is_set():
            self._clock.sleep(seconds, stop)
        if stop.is_set():
            raise _Stopped

    def _say(self, words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    @property
    def _lacks_key(self) -> bool:
        return self._key is None and needs_key(self._options)

    def _refuse_without_key(self) -> NoReturn:
        raise ConfigError(
            f"{self._options.key_variable} is not set, but {self._options.url} has to be asked: set it to the key of "
            "that server, or say server.key_variable=none if it needs none"
        )


class _Crew:
    """Threads that ask, started as they are needed. They are daemons: a program that ends does not wait for them."""

    def __init__(self, size: int, ask: Callable[[Request, threading.Event], Answer]) -> None:
        self._size = size
        self._ask = ask
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._broken: Future[NoReturn] = Future()

    def put(self, request: Request) -> Future[Answer]:
        """Have a request answered."""
        task = _Task(request, Future())
        self._tasks.put(task)
        if len(self._threads) < self._size:
            thread = threading.Thread(target=self._work, name="server", daemon=True)
            self._threads.append(thread)
            thread.start()
        return task.answer

    def result(self, future: Future[Answer]) -> Answer:
        """The answer when it comes. Raises what any thread raised, at once."""
        either: list[Future[Any]] = [future, self._broken]
        wait(either, return_when=FIRST_COMPLETED)
        return future.result() if future.done() else self._broken.result()

    def dismiss(self) -> None:
        """End all threads: those that wait at once, those that listen to the server within _GRACE or by themselves."""
        self._stop.set()
        for _ in self._threads:
            self._tasks.put(None)
        deadline = time.monotonic() + _GRACE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._stop.is_set():
            try:
                task.answer.set_result(self._ask(task.request, self._stop))
            except _Stopped:
                return
            except BaseException as error:
                # Another thread may have been first.
                with suppress(InvalidStateError):
                    self._broken.set_exception(error)
                return
