"""Speeds from two short runs, and a measurement of tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.config.schema import ClassifyConfig, ProposeConfig, RcConfig, RcpConfig
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.launcher.plan import plan_launch
from lmrc.launcher.prediction.amounts import Amount, Documents, StandIn, UnknownAmount, amount_of
from lmrc.launcher.prediction.measure import inference_speed, longer_run, measure, slope_of, training_speed
from lmrc.launcher.prediction.stages import PlannedStage, predict_stages
from lmrc.launcher.stages import CLASSIFY, PROPOSE, RC, RCP
from lmrc.usage.record import Use


def test_what_happens_once_is_no_step() -> None:
    """3 s once, and 2 s per 1e9 FLOPs."""
    short = Use(seconds=17.0, flops=2e9, parts={"start": 9.0, "evaluation": 0.5, "checkpoint": 0.5})
    long = Use(seconds=26.5, flops=8e9, parts={"start": 4.0, "evaluation": 2.5, "checkpoint": 1.0})
    speed = training_speed(short, long, evaluated=5e9)
    assert speed.training == pytest.approx(0.5e9)
    assert (speed.start, speed.forward, speed.save, speed.keep) == (pytest.approx(9 + 3), 2e9, 0.5, 0.5)


def test_a_longer_run_that_took_no_longer_gives_its_mean() -> None:
    assert slope_of((4.0, 2e9), (4.0, 8e9)) == 0.5e-9
    assert slope_of((4.0, 2e9), (10.0, 8e9)) == 1e-9


def test_an_inference_starts_once() -> None:
    small = Amount(flops=2e9, passes=1, layers=2, loaded=0)
    large = Amount(flops=6e9, passes=1, layers=2, loaded=0)
    short = Use(seconds=10.0, parts={"start": 7.0})
    long = Use(seconds=8.0, parts={"start": 1.0})
    speed = inference_speed((short, small, 11.0), (long, large, 9.0))
    assert speed.forward == pytest.approx(1e9)
    assert speed.start == pytest.approx(11.0 - 2.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for part, documents, seed in (("train", 20, 1), ("dev", 4, 2)):
        write_corpus(synthetic.generate(documents, seed), tmp_path / part, synthetic.RELATIONS, part, "0" * 64)
    return tmp_path


def rcp(data: Path, **train: object) -> RcpConfig:
    return RcpConfig.model_validate(
        {
            "run": {"name": "rcp", "folder": data},
            "data": {"train": data / "train", "dev": data / "dev"},
            "model": {"encoder": "embedded:tiny-encoder", "max_length": 512},
            "train": {"epochs": 3, "eval_every": 0, "precision": "fp32", **train},
            "cluster": {"where": "here"},
        }
    )


def rc(data: Path) -> RcConfig:
    return RcConfig.model_validate(
        {
            "run": {"name": "rc", "folder": data},
            "data": {"train": data / "train", "dev": data / "dev"},
            "model": {"base": "embedded:tiny-llm"},
            "train": {"epochs": 2, "precision": "fp32"},
            "cluster": {"where": "here"},
        }
    )


def test_amounts_are_those_of_the_tasks(data: Path) -> None:
    """All documents are in the sample, so that the counts are exact."""
    from lmrc.rc.task import RcTask
    from lmrc.rcp.task import RcpTask

    train, dev = Corpus.open(data / "train"), Corpus.open(data / "dev")
    encoder, found = RcpTask(rcp(data), train, dev), amount_of(rcp(data), 1)
    assert found.flops == pytest.approx(3 * sum(encoder.flops(index) for index in range(len(encoder))))
    assert (found.steps, found.passes, found.evaluations) == (15, 15, 3)
    lm, counted = RcTask(rc(data), train, dev), amount_of(rc(data), 2)
    assert counted.flops == pytest.approx(2 * sum(lm.flops(index) for index in range(len(lm))), rel=1e-6)
    assert counted.steps == 2 * -(-len(lm) // 4)
    # Half of the steps of three epochs.
    assert amount_of(rcp(data, max_steps=7), 1).flops == pytest.approx(found.flops * 7 / 15)


def test_a_corpus_of_an_earlier_step_is_a_share_of_one_that_exists(data: Path) -> None:
    split = rcp(data).model_copy(update={"data": rcp(data).data.model_copy(update={"train": data / "split"})})
    with pytest.raises(UnknownAmount, match="split"):
        amount_of(split, 1)
    half = amount_of(split, 1, {data / "split": StandIn(data / "train", 0.5)})
    assert half.steps == 9
    train = Corpus.open(data / "train")
    documents = Documents(train, 0.25)
    assert [documents[index].title for index in range(5)] == [train[4 * index].title for index in range(5)]


@pytest.mark.parametrize(
    ("seconds", "steps"), [(0.0, 100), (0.1, 100), (2.0, 20), (4.0, 10), (60.0, 10)], ids=lambda value: str(value)
)
def test_fast_trainings_are_measured_over_more_steps(seconds: float, steps: int) -> None:
    assert longer_run((2, 10), seconds) == steps


def test_all_stages_are_measured_and_predicted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmrc.launcher.prediction.measure.STEPS", (1, 3))
    monkeypatch.setattr("lmrc.launcher.prediction.measure.MOST_STEPS", 4)
    propose = ProposeConfig.model_validate(
        {"run": {"name": "p", "folder": data}, "corpus": data / "dev", "rcp": data / "rcp" / "best"}
    )
    classify = ClassifyConfig.model_validate(
        {"run": {"name": "c", "folder": data}, "corpus": data / "dev", "rc": data / "rc" / "best"}
    )
    configs = {RCP: rcp(data), PROPOSE: propose, RC: rc(data), CLASSIFY: classify}
    speeds = measure(configs, {})
    assert set(speeds) == set(configs) and all(speed.training > 0 for speed in speeds.values())
    assert sorted(path.name for path in data.iterdir()) == ["dev", "train"]
    here = {"cluster": rcp(data).cluster}
    plans = [PlannedStage(s.name, plan_launch(s, c.model_copy(update=here))) for s, c in configs.items()]
    predictions = predict_stages(plans, speeds)
    assert [one.unknown for one in predictions] == [""] * 4
    assert all(one.seconds > 0 and one.gpus == 0 for one in predictions)
    # Without a measurement there is nothing to say about CPUs.
    assert all("there is no table for CPUs; add --measure" in one.unknown for one in predict_stages(plans))
