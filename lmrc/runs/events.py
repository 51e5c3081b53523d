"""Event log of a run: log/history.jsonl, one event per line, read by `lmrc status`.

Events: submitted, link (a job of a chain begins), started, preempted, requeued, died, failed, cancelled, stopped,
finished. Every event has `time` (UTC) and `event`. The other fields are JSON values: `job` (SLURM job id, or
local-PID), `restart`, `hosts` (one per rank, separated by commas), `step`, `cause` (one line), `broken_nodes`
(separated by commas). launcher/slurm/job_chain.py has the fields of a chain.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


class History:
    """The event log of the run in `folder`. It is empty if the file does not exist."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "log" / "history.jsonl"

    def add(self, event: str, **fields: str | int | float | list[str] | None) -> None:
        """Append an event. A single write keeps the lines of two processes apart."""
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        line = json.dumps({"time": time, "event": event, **fields}) + "\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def read(self) -> list[dict[str, Any]]:
        """Return all events, oldest first. Lines that a crash truncated are skipped."""
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
