"""Lease on a run folder: one process holds it at a time.

A second launch is refused while the holder is alive, and takes over when it is dead. The holders are the files
`folder/lease/holder-00000001`, `-00000002` and so on. The next holder takes the next number by an exclusive link, so
only one of two processes that saw the same dead holder wins. Numbers are never reused, so a stale listing is harmless.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lmrc.common.errors import RunError
from lmrc.runs.heartbeat import Heartbeat, Process
from lmrc.runs.shared_fs import Files, temporary_beside

logger = logging.getLogger(__name__)

RELEASED = (json.dumps({"released": True}) + "\n").encode()


class LeaseHeld(RunError):
    """Another process that is alive holds the folder."""

    def __init__(self, folder: Path, holder: Holder, seconds: float) -> None:
        age = holder.heartbeat_age
        heartbeat = "" if age is None else f", last heartbeat {age:.0f} s ago"
        super().__init__(
            f"{folder} is in use: {holder.process or 'a process'} has held it since {holder.since}{heartbeat}. Wait "
            f"until it ends or stop it, then repeat; if it is dead, the same command takes over after {seconds:g} s"
        )
        self.holder = holder


@dataclass(frozen=True)
class Holder:
    """The holder of a folder.

    Attributes:
        process: None if its file is damaged.
        heartbeat_age: seconds since its last heartbeat; None if this process cannot write to the folder.
    """

    process: Process | None
    heartbeat_age: float | None

    @property
    def since(self) -> str:
        """Return the start of the lease in UTC, or "an unknown time"."""
        return self.process.time if self.process else "an unknown time"


def exit_on_loss(sentence: str) -> None:
    """End this process at once, because another one works in its folder."""
    try:
        logger.error(sentence)
    finally:
        os._exit(1)


class Lease:
    """Context manager that holds `folder`, with a heartbeat every quarter of `seconds`.

    A process that was suspended for longer than `seconds` continues only if no other process has taken over.

    Args:
        folder: the folder to hold.
        seconds: the holder is considered dead after this time without a heartbeat.
        job: SLURM job id; by default that of this process.
        on_loss: called with a sentence, in another thread, if another process has taken over or if no heartbeat could
            be written for `seconds`.
        wait: seconds to retry while another process holds the folder.
        files: file operations; tests replace them.
    """

    def __init__(
        self,
        folder: Path,
        seconds: float = 60.0,
        job: str | None = None,
        on_loss: Callable[[str], None] = exit_on_loss,
        wait: float = 0.0,
        files: Files | None = None,
    ) -> None:
        self.folder, self.seconds, self.wait = folder, seconds, wait
        self.lost = False
        self._job = os.environ.get("SLURM_JOB_ID") if job is None else job
        self._on_loss = on_loss
        self._files = files or Files()
        self._generation = 0
        self._heartbeat: Heartbeat | None = None

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the folder; retry for `wait` seconds.

        Raises:
            LeaseHeld: another process that is alive holds the folder.
            RunError: the folder cannot be written.
        """
        deadline = time.monotonic() + self.wait
        while True:
            try:
                current = self._try_acquire()
            except OSError as error:
                raise RunError(
                    f"cannot take the lease of {self.folder}: {error.strerror}; free space or fix the permissions, "
                    f"then repeat"
                ) from None
            if current is None:
                return
            if time.monotonic() >= deadline:
                raise LeaseHeld(self.folder, current, self.seconds)
            time.sleep(min(1.0, self.seconds / 4, max(0.0, deadline - time.monotonic())))

    def _try_acquire(self) -> Holder | None:
        """Try once to take the folder. Return the holder if one is alive."""
        folder = self.folder / "lease"
        folder.mkdir(parents=True, exist_ok=True)
        self._process = Process.current(self._job)
        temporary = temporary_beside(folder / "holder")
        self._files.write(temporary, self._process.content())
        try:
            while True:
                generation, content, age = _newest(self._files, folder, temporary)
                if generation and content != RELEASED:
                    process = Process.parse(content)
                    if age <= self.seconds and not (process and process.is_dead(self._process)):
                        return Holder(process, age)
                if self._files.link(temporary, _path(folder, generation + 1)):
                    break
        finally:
            self._files.remove(temporary)
        self._generation, self._last = generation + 1, time.monotonic()
        self.lost = False
        self._heartbeat = Heartbeat(self._beat, self.seconds / 4)
        return None

    def _beat(self) -> bool:
        folder = self.folder / "lease"
        own, following = _path(folder, self._generation), _path(folder, self._generation + 1)
        try:
            successor = _read(self._files, following)
            if successor is not None:
                return self._lose(f"{Process.parse(successor[0]) or 'another process'} has taken over {self.folder}")
            if time.monotonic() - self._last > self.seconds:
                # This process or the server was suspended, so others may be taking over. The link decides.
                if not self._files.link(own, following):
                    return self._lose(f"another process has taken over {self.folder}")
                self._generation, own = self._generation + 1, following
            self._files.touch(own)
            self._last = time.monotonic()
        except FileNotFoundError:
            return self._lose(f"{own} was removed")
        except OSError as error:
            age = time.monotonic() - self._last
            if age > self.seconds:
                return self._lose(f"no heartbeat could be written to {folder} for {age:.0f} s ({error.strerror})")
        return True

    def _lose(self, cause: str) -> bool:
        self.lost = True
        self._on_loss(f"This process stops because it no longer holds its run: {cause}.")
        return False

    def release(self) -> None:
        """Release the folder, so that another process can take it at once."""
        if self._heartbeat is None:
            return
        self._heartbeat.stop(self.seconds)
        self._heartbeat = None
        if self.lost:
            return
        own = _path(self.folder / "lease", self._generation)
        temporary = temporary_beside(own)
        try:
            self._files.write(temporary, RELEASED)
            self._files.replace(temporary, own)
        except OSError:
            # The folder is gone or full. The lease expires.
            self._files.remove(temporary)


