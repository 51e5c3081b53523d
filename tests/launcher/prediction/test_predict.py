"""The arithmetic of predictions, with amounts and speeds whose times can be computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmrc.launcher.prediction.amounts import Amount, evaluation_count
from lmrc.launcher.prediction.predict import Prediction, predict, prediction_table, span
from lmrc.launcher.prediction.speeds import BACKWARD_LAUNCHES, FORWARD_LAUNCHES, Speed, table_speed
from lmrc.usage.gpus import known_gpu

TRAINING = Amount(
    flops=8e15,
    passes=100,
    layers=24,
    loaded=2e9,
    steps=100,
    evaluations=3,
    evaluation_flops=4e14,
    evaluation_passes=10,
    saved=1e9,
)
SPEED = Speed(training=1e12, forward=2e12, start=60.0, load=1e9, save=5.0, keep=2.0, source="by hand")


def test_a_training_on_four_gpus() -> None:
    """8e15 FLOPs at 1e12 on 4 GPUs are 2,000 s, with three evaluations of 50 s and a checkpoint each ten minutes."""
    found = predict("rcp", TRAINING, SPEED, processes=4, gpus=4, checkpoint_minutes=10.0)
    assert (found.start, found.work, found.evaluation) == (62.0, 2000.0, 150.0)
    assert found.checkpoint == (1 + 3) * 5 + 2 * 2
    assert found.seconds == 62 + 2000 + 150 + 24
    assert found.gpu_hours == 4 * found.seconds / 3600


def test_a_step_takes_as_long_as_the_host_needs() -> None:
    slow = replace(SPEED, launch=1e-3)
    found = predict("rcp", TRAINING, slow, processes=1000, gpus=1000)
    assert found.work == pytest.approx(100 * 24 * (FORWARD_LAUNCHES + BACKWARD_LAUNCHES) * 1e-3)
    assert found.evaluation == pytest.approx(3 * 10 * 24 * FORWARD_LAUNCHES * 1e-3)


def test_checkpoints_of_a_table_are_computed_from_their_bytes() -> None:
    found = predict("rcp", TRAINING, replace(SPEED, save=None, keep=None), 4, 4)
    assert found.checkpoint == 4 * 3 * 1.0 + 2 * 1.0


def test_generated_tokens_read_all_weights() -> None:
    amount = Amount(flops=1e15, passes=10, layers=40, loaded=26e9, decode_passes=1000)
    found = predict("classify", amount, replace(SPEED, weights=2e12), processes=2, gpus=2)
    assert found.work == pytest.approx(1e15 / 2e12 / 2 + 1000 * 26e9 / 2e12)
    # A measured speed includes them.
    assert predict("classify", amount, SPEED, 2, 2).work == pytest.approx(250.0)


@pytest.mark.parametrize(
    ("steps", "every", "start", "expected"), [(30, 0, False, 3), (25, 0, False, 3), (30, 4, False, 9), (30, 0, True, 4)]
)
def test_number_of_evaluations(steps: int, every: int, start: bool, expected: int) -> None:
    """With 10 steps an epoch: 10, 20, 30; and with one every 4 steps also 4, 8, 12, 16, 24, 28 (20 is both)."""
    assert evaluation_count(steps, 10, every, start) == expected


def test_table_of_known_gpus() -> None:
    h100, a100, l4 = (known_gpu(name) for name in ("h100", "a100_80gb", "l4"))
    assert h100 is not None and a100 is not None and l4 is not None
    assert table_speed(h100, is_encoder=False).training == pytest.approx(0.406 * 989e12)
    assert table_speed(a100, is_encoder=True).training == pytest.approx(0.451 * 312e12)
    assumed = table_speed(l4, is_encoder=True)
    assert assumed.training == pytest.approx(0.404 * 121e12) and "assumed as on an H100" in assumed.source
    assert "assumed" not in table_speed(a100, is_encoder=True).source


def test_text() -> None:
    one = Prediction("rcp", start=60, work=3000, evaluation=500, checkpoint=40, gpus=8, source="table")
    none = Prediction("classify", unknown="there is no table for vLLM")
    lines = prediction_table([one, replace(one, name="rc"), none], 2.0).splitlines()
    assert " ".join(lines[1].split()) == "rcp 60 min 60 s 50 min 8 min 40 s 8 8 16.00"
    assert lines[3].split() == ["all", "2.0", "h", "16", "32.00"]
    assert lines[4:] == ["classify: no prediction: there is no table for vLLM", "by: table"]
    assert "price" not in prediction_table([one], None) and "all" not in prediction_table([one], None)
    assert "GPU" not in prediction_table([replace(one, gpus=0)], 2.0)


def test_durations() -> None:
    assert [span(seconds) for seconds in (0.4, 99, 100, 5900, 7200)] == ["0 s", "99 s", "2 min", "98 min", "2.0 h"]
