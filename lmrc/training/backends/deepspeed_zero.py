"""The DeepSpeed backend: ZeRO stages 0 to 3, with the sharded state gathered and scattered by parameter name.

DeepSpeed runs in its fp32 mode. Trained weights are float32 and need no separate master copy. The forward pass is in
bf16 by autocast, and frozen weights may be stored in bfloat16. Only this module uses DeepSpeed's private API.
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import deepspeed
import deepspeed.ops
import torch
import torch.distributed as dist
from deepspeed.runtime.zero.partition_parameters import DeepSpeedTensorOverride
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.distributed import distributed_c10d

from lmrc.config.schema import Training
from lmrc.training.backends.base import (
    Objective,
    StateKey,
    check_shape,
    host_copy,
    make_optimizer,
    scale_rates,
    trained_parameters,
)
from lmrc.training.backends.zero_config import read_zero_config
from lmrc.training.distributed import World
from lmrc.training.task import Batch, Task


def deepspeed_config(options: Training, world: World, micro_batches: int) -> dict[str, Any]:
    """Return the configuration for `deepspeed.initialize`."""
    return {
        **read_zero_config(options.zero_stage),
        # The trainer weights micro-batches of unequal size itself. DeepSpeed uses only the number of passes.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_batches,
        "train_batch_size": micro_batches * world.size,
        "gradient_clipping": options.gradient_clip,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
        # Its timer waits for the GPU twice per step; the trainer measures the throughput itself.
        "timers": {"throughput": {"enabled": False}},
    }


def _init_deepspeed(world: World) -> None:
    if not dist.is_initialized():
        # A HashStore, because a single process needs no port.
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=world.timeout)
    os.environ.setdefault("LOCAL_RANK", str(world.device.index or 0))
    if world.device.type == "cpu":
        # Disable optional shared-memory collectives, which take 30 s to compile. Those of gloo are enough.
        # Not getattr: reading the attribute makes DeepSpeed run the compiler for each of its operators.
        vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)


@contextmanager
def _default_group_timeout(timeout: timedelta) -> Iterator[None]:
    """Set torch's default timeout of process groups, because DeepSpeed makes groups without a timeout."""
    names = ("default_pg_timeout", "default_pg_nccl_timeout")
    with ExitStack() as stack:
        for name in names:
            stack.callback(setattr, distributed_c10d, name, getattr(distributed_c10d, name))
            setattr(distributed_c10d, name, timeout)
        yield


@contextmanager
def sharded_loading(options: Training, world: World) -> Iterator[None]:
    """Shard a model while `from_pretrained` reads it, so that no process holds all of it.

    Parameters and buffers have the dtype that they have without ZeRO-3.
    """
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    _init_deepspeed(world)
    # transformers keeps only a weak reference to it.
    config = HfDeepSpeedConfig(deepspeed_config(options, world, micro_batches=1))
    zero_init = deepspeed.zero.Init
    # By default every new tensor gets one dtype: bf16 weights become float32, or float32 rotary frequencies bf16.
    deepspeed.zero.Init = functools.partial(zero_init, tensor_overrides=[DeepSpeedTensorOverride.device])
    try:
        yield
    finally:
        deepspeed.zero.Init = zero_init
        unset_hf_deepspeed_config()
        del config


def _bit_sums(parameters: Sequence[Tensor]) -> list[int]:
    """Return the sum of each parameter's bits, read as integers: equal for equal weights."""
    if not parameters:
        return []
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [parameter.data.view(integers[parameter.element_size()]).sum() for parameter in parameters]
    total: list[int] = torch.stack(sums).tolist()
    return total


@contextmanager
def _frozen_weights_stay(model: nn.Module, world: World) -> Iterator[None]:
    """Keep DeepSpeed from sending the frozen weights from rank 0 to all if they are equal already. Collective.

    Every rank reads the base LM from the same files. Sending the 26 GB of a 13B takes up to a minute between nodes.
    """
    # Weights that ZeRO-3 has sharded while loading are not sent.
    frozen = [p for p in model.parameters() if not p.requires_grad and not hasattr(p, "ds_status")]
    sums = world.gather(_bit_sums(frozen))
    kept = frozen if all(other == sums[0] for other in sums) else []
    for parameter in kept:
        # With this mark of its OptimizedLinear, DeepSpeed does not broadcast a parameter.
        parameter.ds_optim_param = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for parameter in kept:
            del parameter.ds_optim_param  # type: ignore[attr-defined]


