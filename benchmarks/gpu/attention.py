"""Checks of attention: cuDNN is off, and packed sequences equal single ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from gpu.check import Machine, relative_error, require
from gpu.models import RcTask, adapted, logits_of, make_lm, small_llama
from peft import PeftModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmrc.config.schema import ResolvedPrecision
from lmrc.pretrained import weights  # noqa: F401 - switches cuDNN's attention off
from lmrc.rc.data.collate import collate
from lmrc.rc.prompts.query_builder import Example
from lmrc.training.precision import autocast
from lmrc.training.task import to_device

# Largest errors as a share of the norm. bfloat16 has 8 bits, and a wrong mask is off by more than half of the norm.
FP32_ERROR, BF16_ERROR = 1e-4, 1e-1
# A plan of cuDNN takes at least this many times as long as a call without one.
PLAN_RATIO = 10


def cudnn_plans(machine: Machine) -> str:
    """Check that the suite leaves cuDNN's attention off, and time what it would cost.

    Each call has another length in a tensor of another length, like the windows of RCP.
    """
    enabled = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    require(not enabled, "the suite leaves cuDNN's attention on")
    off, _ = _time_calls(machine, 5 if machine.tiny else 200)
    if not machine.has_gpu:
        return f"off; {1000 * off:.2f} ms a call with new shapes on the CPU"
    before = _resident_megabytes()
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        # A call takes up to 40 ms, so that not all of them fit into the limit of this check.
        on, calls = _time_calls(machine, 2000, seconds=35.0)
    grown = _resident_megabytes() - before
    text = (
        f"off {1000 * off:.2f} ms a call, on {1000 * on:.2f} ms ({on / off:.0f} x), {calls} calls took {grown:.0f} MB"
    )
    return text if on > PLAN_RATIO * off else f"{text}; fewer than the expected {PLAN_RATIO} x"


def _time_calls(machine: Machine, calls: int, seconds: float = 10.0) -> tuple[float, int]:
    """Run forward and backward passes of windows with new shapes, until `seconds` are over.

    Returns:
        Seconds per call, and number of calls.
    """
    generator = random.Random(0)
    dtype = torch.bfloat16 if machine.has_gpu else torch.float32
    totals = [generator.randrange(600, 2400) if not machine.tiny else generator.randrange(40, 80) for _ in range(50)]

    def call() -> None:
        total = generator.choice(totals)
        packed = torch.randn(3, 1, 16, total, 64, dtype=dtype, device=machine.device, requires_grad=True)
        length = generator.randrange(total // 8, total // 4)
        query, key, value = packed[:, :, :, :length].unbind()
        F.scaled_dot_product_attention(query, key, value).sum().backward()  # type: ignore[no-untyped-call]

    call()
    spent, done = 0.0, 0
    while done < calls and spent < seconds:
        spent += machine.seconds(call)
        done += 1
    return spent / done, done


def _resident_megabytes() -> float:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def rc_packing(machine: Machine) -> str:
    """Compare packed queries with each query alone in float64: logits, and gradients of the adapter.

    With and without a shared prefix, with and without grouped heads, in float32 and bfloat16. On a GPU, bfloat16 must
    run flash attention.
    """
    worst = {"fp32": 0.0, "bf16": 0.0}
    for key_heads in (4, 2):
        config = small_llama(key_heads=key_heads)
        reference = adapted(make_lm(config, torch.device("cpu"), torch.float32), dropout=0.0).double()
        reference.get_base_model().set_attn_implementation("sdpa")
        model = adapted(make_lm(config, torch.device("cpu"), torch.float32), dropout=0.0).to(machine.device)
        examples = RcTask(model, (97, 130, 64, 201)).examples
        for queries in (examples, examples[:1]):
            case = f"{key_heads} key heads, {len(queries)} queries"
            for name, error in _errors(machine, reference, model, queries, case).items():
                worst[name] = max(worst[name], error)
    kernels = "flash attention for 1 and 4 queries" if machine.has_gpu else "no GPU kernels"
    return f"logits and gradients off by {worst['fp32']:.1e} in fp32, {worst['bf16']:.1e} in bf16; {kernels}"


def _errors(
    machine: Machine, reference: PeftModel, model: PeftModel, queries: Sequence[Example], case: str
) -> dict[str, float]:
    """Return the largest error in each precision."""
    errors: dict[str, float] = {}
    batch = to_device(dict(collate(queries)), machine.device)

    def packed(precision: ResolvedPrecision) -> Tensor:
        with autocast(precision, machine.device.type):
            return logits_of(model, batch)

    expected = _run(reference, lambda: _alone(reference, queries))
    precisions: tuple[tuple[ResolvedPrecision, float], ...] = (("fp32", FP32_ERROR), ("bf16", BF16_ERROR))
    for precision, limit in precisions:
        actual = _run(model, partial(packed, precision))
        error = max(relative_error(*pair) for pair in zip(actual, expected, strict=True))
        require(error < limit, f"{case}, {precision}: off by {error:.1e}, more than {limit:g}")
        errors[precision] = error
    if machine.has_gpu:
        _require_flash(machine, lambda: _run(model, partial(packed, "bf16")), case)
    return errors


def _alone(model: PeftModel, examples: Sequence[Example]) -> Tensor:
    """Return the logits of the answers, with a forward pass of transformers per query."""
    parts = []
    for example in examples:
        logits = model(input_ids=example.input_ids.long()[None]).logits[0]
        parts.append(logits[example.prompt_tokens - 1 : -1])
    return torch.cat(parts)


def _run(model: PeftModel, forward: Callable[[], Tensor]) -> list[Tensor]:
    """Return the logits and the gradient of each adapter weight for a fixed loss."""
    model.zero_grad()
    logits = forward()
    weight = torch.linspace(-1, 1, logits.shape[1], dtype=logits.dtype, device=logits.device)
    ((logits * weight).sum(1) ** 2).mean().backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    return [logits, torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])]


def _require_flash(machine: Machine, step: Callable[[], object], case: str) -> None:
    names = [name for name, _ in machine.profile(step)]
    attention = sorted({name[:80] for name in names if "flash" in name.lower() or "fmha" in name.lower()})
    require(any("flash" in name.lower() for name in attention), f"{case}: no flash attention, but {attention}")
    require(not any("fmha_cutlass" in name for name in attention), f"{case}: memory-efficient attention: {attention}")
