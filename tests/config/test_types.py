from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lmrc.config.schema import GroupOptions, ServerOptions


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


@pytest.mark.parametrize("seeds", ["66", (66, 66), (-1,), ("one",)])
def test_invalid_seeds(seeds: Any) -> None:
    with pytest.raises(ValidationError):
        GroupOptions(seeds=seeds)


def test_values_of_a_sweep_are_separated_by_commas() -> None:
    given: Any = {"rcp.train.learning-rate": "1e-5, 3e-5", "rc.lora.r": [8, 16]}
    expected = {"rcp.train.learning_rate": ("1e-5", "3e-5"), "rc.lora.r": ("8", "16")}
    assert GroupOptions(sweep=given).sweep == expected


@pytest.mark.parametrize("value", [True, None, "", ",", []])
def test_sweeps_without_values(value: Any) -> None:
    with pytest.raises(ValidationError, match=r"rc\.lora\.r has no values"):
        GroupOptions(sweep={"rc.lora.r": value})


def test_an_option_of_a_sweep_in_two_spellings() -> None:
    with pytest.raises(ValidationError, match="given twice"):
        GroupOptions(sweep={"rc.train.warm-up": ("1",), "rc.train.warm_up": ("2",)})
