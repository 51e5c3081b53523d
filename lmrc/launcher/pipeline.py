"""The pipeline: all steps in one folder, as dependent SLURM jobs, or one after the other on this machine.

Each step is a run of its own below runs/NAME/. The command can be repeated: finished steps are skipped, and new jobs
depend on those that are already queued or running.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lmrc.common import threads
from lmrc.common.check import Check, missing
from lmrc.common.errors import RunError
from lmrc.common.exit_codes import exit_status
from lmrc.common.logging import set_up_logging, set_up_stage_logging
from lmrc.config.loader import parse, split_flags, table
from lmrc.config.schema import PipelineConfig
from lmrc.launcher.batch import with_recorded_batch_size
from lmrc.launcher.chain import Step, is_on_slurm, steps
from lmrc.launcher.launch import ALIASES, PRESETS, launch, with_run_name
from lmrc.launcher.plan import LaunchPlan, plan_launch
from lmrc.launcher.preflight import examine, refuse, show_checks
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.submit import active_jobs, submit
from lmrc.runs.run_folder import RunFolder

# `rcp: redocred` stands for configs/rcp/redocred.yaml, so that a pipeline config does not repeat its stages' options.
PARTS = {"cluster": PRESETS, **{part: PRESETS.parent / part for part in ("rcp", "rc")}}
FLAGS = ("--dry-run",)


def read_pipeline(arguments: Sequence[str]) -> PipelineConfig:
    """Return the pipeline's config from the command line."""
    config, file = parse(PipelineConfig, arguments, ALIASES, PARTS, FLAGS)
    return config.model_copy(update={"run": with_run_name(config.run, "pipeline", file)})


def run_here(chain: Sequence[Step]) -> None:
    """Run the unfinished steps on this machine, in order."""
    check_pipeline(chain)
    for step in chain:
        launch(step.stage, step.config)


def check_pipeline(chain: Sequence[Step], dry: bool = False) -> dict[str, LaunchPlan]:
    """Run the pre-flight of every step that is neither finished nor submitted.

    Returns:
        The launch plan of each of these steps.

    Raises:
        UserError: something is missing for any of them. The message lists everything.
    """
    plans: dict[str, LaunchPlan] = {}
    reasons: list[Check] = []
    outputs: set[Path] = set()
    for step in chain:
        outputs |= set(step.outputs)
        if step.folder.result() is not None or _active(step):
            continue
        plan, checks = examine(step.stage, step.config, frozenset(outputs - set(step.outputs)))
        if plan is not None:
            plans[step.name] = plan
        for check in checks:
            if check.level == "missing":
                reasons.append(missing(f"{step.name}: {check.what}", check.remedy))
        shown = [check for check in checks if check.level == "warning" or dry or is_slurm(plan)]
        if shown:
            print(f"{step.name}:", flush=True)
            show_checks(shown)
    refuse(reasons)
    return plans


def name_width(chain: Sequence[Step]) -> int:
    """Return the width of the column of names."""
    return max(len(step.name) for step in chain) + 1


def is_slurm(plan: LaunchPlan | None) -> bool:
    """Return True if the step is submitted, or if there is no plan yet."""
    return plan is None or plan.executor == "slurm"


def _active(step: Step) -> list[slurm.SlurmJob]:
    """Return the queued and running jobs of a step.

    Raises:
        RunError: SLURM does not answer.
    """
    if step.config.cluster.where != "slurm":
        return []
    try:
        return active_jobs(step.folder.path)
    except slurm.SlurmError as error:
        raise RunError(
            f"cannot ask SLURM whether {step.name} is submitted already ({error}): ask the site, or give --where local "
            "to run the steps on this machine"
        ) from None


