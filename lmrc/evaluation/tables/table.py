"""Tables: built once, rendered as aligned plain text, Markdown, HTML or CSV; as LaTeX by `lmrc.evaluation.tables.latex`."""

from __future__ import annotations

import csv
import html
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from lmrc.corpus.relations import RelationSet
from lmrc.evaluation.metrics.scores import Scores
from lmrc.evaluation.paper_scores import ABSENT


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text. The first `labels` columns are words, set left; the others numbers, set right.

    A row of one cell heads the rows below it.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1

    def text(self) -> str:
        """Aligned plain text; lines do not end in spaces."""
        lines = [line for line in (self.header, *self.rows) if not self.heads(line)]
        widths = [max(len(one_line(line[column])) for line in lines) for column in range(len(self.header))]

        def aligned(line: tuple[str, ...]) -> str:
            if self.heads(line):
                return f"[{one_line(line[0])}]"
            cells = (
                one_line(cell).ljust(width) if column < self.labels else one_line(cell).rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            return "  ".join(cells).rstrip()

        rule = "  ".join("-" * width for width in widths)
        return "\n".join([aligned(self.header), rule, *map(aligned, self.rows)])

    def markdown(self) -> str:
        """A table of GitHub's Markdown."""
        rule = tuple("---" if column < self.labels else "---:" for column in range(len(self.header)))
        lines = [tuple(one_line(cell).replace("|", "\\|") for cell in line) for line in (self.header, *self.rows)]
        # Markdown has no heads of rows: a cell in bold type, and empty ones.
        whole = [(f"**{line[0]}**", *[""] * (len(rule) - 1)) if self.heads(line) else line for line in lines]
        return "\n".join(f"| {' | '.join(line)} |" for line in (whole[0], rule, *whole[1:]))

    def html(self) -> str:
        """A `<table>`, cells escaped: the first of a row is its heading, those of numbers have the class `number`."""
        head = "".join(f'<th scope="col"{self._number(i)}>{html.escape(c)}</th>' for i, c in enumerate(self.header))
        body = "".join(f"<tr>{self._html_row(row)}</tr>\n" for row in self.rows)
        return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"

    def csv(self) -> str:
        """Comma-separated values; where rows have heads, these are a first column of their own."""
        grouped = any(map(self.heads, self.rows))
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["group", *self.header] if grouped else self.header)
        group = ""
        for row in self.rows:
            if self.heads(row):
                group = row[0]
            else:
                writer.writerow([group, *row] if grouped else row)
        return text.getvalue()

    def heads(self, row: tuple[str, ...]) -> bool:
        """Whether a row heads those below it."""
        return len(row) == 1 < len(self.header)

    def _html_row(self, row: tuple[str, ...]) -> str:
        first, *others = (html.escape(cell) for cell in row)
        if self.heads(row):
            return f'<th scope="colgroup" colspan="{len(self.header)}">{first}</th>'
        cells = "".join(f"<td{self._number(i)}>{cell}</td>" for i, cell in enumerate(others, 1))
        return f'<th scope="row">{first}</th>{cells}'

    def _number(self, column: int) -> str:
        return ' class="number"' if column >= self.labels else ""


def score_table(rows: Sequence[tuple[str, Scores]]) -> Table:
    """One row a system: P, R, F1, Ign F1, intra and inter F1, in percent (tables 3 and 4 of the paper)."""
    return Table(
        ("", "P", "R", "F1", "Ign F1", "Intra F1", "Inter F1"),
        tuple(
            (name, *map(two_digits, (s.all.precision, s.all.recall, s.all.f1, s.ign_f1, s.intra.f1, s.inter.f1)))
            for name, s in rows
        ),
    )


def relation_table(scores: Scores, relations: RelationSet) -> Table:
    """One row a relation that is gold or predicted, the most frequent gold one first (tables 9 and 10)."""
    present = [(id, counts) for id, counts in scores.per_relation.items() if counts.gold or counts.predicted]
    present.sort(key=lambda item: (-item[1].gold, relations.index(item[0])))
    return Table(
        ("Relation", "Name", "P", "R", "F1", "Gold", "Predicted"),
        tuple(
            (id, relations.name(id), *map(two_digits, (c.precision, c.recall, c.f1)), f"{c.gold:,}", f"{c.predicted:,}")
            for id, c in present
        ),
        labels=2,
    )


def coverage(scores: Scores) -> str | None:
    """Say for how many documents there are predictions; None if for all."""
    without = scores.documents - scores.documents_with_predictions
    if not without:
        return None
    others = "the other one counts as a document" if without == 1 else f"the other {without:,} count as documents"
    return (
        f"Predictions for {scores.documents_with_predictions:,} of {scores.documents:,} gold documents: "
        f"{others} in which nothing was found."
    )


def remarks(scores: Scores) -> list[str]:
    """What a reader must know to trust the scores, as sentences: the facts used, predictions that cannot be right."""
    if scores.facts is None:
        lines = ["No Ign F1: no training facts were given."]
    else:
        facts = scores.facts
        lines = [
            f"Ign F1 ({scores.ign_variant}) leaves out {scores.correct_in_train:,} of {scores.all.correct:,} correct "
            f"predictions: those among the {len(facts.triples):,} facts of {facts.named}."
        ]
    lines += [f"Warning: {misfit}." for misfit in scores.facts_warnings]
    if scores.duplicates:
        lines.append(f"{_predictions(scores.duplicates)} given again; each counts once.")
    words = {
        "unknown_title": "for a title that is not in the gold documents",
        "unknown_entity": "with an entity index that the document does not have",
        "same_entity": "with the same entity as head and tail",
        "unknown_relation": "with a relation outside the relation set",
    }
    for kind, example in scores.examples.items():
        shown = f"({example.title!r}, {example.head}, {example.tail}, {example.relation!r})"
        lines.append(f"{_predictions(scores.problems[kind])} {words[kind]}, such as {shown}: wrong.")
    if 2 * scores.problems["unknown_title"] > scores.all.predicted:
        lines.append("Warning: most predictions are for titles that are not there: are these their gold documents?")
    return lines


def _predictions(count: int) -> str:
    return "1 prediction" if count == 1 else f"{count:,} predictions"


def two_digits(value: float | None) -> str:
    """With two digits, as the paper prints."""
    return ABSENT if value is None else f"{value:.2f}"


def one_line(cell: str) -> str:
    """A cell, or any text, on one line."""
    return " ".join(cell.split())
