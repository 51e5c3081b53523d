"""A real SLURM on this machine, and what befalls the jobs of its users."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lmrc.corpus import synthetic
from lmrc.corpus.arrow import write_corpus
from tests.conftest import ROOT

SCRIPT = ROOT / "tests" / "slurm" / "cluster.sh"
DAEMONS = ("slurmctld", "slurmd", "munged")


def missing() -> str | None:
    """Why no cluster can be used here, or None."""
    if os.environ.get("SLURM_CONF"):
        return None
    if os.geteuid() != 0:
        return "starting a SLURM needs root; or set SLURM_CONF to use one that runs"
    absent = [name for name in DAEMONS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    return f"no {', '.join(absent)}: install slurmctld, slurmd, slurm-client and munge" if absent else None


class Cluster:
    """Four nodes n1 … n4 on this machine; partition `low` is preempted by `high`."""

    def __init__(self) -> None:
        shown = self._script("env")
        words = (word.partition("=") for word in shown.removeprefix("export").split())
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **{name: value for name, _, value in words}}

    @staticmethod
    def _script(*words: str, **variables: str) -> str:
        done = subprocess.run(
            [str(SCRIPT), *words], env={**os.environ, **variables}, capture_output=True, text=True, timeout=180
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
        return done.stdout

    def up(self, user_signal: bool = True, grace: int = 20, array: int = 1001) -> None:
        """Start it, or change how it preempts and how large an array may be."""
        self._script(
            "up",
            LMRC_SLURM_USER_SIGNAL="1" if user_signal else "0",
            LMRC_SLURM_GRACE=str(grace),
            LMRC_SLURM_MAX_ARRAY=str(array),
        )

    def down(self) -> None:
        """End it and everything that runs in it."""
        self._script("down")

    def crash(self, node: str) -> None:
        """The node and all its processes are gone at once."""
        self._script("node-crash", node)

    def start(self, node: str) -> None:
        """The node comes back."""
        self._script("node-start", node)

    def run(self, *words: str, status: int = 0, folder: Path | None = None) -> str:
        """A command on the login node; returns what it printed."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=300, cwd=folder)
        assert done.returncode == status, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout if status == 0 else done.stderr

    def launch(self, stage: str, options: dict[str, Any], status: int = 0) -> str:
        """`python launch/STAGE.py` with these options; returns what it printed."""
        given = [f"--{name}={value}" for name, value in options.items()]
        return self.run(sys.executable, str(ROOT / "launch" / f"{stage}.py"), *given, status=status)

    def preempt(self, nodes: str, seconds: int = 1) -> str:
        """A job of high priority that wants all of these nodes; returns its id."""
        words = ["sbatch", "--parsable", "--partition=high", f"--nodelist={nodes}", "--exclusive"]
        count = len(self.run("scontrol", "show", "hostnames", nodes).split())
        out = self.run(*words, f"--nodes={count}", "--output=/dev/null", f"--wrap=sleep {seconds}")
        return out.strip()

    def state(self, job: str) -> str:
        """The job's state, "" where SLURM has forgotten it."""
        done = subprocess.run(
            ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"],
            env=self.environment, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    def pid(self, job: str, rank: int) -> int | None:
        """The process of this rank of the job; None where it does not run."""
        return self._find(SLURM_JOB_ID=job, SLURM_PROCID=str(rank))

    def worker(self, task: str) -> int | None:
        """The process of a task ARRAY_TASK of an array; None where it does not run."""
        array, _, number = task.partition("_")
        return self._find(SLURM_ARRAY_JOB_ID=array, SLURM_ARRAY_TASK_ID=number)

    @staticmethod
    def _find(**wanted: str) -> int | None:
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if b"submitit.core._submit" not in (place / "cmdline").read_bytes():
                    continue
                variables = dict(
                    pair.split("=", 1) for pair in (place / "environ").read_bytes().decode().split("\0") if "=" in pair
                )
            except (OSError, UnicodeDecodeError):
                continue
            if wanted.items() <= variables.items():
                return int(place.name)
        return None

    def kill(self, job: str, rank: int) -> None:
        """`kill -9` of one rank."""
        pid = self.pid(job, rank)
        assert pid is not None, f"rank {rank} of {job} does not run"
        self.kill_process(pid)

    @staticmethod
    def kill_process(pid: int) -> None:
        """`kill -9`."""
        os.kill(pid, signal.SIGKILL)


def wait_for(what: str, holds: Callable[[], object], seconds: float = 120.0, folder: Path | None = None) -> None:
    """Wait until `holds`; fails naming `what`, with the run's history and the end of rank 0's log."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            said = "" if folder is None else history_text(folder)
            raise AssertionError(f"no {what} within {seconds:.0f} s\n{said}")
        time.sleep(0.1)


def history_text(folder: Path) -> str:
    """What happened to a run, and the last of what rank 0 said."""
    path = folder / "log" / "history.jsonl"
    logs = sorted((folder / "log").glob("*_0_log.out"))
    tail = "\n".join(logs[-1].read_text().splitlines()[-30:]) if logs else ""
    return f"{path.read_text() if path.exists() else 'no history'}\n{tail}"


def events(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    """The events of these kinds in the run's history."""
    path = folder / "log" / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if row["event"] in kinds]


