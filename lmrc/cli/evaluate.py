"""`lmrc score`, `lmrc compare` and `lmrc report`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmrc.common.atomic_io import replacing
from lmrc.common.errors import UserError, counted

if TYPE_CHECKING:
    from lmrc.config.schema import IgnVariant
    from lmrc.corpus.predictions import Predictions
    from lmrc.corpus.relation_schema import SchemaEffect
    from lmrc.evaluation.metrics.coverage import Missing
    from lmrc.evaluation.metrics.gold_table import Gold
    from lmrc.evaluation.metrics.train_facts import Facts

FOLDER = click.Path(path_type=Path)
GOLD = "Labeled documents or corpus."

TRAIN_FACTS = click.option("--train-facts", type=FOLDER, help="Training documents, corpus or facts, for Ign F1.")
VARIANT = click.option(
    "--ign-variant",
    type=click.Choice(["docred", "redocred"]),
    help="Data set that defines Ign F1; by default that of the gold documents.",
)


MISSING = click.option(
    "--missing",
    type=click.Choice(["empty", "skip"]),
    help="Gold documents without predictions: count them as empty, or skip them. By default the documents that a run "
    "classified are scored; a file with predictions for less than half of the documents is an error.",
)


# The value of --json that stands for the output of the command.
STDOUT = Path("-")


def _check_json(_: click.Context, __: click.Parameter, file: Path | None) -> Path | None:
    """Refuse a folder, such as a run that was given after --json."""
    if file is not None and file.is_dir():
        raise UserError(f"--json {file} is a folder: to print JSON give --json last, or --json -; or give a file")
    return file


JSON = click.option(
    "--json",
    "as_json",
    type=FOLDER,
    is_flag=False,
    flag_value=str(STDOUT),
    metavar="[FILE]",
    callback=_check_json,
    help="Print all scores as JSON, or write them to FILE.",
)


def _facts_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--relations", type=FOLDER, help="Relation set of gold documents in JSON."),
        VARIANT,
        TRAIN_FACTS,
    ):
        command = option(command)
    return command


def _keep_runs(context: click.Context, _: click.Parameter, runs: tuple[Path, ...]) -> None:
    context.meta["lmrc.score.runs"] = runs


def _join_runs(context: click.Context, _: click.Parameter, pred: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the RUNS of `lmrc score RUNS`, followed by those of --pred."""
    runs: tuple[Path, ...] = (*context.meta["lmrc.score.runs"], *pred)
    if not runs:
        raise UserError("nothing to score: give a run of classify or a file of predictions (RUN, or --pred RUN)")
    return runs


