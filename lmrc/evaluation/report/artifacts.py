"""Tables and figures of a report, and their files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lmrc.common.json_stream import replacing, write_bytes
from lmrc.evaluation.metrics.confusion import confusion
from lmrc.evaluation.paper_scores import ABSENT
from lmrc.evaluation.plots import figures, read_curves
from lmrc.evaluation.plots.heatmaps import confusion_heatmap, relation_heatmap
from lmrc.evaluation.plots.read_curves import (
    CALIBRATION,
    FUSION_CURVE,
    METRICS,
    RELIABILITY,
    SWEEP,
    Calibration,
    Series,
)
from lmrc.evaluation.plots.style import Plot
from lmrc.evaluation.scored_run import ScoredRun
from lmrc.evaluation.tables import run_tables
from lmrc.evaluation.tables.latex import latex
from lmrc.evaluation.tables.paper_comparison import paper_tables, relations_table, runs_by_relation
from lmrc.evaluation.tables.run_tables import group_by_data
from lmrc.evaluation.tables.table import Table, coverage, relation_table, remarks, shared_then_own

# Characters in the name of a data set that become a dash in file names.
SEPARATORS = re.compile(r"[^\w.]+")

# Documents of a run that can be compared with the paper's tables.
PUBLISHED = "a whole dev or test set of DocRED or Re-DocRED (recognized by the statistics of table 1)"

CURVES = ("loss", "dev_f1", "dev_loss")


@dataclass(frozen=True, slots=True)
class ReportItem:
    """A table or figure of a report.

    Attributes:
        name: name of its files.
        notes: sentences below it.
        caption: caption in LaTeX, which numbers tables itself; by default the title.
        folded: whether the page folds a table; figures are folded if they are tall.
        sortable: whether the page sorts and filters the rows of a table. Columns named F1 then have bars.
        in_page: whether the page shows it; the files are always written.
    """

    name: str
    title: str
    content: Table | Plot
    notes: tuple[str, ...] = ()
    caption: str = ""
    folded: bool = True
    sortable: bool = False
    in_page: bool = True


def summary_items(runs: Sequence[ScoredRun]) -> list[ReportItem]:
    """Return the tables with the scores of the runs."""
    if not runs:
        return []
    notes = ["In brackets: 95 % bootstrap interval over 1,000 samples of the documents."]
    if len(group_by_data(runs)) > 1:
        notes.append("The runs are on different documents (row Data): their scores cannot be compared with each other.")
    unpublished = [run.name for run in runs if run.published is None]
    if len(unpublished) == len(runs):
        notes.append(f"The paper's tables are left out: no run is on {PUBLISHED}.")
    elif unpublished:
        notes.append(f"The paper's tables omit {', '.join(unpublished)}: not on {PUBLISHED}.")
    lines_by_run = [[line for line in (coverage(run.scores), *remarks(run.scores)) if line is not None] for run in runs]
    notes += shared_then_own([run.name for run in runs], lines_by_run)
    split_notes = ("Each part contains gold and predicted triples; predictions that cannot be correct are in no part.",)
    return [
        ReportItem("scores", "Scores", run_tables.summary_table(runs), tuple(notes), folded=False),
        ReportItem("splits", "F1 by kind of triple", run_tables.split_table(runs), split_notes),
        *(
            replace(
                _run_item(run, runs, "relations", "Relations", relation_table(run.scores, run.relations)), sortable=True
            )
            for run in runs
        ),
    ]


def paper_items(runs: Sequence[ScoredRun]) -> list[ReportItem]:
    """Return the paper's tables with the runs on its data sets; an empty list if there is no such run."""
    published = [run for run in runs if run.published is not None]
    if not published:
        return []
    return [
        ReportItem(
            f"table-{source.number.replace('/', '-')}",
            f"{'Tables' if '/' in source.number else 'Table'} {source.number.replace('/', ' and ')}: {source.caption}",
            table,
            (source.note,) if source.note else (),
            f"{source.caption}: table {source.number} of the paper, and our runs",
            sortable=source.number == "9/10",
        )
        for source, table in paper_tables(published)
    ]