def steps(folder: Path) -> list[int]:
    """The training steps in metrics.jsonl, in the order in which they stand there."""
    return [row["step"] for row in metrics(folder) if "loss" in row]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a line that is being written is left out."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def write_data(folder: Path, documents: int = 64) -> Path:
    """Synthetic corpora `train` and `dev` below `folder`, which is returned."""
    for part, count, seed in (("train", documents, 1), ("dev", 4, 2)):
        if not (folder / part).exists():
            write_corpus(synthetic.generate(count, seed), folder / part, synthetic.RELATIONS, part, "0" * 64)
    return folder


def training(stage: str, data: Path, run: Path, **more: Any) -> dict[str, Any]:
    """Options of a training on tiny models with dropout, in the run folder `run`, on 2 nodes x 2 tasks."""
    model: dict[str, dict[str, Any]] = {
        "rcp": {"model.encoder": "embedded:tiny-encoder"},
        "rc": {
            "model.base": "embedded:tiny-llm", "model.attn_implementation": "sdpa", "lora.dropout": 0.1,
            "prompt.max_length": 4096, "train.learning_rate": 1e-3, "train.warmup": 0.1,
        },
    }  # fmt: skip
    options: dict[str, Any] = {
        "where": "slurm", "run": run.name, "run.folder": run.parent, "nodes": 2, "gpus": 4, "cpus-per-gpu": 1,
        "time": 60, "data.train": data / "train", "data.dev": data / "dev", "train.epochs": 4, "train.batch_size": 4,
        "train.micro_batch_size": 1, "train.precision": "fp32", "train.eval_every": 0,
        "train.checkpoint_minutes": 0.03,
    }  # fmt: skip
    return options | model[stage] | {name.replace("__", "."): value for name, value in more.items()}


def submitted(folder: Path) -> str:
    """The job that was submitted last for the run."""
    return str(events(folder, "submitted")[-1]["job"])


def done(folder: Path) -> bool:
    """Whether the run has finished."""
    return (folder / "DONE").exists()


def wait_until_done(folder: Path, seconds: float = 300.0) -> None:
    """Wait for DONE."""
    wait_for("end of the run", (folder / "DONE").exists, seconds, folder)


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two finished runs of the same training, to the bit: nothing, if all went well."""
    found = []
    if metrics(one) != metrics(other):
        found.append("metrics.jsonl")
    results = [json.loads((run / "DONE").read_text()) for run in (one, other)]
    for key in ("best", "best_step", "steps"):
        if results[0][key] != results[1][key]:
            found.append(f"{key} of DONE")
    for path in sorted((one / "best").rglob("*.safetensors")):
        if path.read_bytes() != (other / path.relative_to(one)).read_bytes():
            found.append(str(path.relative_to(one)))
    states = [_last_state(run) for run in (one, other)]
    if states[0].keys() != states[1].keys() or not states[0]:
        found.append("the names in the last checkpoint")
    found += [name for name, value in states[0].items() if not torch.equal(value, states[1].get(name, value + 1))]
    return found


def _last_state(run: Path) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    state: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        state |= load_file(path)
    return state
