"""`lmrc fusion`: fit the fusion of RCP, its relation head and the LM."""

from __future__ import annotations

from pathlib import Path

import click

from lmrc.cli.group import CommandGroup

FOLDER = click.Path(path_type=Path)


@click.group(cls=CommandGroup)
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
    from lmrc.fusion.precision import share_of_misses
    from lmrc.rc.answers import read_answers
    from lmrc.rc.fusion_tables import PRINTED, format_fit

    check_output(out)
    documents = Corpus.open(corpus)
    candidates = Candidates.open(folder)
    candidates.check(documents)
    labeled = read_answers(answers, candidates, documents)
    found = fit_fusion(labeled, documents.fingerprint, documents.relations.sha256, max_loss, tokens_per_question)
    found.fusion.save(out)
    click.echo(format_fit(found))
    if splits is not None:
        probabilities, _ = cross_fitted(labeled)
        shares = share_of_misses(probabilities, labeled.correct, labeled.evidence.document, PRINTED, splits)
        click.echo(f"\nShare of {splits} random halves whose threshold misses the precision on the other half:")
        click.echo("\n".join(f"  precision {target:g}: {share}" for target, share in shares.items()))
    click.echo(out)
