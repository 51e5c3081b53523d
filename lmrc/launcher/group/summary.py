"""The last step of a group of pipelines: the scores of its members together, in one report and one JSON file."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import UserError
from lmrc.config.schema import SummaryConfig
from lmrc.corpus.corpus import Corpus
from lmrc.evaluation.group import GroupScores, MemberScores, Reference
from lmrc.evaluation.inputs import corpus_of, read_systems
from lmrc.evaluation.metrics.coverage import select
from lmrc.evaluation.metrics.gold_table import read_gold
from lmrc.evaluation.metrics.scores import scores_of
from lmrc.evaluation.metrics.train_facts import Facts, read_facts
from lmrc.evaluation.metrics.triple_table import Triples
from lmrc.evaluation.report.artifacts import ReportItem
from lmrc.evaluation.report.build import page_of, report_runs
from lmrc.evaluation.tables.group_tables import (
    comparison_notes,
    comparison_table,
    format_group,
    group_notes,
    system_table,
)
from lmrc.launcher.group.record import Group
from lmrc.launcher.group.reference import prediction_files
from lmrc.runs.events import History
from lmrc.runs.failures import Attempt, attempt_outcome, newest_failure
from lmrc.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)


def summarize(config: SummaryConfig) -> dict[str, Any]:
    """Score the finished members, and write scores.json and the report. Return the content of DONE.

    Raises:
        UserError: no member has finished. The message says why.
    """
    home = config.group.parent
    group = Group.read(config.group)
    unfinished = {
        member.name: why_unfinished(home / member.name)
        for member in group.members
        if RunFolder(home / member.name / "score").result() is None
    }
    if len(unfinished) == len(group.members):
        # Not in the pre-flight: the members run after it.
        raise UserError(
            "no member of the group has finished: " + "; ".join(f"{name}: {why}" for name, why in unfinished.items())
        )
    for name, why in unfinished.items():
        logger.warning("%s has not finished and is left out: %s", name, why)
    facts = read_facts(config.train, Corpus.open(config.train).relations)
    scores = _score(config, group, unfinished, facts)
    items = [ReportItem("group", "Mean and standard deviation", system_table(scores), group_notes(scores))]
    if scores.comparisons:
        items.append(ReportItem("against", "Comparison", comparison_table(scores), comparison_notes(scores)))
    runs = [home / member.name / "classify" for member in scores.members]
    report_runs(runs, config.out, facts, config.ign_variant, items=items)
    write_atomically(config.out / "scores.json", json.dumps(scores.as_json(), indent=1) + "\n")
    logger.info("scores of %s:\n%s", config.out, format_group(scores))
    return {
        "f1": scores.systems[0].mean["f1"] if len(scores.systems) == 1 else None,
        "members": [member.name for member in scores.members],
        "unfinished": unfinished,
        "group": group.fingerprint,
        "report": str(page_of(config.out)),
    }


def _score(config: SummaryConfig, group: Group, unfinished: dict[str, str], facts: Facts) -> GroupScores:
    """Score the finished members, and the runs that they are compared with, on the same documents."""
    home = config.group.parent
    finished = [member for member in group.members if member.name not in unfinished]
    inside = {member.name for member in group.members if group.against in (member.name, member.system)}
    outside = prediction_files(Path(group.against)) if group.against is not None and not inside else []
    runs = [home / member.name / "classify" for member in finished]
    selection = select(read_gold(corpus_of(runs)), read_systems([*runs, *outside]))
    for line in selection.lines:
        logger.info(line)
    scores = scores_of(Triples.of(selection.gold, selection.predictions), facts, config.ign_variant)
    members = [
        MemberScores(member.name, member.system, member.seed, member.options, own)
        for member, own in zip(finished, scores, strict=False)
    ]
    reference: Reference | None = None
    if group.against is not None:
        compared = [member for member in members if member.name in inside]
        others = scores[len(members) :]
        if missing := sorted(inside - {member.name for member in compared}):
            logger.warning("--against %s: %s has not finished", group.against, ", ".join(missing))
        if compared or others:
            own = [member.scores for member in compared]
            reference = Reference(group.against, own or others, frozenset(member.name for member in compared))
    return GroupScores(members, unfinished, reference)


def why_unfinished(member: Path) -> str:
    """Return the step of a member that failed first with its cause, and the steps that have not failed themselves."""
    steps = [path.parent for path in sorted(member.glob("*/config.yaml")) if not (path.parent / "DONE").exists()]
    failures = {step: failure for step in steps if (failure := _last_failure(step)) is not None}
    parts = []
    if failures:
        step, (_, cause) = min(failures.items(), key=lambda item: item[1][0])
        parts.append(f"{step.name} failed: {cause}")
    if others := [step.name for step in steps if step not in failures]:
        parts.append(f"{', '.join(others)} not finished")
    return "; ".join(parts) or "it was not started"


def _last_failure(step: Path) -> tuple[float, str] | None:
    """Return the time and the cause of the step's last failure; None if it has not failed."""
    found = []
    for event in History(step).read():
        if event["event"] in ("failed", "cancelled", "stopped"):
            found.append((datetime.fromisoformat(event["time"]).timestamp(), str(event.get("cause") or event["event"])))
    report = newest_failure(step)
    if report is not None:
        cause = attempt_outcome(step, Attempt(report.job, report.restart)).cause
        found.append((report.time, cause))
    return max(found, default=None)
