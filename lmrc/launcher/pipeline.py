"""The pipeline: all steps in one folder, as dependent SLURM jobs, or one after the other on this machine.

Each step is a run of its own below runs/NAME/. The command can be repeated: finished steps are skipped, and new jobs
depend on those that are already queued or running. With seeds or a sweep there is such a pipeline per member, below
runs/NAME/MEMBER/, and a summary of all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmrc.common import threads
from lmrc.common.check import Check, missing
from lmrc.common.errors import ConfigError, RunError, UserError
from lmrc.common.exit_codes import Failed, Interrupted, exit_status
from lmrc.common.logging import set_up_logging, set_up_stage_logging
from lmrc.config.help import HELP, options_help
from lmrc.config.loader import parse, split_flags
from lmrc.config.schema import GroupOptions, PipelineConfig, SplitConfig
from lmrc.launcher.batch import with_recorded_batch_size
from lmrc.launcher.chain import Step, is_on_slurm, steps
from lmrc.launcher.group.members import group_of, group_steps, members_of
from lmrc.launcher.group.record import Group
from lmrc.launcher.launch import ALIASES, PRESETS, launch, with_run_name
from lmrc.launcher.plan import LaunchPlan, plan_launch
from lmrc.launcher.prediction.stages import PlannedStage, parts_of, predicted
from lmrc.launcher.preflight import examine, refuse, show_checks
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm import job_chain
from lmrc.launcher.slurm.submit import active_jobs, submit
from lmrc.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

# `rcp: redocred` stands for configs/rcp/redocred.yaml, so that a pipeline config does not repeat its stages' options.
PARTS = {"cluster": PRESETS, **{part: PRESETS.parent / part for part in ("rcp", "rc")}}
FLAGS = ("--dry-run", "--measure", "--json")
SHORT = ALIASES | {name.replace("_", "-"): f"group.{name}" for name in GroupOptions.model_fields}


def read_pipeline(arguments: Sequence[str]) -> PipelineConfig:
    """Return the pipeline's config from the command line."""
    config, file = parse(PipelineConfig, arguments, SHORT, PARTS, FLAGS)
    return config.model_copy(update={"run": with_run_name(config.run, "pipeline", file)})


def read_group(arguments: Sequence[str], config: PipelineConfig) -> tuple[list[Step], Group]:
    """Return the steps of all members of a group, and the list of its members.

    Raises:
        ConfigError: an option cannot be swept, is given besides, or does not fit the others.
    """
    given = {word[2:].partition("=")[0].replace("-", "_") for word in arguments if word.startswith("--")}
    if twice := sorted(given & config.group.sweep.keys()):
        raise ConfigError(f"--{twice[0]} is given besides --sweep {twice[0]}: leave one of them out")
    members = members_of(config, lambda more: read_pipeline([*arguments, *more]))
    group = group_of(config, members)
    return group_steps(config, members, group), group


def run_here(chain: Sequence[Step]) -> dict[str, str]:
    """Run the unfinished steps on this machine, in order.

    Returns:
        The members of a group that failed, with the cause. Their other steps are left out.

    Raises:
        Exception: a step outside of a member failed.
    """
    check_pipeline(chain)
    failed: dict[str, str] = {}
    for step in chain:
        if step.member in failed:
            continue
        step.record_group()
        try:
            launch(step.stage, step.config)
        except Interrupted:
            raise
        except Exception as error:
            if not step.member:
                raise
            if not isinstance(error, (UserError, Failed)):
                traceback.print_exception(error)
            failed[step.member] = f"{step.config.run.name}: {error}"
            logger.error("%s failed, and its later steps are left out: %s", step.name, error)
    return failed


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
    seen: set[tuple[str, str]] = set()
    for step in chain:
        outputs |= set(step.outputs)
        if step.result() is not None or _active(step):
            continue
        plan, checks = examine(step.stage, step.config, frozenset(outputs - set(step.outputs)))
        if plan is not None:
            plans[step.name] = plan
        for check in checks:
            if check.level == "missing":
                reasons.append(missing(f"{step.name}: {check.what}", check.remedy))
        # The members of a group have most checks in common.
        texts = [(step.config.run.name, str(check).replace(f"/{step.member}/", "/")) for check in checks]
        own = [check for check, text in zip(checks, texts, strict=True) if text not in seen]
        seen.update(texts)
        shown = [check for check in own if check.level == "warning" or dry or is_slurm(plan)]
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


