"""An HTTP server on this machine that fails as scripted and records its requests."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lmrc.rc.decoding.openai.backend import Clock
from lmrc.rc.prompts.query_builder import Query


@dataclass(frozen=True)
class Act:
    """The server's reaction to a request.

    Attributes:
        body: None for the right answer.
        seconds: delay before the response.
        sent: share of the body that is sent before the connection is closed.
        closes: resets the connection without a response.
        stalls: keeps the connection open after the share `sent`.
        trickles: sends a byte from time to time and never ends.
    """

    status: int = 200
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    sent: float = 1.0
    closes: bool = False
    stalls: bool = False
    trickles: bool = False

    @property
    def is_paid(self) -> bool:
        """True if the client gets a right answer."""
        return self == ANSWER or (self.body is None and self.status == 200 and self.sent == 1.0 and not self.closes)


ANSWER = Act()


def text_for(body: dict[str, Any]) -> str:
    """Return the right answer, which depends on the whole request."""
    asked = body["prompt"] if "prompt" in body else "/".join(m["content"] for m in body["messages"])
    return f"answer of {body['model']} to {asked!r} in {body.get('max_tokens')}"


def usage_for(body: dict[str, Any]) -> dict[str, int]:
    """Return the token counts of a right answer. They differ between requests."""
    return {"prompt_tokens": 100, "completion_tokens": int(body["max_tokens"])}


@dataclass
class Server:
    """A running server and its records.

    Attributes:
        act: returns the reaction to a body that arrives for the n-th time (from 0).
        asked: bodies of all requests.
        paid: number of right answers sent, by text.
    """

    url: str
    act: Callable[[dict[str, Any], int], Act]
    finish_reason: str = "stop"
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    paid: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    at_once: int = 0
    ends: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve(act: Callable[[dict[str, Any], int], Act] = lambda body, times: ANSWER) -> Iterator[Server]:
    """Run a server on a free port of this machine until the block ends.

    Args:
        act: returns the reaction to a body that arrives for the n-th time (from 0).
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            body = json.loads(raw)
            with server.lock:
                times = server.asked.count(body)
                server.asked.append(body)
                server.headers.append(dict(self.headers))
                server.paths.append(self.path)
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                self._do(server.act(body, times), body)
            except OSError:  # The client has closed the connection.
                self.close_connection = True
            finally:
                with server.lock:
                    server.at_once -= 1

        def _do(self, act: Act, body: dict[str, Any]) -> None:
            if server.ends.wait(act.seconds):
                self.close_connection = True
                return
            if act.closes:
                # SO_LINGER of 0 seconds sends a reset instead of closing in order.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                return
            content = right_answer(body, self.path, server.finish_reason) if act.body is None else act.body
            self.send_response(act.status)
            for name, value in act.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if act.trickles:
                while not server.ends.wait(0.02):
                    self.wfile.write(b" ")
            self.wfile.write(content[: int(len(content) * act.sent)])
            if act.stalls:
                server.ends.wait(5)
            self.close_connection = act.sent < 1
            if act.is_paid:
                with server.lock:
                    server.paid[text_for(body)] += 1

        def log_message(self, format: str, *arguments: object) -> None:
            """Log nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: object, client_address: object) -> None:
            """Ignore clients that close the connection."""

    with Quiet(("127.0.0.1", 0), Handler) as http:
        server = Server(f"http://127.0.0.1:{http.server_address[1]}/v1", act)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.ends.set()
            http.shutdown()
            thread.join()


def right_answer(body: dict[str, Any], path: str, finish_reason: str = "stop") -> bytes:
    """Return a response in the format of OpenAI's API reference."""
    text = text_for(body)
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason}
    choice |= {"text": text} if path == "/v1/completions" else {"message": {"role": "assistant", "content": text}}
    return json.dumps({"id": "x", "choices": [choice], "usage": usage_for(body)}).encode()


def query(document: int, prompt: str | None = None, room: int = 10) -> Query:
    """Make a query for a document."""
    return Query(document, f"title {document}", ((0, 1),), prompt or f"prompt {document}", None, room)


def messages_of(query: Query) -> list[dict[str, str]]:
    """Return the prompt as a single message of the user."""
    return [{"role": "user", "content": query.prompt}]


class FastClock(Clock):
    """A clock whose `sleep` advances the time at once."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float, stop: threading.Event) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.time += seconds
        time.sleep(0)
