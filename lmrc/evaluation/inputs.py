"""Find what `lmrc score`, `lmrc compare` and `lmrc report` are given: predictions, their runs, their documents."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lmrc.common.errors import CorpusError, RunError, UserError
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.predictions import Predictions
from lmrc.evaluation.metrics.coverage import System
from lmrc.evaluation.metrics.gold_table import DOCUMENTS_AT_ONCE
from lmrc.evaluation.scored_run import PREDICTIONS, read_config

OF_A_RUN = (PREDICTIONS, "predictions-aligned.json")
"""Files of predictions in a run folder; `lmrc score --align` writes the second."""

CLASSIFY = "a run of classify"

KINDS = {
    **{"synthetic": "a demo", "corpora": "a build step", "trained": "a score step", "lora": "a training of RC"},
    **{"decode": CLASSIFY, "threshold": "a run of propose", "train": "a training of RCP"},
}
"""The first of these keys that a config has tells the kind of its run."""

OFFERED = 4
"""Most run folders that a message names."""

logger = logging.getLogger(__name__)


def predictions_file(path: Path) -> Path:
    """Return the file of predictions `path`, or that of the run folder `path`.

    Raises:
        UserError: the folder holds none. The message says what it is, and what to give instead.
    """
    if not path.is_dir():
        return path
    if not (path / PREDICTIONS).is_file():
        raise UserError(why_unscored(path))
    return path / PREDICTIONS


def why_unscored(folder: Path, files: Sequence[str] = (PREDICTIONS,)) -> str:
    """Say what a folder without predictions is, and which runs inside it could be given.

    Args:
        folder: the folder that was given.
        files: a run inside it is offered if it holds one of these.
    """
    inside = runs_inside(folder, files)
    if inside:
        shown = ", ".join(map(str, inside[:OFFERED])) + (", …" if len(inside) > OFFERED else "")
        which = "the run" if len(inside) == 1 else "one of the runs"
        return f"{folder} holds no {PREDICTIONS} itself: give {which} inside it, {shown}"
    kind = kind_of(folder)
    if kind == CLASSIFY:
        return f"{folder} is {CLASSIFY} that has not finished: it holds no {PREDICTIONS} yet"
    what = f"is {kind} and holds" if kind else "holds"
    return f"{folder} {what} no {PREDICTIONS}: give {CLASSIFY}, or a file of predictions"


def kind_of(folder: Path) -> str | None:
    """Return which kind of run a folder is, in words; None if it is none, or of no known kind."""
    try:
        config = read_config(folder)
    except RunError:
        return None
    return next((words for key, words in KINDS.items() if key in config), None)


def runs_inside(folder: Path, files: Sequence[str]) -> list[Path]:
    """Return the run folders one or two levels below `folder` that hold one of `files`."""
    found = {path.parent for level in ("*", "*/*") for file in files for path in folder.glob(f"{level}/{file}")}
    return sorted(path for path in found if (path / "config.yaml").is_file())


def read_systems(paths: Iterable[Path]) -> list[System]:
    """Read the predictions of each run or file, with the titles that a run classified."""
    return [
        System(str(path), Predictions.read(file), _classified(file))
        for path in paths
        for file in [predictions_file(path)]
    ]


def corpus_of(paths: Sequence[Path]) -> Path:
    """Return the corpus that the runs among `paths` classified.

    Raises UserError if there is no run among them, or if they classified different corpora.
    """
    configs = {path: _config(predictions_file(path)) or {} for path in paths}
    named = {path: Path(config["corpus"]) for path, config in configs.items() if config.get("corpus")}
    if len({corpus.resolve() for corpus in named.values()}) == 1:
        return next(iter(named.values()))
    told = "; ".join(f"{path} classified {corpus}" for path, corpus in named.items())
    raise UserError(f"which documents are gold? {told or 'files of predictions do not say'}: give --gold")


def _config(file: Path) -> dict[str, Any] | None:
    """The config of the run that wrote a file of predictions; None for a plain file."""
    if file.name not in OF_A_RUN or not (file.parent / "config.yaml").is_file():
        return None
    return read_config(file.parent)


def _classified(file: Path) -> frozenset[str] | None:
    """The titles of the documents that the run of these predictions classified; None if that is not known."""
    config = _config(file)
    if config is None or not config.get("corpus"):
        return None
    try:
        corpus = Corpus.open(config["corpus"])
    except CorpusError as error:
        logger.warning("%s: which documents %s classified is not known", error, file.parent)
        return None
    batches = (corpus.columns(part).column("title").to_pylist() for part in corpus.slices(DOCUMENTS_AT_ONCE))
    titles = (title for batch in batches for title in batch)
    return frozenset(islice(titles, config.get("documents")))