def holder(folder: Path, seconds: float = 60.0, files: Files | None = None) -> Holder | None:
    """Return the holder of `folder`; None if none is alive.

    Raises:
        RunError: the folder cannot be read.
    """
    files = files or Files()
    observer = Process.current(os.environ.get("SLURM_JOB_ID"))
    lease = folder / "lease"
    if not lease.is_dir():
        return None
    temporary = temporary_beside(lease / "look")
    try:
        try:
            files.write(temporary, b"")
            writable = True
        except OSError:
            writable = False
        generation, content, age = _newest(files, lease, temporary if writable else None)
    except OSError as error:
        raise RunError(f"cannot read the lease of {folder}: {error.strerror}; fix the permissions") from None
    finally:
        if writable:
            files.remove(temporary)
    process = Process.parse(content)
    if not generation or content == RELEASED or age > seconds or (process and process.is_dead(observer)):
        return None
    return Holder(process, age if writable else None)


def _path(folder: Path, generation: int) -> Path:
    return folder / f"holder-{generation:08d}"


def _read(files: Files, path: Path) -> tuple[bytes, float] | None:
    try:
        return files.read(path)
    except FileNotFoundError:
        return None


def _newest(files: Files, folder: Path, own: Path | None) -> tuple[int, bytes, float]:
    """Return the newest holder's number (0: none), its file's content and the age of its heartbeat in seconds.

    The age is relative to a touch of the file `own`; 0 without one.
    """
    # The touch comes first: if the server hangs between the two, a live holder must not look dead.
    now = None if own is None else files.touch(own)
    names = [name for name in files.names(folder) if name.startswith("holder-")]
    generation = max((int(name.removeprefix("holder-")) for name in names), default=0)
    newest = _read(files, _path(folder, generation)) if generation else None
    while (following := _read(files, _path(folder, generation + 1))) is not None:
        generation, newest = generation + 1, following
    if newest is None:
        return 0, b"", 0.0
    content, beat = newest
    return generation, content, 0.0 if now is None else max(0.0, now - beat)
