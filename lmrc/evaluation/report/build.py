"""Report of run folders: an HTML page, and its tables and figures as files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from lmrc.common.errors import UserError
from lmrc.config.schema import IgnVariant
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.relations import DOCRED, RelationSet
from lmrc.evaluation.inputs import kind_of, runs_inside, why_unscored
from lmrc.evaluation.metrics.train_facts import Facts
from lmrc.evaluation.plots.read_curves import CALIBRATION, METRICS, SWEEP
from lmrc.evaluation.report import artifacts
from lmrc.evaluation.report.document_browser import documents_html
from lmrc.evaluation.report.examples import examples_html
from lmrc.evaluation.report.overview import overview_html
from lmrc.evaluation.report.page import Section, report_items_html, write_report
from lmrc.evaluation.report.provenance import option_items, provenance_item, provenance_line
from lmrc.evaluation.report.use_table import use_item
from lmrc.evaluation.scored_run import PREDICTIONS, ScoredRun, name_in_tables, read_scored_run
from lmrc.runs.run_folder import read_config

PAGE = "report.html"

# Files of a run that a report shows.
REPORTED = (PREDICTIONS, METRICS, SWEEP, f"best/{CALIBRATION}")

logger = logging.getLogger(__name__)


def report_runs(
    folders: Sequence[Path],
    out: Path,
    facts: Facts | None = None,
    ign_variant: IgnVariant | None = None,
    title: str = "LMRC report",
    items: Sequence[artifacts.ReportItem] = (),
    use: Mapping[str, Path] | None = None,
) -> list[ScoredRun]:
    """Write a report of run folders: scores, the paper's tables, figures, errors, documents.

    Args:
        out: a folder, which gets report.html, tables/ and figures/, or an .html file for the page only.
        facts, ign_variant: for Ign F1; see `score`.
        items: tables and figures to show first.
        use: runs whose use of the hardware is shown, by name; by default `folders`.

    Returns:
        The runs that have predictions, in the given order.

    Raises:
        UserError: no run has predictions or metrics, or a folder only contains other runs.
    """
    named = distinct_names(folders)
    for folder in folders:
        if not _has_results(folder) and runs_inside(folder, REPORTED):
            raise UserError(why_unscored(folder, REPORTED))
    read = {name: read_scored_run(folder, facts, ign_variant) for name, folder in named.items()}
    scored = {name: run for name, run in read.items() if run is not None}
    runs = [replace(run, name=name_in_tables(name, read_config(named[name]))) for name, run in scored.items()]
    corpus_names = {folder: name for name, folder in distinct_names([Path(run.corpus) for run in runs]).items()}
    runs = [replace(run, corpus_name=corpus_names[Path(run.corpus).resolve()]) for run in runs]
    figures = list(artifacts.figure_items(runs, named))
    learning = list(artifacts.learning_items(named))
    if not runs and not figures and not learning:
        raise UserError(f"nothing to report: {'; '.join(map(_no_results, folders))}")
    for folder in named.values():
        if not _has_results(folder):
            logger.warning("%s: the report omits it", _no_results(folder))
    used = use_item(named if use is None else use)
    names = {folder: name for name, folder in named.items()}
    names |= {named[name]: run.name for name, run in zip(scored, runs, strict=True)}
    shown = {names[folder]: folder for folder in named.values()}
    provenance = provenance_item(shown, runs)
    parts = {
        "training": ("Training", learning),
        "summary": ("Scores", [*items, *artifacts.summary_items(runs), *([used] if used else [])]),
        "tables": ("The paper's tables", artifacts.paper_items(runs)),
        "figures": ("Figures", figures),
        "errors": ("Errors", artifacts.error_items(runs)),
        "options": ("Options", option_items(shown)),
    }
    data = dict.fromkeys(run.data for run in runs)
    subtitle = " · ".join([*data, *provenance_line(shown[runs[0].name if runs else next(iter(shown))])])
    write_report(page_of(out), title, *_sections(runs, provenance, parts), subtitle=subtitle)
    if page_of(out) != out:
        others = artifacts.write_report_items(
            out, [provenance, *(item for _, items in parts.values() for item in items)]
        )
        if others:
            first = others[0].relative_to(out)
            logger.warning("%s has %d files that are not of this report, such as %s", out, len(others), first)
    return runs


def _sections(
    runs: Sequence[ScoredRun],
    provenance: artifacts.ReportItem,
    parts: Mapping[str, tuple[str, Sequence[artifacts.ReportItem]]],
) -> list[Section]:
    """Return the sections of the page: what most readers want comes first, tables for reference come last."""
    items = [Section(name, heading, report_items_html(items)) for name, (heading, items) in parts.items() if items]
    training = [section for section in items if section.name == "training"]
    documents = []
    if runs:
        if examples := list(examples_html(runs[0])):
            documents.append(Section("examples", "Examples", examples))
        documents.append(Section("documents", "Documents", documents_html(runs)))
    overview = Section("overview", "Overview", chain(overview_html(runs), report_items_html([provenance])))
    return [overview, *training, *documents, *(section for section in items if section not in training)]


def _has_results(folder: Path) -> bool:
    return any((folder / file).exists() for file in REPORTED)


def _no_results(folder: Path) -> str:
    kind = kind_of(folder)
    if kind is not None and kind.name == "propose":
        return why_unscored(folder)
    return f"{folder} has neither predictions nor metrics yet" + (f" (it is {kind.description})" if kind else "")


def relations_of(folders: Sequence[Path]) -> RelationSet:
    """Return the relation set of the runs' corpora; DocRED's if no run has a corpus.

    If the sets differ, the result has the ids of all of them, with each id as its name.

    Raises:
        RunError: a folder is no run.
        CorpusError: a corpus does not exist.
    """
    corpora = dict.fromkeys(corpus for folder in folders if (corpus := read_config(folder).get("corpus")) is not None)
    sets = [Corpus.open(corpus).relations for corpus in corpora] or [DOCRED]
    if all(relations == sets[0] for relations in sets):
        return sets[0]
    ids = tuple(dict.fromkeys(id for relations in sets for id in relations.ids))
    return RelationSet(ids, ids)


def page_of(out: Path) -> Path:
    """Return the path of the page of a report in `out`."""
    return out if out.suffix == ".html" else out / PAGE


def distinct_names(folders: Sequence[Path]) -> Mapping[str, Path]:
    """Return the folders by name, with as many parent folders as make the names distinct."""
    resolved = dict.fromkeys(folder.resolve() for folder in folders)
    for parts in range(1, max((len(folder.parts) for folder in resolved), default=1) + 1):
        named = {"/".join(folder.parts[-parts:]): folder for folder in resolved}
        if len(named) == len(resolved):
            break
    return named
