"""Workers with real vLLM that a signal stops or kills, in the environment of `make vllm`.

Two GPUs per worker are two processes in vLLM's build for CPUs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from lmrc.config.schema import ClassifyConfig, DecodeOptions, RunOptions, WorkOptions
from lmrc.inference.run_worker import counts, work
from lmrc.rc.decoding.vllm_backend import VllmBackend
from lmrc.rc.decoding.vllm_engine import VllmEngine
from lmrc.rc.predict import ClassifyInference
from lmrc.runs.heartbeat import Process
from tests.conftest import ROOT
from tests.inference.squares import wait_until
from tests.rc import tiny
from tests.rc.conftest import Learnt
from tests.rc.decoding.test_vllm_backend import without_weights

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"),
]

DOCUMENTS = 12
# Each step of vLLM waits, so that a unit lasts longer than another worker needs to start or to end.
WORKER = """
import sys
import time
from lmrc.common.exit_codes import exit_status
from lmrc.config.schema import ClassifyConfig
from lmrc.launcher.local import run_here
from lmrc.launcher.stages import CLASSIFY
from lmrc.rc.decoding import vllm_engine

vllm_engine._CPU_OPTIONS["kv_cache_memory_bytes"] = 2**26


def slow_down():
    from vllm.v1.engine.llm_engine import LLMEngine

    step = LLMEngine.step
    LLMEngine.step = lambda engine: (time.sleep(0.1), step(engine))[1]


if __name__ == "__main__":
    slow_down()
    sys.exit(exit_status(lambda: run_here(CLASSIFY, ClassifyConfig.model_validate_json(sys.argv[1]))))
"""


@pytest.fixture
def config(learnt_wide: Learnt, tmp_path: Path) -> ClassifyConfig:
    """Return the config of a run whose answers do not end before their token limit."""
    names = ["Ada", "Bob", "France", "Zoë", "Mainz"]
    labels = [(0, tail, "P17") for tail in range(1, 5)]
    document = tiny.document(names, labels)
    corpus = tiny.corpus(tmp_path / "corpus", [replace(document, title=str(index)) for index in range(DOCUMENTS)])
    (tmp_path / "run").mkdir()
    return ClassifyConfig(
        run=RunOptions(name="run", folder=tmp_path),
        corpus=corpus.folder,
        rc=without_weights(learnt_wide, tmp_path),
        decode=DecodeOptions(backend="vllm", mode="free", gpus_per_worker=2, max_new_tokens=200),
        work=WorkOptions(docs_per_unit=1, lease_seconds=120),
    )


def start_worker(config: ClassifyConfig, log: Path) -> subprocess.Popen[bytes]:
    """Start a worker in a process group of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    command = [sys.executable, "-c", WORKER, config.model_dump_json()]
    with log.open("wb") as file:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def units_of(pid: int, folder: Path) -> dict[str, bool]:
    """Return the units that a process has claimed, and whether each is done."""
    found = {}
    for claim in (folder / "units").glob("claim-*"):
        holder = Process.parse(claim.read_bytes())
        if holder is not None and holder.pid == pid:
            unit = claim.name.removeprefix("claim-").split(".")[0]
            found[unit] = (folder / "units" / f"part-{unit}.arrow").exists()
    return found


def shared_memory(processes: list[psutil.Process]) -> set[Path]:
    """Return the shared-memory files of Python that the processes have mapped.

    Without those of vLLM's communicator for CPUs (cpushm), which it leaves behind if its process is stopped.
    """
    maps = "".join(Path(f"/proc/{process.pid}/maps").read_text() for process in processes)
    return set(map(Path, re.findall(r"/dev/shm/psm_\S+", maps)))


def is_writing(worker: subprocess.Popen[bytes], folder: Path) -> bool:
    """Return True if a worker has done a unit, so that its engine has started, and has another one."""
    units = units_of(worker.pid, folder)
    return any(units.values()) and not all(units.values())


def stop(worker: subprocess.Popen[bytes], number: signal.Signals, folder: Path, log: Path) -> bool:
    """Send a signal to a worker that is writing, and check what it leaves behind.

    Returns:
        False if the worker had finished its unit meanwhile; it goes on then.
    """
    processes = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    shared = shared_memory(processes)
    assert len(processes) > 2 and shared
    worker.send_signal(signal.SIGSTOP)
    if not is_writing(worker, folder):
        worker.send_signal(signal.SIGCONT)
        return False
    if number == signal.SIGKILL:
        worker.kill()
    else:
        # SLURM sends a signal to all processes of a job step, vLLM's among them.
        os.killpg(worker.pid, number)
        worker.send_signal(signal.SIGCONT)
    # vLLM may wait for its processes for a minute. The unit was given back before.
    status = worker.wait(180)
    _, left = psutil.wait_procs(processes, timeout=120)
    text = log.read_text()
    assert not left, text[-3000:]
    assert not [path for path in shared if path.exists()]
    (unit,) = [unit for unit, is_done in units_of(worker.pid, folder).items() if not is_done]
    released = list((folder / "units").glob(f"released-{unit}.1"))
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL and not released
    else:
        assert status == 1 and released and "the current unit is released" in text, text[-3000:]
        assert not list((folder / "units").glob(f"error-{unit}.*")), text[-3000:]
    return True


def test_stopped_and_killed_workers_leave_their_units_to_others(
    config: ClassifyConfig, engine: VllmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no process of vLLM and no shared memory, although the workers have processes of vLLM beside them."""
    folder = tmp_path / "run"
    logs = {number: tmp_path / f"{number.name}.log" for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL)}
    workers = {number: start_worker(config, log) for number, log in logs.items()}
    waiting = dict(workers)

    def stop_those_that_write() -> bool:
        for number, worker in list(waiting.items()):
            assert worker.poll() is None, logs[number].read_text()[-3000:]
            if is_writing(worker, folder) and stop(worker, number, folder, logs[number]):
                del waiting[number]
        return not waiting

    try:
        wait_until(stop_those_that_write, 500)
    finally:
        for worker in workers.values():
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    assert counts(folder).done < DOCUMENTS
    monkeypatch.setattr(VllmBackend, "engine", engine)
    result = work(folder, ClassifyInference(config), config.work)
    assert result is not None and result["documents"] == DOCUMENTS
    rows = [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]
    assert sorted(int(row["title"]) for row in rows) == list(range(DOCUMENTS))
