from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.common.errors import ConfigError
from lmrc.config.schema import Training
from lmrc.training.backends import zero_config
from lmrc.training.backends.base import scale_rates, trained_parameters
from lmrc.training.backends.deepspeed_zero import deepspeed_config
from lmrc.training.backends.torch_ddp import TorchDdpBackend
from lmrc.training.backends.zero_config import read_zero_config
from lmrc.training.distributed import ALONE
from tests.training.toy import ToyTask

OPTIONS = Training(precision="fp32")


def test_every_group_keeps_its_own_peak() -> None:
    backend = TorchDdpBackend(ToyTask(), OPTIONS, ALONE)
    scale_rates(backend._optimizer, 0.5)
    assert [group["lr"] for group in backend._optimizer.param_groups] == [0.5e-2, 1.5e-2]


def test_only_what_needs_a_gradient_is_trained() -> None:
    assert list(trained_parameters(ToyTask())) == ["first.weight", "first.bias", "second.weight", "second.bias"]


@pytest.mark.parametrize("stage", range(4))
def test_configs_pass_deepspeeds_own_validator(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    monkeypatch.setenv("WORLD_SIZE", "1")
    given = deepspeed_config(OPTIONS.model_copy(update={"zero_stage": stage}), ALONE, micro_batches=3)
    read = DeepSpeedConfig(given)
    assert read.zero_optimization_stage == stage
    assert read.gradient_accumulation_steps == 3
    assert read.gradient_clipping == 1.0


def test_a_zero_config_must_not_say_what_the_options_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_config, "ZERO_CONFIGS", tmp_path)
    with pytest.raises(ConfigError, match=r"zero2\.yaml is missing"):
        read_zero_config(2)
    (tmp_path / "zero2.yaml").write_text("zero_optimization: {stage: 2}\ngradient_clipping: 3\nbf16: {enabled: true}\n")
    with pytest.raises(ConfigError, match="sets bf16, gradient_clipping: these follow from the options in train"):
        read_zero_config(2)
    (tmp_path / "zero2.yaml").write_text("zero_optimization: {stage: 1}\n")
    with pytest.raises(ConfigError, match=r"must have zero_optimization\.stage: 2"):
        read_zero_config(2)
