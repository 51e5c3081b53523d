"""`lmrc fusion`: fit the fusion of RCP, its relation head and the LM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmrc.common.errors import CorpusError, RunError

if TYPE_CHECKING:
    from lmrc.corpus.candidates import Candidates
    from lmrc.corpus.corpus import Corpus

FOLDER = click.Path(path_type=Path)


@click.group()
def fusion() -> None:
    """Fit the fusion of the encoder and the LM."""


@fusion.command()
@click.option("--candidates", "folder", required=True, type=FOLDER, help="Candidates of the held-out documents.")
@click.option("--answers", required=True, type=FOLDER, help="Finished classify run over them, with decode.mode score.")
@click.option("--corpus", required=True, type=FOLDER, help="Their labeled corpus; no model was trained on it.")
@click.option("--out", required=True, type=FOLDER, help="File of the fusion, such as fusion.json.")
@click.option(
    "--max-loss",
    type=click.FloatRange(min=0.0),
    default=0.2,
    show_default=True,
    help="Most F1 that asking the LM only about the pairs in the band may lose.",
)
@click.option(
    "--tokens-per-question", type=click.FloatRange(min=0.0, min_open=True), help="LM tokens per question, for curves."
)
@click.option(
    "--splits",
    type=click.IntRange(min=1),
    help="Also check the thresholds of precisions over this many random splits of the documents, such as 200.",
)
def fit(
    folder: Path,
    answers: Path,
    corpus: Path,
    out: Path,
    max_loss: float,
    tokens_per_question: float | None,
    splits: int | None,
) -> None:
    """Fit weights, threshold, band and precisions on held-out training documents, and print what to expect."""
    from lmrc.common.input_checks import check_output
    from lmrc.corpus.candidates import Candidates
    from lmrc.corpus.corpus import Corpus
    from lmrc.fusion.fit import cross_fitted
    from lmrc.fusion.fit import fit as fit_fusion
    from lmrc.fusion.inputs import SCORES, read_labeled
    from lmrc.fusion.precision import share_of_misses
    from lmrc.rc.fusion_tables import PRINTED, format_fit

    check_output(out)
    documents = Corpus.open(corpus)
    candidates = Candidates.open(folder)
    candidates.check(documents)
    count = check_answers(answers, candidates, documents)
    labeled = read_labeled(candidates, answers / SCORES, documents, count, _unscored(answers))
    found = fit_fusion(labeled, documents.fingerprint, documents.relations.sha256, max_loss, tokens_per_question)
    found.fusion.save(out)
    click.echo(format_fit(found))
    if splits is not None:
        probabilities, _ = cross_fitted(labeled)
        shares = share_of_misses(probabilities, labeled.correct, labeled.evidence.document, PRINTED, splits)
        click.echo(f"\nShare of {splits} random halves whose threshold misses the precision on the other half:")
        click.echo("\n".join(f"  precision {target:g}: {share}" for target, share in shares.items()))
    click.echo(out)


def check_answers(run: Path, candidates: Candidates, corpus: Corpus) -> int:
    """Check that a run of classify scored the candidates with the LM. Return the number of its documents.

    Raises:
        RunError: it is unfinished, has no scores, or classified something else.
    """
    from lmrc.fusion.inputs import SCORES
    from lmrc.runs.run_folder import RunFolder, read_config

    config = read_config(run)
    if RunFolder(run).result() is None:
        raise RunError(f"{run} is not finished: repeat its launch/classify.py command first")
    system = config.get("system", "rc")
    if system != "rc":
        raise RunError(f"{run}: its system is {system}, but a fusion is fitted on answers of the LM: give --system rc")
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


def _unscored(run: Path) -> float | None:
    """Return the probability of a question without a score in a run; None: its LM was not asked this question."""
    from lmrc.config.schema import PromptOptions
    from lmrc.rc.fused import unscored
    from lmrc.rc.model.adapter_metadata import AdapterMetadata
    from lmrc.runs.run_folder import read_config

    config = read_config(run)
    if config.get("rc") is None:
        return unscored(PromptOptions.model_validate(config.get("prompt", {})))
    return unscored(AdapterMetadata.read(Path(config["rc"])).prompt)


def _fingerprint(option: str, config: dict[str, Any]) -> str | None:
    """Return the fingerprint of the run's candidates or corpus; None if the folder was moved."""
    from lmrc.corpus.candidates import Candidates
    from lmrc.corpus.corpus import Corpus

    try:
        if option == "corpus":
            return Corpus.open(config["corpus"]).fingerprint
        return Candidates.open(config["candidates"]).manifest.fingerprint
    except CorpusError:
        # The pairs and titles of the scores are compared with the given candidates in any case.
        return None
