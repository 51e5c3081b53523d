"""Kills during a save, and full or read-only disks: the previous checkpoint loads, and no rank hangs."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lmrc.common.errors import RunError
from lmrc.training import checkpoint, distributed
from lmrc.training.checkpoint import Progress
from lmrc.training.distributed import ALONE, World
from tests.disk import Disk, small_disk
from tests.training.child import Child, die_before
from tests.training.formula import checkpoints, newest_step
from tests.training.processes import free_port, run_in_processes
from tests.training.test_trainer import go, lines
from tests.training.toy import ToyTask

Report = Callable[[Any], None]


def save_forever(report: Report, folder: Path, first: int, world: World = ALONE) -> None:
    backend, saver = checkpoints(folder, world=world)
    for step in range(first, first + 10_000):
        backend.set_step(step)
        saver.begin(Progress(step=step))
        backend.set_step(-1)  # the training changes the state meanwhile
        saver.finish()
        report(step)


def test_killed_at_fifty_random_moments(tmp_path: Path) -> None:
    moments = random.Random(3)
    published = unfinished = 0
    for _ in range(50):
        child = Child(save_forever, tmp_path, published + 1)
        child.wait_for_report()
        time.sleep(moments.uniform(0.0, 0.05))
        child.kill()
        status, reports = child.end()
        assert status == -signal.SIGKILL
        unfinished += any(tmp_path.glob(".step-*.tmp"))
        published = newest_step(tmp_path)
        # The kill may have come between the save and its report.
        assert reports[-1] <= published <= reports[-1] + 1
    assert unfinished >= 25
    # The next save removes their temporary folders.
    checkpoints(tmp_path, published + 1)[1].save(Progress(step=published + 1))
    assert not list(tmp_path.glob(".*")) and len(list(tmp_path.glob("step-*"))) == 2


def save_and_die(report: Report, folder: Path, operation: int) -> None:
    """Save step 3, and die before the n-th operation on files."""
    saver = checkpoints(folder, step=3, keep=1)[1]
    die_before(operation)
    saver.save(Progress(step=3))


def test_killed_before_each_operation_on_files(tmp_path: Path) -> None:
    survivors = []
    for operation in range(1, 1000):
        folder = tmp_path / str(operation)
        for step in (1, 2):
            checkpoints(folder, step)[1].save(Progress(step=step))
        (folder / "step-000003").mkdir()  # a damaged checkpoint of the same step
        status, _ = Child(save_and_die, folder, operation).end()
        survivors.append(newest_step(folder))
        if status == 0:
            break
        assert status == -signal.SIGKILL
    # The previous checkpoint survives the earlier kills, and the new one the later kills.
    assert survivors == sorted(survivors) and set(survivors) == {2, 3}
    assert len(survivors) > 20 and survivors.count(3) > 2
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-000003"]


def test_killed_between_begin_and_finish(tmp_path: Path) -> None:
    def begin(report: Report) -> None:
        backend, saver = checkpoints(tmp_path, step=1)
        saver.save(Progress(step=1))
        backend.set_step(2)
        saver.begin(Progress(step=2))
        while saver.is_writing():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)

    assert Child(begin).end()[0] == -signal.SIGKILL
    assert newest_step(tmp_path) == 1


# ---- Two ranks ----


def join(rank: int, port: int) -> World:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    return distributed.init_process_group(timedelta(seconds=10))


def save_together(report: Report, rank: int, port: int, folder: Path, first: int) -> None:
    world = join(rank, port)
    try:
        save_forever(report, folder, first, world)
    except Exception as error:
        report(str(error))


def kill_one_of_two(alone: World, folder: Path) -> None:
    moments = random.Random(4)
    published = 0
    for victim in (0, 1, 0, 1, 0, 1):
        port = free_port()
        ranks = [Child(save_together, rank, port, folder, published + 1) for rank in range(2)]
        ranks[victim].wait_for_report()
        time.sleep(moments.uniform(0.0, 0.05))
        ranks[victim].kill()
        _, reports = ranks[victim].end()
        # The other rank ends at once, or after the timeout of ten seconds.
        status, others = ranks[1 - victim].end()
        assert status == 0 and isinstance(others[-1], str)
        published = newest_step(folder)
        assert reports[-1] <= published <= reports[-1] + 1


def test_one_of_two_ranks_is_killed(tmp_path: Path) -> None:
    run_in_processes(1, kill_one_of_two, tmp_path)


def fail_on_rank_1(report: Report, rank: int, port: int, folder: Path, how: str) -> None:
    world = join(rank, port)
    backend, saver = checkpoints(folder, step=1, world=world)
    saver.save(Progress(step=1))

    def refuse(*arguments: Any) -> None:
        raise OSError(5, "Input/output error") if how == "disk" else RuntimeError("a bug")

    backend.set_step(2)
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr(checkpoint, "save_file", refuse)
        try:
            saver.save(Progress(step=2))
        except Exception as error:
            report((type(error).__name__, str(error)))
    # The ranks are still synchronized.
    saver.save(Progress(step=2))
    distributed.destroy_process_group()


def fail_on_one_of_two_ranks(alone: World, folder: Path) -> None:
    for how, cause in (("disk", "[Errno 5] Input/output error"), ("bug", "a bug")):
        port, run = free_port(), folder / how
        ranks = [Child(fail_on_rank_1, rank, port, run, how) for rank in range(2)]
        ends = [rank.end() for rank in ranks]
        assert [status for status, _ in ends] == [0, 0]
        message = f"no checkpoint could be written under {run} (rank 1 on {socket.gethostname()}: {cause})"
        first, second = (reports[0] for _, reports in ends)
        assert first == ("RunError", message)
        assert second == (("RunError", message) if how == "disk" else ("RuntimeError", cause))
        assert newest_step(run) == 2


def test_one_of_two_ranks_fails_to_write(tmp_path: Path) -> None:
    run_in_processes(1, fail_on_one_of_two_ranks, tmp_path)


# ---- Disks ----


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", megabytes=16) as mounted:
        yield mounted


HERE = rf"rank 0 on {socket.gethostname()}: "


@pytest.mark.parametrize("leave", [0, 1 << 20, 2_900_000])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_full_disk(disk: Disk, leave: int, at_once: bool) -> None:
    """Full at the first byte, within the tensors (safetensors has its own error), and just after them."""
    folder = disk.path / "checkpoints"
    backend, saver = checkpoints(folder, step=1)
    saver.save(Progress(step=1))
    backend.set_step(2)
    pages = 4096
    tensors = (folder / "step-000001" / "state-00000.safetensors").stat().st_size
    disk.fill(leave if leave < tensors else -(-tensors // pages) * pages)
    with pytest.raises(RunError, match=rf"no checkpoint .* \({HERE}.*No space left on device"):
        if at_once:
            saver.save(Progress(step=2))
        else:
            saver.begin(Progress(step=2))
            saver.finish()
    assert newest_step(folder) == 1
    assert not saver.is_begun() and not list(folder.glob(".*"))  # the space is free again
    disk.free()
    saver.save(Progress(step=2))
    assert newest_step(folder) == 2


def test_a_read_only_folder(disk: Disk) -> None:
    folder = disk.path / "checkpoints"
    backend, saver = checkpoints(folder, step=1)
    saver.save(Progress(step=1))
    (folder / ".step-000002.tmp").mkdir()  # of a killed process; not the cause of the error
    disk.set_writable(False)
    backend.set_step(2)
    for save in (saver.save, saver.begin):
        with pytest.raises(RunError, match=rf"no checkpoint .* \({HERE}.*Read-only file system"):
            save(Progress(step=2))
        assert newest_step(folder) == 1
    disk.set_writable(True)
    saver.save(Progress(step=2))
    assert newest_step(folder) == 2


def test_a_folder_that_becomes_read_only_during_the_write(disk: Disk) -> None:
    backend, saver = checkpoints(disk.path / "checkpoints", step=1)
    saver.save(Progress(step=1))
    backend.set_step(2)
    saver.begin(Progress(step=2))
    while saver.is_writing():
        time.sleep(0.001)
    disk.set_writable(False)
    with pytest.raises(RunError, match=rf"{HERE}.*Read-only file system"):
        saver.finish()
    assert newest_step(disk.path / "checkpoints") == 1


class ActInBatch(ToyTask):
    """A task that calls a function while it collates its n-th batch."""

    def __init__(self, batch: int, act: Callable[[], None]) -> None:
        super().__init__(dropout=0.3)
        self._left, self._act = batch, act

    def collate(self, indices: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            self._act()
        return super().collate(indices)


def assert_same(whole: Path, other: Path) -> None:
    """Check that metrics, best weights and final state are bit-identical."""
    assert [row["step"] for row in lines(other) if "loss" in row] == list(range(1, 10))
    for name in (
        *("metrics.jsonl", "best/weights.safetensors", "best/best.json"),
        "checkpoints/step-000009/state-00000.safetensors",
    ):
        assert (other / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.usefixtures("epoch_checkpoints")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's thread
def test_a_training_on_a_full_disk(tmp_path: Path, disk: Disk) -> None:
    go(tmp_path / "whole", ToyTask(dropout=0.3))
    refused = set()
    for step in (1, 3, 4, 6, 8, 9):
        run = disk.path / str(step)
        with pytest.raises(RunError, match=rf"{HERE}.*No space left on device") as error:
            go(run, ActInBatch(step, disk.fill))
        refused.add(str(error.value).split(str(disk.path))[0].strip())
        with pytest.raises(RunError, match=rf"{HERE}.*No space left on device"):
            go(run, ToyTask(dropout=0.3))  # the disk is still full
        disk.free()
        go(run, ToyTask(dropout=0.3))
        assert_same(tmp_path / "whole", run)
    assert refused


@pytest.mark.usefixtures("epoch_checkpoints")
def test_a_training_whose_checkpoints_become_read_only(tmp_path: Path) -> None:
    go(tmp_path / "whole", ToyTask(dropout=0.3))
    with small_disk(tmp_path / "run" / "checkpoints", megabytes=1) as disk:
        run = tmp_path / "run"
        with pytest.raises(RunError, match=rf"no checkpoint .* \({HERE}.*Read-only file system"):
            go(run, ActInBatch(5, lambda: disk.set_writable(False)))
        assert [path.name for path in disk.path.glob("step-*")] == ["step-000003"]
        disk.set_writable(True)
        go(run, ToyTask(dropout=0.3))
        assert_same(tmp_path / "whole", run)


def test_later_damaged_checkpoints_do_not_count_as_kept(tmp_path: Path) -> None:
    backend, saver = checkpoints(tmp_path, step=1, keep=1)
    saver.save(Progress(step=1))
    for step in (7, 8):
        (tmp_path / f"step-{step:06d}").mkdir()
    backend.set_step(2)
    saver.save(Progress(step=2))
    assert newest_step(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000002"]


def test_a_million_steps(tmp_path: Path) -> None:
    backend, saver = checkpoints(tmp_path, keep=1)
    for step in (999_999, 1_000_000):
        backend.set_step(step)
        saver.save(Progress(step=step))
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-1000000"]
