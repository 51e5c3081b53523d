"""The command `lmrc track`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "tracker",
    required=True,
    type=click.Choice(["tensorboard", "wandb", "mlflow", "trackio"]),
    help="Tracker that gets a new run with these metrics.",
)
def track(run: Path, tracker: str) -> None:
    """Copy the metrics of the training in RUN, a run folder, to an experiment tracker."""
    from lmrc.training.trackers.replay import replay

    click.echo(f"{run}: {replay(run, tracker):,} rows of metrics.jsonl copied to {tracker}")
