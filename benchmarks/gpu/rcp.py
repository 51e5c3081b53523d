"""Checks of RCP: numbers on the GPU equal those of the CPU, and the time and memory of a training step."""

from __future__ import annotations

import torch
from gpu.check import Machine, relative_error, require
from gpu.models import RcpTask, encoder, plain_options, small_encoder, train_steps
from launches import DOCUMENTS, ENTITIES
from torch import Tensor

from lmrc.config.schema import RcpConfig, RcpTraining, ResolvedPrecision
from lmrc.corpus.types import Document
from lmrc.launcher.gpu_memory import CONTEXT, GIB, estimate_memory
from lmrc.rcp.data.tokenization import DocumentTokenizer
from lmrc.rcp.model.losses import training_loss
from lmrc.rcp.model.model import RelationCandidateModel
from lmrc.training.backends.torch_ddp import TorchDdpBackend
from lmrc.training.precision import autocast
from lmrc.training.task import to_device
from tests.rcp import tiny

FP32_ERROR, BF16_ERROR = 1e-4, 5e-2
# Positions per window: documents of 40 words take two.
POSITIONS = 48


def _documents() -> dict[str, Document]:
    # In the last one, two windows do not hold all mentions: an entity has none.
    return {
        "one window": tiny.document(15, [1, 3, 2, 1], seed=1),
        "two windows": tiny.document(40, [1, 4, 2, 7, 1], seed=2),
        "60 entities": tiny.document(25, [1 + index % 3 for index in range(60)], seed=5),
        "entity without mention": tiny.document(120, [1, 2, 6, 1, 3, 1], seed=3),
    }


def _model() -> RelationCandidateModel:
    return RelationCandidateModel(small_encoder(32, POSITIONS, dropout=0.0))


def rcp_correctness(machine: Machine) -> str:
    """Compare logits, loss and gradient norms with those of float64 on the CPU."""
    worst: dict[str, float] = {"fp32": 0.0, "bf16": 0.0}
    reference, model = _model().double(), _model().to(machine.device)
    tokenizer = DocumentTokenizer(tiny.tokenizer("roberta"), model.max_length)
    encoded = {name: tokenizer.encode(document) for name, document in _documents().items()}
    require(() in encoded["entity without mention"].marker_positions, "no entity without a mention")
    for name, document in encoded.items():
        batch = dict(reference.collate([document]))
        batch["targets"] = (torch.arange(document.num_pairs) % 3 == 0).float()
        expected = _run(reference, batch, "fp32")
        precisions: tuple[tuple[ResolvedPrecision, float], ...] = (("fp32", FP32_ERROR), ("bf16", BF16_ERROR))
        for precision, limit in precisions:
            actual = _run(model, to_device(batch, machine.device), precision)
            error = max(relative_error(*pair) for pair in zip(actual, expected, strict=True))
            worst[precision] = max(worst[precision], error)
            require(error < limit, f"{name}, {precision}: off by {error:.1e}, more than {limit:g}")
    return f"logits, loss and gradient norms off by {worst['fp32']:.1e} in fp32, {worst['bf16']:.1e} in bf16"


def _run(model: RelationCandidateModel, batch: dict[str, Tensor], precision: ResolvedPrecision) -> list[Tensor]:
    """Return the logits, the mean loss, and the gradient norm of each parameter."""
    model.zero_grad()
    with autocast(precision, batch["targets"].device.type):
        outputs = model(batch)
        loss = training_loss(outputs, batch, RcpTraining()) / len(batch["targets"])
    loss.backward()  # type: ignore[no-untyped-call]
    norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
    return [outputs, loss[None], torch.stack(norms)]


def rcp_speed(machine: Machine) -> str:
    """Time training steps of RoBERTa-large, and compare their memory with the estimate.

    The host must not wait for the device in a forward and backward pass.
    """
    lengths = (40, 50, 60, 90) if machine.tiny else DOCUMENTS
    task = RcpTask(encoder(machine), lengths, 4 if machine.tiny else ENTITIES)
    backend = TorchDdpBackend(task, plain_options(machine), machine.world)
    batch = to_device(task.collate(range(len(lengths))), machine.device)
    train_steps(backend, [batch], 3)
    steps = 2 if machine.tiny else 50

    def train() -> None:
        train_steps(backend, [batch], steps)

    times: list[float] = []
    peak = machine.peak_bytes(lambda: times.append(machine.seconds(train) / steps))
    with machine.no_waits():
        backend.backward(backend.loss(batch))
    backend.step(0.0)
    kernels = machine.profile(lambda: train_steps(backend, [batch], 1))
    busy = sum(time for _, time in kernels) / 1e6 / times[0]
    text = f"{1000 * times[0]:.1f} ms a step, {len(kernels)} calls"
    if not machine.has_gpu:
        return text
    folder = machine.folder / "roberta-large"
    task.model.encoder.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
    options = {"backend": "torch", "precision": "bf16", "micro_batch_size": 4}
    config = RcpConfig.model_validate({"model": {"encoder": str(folder)}, "train": options})
    # torch does not count CUDA's context.
    estimate = estimate_memory(config, 1).total - CONTEXT
    text += f", GPU busy {100 * busy:.0f} %, peak {peak / GIB:.2f} GiB, at most {estimate / GIB:.2f} estimated"
    require(peak <= estimate, text)
    return text
