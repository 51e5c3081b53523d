"""Training checkpoints that can be resumed with any number of processes and any ZeRO stage.

    checkpoints/step-000123/state-00000.safetensors …   float32 weights and Adam moments by parameter name
    checkpoints/step-000123/progress.json               step, best score, data fingerprint, precision
    checkpoints/step-000123/manifest.json               SHA-256 of each file, written last
    checkpoints/latest                                  name of the newest folder

A folder is written under a temporary name and then renamed, so a kill at any time leaves the previous checkpoint
intact. Frozen weights are not saved.
"""

from __future__ import annotations

import hashlib
import json
import logging
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

logger = logging.getLogger(__name__)

# Version of the format. Version 1 had no `evaluation_due`: it was saved after the evaluation.
FORMAT = 2


@dataclass
class Progress:
    """The state of a training besides its tensors.

    Attributes:
        step: Optimizer steps done. The data order is a function of it, so it is the data cursor too.
        best: Best dev score so far.
        best_step: The step of that score.
        evaluations_since_best: Evaluations since then, for `train.patience`.
        fingerprint: Fingerprint of the training examples.
        precision: Precision of the forward passes.
        evaluation_due: True if the evaluation after `step` is not done yet.
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    fingerprint: str = ""
    precision: str = ""
    evaluation_due: bool = False


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


class _BackgroundWrite:
    """A thread that writes this rank's file of a checkpoint."""

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
                # safetensors writes files that only their owner can read.
                path.chmod(self.temporary.stat().st_mode & 0o666)
                fsync(path)
                self._checksum = path.name, _sha256(path)
        except Exception as error:
            self._error = error
        self._state = {}

    def is_written(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> tuple[str, str] | None:
        """Wait for the thread and return (file name, SHA-256); None if this rank has no parameters.

        Raises:
            Exception: The error that ended the thread.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._checksum


class Checkpoints:
    """The checkpoints folder of a run, on one rank.

    Args:
        folder: The folder; it may be missing.
        names: Names of the trained parameters.
        keep: Number of checkpoints to keep.
    """

    def __init__(self, folder: Path, backend: Backend, names: Iterable[str], world: World, keep: int) -> None:
        self._folder = folder
        self._backend = backend
        self._names = list(names)
        self._world = world
        self._keep = keep
        self._writing: _BackgroundWrite | None = None

    def save(self, progress: Progress) -> Path:
        """Write a checkpoint and return its folder. Collective.

        Raises:
            RunError: A rank could not write; raised on all ranks.
        """
        self.begin(progress)
        return self.finish()

    def begin(self, progress: Progress) -> None:
        """Copy the state and write it in the background; `finish` publishes it. Collective.

        A checkpoint that is still being written is finished first.

        Raises:
            RunError: A rank could not write; raised on all ranks.
        """
        if self._writing is not None:
            self.finish()
        temporary = self._folder / f".step-{progress.step:06d}.tmp"
        self._on_all_ranks(lambda: self._make_empty(temporary) if self._world.is_first else None)
        with self._world.watch("the copy of a checkpoint's tensors"):
            state = self._own_state()
        self._writing = _BackgroundWrite(replace(progress), temporary, state, self._world.rank)

    def is_begun(self) -> bool:
        """Return True if `begin` was called without `finish`. The same on all ranks."""
        return self._writing is not None

    def is_writing(self) -> bool:
        """Return True while this rank's file is not on the disk yet."""
        return self._writing is not None and not self._writing.is_written()

    def finish(self) -> Path:
        """Wait for the files of all ranks, publish the checkpoint and return its folder. Collective.

        Raises:
            RunError: A rank could not write; raised on all ranks.
        """
        writing, self._writing = self._writing, None
        assert writing is not None
        final = self._folder / f"step-{writing.progress.step:06d}"

        def publish() -> None:
            files = dict(sorted(pair for pair in checksums if pair is not None))
            self._publish(writing.temporary, final, files, writing.progress)

        try:
            checksums = self._on_all_ranks(writing.result)
            self._on_all_ranks(lambda: publish() if self._world.is_first else None)
        except Exception:
            if self._world.is_first:  # frees space on a full disk, so that the failure can be recorded
                shutil.rmtree(writing.temporary, ignore_errors=True)
            raise
        return final

    def _on_all_ranks(self, act: Callable[[], Any]) -> list[Any]:
        return self._world.run_on_all_ranks(act, f"no checkpoint could be written under {self._folder}")

    def _make_empty(self, folder: Path) -> None:
        """Make an empty folder, and remove temporary files of killed processes."""
        # Safe, because the lease keeps other processes from writing here.
        for leftover in self._folder.glob(".*.tmp"):
            _remove(leftover)
        folder.mkdir(parents=True)

    def _own_state(self) -> dict[str, Tensor]:
        """Gather the state of every parameter, and copy the part that this rank saves to the CPU."""
        own = {}
        for index, name in enumerate(self._names):
            is_own = index % self._world.size == self._world.rank
            for key in STATE_KEYS:
                value = self._backend.get(name, key, copy=is_own)
                if is_own:
                    own[f"{name}/{key}"] = value
        return own

    def _publish(self, temporary: Path, final: Path, files: dict[str, str], progress: Progress) -> None:
        write_atomically(temporary / "progress.json", json.dumps(asdict(progress), indent=2) + "\n")
        files = {**files, "progress.json": _sha256(temporary / "progress.json")}
        manifest = {"format": FORMAT, "world_size": self._world.size, "backend": self._backend.name, "sha256": files}
        write_atomically(temporary / "manifest.json", json.dumps(manifest, indent=2) + "\n")
        fsync(temporary)
        if final.exists():  # a damaged checkpoint of the same step
            _remove(final)
        temporary.rename(final)
        write_atomically(self._folder / "latest", final.name + "\n")
        fsync(self._folder)
        folders = self._folders()
        end = folders.index(final) + 1
        # Later folders were skipped as damaged, so they must not count among those to keep.
        for old in [*folders[end:], *folders[: max(0, end - self._keep)]]:
            shutil.rmtree(old, ignore_errors=True)

    def _folders(self) -> list[Path]:
        """Return the checkpoint folders, oldest first."""
        # By length first: from step 1,000,000 on there are seven digits.
        return sorted(self._folder.glob("step-*"), key=lambda folder: (len(folder.name), folder.name))

    def newest(self) -> Path | None:
        """Return the newest checkpoint with correct checksums, and log which ones are skipped."""
        for folder in reversed(self._folders()):
            problem = self._damage(folder)
            if problem is None:
                return folder
            logger.warning(f"{folder} is damaged ({problem}): trying the one before it.")
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
        """Load a checkpoint into the backend. Collective.

        The backend must have made a step before (with learning rate 0), so that Adam's state exists.

        Returns:
            The progress of the training at that checkpoint.

        Raises:
            RunError: The checkpoint has other parameters than the model.
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
        # Setting a parameter is collective, so all ranks load them in the same order.
        for name in self._names:
            for key in STATE_KEYS:
                with safe_open(files[f"{name}/{key}"], framework="pt") as tensors:
                    self._backend.put(name, key, tensors.get_tensor(f"{name}/{key}"))
        self._backend.set_step(progress.step)
        return progress
