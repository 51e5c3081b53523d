"""A run of classify that scored candidates with the LM: a fusion is fitted on its scores, or applied to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmrc.common.errors import CorpusError, RunError
from lmrc.config.schema import PromptOptions
from lmrc.corpus.candidates import Candidates
from lmrc.corpus.corpus import Corpus
from lmrc.fusion.inputs import SCORES
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.runs.run_folder import RunFolder, read_config


def check_answers(run: Path, candidates: Candidates, corpus: Corpus) -> int:
    """Check that a run of classify scored the candidates with the LM. Return the number of its documents.

    Raises:
        RunError: it is unfinished, has no scores, or classified something else.
    """
    config = read_config(run)
    if RunFolder(run).result() is None:
        raise RunError(f"{run} is not finished: repeat its launch/classify.py command first")
    system = config.get("system", "rc")
    if system != "rc":
        raise RunError(f"{run}: its system is {system}, but a fusion needs answers of the LM: give --system rc")
    if not config.get("candidates"):
        raise RunError(f"{run} classified the gold pairs: classify the candidates in {candidates.folder}")
    if not (run / SCORES).is_file():
        raise RunError(f"{run} has no {SCORES}: classify again with --decode.mode score")
    for option, opened, fingerprint in (
        ("candidates", candidates, candidates.manifest.fingerprint),
        ("corpus", corpus, corpus.fingerprint),
    ):
        other = _fingerprint(option, config)
        if other not in (None, fingerprint):
            raise RunError(f"{run} classified other {option} ({config[option]}) than {opened.folder}: give the same")
    return min(config.get("documents") or len(corpus), len(corpus))


def prompt_of(run: Path) -> PromptOptions:
    """Return the prompt of the LM in a run of classify."""
    config = read_config(run)
    if config.get("rc") is None:
        return PromptOptions.model_validate(config.get("prompt", {}))
    return AdapterMetadata.read(Path(config["rc"])).prompt


def _fingerprint(option: str, config: dict[str, Any]) -> str | None:
    """Return the fingerprint of the run's candidates or corpus; None if the folder was moved."""
    try:
        if option == "corpus":
            return Corpus.open(config["corpus"]).fingerprint
        return Candidates.open(config["candidates"]).manifest.fingerprint
    except CorpusError:
        # The pairs and titles of the scores are compared with the given candidates in any case.
        return None