@click.command()
@click.argument("runs", nargs=-1, type=FOLDER, is_eager=True, expose_value=False, callback=_keep_runs)
@click.option("--gold", type=FOLDER, help=f"{GOLD} By default the documents that the runs classified.")
@click.option("--pred", multiple=True, type=FOLDER, callback=_join_runs, help="Same as RUNS; may be repeated.")
@MISSING
@_facts_options
@click.option("--candidates", type=FOLDER, help="Candidates folder: also score RCP and the errors that it causes.")
@click.option("--schema", type=FOLDER, help="Relation schema in JSON: apply it to the predictions first.")
@click.option("--details", is_flag=True, help="Also score by relation, frequency, distance, mentions and length.")
@click.option("--submission", type=FOLDER, help="Zip file to write for the DocRED competition; needs no labels.")
@JSON
def score(
    gold: Path | None,
    pred: tuple[Path, ...],
    missing: Missing | None,
    train_facts: Path | None,
    ign_variant: IgnVariant | None,
    relations: Path | None,
    candidates: Path | None,
    schema: Path | None,
    details: bool,
    submission: Path | None,
    as_json: Path | None,
) -> None:
    """Score RUNS of classify or prediction files: P, R, F1, Ign F1, intra and inter F1, errors by cause.

    A run of propose is scored as "encoder alone", if its model has a relation head.
    Several RUNS are treated as seeds: mean and standard deviation are printed.
    """
    from lmrc.evaluation.inputs import corpus_of, read_systems, system_names, with_relation_ids
    from lmrc.evaluation.metrics.coverage import select
    from lmrc.evaluation.metrics.error_analysis import analyze
    from lmrc.evaluation.metrics.scores import scores_of
    from lmrc.evaluation.metrics.triple_table import Triples
    from lmrc.evaluation.submission import write_submission
    from lmrc.evaluation.tables.console import format_scores, scores_json

    if len(pred) > 1 and (submission is not None or candidates is not None):
        option = "--candidates" if submission is None else "--submission"
        raise UserError(f"{option} belongs to one file of predictions, but {len(pred)} were given")
    # Without --gold only the submission is written: the competition's documents have no labels.
    only_submission = gold is None and submission is not None
    if only_submission and as_json is not None:
        raise UserError("--json needs scores, and --submission alone scores nothing: give the documents with --gold")
    if only_submission and schema is not None:
        raise UserError("--schema needs the types of the entities: give the documents with --gold")
    if gold is None and not only_submission:
        gold = corpus_of(pred)
    systems = read_systems(pred)
    documents = None if gold is None else _read_gold(gold, relations)
    named: list[str] = []
    if documents is not None:
        systems, named = with_relation_ids(systems, documents.relations)
    if submission is not None:
        triples_to_submit = [systems[0].predictions]
        if schema is not None and gold is not None and documents is not None:
            triples_to_submit, _ = _apply_schema(triples_to_submit, schema, gold, documents)
        count = write_submission(triples_to_submit[0], submission)
        click.echo(f"{submission}: {count:,} triples for the competition", err=as_json == STDOUT)
    if gold is None or documents is None:
        return
    # Before the schema: documents that it leaves without predictions were classified all the same.
    selection = select(documents, systems, missing)
    predictions = selection.predictions
    effects: list[SchemaEffect] = []
    if schema is not None:
        predictions, effects = _apply_schema(predictions, schema, gold, documents)
    triples = Triples.of(selection.gold, predictions)
    scores = scores_of(triples, _read_facts(train_facts, documents), ign_variant)
    proposed = None if candidates is None else list(_read_pairs(candidates, gold, documents, selection.left_out))
    analyses = [analyze(triples, system, proposed) for system in range(len(systems))]
    names = system_names(pred)
    if as_json is not None:
        content = scores_json(names, scores, analyses, len(selection.left_out))
        if effects:
            content["schema"] = [asdict(effect) for effect in effects]
        _write_json(as_json, content)
    if as_json == STDOUT:
        click.echo("\n".join(named), err=True, nl=bool(named))
        return
    analysis = analyses[0] if len(systems) == 1 else None
    changes = [f"{name}: {effect}" for name, effect in zip(names, effects, strict=False)]
    lines = [*named, *selection.lines, *changes]
    click.echo(format_scores(names, scores, analysis, documents.relations, details, lines))


@click.command()
@click.argument("first", type=FOLDER)
@click.argument("second", type=FOLDER)
@click.option("--gold", type=FOLDER, help=f"{GOLD} By default the documents that the runs classified.")
@MISSING
@_facts_options
@click.option("--list", "listed", type=FOLDER, help="TSV file for every changed triple, with names.")
@JSON
def compare(
    first: Path,
    second: Path,
    gold: Path | None,
    missing: Missing | None,
    train_facts: Path | None,
    ign_variant: IgnVariant | None,
    relations: Path | None,
    listed: Path | None,
    as_json: Path | None,
) -> None:
    """Compare FIRST and SECOND, runs of classify or prediction files, with a significance test."""
    from lmrc.evaluation.inputs import corpus_of, read_systems, system_names, with_relation_ids
    from lmrc.evaluation.metrics.compare import ChangedTriple
    from lmrc.evaluation.metrics.compare import compare as comparison_of
    from lmrc.evaluation.metrics.coverage import select
    from lmrc.evaluation.metrics.scores import scores_of
    from lmrc.evaluation.metrics.triple_table import Triples
    from lmrc.evaluation.tables.console import format_comparison

    documents = _read_gold(corpus_of((first, second)) if gold is None else gold, relations)
    systems, named = with_relation_ids(read_systems((first, second)), documents.relations)
    selection = select(documents, systems, missing)
    triples = Triples.of(selection.gold, selection.predictions)
    first_scores, second_scores = scores_of(triples, _read_facts(train_facts, documents), ign_variant)
    comparison = comparison_of(triples, (first_scores, second_scores))
    if as_json is not None:
        _write_json(as_json, {**comparison.as_json(), "documents_left_out": len(selection.left_out)})
    if listed is not None:
        with replacing(listed) as file:
            file.write("\t".join(ChangedTriple._fields) + "\n")
            file.writelines("\t".join(" ".join(str(v).split()) for v in row) + "\n" for row in comparison.changed())
    if as_json != STDOUT:
        click.echo(
            format_comparison(system_names((first, second), short=False), comparison, [*named, *selection.lines])
        )


