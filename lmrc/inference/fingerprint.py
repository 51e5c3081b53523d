"""What tells one work of inference from another: the answers of a worker with other weights must not be mixed in."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmrc.common.files import sha256_of


def work_fingerprint(model: Path | None, schema: pa.Schema, **decides: Any) -> str:
    """SHA-256 of the files in a model's folder (none: no model), the schema of the rows, and what else decides them.

    `decides` are JSON values.

    Raises UserError where a file cannot be read.
    """
    # A hidden file is somebody's temporary one.
    inside = [] if model is None else model.iterdir()
    files = sorted(path for path in inside if path.is_file() and not path.name.startswith("."))
    content = {"model": {path.name: sha256_of(path) for path in files}, "schema": schema.to_string(), **decides}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