def figure_items(runs: Sequence[ScoredRun], folders: Mapping[str, Path]) -> Iterator[ReportItem]:
    """Yield the figures for which there is data; `folders` has all runs by name, including runs that only trained."""
    published = [run for run in runs if run.published is not None]
    if any(run.scores.all.gold for run in published):
        yield ReportItem(
            "figure-2",
            "Figure 2: F1 by relation and system",
            relation_heatmap(_with_score(relations_table(published), len(published))),
            (
                "Stronger is better; without color: nothing correct. "
                "The paper's scores and order are those of DocRED dev.",
            ),
        )
    unpublished = [run for run in runs if run.published is None]
    if len(unpublished) > 1 and any(run.scores.all.gold for run in unpublished):
        yield ReportItem(
            "f1-by-relation-and-run",
            "F1 by relation and run",
            relation_heatmap(_with_score(runs_by_relation(unpublished), len(unpublished))),
            ("Stronger is better; without color: nothing correct.",),
        )
    labels = dict(zip([run.name for run in runs], run_tables.run_labels(runs), strict=True))
    sweeps = [
        (labels.get(name, name), read_curves.read_sweep(folder / SWEEP))
        for name, folder in folders.items()
        if (folder / SWEEP).exists()
    ]
    if sweeps:
        yield ReportItem(
            "figure-3",
            "Figure 3: F1 over the alignment threshold",
            figures.alignment(sweeps),
            ("The paper does not print the points of its curves; its text gives the best threshold of the LM alone.",),
        )
    models = list(_rcp_models(runs, folders))
    if models:
        yield ReportItem("rcp", "Precision and recall of RCP on dev", figures.precision_recall(models))
    yield from _fusion_figures(labels, folders)
    yield from _split_figures(group_by_data(runs))
    for run in runs:
        if run.scores.all.gold:
            bars = figures.relation_bars(run.scores, run.relations)
            # The page has the same bars in the table of relations.
            yield replace(_run_item(run, runs, "f1-by-relation", "F1 by relation", bars), in_page=False)
        counts = confusion(run.documents, run.predictions)
        if counts:
            notes = (
                "Gold against predicted relations of the same pair of entities. If a pair misses some relations and "
                "has wrong ones, each missed one counts against each wrong one. Shades are shares of the row.",
            )
            heatmap = confusion_heatmap(counts, run.relations)
            yield _run_item(run, runs, "confusion", "Confusion between relations", heatmap, notes)


def learning_items(folders: Mapping[str, Path]) -> Iterator[ReportItem]:
    """Yield a figure for each metric that a run has logged more than once, and sentences about the others."""
    for name, curves in read_learning_curves(folders):
        logged = {metric: curves[metric] for metric in CURVES if curves.get(metric)}
        once = {metric: series for metric, series in logged.items() if len(series) == 1}
        once_notes = [
            f"{figures.PANELS[metric]}: {value:.4g} at step {step:,}."
            for metric, series in once.items()
            for step, value in series.items()
        ]
        for metric in [metric for metric in logged if metric not in once] or list(once):
            plot = figures.learning_curves([(name, curves)], (metric,))
            notes = [f"Logged once: {note}" for note in once_notes if metric not in once]
            once_notes = []
            if len(logged[metric]) > figures.MANY_STEPS:
                notes.append("With many logged steps, the line is a running mean and the steps are faint.")
            title = f"{name}: {figures.PANELS[metric]}"
            yield ReportItem(f"learning-{name}-{metric.replace('_', '-')}", title, plot, tuple(notes))


def _fusion_figures(labels: Mapping[str, str], folders: Mapping[str, Path]) -> Iterator[ReportItem]:
    """Yield the calibration of the runs with the encoder, and F1 over the cost of the LM."""
    calibrated = []
    for name, folder in folders.items():
        if (folder / RELIABILITY).exists():
            found = read_curves.read_reliability(folder / RELIABILITY)
            if found is not None:
                calibrated.append((labels.get(name, name), found))
    if calibrated:
        notes = (
            "A question is a proposed pair and a relation. Each point is a bin of equally many questions, on the "
            "diagonal if their probabilities are calibrated. ECE is the mean distance from it.",
        )
        yield ReportItem("reliability", "Reliability of the probabilities", figures.reliability(calibrated), notes)
    curves = [
        (labels.get(name, name), read_curves.read_fusion_curve(folder / FUSION_CURVE))
        for name, folder in folders.items()
        if (folder / FUSION_CURVE).exists()
    ]
    if curves:
        notes = ("The LM is asked about the pairs in a band of probability; the mark is the band of the run.",)
        yield ReportItem("f1-by-cost", "F1 over the cost of the LM", figures.fusion_curves(curves), notes)


def _with_score(table: Table, runs: int) -> Table:
    """Return the rows in which one of the last `runs` columns has a score."""
    rows = tuple(row for row in table.rows if any(cell != ABSENT for cell in row[-runs:]))
    return Table(table.header, rows, table.labels)


