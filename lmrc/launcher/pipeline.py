"""The whole chain in one folder: dependent jobs on SLURM, one step after the other elsewhere. Safe to repeat.

Each step is a run of its own below runs/NAME/. What is done is skipped, and what waits or runs is depended upon.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmrc.common import threads
from lmrc.common.check import Check, missing
from lmrc.common.errors import ConfigError, RunError
from lmrc.common.exit_codes import exit_status
from lmrc.config.loader import parse, split_flags, table
from lmrc.config.schema import BuildConfig, ClusterOptions, PipelineConfig, RunOptions, ScoreConfig, TrainingData
from lmrc.launcher.batch import as_recorded
from lmrc.launcher.launch import ALIASES, PRESETS, launch, named
from lmrc.launcher.plan import LaunchPlan
from lmrc.launcher.plan import plan as settle
from lmrc.launcher.preflight import examine, refuse, show_checks
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.submit import active_jobs, submit
from lmrc.launcher.stages import BUILD, CLASSIFY, PROPOSE, RC, RCP, SCORE, Stage, StageConfig
from lmrc.runs.run_folder import RunFolder

# `rcp: redocred` is configs/rcp/redocred.yaml, so that the chain of an experiment repeats nothing of its stages.
PARTS = {"cluster": PRESETS, **{part: PRESETS.parent / part for part in ("rcp", "rc")}}
DOCUMENTS = (".json", ".json.gz")
FLAGS = ("--dry-run",)


@dataclass(frozen=True)
class Step:
    """A stage with its config, and the steps that must be done before it."""

    stage: Stage
    config: StageConfig
    after: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the stage and of the folder."""
        return self.stage.name

    @property
    def outputs(self) -> tuple[Path, ...]:
        """What later steps read of it, which need not be there before."""
        if isinstance(self.config, BuildConfig):
            return tuple(self.config.corpora / name for name in self.config.documents)
        home = self.folder.path
        made = {"rcp": home / "best", "rc": home / "best", "propose": home / "candidates", "classify": home}
        return (made[self.name],) if self.name in made else ()

    @property
    def folder(self) -> RunFolder:
        """Its run folder."""
        return RunFolder.of(self.config.run)


def read_pipeline(arguments: Sequence[str]) -> PipelineConfig:
    """The config from the launcher's arguments."""
    config, file = parse(PipelineConfig, arguments, ALIASES, PARTS, FLAGS)
    return config.model_copy(update={"run": named(config.run, "pipeline", file)})


def is_on_slurm(config: PipelineConfig) -> bool:
    """Whether the steps are submitted. Raises ConfigError where one of them is to run elsewhere than the others."""
    where = config.cluster.where
    for name in ("rcp", "propose", "rc", "classify"):
        if "where" in getattr(config, name).cluster.model_fields_set:
            raise ConfigError(f"{name}.cluster.where: the steps of a chain run in one place; give --where alone")
    return where == "slurm" or (where == "auto" and slurm.is_here())


def steps(config: PipelineConfig) -> list[Step]:
    """The chain, each step after those that it needs."""
    home, on_slurm = RunFolder.of(config.run).path, is_on_slurm(config)
    given = {"train": config.data.train, "dev": config.data.dev, "test": config.data.test}
    documents = {part: path for part, path in given.items() if path.name.endswith(DOCUMENTS)}
    corpora = {part: home / "data" / part if part in documents else path for part, path in given.items()}
    data = TrainingData(train=corpora["train"], dev=corpora["dev"])

    def step(stage: Stage, options: StageConfig, *after: str, **inputs: Any) -> Step:
        own = config.cpu_job if stage.run else options.cluster
        place = {"where": "slurm"} if on_slurm else {"where": "here"} if stage.run else {}
        filled = {
            "run": RunOptions(name=stage.name, folder=home, seed=config.run.seed),
            "cluster": config.cluster.model_copy(update=_given(own) | place),
            **inputs,
        }
        needed = tuple(name for name in after if documents or name != BUILD.name)
        return Step(stage, options.model_copy(update=filled), needed)

    build = BuildConfig(documents=documents, relations=config.data.relations, corpora=home / "data")
    score = ScoreConfig(
        classify=home / CLASSIFY.name,
        trained=(home / RCP.name, home / RC.name),
        train=corpora["train"],
        ign_variant=config.ign_variant,
        out=home,
    )
    test, candidates = corpora["test"], home / PROPOSE.name / "candidates"
    return [
        *([step(BUILD, build)] if documents else []),
        step(RCP, config.rcp, "build", data=data),
        step(PROPOSE, config.propose, "build", "rcp", corpus=test, rcp=home / RCP.name / "best"),
        step(RC, config.rc, "build", data=data),
        step(
            CLASSIFY, config.classify, "propose", "rc", corpus=test, candidates=candidates, rc=home / RC.name / "best"
        ),
        step(SCORE, score, "classify"),
    ]


