"""One holder of a folder at a time: a second launch of a run is refused while the first lives, and takes over after.

`folder/lease/holder-00000001`, `-00000002` …: who comes next takes the next number by an exclusive link, so that of two
who saw the same dead holder only one wins. Numbers are never removed or used again: a stale listing cannot mislead.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lmrc.common.errors import RunError
from lmrc.runs.heartbeat import Heartbeat, Process
from lmrc.runs.shared_fs import Files, temporary_beside

RELEASED = (json.dumps({"released": True}) + "\n").encode()


class LeaseHeld(RunError):
    """Another live process holds the folder."""

    def __init__(self, folder: Path, holder: Holder, seconds: float) -> None:
        sign = "" if holder.silent is None else f", last sign of life {holder.silent:.0f} s ago"
        super().__init__(
            f"{folder} is in use: {holder.process or 'a process'} holds it since {holder.since}{sign}. Wait until it "
            f"ends or stop it, then repeat; once it is dead the same command takes over after {seconds:g} s"
        )
        self.holder = holder


@dataclass(frozen=True)
class Holder:
    """Who holds a folder."""

    process: Process | None
    """None where its file is unreadable."""
    silent: float | None
    """Seconds since its last sign of life; None where the folder is read-only to us."""

    @property
    def since(self) -> str:
        """UTC, or "an unknown time"."""
        return self.process.time if self.process else "an unknown time"


def exit_on_loss(sentence: str) -> None:
    """AttemptOutcome this process at once: another one works in its folder."""
    print(sentence, file=sys.stderr, flush=True)
    os._exit(1)


class Lease:
    """Holds `folder` while entered, with a sign of life every quarter of `seconds`.

    `on_loss` is called with a sentence, in another thread, when another process has taken over or no sign of life
    could be given for `seconds`. A process that was suspended for so long goes on only if nobody has taken over.
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
        """Take the folder, trying again for `wait` seconds. Raises LeaseHeld, or RunError where it is not writable."""
        deadline = time.monotonic() + self.wait
        while True:
            try:
                held = self._try()
            except OSError as error:
                raise RunError(
                    f"cannot take hold of {self.folder}: {error.strerror}; free space or mend the permissions, "
                    f"then repeat"
                ) from None
            if held is None:
                return
            if time.monotonic() >= deadline:
                raise LeaseHeld(self.folder, held, self.seconds)
            time.sleep(min(1.0, self.seconds / 4, max(0.0, deadline - time.monotonic())))

    def _try(self) -> Holder | None:
        """One attempt; returns the live holder where there is one."""
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
                    if age <= self.seconds and not (process and process.gone(self._process)):
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
                # We were suspended, or the server was: others may be about to take over. The link decides.
                if not self._files.link(own, following):
                    return self._lose(f"another process has taken over {self.folder}")
                self._generation, own = self._generation + 1, following
            self._files.touch(own)
            self._last = time.monotonic()
        except FileNotFoundError:
            return self._lose(f"{own} was removed")
        except OSError as error:
            silent = time.monotonic() - self._last
            if silent > self.seconds:
                return self._lose(f"no sign of life could be written to {folder} for {silent:.0f} s ({error.strerror})")
        return True

    def _lose(self, cause: str) -> bool:
        self.lost = True
        self._on_loss(f"This process stops, it no longer holds its run: {cause}.")
        return False

    def release(self) -> None:
        """Let others take the folder at once."""
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
            # The folder is gone or full: the lease runs out by itself.
            self._files.remove(temporary)


def holder(folder: Path, seconds: float = 60.0, files: Files | None = None) -> Holder | None:
    """The live holder of `folder`, without taking it; None where there is none. Raises RunError at other trouble."""
    files = files or Files()
    observer = Process.current(os.environ.get("SLURM_JOB_ID"))
    place = folder / "lease"
    if not place.is_dir():
        return None
    temporary = temporary_beside(place / "look")
    try:
        try:
            files.write(temporary, b"")
            writable = True
        except OSError:
            writable = False
        generation, content, age = _newest(files, place, temporary if writable else None)
    except OSError as error:
        raise RunError(f"cannot look who holds {folder}: {error.strerror}; mend the permissions") from None
    finally:
        if writable:
            files.remove(temporary)
    process = Process.parse(content)
    if not generation or content == RELEASED or age > seconds or (process and process.gone(observer)):
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
    """The highest number taken (0: none), its content and its age in seconds against a touch of `own`, if any."""
    # The touch comes first: were the server to hang between the two, a live holder must not look old.
    now = None if own is None else files.touch(own)
    names = [name for name in files.names(folder) if name.startswith("holder-")]
    generation = max((int(name.removeprefix("holder-")) for name in names), default=0)
    found = _read(files, _path(folder, generation)) if generation else None
    while (following := _read(files, _path(folder, generation + 1))) is not None:
        generation, found = generation + 1, following
    if found is None:
        return 0, b"", 0.0
    content, beat = found
    return generation, content, 0.0 if now is None else max(0.0, now - beat)
