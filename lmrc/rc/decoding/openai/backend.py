"""The `openai` decoding backend: an OpenAI-compatible server with a cache of answers, a rate limit and retries."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, wait
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, NoReturn

from lmrc.common.errors import ConfigError, RunError
from lmrc.config.schema import ServerOptions
from lmrc.rc.decoding.base import BackendInputs, QueryResult, read_answers
from lmrc.rc.decoding.constrained import Answer
from lmrc.rc.decoding.generate import Generation, to_generation
from lmrc.rc.decoding.grammar import Grammar, PartialAnswer
from lmrc.rc.decoding.openai.answer_cache import AnswerCache, DamagedEntry
from lmrc.rc.decoding.openai.client import (
    Client,
    Message,
    RetryableError,
    ServerAnswer,
    ServerRequest,
    build_grammar_request,
    build_request,
    check_body,
    needs_key,
    read_key,
)
from lmrc.rc.decoding.structured_output import ebnf_grammar
from lmrc.rc.prompts.query_builder import Query, prompt_ids

logger = logging.getLogger(__name__)

# Queries read ahead per request in flight.
_READ_AHEAD = 4
# Seconds that requests in flight get to finish when the run stops: they are already paid for.
_SHUTDOWN_SECONDS = 5.0
# Seconds of Retry-After beyond which the run ends instead of waiting.
_MAX_RETRY_AFTER = 600.0
_FIRST_BACKOFF = 1.0  # seconds
_MAX_BACKOFF = 60.0  # seconds


class OpenAiBackend:
    """`DecodingBackend` that asks a server. Before the first query it sends nothing and needs no key."""

    def __init__(self, inputs: BackendInputs) -> None:
        self._inputs = inputs

    @cached_property
    def _generator(self) -> ServerGenerator:
        return ServerGenerator(self._inputs.config.server, self._inputs.answer_folder)

    def load(self) -> None:
        """Do nothing: the server loads the model."""

    def answer(self, queries: Iterable[Query]) -> Iterator[QueryResult]:
        """Yield an answer per query, then log the counts of requests, tokens and money so far."""
        inputs = self._inputs
        is_free = inputs.config.decode.mode == "free"
        asked = self._generator.generate(queries, inputs.messages_of) if is_free else self._constrained(queries)
        # Close at once if a signal arrives, so that the requests in flight end.
        with closing(asked) as generations:
            yield from read_answers(
                generations, inputs.document_of, inputs.relations, inputs.metadata.prompt, inputs.config.decode
            )
        logger.info(f"server: {self._generator.usage}")

    def _constrained(self, queries: Iterable[Query]) -> Generator[Generation, None, None]:
        with closing(self._generator.ask(queries, self._grammar_request)) as answers:
            for query, answer in answers:
                yield self._read_tokens(query, answer)

    def _grammar_request(self, query: Query) -> ServerRequest:
        """Return a request that has the token ids of training, so that the server adds no template or special token."""
        ids = prompt_ids(query.prompt, self._inputs.tokenizer, self._inputs.metadata.prompt.template)
        limit = min(query.answer_room, self._inputs.config.decode.max_new_tokens)
        return build_grammar_request(self._inputs.config.server, ids, ebnf_grammar(self._grammar(query)), limit)

    def _grammar(self, query: Query) -> Grammar:
        document, inputs = self._inputs.document_of(query), self._inputs
        return Grammar(query, document, inputs.relations, inputs.metadata.prompt.kind, inputs.tokenizer, inputs.schema)

    def _read_tokens(self, query: Query, answer: ServerAnswer) -> Generation:
        """Return an answer along the grammar, with the probability of each line.

        Raises:
            ConfigError: the server does not keep to the grammar.
        """
        if answer.token_ids is None or answer.token_logs is None:
            # Not in the pre-flight: only an answer shows it.
            raise ConfigError(
                f"{self._inputs.config.server.url} returns no token ids, which mode constrained needs: use a vLLM "
                "server, or give --decode.mode free"
            )
        written, choices = PartialAnswer(self._grammar(query)), list[tuple[int, float]]()
        for token, log in zip(answer.token_ids, answer.token_logs, strict=True):
            allowed = [] if written.ended else written.allowed()
            if token not in allowed:
                # Not in the pre-flight: only an answer shows it.
                raise ConfigError(
                    f"{self._inputs.config.server.url} does not keep to the grammar of mode constrained: use a vLLM "
                    "server (structured_outputs), or give --decode.mode free"
                )
            written.write(token)
            if len(allowed) > 1:
                choices.append((written.line, log))
        # Some versions leave out the end of sequence.
        if answer.finish_reason == "stop" and not written.ended:
            written.write(int(self._inputs.tokenizer.eos_token_id))
        return to_generation(query, Answer(written.complete_lines(), choices), self._inputs.tokenizer)


class _Stopped(Exception):
    """The run stopped while a request waited for its turn."""


class _PendingQuery(NamedTuple):
    query: Query
    cache_key: str
    answer: Future[ServerAnswer]
    is_repeat: bool  # An earlier query in flight has the same request.


class ServerGenerator:
    """Sends each distinct request to a server once and keeps the answers in a folder.

    Limits and counts hold for this process. A run that is killed pays again for at most `options.concurrency`
    requests: those that were in flight.
    """

    def __init__(
        self, options: ServerOptions, cache_folder: Path, clock: Clock | None = None, random: Random | None = None
    ) -> None:
        """Check the options. Neither a server nor a key is needed if `cache_folder` contains all answers.

        Raises:
            ConfigError: the model has no name, or the key is missing and the cache is empty.
        """
        check_body(options)
        self._options = options
        self._key = read_key(options)
        self._cache = AnswerCache(cache_folder)
        if self._lacks_key and self._cache.is_empty():
            self._refuse_without_key()
        self._clock = clock or Clock()
        self._random = random or Random()
        self._rate_limit = RateLimiter(self._clock, options.requests_per_minute, options.tokens_per_minute)
        self._counter = UsageCounter(options)

    @property
    def usage(self) -> Usage:
        """Counts so far."""
        return self._counter.usage()

    def generate(
        self, queries: Iterable[Query], messages_of: Callable[[Query], Sequence[Message]]
    ) -> Generator[Generation, None, None]:
        """Yield the free answers to messages, as `ask` does. An answer has at most `query.answer_room` tokens."""

        def request_of(query: Query) -> ServerRequest:
            return build_request(self._options, messages_of(query), query.answer_room)

        with closing(self.ask(queries, request_of)) as answers:
            for query, answer in answers:
                yield Generation(query, answer.text, finished=answer.finish_reason == "stop")

    def ask(
        self, queries: Iterable[Query], request_of: Callable[[Query], ServerRequest]
    ) -> Generator[tuple[Query, ServerAnswer], None, None]:
        """Yield each query and its answer, in the order of the queries.

        When the iterator is closed or raises, requests in flight get a few seconds to finish; their answers are kept.

        Args:
            queries: read as they are needed.
            request_of: returns the request for a query.

        Raises:
            ConfigError: no request can succeed (address, key, model, credit).
            RunError: all retries failed, or the cache cannot be read or written.
            UserError: the server refuses one query.
        """
        pending: deque[_PendingQuery] = deque()
        in_flight: dict[str, Future[ServerAnswer]] = {}

        def next_answer() -> tuple[Query, ServerAnswer]:
            query, cache_key, future, is_repeat = pending.popleft()
            answer = workers.result(future)
            # Later queries with the same request find the answer in the cache.
            in_flight.pop(cache_key, None)
            if is_repeat:
                self._counter.count_answer(answer, cached=True)
            return query, answer

        client = Client(self._options, self._key)
        workers = _WorkerThreads(self._options.concurrency, lambda request, stop: self._send(client, request, stop))
        try:
            for query in queries:
                request = request_of(query)
                key = request.cache_key
                is_repeat = key in in_flight
                if not is_repeat:
                    in_flight[key] = self._submit(request, workers)
                pending.append(_PendingQuery(query, key, in_flight[key], is_repeat))
                while pending and (pending[0].answer.done() or len(pending) > _READ_AHEAD * self._options.concurrency):
                    yield next_answer()
            while pending:
                yield next_answer()
        finally:
            # A request that is still in flight may yet bring an answer to the cache.
            if workers.shutdown():
                client.close()

    def _submit(self, request: ServerRequest, workers: _WorkerThreads) -> Future[ServerAnswer]:
        """Return the cached answer, or have a thread send the request."""
        try:
            cached = self._cache.get(request)
        except DamagedEntry as entry:
            self._counter.count("damaged")
            logger.warning(f"{entry} is damaged: sending the request again")
            cached = None
        if cached is None:
            if self._lacks_key:
                self._refuse_without_key()
            return workers.submit(request)
        self._counter.count_answer(cached, cached=True)
        future: Future[ServerAnswer] = Future()
        future.set_result(cached)
        return future

    def _send(self, client: Client, request: ServerRequest, stop: threading.Event) -> ServerAnswer:
        """Send a request, repeat it after failures that may pass, and cache the answer."""
        for failures in itertools.count(1):
            while seconds := self._rate_limit.try_start(request.tokens):
                self._sleep(seconds, stop)
            try:
                answer = client.ask(request)
            except RetryableError as failure:
                is_first = self._counter.count_failure(failure.kind)
                self._check_retries(failure, failures)
                # The server counts all requests of this process, so all of them wait.
                self._rate_limit.pause(failure.wait)
                seconds = max(failure.wait, backoff_seconds(failures, self._random))
                if is_first:
                    logger.warning(
                        f"{failure}; retrying in {seconds:.0f} s (further failures of this kind are counted)"
                    )
                self._sleep(seconds, stop)
                self._counter.count("retries")
                continue
            # First, because the answer is paid for.
            self._cache.put(request, answer)
            self._counter.count_answer(answer, cached=False)
            if answer.prompt_tokens is not None and answer.completion_tokens is not None:
                self._rate_limit.correct(request.tokens, answer.prompt_tokens + answer.completion_tokens)
            return answer
        raise AssertionError

    def _check_retries(self, failure: RetryableError, failures: int) -> None:
        """Raise RunError if the server asks for too long a wait or no retry is left."""
        resume = "the answers so far are kept, and the same command continues the run"
        if failure.wait > _MAX_RETRY_AFTER:
            # Not in the pre-flight: a server may fail at any time.
            raise RunError(f"{failure}. The server asks to wait {failure.wait:.0f} s; wait as long: {resume}")
        if failures > self._options.retries:
            # Not in the pre-flight: a server may fail at any time.
            raise RunError(
                f"{self._options.url}: no answer in {failures} attempts; the last: {failure}. Check that the server "
                "runs, and lower its load (server.concurrency, server.requests_per_minute) or raise "
                f"server.timeout_seconds; {resume}"
            ) from failure

    def _sleep(self, seconds: float, stop: threading.Event) -> None:
        if not stop.is_set():
            self._clock.sleep(seconds, stop)
        if stop.is_set():
            raise _Stopped

    @property
    def _lacks_key(self) -> bool:
        return self._key is None and needs_key(self._options)

    def _refuse_without_key(self) -> NoReturn:
        raise ConfigError(
            f"{self._options.key_variable} is not set, but {self._options.url} needs a key: set it to the key of that "
            "server, or give server.key_variable=none if the server needs none"
        )


class _WorkerThreads:
    """Threads that send requests, started on demand.

    Unlike those of a ThreadPoolExecutor, they are daemons: the process can exit while a request is in flight.
    """

    def __init__(self, max_workers: int, ask: Callable[[ServerRequest, threading.Event], ServerAnswer]) -> None:
        self._max_workers = max_workers
        self._ask = ask
        self._tasks: queue.SimpleQueue[tuple[ServerRequest, Future[ServerAnswer]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        # Holds the first exception of any thread.
        self._failed: Future[NoReturn] = Future()

    def submit(self, request: ServerRequest) -> Future[ServerAnswer]:
        """Queue a request."""
        future: Future[ServerAnswer] = Future()
        self._tasks.put((request, future))
        if len(self._threads) < self._max_workers:
            thread = threading.Thread(target=self._work, name="server", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def result(self, future: Future[ServerAnswer]) -> ServerAnswer:
        """Wait for an answer. Raise the exception of any thread at once, even if it concerns another request."""
        either: list[Future[Any]] = [future, self._failed]
        wait(either, return_when=FIRST_COMPLETED)
        return future.result() if future.done() else self._failed.result()

    def shutdown(self) -> bool:
        """Stop the threads: those that sleep at once, the others after their request.

        Returns:
            True if all threads ended within _SHUTDOWN_SECONDS.
        """
        self._stop.set()
        for _ in self._threads:
            self._tasks.put(None)
        deadline = time.monotonic() + _SHUTDOWN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._stop.is_set():
            request, future = task
            try:
                future.set_result(self._ask(request, self._stop))
            except _Stopped:
                return
            except BaseException as error:
                # Another thread may have failed first.
                with suppress(InvalidStateError):
                    self._failed.set_exception(error)
                return


class Clock:
    """Monotonic time in seconds. Tests replace it."""

    def now(self) -> float:
        """Return the time."""
        return time.monotonic()

    def sleep(self, seconds: float, stop: threading.Event) -> None:
        """Wait for `seconds`, or until `stop` is set."""
        stop.wait(seconds)


class RateLimiter:
    """Limits of requests and tokens per minute, shared by threads.

    Requests start at equal distances instead of in bursts, because some servers count per second. In any minute start
    at most `requests_per_minute` requests; without the last one, their tokens are at most `tokens_per_minute`.
    """

    def __init__(self, clock: Clock, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds_per_request = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_per_token = 60.0 / tokens_per_minute if tokens_per_minute else 0.0
        # Times from which each of the three limits allows the next request.
        self._next_by_requests = self._next_by_tokens = self._paused_until = clock.now()

    def try_start(self, tokens: int) -> float:
        """Start a request of about `tokens` tokens.

        Returns:
            0.0 if the request may start now, else the seconds after which to try again.
        """
        with self._lock:
            now = self._clock.now()
            seconds = max(self._next_by_requests, self._next_by_tokens, self._paused_until) - now
            if seconds > 0:
                return seconds
            self._next_by_requests = now + self._seconds_per_request
            self._next_by_tokens = now + tokens * self._seconds_per_token
            return 0.0

    def correct(self, estimated: int, counted: int) -> None:
        """Replace the estimated tokens of a request by those that the server counted."""
        with self._lock:
            self._next_by_tokens += (counted - estimated) * self._seconds_per_token

    def pause(self, seconds: float) -> None:
        """Start no request within `seconds`."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock.now() + seconds)


