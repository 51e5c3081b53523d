"""What a server is asked: the body of a request, and the key under which its answer is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lmrc.common.errors import ConfigError
from lmrc.config.schema import ServerOptions

Message = dict[str, str]
"""`role` (system, user or assistant) and `content`."""

_OURS = ("model", "messages", "prompt", "stream", "n")
_CHARACTERS_PER_TOKEN = 4
"""Of English text: to keep to a limit before the server has counted."""


@dataclass(frozen=True)
class Request:
    """One question. Where the server is does not belong to it: the same model may move to another address."""

    endpoint: str
    """chat or completions"""
    body: dict[str, Any]

    @cached_property
    def key(self) -> str:
        """SHA-256 of all that decides the answer."""
        return digest({"endpoint": self.endpoint, "body": self.body})

    @property
    def tokens(self) -> int:
        """Tokens of prompt and longest answer, roughly."""
        asked = self.body.get("prompt") or "".join(message["content"] for message in self.body["messages"])
        return len(asked) // _CHARACTERS_PER_TOKEN + (self.body.get("max_tokens") or 0)


def request_for(options: ServerOptions, messages: Sequence[Message], room: int) -> Request:
    """The request for the most probable answer to `messages`, of at most `room` tokens.

    `options.body` goes over our own fields; a null there takes one out.
    """
    asked: dict[str, Any] = (
        {"messages": list(messages)} if options.endpoint == "chat" else {"prompt": as_text(messages)}
    )
    fields = {
        "model": options.model,
        **asked,
        "max_tokens": room,
        "temperature": 0.0,
        "seed": options.seed,
        **options.body,
    }
    return Request(options.endpoint, {name: value for name, value in fields.items() if value is not None})


def check_body(options: ServerOptions) -> None:
    """Raises ConfigError where `options` lack the model's name, or would change what only we can say."""
    if not options.model:
        raise ConfigError(f"server.model is empty: name the model that {options.url} shall answer with")
    for name in _OURS:
        if name in options.body:
            mend = "give it as server.model" if name == "model" else "take it out"
            raise ConfigError(f"server.body holds {name!r}, which each request has its own value for: {mend}")


def as_text(messages: Sequence[Message]) -> str:
    """Messages for a model without a chat template, as in training: an answer follows its prompt, a blank line parts.

    A single message is its content, to the letter.
    """
    parts: list[str] = []
    for index, message in enumerate(messages):
        if index and not (message["role"] == "assistant" and messages[index - 1]["role"] == "user"):
            parts.append("\n\n")
        parts.append(message["content"])
    return "".join(parts)


def digest(content: Any) -> str:
    """SHA-256 of JSON content, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
