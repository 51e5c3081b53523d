"""The common launcher: read the options, run the pre-flight, then submit to SLURM or run on this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lmrc.common import threads
from lmrc.common.exit_codes import exit_status
from lmrc.common.logging import set_up_logging, set_up_stage_logging
from lmrc.common.project import CONFIGS
from lmrc.config.help import HELP, options_help
from lmrc.config.loader import parse, split_flags
from lmrc.config.schema import ClassifyConfig, ClusterOptions, ProposeConfig, RunOptions
from lmrc.launcher.batch import with_recorded_batch_size
from lmrc.launcher.dry_run import dry_run
from lmrc.launcher.preflight import preflight
from lmrc.launcher.slurm.follow_log import follow_job
from lmrc.launcher.slurm.submit import submit, workers
from lmrc.launcher.stages import Stage, StageConfig
from lmrc.runs.finished import finished_text, next_steps
from lmrc.runs.run_folder import RunFolder

FLAGS = ("--dry-run", "--measure", "--follow")
PRESETS = CONFIGS / "cluster"
ALIASES = {
    "run": "run.name",
    "verbose": "run.verbose",
    **{name.replace("_", "-"): f"cluster.{name}" for name in ClusterOptions.model_fields},
}


def read_config(stage: Stage, arguments: Sequence[str]) -> StageConfig:
    """Return the stage's config from the command line, with a default run name."""
    config, file = parse(stage.config_class, arguments, ALIASES, {"cluster": PRESETS}, FLAGS)
    return config.model_copy(update={"run": with_run_name(config.run, stage.name, file)})


def with_run_name(run: RunOptions, stage: str, file: Path | None) -> RunOptions:
    """Return the options with a run name: the given one, or one from the config file, or the stage's name."""
    if run.name:
        return run
    # configs/direct/docred-13b.yaml gives direct-docred-13b; a file outside configs/ gives STAGE-FILE.
    name = stage
    if file is not None:
        name = f"{file.parent.name if 'configs' in file.parts else stage}-{file.stem}"
    return run.model_copy(update={"name": name})


def _with_models_of_the_hub(config: StageConfig) -> StageConfig:
    """Return the config with the folders of trained models that are given by their names on the hub."""
    name = "rcp" if isinstance(config, ProposeConfig) else "rc" if isinstance(config, ClassifyConfig) else ""
    given = getattr(config, name, None) if name else None
    if given is None or given.is_dir():
        return config
    from lmrc.pretrained.trained import find_trained

    return config.model_copy(update={name: find_trained(given)})


def launch(stage: Stage, config: StageConfig, follow: bool = False) -> None:
    """Submit the stage, or run it to its end on this machine. A finished run only prints its result.

    Args:
        follow: show the log of the submitted job until it ends.
    """
    folder = RunFolder.of(config.run)
    result = folder.result()
    if result is not None:
        folder.check(with_recorded_batch_size(config))
        print(finished_text(folder.path, result))
        return
    plan = preflight(stage, config)
    config = plan.config
    resumes = folder.prepare(config, plan.batch)
    result = folder.result()
    if result is not None:
        print(finished_text(folder.path, result))
        return
    if plan.batch and plan.executor != "slurm":  # on SLURM the pre-flight has printed it
        print(f"{plan.batch}.")
    if plan.executor == "slurm":
        jobs = submit(stage, config)
        kind = (
            f"a chain of {config.cluster.chain_jobs} SLURM jobs" if config.cluster.requeue == "chain" else "SLURM job"
        )
        again = " again" if resumes else ""
        print(
            f"Submitted{again} {stage.name} in {folder.path}: {kind} {', '.join(jobs)}; see lmrc status {folder.path}"
        )
        if follow:
            follow_job(jobs[0], folder.path, is_array=stage.infer is not None and workers(config) > 1)
        return
    from lmrc.launcher.local import run_here, run_processes

    print(f"{'Resuming' if resumes else 'Starting'} {stage.name} in {folder.path}, on {plan.description}.", flush=True)
    result = run_here(stage, config) if plan.executor == "here" else run_processes(stage, config, plan.processes)
    if result is not None:
        print(finished_text(folder.path, result), flush=True)


def _print_help(stage: Stage, program: str, is_complete: bool) -> None:
    short = ", ".join(f"--{name}" for name in ALIASES)
    accepted = "[--dry-run [--measure]] [--follow] [--verbose]"
    print(f"{program} [--config FILE] [--cluster PRESET] [--any.option VALUE …] {accepted}")
    print(f"\nShort: {short}\n")
    print(options_help(stage.config_class, is_complete))


def main(stage: Stage, arguments: Sequence[str] | None = None, program: str = "") -> int:
    """Run a launcher from the command line. Return its exit status.

    Args:
        program: how the user called it, for --help; by default the launcher's file.
    """
    threads.configure()
    set_up_logging("stderr")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not HELP.isdisjoint(words):
        program = program or f"python launch/{Path(sys.argv[0]).name}"
        return exit_status(lambda: _print_help(stage, program, "--help-all" in words))
    flags, options = split_flags(words, FLAGS)

    def command() -> None:
        config = _with_models_of_the_hub(read_config(stage, options))
        if flags & {"--dry-run", "--measure"}:
            dry_run(stage, config, measure="--measure" in flags)
        else:
            set_up_stage_logging(config.run.verbose)
            launch(stage, config, follow="--follow" in flags)
            folder = RunFolder.of(config.run)
            if folder.result() is not None:
                print(next_steps(stage.name, config, folder))

    return exit_status(command)
