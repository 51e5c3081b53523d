"""Console output and JSON of `lmrc score` and `lmrc compare`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from statistics import mean, stdev
from typing import Any

from lmrc.corpus.relations import RelationSet
from lmrc.evaluation.metrics.compare import CHANGES, Comparison
from lmrc.evaluation.metrics.error_analysis import Analysis
from lmrc.evaluation.metrics.registry import COLUMN_METRICS, Counts
from lmrc.evaluation.metrics.scores import Scores
from lmrc.evaluation.metrics.splits import Split
from lmrc.evaluation.tables.run_tables import error_table
from lmrc.evaluation.tables.table import (
    Table,
    counts_cells,
    coverage,
    relation_table,
    remarks,
    score_table,
    shared_then_own,
)


def format_scores(
    names: Sequence[str],
    scores: Sequence[Scores],
    analysis: Analysis | None,
    relations: RelationSet,
    details: bool,
    selected: Sequence[str] = (),
) -> str:
    """Return the scores of one system with intervals, or of several seeds with mean and standard deviation.

    The last line starts with F1.

    Args:
        analysis: error analysis of a single system.
        details: add the splits and the relations of a single system.
        selected: messages that say which documents are scored; they come first.
    """
    table = score_table(list(zip(names, scores, strict=True)))
    if len(scores) > 1:
        spread = mean_and_deviation(scores)
        rows = [
            (label, *(metric.format(spread[key].get(metric.name)) for metric in COLUMN_METRICS))
            for label, key in (("mean", "mean"), ("standard deviation", "standard_deviation"))
        ]
        f1 = f"{spread['mean']['f1']:.2f} ± {spread['standard_deviation']['f1']:.2f}"
        last = f"F1 {f1}, mean and standard deviation of {len(scores)}"
    else:
        bounds = [scores[0].intervals.get(metric.name, (None, None)) for metric in COLUMN_METRICS]
        rows = [
            (label, *(metric.format(bound[end]) for metric, bound in zip(COLUMN_METRICS, bounds, strict=True)))
            for end, label in enumerate(("95 % from", "95 % to"))
        ]
        last = f"F1 {scores[0].all.f1:.2f}"
    parts = [*_coverage_lines(names, scores, selected), Table(table.header, (*table.rows, *rows)).text()]
    if len(scores) == 1:
        counts_by_name = {
            "Intra-sentence": scores[0].intra,
            "Inter-sentence": scores[0].inter,
            "Evidence": scores[0].evidence,
            "RCP (pairs)": analysis.proposed if analysis else None,
        }
        parts.append(_counts_table("", [(n, counts) for n, counts in counts_by_name.items() if counts is not None]))
        if details:
            parts += [_split_table(split) for split in scores[0].splits]
            parts.append(relation_table(scores[0], relations).text())
    if analysis is not None:
        parts.append("\n".join(_analysis_lines(analysis)))
    return "\n\n".join([*parts, "\n".join([*_remarks(names, scores), last])])


def scores_json(
    names: Sequence[str], scores: Sequence[Scores], analyses: Sequence[Analysis], left_out: int = 0
) -> dict[str, Any]:
    """Return the scores of one system, or of several under "runs" with their mean and standard deviation.

    `left_out` is the number of gold documents that are not scored.
    """
    runs = [
        {**system_scores.as_json(), "documents_left_out": left_out, "analysis": analysis.as_json()}
        for system_scores, analysis in zip(scores, analyses, strict=True)
    ]
    if len(runs) == 1:
        return runs[0]
    named = [{"name": name, **run} for name, run in zip(names, runs, strict=True)]
    return {"runs": named, **mean_and_deviation(scores)}


def mean_and_deviation(scores: Sequence[Scores]) -> dict[str, dict[str, float]]:
    """Return mean and sample standard deviation of each metric that has an interval, over at least two seeds."""
    values = [system_scores.by_document.whole() for system_scores in scores]
    return {
        "mean": {name: mean(run[name] for run in values) for name in values[0]},
        "standard_deviation": {name: stdev(run[name] for run in values) for name in values[0]},
    }


def format_comparison(names: Sequence[str], comparison: Comparison, selected: Sequence[str] = ()) -> str:
    """Return both scores with their differences, and the number of changed triples.

    `selected` are messages that say which documents are scored. The last line starts with F1.
    """
    table = Table(
        ("", "First", "Second", "Difference", "95 % from", "95 % to", "p"),
        tuple(
            (metric.column, metric.format(d.first), metric.format(d.second), f"{d.value:+.2f}",
             *(f"{end:+.2f}" for end in d.interval), f"{d.p:.3f}")
            for metric in COLUMN_METRICS
            if (d := comparison.differences.get(metric.name)) is not None
        ),
    )  # fmt: skip
    changes = Table(
        ("Triples", "Number"),
        tuple((CHANGES[change], f"{count:,}") for change, count in comparison.counts().items()),
    )
    lines = [f"First: {names[0]}. Second: {names[1]}.", *_examples(comparison), *_remarks(names, comparison.scores)]
    f1 = comparison.differences.get("f1")
    if f1 is None:
        last = "F1 +0.00: there are no documents"
    else:
        verdict = "significant" if f1.significant else "not significant"
        last = f"F1 {f1.value:+.2f}: {verdict} (paired bootstrap over documents, p = {f1.p:.3f})"
    first = _coverage_lines(names, comparison.scores, selected)
    return "\n\n".join([*first, table.text(), changes.text(), "\n".join([*lines, last])])


def _coverage_lines(names: Sequence[str], scores: Sequence[Scores], selected: Sequence[str]) -> list[str]:
    """Return a paragraph about documents that are not scored or have no prediction; an empty list without any."""
    lines = [
        f"{name}: {line}" if len(names) > 1 else line
        for name, system_scores in zip(names, scores, strict=True)
        if (line := coverage(system_scores)) is not None
    ]
    return ["\n".join([*selected, *lines])] if selected or lines else []


def _examples(comparison: Comparison) -> Iterator[str]:
    """Yield a sentence with the first triple of each kind of change."""
    for change, words in CHANGES.items():
        for changed in islice(comparison.changed(change), 1):
            triple = f"{changed.head_name} | {changed.relation_name or changed.relation} | {changed.tail_name}"
            yield f"{words[0].upper()}{words[1:]}, such as: {triple} ({changed.title})."


def _remarks(names: Sequence[str], scores: Sequence[Scores]) -> list[str]:
    remarks_by_system = []
    for system_scores in scores:
        lines = remarks(system_scores)
        if unknown := system_scores.unknown_sentences:
            sentences = "1 sentence" if unknown == 1 else f"{unknown:,} sentences"
            lines.append(f"Evidence names {sentences} that the document does not have: wrong.")
        remarks_by_system.append(lines)
    return shared_then_own(names, remarks_by_system)


def _analysis_lines(analysis: Analysis) -> list[str]:
    lines = [error_table(analysis, "Where F1 is lost", only_present=True).text(), ""]
    if analysis.proposed is None:
        lines.append("Without --candidates a pair counts as proposed if it has a prediction.")
    elif analysis.unproposed:
        lines.append(
            f"{analysis.unproposed:,} predictions are for pairs that were not proposed: are these their candidates?"
        )
    if analysis.perfect_rcp is not None:
        lines.append(
            f"If RCP were perfect: F1 {analysis.perfect_rcp:.2f} (no false pairs; RC answers the gold pairs that were "
            "not proposed as well as those that were)."
        )
    lines.append(
        f"If RC were perfect: F1 {analysis.perfect_rc:.2f} (gold relations for every proposed gold pair, false pairs "
        f"answered as now), {analysis.perfect_rc_with_none:.2f} if it left false pairs without an answer."
    )
    return lines


def _split_table(split: Split) -> str:
    parts = [(part.replace("_", " "), counts) for part, counts in split.parts.items() if counts != Counts()]
    return _counts_table(split.meaning, parts)


def _counts_table(heading: str, rows: Sequence[tuple[str, Counts]]) -> str:
    header = (heading, "P", "R", "F1", "Gold", "Predicted")
    return Table(header, tuple((name, *counts_cells(counts)) for name, counts in rows)).text()
