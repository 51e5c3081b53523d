"""Predictions for the launchers and the pipeline: which stage runs where, and by which speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmrc.common.errors import UserError
from lmrc.config.schema import ClassifyConfig, ProposeConfig, RcConfig, RcpConfig, SplitConfig
from lmrc.corpus.folds import HELD_OUT, TRAIN
from lmrc.launcher.plan import LaunchPlan
from lmrc.launcher.prediction.amounts import StandIn, UnknownAmount, amount_of
from lmrc.launcher.prediction.predict import Prediction, predict, prediction_table
from lmrc.launcher.prediction.speeds import Speed, table_speed
from lmrc.launcher.preflight.training import gpu_of
from lmrc.launcher.stages import FOLDS, LM_PARTS, RCP, Stage, StageConfig, gpus_per_process
from lmrc.usage.gpus import known_gpu

PREDICTED = (RcpConfig, RcConfig, ProposeConfig, ClassifyConfig)
NOTE = (
    "Without the wait for SLURM and interruptions. train.patience may end a training earlier. Candidates are taken to "
    "be as many as the pairs with a relation."
)


@dataclass(frozen=True)
class PlannedStage:
    """A stage that is to run.

    Attributes:
        name: its name in the table.
        plan: where it runs.
    """

    name: str
    plan: LaunchPlan


def predict_stages(
    stages: Sequence[PlannedStage],
    speeds: Mapping[Stage, Speed] | None = None,
    corpora: Mapping[Path, StandIn] | None = None,
) -> list[Prediction]:
    """Predict each stage that uses GPUs, by measured speeds or by the table.

    Args:
        speeds: measured on this machine.
        corpora: corpora that stand for those that an earlier step writes.
    """
    models = {stage.plan.config.run.folder / stage.plan.config.run.name / "best": stage.plan.config for stage in stages}
    found = []
    for stage in stages:
        config = stage.plan.config
        if isinstance(config, PREDICTED):
            try:
                found.append(_predict(stage, config, speeds, corpora or {}, _trained_by(config, models)))
            except UnknownAmount as reason:
                found.append(Prediction(stage.name, unknown=str(reason)))
    return found


def _trained_by(config: StageConfig, models: Mapping[Path, StageConfig]) -> RcpConfig | RcConfig | None:
    """Return the training of an inference's model by an earlier step; None without one."""
    trained = None
    if isinstance(config, ProposeConfig):
        trained = models.get(config.rcp)
    elif isinstance(config, ClassifyConfig) and config.rc is not None:
        trained = models.get(config.rc)
    return trained if isinstance(trained, RcpConfig | RcConfig) else None


def _predict(
    stage: PlannedStage,
    config: RcpConfig | RcConfig | ProposeConfig | ClassifyConfig,
    speeds: Mapping[Stage, Speed] | None,
    corpora: Mapping[Path, StandIn],
    trained: RcpConfig | RcConfig | None,
) -> Prediction:
    plan = stage.plan
    name = gpu_of(plan)
    count = plan.processes if plan.stage.trains else min(plan.processes, config.cluster.max_running or plan.processes)
    gpus = count * gpus_per_process(config) if name or plan.executor == "slurm" else 0
    if speeds is not None:
        speed = speeds[plan.stage]
    else:
        gpu = known_gpu(name)
        if gpu is None:
            raise UnknownAmount(_why_unknown(name, plan))
        if isinstance(config, ClassifyConfig) and config.asks_lm and config.decode.backend == "vllm":
            raise UnknownAmount("there is no table for vLLM; add --measure, which runs a few documents here")
        speed = table_speed(gpu, plan.stage is RCP or isinstance(config, ProposeConfig))
    amount = amount_of(config, count, corpora, trained)
    minutes = config.train.checkpoint_minutes if isinstance(config, RcpConfig | RcConfig) else 10.0
    return predict(stage.name, amount, speed, count, gpus, minutes)


def _why_unknown(gpu: str, plan: LaunchPlan) -> str:
    if plan.executor == "slurm":
        return f"the speed of {gpu} is not in the table" if gpu else "the GPUs' type is not known: give --gpu-type"
    where = f"the speed of {gpu} is not in the table" if gpu else "there is no table for CPUs"
    return f"{where}; add --measure, which runs a few steps here"


def predicted(
    stages: Sequence[PlannedStage], measured: bool, price: float | None, corpora: Mapping[Path, StandIn] | None = None
) -> str:
    """Return the predictions as text.

    Args:
        measured: run the stages here for a few steps or documents first.

    Raises:
        UserError: they do not run here, or an input is missing.
    """
    own = [stage for stage in stages if isinstance(stage.plan.config, PREDICTED)]
    if not own:
        return "No prediction: no stage uses GPUs."
    speeds = None
    if measured:
        from lmrc.launcher.prediction.measure import measure

        elsewhere = [stage.name for stage in own if stage.plan.executor == "slurm" and not has_gpu_of(stage.plan)]
        if elsewhere:
            raise UserError(
                f"--measure runs a few steps on this machine, which has not the GPUs that {', '.join(elsewhere)} will "
                "have: give it in an interactive job on such a node, or leave it out and use the table"
            )
        speeds = measure({stage.plan.stage: stage.plan.config for stage in reversed(own)}, corpora or {})
    table = prediction_table(predict_stages(own, speeds, corpora), price)
    return f"Predicted:\n\n{table}\n{NOTE}"


def has_gpu_of(plan: LaunchPlan) -> bool:
    """Return True if this machine has a GPU of the kind that the stage gets."""
    import torch

    if not torch.cuda.is_available():
        return False
    here, there = known_gpu(torch.cuda.get_device_properties(0).name), known_gpu(gpu_of(plan))
    return here is not None and here == there


def parts_of(splits: Sequence[SplitConfig]) -> dict[Path, StandIn]:
    """Return stand-ins for the corpora that the split steps of a pipeline will write."""
    found = {}
    for split in splits:
        home = split.run.folder / split.run.name
        shares = {home / FOLDS / str(fold): 1 / split.folds for fold in range(split.folds)}
        for folder, share in {**shares, home / LM_PARTS: 1 / split.held_out}.items():
            found[folder / HELD_OUT] = StandIn(split.corpus, share)
            found[folder / TRAIN] = StandIn(split.corpus, 1 - share)
    return found
