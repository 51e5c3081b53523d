"""DeepSpeed's settings per ZeRO stage: configs/deepspeed. Readable without DeepSpeed, for the pre-flight."""

from __future__ import annotations

from typing import Any

import yaml

from lmrc.common.errors import ConfigError
from lmrc.common.project import CONFIGS

ZERO_CONFIGS = CONFIGS / "deepspeed"


def read_zero_config(stage: int) -> dict[str, Any]:
    """Return the settings of configs/deepspeed/zero<stage>.yaml.

    Raises:
        ConfigError: the file is missing, or sets what the loop sets itself.
    """
    path = ZERO_CONFIGS / f"zero{stage}.yaml"
    if not path.is_file():
        raise ConfigError(f"train.zero_stage is {stage}, but {path} is missing: restore it, or choose another stage")
    settings: dict[str, Any] = yaml.safe_load(path.read_text())
    ours = {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"}
    doubled = sorted((ours | {"bf16", "fp16", "optimizer", "scheduler"}) & settings.keys())
    if doubled:
        raise ConfigError(
            f"{path} sets {', '.join(doubled)}: these follow from the options in train; remove them there"
        )
    if settings.get("zero_optimization", {}).get("stage") != stage:
        raise ConfigError(f"{path} must have zero_optimization.stage: {stage}")
    return settings