def backoff_seconds(failures: int, random: Random) -> float:
    """Return the seconds to wait after `failures` failures in a row: 1, 2, 4 … 60, shortened randomly by up to half.

    The random part keeps requests that failed together from being repeated together.
    """
    return min(_MAX_BACKOFF, _FIRST_BACKOFF * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)


@dataclass(frozen=True)
class Usage:
    """Counts of one backend since its start. Money is in the currency of the prices.

    Attributes:
        requests: answers that the server gave in this run.
        cost: price of the tokens of `requests`; None if a price is not known.
        cached: answers from the cache, or from the same request of another query.
        cached_cost: price that the cached answers would have cost.
        uncounted: answers, new or cached, whose tokens the server did not count; tokens and cost exclude them.
        withheld: answers, new or cached, with a finish reason other than "stop" and "length", such as a filter.
        damaged: cache files that were damaged, and whose requests were sent again.
        retries: requests that were repeated.
        failures: number of failures that may pass, by kind: an HTTP status, timeout, connection, malformed, error.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    cached: int
    cached_prompt_tokens: int
    cached_completion_tokens: int
    cached_cost: float | None
    uncounted: int
    withheld: int
    damaged: int
    retries: int
    failures: dict[str, int]

    def __str__(self) -> str:
        """Format the counts for the console, without those that are 0."""
        tokens = f"{self.prompt_tokens} + {self.completion_tokens} tokens"
        cost = "" if self.cost is None else f", {self.cost:.2f}"
        parts = [f"{self.requests} answers paid ({tokens}{cost})"]
        if self.cached:
            parts.append(
                f"{self.cached} from the cache ({self.cached_prompt_tokens} + {self.cached_completion_tokens})"
            )
        parts += [
            f"{count} {name}"
            for name in ("retries", "uncounted", "withheld", "damaged")
            if (count := getattr(self, name))
        ]
        if self.failures:
            parts.append("failures: " + ", ".join(f"{kind} {count}" for kind, count in self.failures.items()))
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return all counts by name."""
        return asdict(self)


