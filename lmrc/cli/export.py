"""The command `lmrc export`."""

from __future__ import annotations

from pathlib import Path

import click

from lmrc.common.input_checks import check_output

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--out", type=FOLDER, help="File of the triples: NAME.jsonl, .csv, .ttl or .graphml.")
@click.option(
    "--format",
    type=click.Choice(["jsonl", "csv", "turtle", "graphml", "neo4j"]),
    help="Format of --out; by default by the end of its name.",
)
@click.option("--html", type=FOLDER, help="Page to write, with the texts, entities and triples.")
@click.option("--merge-entities", type=click.Choice(["name"]), help="Merge entities over documents, in csv and graphs.")
def export(run: Path, out: Path | None, format: str | None, html: Path | None, merge_entities: str | None) -> None:
    """Write the triples of a RUN of classify with names, types and spans."""
    for path in (out, html):
        if path is not None and format != "neo4j":
            check_output(path)
    from lmrc.export.run import export_run

    click.echo(export_run(run, out, format, merge_entities is not None, html))