def run_on_slurm(chain: Sequence[Step], dry: bool = False) -> None:
    """Submit the unfinished steps and print one line per step. With `dry` only print.

    Raises:
        UserError: the pre-flight of a step finds something missing. Nothing is submitted then.
        RunError: a step was run or submitted with other options, or SLURM refuses or does not answer.
    """
    plans = check_pipeline(chain, dry)
    dependencies: dict[str, list[str]] = {}
    width = name_width(chain)
    for step in chain:
        before = [job for name in step.after for job in dependencies[name]]
        dependencies[step.name], line = _advance(step, plans.get(step.name), before, dry)
        print(f"{step.name:<{width}} {line}", flush=True)


def _advance(step: Step, plan: LaunchPlan | None, before: list[str], dry: bool) -> tuple[list[str], str]:
    """Submit a step unless it is finished, queued or running.

    Returns:
        The sbatch dependencies for the steps after it (such as afterok:12), and the text for the user.
    """
    folder = step.folder
    # A failed worker does not matter if the others finished its work; the next job checks its inputs when it starts.
    kind = "afterok" if step.stage.infer is None else "afterany"
    if folder.result() is not None:
        folder.check(with_recorded_batch_size(step.config))
        return [], "done"
    active = _active(step)
    if active:
        folder.check(with_recorded_batch_size(step.config))
        jobs = list(dict.fromkeys(job.id.partition("_")[0] for job in active))
        waits = all(job.state == "PENDING" for job in active)
        if waits and before and not dry:
            _set_dependencies(step, jobs, before)
        return [f"{kind}:{job}" for job in jobs], f"{'queued' if waits else 'running'} as job {', '.join(jobs)}"
    after = f" after {', '.join(job.partition(':')[2] for job in before)}" if before else ""
    if plan is None:  # its jobs have ended since the pre-flight
        plan = plan_launch(step.stage, step.config)
    if dry:
        return [f"{kind}:{step.name}"], f"would be submitted to {plan.description}{after}"
    folder.prepare(plan.config, plan.batch)
    jobs = submit(step.stage, plan.config, before)
    return [f"{kind}:{job}" for job in jobs], f"submitted as job {', '.join(jobs)}{after}"


def _set_dependencies(step: Step, jobs: list[str], before: list[str]) -> None:
    """Update the dependencies of a queued step, because a step before it may have been submitted again."""
    try:
        for job in jobs:
            slurm.set_dependency(job, ",".join(before))
    except slurm.SlurmError as error:
        raise RunError(f"cannot set the dependencies of {step.name}: {error}; repeat the command") from None


def _run_or_print(config: PipelineConfig, dry: bool) -> None:
    chain, home = steps(config), RunFolder.of(config.run).path
    if is_on_slurm(config):
        run_on_slurm(chain, dry)
    elif dry:
        check_pipeline(chain, dry)
        width = name_width(chain)
        for step in chain:
            print(f"{step.name:<{width}} {'done' if step.folder.result() is not None else 'would run here'}")
    else:
        set_up_stage_logging(config.run.verbose)
        run_here(chain)
    if not dry:
        finished = all(step.folder.result() is not None for step in chain)
        print(
            f"Report: {home / 'report.html'}"
            if finished
            else f"See lmrc status {home}; repeat the command to continue."
        )


def main(arguments: Sequence[str] | None = None, program: str = "python launch/pipeline.py") -> int:
    """Run the pipeline launcher from the command line. Return its exit status.

    Args:
        program: how the user called it, for --help.
    """
    threads.configure()
    set_up_logging("stderr")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in words:
        print(f"{program} [--config FILE] [--cluster PRESET] [--rcp NAME] [--rc NAME] [--dry-run] [--verbose]")
        short = ", ".join(f"--{name}" for name in ALIASES)
        print(f"                          [--any.option VALUE …]\n\nShort: {short}\n")
        print("cluster.* sets all steps; STEP.cluster.* overrides it for a step, cpu_job.* for those without GPUs.\n")
        print(table(PipelineConfig))
        return 0
    flags, options = split_flags(words, FLAGS)
    return exit_status(lambda: _run_or_print(read_pipeline(options), dry="--dry-run" in flags))
