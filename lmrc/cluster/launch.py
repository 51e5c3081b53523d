"""What every launcher does: read the options, look at the run folder, then submit to SLURM or run here."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lmrc.cluster.plan import dry_run
from lmrc.cluster.stages import Stage, StageConfig
from lmrc.config import ClusterOptions
from lmrc.exits import exit_status
from lmrc.options import parse, table
from lmrc.run import RunFolder

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "cluster"
ALIASES = {"run": "run.name", **{name.replace("_", "-"): f"cluster.{name}" for name in ClusterOptions.model_fields}}


def read_config(stage: Stage, arguments: Sequence[str]) -> StageConfig:
    """The stage's config from a launcher's arguments; a run without a name gets that of its config file or stage."""
    config, file = parse(stage.tree, arguments, ALIASES, {"cluster": PRESETS})
    if config.run.name:
        return config
    # configs/direct/docred-13b.yaml is the run direct-docred-13b; a file of the user's own takes the stage's name.
    name = stage.name
    if file is not None:
        name = f"{file.parent.name if 'configs' in file.parts else stage.name}-{file.stem}"
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name})})


def on_slurm(options: ClusterOptions) -> bool:
    """Whether the stage is submitted rather than run here."""
    return options.where == "slurm" or (options.where == "auto" and shutil.which("sbatch") is not None)


def launch(stage: Stage, config: StageConfig) -> None:
    """Submit the stage, or run it here to its end; a finished run only shows its result."""
    folder = RunFolder.of(config.run)
    if folder.result() is None:
        stage.check(config)
    found = folder.prepare(config)
    result = folder.result()
    if result is not None:
        print(f"{folder.path} is finished: {json.dumps(result)}")
        return
    if on_slurm(config.cluster):
        from lmrc.cluster.submit import submit

        job = submit(stage, config)
        print(f"{folder.path}: submitted as SLURM job {job}; its output is in {folder.path / 'log'}")
        return
    from lmrc.cluster.local import processes_here, run_here

    count, sentence = processes_here(stage, config.cluster.gpus)
    state = "was begun before: resuming" if found else "is new"
    print(f"{folder.path} {state}. {stage.name} runs on this machine: {sentence}.", flush=True)
    start = time.monotonic()
    result = run_here(stage, config, count) | {"seconds": round(time.monotonic() - start, 1)}
    folder.finish(result)
    print(f"{folder.path} is finished: {json.dumps(result)}", flush=True)


def main(stage: Stage, arguments: Sequence[str] | None = None) -> int:
    """A launcher's whole life. Returns its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in given:
        program = Path(sys.argv[0]).name
        short = ", ".join(f"--{name}" for name in ALIASES)
        print(f"python launch/{program} [--config FILE] [--dry-run] [--any.option VALUE …]\n\nShort: {short}\n")
        print(table(stage.tree))
        return 0
    dry = "--dry-run" in given
    given = [word for word in given if word != "--dry-run"]

    def command() -> None:
        config = read_config(stage, given)
        if dry:
            print(dry_run(stage, config, on_slurm(config.cluster)))
        else:
            launch(stage, config)

    return exit_status(command)
