"""A real SLURM on this machine, with helpers that preempt, kill and inspect jobs."""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file

from lmrc.corpus.corpus import write_corpus
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.launcher.launch import main as launch
from lmrc.launcher.pipeline import main as launch_pipeline
from lmrc.launcher.stages import STAGES
from lmrc.pretrained.packaged import resolve
from tests.conftest import ROOT

# One thread, as in the workers: sums on more threads round differently.
torch.set_num_threads(1)

SCRIPT = ROOT / "tests" / "slurm" / "cluster.sh"
DAEMONS = ("slurmctld", "slurmd", "munged")
# Several times longer than any step takes on an idle machine.
WAIT_TIMEOUT_SECONDS = 300.0
# Largest array, as in slurm/eval.sh. More workers need several arrays.
MAX_ARRAY = 8


def is_given() -> bool:
    """Return True if SLURM_CONF names a cluster, whose nodes the tests must not harm."""
    return bool(os.environ.get("SLURM_CONF"))


def missing() -> str | None:
    """Return why no cluster can be used on this machine, or None."""
    if is_given():
        return None
    if os.geteuid() != 0:
        return "starting a SLURM needs root; or set SLURM_CONF to use one that runs"
    absent = [name for name in DAEMONS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    return f"no {', '.join(absent)}: install slurmctld, slurmd, slurm-client and munge" if absent else None


class Cluster:
    """The cluster of SLURM_CONF, or eight virtual nodes on this machine.

    Nodes n1 to n4 are in the partitions `low` and `high`, which preempts `low`. The others are in `calm`, the default.
    """

    def __init__(self, name: str = "lmrc-slurm", **variables: str) -> None:
        """Describe a cluster.

        Args:
            name: name of its folder. Several test processes share the cluster of a name.
            variables: variables of cluster.sh without LMRC_SLURM_.
        """
        folder = Path(tempfile.gettempdir())
        self._users, self._lock = folder / f"{name}.users", folder / f"{name}.lock"
        if variables:
            variables["STATE"] = str(folder / name)
        self._variables = {f"LMRC_SLURM_{key}": value for key, value in variables.items()}
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if not is_given():
            words = (word.partition("=") for word in self._script("env").removeprefix("export").split())
            self.environment |= {name: value for name, _, value in words}

    @contextmanager
    def _cluster_lock(self) -> Iterator[None]:
        """Hold the lock under which the cluster is changed."""
        with self._lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _script(self, *words: str, **variables: str) -> str:
        environment = {**os.environ, **self._variables, **variables}
        done = subprocess.run([str(SCRIPT), *words], env=environment, capture_output=True, text=True, timeout=180)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
        return done.stdout

    @contextmanager
    def used(self) -> Iterator[None]:
        """Start the cluster, or use the one that another test process has started. The last user stops it."""
        if is_given():
            yield
            return
        with self._users.open("w") as users:
            with self._cluster_lock():
                self._up()
                fcntl.flock(users, fcntl.LOCK_SH)
            try:
                yield
            finally:
                with self._cluster_lock():
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
        """Yield `preempt(nodes, user_signal=True)`, which submits a short job of high priority to these nodes.

        With `user_signal` the site sends preempted jobs their own signal, else only TERM. Other test processes cannot
        preempt until the end of the block.
        """

        def preempt(nodes: str, user_signal: bool = True) -> None:
            self._up(user_signal)
            words = ["sbatch", "--partition=high", f"--nodelist={nodes}", "--exclusive", "--output=/dev/null"]
            count = len(self.run("scontrol", "show", "hostnames", nodes).split())
            self.run(*words, f"--nodes={count}", "--wrap=sleep 1")

        with self._cluster_lock():
            yield preempt

    def cancel(self, job: str) -> None:
        """Run scancel. The job may have ended."""
        subprocess.run(["scancel", job], env=self.environment, capture_output=True)

    def limit(self, job: str, seconds_left: float) -> bool:
        """Set the time limit to this many seconds from now, rounded up to minutes. Return False if SLURM refuses."""
        used = (self._ask(job, "TimeUsed") or "0:00").split(":")
        seconds = sum(int(part) * 60**power for power, part in enumerate(reversed(used)))
        minutes = math.ceil((seconds + seconds_left) / 60)
        done = subprocess.run(
            ["scontrol", "update", f"jobid={job}", f"timelimit={minutes}"], env=self.environment, capture_output=True
        )
        return done.returncode == 0

    def crash(self, node: str) -> None:
        """Kill the node and all its processes."""
        self._script("node-crash", node)

    def start(self, node: str) -> None:
        """Start the node again."""
        self._script("node-start", node)

    def run(self, *words: str, status: int = 0, folder: Path | None = None) -> str:
        """Run a command on the login node. Return its output."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=300, cwd=folder)
        assert done.returncode == status, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout if status == 0 else done.stderr

    def launch(self, stage: str, options: dict[str, Any], status: int = 0) -> str:
        """Do in this process, which has already imported torch, what launch/STAGE.py does. Return its output."""
        given = [f"--{name}={value}" for name, value in options.items()]
        output, errors = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            redirect_stdout(output),
            redirect_stderr(errors),
        ):
            ended = launch_pipeline(given) if stage == "pipeline" else launch(STAGES[stage], given)
        assert ended == status, f"{stage} {' '.join(given)}\n{output.getvalue()}\n{errors.getvalue()}"
        return output.getvalue() if status == 0 else errors.getvalue()

    def state(self, job: str) -> str:
        """Return the job's state; "" if SLURM has forgotten the job."""
        return self._ask(job, "State")

    def restarts(self, job: str) -> int:
        """Return how often the job was requeued."""
        return int(self._ask(job, "RestartCnt") or 0)

    def node(self, job: str) -> str:
        """Return the nodes of the job."""
        return self._ask(job, "NodeList")

    def _ask(self, job: str, column: str) -> str:
        done = subprocess.run(
            ["squeue", "--noheader", "--states=all", f"--jobs={job}", f"--Format={column}"],
            env=self.environment, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    def pid(self, job: str, rank: int) -> int | None:
        """Return the process id of a rank of the job; None if it is not running."""
        return self._find(SLURM_JOB_ID=job, SLURM_PROCID=str(rank))

    def worker(self, task: str) -> int | None:
        """Return the process id of the array task ARRAY_TASK; None if it is not running."""
        array, _, index = task.partition("_")
        return self._find(SLURM_ARRAY_JOB_ID=array, SLURM_ARRAY_TASK_ID=index)

    @staticmethod
    def _find(**wanted: str) -> int | None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                # Started by submitit, or by slurm/eval.sh.
                words = (process / "cmdline").read_bytes()
                if b"submitit.core._submit" not in words and b"\0launch/" not in words:
                    continue
                variables = dict(
                    pair.split("=", 1)
                    for pair in (process / "environ").read_bytes().decode().split("\0")
                    if "=" in pair
                )
            except (OSError, UnicodeDecodeError):
                continue
            if wanted.items() <= variables.items():
                return int(process.name)
        return None

    def kill(self, job: str, rank: int) -> None:
        """Kill one rank with SIGKILL."""
        pid = self.pid(job, rank)
        assert pid is not None, f"rank {rank} of {job} does not run"
        self.kill_process(pid)

    @staticmethod
    def kill_process(pid: int) -> None:
        """Kill a process with SIGKILL."""
        os.kill(pid, signal.SIGKILL)


def wait_for(what: str, holds: Callable[[], object], folder: Path | None = None) -> None:
    """Wait until `holds` returns True. On timeout fail with the run's history and the end of rank 0's log."""
    deadline = time.monotonic() + WAIT_TIMEOUT_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            message = "" if folder is None else history_text(folder)
            raise AssertionError(f"no {what} within {WAIT_TIMEOUT_SECONDS:.0f} s\n{message}")
        time.sleep(0.1)


def history_text(folder: Path) -> str:
    """Return the run's history and the last lines of rank 0's log."""
    path = folder / "log" / "history.jsonl"
    logs = sorted((folder / "log").glob("*_0_log.out"))
    tail = "\n".join(logs[-1].read_text().splitlines()[-30:]) if logs else ""
    return f"{path.read_text() if path.exists() else 'no history'}\n{tail}"


def events(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    """Return the events of these kinds from the run's history."""
    path = folder / "log" / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if row["event"] in kinds]


def steps(folder: Path) -> list[int]:
    """Return the training steps in metrics.jsonl, in the order of the file."""
    return [row["step"] for row in metrics(folder) if "loss" in row]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of steps and evaluations in metrics.jsonl, without a line that is being written."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    text = path.read_text()
    rows = (json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines())
    # Seconds differ between two trainings.
    return [row for row in rows if not any(name.startswith("use_") for name in row)]


def write_data(folder: Path, documents: int = 64) -> Path:
    """Write synthetic corpora `train` and `dev` to `folder`. Return the folder."""
    for part, count, seed in (("train", documents, 1), ("dev", 4, 2)):
        if not (folder / part).exists():
            write_corpus(synthetic.generate(count, seed), folder / part, synthetic.RELATIONS, part, "0" * 64)
    return folder


def training(stage: str, data: Path, run: Path, **more: Any) -> dict[str, Any]:
    """Return the options of a training of a tiny model with dropout on 2 nodes with 2 tasks each."""
    model: dict[str, dict[str, Any]] = {
        "rcp": {"model.encoder": "embedded:tiny-encoder"},
        "rc": {
            "model.base": "embedded:tiny-llm", "lora.dropout": 0.1,
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


# Runs in each task before the job.
SLOW_STEPS = """
import os
if "SLURM_PROCID" in os.environ:
    import time
    from lmrc.training.sampler import DeterministicSampler
    batch = DeterministicSampler.batch
    def slow(self, step):
        time.sleep({seconds})
        return batch(self, step)
    DeterministicSampler.batch = slow
"""


def slow_steps(folder: Path, seconds: float) -> dict[str, str]:
    """Return the options of a training whose steps also wait, so that it needs fewer for SLURM to interrupt it."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SLOW_STEPS.format(seconds=seconds))
    return {"setup": f"export PYTHONPATH={folder}"}


def write_damaged_encoder(folder: Path) -> Path:
    """An encoder without most of its weights, which a training notices when it reads them, and no pre-flight before."""
    shutil.copytree(resolve("embedded:tiny-encoder"), folder)
    weights = load_file(folder / "model.safetensors")
    save_file(dict(list(weights.items())[:1]), folder / "model.safetensors")
    return folder


def run_here(stage: str, options: dict[str, Any]) -> None:
    """Launch in this process, which has already imported torch."""
    cluster = ("nodes", "gpus", "time", "cpus-per-gpu")
    given = [f"--{name}={value}" for name, value in options.items() if name not in cluster]
    assert launch(STAGES[stage], [*given, "--where=here"]) == 0


def write_models(folder: Path, data: Path) -> Path:
    """Train `rcp` and `rc` for one step in `folder`. Return the folder."""
    for stage in ("rcp", "rc"):
        run_here(stage, training(stage, data, folder / stage, train__max_steps=1))
    return folder


def submitted(folder: Path) -> str:
    """Return the last submitted job of the run."""
    return str(events(folder, "submitted")[-1]["job"])


def done(folder: Path) -> bool:
    """Return True if the run has finished."""
    return (folder / "DONE").exists()


def wait_until_done(folder: Path) -> None:
    """Wait for DONE."""
    wait_for("end of the run", (folder / "DONE").exists, folder)


def differences(one: Path, other: Path) -> list[str]:
    """Return the differences between two finished runs of the same training; empty if they are equal bit for bit."""
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
