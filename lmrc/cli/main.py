"""The `lmrc` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lmrc import __version__
from lmrc.cli import evaluate as commands
from lmrc.cli.export import export
from lmrc.cli.fusion import fusion
from lmrc.cli.group import CommandGroup
from lmrc.cli.models import models
from lmrc.cli.push import push
from lmrc.cli.track import track
from lmrc.common import threads
from lmrc.common.atomic_io import replacing, write_atomically
from lmrc.common.errors import UserError
from lmrc.common.exit_codes import exit_status
from lmrc.common.logging import set_up_logging, set_up_stage_logging
from lmrc.common.project import CONFIGS

if TYPE_CHECKING:
    from lmrc.config.schema import ResolvedPrecision

FOLDER = click.Path(path_type=Path)
# `Path` would drop the dot of ./a/b, which tells a folder from a name on the hub.
MODEL = click.Path()
# `lmrc.config.loader` parses the options of these commands, and not click.
PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def _with_dashes(name: str) -> str:
    """Return the declared spelling of an option or a command: --top_k is --top-k."""
    return name.replace("_", "-")


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _with_dashes},
)
@click.version_option(__version__, prog_name="lmrc")
def lmrc() -> None:
    """Document-level relation extraction with a candidate classifier and an LLM."""


@lmrc.group()
def train() -> None:
    """Train the candidate classifier (rcp) or fine-tune the LLM (rc), on SLURM or on this machine."""


def _add_launcher(group: click.Group, stage: str, name: str, summary: str) -> None:
    """Add a command that does what launch/`stage`.py does."""

    @group.command(name.rpartition(" ")[2], context_settings=PASS_ON, help=summary)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def run(arguments: tuple[str, ...]) -> int:
        if stage == "pipeline":
            from lmrc.launcher import pipeline

            return pipeline.main(arguments, name)
        from lmrc.launcher import launch, stages

        return launch.main(stages.STAGES[stage], arguments, name)


_add_launcher(train, "rcp", "lmrc train rcp", "Train the candidate classifier (RCP).")
_add_launcher(train, "rc", "lmrc train rc", "Fine-tune the LLM that classifies relations (RC).")
_add_launcher(lmrc, "propose", "lmrc propose", "Propose candidate pairs for a corpus.")
_add_launcher(lmrc, "classify", "lmrc classify", "Classify the relations of candidate pairs.")
_add_launcher(lmrc, "pipeline", "lmrc pipeline", "Run all stages: build, rcp, propose, rc, classify, score.")


@lmrc.command(context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Run all stages with the embedded corpus and models on this machine."""
    from lmrc.config.help import HELP, options_help
    from lmrc.config.loader import parse, split_flags
    from lmrc.config.schema import DemoConfig

    if not HELP.isdisjoint(arguments):
        defaults, _ = parse(DemoConfig, ["--config", str(CONFIGS / "demo.yaml")], {})
        click.echo(
            "lmrc demo [--long] [--config FILE] [--run NAME] [--any.option VALUE …] [--verbose]\n\n"
            "Makes synthetic documents, trains both models on them, extracts the triples of held-out documents and "
            "scores them. --long trains on more documents.\n\n"
            f"{options_help(DemoConfig, '--help-all' in arguments, defaults)}"
        )
        return
    flags, given = split_flags(arguments, ("--dry-run", "--follow", "--long"))
    for flag in sorted(flags - {"--long"}):
        raise UserError(f"lmrc demo takes no {flag}: it always runs here, at once; lmrc demo --help lists its options")
    is_long = "--long" in flags
    if not any(word.split("=")[0] == "--config" for word in given):
        given = ["--config", str(CONFIGS / ("demo-long.yaml" if is_long else "demo.yaml")), *given]
    elif is_long:
        raise UserError("--long is a config of its own, demo-long.yaml: leave out either --long or --config")
    config, _ = parse(DemoConfig, given, {"run": "run.name", "verbose": "run.verbose"})

    from lmrc.demo.demo import Demo

    set_up_stage_logging(config.run.verbose)
    Demo(config).run()


