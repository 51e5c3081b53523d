"""Inputs of `lmrc score`, `lmrc compare` and `lmrc report`: predictions, their runs, their documents."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lmrc.common.errors import CorpusError, RunError, UserError
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.predictions import Predictions
from lmrc.corpus.relations import RelationSet
from lmrc.evaluation.metrics.coverage import System
from lmrc.evaluation.metrics.gold_table import DOCUMENTS_AT_ONCE
from lmrc.evaluation.scored_run import PREDICTIONS, name_in_tables
from lmrc.runs.run_folder import read_config
from lmrc.runs.run_kinds import RunKind, run_kind

# Files of predictions in a run folder. `lmrc score --align` writes the second.
RUN_PREDICTIONS = (PREDICTIONS, "predictions-aligned.json")

# Most run folders that a message lists.
MAX_LISTED_RUNS = 4

logger = logging.getLogger(__name__)


def predictions_file(path: Path) -> Path:
    """Return `path` if it is a file, and the predictions in it if it is a run folder.

    Raises:
        UserError: the folder has no predictions. The message says what it is and what to give instead.
    """
    if not path.is_dir():
        return path
    if not (path / PREDICTIONS).is_file():
        raise UserError(why_unscored(path))
    return path / PREDICTIONS


def why_unscored(folder: Path, files: Sequence[str] = (PREDICTIONS,)) -> str:
    """Return a message that says what a folder without predictions is, and which runs in it have one of `files`."""
    inside = runs_inside(folder, files)
    if inside:
        shown = ", ".join(map(str, inside[:MAX_LISTED_RUNS])) + (", …" if len(inside) > MAX_LISTED_RUNS else "")
        which = "the run" if len(inside) == 1 else "one of the runs"
        return f"{folder} holds no {PREDICTIONS} itself: give {which} inside it, {shown}"
    kind = kind_of(folder)
    if kind is None:
        return f"{folder} holds no {PREDICTIONS}: give a run of classify, or a file of predictions"
    if kind.name in ("classify", "propose") and not (folder / "DONE").is_file():
        return f"{folder} is {kind.description} that has not finished: it holds no {PREDICTIONS} yet"
    if kind.name == "propose":
        return (
            f"{folder} is {kind.description} whose model has no relation head, so that it holds no {PREDICTIONS}: "
            "train the model with --train.relation-weight 1, or give a run of classify"
        )
    return (
        f"{folder} is {kind.description} and holds no {PREDICTIONS}: give a run of classify, or a file of predictions"
    )


def kind_of(folder: Path) -> RunKind | None:
    """Return the kind of run that a folder is; None if it is no run or of no known kind."""
    try:
        return run_kind(read_config(folder))
    except RunError:
        return None


def runs_inside(folder: Path, files: Sequence[str]) -> list[Path]:
    """Return the run folders one or two levels below `folder` that have one of `files`."""
    folders = {path.parent for level in ("*", "*/*") for file in files for path in folder.glob(f"{level}/{file}")}
    return sorted(path for path in folders if (path / "config.yaml").is_file())


def read_systems(paths: Iterable[Path]) -> list[System]:
    """Read the predictions of each run or file, with the titles that a run classified."""
    return [
        System(str(path), Predictions.read(file), _classified(file))
        for path in paths
        for file in [predictions_file(path)]
    ]


def with_relation_ids(systems: Sequence[System], relations: RelationSet) -> tuple[list[System], list[str]]:
    """Return the systems with ids in place of the names of relations, and a message for each that had names.

    A relation is replaced only if it is a name, and no id, of the relation set.
    """
    changed, lines = [], []
    for system in systems:
        predictions = system.predictions
        named = [relation not in relations and relation in relations.names for relation in predictions.relations]
        if any(named):
            count = int(np.isin(predictions.relation, np.flatnonzero(named)).sum())
            ids = zip(predictions.relations, named, strict=True)
            replaced = tuple(relations.id(relation) if is_name else relation for relation, is_name in ids)
            system = replace(system, predictions=replace(predictions, relations=replaced))
            lines.append(
                f"{system.name}: {count:,} of {len(predictions):,} predictions have the name of a relation in place of "
                "its id, and are scored as the id. Other scorers count them as wrong."
            )
        changed.append(system)
    return changed, lines


def system_names(paths: Sequence[Path], short: bool = True) -> list[str]:
    """Return the names of runs and files of predictions in tables.

    Args:
        short: if True, only the last parts of the paths, if these differ.
    """
    last = [path.name for path in paths]
    names = last if short and len(set(last)) == len(paths) else map(str, paths)
    return [
        name_in_tables(name, _config(predictions_file(path)) or {}) for name, path in zip(names, paths, strict=True)
    ]


def corpus_of(paths: Sequence[Path]) -> Path:
    """Return the corpus that the runs among `paths` classified.

    Raises:
        UserError: none of them is a run, or they classified different corpora.
    """
    configs = {path: _config(predictions_file(path)) or {} for path in paths}
    corpora = {path: Path(config["corpus"]) for path, config in configs.items() if config.get("corpus")}
    if len({corpus.resolve() for corpus in corpora.values()}) == 1:
        return next(iter(corpora.values()))
    reason = "; ".join(f"{path} classified {corpus}" for path, corpus in corpora.items())
    raise UserError(f"which documents are gold? {reason or 'files of predictions do not say'}: give --gold")


def _config(file: Path) -> dict[str, Any] | None:
    """Return the config of the run that wrote a file of predictions; None for a plain file."""
    if file.name not in RUN_PREDICTIONS or not (file.parent / "config.yaml").is_file():
        return None
    return read_config(file.parent)


def _classified(file: Path) -> frozenset[str] | None:
    """Return the titles of the documents that the run of these predictions classified; None if not known."""
    config = _config(file)
    if config is None or not config.get("corpus"):
        return None
    try:
        corpus = Corpus.open(config["corpus"])
    except CorpusError as error:
        logger.warning("%s: it is not known which documents %s classified", error, file.parent)
        return None
    batches = (corpus.columns(part).column("title").to_pylist() for part in corpus.slices(DOCUMENTS_AT_ONCE))
    titles = (title for batch in batches for title in batch)
    return frozenset(islice(titles, config.get("documents")))
