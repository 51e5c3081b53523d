"""The command `lmrc models`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from lmrc.cli.group import CommandGroup
from lmrc.common.errors import UserError


@click.group(cls=CommandGroup)
def models() -> None:
    """Pretrained models for nodes without a network."""


@models.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option("--cluster", help="Site of configs/cluster, whose cache_folder gets the models.")
@click.option("--cache-folder", help="Folder that gets the models, as --cache-folder of the launchers.")
def fetch(names: tuple[str, ...], cluster: str | None, cache_folder: str | None) -> None:
    """Fetch models from the hub, or make embedded: ones, in the cache that jobs read."""
    from lmrc.launcher.environment_variables import CACHES
    from lmrc.launcher.hub_cache import has_weights, is_complete
    from lmrc.pretrained.fetch import fetch as fetch_model

    folder = _cache_folder(cluster, cache_folder)
    if folder is not None:
        # Jobs with this cache look for embedded models there.
        os.environ["XDG_CACHE_HOME"] = str(folder / CACHES["XDG_CACHE_HOME"])
    for name in names:
        files = fetch_model(name, None if folder is None else folder / CACHES["HF_HUB_CACHE"])
        lacks = "" if is_complete(files) else "a tokenizer" if has_weights(files) else "weights"
        click.echo(f"{name}: {files}{f', without {lacks}' if lacks else ''}")


def _cache_folder(cluster: str | None, given: str | None) -> Path | None:
    """Return the folder of the caches of jobs; None if they use those of the shell.

    Raises:
        UserError: it contains variables that are known on the node only.
    """
    if given is None and cluster is not None:
        from lmrc.launcher.launch import read_config
        from lmrc.launcher.stages import RCP

        given = read_config(RCP, ["--cluster", cluster]).cluster.cache_folder
    if given is None:
        return None
    folder = os.path.expandvars(os.path.expanduser(given))  # noqa: PTH111 - variables first need a text
    if "$" in folder:
        raise UserError(f"{given} has variables that are known on the node only: give --cache-folder, a shared folder")
    return Path(folder).absolute()
