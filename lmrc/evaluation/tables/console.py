"""What `lmrc score` and `lmrc compare` show to people and write for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from statistics import mean, stdev
from typing import Any

from lmrc.corpus.relations import RelationSet
from lmrc.evaluation.metrics.compare import CHANGES, Comparison
from lmrc.evaluation.metrics.counts import Counts
from lmrc.evaluation.metrics.error_analysis import CAUSES, Analysis
from lmrc.evaluation.metrics.scores import Scores
from lmrc.evaluation.metrics.splits import Split
from lmrc.evaluation.tables.table import Table, coverage, relation_table, remarks, score_table, two_digits

HEADLINE = {
    "P": "precision",
    "R": "recall",
    "F1": "f1",
    "Ign F1": "ign_f1",
    "Intra F1": "intra_f1",
    "Inter F1": "inter_f1",
}
"""The columns of `score_table` by their names for programs."""


def format_scores(
    names: Sequence[str],
    scores: Sequence[Scores],
    analysis: Analysis | None,
    relations: RelationSet,
    details: bool,
    selected: Sequence[str] = (),
) -> str:
    """Show the scores of one system with their intervals, or of several seeds with mean and standard deviation.

    The first lines, `selected` among them, say which documents the scores are over, if not all have predictions. The
    last line is the figure. `analysis`, and all that `details` adds, are of a single system.
    """
    table = score_table(list(zip(names, scores, strict=True)))
    if len(scores) > 1:
        spread = spread_of(scores)
        rows = tuple(
            (word, *(two_digits(spread[key].get(name)) for name in HEADLINE.values()))
            for word, key in (("mean", "mean"), ("standard deviation", "standard_deviation"))
        )
        f1 = f"{spread['mean']['f1']:.2f} ± {spread['standard_deviation']['f1']:.2f}"
        last = f"F1 {f1}, mean and standard deviation of {len(scores)}"
    else:
        intervals = scores[0].intervals
        rows = tuple(
            (word, *(two_digits(intervals[name][end] if name in intervals else None) for name in HEADLINE.values()))
            for end, word in enumerate(("95 % from", "95 % to"))
        )
        last = f"F1 {scores[0].all.f1:.2f}"
    parts = [*_documents_told(names, scores, selected), Table(table.header, (*table.rows, *rows)).text()]
    if len(scores) == 1:
        others = [
            ("Intra-sentence", scores[0].intra),
            ("Inter-sentence", scores[0].inter),
            ("Evidence", scores[0].evidence),
            ("RCP (pairs)", analysis.proposed if analysis else None),
        ]
        shown = [(name, counts) for name, counts in others if counts is not None]
        if shown:
            parts.append(_counts_table("", shown).text())
        if details:
            parts += [_split_table(split).text() for split in scores[0].splits]
            parts.append(relation_table(scores[0], relations).text())
    if analysis is not None:
        parts.append("\n".join(_analysis(analysis)))
    return "\n\n".join([*parts, "\n".join([*_remarks(names, scores), last])])


def scores_json(
    names: Sequence[str], scores: Sequence[Scores], analyses: Sequence[Analysis], left_out: int = 0
) -> dict[str, Any]:
    """Return all figures of one system, or those of several under `runs` with their mean and standard deviation.

    `left_out` gold documents were not scored.
    """
    runs = [
        {**one.as_json(), "documents_left_out": left_out, "analysis": why.as_json()}
        for one, why in zip(scores, analyses, strict=True)
    ]
    if len(runs) == 1:
        return runs[0]
    return {"runs": [{"name": name, **run} for name, run in zip(names, runs, strict=True)], **spread_of(scores)}


def spread_of(scores: Sequence[Scores]) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation of every metric, in percent, over two seeds or more."""
    whole = [one.by_document.whole() for one in scores]
    return {
        "mean": {name: mean(run[name] for run in whole) for name in whole[0]},
        "standard_deviation": {name: stdev(run[name] for run in whole) for name in whole[0]},
    }