@dataclass(frozen=True)
class StepState:
    """The state of a step after a command, as `--json` prints it.

    Attributes:
        state: done, queued, running, submitted, failed, waiting (for a failed step), or with --dry-run: would be
            submitted, would run.
        jobs: SLURM job ids.
        after: SLURM dependencies, or with --dry-run the steps that it waits for.
    """

    step: Step
    state: str
    jobs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    where: str = ""

    def __str__(self) -> str:
        to = f" to {self.where}" if self.state == "would be submitted" else ""
        jobs = f" as job {', '.join(self.jobs)}" if self.jobs else ""
        before = list(dict.fromkeys(job.rpartition(":")[2] for job in self.after))
        after = f" after {', '.join(before)}" if before and self.state.endswith("submitted") else ""
        return f"{self.state}{to}{jobs}{after}"

    def as_json(self) -> dict[str, Any]:
        """Return the fields with the names of the step and its member."""
        return {
            "member": self.step.member or None,
            "step": self.step.config.run.name,
            "run": str(self.step.folder.path),
            "state": self.state,
            "jobs": list(self.jobs),
            "after": list(self.after),
            "where": self.where or None,
        }


def run_on_slurm(chain: Sequence[Step], dry: bool = False) -> list[StepState]:
    """Submit the unfinished steps and print one line per step. With `dry` only print.

    Raises:
        UserError: the pre-flight of a step finds something missing. Nothing is submitted then.
        RunError: a step was run or submitted with other options, or SLURM refuses or does not answer.
    """
    plans = check_pipeline(chain, dry)
    states: dict[str, StepState] = {}
    width = name_width(chain)
    for step in chain:
        finished = [f"{_kind(states[name], plans)}:{job}" for name in step.after for job in _waited_for(states[name])]
        ended = [f"afterany:{job}" for name in step.when_ended for job in _waited_for(states[name])]
        after_runs = [states[name].step.folder.path for name in step.after]
        state = _advance(step, plans.get(step.name), [*finished, *ended], after_runs, dry)
        states[step.name] = state
        print(f"{step.name:<{width}} {state}", flush=True)
    return list(states.values())


def _kind(state: StepState, plans: Mapping[str, LaunchPlan]) -> str:
    """Return how a later step depends on this one."""
    # A failed worker does not matter if the others finished its work; the next job checks its inputs when it starts.
    # Jobs of a chain may end before the run is finished, and are cancelled after it; the next chain checks that.
    if state.state == "would be submitted":
        is_chain = plans[state.step.name].config.cluster.requeue == "chain"
    else:
        is_chain = any(job_chain.find_chain(state.step.folder.path, job) for job in state.jobs)
    return "afterok" if state.step.stage.infer is None and not is_chain else "afterany"


def _waited_for(state: StepState) -> tuple[str, ...]:
    """Return the jobs that later steps depend on, or the name of the step if it would be submitted."""
    return (state.step.name,) if state.state == "would be submitted" else state.jobs


def _advance(
    step: Step, plan: LaunchPlan | None, before: list[str], after_runs: Sequence[Path], dry: bool
) -> StepState:
    """Submit a step unless it is finished, queued or running.

    Args:
        before: the sbatch dependencies of the step, such as afterok:12.
        after_runs: the runs that must be finished before.
    """
    folder = step.folder
    if not dry:
        step.record_group()
    if step.result() is not None:
        folder.check(with_recorded_batch_size(step.config))
        return StepState(step, "done")
    active = _active(step)
    if active:
        folder.check_owner()
        folder.check(with_recorded_batch_size(step.config))
        jobs = tuple(dict.fromkeys(job.id.partition("_")[0] for job in active))
        waits = all(job.state == "PENDING" for job in active)
        if waits and before and not dry:
            _set_dependencies(step, jobs, before)
        return StepState(step, "queued" if waits else "running", jobs, tuple(before) if waits else ())
    if plan is None:  # its jobs have ended since the pre-flight
        plan = plan_launch(step.stage, step.config)
    if dry:
        return StepState(step, "would be submitted", (), tuple(before), plan.description)
    folder.prepare(plan.config, plan.batch)
    jobs = tuple(submit(step.stage, plan.config, before, after_runs))
    return StepState(step, "submitted", jobs, tuple(before), plan.description)


