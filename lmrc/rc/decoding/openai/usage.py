"""What answers cost: tokens, money, and what a cache saved."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from lmrc.config.schema import ServerOptions
from lmrc.rc.decoding.openai.client import Answer


@dataclass(frozen=True)
class Usage:
    """Counts of one backend, since it was made. Money is in the currency of the prices."""

    requests: int
    """Answers that the server gave, and was paid for, now."""
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """None where a price is not known."""
    cached: int
    """Answers that were there already, from the cache or from the same question a moment before."""
    cached_prompt_tokens: int
    cached_completion_tokens: int
    cached_cost: float | None
    """What they would have cost."""
    uncounted: int
    """Answers, of both kinds, whose tokens the server did not count: tokens and cost are those of the others."""
    withheld: int
    """Answers, of both kinds, that ended for another reason than their end or their length: by a filter, say."""
    damaged: int
    """Entries of the cache that could not be believed, and were asked for again."""
    retries: int
    """Requests that were repeated."""
    failures: dict[str, int]
    """Requests that failed in a way that may pass, by kind: an HTTP status, timeout, connection, malformed, error."""

    def __str__(self) -> str:
        """The counts in words, for who watches a run; those that are 0 are left out but the first."""
        words = [f"{self.requests} answers paid ({self.prompt_tokens} + {self.completion_tokens} tokens"]
        words[0] += ")" if self.cost is None else f", {self.cost:.2f})"
        if self.cached:
            words.append(f"{self.cached} there already ({self.cached_prompt_tokens} + {self.cached_completion_tokens})")
        for name in ("retries", "uncounted", "withheld", "damaged"):
            if number := getattr(self, name):
                words.append(f"{number} {name}")
        if self.failures:
            words.append("failures: " + ", ".join(f"{kind} {number}" for kind, number in self.failures.items()))
        return "; ".join(words)

    def as_json(self) -> dict[str, Any]:
        """All counts by name."""
        return asdict(self)


class Meter:
    """Counts what threads do."""

    def __init__(self, options: ServerOptions) -> None:
        self._prices = options.prompt_price, options.completion_price
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()

    def answered(self, answer: Answer, cached: bool) -> None:
        """An answer came, from the server or from what was there."""
        prefix = "cached_" if cached else ""
        with self._lock:
            self._counts["cached" if cached else "requests"] += 1
            self._counts[f"{prefix}prompt_tokens"] += answer.prompt_tokens or 0
            self._counts[f"{prefix}completion_tokens"] += answer.completion_tokens or 0
            self._counts["uncounted"] += answer.prompt_tokens is None or answer.completion_tokens is None
            self._counts["withheld"] += answer.finish_reason not in ("stop", "length")

    def failed(self, kind: str) -> bool:
        """A request failed in a way that may pass. Whether it is the first of its kind."""
        with self._lock:
            self._failures[kind] += 1
            return self._failures[kind] == 1

    def count(self, what: str) -> None:
        """One more of `what`: `retries` or `damaged`."""
        with self._lock:
            self._counts[what] += 1

    def usage(self) -> Usage:
        """The counts so far."""
        with self._lock:
            counts, failures = self._counts.copy(), dict(sorted(self._failures.items()))
        return Usage(
            requests=counts["requests"],
            prompt_tokens=counts["prompt_tokens"],
            completion_tokens=counts["completion_tokens"],
            cost=self._cost(counts["prompt_tokens"], counts["completion_tokens"]),
            cached=counts["cached"],
            cached_prompt_tokens=counts["cached_prompt_tokens"],
            cached_completion_tokens=counts["cached_completion_tokens"],
            cached_cost=self._cost(counts["cached_prompt_tokens"], counts["cached_completion_tokens"]),
            uncounted=counts["uncounted"],
            withheld=counts["withheld"],
            damaged=counts["damaged"],
            retries=counts["retries"],
            failures=failures,
        )

    def _cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        prompt_price, completion_price = self._prices
        if prompt_price is None or completion_price is None:
            return None
        return (prompt_tokens * prompt_price + completion_tokens * completion_price) / 1e6