def _split_figures(groups: Mapping[str, Sequence[ScoredRun]]) -> Iterator[ReportItem]:
    """Yield a figure of F1 by part for each split and data set."""
    for data, runs in groups.items():
        for index, split in enumerate(runs[0].scores.splits):
            parts = [(run.name, run.scores.splits[index].parts) for run in runs]
            if not any(c.gold or c.predicted for _, counts in parts for c in counts.values()):
                continue
            words = split.name.replace("_", " ")
            name, title = f"f1-by-{split.name.replace('_', '-')}", f"F1 by {words}"
            if len(groups) > 1:
                name, title = f"{name}-{SEPARATORS.sub('-', data)}", f"{title}: {data}"
            # A note that only repeats the title is omitted.
            repeats = set(split.meaning.split()) - {"of", "the"} == set(words.split())
            meaning = f"{split.meaning[0].upper()}{split.meaning[1:]}."
            yield ReportItem(name, title, figures.split_bars(words, parts), () if repeats else (meaning,))


def error_items(runs: Sequence[ScoredRun]) -> list[ReportItem]:
    """Return the upper bounds of F1, and the errors of each run by cause."""
    if not runs:
        return []
    bound_notes = (
        "Each row assumes that one stage is perfect and the other one unchanged. Pairs that RC has not seen are "
        "assumed to be answered as well as those it saw.",
    )
    items = [ReportItem("ceilings", "Upper bounds of F1", run_tables.upper_bound_table(runs), bound_notes)]
    for run in runs:
        notes = []
        if run.candidates is None:
            notes.append("RCP's candidates are not known: a pair without a prediction counts as not proposed.")
        elif run.analysis.unproposed:
            notes.append(f"{run.analysis.unproposed:,} predictions are for pairs that were not proposed.")
        items.append(
            _run_item(run, runs, "losses", "Where F1 is lost", run_tables.error_table(run.analysis), tuple(notes))
        )
    return items


def read_learning_curves(folders: Mapping[str, Path]) -> list[tuple[str, dict[str, Series]]]:
    """Return the names and learning curves of the runs that trained."""
    logs = {name: folder / METRICS for name, folder in folders.items()}
    curves_by_run = [(name, read_curves.read_curves(log)) for name, log in logs.items() if log.exists()]
    return [(name, curves) for name, curves in curves_by_run if any(curves.get(metric) for metric in CURVES)]


def write_report_items(folder: Path, items: Iterable[ReportItem]) -> list[Path]:
    """Write tables as text, LaTeX and CSV below tables/, and figures as SVG and PNG below figures/.

    Returns:
        Other files in these folders, such as those of an earlier report.

    Raises:
        UserError: a file cannot be written.
    """
    table_folder, figure_folder = folder / "tables", folder / "figures"
    written: set[Path] = set()
    for item in items:
        content, name = item.content, item.name.replace("/", "-")  # the name of a run may contain a slash
        notes = "".join(f"\n{note}" for note in item.notes)
        if isinstance(content, Table):
            texts = {
                "txt": f"{item.title}\n\n{content.text()}\n{notes}".rstrip() + "\n",
                "tex": latex(content, item.caption or item.title, item.name, item.notes),
                "csv": content.csv(),
            }
            for suffix, text in texts.items():
                with replacing(table_folder / f"{name}.{suffix}") as file:
                    file.write(text)
                written.add(table_folder / f"{name}.{suffix}")
        else:
            with replacing(figure_folder / f"{name}.svg") as file:
                file.write(content.svg)
            write_bytes(figure_folder / f"{name}.png", content.png())
            written |= {figure_folder / f"{name}.svg", figure_folder / f"{name}.png"}
    return sorted({*table_folder.glob("*"), *figure_folder.glob("*")} - written)


def _run_item(
    run: ScoredRun,
    runs: Sequence[ScoredRun],
    name: str,
    title: str,
    content: Table | Plot,
    notes: tuple[str, ...] = (),
) -> ReportItem:
    """Return an item of one run, with the run's name if the report has several runs."""
    if len(runs) == 1:
        return ReportItem(name, title, content, notes)
    return ReportItem(f"{name}-{run.name}", f"{title}: {run.name}", content, notes)


def _rcp_models(
    runs: Sequence[ScoredRun], folders: Mapping[str, Path]
) -> Iterator[tuple[str, Calibration, list[float]]]:
    """Yield name, calibration and used thresholds of each RCP model that was trained or used by the runs."""
    used: dict[Path, set[float]] = {}
    for run in runs:
        if run.rcp is not None:
            used.setdefault(run.rcp.resolve(), set()).update([] if run.threshold is None else [run.threshold])
    names = {(folder / "best").resolve(): name for name, folder in folders.items()}
    for model in used:
        names.setdefault(model, model.parent.name if model.name == "best" else model.name)
    for model, name in names.items():
        if (model / CALIBRATION).exists():
            calibration = read_curves.read_calibration(model / CALIBRATION)
            if calibration is not None:
                yield name, calibration, sorted(used.get(model, ()))