def format_comparison(names: Sequence[str], comparison: Comparison, selected: Sequence[str] = ()) -> str:
    """Show both scores with their difference, and how many triples changed.

    The first lines say which documents were compared, as in `format_scores`. The last line is the figure.
    """
    table = Table(
        ("", "First", "Second", "Difference", "95 % from", "95 % to", "p"),
        tuple(
            (word, two_digits(d.first), two_digits(d.second), f"{d.value:+.2f}", *(f"{end:+.2f}" for end in d.interval),
             f"{d.p:.3f}")
            for word, name in HEADLINE.items()
            if (d := comparison.differences.get(name)) is not None
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
    first = _documents_told(names, comparison.scores, selected)
    return "\n\n".join([*first, table.text(), changes.text(), "\n".join([*lines, last])])


def _documents_told(names: Sequence[str], scores: Sequence[Scores], selected: Sequence[str]) -> list[str]:
    """A paragraph on the documents that are not scored or have no prediction; none if there are no such documents."""
    several = len(names) > 1
    told = [
        f"{name}: {line}" if several else line
        for name, one in zip(names, scores, strict=True)
        if (line := coverage(one)) is not None
    ]
    return ["\n".join([*selected, *told])] if selected or told else []


def _examples(comparison: Comparison) -> Iterator[str]:
    """The first triple of each kind of change."""
    for change, words in CHANGES.items():
        for found in islice(comparison.changed(change), 1):
            triple = f"{found.head_name} | {found.relation_name or found.relation} | {found.tail_name}"
            yield f"{words[0].upper()}{words[1:]}, such as: {triple} ({found.title})."


def _remarks(names: Sequence[str], scores: Sequence[Scores]) -> list[str]:
    """What holds for all systems once, the rest with the name of the system."""
    told = []
    for one in scores:
        lines = remarks(one)
        if one.unknown_sentences:
            sentences = "1 sentence" if one.unknown_sentences == 1 else f"{one.unknown_sentences:,} sentences"
            lines.append(f"Evidence names {sentences} that the document does not have: wrong.")
        told.append(lines)
    shared = [line for line in told[0] if all(line in lines for lines in told)]
    own = [f"{name}: {line}" for name, lines in zip(names, told, strict=True) for line in lines if line not in shared]
    return [*shared, *own]


def _analysis(analysis: Analysis) -> list[str]:
    losses = Table(
        ("Where F1 is lost", "Missed", "Wrong", "F1 without it"),
        tuple(
            (CAUSES[loss.cause], f"{loss.missed:,}", f"{loss.wrong:,}", two_digits(loss.counts_if_fixed.f1))
            for loss in analysis.losses
            if loss.missed or loss.wrong
        ),
    )
    lines = [losses.text(), ""]
    if analysis.proposed is None:
        lines.append("Without --candidates a pair counts as proposed where it was given a relation.")
    elif analysis.unproposed:
        lines.append(
            f"{analysis.unproposed:,} predictions are for pairs that were not proposed: are these their candidates?"
        )
    if analysis.perfect_rcp is not None:
        lines.append(
            f"If RCP were perfect: F1 {analysis.perfect_rcp:.2f} (no false pairs, RC's answers on the gold pairs it "
            "saw, the other gold pairs answered as well as these)."
        )
    lines.append(
        f"If RC were perfect: F1 {analysis.perfect_rc:.2f} (gold relations for every proposed gold pair, false pairs "
        f"answered as now), {analysis.perfect_rc_with_none:.2f} if it left false pairs without an answer."
    )
    return lines


def _split_table(split: Split) -> Table:
    filled = [(part.replace("_", " "), counts) for part, counts in split.parts.items() if counts != Counts()]
    return _counts_table(split.meaning, filled)


def _counts_table(heading: str, rows: Sequence[tuple[str, Counts]]) -> Table:
    return Table(
        (heading, "P", "R", "F1", "Gold", "Predicted"),
        tuple(
            (name, *map(two_digits, (c.precision, c.recall, c.f1)), f"{c.gold:,}", f"{c.predicted:,}")
            for name, c in rows
        ),
    )