ALIGN = (
    click.Option(
        ["--align"],
        type=click.FloatRange(0.0, 1.0),
        is_flag=False,
        flag_value="0.5",
        metavar="[THETA]",
        help="For runs in mode free: replace a relation outside the set by the most similar one of it, if their cosine "
        "similarity is at least THETA; also sweep over THETA for figure 3.",
    ),
    click.Option(
        ["--align-encoder"],
        default="embedded:minilm",
        show_default=True,
        help="Sentence encoder for --align; its outputs are mean-pooled.",
    ),
)


@lmrc.command(params=[*commands.score.params, *ALIGN], help=commands.score.help)
def score(align: float | None, align_encoder: str, **given: Any) -> None:
    if align is None:
        _refuse_unused("align_encoder", "it is read only with --align")
    else:
        from lmrc.launcher.stages import quieten
        from lmrc.rc.alignment import align_runs

        quieten()
        given["pred"] = align_runs(given["pred"], given["gold"], given["relations"], align, align_encoder)
    assert commands.score.callback is not None
    commands.score.callback(**given)


lmrc.add_command(commands.compare)
lmrc.add_command(commands.report)
lmrc.add_command(export)
lmrc.add_command(fusion)
lmrc.add_command(push)
lmrc.add_command(track)
lmrc.add_command(models)


def _refuse_unused(name: str, why: str) -> None:
    """Raise UserError if this option of the current command was typed, although it has no effect."""
    if click.get_current_context().get_parameter_source(name) == ParameterSource.COMMANDLINE:
        raise UserError(f"--{_with_dashes(name)} has no effect: {why}. Leave it out")


@lmrc.group()
def data() -> None:
    """Build, convert, count, split, generate and download corpora, and learn relation schemas."""


