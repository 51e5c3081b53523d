"""What happened to a run: log/history.jsonl, one event a line, for `lmrc status` and for people.

Events: submitted, started, preempted, requeued, died, failed, cancelled, stopped, finished. Every one has `time` (UTC)
and `event`; the rest are plain JSON values: `job` (SLURM's id, or local-PID), `restart`, `hosts` (one a rank, with
commas), `step`, `cause` (a line).
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


class History:
    """The history of the run in `folder`; a run without one has an empty history."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "log" / "history.jsonl"

    def add(self, event: str, **fields: str | int | float | None) -> None:
        """Append an event, in one write so that lines of two processes do not mix."""
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        line = json.dumps({"time": time, "event": event, **fields}) + "\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def read(self) -> list[dict[str, Any]]:
        """All events, oldest first; a line that was torn by a crash is left out."""
        try:
            lines = self._path.read_text().splitlines()
        except FileNotFoundError:
            return []
        events = []
        for line in lines:
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return events
