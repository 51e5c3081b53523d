"""Every table and figure of some runs, and their files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmrc.common.json_stream import replacing, write_bytes
from lmrc.evaluation.metrics.confusion import confusion
from lmrc.evaluation.paper_scores import ABSENT
from lmrc.evaluation.plots.figures import (
    MANY_STEPS,
    alignment,
    learning_curves,
    precision_recall,
    relation_bars,
    split_bars,
)
from lmrc.evaluation.plots.heatmaps import confusion_heatmap, relation_heatmap
from lmrc.evaluation.plots.read_curves import (
    CALIBRATION,
    METRICS,
    SWEEP,
    Calibration,
    Series,
    read_calibration,
    read_curves,
    read_sweep,
)
from lmrc.evaluation.plots.style import Plot
from lmrc.evaluation.scored_run import ScoredRun
from lmrc.evaluation.tables.latex import latex
from lmrc.evaluation.tables.paper_comparison import paper_tables, relations_table, runs_by_relation
from lmrc.evaluation.tables.run_tables import by_data, ceiling_table, labels_of, loss_table, split_table, summary_table
from lmrc.evaluation.tables.table import Table, coverage, relation_table, remarks

WORDS = re.compile(r"[^\w.]+")
"""What stands between the words of a data set's name; a dash in names of files."""

PUBLISHED = "a whole dev or test set of DocRED or Re-DocRED (known by the figures of table 1)"
"""The documents of a run that can stand in the paper's tables."""

CURVES = ("loss", "dev_f1", "dev_loss")


@dataclass(frozen=True, slots=True)
class ReportItem:
    """A table or figure with its title, what must be said of it, and the name of its files."""

    name: str
    title: str
    content: Table | Plot
    notes: tuple[str, ...] = ()
    caption: str = ""
    """In LaTeX, which numbers its tables itself; the title where it is empty."""


def summary(runs: Sequence[ScoredRun]) -> list[ReportItem]:
    """Return the scores of the runs, side by side."""
    if not runs:
        return []
    notes = ["In brackets: 95 % of 1,000 samples of the documents, drawn with replacement, score between these."]
    if len(by_data(runs)) > 1:
        notes.append("The runs are on different documents (row Data): their scores cannot be compared with each other.")
    elsewhere = [run.name for run in runs if run.published is None]
    if len(elsewhere) == len(runs):
        notes.append(f"The paper's tables are left out: no run is on {PUBLISHED}.")
    elif elsewhere:
        notes.append(f"The paper's tables are without {', '.join(elsewhere)}: not on {PUBLISHED}.")
    told = [[line for line in (coverage(run.scores), *remarks(run.scores)) if line is not None] for run in runs]
    notes += [line for line in told[0] if all(line in lines for lines in told)]
    for run, lines in zip(runs, told, strict=True):
        notes += [f"{run.name}: {line}" for line in lines if line not in notes]
    kinds = (
        "A part has the triples that belong to it, gold or predicted; predictions that cannot be right have none.",
    )
    return [
        ReportItem("scores", "Scores", summary_table(runs), tuple(notes)),
        ReportItem("splits", "F1 by kind of triple", split_table(runs), kinds),
        *(_of(run, runs, "relations", "Relations", relation_table(run.scores, run.relations)) for run in runs),
    ]


def paper(runs: Sequence[ScoredRun]) -> list[ReportItem]:
    """Return the paper's tables with those runs that are on one of its data sets; none if there is no such run."""
    ours = [run for run in runs if run.published is not None]
    if not ours:
        return []
    return [
        ReportItem(
            f"table-{source.number.replace('/', '-')}",
            f"{'Tables' if '/' in source.number else 'Table'} {source.number.replace('/', ' and ')}: {source.caption}",
            table,
            (source.note,) if source.note else (),
            f"{source.caption}: table {source.number} of the paper, and our runs",
        )
        for source, table in paper_tables(ours)
    ]


def figures(runs: Sequence[ScoredRun], folders: Mapping[str, Path]) -> Iterator[ReportItem]:
    """The figures that these runs have data for; `folders` are of all runs by name, also of those that only trained."""
    ours = [run for run in runs if run.published is not None]
    if any(run.scores.all.gold for run in ours):
        yield ReportItem(
            "figure-2",
            "Figure 2: F1 by relation and system",
            relation_heatmap(_present(relations_table(ours), len(ours))),
            ("Darker is better; white: nothing correct. The paper's scores and order are those of DocRED dev.",),
        )
    others = [run for run in runs if run.published is None]
    if len(others) > 1 and any(run.scores.all.gold for run in others):
        yield ReportItem(
            "f1-by-relation-and-run",
            "F1 by relation and run",
            relation_heatmap(_present(runs_by_relation(others), len(others))),
            ("Darker is better; white: nothing correct.",),
        )
    labels = dict(zip([run.name for run in runs], labels_of(runs), strict=True))
    sweeps = [
        (labels.get(name, name), read_sweep(folder / SWEEP))
        for name, folder in folders.items()
        if (folder / SWEEP).exists()
    ]
    if sweeps:
        yield ReportItem(
            "figure-3",
            "Figure 3: F1 over the threshold of alignment",
            alignment(sweeps),
            ("The points of the paper's curves are not printed; its text says where the LM alone is best.",),
        )
    models = list(_models(runs, folders))
    if models:
        yield ReportItem("rcp", "Precision and recall of RCP on dev", precision_recall(models))
    yield from _split_figures(by_data(runs))
    for run in runs:
        if run.scores.all.gold:
            yield _of(run, runs, "f1-by-relation", "F1 by relation", relation_bars(run.scores, run.relations))
        counts = confusion(run.documents, run.predictions)
        if counts:
            yield _of(run, runs, "confusion", "Confusion between relations", confusion_heatmap(counts, run.relations), (
                "Gold against predicted relations of the same pair of entities. Where a pair misses some relations and "
                "has wrong ones, each missed one counts against each wrong one. Shades are shares of the row.",
            ))  # fmt: skip
    for name, curves in curves_of(folders):
        yield ReportItem(f"learning-{name}", f"Learning curves: {name}", learning_curves([(name, curves)], CURVES), (
            "Where many steps are logged, the line is a running mean; the steps themselves are faint.",
        ) if any(len(curves.get(metric, ())) > MANY_STEPS for metric in CURVES) else ())  # fmt: skip


