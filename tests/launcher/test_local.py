"""Launches on this machine with tiny models, in one and in two processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lmrc.common import threads
from lmrc.config.schema import ClusterOptions
from lmrc.corpus.corpus import write_corpus
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.launcher.local import _environment
from lmrc.pretrained import packaged as embedded
from lmrc.runs.events import History
from tests.conftest import ROOT
from tests.slurm.harness import write_damaged_encoder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for part, documents, seed in (("train", 16, 1), ("dev", 4, 2)):
        write_corpus(synthetic.generate(documents, seed), folder / part, synthetic.RELATIONS, part, "0" * 64)
    # Without dropout, which depends on the rank, one and two processes must have the same losses.
    shutil.copytree(embedded.resolve("embedded:tiny-encoder"), folder / "encoder")
    config = json.loads((folder / "encoder" / "config.json").read_text())
    (folder / "encoder" / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.0}))
    return folder


def command(data: Path, folder: Path, *more: str) -> list[str]:
    options = {
        "where": "local",
        "run.folder": folder,
        "data.train": data / "train",
        "data.dev": data / "dev",
        "model.encoder": data / "encoder",
        "train.epochs": 3,
        "train.batch_size": 4,
        "train.precision": "fp32",
        "train.eval_every": 0,
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, str(ROOT / "launch" / "rcp.py"), *given, *more]


def run(words: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=240)


def losses(folder: Path) -> list[float]:
    lines = (folder / "rcp" / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


@pytest.mark.slow
@pytest.mark.skipif(threads.cpus() < 2, reason="two processes need two CPUs")
def test_two_processes_equal_one_and_resume_on_one(data: Path, tmp_path: Path) -> None:
    alone = run(command(data, tmp_path / "alone", "--train.zero_stage=0"))
    assert alone.returncode == 0, alone.stderr
    assert "1 process on the CPU" in alone.stdout

    # Two processes are stopped by a signal to the launcher, as a batch system sends it.
    words = command(data, tmp_path / "two", "--gpus", "2", "--train.zero_stage=2")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        metrics = tmp_path / "two" / "rcp" / "metrics.jsonl"
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and metrics.read_text().count("\n") >= 2:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.02)
        status = process.wait(timeout=120)
    log_text = (tmp_path / "log").read_text()
    assert "2 gloo processes on the CPU" in log_text
    for path in (tmp_path / "two" / "rcp" / "log").glob("*_1_log.out"):
        assert "trained parameters" not in path.read_text()  # only rank 0 logs
    if status:  # it may have finished before the signal
        assert status == 1, log_text
        assert "saved; the same command resumes from there" in log_text
        assert "Traceback" not in log_text
        resumed = run(command(data, tmp_path / "two", "--train.zero_stage=0"))
        assert resumed.returncode == 0, resumed.stderr
        assert "Resuming " in resumed.stdout
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)


@pytest.mark.skipif(threads.cpus() < 2, reason="two processes need two CPUs")
def test_verbose_logs_on_all_ranks(data: Path, tmp_path: Path) -> None:
    ended = run(command(data, tmp_path, "--gpus", "2", "--train.max_steps", "1", "--verbose"))
    assert ended.returncode == 0, ended.stderr
    (log,) = (tmp_path / "rcp" / "log").glob("*_1_log.out")
    time, host = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", socket.gethostname()
    # The launcher shows the log of rank 0.
    assert re.search(rf"^{time} .*, 2 processes on .* trained parameters$", ended.stdout, re.MULTILINE)
    assert re.search(
        rf"^{time} rank 1 on {host}: .*, 2 processes on .* trained parameters$", log.read_text(), re.MULTILINE
    )


def test_hanging_rank_ends_the_training(data: Path, tmp_path: Path) -> None:
    """Suspend a rank: the other one times out, and the launcher kills the suspended one."""
    options = ("--train.backend=torch", "--train.epochs=2000", "--cluster.collective_timeout_minutes=0.2")
    words = command(data, tmp_path, "--gpus", "2", *options)
    metrics = tmp_path / "rcp" / "metrics.jsonl"
    with (tmp_path / "log").open("w") as log:
        launcher = psutil.Popen(words, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
            assert launcher.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        started = launcher.children(recursive=True)
        second = [process for process in started if process.environ().get("SUBMITIT_LOCAL_GLOBALID") == "1"]
        second[0].suspend()
        try:
            # 12 s of cluster.collective_timeout_minutes, and 10 s of grace for the surviving rank.
            assert launcher.wait(timeout=60) == 1
        finally:
            if second[0].is_running():
                second[0].kill()
    message = (tmp_path / "log").read_text()
    assert f"rank 1 on {socket.gethostname()} went silent" in message
    assert not [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_killed_rank_ends_the_training_and_is_named(data: Path, tmp_path: Path) -> None:
    words = command(data, tmp_path, "--gpus", "2", "--train.backend=torch", "--train.epochs=2000")
    metrics = tmp_path / "rcp" / "metrics.jsonl"
    with (tmp_path / "log").open("w") as log:
        launcher = psutil.Popen(words, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
            assert launcher.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        ranks = {process.environ().get("SUBMITIT_LOCAL_GLOBALID"): process for process in launcher.children(True)}
        # The other rank cannot notice the death, as under NCCL.
        ranks["0"].suspend()
        ranks["1"].kill()
        killed = time.monotonic()
        assert launcher.wait(timeout=60) == 1
    # The surviving rank has 10 s to report.
    assert time.monotonic() - killed < 20
    cause = f"rank 1 on {socket.gethostname()}: killed (it left no report)"
    assert cause in (tmp_path / "log").read_text()
    last = History(tmp_path / "rcp").read()[-1]
    assert (last["event"], last["cause"]) == ("failed", cause)


def test_user_error_in_a_process_is_one_line_and_status_2(data: Path, tmp_path: Path) -> None:
    wrong = run(command(data, tmp_path, "--gpus", "2", "--model.encoder", str(tmp_path / "no-encoder")))
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("Error: ")
    assert "no-encoder" in wrong.stderr.splitlines()[-1]
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize(("given", "threads_per_process"), [("", "2"), ("6", "6")])
def test_processes_share_the_cores_unless_set_by_the_user(
    monkeypatch: pytest.MonkeyPatch, given: str, threads_per_process: str
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 8)
    monkeypatch.setattr(threads, "_set_here", set())
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    with _environment(ClusterOptions(interface="ib0"), 4):
        assert os.environ["OMP_NUM_THREADS"] == threads_per_process
        assert os.environ["LMRC_VISIBLE_GPUS"] == "GPU-a,GPU-b"  # submitit replaces the other variable
        assert os.environ["NCCL_SOCKET_IFNAME"] == "ib0"
    assert os.environ["OMP_NUM_THREADS"] == given
    assert "NCCL_SOCKET_IFNAME" not in os.environ


@pytest.mark.skipif(threads.cpus() < 2, reason="two processes need two CPUs")
@pytest.mark.parametrize("given", ["", "3"])
def test_openmp_threads_per_process(data: Path, tmp_path: Path, given: str) -> None:
    """Read libgomp's settings from the logs of a launch that fails because of missing weights."""
    damaged = write_damaged_encoder(tmp_path / "damaged")
    words = command(data, tmp_path, "--gpus", "2", "--model.encoder", str(damaged))
    wrong = run(words, OMP_NUM_THREADS=given, OMP_DISPLAY_ENV="verbose")
    assert wrong.returncode == 2
    logs = [path.read_text() for path in (tmp_path / "rcp" / "log").glob("*_log.err")]
    assert len(logs) == 2
    # A process may load libgomp twice, or start another process that loads it.
    message = [set(re.findall(r"(OMP_NUM_THREADS|GOMP_SPINCOUNT) = '(\d+)'", log)) for log in logs]
    if not any("GOMP_SPINCOUNT" in log for log in logs):
        pytest.skip("torch's OpenMP here is not libgomp")
    threads_per_process = given or str(max(1, threads.cores() // 2))
    assert message == [{("OMP_NUM_THREADS", threads_per_process), ("GOMP_SPINCOUNT", "0")}] * 2
