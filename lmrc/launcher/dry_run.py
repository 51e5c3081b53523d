"""The text of --dry-run: what a launch would do, without doing it. The pre-flight first, the resolved config last."""

from __future__ import annotations

import click
import yaml

from lmrc.common.errors import ConfigError, CorpusError, UserError
from lmrc.config.schema import PromptKind, RcConfig, RcpConfig
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.types import Document
from lmrc.launcher.plan import LaunchPlan
from lmrc.launcher.preflight import examine, refuse, show_checks
from lmrc.launcher.slurm.submit import sbatch_script
from lmrc.launcher.stages import Stage, StageConfig
from lmrc.rc.prompts.templates import PROMPTS


def dry_run(stage: Stage, config: StageConfig) -> None:
    """Print what a launch would do. Raises UserError, after all is printed, if it would be refused."""
    plan, checks = examine(stage, config)
    show_checks([check for check in checks if check.level != "missing"])
    if plan is not None:
        verb = "be submitted to" if plan.place == "slurm" else "run on"
        click.echo(f"\nWould {verb} {plan.where}.")
        if isinstance(plan.config, (RcpConfig, RcConfig)):
            click.echo(_steps(plan.config, plan.processes))
            click.echo(_memory(plan.config, plan.processes))
        if plan.place == "slurm":
            click.echo(f"\n{_script(plan)}")
        config = plan.config
    click.echo(f"\nThe resolved config:\n\n{yaml.safe_dump(config.model_dump(mode='json'), sort_keys=False)}")
    refuse(checks)


def _script(plan: LaunchPlan) -> str:
    try:
        return f"The script:\n\n{sbatch_script(plan.stage, plan.config)}"
    except ConfigError:
        return "No script: see the reasons below."


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
        return f"Steps: unknown until the training corpus is there.\n{batch}"
    examples, qualifier = len(corpus), ""
    if isinstance(config, RcConfig):
        # One query per document is the least; long documents and many pairs make more of them.
        examples, qualifier = sum(1 for document in corpus if _asks(document, config.prompt.kind)), "at least "
    steps = total_steps(examples, options)
    return (
        f"Steps: {qualifier}{steps:,} ({examples:,} examples in {config.data.train}, {options.epochs} epochs).\n{batch}"
    )


def _asks(document: Document, kind: PromptKind) -> bool:
    return document.labels is not None and bool(PROMPTS[kind].pairs(document))


def _memory(config: RcpConfig | RcConfig, processes: int) -> str:
    from lmrc.launcher.gpu_memory import estimate_rc, estimate_rcp

    try:
        estimate = estimate_rcp(config, processes) if isinstance(config, RcpConfig) else estimate_rc(config, processes)
    except UserError:
        return "No estimate of memory: see the reasons below."
    return estimate.table()
