"""Answers on disk, one file each: what was paid for once is never paid for again.

A file is `KEY[:2]/KEY.json` with the request, the answer and their checksum. Where it is, it is whole; any number of
processes may write at once.
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

from lmrc.common.atomic_io import fsync
from lmrc.common.errors import RunError
from lmrc.rc.decoding.openai.client import Answer
from lmrc.rc.decoding.openai.request import Request, digest


class Damaged(Exception):
    """An entry that is there but cannot be believed."""


class Cache:
    """The answers in a folder, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def is_empty(self) -> bool:
        """Whether nothing was ever kept here."""
        return next(self.folder.glob("??/*.json"), None) is None

    def get(self, request: Request) -> Answer | None:
        """The answer to `request`; None where there is none.

        Raises Damaged where it is torn, was changed or answers something else, RunError where it cannot be read.
        """
        path = self._path(request)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            # Not in the pre-flight: the disk may fail at any time.
            raise RunError(f"cannot read {path}: {error.strerror}; mend the permissions, or remove the file") from None
        try:
            entry = json.loads(content)
            checksum = entry.pop("sha256")
            if checksum != digest(entry) or entry["request"] != _asked(request):
                raise Damaged(str(path))
            return Answer(**entry["answer"])
        except (ValueError, LookupError, TypeError, AttributeError):
            raise Damaged(str(path)) from None

    def put(self, request: Request, answer: Answer) -> None:
        """Keep an answer, down to the disk. Raises RunError where the disk refuses."""
        entry: dict[str, Any] = {"request": _asked(request), "answer": answer._asdict()}
        entry["sha256"] = digest(entry)
        path = self._path(request)
        temporary = path.with_name(f".{request.key}.{uuid.uuid4().hex}.tmp")
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
            # Not in the pre-flight: the disk may fail at any time.
            raise RunError(
                f"cannot keep an answer in {path.parent}: {error.strerror}; free space or mend the permissions, then "
                "repeat"
            ) from None

    def _path(self, request: Request) -> Path:
        return self.folder / request.key[:2] / f"{request.key}.json"


def _asked(request: Request) -> dict[str, Any]:
    return {"endpoint": request.endpoint, "body": request.body}
