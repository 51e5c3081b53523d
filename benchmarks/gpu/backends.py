"""Checks of determinism, of DeepSpeed's stages, and of Adam's state on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from gpu.check import CheckFailed, CheckSkipped, Machine, require
from gpu.models import (
    RcpTask,
    RcTask,
    SyntheticTask,
    adapted,
    make_lm,
    plain_options,
    small_encoder,
    small_llama,
    train_steps,
)
from torch import Tensor

from lmrc.config.schema import Training
from lmrc.rc.model.lora import DTYPES, load_base
from lmrc.rc.model.packed_attention import IMPLEMENTATION
from lmrc.training import cuda_settings, distributed
from lmrc.training.backends import factory
from lmrc.training.backends.base import STATE_KEYS, Backend, make_optimizer, trained_parameters
from lmrc.training.backends.torch_ddp import TorchDdpBackend
from lmrc.training.task import Task, to_device
from tests.training.toy import ToyTask

STEPS = 20


def _rcp_task(machine: Machine) -> RcpTask:
    return RcpTask(small_encoder(), (60, 90, 120, 200), 8)


def _rc_task(machine: Machine) -> RcTask:
    base = make_lm(small_llama(), machine.device, DTYPES[machine.precision])
    return RcTask(adapted(base), (90, 120, 150, 200))


def determinism(machine: Machine) -> str:
    """Train twice and compare the weights bit by bit, without and with `train.deterministic`."""
    texts = []
    makers: dict[str, Callable[[Machine], SyntheticTask]] = {"RCP": _rcp_task, "RC": _rc_task}
    for name, make in makers.items():
        equal, seconds = {}, {}
        for deterministic in (False, True):
            with cuda_settings.algorithms(deterministic):
                first, _ = _train(machine, make(machine))
                second, seconds[deterministic] = _train(machine, make(machine))
            equal[deterministic] = all(torch.equal(*pair) for pair in zip(first, second, strict=True))
        cost = 100 * (seconds[True] / seconds[False] - 1)
        texts.append(
            f"{name}: {'equal' if equal[False] else 'not equal'}, with train.deterministic "
            f"{'equal' if equal[True] else 'not equal'} ({cost:+.0f} % time)"
        )
        require(equal[True], texts[-1])
    return "; ".join(texts)


def _train(machine: Machine, task: SyntheticTask) -> tuple[list[Tensor], float]:
    """Return the trained weights after some steps, and the seconds of the steps."""
    backend = TorchDdpBackend(task, plain_options(machine), machine.world)
    batch = to_device(task.collate(range(len(task))), machine.device)
    train_steps(backend, [batch], 1)
    steps = 4 if machine.tiny else STEPS
    seconds = machine.seconds(lambda: train_steps(backend, [batch], steps))
    return [parameter.detach() for parameter in trained_parameters(task).values()], seconds


def deepspeed_stages(machine: Machine) -> str:
    """Compare ZeRO 0 to 3 in this process alone with plain torch, and look at the dtypes under ZeRO-3."""
    try:
        from lmrc.training.backends.deepspeed_zero import DeepSpeedZeroBackend
    except Exception as error:
        raise CheckSkipped(f"DeepSpeed cannot be imported: {type(error).__name__}: {error}") from error
    try:
        expected = _losses(TorchDdpBackend(_toy_task(), _toy_options(machine), machine.world), machine)
        for stage in range(4):
            options = _toy_options(machine, backend="deepspeed", zero_stage=stage)
            task = _toy_task()
            backend = DeepSpeedZeroBackend(task, options, machine.world, 1)
            torch.testing.assert_close(_losses(backend, machine), expected, rtol=1e-5, atol=1e-6)
            _round_trip(backend, list(trained_parameters(task)), stage)
            options = options.model_copy(update={"precision": "bf16"})
            losses = _losses(DeepSpeedZeroBackend(_toy_task(), options, machine.world, 1), machine)
            require(bool(losses.isfinite().all()), f"ZeRO {stage} in bf16: losses {losses.tolist()}")
        _require_dtypes(machine)
    except AssertionError as error:
        raise CheckFailed(" ".join(str(error).split())) from error
    finally:
        distributed.destroy_process_group()
    return "ZeRO 0 to 3 equal plain torch; state can be read and set; ZeRO-3 keeps bf16 weights, float32 frequencies"


def _toy_task() -> Task:
    """Return a small task with frozen and trained layers, and two learning rates."""
    return cast(Task, ToyTask())


def _toy_options(machine: Machine, **changes: Any) -> Training:
    return plain_options(machine, precision="fp32", adam_epsilon=1e-6, **changes)


def _losses(backend: Backend, machine: Machine) -> Tensor:
    """Return the losses of five steps."""
    task = _toy_task()
    batches = [to_device(task.collate([step, step + 1]), machine.device) for step in range(5)]
    return torch.stack([loss.float().cpu() for loss in train_steps(backend, batches, 5)])


def _round_trip(backend: Backend, names: Sequence[str], stage: int) -> None:
    """Set each state tensor of a backend and read it again."""
    for name in names:
        for key in STATE_KEYS:
            value = backend.get(name, key) + 1
            backend.put(name, key, value)
            require(torch.equal(backend.get(name, key), value), f"ZeRO {stage}: {key} of {name} is not what was set")
    backend.set_step(7)


def _require_dtypes(machine: Machine) -> None:
    """Load a base in bf16 under ZeRO-3, and check its weights and its rotary frequencies."""
    folder = machine.folder / "zero3-base"
    plain = make_lm(small_llama(), torch.device("cpu"), torch.bfloat16)
    plain.save_pretrained(folder)
    with factory.loading(_toy_options(machine, backend="deepspeed", zero_stage=3), machine.world):
        base = load_base(str(folder), IMPLEMENTATION, "bf16")
    shards = {parameter.ds_tensor.dtype for parameter in base.parameters()}
    require(shards == {torch.bfloat16}, f"ZeRO-3 keeps the base in {shards}")
    frequencies = {name: buffer for name, buffer in base.named_buffers() if name.endswith("inv_freq")}
    require(bool(frequencies), "the base has no rotary frequencies")
    for name, buffer in frequencies.items():
        equal = buffer.dtype == torch.float32 and torch.equal(buffer.cpu(), plain.get_buffer(name))
        require(equal, f"under ZeRO-3 {name} is {buffer.dtype}, or has other values")


def adam_on_device(machine: Machine) -> str:
    """Make fused AdamW for a model on the CPU, move the model, and check where Adam's state is."""
    task = _toy_task()
    optimizer = make_optimizer(task, _toy_options(machine))
    task.model.to(machine.device)
    for _ in range(2):
        batch = to_device(task.collate([0, 1]), machine.device)
        task.loss(task.model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    backend = TorchDdpBackend(_toy_task(), _toy_options(machine), machine.world)
    _losses(backend, machine)
    backend.set_step(7)
    states = [*optimizer.state.values(), *backend._optimizer.state.values()]
    require(bool(states), "Adam has no state")
    devices = {value.device.type for state in states for value in state.values()}
    require(devices == {machine.device.type}, f"Adam's state is on {', '.join(sorted(devices))}")
    steps = {float(state["step"]) for state in backend._optimizer.state.values()}
    require(steps == {7.0}, f"set_step(7) gives the steps {steps}")
    return f"state and step counters on {machine.device.type}"
