"""The command `lmrc push`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--private", is_flag=True, help="Make a new repository private.")
def push(run: Path, name: str, private: bool) -> None:
    """Upload the best weights of the training in RUN to the hub as NAME, with their model card.

    NAME is OWNER/NAME. Others then give it as --rcp or --rc. Needs a login (hf auth login, or HF_TOKEN).
    """
    from lmrc.pretrained.publish import push as upload

    click.echo(f"{run} is at {upload(run, name, private)}")
