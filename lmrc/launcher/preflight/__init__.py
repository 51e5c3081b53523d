"""The pre-flight: all that can be known before a job is submitted is checked before it is submitted.

It is one list, used by the launchers, the pipeline, `--dry-run` and slurm/eval.sh. It takes seconds and needs no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from lmrc.common.check import Check, format_check, missing, ok
from lmrc.common.errors import ConfigError, UserError
from lmrc.launcher.plan import LaunchPlan, plan
from lmrc.launcher.preflight.data import Inputs
from lmrc.launcher.preflight.inference import check_classify, check_propose
from lmrc.launcher.preflight.site import check_site, check_unused
from lmrc.launcher.preflight.training import check_rc, check_rcp
from lmrc.launcher.stages import CLASSIFY, PROPOSE, RC, RCP, Stage, StageConfig

CHECKS: dict[Stage, Callable[[Any, LaunchPlan | None, Inputs], Iterator[Check]]] = {
    RCP: check_rcp,
    RC: check_rc,
    PROPOSE: check_propose,
    CLASSIFY: check_classify,
}


def examine(
    stage: Stage, config: StageConfig, made: frozenset[Path] = frozenset()
) -> tuple[LaunchPlan | None, list[Check]]:
    """Check a launch without writing anything.

    Args:
        made: paths that earlier steps of a pipeline make, which need not be there yet.

    Returns:
        Where and how the stage would run, unless that cannot be settled, and all checks in order.
    """
    settled: LaunchPlan | None = None
    checks = []
    try:
        settled = plan(stage, config)
    except ConfigError as error:
        checks.append(missing(str(error)))
    else:
        config = settled.config
        if settled.batch:
            checks.append(ok(settled.batch))
        checks += check_site(settled) if settled.place == "slurm" else check_unused(settled)
    checks += CHECKS[stage](config, settled, Inputs(made)) if stage in CHECKS else _own_check(stage, config, made)
    return settled, checks


def _own_check(stage: Stage, config: StageConfig, made: frozenset[Path]) -> Iterator[Check]:
    """Return what the stage itself checks when it starts."""
    if made:
        return
    try:
        stage.check(config)
    except UserError as error:
        yield missing(str(error))


def preflight(stage: Stage, config: StageConfig) -> LaunchPlan:
    """Check a launch, and print the checks: all of a job's, only what is wrong if the stage runs on this machine.

    Returns:
        Where and how the stage runs.

    Raises:
        UserError: something is missing without which the stage would fail. The message names all of it.
    """
    settled, checks = examine(stage, config)
    show_checks(checks, all_of_them=settled is None or settled.place == "slurm")
    refuse(checks)
    assert settled is not None
    return settled


def show_checks(checks: Sequence[Check], all_of_them: bool = True) -> None:
    """Print a line per check."""
    for check in checks:
        if check.level == "warning" or (all_of_them and check.level == "ok"):
            click.echo(format_check(check))


def refuse(checks: Sequence[Check]) -> None:
    """Raise UserError with every reason if something essential is missing."""
    reasons = [str(check) for check in checks if check.level == "missing"]
    if len(reasons) == 1:
        raise UserError(reasons[0])
    if reasons:
        raise UserError(f"{len(reasons)} reasons not to start:\n" + "\n".join(f"  - {reason}" for reason in reasons))
