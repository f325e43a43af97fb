"""`mds simulate`: hands over to the simulator, which is a program of its own."""

import os
import sys

import click


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
@click.pass_context
def simulate(context: click.Context) -> None:
    """Serve a made-up market as Kite does."""
    os.execv(sys.executable, [sys.executable, "-m", "pipeline.simulator", *context.args])  # noqa: S606  argv as given
