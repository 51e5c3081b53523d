"""The SLURM part of `lmrc doctor`: partitions, accounting, preemption, and the shared file system."""

from __future__ import annotations

import json
import logging
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
from lmrc.launcher.preflight.container import has_pyxis, runtime
from lmrc.launcher.slurm import commands as slurm
from lmrc.monitor.doctor.check_shared_fs import ROUNDS

logger = logging.getLogger(__name__)

# The longest time that the test job may wait in the queue.
QUEUE_TIMEOUT_SECONDS = 600
MAX_CLOCK_SKEW_SECONDS = 5.0
MIN_SAVE_SECONDS = 30.0


def check_slurm() -> Iterator[Check]:
    """Check the SLURM commands, the partitions, accounting, requeueing and preemption."""
    if not slurm.is_available():
        yield warning(
            "SLURM: no sbatch on this machine",
            "stages run on this machine; on a cluster, log in to a submit node, or load SLURM's module",
        )
        return
    try:
        text = slurm.run_command("scontrol", "show", "config")
        partitions = [
            _pairs(line) for line in slurm.run_command("scontrol", "show", "partition", "--oneliner").splitlines()
        ]
    except slurm.SlurmError as error:
        yield missing(
            f"SLURM: {error}",
            "ask the site whether its controller is running; SLURM_CONF names its configuration; none needed for "
            "--where local, which runs on this machine",
        )
        return
    settings = parse_settings(text)
    yield ok(f"SLURM {settings.get('SLURM_VERSION', 'of an unknown version')}, cluster {settings.get('ClusterName')}")
    yield from _check_partitions(partitions)
    yield _check_accounting()
    requeues = settings.get("JobRequeue", "unknown")
    if requeues == "1":
        yield ok("JobRequeue=1: jobs are requeued after a node failure")
    else:
        yield warning(
            f"JobRequeue={requeues}: the site does not requeue jobs by default",
            "none needed: lmrc submits a chain of jobs instead (cluster.chain_jobs); --requeue requeue if the site "
            "requeues jobs that ask for it",
        )
    yield from _check_preemption(settings, partitions)
    yield _check_containers()
    largest = settings.get("MaxArraySize", "unknown")
    if largest.isdigit() and int(largest) > 1:
        yield ok(
            f"MaxArraySize={largest}: more than {int(largest) - 1} inference workers are submitted as several arrays"
        )
    else:
        yield missing(
            f"MaxArraySize={largest}: no job arrays, which inference needs", "ask the site to allow job arrays"
        )


