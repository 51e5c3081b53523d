"""Run folders as the report sees them: predictions with their gold documents, learning curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lmrc.config import IgnVariant
from lmrc.corpus.statistics import statistics
from lmrc.durable import write_atomically
from lmrc.errors import UserError
from lmrc.evaluation.evaluated import Evaluated, read_evaluated
from lmrc.evaluation.facts import Facts
from lmrc.evaluation.figures import Series, learning_curves, read_curves, relation_bars
from lmrc.evaluation.metrics import Scores
from lmrc.evaluation.report import Section, documents_section, figure_section, table_section, write_report
from lmrc.evaluation.tables import relation_table, remarks, score_table, statistics_table

CURVES = ("loss", "dev_f1", "dev_loss")


def curves_of(folders: Sequence[Path]) -> list[tuple[str, dict[str, Series]]]:
    """The learning curves of those runs that trained."""
    return [(folder.name, read_curves(folder / "metrics.jsonl")) for folder in folders if _trained(folder)]


def _trained(folder: Path) -> bool:
    return (folder / "metrics.jsonl").exists()


def sections(evaluated: Sequence[Evaluated], trained: Sequence[Path]) -> list[Section]:
    """The parts of the report: scores, relations, learning curves, data, documents (of the first run)."""
    parts: list[Section] = []
    if evaluated:
        first = evaluated[0]
        parts.append(
            table_section("Scores", score_table([(run.name, run.scores) for run in evaluated]), remarks(first.scores))
        )
        parts.append(figure_section("F1 by relation", relation_bars(first.scores, first.relations), first.name))
        parts.append(table_section("Relations", relation_table(first.scores, first.relations)))
    for name, curves in curves_of(trained):
        parts.append(figure_section(f"Learning curves: {name}", learning_curves([(name, curves)], CURVES)))
    if evaluated:
        parts.append(table_section("Data", statistics_table([(first.name, statistics(first.documents))])))
        parts.append(documents_section("Documents", first.documents, first.predictions, first.relations))
    return parts


def report_runs(
    runs: Sequence[Path], out: Path, facts: Facts | None = None, ign_variant: IgnVariant = "docred"
) -> list[Evaluated]:
    """Write the page of these run folders. Returns those that classified, in order.

    Raises UserError where none of them holds predictions or metrics.
    """
    found = (read_evaluated(folder, facts, ign_variant) for folder in runs)
    evaluated = [run for run in found if run is not None]
    trained = [folder for folder in runs if _trained(folder)]
    if not evaluated and not trained:
        raise UserError(f"nothing to report: {', '.join(map(str, runs))} hold neither predictions nor metrics yet")
    write_report(out, "LMRC report", *sections(evaluated, trained))
    return evaluated


def write_scores(path: Path, scores: Scores) -> None:
    """All figures, for programs."""
    write_atomically(path, json.dumps(scores.as_json(), indent=1) + "\n")


def told(name: str, scores: Scores) -> str:
    """The scores for people: table, remarks, and F1 in the last line."""
    return "\n".join([score_table([(name, scores)]).text(), *remarks(scores), f"F1 {scores.all.f1:.2f}"])
