"""The report of run folders: a page, and its tables and figures as files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lmrc.common.errors import UserError
from lmrc.config.schema import IgnVariant
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.relations import DOCRED, RelationSet
from lmrc.evaluation.inputs import kind_of, runs_inside, why_unscored
from lmrc.evaluation.metrics.train_facts import Facts
from lmrc.evaluation.plots.read_curves import CALIBRATION, METRICS, SWEEP
from lmrc.evaluation.report import artifacts as made
from lmrc.evaluation.report.document_browser import documents_html
from lmrc.evaluation.report.page import Section, report_items_html, write_report
from lmrc.evaluation.scored_run import PREDICTIONS, ScoredRun, read_scored_run
from lmrc.runs.run_folder import read_config

PAGE = "report.html"

REPORTED = (PREDICTIONS, METRICS, SWEEP, f"best/{CALIBRATION}")
"""Files of a run that a report shows."""

logger = logging.getLogger(__name__)


def report_runs(
    folders: Sequence[Path],
    out: Path,
    facts: Facts | None = None,
    ign_variant: IgnVariant | None = None,
    title: str = "LMRC report",
) -> list[ScoredRun]:
    """Report these run folders: scores, the paper's tables with them, figures, errors, documents.

    `out` is a folder, which gets report.html, tables/ and figures/, or a file .html for the page alone. Returns the
    runs that classified, in order.

    Raises UserError if none of the runs holds predictions or metrics, or one only holds other runs.
    """
    named = names_of(folders)
    for folder in folders:
        if not any((folder / file).exists() for file in REPORTED) and runs_inside(folder, REPORTED):
            raise UserError(why_unscored(folder, REPORTED))
    read = {name: read_scored_run(folder, facts, ign_variant) for name, folder in named.items()}
    runs = [replace(run, name=name) for name, run in read.items() if run is not None]
    # Corpora in folders of one name are told apart as runs are.
    corpora = {folder: name for name, folder in names_of([Path(run.corpus) for run in runs]).items()}
    runs = [replace(run, corpus_name=corpora[Path(run.corpus).resolve()]) for run in runs]
    figures = list(made.figures(runs, named))
    if not runs and not figures:
        raise UserError(f"nothing to report: {'; '.join(map(_nothing_in, folders))}")
    for name, folder in named.items():
        if read[name] is None and not any((folder / file).exists() for file in REPORTED):
            logger.warning("%s: the report goes without it", _nothing_in(folder))
    parts = {
        "summary": ("Summary", made.summary(runs)),
        "tables": ("The paper's tables", made.paper(runs)),
        "figures": ("Figures", figures),
        "errors": ("Errors", made.errors(runs)),
    }
    sections = [Section(name, heading, report_items_html(found)) for name, (heading, found) in parts.items() if found]
    if runs:
        sections.append(Section("documents", "Documents", documents_html(runs)))
    write_report(page_of(out), title, *sections)
    if page_of(out) != out:
        others = made.write_report_items(out, [exhibit for _, found in parts.values() for exhibit in found])
        if others:
            first = others[0].relative_to(out)
            logger.warning("%s holds %d files that are not of this report, such as %s", out, len(others), first)
    return runs


def _nothing_in(folder: Path) -> str:
    kind = kind_of(folder)
    return f"{folder} has neither predictions nor metrics yet" + (f" (it is {kind})" if kind else "")


def relations_of(folders: Sequence[Path]) -> RelationSet:
    """Return the relation set of the runs' documents; DocRED's if no run has a corpus.

    Of runs on different sets, the result has all relations, each under its id.

    Raises RunError if a folder is no run, CorpusError if its corpus is gone.
    """
    corpora = dict.fromkeys(corpus for folder in folders if (corpus := read_config(folder).get("corpus")) is not None)
    sets = [Corpus.open(corpus).relations for corpus in corpora] or [DOCRED]
    if all(relations == sets[0] for relations in sets):
        return sets[0]
    ids = tuple(dict.fromkeys(id for relations in sets for id in relations.ids))
    return RelationSet(ids, ids)


def page_of(out: Path) -> Path:
    """The page of a report in `out`."""
    return out if out.suffix == ".html" else out / PAGE


def names_of(folders: Sequence[Path]) -> Mapping[str, Path]:
    """The run folders by their names, with as many folders above as tell them apart."""
    whole = dict.fromkeys(folder.resolve() for folder in folders)
    for parts in range(1, max((len(folder.parts) for folder in whole), default=1) + 1):
        named = {"/".join(folder.parts[-parts:]): folder for folder in whole}
        if len(named) == len(whole):
            break
    return named