@data.command()
@click.argument("documents", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="Folder of the new corpus.")
@click.option(
    "--relations",
    type=FOLDER,
    help="Relation set as JSON {id: name}, or rel2id.json {name: number}; by default the 96 of DocRED.",
)
@click.option(
    "--fix", is_flag=True, help="Mend or leave out what breaks the format; each change is written to OUT.fixes.jsonl."
)
@click.option("--docs-per-shard", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--sample", type=click.IntRange(min=1), help="Number of documents to sample; by default all.")
@click.option("--seed", default=66, show_default=True, type=click.IntRange(min=0), help="Seed of --sample.")
def build(
    documents: Path, out: Path, relations: Path | None, fix: bool, docs_per_shard: int, sample: int | None, seed: int
) -> None:
    """Check DOCUMENTS and build a corpus from them.

    DOCUMENTS are in DocRED's format: a JSON list, JSON Lines, either gzipped, or Parquet; or a folder of shards, JSON
    Lines or Parquet.
    """
    from lmrc.corpus.build import build_corpus

    if sample is None:
        _refuse_unused("seed", "it is read only with --sample, which draws documents")
    manifest = build_corpus(documents, out, relations, docs_per_shard, sample, seed, fix)
    click.echo(
        f"{out}: {manifest.documents:,} documents, {manifest.candidate_pairs:,} candidate pairs, "
        f"{manifest.triples:,} triples in {len(manifest.shards)} shards"
        + (f"; {manifest.duplicate_labels:,} repeated labels kept once" if manifest.duplicate_labels else "")
    )


@data.command()
@click.argument("file", type=FOLDER)
@click.option(
    "--from",
    "source",
    required=True,
    metavar="FORMAT",
    help="pubtator, bioc, scierc, dwie, tacred, nyt, brat, conllu, docbin or text.",
)
@click.option("--out", required=True, type=FOLDER, help="File to write; its relation set is written beside it.")
def convert(file: Path, source: str, out: Path) -> None:
    """Convert FILE, or all files of a folder, from another format to DocRED JSON."""
    from lmrc.convert.convert import convert as convert_file
    from lmrc.convert.formats import format_named

    conversion = convert_file(file, out, format_named(source))
    relations = f"; relations in {conversion.relations}" if conversion.relations else ""
    click.echo(
        f"{out}: {conversion.documents:,} documents, {conversion.entities:,} entities, "
        f"{conversion.triples:,} triples{relations}"
    )
    click.echo(conversion.account())


@data.command()
@click.argument("corpus", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stats(corpus: Path, as_json: bool) -> None:
    """Print the statistics of a CORPUS (table 1 of the paper)."""
    from lmrc.corpus.corpus import Corpus
    from lmrc.corpus.statistics import statistics

    figures = statistics(Corpus.open(corpus))
    if as_json:
        click.echo(json.dumps(figures))
        return
    click.echo(f"{corpus}:")
    width = max(len(name) for name in figures)
    for name, value in figures.items():
        shown = f"{value:>14,}" if isinstance(value, int) else f"{value:>14,.3f}"
        click.echo(f"  {name.replace('_', ' '):<{width}}  {shown}")


@data.command()
@click.argument("corpus", type=FOLDER)
@click.option(
    "--minimum",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="A relation is admissible between types that it was seen between so many times.",
)
@click.option("--out", required=True, type=FOLDER, help="File of the schema, in JSON.")
def schema(corpus: Path, minimum: int, out: Path) -> None:
    """Learn from the labels of CORPUS which relations may hold between two entity types."""
    from lmrc.corpus.corpus import Corpus
    from lmrc.corpus.relation_schema import RelationSchema, SchemaStatistics

    opened = Corpus.open(corpus)
    learnt = RelationSchema.of_corpus(opened, minimum)
    learnt.write(out)
    click.echo(f"{out}: {SchemaStatistics.of(learnt, opened)}")


@data.command()
@click.argument("corpus", type=FOLDER)
@click.option("--folds", required=True, type=click.IntRange(min=2), help="Number of folds.")
@click.option("--out", required=True, type=FOLDER, help="Folder of the corpora FOLD/train and FOLD/held-out.")
def split(corpus: Path, folds: int, out: Path) -> None:
    """Split a CORPUS for cross-fitting: document i is held out in fold i modulo the number of folds."""
    from lmrc.corpus.corpus import Corpus
    from lmrc.corpus.folds import split_corpus

    for fold, (train, held_out) in enumerate(split_corpus(Corpus.open(corpus), folds, out)):
        click.echo(f"{out / str(fold)}: {train.documents:,} documents to train on, {held_out.documents:,} held out")


@data.command()
@click.argument("candidates", nargs=-1, required=True, type=FOLDER)
@click.option("--corpus", required=True, type=FOLDER, help="The corpus that was split, or a part of it.")
@click.option("--out", required=True, type=FOLDER, help="Folder of the joined candidates.")
def join_candidates(candidates: tuple[Path, ...], corpus: Path, out: Path) -> None:
    """Join the CANDIDATES of the held-out parts of a corpus, each document once."""
    from lmrc.corpus import folds
    from lmrc.corpus.corpus import Corpus

    manifest = folds.join_candidates(candidates, Corpus.open(corpus), out)
    click.echo(
        f"{out}: {manifest.candidates:,} candidates of {manifest.documents:,} documents; threshold "
        f"{manifest.threshold:.4g}"
    )


@data.command()
@click.option("--docs", required=True, type=click.IntRange(min=1), help="Number of documents.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--out", required=True, type=FOLDER, help="File to write; its relation set is written beside it.")
def synth(docs: int, seed: int, out: Path) -> None:
    """Generate synthetic documents in DocRED format, deterministically."""
    from lmrc.corpus.docred import to_json
    from lmrc.corpus.synthetic import generator as synthetic

    with replacing(out) as file:
        for index, document in enumerate(synthetic.generate(docs, seed)):
            file.write(("[\n" if index == 0 else ",\n") + json.dumps(to_json(document), ensure_ascii=False))
        file.write("\n]\n")
    relations = out.with_name(out.stem + ".relations.json")
    names = dict(zip(synthetic.RELATIONS.ids, synthetic.RELATIONS.names, strict=True))
    write_atomically(relations, json.dumps(names, indent=1) + "\n")
    click.echo(f"{out}: {docs:,} documents; relations in {relations}")


@data.command()
@click.argument("dataset", type=click.Choice(["docred", "redocred"]))
@click.option("--folder", type=FOLDER, default=Path("data"), show_default=True)
def download(dataset: str, folder: Path) -> None:
    """Download a published data set, verify its checksums and build its corpora."""
    from lmrc.corpus.download import download

    for path in download(dataset, folder):
        click.echo(path)


@lmrc.command()
@click.argument("documents", type=FOLDER)
@click.option("--rcp", required=True, type=MODEL, help="Folder with the trained classifier, or its name on the hub.")
@click.option("--rc", required=True, type=MODEL, help="Folder with the trained adapter, or its name on the hub.")
@click.option(
    "--out", type=FOLDER, help="File of the triples: NAME.json (submission format), .jsonl, .csv, .ttl or .graphml."
)
@click.option(
    "--format",
    type=click.Choice(["json", "jsonl", "csv", "turtle", "graphml", "neo4j"]),
    help="Format of --out; by default by the end of its name.",
)
@click.option("--html", type=FOLDER, help="Page to write, with the texts, entities and triples.")
@click.option("--merge-entities", type=click.Choice(["name"]), help="Merge entities over documents, in csv and graphs.")
@click.option(
    "--mentions",
    type=click.Choice(["rules", "spacy", "gliner", "spans"]),
    help="What finds mentions in texts that bring none; by default rules.",
)
@click.option("--mentions-model", help="Model of spacy or gliner.")
@click.option("--relations", type=FOLDER, help="Relation set as JSON {id: name}; by default the adapter's.")
@click.option("--threshold", help="Minimum P(pair has a relation): a number, f1 or recall=0.9; by default 0.5.")
@click.option("--top-k", type=int, help="Maximum number of pairs per document; the most probable are kept.")
@click.option(
    "--mode",
    type=click.Choice(["constrained", "score"]),
    help="constrained: greedy answer; score: probability of every relation.",
)
@click.option("--relation-threshold", type=float, help="Minimum P(relation of the pair), in mode score.")
@click.option("--schema", type=FOLDER, help="Relation schema of the answers in JSON; by default the adapter's.")
@click.option("--fusion", type=FOLDER, help="Fusion of both models, of lmrc fusion fit; scores are calibrated then.")
@click.option("--precision", type=float, help="With --fusion: keep triples so that this precision holds.")
@click.option("--ask", type=click.Choice(["band", "all"]), help="With --fusion: candidates that the LM is asked about.")
@click.option("--batch-size", type=int, help="Documents (RCP) and queries (RC) per batch.")
@click.option("--gpus", type=int, help="Number of GPUs to split the LLM over, if it does not fit one.")
@click.option(
    "--truncate",
    type=click.Choice(["sentences"]),
    help="If a document does not fit the prompt, drop sentences that mention neither entity.",
)
@click.option("--shorten", type=click.Choice(["sentences"]), hidden=True)
def extract(shorten: str | None, **given: object) -> None:
    """Extract the triples of new DOCUMENTS with both models, on this machine.

    DOCUMENTS are a text (.txt), JSON or Parquet with texts ({"title", "text", "mentions"}), documents in DocRED's
    format, a folder of texts or of shards, or - for lines of JSON on standard input. Without --out the triples of a
    text are printed.

    The score of a triple is P(pair) x P(relation), or with --fusion its calibrated probability. Labels in DOCUMENTS are
    ignored.
    """
    from lmrc.common.input_checks import check_model, check_output
    from lmrc.config.aliases import announce_renamed
    from lmrc.config.loader import build
    from lmrc.config.schema import ExtractConfig
    from lmrc.config.unused import refuse_unused
    from lmrc.export.formats import format_of
    from lmrc.text.inputs import is_text

    if shorten is not None:
        announce_renamed("--shorten", "--truncate")
        given["truncate"] = given["truncate"] or shorten
    config = build(ExtractConfig, {name: value for name, value in given.items() if value is not None})
    refuse_unused(config)
    # Before the import of torch, which takes seconds.
    for path in (config.out, config.html):
        if path is not None and str(path) != "-" and config.format != "neo4j":
            check_output(path)
    from lmrc.pretrained.trained import find_trained

    config = config.model_copy(update={"rcp": find_trained(config.rcp), "rc": find_trained(config.rc)})
    check_model(config.rcp, "rcp")
    check_model(config.rc, "rc")
    is_submission = config.out is not None and format_of(config.out, config.format) == "json"
    if is_submission and (is_text(config.documents) or str(config.documents) == "-" or config.html is not None):
        raise UserError(
            f"--out {config.out}: the submission format has no names, only numbers of entities, and no page beside it: "
            "give --out NAME.jsonl"
        )

    if is_submission:
        from lmrc.extract import Extraction
        from lmrc.launcher.stages import quieten

        quieten()
        click.echo(f"{Extraction(config).run()}\n{config.out}")
        return
    from lmrc.extract_stream import StreamExtraction

    summary = StreamExtraction(config).run()
    # Standard output may be the triples.
    click.echo(summary, err=str(config.out) == "-")


@lmrc.command()
@click.argument("adapter", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="Folder of the new model.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="bf16", show_default=True)
def merge(adapter: Path, out: Path, precision: ResolvedPrecision) -> None:
    """Merge ADAPTER into its base model. transformers and vLLM load the result as a causal LM."""
    from lmrc.common.input_checks import check_model
    from lmrc.launcher.stages import quieten

    check_model(adapter, "rc")
    from lmrc.rc.model.merge import merge

    quieten()
    click.echo(f"{out}: {merge(adapter, out, precision):,} weights in {precision}")


@lmrc.command()
@click.argument("runs", nargs=-1, type=FOLDER)
@click.option("--watch", is_flag=False, flag_value="5", metavar="[SECONDS]", help="Refresh until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list of objects.")
def status(runs: tuple[Path, ...], watch: str | None, as_json: bool) -> None:
    """Print state, progress and remaining time of RUNS; by default of all runs below runs/.

    On a terminal with colors and bars.
    """
    from lmrc.monitor.show_status import show, watch_runs

    if watch is None:
        show(runs, as_json)
        return
    if as_json:
        raise UserError("--watch is for people and --json for programs: give one of them")
    try:
        seconds = float(watch)
    except ValueError:  # `lmrc status --watch RUN`
        seconds, runs = 5.0, (Path(watch), *runs)
    watch_runs(runs, seconds)


@lmrc.command()
@click.option("--nodes", type=click.IntRange(min=2), help="Also test the shared file system between this many nodes.")
@click.option("--container", help="Also check this image, as cluster.container, and start Python in it.")
@click.option("--partition", help="SLURM partition of these tests.")
@click.option("--account", help="SLURM account of these tests.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list of objects.")
def doctor(nodes: int | None, container: str | None, partition: str | None, account: str | None, as_json: bool) -> None:
    """Check this machine and its SLURM, and print a remedy for everything that is missing."""
    from lmrc.launcher.slurm.container import is_pyxis_image
    from lmrc.monitor.doctor.examine import examine

    if nodes is None and (container is None or not is_pyxis_image(container)):
        for name in ("partition", "account"):
            _refuse_unused(name, "it is read only with --nodes, or with a --container of pyxis, which start a job")
    if not examine(nodes, partition, account, as_json, container):
        sys.exit(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Errors of click are printed on one line, like those of lmrc."""
    threads.configure()
    set_up_logging("stderr")
    status = 0

    def command() -> None:
        nonlocal status
        try:
            result = lmrc.main(
                args=None if arguments is None else list(arguments), prog_name="lmrc", standalone_mode=False
            )
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
        except click.ClickException as error:
            raise UserError(" ".join(error.format_message().split())) from None
        except click.Abort:
            raise KeyboardInterrupt from None
        else:
            status = result if isinstance(result, int) else 0

    return exit_status(command) or status


if __name__ == "__main__":
    sys.exit(main())
