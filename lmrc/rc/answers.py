"""A run of classify that scored candidates with the LM: a fusion is fitted on its scores, or applied to them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lmrc.common.errors import CorpusError, RunError
from lmrc.config.schema import PromptOptions
from lmrc.corpus.candidates import Candidate, Candidates
from lmrc.corpus.corpus import Corpus
from lmrc.fusion.fit import Labeled
from lmrc.fusion.inputs import SCORES, read_labeled
from lmrc.rc.fused import unscored
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.prompts.questions import questions_about
from lmrc.rc.prompts.templates import PROMPTS, Pair
from lmrc.runs.run_folder import RunFolder, read_config

# File in the run folder: a JSON object per query.
GENERATIONS = "generations.jsonl"


def check_answers(run: Path, candidates: Candidates, corpus: Corpus) -> int:
    """Check that a run of classify scored the candidates with the LM. Return the number of its documents.

    Raises:
        RunError: it is unfinished, damaged, has no scores, its LM names no relations, or it classified something else.
        UserError: the adapter of its LM cannot be read.
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
    prompt = prompt_of(run)
    if not PROMPTS[prompt.kind].names_relations:
        raise RunError(f"{run}: its LM says Yes or No, but a fusion needs an LM that names relations: give another run")
    documents = min(config.get("documents") or len(corpus), len(corpus))
    _check_pairs(run, candidates, documents, prompt)
    return documents


def read_answers(run: Path, candidates: Candidates, corpus: Corpus) -> Labeled:
    """Check a run of classify and return the questions to fit a fusion on, with the LM's scores and the gold answers.

    Raises:
        UserError: as `check_answers` and `lmrc.fusion.inputs.read_labeled`.
    """
    documents = check_answers(run, candidates, corpus)
    return read_labeled(candidates, run / SCORES, corpus, documents, unscored(prompt_of(run)))


def prompt_of(run: Path) -> PromptOptions:
    """Return the prompt of the LM in a run of classify.

    Raises:
        UserError: the adapter of its LM cannot be read.
    """
    config = read_config(run)
    if config.get("rc") is None:
        return PromptOptions.model_validate(config.get("prompt", {}))
    adapter = Path(config["rc"])
    if not adapter.is_dir():
        raise RunError(
            f"{run}: the adapter of its LM, {adapter}, is missing, and the scores mean nothing without its prompt: put "
            "it back"
        )
    return AdapterMetadata.read(adapter).prompt


def asked_pairs(candidates: Iterable[Candidate], prompt: PromptOptions) -> list[Pair]:
    """Return the pairs that an LM with this prompt is asked about."""
    if PROMPTS[prompt.kind].asks_relations:
        return [pair for pair, relations in questions_about(candidates, prompt) if relations]
    return [(candidate.head, candidate.tail) for candidate in candidates]


def _check_pairs(run: Path, candidates: Candidates, documents: int, prompt: PromptOptions) -> None:
    """Check that the LM was asked about these candidates and no other pairs.

    The fingerprint does not tell if the candidates of the run were moved, or proposed again into the same folder.

    Raises:
        RunError: it was not, or the file of the pairs is missing or damaged.
    """
    path = run / GENERATIONS
    answered: dict[int, set[Pair]] = defaultdict(set)
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                answered[row["document"]] |= {(head, tail) for head, tail in row["pairs"]}
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): give a whole run folder") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error!r}): classify again") from error
    for index in range(documents):
        expected = set(asked_pairs(candidates[index], prompt))
        if answered[index] != expected:
            raise RunError(
                f"{run} classified other candidates than {candidates.folder}: for {candidates.title(index)!r}, "
                f"{len(answered[index] - expected):,} of its {len(answered[index]):,} pairs are not there, and "
                f"{len(expected - answered[index]):,} of the {len(expected):,} there were not asked about; give the "
                "candidates of the run, or classify these"
            )


def _fingerprint(option: str, config: dict[str, Any]) -> str | None:
    """Return the fingerprint of the run's candidates or corpus; None if the folder was moved."""
    try:
        if option == "corpus":
            return Corpus.open(config["corpus"]).fingerprint
        return Candidates.open(config["candidates"]).manifest.fingerprint
    except CorpusError:
        # The pairs and titles are compared with the given candidates in any case.
        return None
