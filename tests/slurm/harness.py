"""A real SLURM on this machine, and what befalls the jobs of its users."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lmrc.corpus.corpus import write_corpus
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.launcher.launch import main as launch
from lmrc.launcher.stages import STAGES
from lmrc.pretrained.packaged import resolve
from tests.conftest import ROOT

# Of a worker's too: on more threads sums would round otherwise.
torch.set_num_threads(1)

SCRIPT = ROOT / "tests" / "slurm" / "cluster.sh"
DAEMONS = ("slurmctld", "slurmd", "munged")
# Seconds: several times what anything takes on a machine that has little else to do.
PATIENCE = 300.0
MAX_ARRAY = 8
"""Tasks of an array at most, as many as slurm/eval.sh has: with more workers there are several arrays."""
# Several processes run tests at once, on one cluster.
USERS, LOCK = (Path(tempfile.gettempdir()) / f"lmrc-slurm.{name}" for name in ("users", "lock"))


@contextmanager
def _alone() -> Iterator[None]:
    """Only one process changes the cluster at a time."""
    with LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_given() -> bool:
    """Whether there is a cluster that is not ours to harm."""
    return bool(os.environ.get("SLURM_CONF"))


def missing() -> str | None:
    """Why no cluster can be used here, or None."""
    if is_given():
        return None
    if os.geteuid() != 0:
        return "starting a SLURM needs root; or set SLURM_CONF to use one that runs"
    absent = [name for name in DAEMONS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    return f"no {', '.join(absent)}: install slurmctld, slurmd, slurm-client and munge" if absent else None


class Cluster:
    """The site's where SLURM_CONF names one, else eight nodes on this machine: n1 to n4 are partition `low`, which
    `high` preempts; the others are `calm`, the default.
    """

    def __init__(self) -> None:
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if not is_given():
            words = (word.partition("=") for word in self._script("env").removeprefix("export").split())
            self.environment |= {name: value for name, _, value in words}

    @staticmethod
    def _script(*words: str, **variables: str) -> str:
        done = subprocess.run(
            [str(SCRIPT), *words], env={**os.environ, **variables}, capture_output=True, text=True, timeout=180
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
        return done.stdout

    @contextmanager
    def used(self) -> Iterator[None]:
        """Start it, or use the one that another process of the tests has started; the last one ends it."""
        if is_given():
            yield
            return
        with USERS.open("w") as users:
            with _alone():
                self._up()
                fcntl.flock(users, fcntl.LOCK_SH)
            try:
                yield
            finally:
                with _alone():
                    try:
                        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        pass
                    else:
                        self._script("down")

    def _up(self, user_signal: bool = True) -> None:
        self._script(
            "up",
            LMRC_SLURM_USER_SIGNAL="1" if user_signal else "0",
            LMRC_SLURM_MAX_ARRAY=str(MAX_ARRAY + 1),
        )

    @contextmanager
    def preempting(self) -> Iterator[Callable[..., None]]:
        """`preempt(nodes, user_signal=True)`: a short job of high priority wants all of these nodes, on a site that
        sends a preempted job its own signal, or only TERM. Nobody else preempts until the end of the block.
        """

        def preempt(nodes: str, user_signal: bool = True) -> None:
            self._up(user_signal)
            words = ["sbatch", "--partition=high", f"--nodelist={nodes}", "--exclusive", "--output=/dev/null"]
            count = len(self.run("scontrol", "show", "hostnames", nodes).split())
            self.run(*words, f"--nodes={count}", "--wrap=sleep 1")

        with _alone():
            yield preempt

    def cancel(self, job: str) -> None:
        """`scancel`, also of a job that has ended."""
        subprocess.run(["scancel", job], env=self.environment, capture_output=True)

    def limit(self, job: str, seconds_left: float) -> bool:
        """Have the running or waiting job's time limit come so soon, in whole minutes at least; False: not now."""
        used = (self._ask(job, "TimeUsed") or "0:00").split(":")
        seconds = sum(int(part) * 60**place for place, part in enumerate(reversed(used)))
        minutes = math.ceil((seconds + seconds_left) / 60)
        done = subprocess.run(
            ["scontrol", "update", f"jobid={job}", f"timelimit={minutes}"], env=self.environment, capture_output=True
        )
        return done.returncode == 0

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

    def state(self, job: str) -> str:
        """The job's state, "" where SLURM has forgotten it."""
        return self._ask(job, "State")

    def restarts(self, job: str) -> int:
        """How often SLURM has put the job back."""
        return int(self._ask(job, "RestartCnt") or 0)

    def node(self, job: str) -> str:
        """Where the job runs."""
        return self._ask(job, "NodeList")

    def _ask(self, job: str, column: str) -> str:
        done = subprocess.run(
            ["squeue", "--noheader", "--states=all", f"--jobs={job}", f"--Format={column}"],
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
                # Started by submitit, or by slurm/eval.sh.
                words = (place / "cmdline").read_bytes()
                if b"submitit.core._submit" not in words and b"\0launch/" not in words:
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


def wait_for(what: str, holds: Callable[[], object], folder: Path | None = None) -> None:
    """Wait until `holds`; fails naming `what`, with the run's history and the end of rank 0's log."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            said = "" if folder is None else history_text(folder)
            raise AssertionError(f"no {what} within {PATIENCE:.0f} s\n{said}")
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


def write_damaged_encoder(folder: Path) -> Path:
    """An encoder without most of its weights, which a training notices when it reads them, and no pre-flight before."""
    shutil.copytree(resolve("embedded:tiny-encoder"), folder)
    weights = load_file(folder / "model.safetensors")
    save_file(dict(list(weights.items())[:1]), folder / "model.safetensors")
    return folder


def run_here(stage: str, options: dict[str, Any]) -> None:
    """As `Cluster.launch`, in this process, which has torch imported already."""
    cluster = ("nodes", "gpus", "time", "cpus-per-gpu")
    given = [f"--{name}={value}" for name, value in options.items() if name not in cluster]
    assert launch(STAGES[stage], [*given, "--where=here"]) == 0


def write_models(folder: Path, data: Path) -> Path:
    """`rcp` and `rc` in `folder`, which is returned: trained for a step, for which an inference does not mind."""
    for stage in ("rcp", "rc"):
        run_here(stage, training(stage, data, folder / stage, train__max_steps=1))
    return folder


def submitted(folder: Path) -> str:
    """The job that was submitted last for the run."""
    return str(events(folder, "submitted")[-1]["job"])


def done(folder: Path) -> bool:
    """Whether the run has finished."""
    return (folder / "DONE").exists()


def wait_until_done(folder: Path) -> None:
    """Wait for DONE."""
    wait_for("end of the run", (folder / "DONE").exists, folder)


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
