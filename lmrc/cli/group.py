"""Groups of commands whose --help shows the first sentence of each command in full."""

from __future__ import annotations

import click


class CommandGroup(click.Group):
    """A group that wraps the summaries of its commands, where click would cut them off."""

    # Groups inside of this one are of the same class.
    group_class = type

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write all commands with their summaries."""
        rows = [
            (name, command.get_short_help_str(limit=10_000))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
