"""The pre-flight: check before submission everything that would make a job fail.

The launchers, the pipeline, `--dry-run` and slurm/eval.sh use the same checks. They take seconds and need no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from lmrc.common.check import Check, format_check, missing, ok
from lmrc.common.errors import ConfigError, UserError
from lmrc.launcher.plan import LaunchPlan, plan_launch
from lmrc.launcher.preflight.container import check_container
from lmrc.launcher.preflight.data import Inputs, check_split
from lmrc.launcher.preflight.inference import check_classify, check_propose
from lmrc.launcher.preflight.site import check_site, check_site_without_plan, check_unused
from lmrc.launcher.preflight.training import check_rc, check_rcp
from lmrc.launcher.stages import CLASSIFY, PROPOSE, RC, RCP, SPLIT, Stage, StageConfig

CHECKS: dict[Stage, Callable[[Any, LaunchPlan | None, Inputs], Iterator[Check]]] = {
    RCP: check_rcp,
    RC: check_rc,
    PROPOSE: check_propose,
    CLASSIFY: check_classify,
    SPLIT: check_split,
}


def examine(
    stage: Stage, config: StageConfig, made: frozenset[Path] = frozenset()
) -> tuple[LaunchPlan | None, list[Check]]:
    """Check a launch without writing anything.

    Args:
        made: paths that earlier steps of a pipeline write, which need not exist yet.

    Returns:
        The launch plan (None if the numbers of nodes and GPUs do not fit), and all checks in order.
    """
    plan: LaunchPlan | None = None
    checks = []
    try:
        plan = plan_launch(stage, config)
    except ConfigError as error:
        checks.append(missing(str(error)))
        checks += check_site_without_plan(config.cluster)
    else:
        config = plan.config
        if plan.batch:
            checks.append(ok(plan.batch))
        checks += [*check_site(plan), *check_container(config)] if plan.executor == "slurm" else check_unused(plan)
    checks += CHECKS[stage](config, plan, Inputs(made)) if stage in CHECKS else _own_check(stage, config, made)
    return plan, checks


def _own_check(stage: Stage, config: StageConfig, made: frozenset[Path]) -> Iterator[Check]:
    """Run the check that the stage runs when it starts."""
    if made:
        return
    try:
        stage.check(config)
    except UserError as error:
        yield missing(str(error))


def preflight(stage: Stage, config: StageConfig) -> LaunchPlan:
    """Check a launch and print the checks. For a run on this machine only warnings are printed.

    Returns:
        The launch plan.

    Raises:
        UserError: something essential is missing. The message lists everything.
    """
    plan, checks = examine(stage, config)
    show_checks(checks, show_ok=plan is None or plan.executor == "slurm")
    refuse(checks)
    assert plan is not None
    return plan


def show_checks(checks: Sequence[Check], show_ok: bool = True) -> None:
    """Print warnings and, if `show_ok`, the checks that passed."""
    for check in checks:
        if check.level == "warning" or (show_ok and check.level == "ok"):
            click.echo(format_check(check))


def refuse(checks: Sequence[Check]) -> None:
    """Raise UserError with every reason if something essential is missing."""
    reasons = [str(check) for check in checks if check.level == "missing"]
    if len(reasons) == 1:
        raise UserError(reasons[0])
    if reasons:
        raise UserError(f"{len(reasons)} reasons not to start:\n" + "\n".join(f"  - {reason}" for reason in reasons))
