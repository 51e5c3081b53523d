"""The options of an OpenAI-compatible server as a user gives them: its address, and more fields of a request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    # Options are written down with each run; a password in one would be too.
    if not valid or "@" in parts.netloc or parts.query or parts.fragment or any(map(str.isspace, url)):
        raise ValueError("expected an address such as http://localhost:8000/v1, without a password and without '?'")
    return url.rstrip("/")


def _from_text(fields: object) -> object:
    """Values that the command line gives as text: JSON where they are, such as 0.9 or null."""
    if not isinstance(fields, Mapping):
        return fields
    return {name: _json_or_text(value) for name, value in fields.items()}


def _json_or_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


ServerUrl = Annotated[str, AfterValidator(_check_url)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
RequestFields = Annotated[dict[str, JsonValue], BeforeValidator(_from_text)]
