"""The SLURM part of `lmrc doctor`: what the site offers, and whether its file system is one that nodes can share."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmrc.common.check import Check, missing, ok, warning
from lmrc.inference.work_units import STALE_SECONDS
from lmrc.launcher.slurm import commands as slurm
from lmrc.monitor.doctor.shared_fs import ROUNDS

# A test that waits longer than this in the queue is given up.
QUEUE_SECONDS = 600
LONGEST_CLOCK_SKEW = 5.0
SHORTEST_SAVE = 30.0


def check_slurm() -> Iterator[Check]:
    """The commands, the partitions, and what happens to a job that is preempted."""
    if not slurm.is_here():
        yield warning(
            "SLURM: no sbatch on this machine",
            "stages run here, as processes; on a cluster, log in to a node that submits, or load SLURM's module",
        )
        return
    try:
        text = slurm.ask("scontrol", "show", "config")
        partitions = [_pairs(line) for line in slurm.ask("scontrol", "show", "partition", "--oneliner").splitlines()]
    except slurm.SlurmError as error:
        yield missing(f"SLURM: {error}", "ask the site whether its controller runs; SLURM_CONF names its configuration")
        return
    settings = read_settings(text)
    yield ok(f"SLURM {settings.get('SLURM_VERSION', 'of an unknown version')}, cluster {settings.get('ClusterName')}")
    yield from _check_partitions(partitions)
    yield _check_accounting()
    requeues = settings.get("JobRequeue", "unknown")
    if requeues == "1":
        yield ok("JobRequeue=1: jobs come back after a node's failure")
    else:
        yield warning(f"JobRequeue={requeues}: jobs may not come back by default", "lmrc asks for it with --requeue")
    yield from _check_preemption(settings, partitions)
    largest = settings.get("MaxArraySize", "unknown")
    if largest.isdigit() and int(largest) > 1:
        yield ok(f"MaxArraySize={largest}: more than {int(largest) - 1} inference workers become several arrays")
    else:
        yield missing(f"MaxArraySize={largest}: no arrays, which inference needs", "ask the site to allow job arrays")


def read_settings(text: str) -> dict[str, str]:
    """The site's configuration as `scontrol show config` prints it; many values are empty."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _pairs(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def _check_partitions(partitions: list[dict[str, str]]) -> Iterator[Check]:
    if not partitions:
        yield missing("partitions: none that you may use", "ask the site for an account, or give --partition")
    for partition in partitions:
        name = f"partition {partition['PartitionName']}"
        default = " (default)" if partition.get("Default") == "YES" else ""
        gpus = re.search(r"gres/gpu=(\d+)", partition.get("TRES", ""))
        says = (
            f"{name}{default}: {partition.get('TotalNodes')} nodes, {gpus[1] if gpus else 'no'} GPUs, time limit "
            f"{partition.get('MaxTime')} (default {partition.get('DefaultTime')}), preempted jobs: "
            f"{partition.get('PreemptMode')}, grace {partition.get('GraceTime')} s"
        )
        if partition.get("State") == "UP":
            yield ok(says)
        else:
            yield warning(f"{says}; it is {partition.get('State')}", "use another --partition")
    if partitions and not any(partition.get("Default") == "YES" for partition in partitions):
        yield warning("no default partition", "give --partition, or set it in configs/cluster/NAME.yaml")


def _check_accounting() -> Check:
    try:
        slurm.ask("sacct", "--noheader", "--allocations", "--starttime=now-1minute", "--format=JobID")
    except slurm.SlurmError as error:
        return warning(
            f"sacct: {error}",
            "without accounting nobody can say how a job ended that SLURM has forgotten (lmrc status then calls it "
            "dead), and submitit does not see that one was cancelled; DONE and the history tell the rest",
        )
    return ok("sacct answers: how forgotten jobs ended is known")


def _check_preemption(settings: dict[str, str], partitions: list[dict[str, str]]) -> Iterator[Check]:
    mode = settings.get("PreemptMode")
    if mode is None:
        # To call it OFF would be a guess that costs the user a run.
        yield warning("PreemptMode: scontrol does not tell", "ask the site whether and how jobs are preempted")
        return
    if mode == "OFF":
        yield ok("PreemptMode=OFF: jobs are not preempted")
        return
    if "CANCEL" in mode:
        yield warning(
            f"PreemptMode={mode}: SLURM does not put preempted jobs back",
            "jobs that save within the grace do so themselves; of others, repeat the command",
        )
    else:
        yield ok(f"PreemptMode={mode}")
    # Its place in slurm.conf has changed between versions.
    flags = f"{settings.get('SlurmctldParameters', '')},{settings.get('PreemptParameters', '')}"
    if "send_user_signal" in flags:
        yield ok("preempt_send_user_signal: USR2 comes first, TERM at the end of the grace")
    else:
        yield ok(
            "no preempt_send_user_signal in SlurmctldParameters: preempted jobs get TERM alone, at which they save"
        )
    found = re.match(r"\d+", settings.get("KillWait", ""))
    wait = int(found[0]) if found else 0  # counted as none where it is not told: rather too little time than too much
    for partition in partitions:
        if partition.get("PreemptMode", mode) in ("OFF", "SUSPEND"):
            continue
        grace = partition.get("GraceTime", "0")
        seconds = (int(grace) if grace.isdigit() else 0) + wait
        says = (
            f"a preempted job of partition {partition['PartitionName']} has about {seconds} s to save "
            f"(GraceTime {grace} + KillWait {wait})"
        )
        if seconds < SHORTEST_SAVE:
            yield warning(says, "lower train.checkpoint_minutes: a save that takes longer is lost with its steps")
        else:
            yield ok(says)


