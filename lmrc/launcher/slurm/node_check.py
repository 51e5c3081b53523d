"""A check of a SLURM node that takes seconds, before the ranks of a job wait for each other.

A node that fails is reported like one with a hardware error: the job is requeued without it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from lmrc.runs.failures import BrokenNode

# A training allocates more in its first seconds. Less is left only if another program fills the node.
MIN_MEMORY = 2 * 2**30
MIN_TEMPORARY_SPACE = 2**30
# Far longer than a healthy node needs: a context on eight GPUs at once takes about ten seconds.
FOLDER_TIMEOUT_SECONDS = 60.0
GPU_TIMEOUT_SECONDS = 120.0
# Small integers: all sums of the product are exact in every precision.
PRODUCT_SIZE = 512
# These have the same cause on every node.
_NOT_THE_NODE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM})
MEMORY_FILE = Path("/proc/meminfo")


def check_host(run: Path) -> None:
    """Check the host's memory, its temporary folder and the shared run folder.

    Raises:
        BrokenNode: a check failed or did not end in time.
        OSError: the run folder cannot be written for a reason that other nodes share, such as a quota.
    """
    free = _available_memory()
    if free is not None and free < MIN_MEMORY:
        raise BrokenNode(f"{_gib(free)} GiB of host memory are available, {_gib(MIN_MEMORY)} are needed")
    _check_temporary_folder()
    _within(FOLDER_TIMEOUT_SECONDS, f"write and read {run}", lambda: _check_run_folder(run))


def check_gpus(all_visible: bool) -> None:
    """Check that the allocated GPUs are visible and compute correctly. A torch without CUDA is not checked.

    Args:
        all_visible: check all visible GPUs, not only the one of this rank.

    Raises:
        BrokenNode: a check failed or did not end in time.
    """
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return

    def check() -> None:
        expected, found = _allocated_gpus(), torch.cuda.device_count() if torch.cuda.is_available() else 0
        if found < expected:
            raise BrokenNode(f"{found} of {expected} allocated GPUs are usable")
        if found:
            rank = int(os.environ.get("LOCAL_RANK", "0")) % found
            for index in range(found) if all_visible else [rank]:
                check_product(torch.device("cuda", index))

    _within(GPU_TIMEOUT_SECONDS, "use the GPUs", check)


def check_product(device: object) -> None:
    """Multiply two matrices on the device and compare the product with the right one.

    Args:
        device: a `torch.device`.

    Raises:
        BrokenNode: the product is wrong or the device refuses to compute it.
    """
    import torch

    numbers = torch.arange(PRODUCT_SIZE * PRODUCT_SIZE).reshape(PRODUCT_SIZE, PRODUCT_SIZE)
    left, right = (numbers % 5 - 2).float(), (numbers % 3 - 1).float()
    try:
        product = (left.to(device) @ right.to(device)).cpu()  # type: ignore[call-overload]
    except torch.OutOfMemoryError as error:
        raise BrokenNode(f"another program fills {device}: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:
        raise BrokenNode(f"{device} does not work: {str(error).splitlines()[0]}") from error
    if not torch.equal(product, left @ right):
        raise BrokenNode(f"{device} computes a wrong product")


def _allocated_gpus() -> int:
    """Return the number of GPUs that SLURM gave to this process; 0 if it is unknown."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([gpu for gpu in visible.split(",") if gpu])
    given = os.environ.get("SLURM_GPUS_ON_NODE", "0")
    return int(given) if given.isdigit() else 0


def _available_memory() -> int | None:
    """Return the available host memory in bytes; None if it is unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in MEMORY_FILE.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _check_temporary_folder() -> None:
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile() as file:
            file.write(b"node check")
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise BrokenNode(f"no temporary file can be written: {error.strerror}") from error
    if free < MIN_TEMPORARY_SPACE:
        raise BrokenNode(f"{_gib(free)} GiB are free in {folder}, {_gib(MIN_TEMPORARY_SPACE)} are needed")


def _check_run_folder(run: Path) -> None:
    path = run / "log" / f".node-check-{socket.gethostname()}-{os.getpid()}"
    content = os.urandom(64)
    try:
        if not (run / "config.yaml").read_bytes():
            raise BrokenNode(f"{run / 'config.yaml'} is empty")
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.read_bytes() != content:
            raise BrokenNode(f"{path.parent} returns another content than was written")
    except OSError as error:
        if error.errno in _NOT_THE_NODE:
            raise
        raise BrokenNode(f"the shared folder {run} does not work: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _within(seconds: float, what: str, act: Callable[[], None]) -> None:
    """Call `act` in a thread, because a dead file server or GPU blocks its caller for ever.

    Raises:
        BrokenNode: `act` has not ended in time.
        BaseException: what `act` raised.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True, name="node-check")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise BrokenNode(f"cannot {what} within {seconds:.0f} s")
    if raised:
        raise raised[0]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