def _present(table: Table, runs: int) -> Table:
    """The rows of those relations that one of the runs, the last columns, has a score of."""
    rows = tuple(row for row in table.rows if any(cell != ABSENT for cell in row[-runs:]))
    return Table(table.header, rows, table.labels)


def _split_figures(groups: Mapping[str, Sequence[ScoredRun]]) -> Iterator[ReportItem]:
    """F1 by kind of triple: a figure for each kind and data set, for each has gold triples of its own."""
    for data, runs in groups.items():
        for place, split in enumerate(runs[0].scores.splits):
            parts = [(run.name, run.scores.splits[place].parts) for run in runs]
            if not any(c.gold or c.predicted for _, counts in parts for c in counts.values()):
                continue
            words = split.name.replace("_", " ")
            name, title = f"f1-by-{split.name.replace('_', '-')}", f"F1 by {words}"
            if len(groups) > 1:
                name, title = f"{name}-{WORDS.sub('-', data)}", f"{title}: {data}"
            meaning = f"{split.meaning[0].upper()}{split.meaning[1:]}."
            yield ReportItem(name, title, split_bars(words, parts), (meaning,))


def errors(runs: Sequence[ScoredRun]) -> list[ReportItem]:
    """Where F1 is lost, and how far each stage could bring it."""
    if not runs:
        return []
    told = (
        "Each row supposes one stage perfect and the other as it is; the pairs that RC has not seen are taken to be "
        "answered as well as those it saw.",
    )
    found = [ReportItem("ceilings", "How far F1 could go", ceiling_table(runs), told)]
    for run in runs:
        notes = []
        if run.candidates is None:
            notes.append("RCP's candidates are not known: a pair without an answer counts as not proposed.")
        elif run.analysis.unproposed:
            notes.append(f"{run.analysis.unproposed:,} predictions are for pairs that were not proposed.")
        found.append(_of(run, runs, "losses", "Where F1 is lost", loss_table(run), tuple(notes)))
    return found


def curves_of(folders: Mapping[str, Path]) -> list[tuple[str, dict[str, Series]]]:
    """The learning curves of those runs that trained."""
    logs = {name: folder / METRICS for name, folder in folders.items()}
    found = [(name, read_curves(log)) for name, log in logs.items() if log.exists()]
    return [(name, curves) for name, curves in found if any(curves.get(metric) for metric in CURVES)]


def write_report_items(folder: Path, exhibits: Iterable[ReportItem]) -> list[Path]:
    """Tables as text, LaTeX and CSV, figures as SVG and PNG, below tables/ and figures/.

    Returns the files there that are none of these, such as those of an earlier report about other runs. Raises
    UserError where a file cannot be written.
    """
    tables, figures = folder / "tables", folder / "figures"
    written: set[Path] = set()
    for exhibit in exhibits:
        content, name = exhibit.content, exhibit.name.replace("/", "-")  # a run may be named by two folders
        below = "".join(f"\n{note}" for note in exhibit.notes)
        if isinstance(content, Table):
            forms = {
                "txt": f"{exhibit.title}\n\n{content.text()}\n{below}".rstrip() + "\n",
                "tex": latex(content, exhibit.caption or exhibit.title, exhibit.name, exhibit.notes),
                "csv": content.csv(),
            }
            for ending, text in forms.items():
                with replacing(tables / f"{name}.{ending}") as file:
                    file.write(text)
                written.add(tables / f"{name}.{ending}")
        else:
            with replacing(figures / f"{name}.svg") as file:
                file.write(content.svg)
            write_bytes(figures / f"{name}.png", content.png())
            written |= {figures / f"{name}.svg", figures / f"{name}.png"}
    return sorted({*tables.glob("*"), *figures.glob("*")} - written)


def _of(
    run: ScoredRun,
    runs: Sequence[ScoredRun],
    name: str,
    title: str,
    content: Table | Plot,
    notes: tuple[str, ...] = (),
) -> ReportItem:
    """What is about one run has its name where there are others."""
    alone = len(runs) == 1
    return ReportItem(
        name if alone else f"{name}-{run.name}", title if alone else f"{title}: {run.name}", content, notes
    )


def _models(runs: Sequence[ScoredRun], folders: Mapping[str, Path]) -> Iterator[tuple[str, Calibration, list[float]]]:
    """The RCP models among the runs and behind them, each once, with the thresholds that were used."""
    used: dict[Path, set[float]] = {}
    for run in runs:
        if run.rcp is not None:
            used.setdefault(run.rcp.resolve(), set()).update([] if run.threshold is None else [run.threshold])
    named = {(folder / "best").resolve(): name for name, folder in folders.items()}
    for model in used:
        named.setdefault(model, model.parent.name if model.name == "best" else model.name)
    for model, name in named.items():
        if (model / CALIBRATION).exists():
            calibration = read_calibration(model / CALIBRATION)
            if calibration is not None:
                yield name, calibration, sorted(used.get(model, ()))
