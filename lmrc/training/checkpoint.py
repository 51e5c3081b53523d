"""Checkpoints that do not depend on the number of processes or on the ZeRO stage.

    checkpoints/step-000123/state-00000.safetensors …   float32 masters and Adam moments by parameter name
                            progress.json               step, epoch, best score, what it was trained with
                            manifest.json               sha256 of each file, written last
    checkpoints/latest                                  the name of a folder

A folder is written under a temporary name and renamed, so that a kill at any instruction leaves the previous checkpoint
whole. Frozen weights are never written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmrc.common.atomic_io import fsync, write_atomically
from lmrc.common.errors import RunError
from lmrc.training.backends.base import STATE_KEYS, Backend
from lmrc.training.distributed import World

# 1 had no `evaluation_due`: its evaluations were done before it was saved, as the default says.
FORMAT = 2


@dataclass
class Progress:
    """Where a training stands: everything besides tensors that a resume needs."""

    step: int = 0
    """Optimizer steps done; also the data cursor, as the order of data is a function of it."""
    best: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    fingerprint: str = ""
    """Identity of the training examples."""
    precision: str = ""
    """What the forward passes ran in."""
    evaluation_due: bool = False
    """Whether the evaluation after `step` is yet to be done."""


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


class _Writing:
    """One rank's part of a checkpoint on its way to the disk."""

    def __init__(self, progress: Progress, temporary: Path, state: dict[str, Tensor], rank: int) -> None:
        self.progress, self.temporary = progress, temporary
        self._state, self._rank = state, rank
        self._checksum: tuple[str, str] | None = None
        self._error: Exception | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            if self._state:
                path = self.temporary / f"state-{self._rank:05d}.safetensors"
                save_file(self._state, path)
                fsync(path)
                self._checksum = path.name, _sha256(path)
        except Exception as error:
            self._error = error
        self._state = {}

    def is_written(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> tuple[str, str] | None:
        """(file name, sha256) once it is on the disk; None where the rank holds nothing. Raises what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._checksum


class Checkpoints:
    """The checkpoints folder of one run, seen from one rank."""

    def __init__(self, folder: Path, backend: Backend, names: Iterable[str], world: World, keep: int) -> None:
        self._folder = folder
        self._backend = backend
        self._names = list(names)
        self._world = world
        self._keep = keep
        self._writing: _Writing | None = None

    def save(self, progress: Progress) -> Path:
        """Write a checkpoint; collective. Raises RunError on all ranks where one of them could not write."""
        self.begin(progress)
        return self.finish()

    def begin(self, progress: Progress) -> None:
        """Copy the state and write it while the training goes on; `finish` makes it a checkpoint. Collective.

        One that is being written is finished before. Raises RunError as `save` does.
        """
        if self._writing is not None:
            self.finish()
        temporary = self._folder / f".step-{progress.step:06d}.tmp"
        self._together(lambda: self._make_empty(temporary) if self._world.is_first else None)
        self._writing = _Writing(replace(progress), temporary, self._own_state(), self._world.rank)

    def is_begun(self) -> bool:
        """Whether there is something to finish; the same on all ranks."""
        return self._writing is not None

    def is_writing(self) -> bool:
        """Whether this rank's part is not on the disk yet."""
        return self._writing is not None and not self._writing.is_written()

    def finish(self) -> Path:
        """Wait for all ranks' parts, and publish them. Collective. Raises RunError as `save` does."""
        writing, self._writing = self._writing, None
        assert writing is not None
        final = self._folder / f"step-{writing.progress.step:06d}"

        def publish() -> None:
            files = dict(sorted(pair for pair in checksums if pair is not None))
            self._publish(writing.temporary, final, files, writing.progress)

        try:
            checksums = self._together(writing.result)
            self._together(lambda: publish() if self._world.is_first else None)
        except Exception:
            if self._world.is_first:  # gives the space back to those who want to tell of it
                shutil.rmtree(writing.temporary, ignore_errors=True)
            raise
        return final

    def _together(self, act: Callable[[], Any]) -> list[Any]:
        return self._world.run_on_all_ranks(act, f"no checkpoint could be written under {self._folder}")

    def _make_empty(self, folder: Path) -> None:
        """Also without what killed processes left: nobody else writes here (`lmrc.runs.lease`)."""
        for left in self._folder.glob(".*.tmp"):
            _remove(left)
        folder.mkdir(parents=True)

    def _own_state(self) -> dict[str, Tensor]:
        """Gather every parameter; keep those that fall to this rank."""
        own = {}
        for index, name in enumerate(self._names):
            for key in STATE_KEYS:
                value = self._backend.get(name, key)
                if index % self._world.size == self._world.rank:
                    own[f"{name}/{key}"] = value
        return own

    def _publish(self, temporary: Path, final: Path, files: dict[str, str], progress: Progress) -> None:
        write_atomically(temporary / "progress.json", json.dumps(asdict(progress), indent=2) + "\n")
        files = {**files, "progress.json": _sha256(temporary / "progress.json")}
        manifest = {"format": FORMAT, "world_size": self._world.size, "backend": self._backend.name, "sha256": files}
        write_atomically(temporary / "manifest.json", json.dumps(manifest, indent=2) + "\n")
        fsync(temporary)
        if final.exists():  # one that was found damaged
            _remove(final)
        temporary.rename(final)
        write_atomically(self._folder / "latest", final.name + "\n")
        fsync(self._folder)
        present = self._present()
        last = present.index(final) + 1
        # Later ones were passed over as damaged: they must not count among those that are kept.
        for old in [*present[last:], *present[: max(0, last - self._keep)]]:
            shutil.rmtree(old, ignore_errors=True)

    def _present(self) -> list[Path]:
        """Oldest first; a step of a million has one digit more."""
        return sorted(self._folder.glob("step-*"), key=lambda folder: (len(folder.name), folder.name))

    def newest(self) -> Path | None:
        """The newest checkpoint whose checksums hold; says which ones were passed over."""
        for folder in reversed(self._present()):
            problem = self._damage(folder)
            if problem is None:
                return folder
            print(f"{folder} is damaged ({problem}): taking the one before it.", flush=True)
        return None

    @staticmethod
    def _damage(folder: Path) -> str | None:
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            if manifest["format"] > FORMAT:
                # Not in the pre-flight: the checkpoint is read at the resume.
                raise RunError(f"{folder} was written by a newer version of lmrc: update this one to resume it")
            for name, expected in manifest["sha256"].items():
                if _sha256(folder / name) != expected:
                    return f"the checksum of {name} differs"
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, RunError):
                raise
            return str(error)
        return None

    def load(self, folder: Path) -> Progress:
        """Put a checkpoint's values in place; collective. The backend must have taken a step (of rate 0) before.

        Raises RunError where the checkpoint's parameters are not those of the model.
        """
        progress = Progress(**json.loads((folder / "progress.json").read_text()))
        files: dict[str, Path] = {}
        for path in sorted(folder.glob("state-*.safetensors")):
            with safe_open(path, framework="pt") as tensors:
                files.update(dict.fromkeys(tensors.keys(), path))
        expected = {f"{name}/{key}" for name in self._names for key in STATE_KEYS}
        if files.keys() != expected:
            example = sorted(files.keys() ^ expected)[0]
            # Not in the pre-flight: the checkpoint is read at the resume.
            raise RunError(f"{folder} is of another model ({example} is in only one of them): use another --run name")
        # One file open at a time, parameters in the same order on every rank.
        for name in self._names:
            for key in STATE_KEYS:
                with safe_open(files[f"{name}/{key}"], framework="pt") as tensors:
                    self._backend.put(name, key, tensors.get_tensor(f"{name}/{key}"))
        self._backend.set_step(progress.step)
        return progress
