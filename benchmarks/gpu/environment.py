"""Checks of versions, of the GPUs that a process sees, and the list of those that one GPU cannot show."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import torch
import torch.nn.functional as F
import transformers
from gpu.check import CheckSkipped, Machine, require

from lmrc.kernels.varlen_attention import kernel_name
from lmrc.launcher.slurm.job import VISIBLE_GPUS

# Prints the GPU that a process of the local launcher sees, as `Job.__call__` and submitit set the variable.
_CHILD = f"""
import os
from lmrc.config.schema import ClusterOptions
from lmrc.launcher.local import _environment
with _environment(ClusterOptions(), 1):
    os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    if {VISIBLE_GPUS!r} in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ[{VISIBLE_GPUS!r}]
    import json, torch
    count = torch.cuda.device_count()
    uuids = [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]
    print(json.dumps([os.environ["CUDA_VISIBLE_DEVICES"], uuids]))
"""


def environment(machine: Machine) -> str:
    """Return versions, the order of attention kernels, and which optional packages can be imported."""
    query = torch.randn(1, 2, 16, 64, device=machine.device)
    F.scaled_dot_product_attention(query, query, query)
    found = [f"torch {torch.__version__}", f"transformers {transformers.__version__}"]
    if machine.has_gpu:
        major, minor = torch.cuda.get_device_capability(machine.device)
        found += [torch.cuda.get_device_name(machine.device), f"capability {major}.{minor}"]
        found += [f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}"]
        require(major < 8 or kernel_name() != "sdpa per sequence", "no varlen attention kernel: install torch 2.12")
    order = getattr(torch._C, "_get_sdp_priority_order", list[int])()
    found += [f"sdpa order {order}", f"varlen kernel {kernel_name()}"]
    found += [f"{name} {_version(name)}" for name in ("flash_attn", "deepspeed")]
    newer = hasattr(transformers.PreTrainedModel, "activation_checkpointing_enable")
    return ", ".join([*found, f"activation_checkpointing_enable {'present' if newer else 'absent'}"])


def _version(package: str) -> str:
    try:
        return str(getattr(importlib.import_module(package), "__version__", "imported"))
    except Exception as error:  # a package for another version of CUDA fails with other errors than ImportError
        return f"not imported ({type(error).__name__})"


def visible_gpus(machine: Machine) -> str:
    """Check that a process of the local launcher sees the GPU that CUDA_VISIBLE_DEVICES names by its UUID."""
    uuid = f"{torch.cuda.get_device_properties(machine.device).uuid}" if machine.has_gpu else "no-gpu"
    given = f"GPU-{uuid}"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": given, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _CHILD]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    require(ended.returncode == 0, f"the process failed: {ended.stderr.strip()[-300:]}")
    variable, uuids = json.loads(ended.stdout.splitlines()[-1])
    require(variable == given, f"CUDA_VISIBLE_DEVICES is {variable!r} in the process, not {given!r}")
    if not machine.has_gpu:
        return "the process has the variable of its launcher; there is no GPU to compare"
    require(uuids == [uuid], f"the process sees {uuids}, not {uuid}")
    return f"the process sees {given}"


def several_gpus(machine: Machine) -> str:
    """Say what one GPU cannot show."""
    raise CheckSkipped(
        "one GPU cannot show timeouts and failure reports under NCCL, overlap_comm, the rendezvous of 2 x 8 "
        "processes, and the binding of tasks to GPUs"
    )
