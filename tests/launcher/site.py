"""Fake SLURM commands with the output format of SLURM 22.05. They run nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from lmrc.launcher.slurm import commands as slurm


@dataclass(frozen=True)
class Partition:
    """A partition of identical nodes, with `gres` in the format of sinfo."""

    name: str = "gpu"
    nodes: int = 4
    gres: str = "gpu:8(S:0-1)"
    limit: str = "infinite"
    features: str = "(null)"
    default: bool = True


def fake_site(folder: Path, monkeypatch: pytest.MonkeyPatch, *partitions: Partition, job_requeue: int = 1) -> Path:
    """Put the commands first in PATH. Return the folder to which sbatch copies scripts, job-1.sh and so on."""
    tools, jobs = folder / "bin", folder / "jobs"
    tools.mkdir(parents=True)
    jobs.mkdir()
    rows, limits = [], []
    for partition in partitions or (Partition(),):
        shown = partition.name + ("*" if partition.default else "")
        limits.append(f"{shown}|{partition.limit}")
        rows += [
            f"{partition.name}-{number}|{shown}|{partition.gres}|{partition.features}"
            for number in range(1, partition.nodes + 1)
        ]
    (folder / "nodes").write_text("\n".join(rows) + "\n")
    (folder / "limits").write_text("\n".join(limits) + "\n")
    scripts = {
        "sinfo": f"""
for word; do case $word in --partition=*) wanted=${{word#*=}};; --Node) file=nodes;; esac; done
while IFS= read -r line; do
  name=${{line}}; [ "${{file:-limits}}" = nodes ] && name=${{line#*|}}; name=${{name%%|*}}; name=${{name%\\*}}
  case ",${{wanted:-$name}}," in *",$name,"*) printf '%s\\n' "$line";; esac
done < "{folder}/${{file:-limits}}"
""",
        "scontrol": f"""
if [ "$2" = hostnames ]; then echo "$3" | tr , '\\n'; else
echo "JobRequeue              = {job_requeue}"; echo "MaxArraySize            = 1001"; fi
""",
        "squeue": "exit 0\n",
        "sbatch": f"""
number=$(($(ls "{jobs}" | wc -l) + 1))
cp "${{!#}}" "{jobs}/job-$number.sh"
echo "Submitted batch job $number"
""",
    }
    for name, text in scripts.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith("SBATCH_")]:
        monkeypatch.delenv(name)
    assert slurm.is_available()
    return jobs
