"""`lmrc score`, `lmrc compare` and `lmrc report`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lmrc.errors import UserError

if TYPE_CHECKING:
    from lmrc.config import IgnVariant
    from lmrc.evaluation.facts import Facts
    from lmrc.evaluation.gold import Gold

FOLDER = click.Path(path_type=Path)
GOLD = "Documents or corpus with labels."

TRAIN_FACTS = click.option("--train-facts", type=FOLDER, help="Training documents, corpus or facts, for Ign F1.")
VARIANT = click.option(
    "--ign-variant",
    type=click.Choice(["docred", "redocred"]),
    help="Whose formula of Ign F1; without it that of the data set which the gold documents are of.",
)


def _facts_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--relations", type=FOLDER, help="Relation set of gold documents given as JSON."),
        VARIANT,
        TRAIN_FACTS,
    ):
        command = option(command)
    return command


@click.command()
@click.option("--gold", type=FOLDER, help=GOLD)
@click.option(
    "--pred",
    required=True,
    multiple=True,
    type=FOLDER,
    help="Predictions, or the run that made them; again for other seeds: then mean and standard deviation.",
)
@_facts_options
@click.option("--candidates", type=FOLDER, help="What RCP proposed: its scores, and what it costs.")
@click.option("--details", is_flag=True, help="Also by relation, frequency, distance, mentions and length.")
@click.option("--submission", type=FOLDER, help="Zip file to write for the DocRED competition; needs no gold.")
@click.option("--json", "as_json", type=FOLDER, help="File for all figures.")
def score(
    gold: Path | None,
    pred: tuple[Path, ...],
    train_facts: Path | None,
    ign_variant: IgnVariant | None,
    relations: Path | None,
    candidates: Path | None,
    details: bool,
    submission: Path | None,
    as_json: Path | None,
) -> None:
    """Score predictions: P, R, F1, Ign F1, intra and inter, and where F1 is lost."""
    from lmrc.evaluation.analysis import analyse
    from lmrc.evaluation.console import scores_json, scores_told
    from lmrc.evaluation.files import replacing
    from lmrc.evaluation.metrics import scores_of
    from lmrc.evaluation.predictions import Predictions
    from lmrc.evaluation.submission import write_submission
    from lmrc.evaluation.triples import Triples

    if gold is None and submission is None:
        raise UserError("nothing to score against: give --gold, or --submission to write the competition's file")
    if len(pred) > 1 and (submission is not None or candidates is not None):
        option = "--candidates" if submission is None else "--submission"
        raise UserError(f"{option} belongs to one file of predictions, but {len(pred)} were given")
    files = [_predictions_file(path) for path in pred]
    if submission is not None:
        count = write_submission(Predictions.read(files[0]), submission)
        click.echo(f"{submission}: {count:,} triples for the competition")
    if gold is None:
        return
    documents = _read_gold(gold, relations)
    triples = Triples.of(documents, [Predictions.read(file) for file in files])
    scores = scores_of(triples, _read_facts(train_facts, documents), ign_variant)
    proposed = None if candidates is None else list(_proposed(candidates, gold, documents))
    analyses = [analyse(triples, system, proposed) for system in range(len(files))]
    names = [path.name for path in pred] if len({path.name for path in pred}) == len(pred) else [*map(str, pred)]
    if as_json is not None:
        with replacing(as_json) as file:
            file.write(json.dumps(scores_json(names, scores, analyses), indent=1) + "\n")
    analysis = analyses[0] if len(files) == 1 else None
    click.echo(scores_told(names, scores, analysis, documents.relations, details))


@click.command()
@click.argument("first", type=FOLDER)
@click.argument("second", type=FOLDER)
@click.option("--gold", type=FOLDER, help=f"{GOLD} Without it those of the runs.")
@_facts_options
@click.option("--list", "listed", type=FOLDER, help="File for every changed triple, with names, tab-separated.")
@click.option("--json", "as_json", type=FOLDER, help="File for all figures.")
def compare(
    first: Path,
    second: Path,
    gold: Path | None,
    train_facts: Path | None,
    ign_variant: IgnVariant | None,
    relations: Path | None,
    listed: Path | None,
    as_json: Path | None,
) -> None:
    """What changed from FIRST to SECOND, runs or files of predictions, and whether it is significant."""
    from lmrc.evaluation.compare import ChangedTriple
    from lmrc.evaluation.compare import compare as comparison_of
    from lmrc.evaluation.console import comparison_told
    from lmrc.evaluation.files import replacing
    from lmrc.evaluation.metrics import scores_of
    from lmrc.evaluation.predictions import Predictions
    from lmrc.evaluation.triples import Triples

    documents = _gold_of_runs(first, second) if gold is None else _read_gold(gold, relations)
    triples = Triples.of(documents, [Predictions.read(_predictions_file(path)) for path in (first, second)])
    one, other = scores_of(triples, _read_facts(train_facts, documents), ign_variant)
    comparison = comparison_of(triples, (one, other))
    if as_json is not None:
        with replacing(as_json) as file:
            file.write(json.dumps(comparison.as_json(), indent=1) + "\n")
    if listed is not None:
        with replacing(listed) as file:
            file.write("\t".join(ChangedTriple._fields) + "\n")
            file.writelines("\t".join(" ".join(str(v).split()) for v in row) + "\n" for row in comparison.changed())
    click.echo(comparison_told((str(first), str(second)), comparison))


@click.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@click.option(
    "--out",
    type=FOLDER,
    default=Path("report"),
    show_default=True,
    help="Folder for report.html, tables/ and figures/; a file .html: the page alone.",
)
@TRAIN_FACTS
@VARIANT
def report(runs: tuple[Path, ...], out: Path, train_facts: Path | None, ign_variant: IgnVariant | None) -> None:
    """Tables, figures, errors and documents of RUNS in one HTML page, beside the scores of the paper."""
    from lmrc.evaluation.facts import read_facts
    from lmrc.evaluation.runs import page_of, relations_of, report_runs

    facts = None if train_facts is None else read_facts(train_facts, relations_of(runs))
    report_runs(runs, out, facts, ign_variant)
    click.echo(page_of(out))


def _predictions_file(path: Path) -> Path:
    """The file of predictions, or that of a run."""
    if not path.is_dir():
        return path
    if not (path / "predictions.json").is_file():
        raise UserError(f"{path} holds no predictions.json: give a run of classify, or a file of predictions")
    return path / "predictions.json"


def _read_gold(path: Path, relations: Path | None) -> Gold:
    from lmrc.corpus.relations import read_relations
    from lmrc.evaluation.gold import read_gold

    return read_gold(path, None if relations is None else read_relations(relations))


def _gold_of_runs(*runs: Path) -> Gold:
    """The documents that the runs classified, which must be the same."""
    from lmrc.corpus.arrow import Corpus
    from lmrc.evaluation.evaluated import read_config
    from lmrc.evaluation.gold import Gold

    named: dict[tuple[str, int | None], Path] = {}
    for run in runs:
        if run.is_dir():
            config = read_config(run)
            named[config["corpus"], config.get("documents")] = run
    if len(named) != 1:
        told = "; ".join(f"{run} classified {limit or 'all'} of {corpus}" for (corpus, limit), run in named.items())
        raise UserError(f"which documents are gold? {told or 'files of predictions do not say'}: give --gold")
    ((folder, limit),) = named
    corpus = Corpus.open(folder)
    if limit is None:
        return Gold.of_corpus(corpus)
    return Gold.of((corpus[index] for index in range(min(limit, len(corpus)))), corpus.relations)


def _read_facts(path: Path | None, gold: Gold) -> Facts | None:
    from lmrc.evaluation.facts import read_facts

    return None if path is None else read_facts(path, gold.relations)


def _proposed(folder: Path, path: Path, gold: Gold) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """The pairs of a candidates folder by title, once it is sure that they belong to the gold documents in `path`."""
    from lmrc.corpus.arrow import Corpus
    from lmrc.corpus.candidates import Candidates

    candidates = Candidates.open(folder)
    if path.is_dir():
        candidates.check(Corpus.open(path))
    elif missing := len(set(gold.titles) - {candidates.title(index) for index in range(len(candidates))}):
        raise UserError(
            f"{folder} lacks {missing:,} of the {len(gold):,} documents in {path}: propose candidates for these"
        )
    for index, pairs in enumerate(candidates):
        yield candidates.title(index), [(pair.head, pair.tail) for pair in pairs]
