"""Client for an OpenAI-compatible server: the API key, the request body, one HTTP request and its failures.

The openai library sends the requests. Its retries are switched off: `lmrc.rc.decoding.openai.backend` repeats requests
itself, because a server that asks one request to wait must get no other request either, and a wait must end at once
when the run stops.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
import os
import ssl
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2
import openai

from lmrc.common.errors import ConfigError, UserError
from lmrc.config.schema import ServerOptions

OPENAI_KEY_VARIABLE = "OPENAI_API_KEY"

# `role` (system, user or assistant) and `content`.
Message = dict[str, str]

_RESERVED_FIELDS = ("model", "messages", "prompt", "stream", "n")
# Average for English text. Used for the rate limit before the server has counted the tokens.
_CHARACTERS_PER_TOKEN = 4
# The last one is the openai library's own: it reads it back to return the response unparsed.
_SENT_HEADERS = (
    *("Host", "Connection", "User-Agent", "Accept", "Accept-Encoding", "Content-Type", "Content-Length"),
    "X-Stainless-Raw-Response",
)
_RETRYABLE_STATUS = (408, 409, 425, 429)
# Characters of a server's message that are shown to the user.
_MAX_MESSAGE = 300


class ApiKey:
    """An API key. Its repr shows the name of the environment variable only."""

    __slots__ = ("_value", "variable")

    def __init__(self, variable: str, value: str) -> None:
        """Check and keep the key.

        Raises:
            ConfigError: an HTTP header cannot contain `value`. The message does not contain it.
        """
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ConfigError(
                f"{variable} contains white space or characters that no key has: set it to the key and nothing else"
            )
        self.variable = variable
        self._value = value

    def __repr__(self) -> str:
        return f"<key of {self.variable}>"

    def header(self) -> str:
        """Return the value of the Authorization header."""
        return f"Bearer {self._value}"

    def redact(self, text: str) -> str:
        """Return `text` with the key replaced by ***: servers repeat the key in error messages."""
        return text.replace(self._value, "***")


def read_key(options: ServerOptions) -> ApiKey | None:
    """Read the key from the environment.

    Returns:
        The key, or None if `options` name no variable or the variable is not set.

    Raises:
        ConfigError: the key of a paid service would go unencrypted to another machine.
    """
    if options.key_variable is None:
        return None
    value = os.environ.get(options.key_variable, "")
    if not value:
        return None
    if (
        options.key_variable == OPENAI_KEY_VARIABLE
        and not options.url.startswith("https://")
        and not is_loopback(options.url)
    ):
        raise ConfigError(
            f"{OPENAI_KEY_VARIABLE} is set and would be sent unencrypted to server.url {options.url}: give "
            "server.key_variable=none if that server needs no key, or put its key into a variable of another name and "
            "give that name"
        )
    return ApiKey(options.key_variable, value)


def needs_key(options: ServerOptions) -> bool:
    """Return True if the server is behind https and `options` do not say that it needs no key."""
    return options.key_variable is not None and options.url.startswith("https://")


def is_loopback(url: str) -> bool:
    """Return True if the server runs on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class ServerRequest:
    """A request body. The server's address is not part of it, so that a model may move to another address."""

    endpoint: str  # chat or completions
    body: dict[str, Any]

    @cached_property
    def cache_key(self) -> str:
        """SHA-256 of everything that the answer depends on."""
        return json_sha256({"endpoint": self.endpoint, "body": self.body})

    @property
    def tokens(self) -> int:
        """Estimated number of tokens: the prompt and the longest possible answer."""
        longest_answer: int = self.body.get("max_tokens") or 0
        prompt = self.body.get("prompt") or "".join(message["content"] for message in self.body["messages"])
        if not isinstance(prompt, str):  # token ids
            return len(prompt) + longest_answer
        return len(prompt) // _CHARACTERS_PER_TOKEN + longest_answer