def _given(options: ClusterOptions) -> dict[str, Any]:
    """What was said, rather than left to its default."""
    return {name: getattr(options, name) for name in options.model_fields_set}


def run_here(chain: Sequence[Step]) -> None:
    """Run what is missing on this machine, in order."""
    examine_chain(chain)
    for step in chain:
        launch(step.stage, step.config)


def examine_chain(chain: Sequence[Step], dry: bool = False) -> dict[str, LaunchPlan]:
    """Check every step that is neither done nor submitted, before the first is submitted.

    Returns:
        Where and how each of these steps runs.

    Raises:
        UserError: something is missing for any of them. The message names all of it.
    """
    plans: dict[str, LaunchPlan] = {}
    reasons: list[Check] = []
    made: set[Path] = set()
    for step in chain:
        made |= set(step.outputs)
        if step.folder.result() is not None or _active(step):
            continue
        plan, checks = examine(step.stage, step.config, frozenset(made - set(step.outputs)))
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


def is_slurm(plan: LaunchPlan | None) -> bool:
    """Return True if the step is submitted, or if nobody knows yet."""
    return plan is None or plan.place == "slurm"


def _active(step: Step) -> list[slurm.SlurmJob]:
    """Return the jobs of a step that wait or run. Raises RunError if SLURM does not answer."""
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
    """Submit what is missing, a line per step; with `dry` only say so.

    Raises:
        UserError: the pre-flight of a step finds something missing; nothing is submitted then.
        RunError: a step was made or submitted with other options, or SLURM refuses or does not answer.
    """
    plans = examine_chain(chain, dry)
    waited: dict[str, list[str]] = {}
    for step in chain:
        before = [job for name in step.after for job in waited[name]]
        waited[step.name], said = _advance(step, plans.get(step.name), before, dry)
        print(f"{step.name:<9} {said}", flush=True)


def _advance(step: Step, plan: LaunchPlan | None, before: list[str], dry: bool) -> tuple[list[str], str]:
    """Submit a step where that is missing. Returns what its successors depend upon, and the rest of its line.

    A dependency stands as sbatch wants it. Of an inference all workers must have ended, but not all well: what counts
    is that the work is done, and a successor looks for its input when it starts.
    """
    folder = step.folder
    kind = "afterok" if step.stage.infer is None else "afterany"
    if folder.result() is not None:
        folder.check(as_recorded(step.config))
        return [], "done"
    active = _active(step)
    if active:
        folder.check(as_recorded(step.config))
        jobs = list(dict.fromkeys(job.id.partition("_")[0] for job in active))
        waits = all(job.state == "PENDING" for job in active)
        if waits and before and not dry:
            _follow(step, jobs, before)
        return [f"{kind}:{job}" for job in jobs], f"{'queued' if waits else 'running'} as job {', '.join(jobs)}"
    after = f" after {', '.join(job.partition(':')[2] for job in before)}" if before else ""
    if plan is None:  # its jobs ended since it was examined
        plan = settle(step.stage, step.config)
    if dry:
        return [f"{kind}:{step.name}"], f"would be submitted to {plan.where}{after}"
    folder.prepare(plan.config, plan.batch)
    jobs = submit(step.stage, plan.config, before)
    return [f"{kind}:{job}" for job in jobs], f"submitted as job {', '.join(jobs)}{after}"


def _follow(step: Step, jobs: list[str], before: list[str]) -> None:
    """Have a waiting step follow these jobs, where it may still follow one that failed and was submitted anew."""
    try:
        for job in jobs:
            slurm.depend(job, ",".join(before))
    except slurm.SlurmError as error:
        raise RunError(f"cannot have {step.name} wait for the steps before it: {error}; repeat the command") from None


def _run_or_say(config: PipelineConfig, dry: bool) -> None:
    chain, home = steps(config), RunFolder.of(config.run).path
    if is_on_slurm(config):
        run_on_slurm(chain, dry)
    elif dry:
        examine_chain(chain, dry)
        for step in chain:
            print(f"{step.name:<9} {'done' if step.folder.result() is not None else 'would run here'}")
    else:
        run_here(chain)
    if not dry:
        finished = all(step.folder.result() is not None for step in chain)
        print(f"Report: {home / 'report.html'}" if finished else f"See lmrc status {home}; repeat to go on.")


def main(arguments: Sequence[str] | None = None, program: str = "python launch/pipeline.py") -> int:
    """The launcher's whole life. Returns its exit status."""
    threads.configure()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in given:
        print(f"{program} [--config FILE] [--cluster PRESET] [--rcp NAME] [--rc NAME] [--dry-run]")
        short = ", ".join(f"--{name}" for name in ALIASES)
        print(f"                          [--any.option VALUE …]\n\nShort: {short}\n")
        print("cluster is of all steps, STEP.cluster over it of one, cpu_job over it of build and score.\n")
        print(table(PipelineConfig))
        return 0
    flags, options = split_flags(given, FLAGS)
    return exit_status(lambda: _run_or_say(read_pipeline(options), dry="--dry-run" in flags))
