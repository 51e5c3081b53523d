"""What every launcher does: read the options, look at the run folder, then submit to SLURM or run here."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lmrc.common import threads
from lmrc.common.exit_codes import exit_status
from lmrc.common.project import CONFIGS
from lmrc.config.loader import parse, split_flags, table
from lmrc.config.schema import ClusterOptions, RunOptions
from lmrc.launcher.batch import as_recorded
from lmrc.launcher.dry_run import dry_run
from lmrc.launcher.preflight import preflight
from lmrc.launcher.slurm.follow_log import follow_job
from lmrc.launcher.slurm.submit import submit, workers
from lmrc.launcher.stages import Stage, StageConfig
from lmrc.runs.run_folder import RunFolder

FLAGS = ("--dry-run", "--follow")
PRESETS = CONFIGS / "cluster"
ALIASES = {"run": "run.name", **{name.replace("_", "-"): f"cluster.{name}" for name in ClusterOptions.model_fields}}


def read_config(stage: Stage, arguments: Sequence[str]) -> StageConfig:
    """The stage's config from a launcher's arguments; a run without a name gets that of its config file or stage."""
    config, file = parse(stage.tree, arguments, ALIASES, {"cluster": PRESETS}, FLAGS)
    return config.model_copy(update={"run": named(config.run, stage.name, file)})


def named(run: RunOptions, stage: str, file: Path | None) -> RunOptions:
    """The run's options, with a name."""
    if run.name:
        return run
    # configs/direct/docred-13b.yaml is the run direct-docred-13b; a file of the user's own takes the stage's name.
    name = stage
    if file is not None:
        name = f"{file.parent.name if 'configs' in file.parts else stage}-{file.stem}"
    return run.model_copy(update={"name": name})


def launch(stage: Stage, config: StageConfig, following: bool = False) -> None:
    """Submit the stage, or run it here to its end; a finished run only shows its result."""
    folder = RunFolder.of(config.run)
    if folder.result() is not None:
        folder.check(as_recorded(config))
        print(f"{folder.path} is finished: {json.dumps(folder.result())}")
        return
    settled = preflight(stage, config)
    config = settled.config
    found = folder.prepare(config, settled.batch)
    result = folder.result()
    if result is not None:
        print(f"{folder.path} is finished: {json.dumps(result)}")
        return
    state = "was begun before: resuming" if found else "is new"
    if settled.batch and settled.place != "slurm":  # on SLURM the pre-flight has said it
        print(f"{settled.batch}.")
    if settled.place == "slurm":
        jobs = submit(stage, config)
        print(f"{folder.path} {state}. {stage.name} is SLURM job {', '.join(jobs)}; see lmrc status {folder.path}")
        if following:
            follow_job(jobs[0], folder.path, is_array=stage.infer is not None and workers(config) > 1)
        return
    from lmrc.launcher.local import run_here, run_processes

    print(f"{folder.path} {state}. {stage.name} runs on {settled.where}.", flush=True)
    result = run_here(stage, config) if settled.place == "here" else run_processes(stage, config, settled.processes)
    if result is not None:
        print(f"{folder.path} is finished: {json.dumps(result)}", flush=True)


def main(stage: Stage, arguments: Sequence[str] | None = None, program: str = "") -> int:
    """A launcher's whole life. Returns its exit status."""
    threads.configure()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in given:
        program = program or f"python launch/{Path(sys.argv[0]).name}"
        short = ", ".join(f"--{name}" for name in ALIASES)
        print(f"{program} [--config FILE] [--cluster PRESET] [--any.option VALUE …] [--dry-run] [--follow]")
        print(f"\nShort: {short}\n")
        print(table(stage.tree))
        return 0
    flags, options = split_flags(given, FLAGS)

    def command() -> None:
        config = read_config(stage, options)
        if "--dry-run" in flags:
            dry_run(stage, config)
        else:
            launch(stage, config, following="--follow" in flags)

    return exit_status(command)