def _set_dependencies(step: Step, jobs: Sequence[str], before: list[str]) -> None:
    """Update the dependencies of a queued step, because a step before it may have been submitted again."""
    try:
        for job in jobs:
            links = job_chain.find_chain(step.folder.path, job)
            own = [job_chain.SINGLETON] if links is not None and links.number > 1 else []
            slurm.set_dependency(job, ",".join([*before, *own]))
    except slurm.SlurmError as error:
        raise RunError(f"cannot set the dependencies of {step.name}: {error}; repeat the command") from None


def _states_here(chain: Sequence[Step], dry: bool, failed: Mapping[str, str]) -> list[StepState]:
    """Return the states of the steps on this machine, after they ran or before."""
    states = []
    for step in chain:
        reason = failed.get(step.member, "")
        if step.result() is not None:
            state = "done"
        elif dry:
            state = "would run here"
        else:
            state = "failed" if reason.startswith(f"{step.config.run.name}: ") else "waiting"
        states.append(StepState(step, state))
    return states


def _print_prediction(chain: Sequence[Step], config: PipelineConfig, measure: bool) -> None:
    """Print the predicted time of the unfinished steps."""
    left = [step for step in chain if step.result() is None]
    stages = [PlannedStage(step.name, plan_launch(step.stage, step.config)) for step in left]
    parts = parts_of([step.config for step in left if isinstance(step.config, SplitConfig)])
    print(f"\n{predicted(stages, measure, config.cluster.gpu_hour_price, parts)}")


def _run_or_print(arguments: Sequence[str], dry: bool, as_json: bool, measure: bool = False) -> None:
    """Run, submit or list the steps.

    Args:
        measure: with `dry`, predict the time from a few steps on this machine.
        as_json: print only an object with the steps to stdout, and everything else to stderr.

    Raises:
        Failed: members of a group have failed on this machine.
    """
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        config = read_pipeline(arguments)
        home, on_slurm = RunFolder.of(config.run).path, is_on_slurm(config)
        group: Group | None = None
        if config.group.is_given:
            chain, group = read_group(arguments, config)
        else:
            chain = steps(config)
        failed: dict[str, str] = {}
        if on_slurm:
            states = run_on_slurm(chain, dry)
        else:
            if dry:
                check_pipeline(chain, dry)
            else:
                set_up_stage_logging(config.run.verbose)
                failed = run_here(chain)
            states = _states_here(chain, dry, failed)
            width = name_width(chain)
            for state in states if dry else ():
                print(f"{state.step.name:<{width}} {state}")
        if dry:
            _print_prediction(chain, config, measure)
        finished = all(step.result() is not None for step in chain)
        if finished and not dry:
            print(f"Report: {home / 'report.html'}")
        elif not dry:
            print(f"See lmrc status {home}; repeat the command to continue.")
    if as_json:
        content = {
            "run": str(home),
            "where": "slurm" if on_slurm else "here",
            "dry_run": dry,
            "finished": finished,
            "group": None if group is None else group.as_json(),
            "failed": failed,
            "steps": [state.as_json() for state in states],
        }
        print(json.dumps(content, indent=1))
    if failed and group is not None:
        reasons = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise Failed(
            f"{len(group.members) - len(failed)} of {len(group.members)} members are finished, not {reasons}. "
            "Repeat the command to run the others again"
        )


def _print_help(program: str, is_complete: bool) -> None:
    accepted = "[--dry-run [--measure]] [--json] [--verbose]"
    print(f"{program} [--config FILE] [--cluster PRESET] [--rcp NAME] [--rc NAME] {accepted}")
    short = ", ".join(f"--{name}" for name in SHORT)
    print(f"                          [--any.option VALUE …]\n\nShort: {short}\n")
    print("cluster.* sets all steps; STEP.cluster.* overrides it for a step, cpu_job.* for those without GPUs.\n")
    print("--seeds 66,67,68 and --sweep rcp.train.learning_rate=1e-5,3e-5 run the pipeline once per seed and value.\n")
    print(options_help(PipelineConfig, is_complete))


def main(arguments: Sequence[str] | None = None, program: str = "python launch/pipeline.py") -> int:
    """Run the pipeline launcher from the command line. Return its exit status.

    Args:
        program: how the user called it, for --help.
    """
    threads.configure()
    set_up_logging("stderr")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not HELP.isdisjoint(words):
        return exit_status(lambda: _print_help(program, "--help-all" in words))
    flags, options = split_flags(words, FLAGS)
    dry, measure = bool(flags & {"--dry-run", "--measure"}), "--measure" in flags
    return exit_status(lambda: _run_or_print(options, dry, "--json" in flags, measure))
