"""Checks of versions, of the GPUs that a process sees, and the list of those that one GPU cannot show."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any
from unittest.mock import patch

import submitit
import torch
import torch.nn.functional as F
import transformers
from gpu.check import CheckSkipped, Machine, require

from lmrc.config.schema import RcpConfig
from lmrc.kernels.varlen_attention import kernel_name
from lmrc.launcher.local import _environment as launcher_environment
from lmrc.launcher.slurm import job
from lmrc.launcher.slurm.job import Job


class _SeeGpus:
    """A job of the local launcher that returns the GPUs that it sees, in place of a training."""

    def __init__(self, config: RcpConfig) -> None:
        self._job = Job("rcp", config)

    def __call__(self) -> dict[str, Any] | None:
        def see(*unused: Any) -> dict[str, Any]:
            gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
            return {"variable": os.environ["CUDA_VISIBLE_DEVICES"], "uuids": [str(gpu.uuid) for gpu in gpus]}

        with patch.object(job, "run_attempt", see):
            return self._job()


def environment(machine: Machine) -> str:
    """Return versions, the order of attention kernels, and which optional packages can be imported."""
    query = torch.randn(1, 2, 16, 64, device=machine.device)
    F.scaled_dot_product_attention(query, query, query)
    found = [f"torch {torch.__version__}", f"transformers {transformers.__version__}"]
    if machine.has_gpu:
        major, minor = torch.cuda.get_device_capability(machine.device)
        found += [torch.cuda.get_device_name(machine.device), f"capability {major}.{minor}"]
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        found += [f"CUDA {torch.version.cuda}", f"cuDNN {cudnn}"]
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
    uuid = str(torch.cuda.get_device_properties(machine.device).uuid) if machine.has_gpu else "none"
    given = f"GPU-{uuid}"
    config = RcpConfig.model_validate({"run": {"folder": machine.folder}, "model": {"encoder": str(machine.folder)}})
    executor = submitit.LocalExecutor(folder=machine.folder / "log")
    executor.update_parameters(timeout_min=1, tasks_per_node=1, gpus_per_node=1)
    variables = {"CUDA_VISIBLE_DEVICES": given, "PYTHONPATH": os.pathsep.join(sys.path)}
    with patch.dict(os.environ, variables), launcher_environment(config.cluster, 1):
        seen = executor.submit(_SeeGpus(config)).result()
    require(seen["variable"] == given, f"CUDA_VISIBLE_DEVICES is {seen['variable']!r} in the process, not {given!r}")
    if not machine.has_gpu:
        return "the process has the variable of its launcher; there is no GPU to compare"
    require(seen["uuids"] == [uuid], f"the process sees {seen['uuids']}, not {uuid}")
    return f"the process sees {given}"


def several_gpus(machine: Machine) -> str:
    """Say what one GPU cannot show."""
    raise CheckSkipped(
        "one GPU cannot show timeouts and failure reports under NCCL, overlap_comm, the rendezvous of 2 x 8 "
        "processes, and the binding of tasks to GPUs"
    )
