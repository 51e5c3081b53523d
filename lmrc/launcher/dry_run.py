"""--dry-run: print the pre-flight, steps, memory, predicted time, the sbatch script and the resolved config."""

from __future__ import annotations

import click
import yaml

from lmrc.common.errors import ConfigError, CorpusError, UserError
from lmrc.config.schema import ClassifyConfig, PromptKind, RcConfig, RcpConfig
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.types import Document
from lmrc.launcher.plan import LaunchPlan
from lmrc.launcher.prediction.stages import PlannedStage, predicted
from lmrc.launcher.preflight import examine, refuse, show_checks
from lmrc.launcher.slurm.submit import sbatch_script
from lmrc.launcher.stages import Stage, StageConfig
from lmrc.rc.prompts.templates import PROMPTS


def dry_run(stage: Stage, config: StageConfig, measure: bool = False) -> None:
    """Print what a launch would do.

    Args:
        measure: predict the time from a few steps on this machine.

    Raises:
        UserError: the launch would be refused. Everything is printed first.
    """
    plan, checks = examine(stage, config)
    show_checks([check for check in checks if check.level != "missing"])
    if plan is not None:
        verb = "be submitted to" if plan.executor == "slurm" else "run on"
        click.echo(f"\nWould {verb} {plan.description}.")
        if isinstance(plan.config, (RcpConfig, RcConfig)):
            click.echo(_steps(plan.config, plan.processes))
        if isinstance(plan.config, (RcpConfig, RcConfig, ClassifyConfig)):
            click.echo(_memory(plan.config, plan.processes))
        if not any(check.level == "missing" for check in checks):
            stages = [PlannedStage(stage.name, plan)]
            click.echo(f"\n{predicted(stages, measure, plan.config.cluster.gpu_hour_price)}")
        if plan.executor == "slurm":
            click.echo(f"\n{_script(plan)}")
        config = plan.config
    click.echo(f"\nThe resolved config:\n\n{yaml.safe_dump(config.model_dump(mode='json'), sort_keys=False)}")
    refuse(checks)


def _script(plan: LaunchPlan) -> str:
    try:
        return f"The script:\n\n{sbatch_script(plan.stage, plan.config)}"
    except ConfigError:
        return "No script: see the errors below."


def _steps(config: RcpConfig | RcConfig, processes: int) -> str:
    from lmrc.training.sampler import MicroBatches
    from lmrc.training.trainer import total_steps

    options = config.train
    size = options.examples_per_step
    passes = MicroBatches.plan(0, processes, size, options.micro_batch_size)
    share = f"{'at most ' if size % processes else ''}{-(-size // processes)} per process"
    batch = (
        f"Each step: {size} examples on {processes} process{'es' if processes > 1 else ''}, {share}, in {passes.count} "
        f"forward pass{'es' if passes.count > 1 else ''} of at most {passes.size}."
    )
    try:
        corpus = Corpus.open(config.data.train)
    except CorpusError:
        return f"Steps: unknown until the training corpus exists.\n{batch}"
    examples, qualifier = len(corpus), ""
    if isinstance(config, RcConfig):
        # A lower bound: long documents and many pairs need several queries.
        examples, qualifier = sum(1 for document in corpus if _has_query(document, config.prompt.kind)), "at least "
    steps = total_steps(examples, options)
    return (
        f"Steps: {qualifier}{steps:,} ({examples:,} examples in {config.data.train}, {options.epochs} epochs).\n{batch}"
    )


def _has_query(document: Document, kind: PromptKind) -> bool:
    return document.labels is not None and bool(PROMPTS[kind].pairs(document))


def _memory(config: RcpConfig | RcConfig | ClassifyConfig, processes: int) -> str:
    from lmrc.launcher.gpu_memory import estimate_classify, estimate_memory

    try:
        if isinstance(config, (RcpConfig, RcConfig)):
            return estimate_memory(config, processes).table()
        if not config.asks_lm:
            return "memory per GPU: none, no LM is asked"
        if config.decode.backend == "openai":
            return "memory per GPU: none, the server has the LM"
        if config.decode.backend == "vllm":
            return "memory per GPU: vLLM takes 90 % of it, and uses for KV caches all that the weights leave"
        return estimate_classify(config).table()
    except UserError:
        return "No memory estimate: see the errors below."
