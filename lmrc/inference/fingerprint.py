"""The fingerprint of an inference. A worker with other weights or options must not add rows to the same run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmrc.common.files import sha256_of


def work_fingerprint(model: Path | None, schema: pa.Schema, **inputs: Any) -> str:
    """Return a SHA-256 over everything that the rows of an inference depend on.

    Args:
        model: The folder of the model; None if there is none.
        schema: The schema of a row.
        **inputs: Everything else, such as the corpus and the options, as JSON values.

    Raises:
        UserError: A file cannot be read.
    """
    entries = [] if model is None else model.iterdir()
    # Hidden files are temporary ones.
    files = sorted(path for path in entries if path.is_file() and not path.name.startswith("."))
    content = {"model": {path.name: sha256_of(path) for path in files}, "schema": schema.to_string(), **inputs}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