class DeepSpeedZeroBackend:
    """The engine of `deepspeed.initialize` around the task's model."""

    def __init__(self, task: Task, options: Training, world: World, micro_batches: int) -> None:
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # At every step DeepSpeed calls functions that newer versions of torch have renamed.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
        config = deepspeed_config(options, world, micro_batches)
        _init_deepspeed(world)
        self.name = f"DeepSpeed {deepspeed.__version__}, ZeRO {options.zero_stage}"
        self._stage = options.zero_stage
        self._world = world
        self._parameters = trained_parameters(task)
        self._optimizer = make_optimizer(task, options)
        with _default_group_timeout(world.timeout), _frozen_weights_stay(task.model, world):
            self._engine, *_ = deepspeed.initialize(
                model=Objective(task, options, world.device), optimizer=self._optimizer, config=config
            )
        # Called by `step` at stage 0 only.
        self._engine.clip_fp32_gradients = self._clip
        self._norm = torch.zeros(())
        # A tensor: the quotient of a Python number and a tensor is rounded twice.
        self._max_norm = torch.tensor(options.gradient_clip, device=world.device)
        self._states_linked = False

    @property
    def model(self) -> nn.Module:
        model: nn.Module = self._engine.module.model
        return model

    def loss(self, batch: Batch) -> Tensor:
        loss: Tensor = self._engine(batch)
        return loss

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed averages gradients over ranks, but the trainer needs their sum.
        self._engine.backward(loss * self._world.size, scale_wrt_gas=False)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def step(self, scale: float) -> Tensor | float:
        scale_rates(self._optimizer, scale)
        self._engine.step()
        norm: Tensor | float = self._norm if self._stage == 0 else self._engine.get_global_grad_norm()
        return norm

    def _clip(self) -> None:
        """Clip the gradients at stage 0 and keep their norm.

        DeepSpeed's own function has the same arithmetic, but it drops the norm and waits for the device.
        """
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norms = torch._foreach_norm(gradients)
        self._norm = torch.stack(norms).square().sum().sqrt()
        torch._foreach_mul_(gradients, torch.clamp(self._max_norm / (self._norm + 1e-6), max=1.0))

    def _link_states(self) -> None:
        """Link Adam's state to the parameters of all groups. ZeRO 1 and 2 link only those of the first group."""
        if self._stage in (1, 2) and not self._states_linked:
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()
            self._states_linked = True

    def weight(self, name: str, copy: bool = True) -> Tensor:
        parameter = self._parameters[name]
        value: Tensor = safe_get_full_fp32_param(parameter) if self._stage == 3 else parameter
        return host_copy(value) if copy else value

    def get(self, name: str, key: StateKey, copy: bool = True) -> Tensor:
        if key == "master":
            return self.weight(name, copy)
        parameter = self._parameters[name]
        if self._stage == 0:
            value = self._optimizer.state[parameter][key]
        else:
            self._link_states()
            value = safe_get_full_optimizer_state(parameter, key)
        # A tensor of another shape would be a single shard.
        shape = parameter.ds_shape if self._stage == 3 else parameter.shape  # type: ignore[attr-defined]
        if value is None or value.shape != shape:
            raise RuntimeError(f"DeepSpeed {deepspeed.__version__} did not return all of {key} of {name}")
        return host_copy(value) if copy else value

    def put(self, name: str, key: StateKey, value: Tensor) -> None:
        parameter = self._parameters[name]
        check_shape(name, parameter, value)
        if self._stage == 3:
            self._put_partitioned(parameter, key, value)
            return
        if key == "master":
            parameter.data.copy_(value)
        elif self._stage == 0:
            self._optimizer.state[parameter][key].copy_(value)
        if self._stage in (1, 2):
            self._link_states()
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            if mapping is not None:  # None if another rank holds all of it
                address = mapping.lp_fragment_address
                fragment = mapping.get_hp_fragment(None if key == "master" else key)
                fragment.data.copy_(value.flatten()[address.start : address.start + address.numel])

    def _put_partitioned(self, parameter: nn.Parameter, key: StateKey, value: Tensor) -> None:
        optimizer = self._engine.optimizer
        partition, _ = optimizer._get_fp32_opt_state_partition(
            parameter, release_swap_buffers=False, optim_state_key=None if key == "master" else key
        )
        # The flat tensor is padded to a multiple of the world size.
        size = partition.numel()
        padded = torch.zeros(size * self._world.size, dtype=value.dtype)
        padded[: value.numel()] = value.flatten()
        partition.data.copy_(padded[self._world.rank * size : (self._world.rank + 1) * size])
        if key == "master":
            with deepspeed.zero.GatheredParameters(parameter, modifier_rank=0):
                if self._world.is_first:
                    parameter.data.copy_(value)

    def set_step(self, step: int) -> None:
        for state in self._optimizer.state.values():
            # Some of DeepSpeed's optimizers keep the step as a plain number.
            state["step"] = torch.full_like(state["step"], step) if torch.is_tensor(state["step"]) else step