def check_nodes(nodes: int, partition: str | None, account: str | None, below: Path) -> Iterator[Check]:
    """A short job on `nodes` nodes that tests the file system of the folder `below`."""
    if not slurm.is_here():
        yield missing("shared file system: no sbatch on this machine", "run this where jobs are submitted")
        return
    folder = below.resolve() / f".lmrc-doctor-{uuid.uuid4().hex[:12]}"
    try:
        folder.mkdir()
    except OSError as error:
        yield missing(f"shared file system: {below} cannot be written ({error.strerror})", "go where your runs are")
        return
    try:
        yield from _judge(_run(nodes, partition, account, folder), nodes, below)
    except slurm.SlurmError as error:
        yield missing(
            f"shared file system: the job failed: {error}",
            "give another --partition or --account; this Python must be there on all nodes",
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(nodes: int, partition: str | None, account: str | None, folder: Path) -> list[dict[str, Any]]:
    """What the processes print. Raises SlurmError where the job could not be run."""
    command = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--time=10", "--quiet"]
    command += [f"--immediate={QUEUE_SECONDS}", "--job-name=lmrc-doctor", "--kill-on-bad-exit=0"]
    command += [f"--partition={partition}"] if partition else []
    command += [f"--account={account}"] if account else []
    command += [sys.executable, "-m", "lmrc.monitor.doctor.shared_fs", str(folder)]
    print(f"asking SLURM for {nodes} nodes: {shlex.join(command)}", file=sys.stderr, flush=True)
    # srun gives up by itself; this is for one that hangs.
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUEUE_SECONDS + 660)
    except FileNotFoundError:
        raise slurm.SlurmError("srun is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise slurm.SlurmError("srun did not end") from None
    found = []
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found.append(json.loads(line))
    if len(found) < nodes:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise slurm.SlurmError(said[-1] if said else f"{len(found)} of {nodes} processes answered")
    return sorted(found, key=lambda one: int(one["rank"]))


def _judge(found: list[dict[str, Any]], nodes: int, below: Path) -> Iterator[Check]:
    names = ", ".join(one["node"] for one in found)
    errors = [f"{one['node']}: {one['error']}" for one in found if "error" in one]
    elsewhere = "choose a run.folder on a file system that all nodes share (NFS, Lustre, GPFS, CephFS)"
    if errors:
        yield missing(f"shared file system of {below.resolve()}: {'; '.join(errors)}", elsewhere)
        return
    boots = {one["boot"] for one in found}
    if len(boots) == 1 and "" not in boots:
        yield warning(
            f"{names} are one machine: what follows is of its own file system, not of a shared one",
            "none needed on a test cluster; else ask for more --nodes",
        )
    delay = found[0]["delay"]
    says = f"{names} see each other's files in {below.resolve()}, after {delay:.3f} s at most"
    if delay > STALE_SECONDS:
        yield warning(says, f"more than {STALE_SECONDS:g} s: raise work.lease_seconds to {max(60, 10 * delay):.0f}")
    else:
        yield ok(says)
    wins = sorted(number for one in found for number in one["won"])
    shares = ", ".join(str(len(one["won"])) for one in found)
    if wins == list(range(ROUNDS)):
        yield ok(f"exclusive links: of {nodes} nodes that raced, one won each of {ROUNDS} ({shares})")
    else:
        yield missing(f"exclusive links: {len(wins)} of {ROUNDS} were made ({shares}), not each by one node", elsewhere)
    torn, reads, stale = (sum(one[key] for one in found) for key in ("torn", "reads", "stale"))
    if torn:
        yield missing(f"atomic rename: {torn} of {reads} reads saw half a file", elsewhere)
    else:
        repeated = f", {stale} had to be repeated" if stale else ""
        yield ok(f"atomic rename: {reads} reads of a file that was being replaced saw it whole{repeated}")
    skews = {one["node"]: one["clock"] for one in found}
    says = f"clocks against the file server's: {', '.join(f'{node} {skew:+.2f} s' for node, skew in skews.items())}"
    if max(map(abs, skews.values())) > LONGEST_CLOCK_SKEW:
        yield warning(says, "have the site's NTP mended; leases do not lean on these clocks, logs do")
    else:
        yield ok(says)