class ServerAnswer(NamedTuple):
    """An answer of the server. Token counts are None if the server does not report them."""

    text: str
    # "stop": the model ended the answer. "length": cut. Others: the server withheld the answer or a part of it.
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    # Token ids of an answer along a grammar, and the log probability of each; None for other answers.
    token_ids: Sequence[int] | None = None
    token_logs: Sequence[float] | None = None


class RetryableError(Exception):
    """A failure after which the same request may succeed.

    Attributes:
        kind: name under which the failure is counted.
        wait: seconds that the server asks to wait.
    """

    def __init__(self, kind: str, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.kind = kind
        self.wait = wait


def build_request(options: ServerOptions, messages: Sequence[Message], max_tokens: int) -> ServerRequest:
    """Build the request for the greedy answer to `messages`.

    `options.body` overrides our fields; a null in it removes a field.
    """
    prompt: dict[str, Any] = (
        {"messages": list(messages)} if options.endpoint == "chat" else {"prompt": messages_to_text(messages)}
    )
    fields = {
        "model": options.model,
        **prompt,
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "seed": options.seed,
        **options.body,
    }
    return ServerRequest(options.endpoint, {name: value for name, value in fields.items() if value is not None})


def build_grammar_request(
    options: ServerOptions, prompt: Sequence[int], grammar: str, max_tokens: int
) -> ServerRequest:
    """Build the request for the greedy answer of a vLLM server along a grammar, with its token ids and probabilities.

    Args:
        prompt: token ids.
        grammar: a grammar of token ids (`lmrc.rc.decoding.structured_output`).
    """
    fields = {
        "model": options.model,
        "prompt": list(prompt),
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "seed": options.seed,
        "structured_outputs": {"grammar": grammar},
        # The log probability of each chosen token, among those that the grammar allows.
        "logprobs": 0,
        "return_token_ids": True,
        **options.body,
    }
    return ServerRequest(options.endpoint, {name: value for name, value in fields.items() if value is not None})


def check_body(options: ServerOptions) -> None:
    """Check the options that every request is built from.

    Raises:
        ConfigError: the model has no name, or `options.body` sets a field that differs from request to request.
    """
    if not options.model:
        raise ConfigError(f"server.model is empty: give the name of the model on {options.url}")
    for name in _RESERVED_FIELDS:
        if name in options.body:
            fix = "give it as server.model" if name == "model" else "remove it"
            raise ConfigError(f"server.body contains {name!r}, which the suite sets itself: {fix}")


def messages_to_text(messages: Sequence[Message]) -> str:
    """Join messages for a model without a chat template, in the format of training.

    An answer follows its prompt directly. A blank line separates other messages. A single message stays unchanged.
    """
    parts: list[str] = []
    for index, message in enumerate(messages):
        if index and not (message["role"] == "assistant" and messages[index - 1]["role"] == "user"):
            parts.append("\n\n")
        parts.append(message["content"])
    return "".join(parts)


def json_sha256(content: Any) -> str:
    """Return the SHA-256 of JSON content, independent of the order of fields."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Client:
    """Client for one server. Threads may share it."""

    def __init__(self, options: ServerOptions, key: ApiKey | None) -> None:
        self._options = options
        self._key = key
        # At DEBUG these loggers show the server's headers, which may repeat the key.
        for name in ("openai", "httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            self._client = openai.OpenAI(
                api_key="sent by _HeaderFilter",
                base_url=options.url,
                timeout=options.timeout_seconds,
                max_retries=0,
                http_client=openai.DefaultHttpxClient(
                    auth=_HeaderFilter(key),
                    event_hooks={"response": [self._limit_time]},
                    follow_redirects=False,
                    # A proxy of the environment cannot reach a server on this machine.
                    trust_env=not is_loopback(options.url),
                    verify=_ssl_context(),
                ),
            )
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise self._invalid_url(error) from None

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def ask(self, request: ServerRequest) -> ServerAnswer:
        """Send a request and return the answer.

        Raises:
            RetryableError: the same request may succeed later.
            ConfigError: no request can succeed.
            UserError: the server refuses this request.
        """
        try:
            return self._parse(self._post(request))
        # Not `from error`: the library's exceptions hold the server's own words, which may repeat the key.
        except openai.APIStatusError as error:
            raise self._status_error(error) from None
        except (openai.APITimeoutError, httpx2.TimeoutException):
            raise self._timeout() from None
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise self._invalid_url(error) from None
        except (openai.APIConnectionError, httpx2.HTTPError, OSError) as error:
            raise self._connection_error(error) from None

    def _post(self, request: ServerRequest) -> bytes:
        """Return the body of the server's response."""
        fields = dict(request.body)
        named = {name: fields.pop(name) for name in ("model", "messages", "prompt") if name in fields}
        resource: Any = self._client.chat.completions if request.endpoint == "chat" else self._client.completions
        content: bytes = resource.with_raw_response.create(**named, extra_body=fields).http_response.content
        return content

    def _limit_time(self, response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _TimeLimitedStream(response.stream, self._options.timeout_seconds)

    def _parse(self, content: bytes) -> ServerAnswer:
        try:
            answer = json.loads(content)
            if isinstance(answer, dict) and answer.get("error"):
                message = self._shorten(_error_message(answer["error"]))
                raise RetryableError("error", f"an error instead of an answer: {message}")
            choice = answer["choices"][0]
            text = choice["message"]["content"] if self._options.endpoint == "chat" else choice["text"]
            finish_reason = choice["finish_reason"]
            usage = answer.get("usage") or {}
            counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
            token_ids = choice.get("token_ids")
            token_logs = None if token_ids is None else choice["logprobs"]["token_logprobs"]
        except (ValueError, LookupError, TypeError, AttributeError):
            raise self._malformed(content) from None
        # A withheld answer may have no text. Without a finish reason the answer is incomplete.
        has_text = isinstance(text, str) or (text is None and finish_reason != "stop")
        has_counts = all(count is None or isinstance(count, int) for count in counts)
        if not (has_text and isinstance(finish_reason, str) and has_counts):
            raise self._malformed(content)
        # JSON may contain half a surrogate pair, which UTF-8 cannot encode: U+FFFD replaces it.
        encodable = (text or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return ServerAnswer(encodable, finish_reason, *counts, token_ids, token_logs)

    def _malformed(self, content: bytes) -> RetryableError:
        return RetryableError("malformed", f"the answer does not have the expected format: {self._shorten(content)}")

    def _timeout(self) -> RetryableError:
        return RetryableError("timeout", f"no complete answer within {self._options.timeout_seconds:g} s")

    def _invalid_url(self, error: Exception) -> ConfigError:
        # Not in the pre-flight: only the resolver knows it.
        return ConfigError(f"server.url {self._options.url} is not a valid address: {self._shorten(error)}")

    def _connection_error(self, error: BaseException) -> Exception:
        while (cause := error.__cause__ or error.__context__) is not None:
            error = cause
        reason = self._shorten(error)
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            # Not in the pre-flight: only the server shows its certificate, and a request costs money.
            return ConfigError(
                f"the certificate of {self._options.url} is not trusted ({reason}): set SSL_CERT_FILE to the file of "
                "your certificate authority"
            )
        return RetryableError("connection", f"the connection failed: {reason}")

    def _status_error(self, error: openai.APIStatusError) -> Exception:
        """Return the exception for an HTTP status other than 2xx."""
        status, message = error.status_code, self._shorten(_error_message(error.body))
        answered = f"{self._options.url} answered {status}" + (f": {message}" if message else "")
        has_credit = "insufficient_quota" not in (error.code, error.type) and status != 402
        if has_credit and (status in _RETRYABLE_STATUS or (status >= 500 and status != 501)):
            return RetryableError(str(status), answered, _retry_after(error.response.headers.get("Retry-After", "")))
        if not has_credit:
            fix = "The account has no credit left: add some, then repeat the command"
        elif status in (401, 403):
            fix = f"Access was refused; {self._key_fix()}"
        elif status == 404:
            fix = (
                f"Check server.url, which usually ends in /v1, server.endpoint ({self._options.endpoint}) and "
                f"server.model ({self._options.model}), which must be a name that the server lists under /models"
            )
        elif status in (400, 413, 422):
            fix = (
                "The server refuses this request: if it is too long, lower prompt.max_length or "
                "decode.max_new_tokens; if the server does not know a field, remove it by server.body, as in "
                "'seed=null'"
            )
        elif 300 <= status < 400:
            location = self._shorten(error.response.headers.get("Location", "another address"))
            fix = f"It redirects to {location}: give the final address as server.url"
        else:
            fix = "Check that server.url is the address of an OpenAI-compatible server"
        # A run continues with the other documents after a UserError, but not after a ConfigError.
        kind = UserError if status in (400, 413, 422) else ConfigError
        # Not in the pre-flight: only the server knows it, and a request costs money.
        return kind(f"{answered}. {fix}")

    def _key_fix(self) -> str:
        variable = self._options.key_variable
        if self._key is not None:
            return f"put the right key into {variable}, or choose a model that the key may use"
        if variable is not None:
            return f"no key was sent, because {variable} is not set: set it to the key of this server"
        return "no key was sent: give the name of the variable that holds the key as server.key_variable"

    def _shorten(self, message: object) -> str:
        """Return a message on one line, without the key and of limited length."""
        text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
        text = " ".join(text.split())
        if self._key is not None:
            text = self._key.redact(text)
        return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "…"


class _HeaderFilter(httpx2.Auth):
    """HTTP authentication that adds the key and removes all headers that are not in _SENT_HEADERS.

    The openai library adds credentials from OPENAI_ADMIN_KEY, OPENAI_CUSTOM_HEADERS and similar variables, which must
    not reach another server.
    """

    def __init__(self, key: ApiKey | None) -> None:
        self._key = key

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        headers = {name: request.headers[name] for name in _SENT_HEADERS if name in request.headers}
        if self._key is not None:
            headers["Authorization"] = self._key.header()
        request.headers = httpx2.Headers(headers)
        yield request


class _TimeLimitedStream(httpx2.SyncByteStream):
    """The body of a response, with a time limit in total. The library's own starts again at each received byte."""

    def __init__(self, stream: httpx2.SyncByteStream, seconds: float) -> None:
        self._stream = stream
        self._deadline = time.monotonic() + seconds

    def __iter__(self) -> Iterator[bytes]:
        for block in self._stream:
            yield block
            if time.monotonic() > self._deadline:
                raise httpx2.ReadTimeout("the response is not complete")

    def close(self) -> None:
        self._stream.close()


def _ssl_context() -> ssl.SSLContext | bool:
    """Return a context for REQUESTS_CA_BUNDLE, which httpx2 ignores; it reads SSL_CERT_FILE itself."""
    bundle = os.environ.get("REQUESTS_CA_BUNDLE")
    if not bundle or not Path(bundle).exists():
        return True
    if Path(bundle).is_dir():
        return ssl.create_default_context(capath=bundle)
    return ssl.create_default_context(cafile=bundle)


def _error_message(error: object) -> object:
    """Return the message of an error object: `message` (OpenAI), `detail` (FastAPI), or all of it."""
    if isinstance(error, Mapping):
        return error.get("message") or error.get("detail") or json.dumps(error)
    return error or ""


def _retry_after(value: str) -> float:
    """Return the seconds to wait, given as a number or a date; 0 for anything else."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return seconds if 0 < seconds < float("inf") else 0.0
