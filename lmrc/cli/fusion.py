"""`lmrc fusion`: fit the fusion of RCP, its relation head and the LM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmrc.common.errors import CorpusError, RunError

if TYPE_CHECKING:
    from lmrc.corpus.candidates import Candidates
    from lmrc.corpus.corpus import Corpus
    from lmrc.evaluation.tables.table import Table
    from lmrc.fusion.fit import Fit
    from lmrc.fusion.model import Asked, Fusion

FOLDER = click.Path(path_type=Path)
# Precisions that are printed; fusion.json has all steps of 0.01.
PRINTED = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# Goal for the share of pairs that the LM is asked about.
SHARE = 0.15
# Cell without a value.
ABSENT = "-"


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


def format_fit(found: Fit) -> str:
    """Return the weights, estimates, band, curve and precisions of a fit, for the console."""
    fusion, fitted_on, band = found.fusion, found.fusion.fitted_on, found.band
    goal = "" if band.share <= SHARE else f", more than the goal of {100 * SHARE:.0f} %"
    parts = (
        f"{fitted_on.documents:,} documents, {fitted_on.questions:,} questions, {fitted_on.positives:,} of them right; "
        f"{fitted_on.gold:,} gold triples",
        _weights_table(fusion).text(),
        _estimates_table(found).text(),
        f"The LM is asked about pairs with a relation of probability {band.low:.4f} to {band.high:.4f} without it: "
        f"{100 * band.share:.1f} % of the proposed pairs{goal}",
        _curve_table(found).text(),
        _precision_table(fusion).text(),
    )
    return "\n\n".join(parts)


def _weights_table(fusion: Fusion) -> Table:
    from lmrc.evaluation.tables.table import Table

    rows = [
        (name, *(f"{value:.3f}" for value in (weights.bias, weights.pair, weights.relation)))
        for name, weights in (("with LM", fusion.with_lm), ("without LM", fusion.without_lm))
    ]
    header = ("weights", "bias", "pair", "relation", "LM")
    return Table(header, ((*rows[0], f"{fusion.with_lm.lm:.3f}"), (*rows[1], ABSENT)))


def _estimates_table(found: Fit) -> Table:
    from lmrc.evaluation.tables.table import Table

    rows = tuple(
        (one.name, f"{one.nll:.4f}", f"{one.ece:.4f}", f"{one.f1:.2f}", f"{one.threshold:.3f}")
        for one in found.estimates
    )
    return Table(("cross-fitted", "NLL", "ECE", "F1", "threshold"), rows)


def _curve_table(found: Fit) -> Table:
    from lmrc.evaluation.tables.table import Table

    tokens = found.fusion.tokens_per_question
    header = ["pairs asked", "questions", *([] if tokens is None else ["LM tokens"]), "F1"]
    rows = []
    for point in found.curve:
        cost = [] if tokens is None else [f"{point.questions * tokens:,.0f}"]
        rows.append((f"{100 * point.share:.1f} %", f"{point.questions:,}", *cost, f"{point.f1:.2f}"))
    return Table(tuple(header), tuple(rows))


def _precision_table(fusion: Fusion) -> Table:
    from lmrc.evaluation.tables.table import Table

    names: dict[Asked, str] = {"band": "LM asked in the band", "all": "LM asked about all pairs", "none": "encoder"}
    rows = []
    for asked, name in names.items():
        held = dict(fusion.thresholds[asked].precision)
        rows.append((name, *(f"{held[target]:.3f}" if target in held else ABSENT for target in PRINTED)))
    return Table(("threshold for precision", *(f"{target:g}" for target in PRINTED)), tuple(rows))
