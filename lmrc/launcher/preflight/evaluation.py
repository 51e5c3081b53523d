"""The pre-flight of slurm/eval.sh: `python -m lmrc.launcher.preflight.evaluation RUN [DATASET]`.

It prints the corpus to evaluate on, or one line that says why the evaluation cannot start.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lmrc.common.check import Check
from lmrc.common.errors import UserError
from lmrc.common.exit_codes import exit_status
from lmrc.common.logging import set_up_logging
from lmrc.corpus.corpus import Corpus
from lmrc.launcher.launch import read_config
from lmrc.launcher.preflight import CHECKS, refuse
from lmrc.launcher.preflight.container import check_image
from lmrc.launcher.preflight.data import Inputs
from lmrc.launcher.slurm.container import trained_cluster
from lmrc.launcher.stages import CLASSIFY, PROPOSE, Stage
from lmrc.runs.run_folder import read_config as read_run_config


def evaluated_corpus(run: Path, dataset: Path | None) -> Path:
    """Check that the models of a folder can be evaluated.

    Args:
        run: a folder that contains the runs rcp and rc, such as runs/ or the folder of a pipeline.
        dataset: a labelled corpus; by default the dev corpus of the RCP run.

    Returns:
        The corpus.

    Raises:
        UserError: a model or the corpus is missing or does not fit. The message lists everything.
    """
    untrained = [stage for stage in ("rcp", "rc") if not (run / stage / "best").is_dir()]
    if untrained:
        folders = " and ".join(str(run / stage / "best") for stage in untrained)
        commands = " and ".join(f"launch/{stage}.py" for stage in untrained)
        others = sorted(path.parent for path in run.glob("*/best")) + sorted(run.glob("*/rcp/best"))
        hint = f" (trained runs here: {', '.join(map(str, others))})" if others else ""
        raise UserError(
            f"nothing to evaluate: no {folders}{hint}; train with {commands} first, or give the folder of a pipeline: "
            "sbatch slurm/eval.sh runs/NAME"
        )
    corpus = dataset or Path(read_run_config(run / "rcp")["data"]["dev"])
    opened = Corpus.open(corpus)
    if not opened.manifest.labelled_documents:
        raise UserError(f"{corpus} has no labels to evaluate on: give a labelled corpus as the second argument")
    refuse([*_check_stages(run, corpus), *_check_container(run)])
    return corpus


def _check_stages(run: Path, corpus: Path) -> list[Check]:
    """Return the pre-flight checks of propose and classify as slurm/eval.sh runs them."""
    out = run / f"eval-{corpus.name}"
    made = Inputs(frozenset({out / "propose" / "candidates"}))
    inputs: dict[Stage, list[str]] = {
        PROPOSE: [f"--rcp={run / 'rcp' / 'best'}"],
        CLASSIFY: [f"--rc={run / 'rc' / 'best'}", f"--candidates={out / 'propose' / 'candidates'}"],
    }
    checks: list[Check] = []
    for stage, given in inputs.items():
        own = run / stage.name / "config.yaml"
        options = [f"--config={own}"] if own.is_file() else []
        config = read_config(stage, [*options, "--where=here", f"--corpus={corpus}", *given])
        checks += CHECKS[stage](config, None, made)
    return checks


def _check_container(run: Path) -> list[Check]:
    """Return the check of the image that the workers run in."""
    options = trained_cluster(run)
    return [] if options.container is None else [check_image(options.container)]


def main(arguments: Sequence[str]) -> int:
    """Print the corpus to evaluate on. Return the exit status."""

    def command() -> None:
        run, *dataset = map(Path, arguments)
        print(evaluated_corpus(run, dataset[0] if dataset else None))

    set_up_logging("stderr")
    return exit_status(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