def parse_settings(text: str) -> dict[str, str]:
    """Return the site's configuration from the output of `scontrol show config`."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _pairs(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def _check_partitions(partitions: list[dict[str, str]]) -> Iterator[Check]:
    if not partitions:
        yield missing("no partition that you may use", "ask the site for an account, or give --partition")
    for partition in partitions:
        name = f"partition {partition['PartitionName']}"
        default = " (default)" if partition.get("Default") == "YES" else ""
        gpus = re.search(r"gres/gpu=(\d+)", partition.get("TRES", ""))
        message = (
            f"{name}{default}: {partition.get('TotalNodes')} nodes, {gpus[1] if gpus else 'no'} GPUs, time limit "
            f"{partition.get('MaxTime')} (default {partition.get('DefaultTime')}), preempted jobs: "
            f"{partition.get('PreemptMode')}, grace {partition.get('GraceTime')} s"
        )
        if partition.get("State") == "UP":
            yield ok(message)
        else:
            yield warning(f"{message}; it is {partition.get('State')}", "use another --partition")
    if partitions and not any(partition.get("Default") == "YES" for partition in partitions):
        yield warning("no default partition", "give --partition, or set it in configs/cluster/NAME.yaml")


def _check_accounting() -> Check:
    try:
        slurm.run_command("sacct", "--noheader", "--allocations", "--starttime=now-1minute", "--format=JobID")
    except slurm.SlurmError as error:
        return warning(
            f"sacct: {error}",
            "without accounting, how a job ended is unknown once SLURM has forgotten it (lmrc status then calls it "
            "dead), and submitit does not see a cancellation",
        )
    return ok("sacct answers: the end of old jobs is known")


def _check_containers() -> Check:
    found = [path for path in [runtime(), "pyxis (srun --container-image)" if has_pyxis() else None] if path]
    if found:
        return ok(f"containers (cluster.container): {', '.join(found)}")
    return ok("containers: no apptainer, singularity or pyxis on this machine; the nodes may have them")


def _check_preemption(settings: dict[str, str], partitions: list[dict[str, str]]) -> Iterator[Check]:
    mode = settings.get("PreemptMode")
    if mode is None:
        # Do not assume OFF: a wrong guess may cost the user a run.
        yield warning("PreemptMode: not in the output of scontrol", "ask the site whether and how jobs are preempted")
        return
    if mode == "OFF":
        yield ok("PreemptMode=OFF: jobs are not preempted")
        return
    if "CANCEL" in mode:
        yield warning(
            f"PreemptMode={mode}: SLURM does not requeue preempted jobs",
            "jobs that save within the grace time requeue themselves; otherwise repeat the command",
        )
    else:
        yield ok(f"PreemptMode={mode}")
    # Some SLURM versions have the flag in the one parameter, some in the other.
    flags = f"{settings.get('SlurmctldParameters', '')},{settings.get('PreemptParameters', '')}"
    if "send_user_signal" in flags:
        yield ok("preempt_send_user_signal: USR2 is sent first, TERM at the end of the grace time")
    else:
        yield ok("no preempt_send_user_signal in SlurmctldParameters: preempted jobs get only TERM, and save then")
    match = re.match(r"\d+", settings.get("KillWait", ""))
    wait = int(match[0]) if match else 0  # if unknown, assume none rather than too much
    for partition in partitions:
        if partition.get("PreemptMode", mode) in ("OFF", "SUSPEND"):
            continue
        grace = partition.get("GraceTime", "0")
        seconds = (int(grace) if grace.isdigit() else 0) + wait
        message = (
            f"a preempted job of partition {partition['PartitionName']} has about {seconds} s to save "
            f"(GraceTime {grace} + KillWait {wait})"
        )
        if seconds < MIN_SAVE_SECONDS:
            yield warning(message, "lower train.checkpoint_minutes: steps since the last checkpoint may be lost")
        else:
            yield ok(message)


def check_nodes(nodes: int, partition: str | None, account: str | None, root: Path) -> Iterator[Check]:
    """Run a short job on `nodes` nodes that tests the file system of the folder `root`."""
    if not slurm.is_available():
        yield missing("shared file system: no sbatch on this machine", "run this on a node that can submit jobs")
        return
    folder = root.resolve() / f".lmrc-doctor-{uuid.uuid4().hex[:12]}"
    try:
        folder.mkdir()
    except OSError as error:
        yield missing(
            f"shared file system: {root} cannot be written ({error.strerror})", "change to the folder of your runs"
        )
        return
    try:
        yield from _check_results(_run_test(nodes, partition, account, folder), nodes, root)
    except slurm.SlurmError as error:
        yield missing(
            f"shared file system: the job failed: {error}",
            "give another --partition or --account; this Python must exist on all nodes",
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_test(nodes: int, partition: str | None, account: str | None, folder: Path) -> list[dict[str, Any]]:
    """Run the test with srun and return the results of its processes, by rank.

    Raises:
        SlurmError: the job could not be run.
    """
    command = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--time=10", "--quiet"]
    command += [f"--immediate={QUEUE_TIMEOUT_SECONDS}", "--job-name=lmrc-doctor", "--kill-on-bad-exit=0"]
    command += [f"--partition={partition}"] if partition else []
    command += [f"--account={account}"] if account else []
    command += [sys.executable, "-m", "lmrc.monitor.doctor.check_shared_fs", str(folder)]
    logger.info(f"requesting {nodes} nodes from SLURM: {shlex.join(command)}")
    # srun has its own timeout; this one is for an srun that hangs.
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUEUE_TIMEOUT_SECONDS + 660)
    except FileNotFoundError:
        raise slurm.SlurmError("srun is not installed on this machine") from None
    except subprocess.TimeoutExpired:
        raise slurm.SlurmError("srun did not end") from None
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(results) < nodes:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise slurm.SlurmError(lines[-1] if lines else f"{len(results)} of {nodes} processes answered")
    return sorted(results, key=lambda result: int(result["rank"]))


def _check_results(results: list[dict[str, Any]], nodes: int, root: Path) -> Iterator[Check]:
    names = ", ".join(result["node"] for result in results)
    errors = [f"{result['node']}: {result['error']}" for result in results if "error" in result]
    remedy = "choose a run.folder on a file system that all nodes share (NFS, Lustre, GPFS, CephFS)"
    if errors:
        yield missing(f"shared file system of {root.resolve()}: {'; '.join(errors)}", remedy)
        return
    boots = {result["boot"] for result in results}
    if len(boots) == 1 and "" not in boots:
        yield warning(
            f"{names} are one machine: the results below are for its local file system, not for a shared one",
            "none needed on a test cluster; otherwise give more --nodes",
        )
    delay = results[0]["delay"]
    message = f"{names} see each other's files in {root.resolve()}, after {delay:.3f} s at most"
    if delay > STALE_SECONDS:
        yield warning(message, f"more than {STALE_SECONDS:g} s: raise work.lease_seconds to {max(60, 10 * delay):.0f}")
    else:
        yield ok(message)
    won = sorted(round_index for result in results for round_index in result["won"])
    shares = ", ".join(str(len(result["won"])) for result in results)
    if won == list(range(ROUNDS)):
        yield ok(f"exclusive links: exactly one of {nodes} nodes won each of {ROUNDS} rounds ({shares})")
    else:
        yield missing(f"exclusive links: {len(won)} wins in {ROUNDS} rounds ({shares}), not one per round", remedy)
    torn, reads, stale = (sum(result[key] for result in results) for key in ("torn", "reads", "stale"))
    if torn:
        yield missing(f"atomic rename: {torn} of {reads} reads saw a half-replaced file", remedy)
    else:
        repeated = f", {stale} had to be repeated" if stale else ""
        yield ok(f"atomic rename: {reads} reads during replacement saw a complete file{repeated}")
    skews = {result["node"]: result["clock"] for result in results}
    message = f"clocks against the file server's: {', '.join(f'{node} {skew:+.2f} s' for node, skew in skews.items())}"
    if max(map(abs, skews.values())) > MAX_CLOCK_SKEW_SECONDS:
        yield warning(message, "ask the site to fix NTP; leases do not depend on these clocks, times in logs do")
    else:
        yield ok(message)
