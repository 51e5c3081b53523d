"""DeepSpeed's settings per ZeRO stage, in configs/deepspeed. The pre-flight reads them without DeepSpeed."""

from __future__ import annotations

from typing import Any

import yaml

from lmrc.common.errors import ConfigError
from lmrc.common.project import CONFIGS

ZERO_CONFIGS = CONFIGS / "deepspeed"


def read_zero_config(stage: int) -> dict[str, Any]:
    """Return the settings of configs/deepspeed/zero<stage>.yaml.

    Raises:
        ConfigError: The file is missing, is for another stage, or sets options that follow from the section train.
    """
    path = ZERO_CONFIGS / f"zero{stage}.yaml"
    if not path.is_file():
        raise ConfigError(f"train.zero_stage is {stage}, but {path} is missing: restore it, or choose another stage")
    settings: dict[str, Any] = yaml.safe_load(path.read_text())
    from_options = {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    }
    repeated = sorted((from_options | {"bf16", "fp16", "optimizer", "scheduler"}) & settings.keys())
    if repeated:
        raise ConfigError(
            f"{path} sets {', '.join(repeated)}: these follow from the options in train; remove them there"
        )
    if settings.get("zero_optimization", {}).get("stage") != stage:
        raise ConfigError(f"{path} must have zero_optimization.stage: {stage}")
    return settings