_COUNTS = (
    *("requests", "prompt_tokens", "completion_tokens", "cached", "cached_prompt_tokens", "cached_completion_tokens"),
    *("uncounted", "withheld", "damaged", "retries"),
)


class UsageCounter:
    """Counts answers, tokens and failures of all threads."""

    def __init__(self, options: ServerOptions) -> None:
        self._prices = options.prompt_price, options.completion_price
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()

    def count_answer(self, answer: ServerAnswer, cached: bool) -> None:
        """Count an answer and its tokens."""
        prefix = "cached_" if cached else ""
        with self._lock:
            self._counts["cached" if cached else "requests"] += 1
            self._counts[f"{prefix}prompt_tokens"] += answer.prompt_tokens or 0
            self._counts[f"{prefix}completion_tokens"] += answer.completion_tokens or 0
            self._counts["uncounted"] += answer.prompt_tokens is None or answer.completion_tokens is None
            self._counts["withheld"] += answer.finish_reason not in ("stop", "length")

    def count_failure(self, kind: str) -> bool:
        """Count a failure. Return True if it is the first of its kind."""
        with self._lock:
            self._failures[kind] += 1
            return self._failures[kind] == 1

    def count(self, name: str) -> None:
        """Count an event: `retries` or `damaged`."""
        with self._lock:
            self._counts[name] += 1

    def usage(self) -> Usage:
        """Return the counts so far."""
        with self._lock:
            counts, failures = self._counts.copy(), dict(sorted(self._failures.items()))
        return Usage(
            cost=self._cost(counts["prompt_tokens"], counts["completion_tokens"]),
            cached_cost=self._cost(counts["cached_prompt_tokens"], counts["cached_completion_tokens"]),
            failures=failures,
            **{name: counts[name] for name in _COUNTS},
        )

    def _cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        prompt_price, completion_price = self._prices
        if prompt_price is None or completion_price is None:
            return None
        return (prompt_tokens * prompt_price + completion_tokens * completion_price) / 1e6
