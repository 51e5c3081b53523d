"""Cache of answers on disk, so that no answer is paid for twice.

A file `KEY[:2]/KEY.json` holds a request, its answer and their checksum. Files are replaced atomically: several
processes may write at the same time.
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

from lmrc.common.atomic_io import fsync
from lmrc.common.errors import RunError
from lmrc.rc.decoding.openai.client import ServerAnswer, ServerRequest, json_sha256


class DamagedEntry(Exception):
    """A cache file that is truncated, changed or belongs to another request."""


class AnswerCache:
    """Answers in a folder, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def is_empty(self) -> bool:
        """Return True if the folder contains no answer."""
        return next(self.folder.glob("??/*.json"), None) is None

    def get(self, request: ServerRequest) -> ServerAnswer | None:
        """Return the answer to `request`, or None if there is none.

        Raises:
            DamagedEntry: the file is truncated, changed or belongs to another request.
            RunError: the file cannot be read.
        """
        path = self._path(request)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            # Not in the pre-flight: a disk may fail at any time.
            raise RunError(f"cannot read {path}: {error.strerror}; fix the permissions, or delete the file") from None
        try:
            entry = json.loads(content)
            checksum = entry.pop("sha256")
            if checksum != json_sha256(entry) or entry["request"] != _request_entry(request):
                raise DamagedEntry(str(path))
            return ServerAnswer(**entry["answer"])
        except (ValueError, LookupError, TypeError, AttributeError):
            raise DamagedEntry(str(path)) from None

    def put(self, request: ServerRequest, answer: ServerAnswer) -> None:
        """Write an answer and wait until it is on the disk.

        Raises:
            RunError: the file cannot be written.
        """
        entry: dict[str, Any] = {"request": _request_entry(request), "answer": answer._asdict()}
        entry["sha256"] = json_sha256(entry)
        path = self._path(request)
        # Threads of one process may write the same answer: the process id is not unique enough.
        temporary = path.with_name(f".{request.cache_key}.{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("w", encoding="utf-8") as file:
                    json.dump(entry, file, ensure_ascii=False, indent=1)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            fsync(path.parent)
        except OSError as error:
            # Not in the pre-flight: a disk may fail at any time.
            raise RunError(
                f"cannot write an answer to {path.parent}: {error.strerror}; free space or fix the permissions, then "
                "repeat the command"
            ) from None

    def _path(self, request: ServerRequest) -> Path:
        return self.folder / request.cache_key[:2] / f"{request.cache_key}.json"


def _request_entry(request: ServerRequest) -> dict[str, Any]:
    return {"endpoint": request.endpoint, "body": request.body}
