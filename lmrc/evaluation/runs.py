"""The report of run folders: a page, and its tables and figures as files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lmrc.config import IgnVariant
from lmrc.corpus.arrow import Corpus
from lmrc.corpus.relations import DOCRED, RelationSet
from lmrc.errors import UserError
from lmrc.evaluation import exhibits as made
from lmrc.evaluation.browser import documents_html
from lmrc.evaluation.curves import CALIBRATION, METRICS, SWEEP
from lmrc.evaluation.evaluated import Evaluated, read_evaluated
from lmrc.evaluation.facts import Facts
from lmrc.evaluation.report import Section, exhibits_html, write_report
from lmrc.run import read_config

PAGE = "report.html"

logger = logging.getLogger(__name__)


def report_runs(
    folders: Sequence[Path],
    out: Path,
    facts: Facts | None = None,
    ign_variant: IgnVariant | None = None,
    title: str = "LMRC report",
) -> list[Evaluated]:
    """Report these run folders: scores, the paper's tables with them, figures, errors, documents.

    `out` is a folder, which gets report.html, tables/ and figures/, or a file .html for the page alone. Returns the
    runs that classified, in order.

    Raises UserError where none of the runs holds predictions or metrics.
    """
    named = names_of(folders)
    read = {name: read_evaluated(folder, facts, ign_variant) for name, folder in named.items()}
    runs = [replace(run, name=name) for name, run in read.items() if run is not None]
    figures = list(made.figures(runs, named))
    if not runs and not figures:
        raise UserError(f"nothing to report: neither predictions nor metrics yet in {', '.join(map(str, folders))}")
    for name, folder in named.items():
        if read[name] is None and not any((folder / file).exists() for file in (METRICS, SWEEP, f"best/{CALIBRATION}")):
            logger.warning("%s has neither predictions nor metrics yet: the report goes without it", folder)
    parts = {
        "summary": ("Summary", made.summary(runs)),
        "tables": ("The paper's tables", made.paper(runs)),
        "figures": ("Figures", figures),
        "errors": ("Errors", made.errors(runs)),
    }
    sections = [Section(name, heading, exhibits_html(found)) for name, (heading, found) in parts.items() if found]
    if runs:
        sections.append(Section("documents", "Documents", documents_html(runs)))
    write_report(page_of(out), title, *sections)
    if page_of(out) != out:
        others = made.write_exhibits(out, [exhibit for _, found in parts.values() for exhibit in found])
        if others:
            first = others[0].relative_to(out)
            logger.warning("%s holds %d files that are not of this report, such as %s", out, len(others), first)
    return runs


def relations_of(folders: Sequence[Path]) -> RelationSet:
    """The relation set of the runs' documents, which is that of the first run on a corpus; DocRED's without one.

    Raises RunError where a folder is no run, CorpusError where its corpus is not there any more.
    """
    for folder in folders:
        corpus = read_config(folder).get("corpus")
        if corpus is not None:
            return Corpus.open(corpus).relations
    return DOCRED


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
