"""One HTTP conversation with an OpenAI-compatible server: an answer, a failure that may pass, or one that will not."""

from __future__ import annotations

import json
import threading
import time
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, NoReturn

import requests
import urllib3
from requests.auth import AuthBase

from lmrc.common.errors import ConfigError, UserError
from lmrc.config.schema import ServerOptions
from lmrc.rc.decoding.openai.key import Key, is_loopback
from lmrc.rc.decoding.openai.request import Request

_PATHS = {"chat": "/chat/completions", "completions": "/completions"}
_PASSING = (408, 409, 425, 429)
_BLOCK = 65536
_SHOWN = 300
"""Characters of a server's own words in a message."""


class Answer(NamedTuple):
    """What a model said. Tokens are None where the server does not count them."""

    text: str
    finish_reason: str
    """"stop": ended by itself. "length": cut. Others: withheld by the server, wholly or in part."""
    prompt_tokens: int | None
    completion_tokens: int | None


class PassingFailure(Exception):
    """A failure that may pass. `kind` is what to count it as, `wait` the seconds that the server asks to wait."""

    def __init__(self, kind: str, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.kind = kind
        self.wait = wait


class Client:
    """Asks one server, from any number of threads."""

    def __init__(self, options: ServerOptions, key: Key | None) -> None:
        self._options = options
        self._key = key
        self._address = options.url + _PATHS[options.endpoint]
        self._local = threading.local()

    def ask(self, request: Request) -> Answer:
        """Raises PassingFailure; ConfigError where no request will succeed; UserError where this one will not."""
        deadline = time.monotonic() + self._options.timeout_seconds
        try:
            with self._session.post(
                self._address,
                json=request.body,
                timeout=self._options.timeout_seconds,
                stream=True,
                allow_redirects=False,
            ) as response:
                content = self._read(response, deadline)
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise self._late() from error
        except (requests.exceptions.InvalidURL, UnicodeError) as error:
            # Not in the pre-flight: only the server can say it, and a request costs money.
            raise ConfigError(f"server.url {self._options.url} is no address: {self._words(error)}") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            cause = self._words(_innermost(error))
            if "CERTIFICATE_VERIFY_FAILED" in cause:
                # Not in the pre-flight: only the server can say it, and a request costs money.
                raise ConfigError(
                    f"{self._options.url} shows a certificate that is not trusted ({cause}): name your own authority's "
                    "file in REQUESTS_CA_BUNDLE"
                ) from None
            raise PassingFailure("connection", f"the connection failed: {cause}") from error
        if response.status_code != requests.codes.ok:
            self._refused(response, content)
        return self._answer(content)

    @property
    def _session(self) -> requests.Session:
        """This thread's: it is not made for several."""
        if not hasattr(self._local, "session"):
            session = requests.Session()
            # Proxies of the environment know nothing of this machine's own servers.
            session.trust_env = not is_loopback(self._options.url)
            session.auth = _Authorization(self._key)
            self._local.session = session
        found: requests.Session = self._local.session
        return found

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        """The body. A timeout of the socket starts again with each byte; this one does not."""
        blocks = []
        while block := response.raw.read1(_BLOCK, decode_content=True):
            blocks.append(block)
            if time.monotonic() > deadline:
                raise self._late()
        return b"".join(blocks)

    def _late(self) -> PassingFailure:
        return PassingFailure("timeout", f"no whole answer within {self._options.timeout_seconds:g} s")

    def _answer(self, content: bytes) -> Answer:
        try:
            answer = json.loads(content)
            if isinstance(answer, dict) and answer.get("error"):
                raise PassingFailure("error", f"an error instead of an answer: {self._words(_message(content))}")
            choice = answer["choices"][0]
            text = choice["message"]["content"] if self._options.endpoint == "chat" else choice["text"]
            finish_reason = choice["finish_reason"]
            usage = answer.get("usage") or {}
            counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise PassingFailure("malformed", f"no answer of the expected form: {self._words(content)}") from error
        # No text is an answer too, where the server withholds it; no reason to end is half an answer.
        valid = isinstance(text, str) or (text is None and finish_reason != "stop")
        if not (valid and isinstance(finish_reason, str) and all(n is None or isinstance(n, int) for n in counts)):
            raise PassingFailure("malformed", f"no answer of the expected form: {self._words(content)}")
        return Answer(_without_surrogates(text or ""), finish_reason, *counts)

    def _refused(self, response: requests.Response, content: bytes) -> NoReturn:
        status, words = response.status_code, self._words(_message(content))
        said = f"{self._options.url} answered {status}" + (f": {words}" if words else "")
        if _code(content) == "insufficient_quota" or status == 402:
            # Not in the pre-flight: only the server can say it, and a request costs money.
            raise ConfigError(f"{said}. The account has no credit left: add some, then give the same command again")
        if status in _PASSING or (status >= 500 and status != 501):
            raise PassingFailure(str(status), said, _retry_after(response.headers.get("Retry-After", "")))
        if status in (401, 403):
            variable = self._options.key_variable
            if self._key is not None:
                mend = f"put the right key into {variable}, or choose a model that it may use"
            elif variable is not None:
                mend = f"no key was sent, because {variable} is not set: set it to this server's key"
            else:
                mend = "no key was sent: name the variable that holds it in server.key_variable"
            # Not in the pre-flight: only the server can say it, and a request costs money.
            raise ConfigError(f"{said}. Access was refused; {mend}")
        if status == 404:
            # Not in the pre-flight: only the server can say it, and a request costs money.
            raise ConfigError(
                f"{said}. Check server.url, which mostly ends in /v1, server.endpoint ({self._options.endpoint}) and "
                f"server.model ({self._options.model}), which must be a name that the server's own /models lists"
            )
        if status in (400, 413, 422):
            # Not in the pre-flight: only the server can say it, and a request costs money.
            raise UserError(
                f"{said}. It will not take this request: if it is too long, lower prompt.max_length or "
                "decode.max_new_tokens; if it does not know a field, leave that out by server.body, as in 'seed=null'"
            )
        if 300 <= status < 400:
            where = self._words(response.headers.get("Location", "elsewhere"))
            # Not in the pre-flight: only the server can say it, and a request costs money.
            raise ConfigError(f"{said}. It points to {where}: give the final address as server.url")
        # Not in the pre-flight: only the server can say it, and a request costs money.
        raise ConfigError(f"{said}. Check that server.url is that of an OpenAI-compatible server")

    def _words(self, said: object) -> str:
        """What a server said, on one short line and without the key."""
        text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        text = " ".join(text.split())
        if self._key is not None:
            text = self._key.hide(text)
        return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


class _Authorization(AuthBase):
    """Our key or none, whatever a .netrc file says."""

    def __init__(self, key: Key | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["Authorization"] = self._key.header()
        return request


def _without_surrogates(text: str) -> str:
    """JSON can hold half a character, which UTF-8 cannot: U+FFFD in its place."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _error(content: bytes) -> Any:
    try:
        parsed = json.loads(content)
    except ValueError:
        return None
    return parsed.get("error", parsed) if isinstance(parsed, dict) else None


def _message(content: bytes) -> object:
    """The server's own words: of OpenAI's `error`, of FastAPI's `detail`, or all that it sent."""
    error = _error(content)
    if isinstance(error, dict):
        return error.get("message") or error.get("detail") or content
    return error or content


def _code(content: bytes) -> object:
    error = _error(content)
    return (error.get("code") or error.get("type")) if isinstance(error, dict) else None


def _retry_after(value: str) -> float:
    """Seconds, given as such or as a date; 0 for anything else."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return seconds if 0 < seconds < float("inf") else 0.0


def _innermost(error: BaseException) -> BaseException:
    """What an error began with: libraries wrap it several times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error
