"""Prediction of the time, the GPU-hours and the price of stages, from their amount of work and a speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from lmrc.launcher.prediction.amounts import Amount
from lmrc.launcher.prediction.speeds import BACKWARD_LAUNCHES, DISK, FORWARD_LAUNCHES, Speed

# Share of the evaluations that keep new weights (benchmarks/cadence.py).
KEPT_SHARE = 2 / 3


@dataclass(frozen=True)
class Prediction:
    """Seconds of a stage by the clock. `unknown` says why there are none.

    Attributes:
        gpus: GPUs that are held meanwhile.
    """

    name: str
    start: float = 0.0
    work: float = 0.0
    evaluation: float = 0.0
    checkpoint: float = 0.0
    gpus: int = 0
    source: str = ""
    unknown: str = ""

    @property
    def seconds(self) -> float:
        """Return the seconds of the whole stage."""
        return self.start + self.work + self.evaluation + self.checkpoint

    @property
    def gpu_hours(self) -> float:
        """Return the GPU-hours."""
        return self.seconds * self.gpus / 3600


def predict(
    name: str, amount: Amount, speed: Speed, processes: int, gpus: int, checkpoint_minutes: float = 10.0
) -> Prediction:
    """Predict the time of a stage, without waiting for SLURM, interruptions, and an early end by `train.patience`.

    Args:
        processes: ranks or workers; they share the work equally.
        gpus: GPUs of all of them.
        checkpoint_minutes: `train.checkpoint_minutes`.
    """
    start = speed.start + (amount.loaded / speed.load if speed.load else 0.0)
    forward = amount.layers * FORWARD_LAUNCHES * speed.launch
    if not amount.steps:
        reading = max(amount.flops / speed.forward / processes, amount.passes * forward)
        token = max(amount.loaded / speed.weights, forward) if speed.weights else 0.0
        return Prediction(name, start, reading + amount.decode_passes * token, gpus=gpus, source=speed.source)
    both = forward + amount.layers * BACKWARD_LAUNCHES * speed.launch
    work = max(amount.flops / speed.training / processes, amount.passes * both)
    once = max(amount.evaluation_flops / speed.forward / processes, amount.evaluation_passes * forward)
    evaluation = amount.evaluations * once
    keep = amount.saved / DISK if speed.keep is None else speed.keep
    # Weights and two moments are copied before the training goes on. The last checkpoint is waited for.
    save = 3 * amount.saved / DISK if speed.save is None else speed.save
    saves = 1 + int((work + evaluation) / (60 * checkpoint_minutes))
    kept = max(1.0, KEPT_SHARE * amount.evaluations)
    return Prediction(name, start, work, evaluation, saves * save + kept * keep, gpus, speed.source)


def span(seconds: float) -> str:
    """Return a duration such as 42 s, 12 min or 3.5 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def prediction_table(predictions: Sequence[Prediction], price: float | None) -> str:
    """Return the predictions and their sum as text. Stages that run at the same time are summed too.

    Args:
        price: `cluster.gpu_hour_price`.
    """
    on_gpus = any(one.gpus for one in predictions)
    head = ["stage", "time", "start", "work", "evaluations", "saves"]
    head += (["GPUs", "GPU-hours"] + (["price"] if price is not None else [])) if on_gpus else []
    known = [one for one in predictions if not one.unknown]
    rows = [_row(one.name, one, price, on_gpus) for one in known]
    if len(known) > 1:
        hours = sum(one.gpu_hours for one in known)
        cells = ["all", span(sum(one.seconds for one in known)), "", "", "", ""]
        rows.append(cells + _cost("", hours, price) if on_gpus else cells)
    lines = [tabulate([head, *rows], tablefmt="plain", disable_numparse=True)] if rows else []
    lines += [f"{one.name}: no prediction: {one.unknown}" for one in predictions if one.unknown]
    lines += [f"by: {source}" for source in dict.fromkeys(one.source for one in known if one.source)]
    return "\n".join(lines)


def _row(name: str, one: Prediction, price: float | None, on_gpus: bool) -> list[str]:
    cells = [name, *map(span, (one.seconds, one.start, one.work, one.evaluation, one.checkpoint))]
    return cells + _cost(str(one.gpus), one.gpu_hours, price) if on_gpus else cells


def _cost(gpus: str, hours: float, price: float | None) -> list[str]:
    return [gpus, f"{hours:.3g}", *([] if price is None else [f"{hours * price:.2f}"])]
