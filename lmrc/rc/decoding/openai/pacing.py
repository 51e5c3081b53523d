"""When a request may start: limits of requests and tokens a minute, pauses that a server asks for, and back-off."""

from __future__ import annotations

import threading
import time
from random import Random

_FIRST_WAIT = 1.0
_LONGEST_WAIT = 60.0


class Clock:
    """Time in seconds; tests bring their own."""

    def now(self) -> float:
        """Seconds since any moment."""
        return time.monotonic()

    def sleep(self, seconds: float, stop: threading.Event) -> None:
        """Wait, unless `stop` comes first."""
        stop.wait(seconds)


class Pace:
    """Requests start at even distances, not in bursts: some servers count by the second.

    In no minute start more than `requests_per_minute`; their tokens are at most `tokens_per_minute` and those of one
    request. Shared by threads.
    """

    def __init__(self, clock: Clock, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds_a_request = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_a_token = 60.0 / tokens_per_minute if tokens_per_minute else 0.0
        self._requests_free = self._tokens_free = self._paused_until = clock.now()

    def start(self, tokens: int) -> float:
        """Begin a request of about `tokens`: 0.0 if it may start now, else the seconds after which to ask again."""
        with self._lock:
            now = self._clock.now()
            wait = max(self._requests_free, self._tokens_free, self._paused_until) - now
            if wait > 0:
                return wait
            self._requests_free = now + self._seconds_a_request
            self._tokens_free = now + tokens * self._seconds_a_token
            return 0.0

    def correct(self, tokens: int, counted: int) -> None:
        """A request begun with `tokens` was really of `counted`."""
        with self._lock:
            self._tokens_free += (counted - tokens) * self._seconds_a_token

    def pause(self, seconds: float) -> None:
        """No request starts within `seconds`."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock.now() + seconds)


def back_off(failures: int, random: Random) -> float:
    """Seconds to wait after so many failures in a row: about 1, 2, 4 … 60, shortened by up to a half by chance.

    Chance keeps requests that failed together from coming back together.
    """
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)