@click.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@click.option(
    "--out",
    type=FOLDER,
    default=Path("report"),
    show_default=True,
    help="Folder for report.html, tables/ and figures/, or an .html file for the page alone.",
)
@TRAIN_FACTS
@VARIANT
def report(runs: tuple[Path, ...], out: Path, train_facts: Path | None, ign_variant: IgnVariant | None) -> None:
    """Write an HTML report of RUNS: tables, figures, errors and documents, next to the paper's scores."""
    from lmrc.evaluation.metrics.train_facts import read_facts
    from lmrc.evaluation.report.build import page_of, relations_of, report_runs

    if sys.stderr.isatty():
        # It takes some seconds, and longer with many documents.
        click.echo(f"Reading {counted(len(runs), 'run')} and drawing figures …", err=True)
    facts = None if train_facts is None else read_facts(train_facts, relations_of(runs))
    report_runs(runs, out, facts, ign_variant)
    click.echo(page_of(out))


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=1)
    if file == STDOUT:
        click.echo(text)
        return
    with replacing(file) as opened:
        opened.write(f"{text}\n")


def _read_gold(path: Path, relations: Path | None) -> Gold:
    from lmrc.corpus.relations import read_relations
    from lmrc.evaluation.metrics.gold_table import read_gold

    return read_gold(path, None if relations is None else read_relations(relations))


def _apply_schema(
    systems: Sequence[Predictions], path: Path, documents: Path, gold: Gold
) -> tuple[list[Predictions], list[SchemaEffect]]:
    """Apply a schema to the predictions of each system, and return them with the numbers of changes.

    Args:
        path: file of the schema.
        documents: gold corpus or documents.
        gold: the same, read.

    Raises:
        UserError: the schema cannot be read, or does not belong to the relation set.
    """
    from lmrc.corpus.corpus import Corpus
    from lmrc.corpus.docred import read_documents
    from lmrc.corpus.predictions import Predictions
    from lmrc.corpus.relation_schema import RelationSchema, apply_schema

    schema = RelationSchema.read(path, gold.relations)
    changed, effects = [], []
    for system in systems:
        # `Gold` holds no entity types, so the documents are read again.
        source = Corpus.open(documents) if documents.is_dir() else read_documents(documents, None)
        predictions, effect = apply_schema(system, source, schema)
        changed.append(Predictions.of(predictions))
        effects.append(effect)
    return changed, effects


def _read_facts(path: Path | None, gold: Gold) -> Facts | None:
    from lmrc.evaluation.metrics.train_facts import read_facts

    return None if path is None else read_facts(path, gold.relations)


def _read_pairs(
    folder: Path, path: Path, gold: Gold, left_out: frozenset[str]
) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Yield title and candidate pairs of every document that is scored.

    Args:
        folder: candidates folder.
        path: gold corpus or documents.
        gold: the same, read.
        left_out: titles of documents that are not scored.

    Raises:
        UserError: the candidates are not those of the gold documents.
    """
    from lmrc.corpus.candidates import Candidates
    from lmrc.corpus.corpus import Corpus

    candidates = Candidates.open(folder)
    if path.is_dir():
        candidates.check(Corpus.open(path))
    elif missing := len(set(gold.titles) - {candidates.title(index) for index in range(len(candidates))}):
        raise UserError(
            f"{folder} lacks {missing:,} of the {len(gold):,} documents in {path}: propose candidates for these"
        )
    for index, pairs in enumerate(candidates):
        if candidates.title(index) not in left_out:
            yield candidates.title(index), [(pair.head, pair.tail) for pair in pairs]
