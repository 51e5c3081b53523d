"""Tables of text cells, rendered as plain text, Markdown or CSV. LaTeX is in `latex`, HTML in the report."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from tabulate import SEPARATING_LINE, DataRow, Line, TableFormat, tabulate

from lmrc.corpus.relations import RelationSet, is_no_relation
from lmrc.evaluation.metrics.registry import COLUMN_METRICS, Counts
from lmrc.evaluation.metrics.scores import Problem, Scores
from lmrc.evaluation.paper_scores import ABSENT

# tabulate's "simple" format without the padding of headers.
TEXT_FORMAT = TableFormat(
    lineabove=None,
    linebelowheader=Line("", "-", "  ", ""),
    linebetweenrows=None,
    linebelow=None,
    headerrow=DataRow("", "  ", ""),
    datarow=DataRow("", "  ", ""),
    padding=0,
    with_header_hide=None,
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text cells. The first `labels` columns are left-aligned words, the others right-aligned numbers.

    A row of one cell is a heading of the rows below it.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1

    def text(self) -> str:
        """Return aligned plain text; lines have no trailing spaces."""
        cells = [[one_line(cell) for cell in row] for row in (self.header, *self.rows) if not self.is_heading(row)]
        alignment = ["left" if column < self.labels else "right" for column in range(len(self.header))]
        rows = [cells[0], SEPARATING_LINE, *cells[1:]]
        aligned = tabulate(rows, tablefmt=TEXT_FORMAT, disable_numparse=True, colalign=alignment)
        header, rule, *lines = (line.rstrip() for line in aligned.split("\n"))
        body = iter(lines)
        headings = [f"[{one_line(row[0])}]" if self.is_heading(row) else next(body) for row in self.rows]
        return "\n".join([header, rule, *headings])

    def markdown(self) -> str:
        """Return a table in GitHub's Markdown."""
        rule = tuple("---" if column < self.labels else "---:" for column in range(len(self.header)))
        cells = [tuple(one_line(cell).replace("|", "\\|") for cell in row) for row in (self.header, *self.rows)]
        # Markdown has no headings of rows: a bold cell and empty ones.
        lines = [(f"**{row[0]}**", *[""] * (len(rule) - 1)) if self.is_heading(row) else row for row in cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))

    def csv(self) -> str:
        """Return comma-separated values; headings of rows become a first column."""
        grouped = any(map(self.is_heading, self.rows))
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["group", *self.header] if grouped else self.header)
        group = ""
        for row in self.rows:
            if self.is_heading(row):
                group = row[0]
            else:
                writer.writerow([group, *row] if grouped else row)
        return text.getvalue()

    def is_heading(self, row: tuple[str, ...]) -> bool:
        """Return whether a row is a heading of those below it."""
        return len(row) == 1 < len(self.header)


def score_table(rows: Sequence[tuple[str, Scores]]) -> Table:
    """Return the main metrics in percent, one row per system (tables 3 and 4 of the paper)."""
    return Table(
        ("", *(metric.column for metric in COLUMN_METRICS)),
        tuple(
            (name, *(metric.format(scores.metrics[metric.name]) for metric in COLUMN_METRICS)) for name, scores in rows
        ),
    )


def relation_table(scores: Scores, relations: RelationSet) -> Table:
    """Return one row per gold or predicted relation, the most frequent gold relation first (tables 9 and 10)."""
    present = [(id, counts) for id, counts in scores.per_relation.items() if counts.gold or counts.predicted]
    present.sort(key=lambda item: -item[1].gold)
    return Table(
        ("Relation", "Name", "P", "R", "F1", "Gold", "Predicted"),
        tuple((id, relations.name(id), *counts_cells(counts)) for id, counts in present),
        labels=2,
    )


def counts_cells(counts: Counts) -> tuple[str, ...]:
    percentages = (counts.precision, counts.recall, counts.f1)
    return (*map(two_digits, percentages), f"{counts.gold:,}", f"{counts.predicted:,}")


def coverage(scores: Scores) -> str | None:
    """Return a sentence that says how many gold documents have predictions; None if all have."""
    without = scores.documents - scores.documents_with_predictions
    if not without:
        return None
    others = "the other one counts as a document" if without == 1 else f"the other {without:,} count as documents"
    return (
        f"Predictions for {scores.documents_with_predictions:,} of {scores.documents:,} gold documents: "
        f"{others} in which nothing was found."
    )


PROBLEMS: dict[Problem, str] = {
    "unknown_title": "for a title that is not in the gold documents",
    "unknown_entity": "with an entity index that the document does not have",
    "same_entity": "with the same entity as head and tail",
    "unknown_relation": "with a relation outside the relation set",
}


def remarks(scores: Scores) -> list[str]:
    """Return sentences about the training facts and about predictions that cannot be correct."""
    if scores.facts is None:
        lines = ["No Ign F1: no training facts were given."]
    else:
        facts = scores.facts
        lines = [
            f"Ign F1 ({scores.ign_variant}) leaves out {scores.correct_in_train:,} of {scores.all.correct:,} correct "
            f"predictions: those among the {len(facts.triples):,} facts of {facts.description}."
        ]
    lines += [f"Warning: {warning}." for warning in scores.facts_warnings]
    if scores.duplicates:
        lines.append(f"{_predictions(scores.duplicates)} given again; each counts once.")
    for problem, example in scores.examples.items():
        shown = f"({example.title!r}, {example.head}, {example.tail}, {example.relation!r})"
        # Some code also writes the pairs that it found no relation for.
        no_relation = problem == "unknown_relation" and is_no_relation(example.relation)
        remedy = "; leave pairs without a relation out" if no_relation else ""
        lines.append(f"{_predictions(scores.problems[problem])} {PROBLEMS[problem]}, such as {shown}: wrong{remedy}.")
    if 2 * scores.problems["unknown_title"] > scores.all.predicted:
        lines.append("Warning: most predictions are for unknown titles: are these the right gold documents?")
    return lines


def shared_then_own(names: Sequence[str], lines_by_system: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines that all systems share once, then the others with the name of their system."""
    shared = [line for line in lines_by_system[0] if all(line in lines for lines in lines_by_system)]
    own = (
        f"{name}: {line}"
        for name, lines in zip(names, lines_by_system, strict=True)
        for line in lines
        if line not in shared
    )
    return [*shared, *own]


def _predictions(count: int) -> str:
    return "1 prediction" if count == 1 else f"{count:,} predictions"


def two_digits(value: float | None) -> str:
    """Return a number with two digits, as the paper prints it."""
    return ABSENT if value is None else f"{value:.2f}"


def one_line(text: str) -> str:
    return " ".join(text.split())
