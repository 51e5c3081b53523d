"""The key of a server: it comes from the environment, goes into one header, and nowhere else."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from lmrc.common.errors import ConfigError
from lmrc.config.schema import ServerOptions

DEFAULT = "OPENAI_API_KEY"


class Key:
    """A secret. Printing it shows the name of its variable."""

    __slots__ = ("_value", "variable")

    def __init__(self, variable: str, value: str) -> None:
        """Raises ConfigError for what no header can carry; the message does not hold it."""
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ConfigError(f"{variable} holds white space or letters that no key has: set it to the key alone")
        self.variable = variable
        self._value = value

    def __repr__(self) -> str:
        return f"<key of {self.variable}>"

    def header(self) -> str:
        """The value of the header Authorization."""
        return f"Bearer {self._value}"

    def hide(self, text: str) -> str:
        """`text` without the key: servers repeat what they refuse."""
        return text.replace(self._value, "***")


def read_key(options: ServerOptions) -> Key | None:
    """The key to send; None where `options` names no variable, or it is not set.

    Raises ConfigError where the key of a paid service would go to another machine as plain text.
    """
    if options.key_variable is None:
        return None
    value = os.environ.get(options.key_variable, "")
    if not value:
        return None
    if options.key_variable == DEFAULT and not options.url.startswith("https://") and not is_loopback(options.url):
        raise ConfigError(
            f"{DEFAULT} is set, and server.url {options.url} would get it unencrypted: say server.key_variable=none "
            "if that server needs no key, or put its key into a variable of another name and give that"
        )
    return Key(options.key_variable, value)


def needs_key(options: ServerOptions) -> bool:
    """Whether a server will hardly answer without: one behind https, unless `options` say that it needs none."""
    return options.key_variable is not None and options.url.startswith("https://")


def is_loopback(url: str) -> bool:
    """Whether the server is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
