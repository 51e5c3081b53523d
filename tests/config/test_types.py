from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lmrc.config.schema import ServerOptions


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000/v1",
        "ftp://host/v1",
        "http://",
        "http:///v1",
        "http://host:99999/v1",
        "http://host:port/v1",
        "http://[::1/v1",
        "http://me:secret@host/v1",
        "http://secret@host/v1",
        "https://host/v1?key=secret",
        "https://host/v1#x",
        "http://host/v 1",
    ],
)
def test_invalid_addresses(url: str) -> None:
    with pytest.raises(ValidationError, match=r"expected an address such as http://localhost:8000/v1"):
        ServerOptions(url=url)


@pytest.mark.parametrize("url", ["http://[::1]:8000/v1", "https://api.example.org/v1/", "http://n12"])
def test_addresses(url: str) -> None:
    assert ServerOptions(url=url).url == url.rstrip("/")


def test_request_fields_are_parsed_as_json_if_possible() -> None:
    given: dict[str, Any] = {"temperature": "null", "top_p": "0.9", "user": "me", "stop": ["a"], "n": 1}
    assert ServerOptions(body=given).body == {"temperature": None, "top_p": 0.9, "user": "me", "stop": ["a"], "n": 1}


@pytest.mark.parametrize("name", ["", "sk-123", "1A", "A B", "A=B"])
def test_invalid_names_of_variables(name: str) -> None:
    with pytest.raises(ValidationError):
        ServerOptions(key_variable=name)
