"""The commands. Click only: what they do is done elsewhere."""

import sys
from importlib import import_module

import click

from pipeline import __version__
from pipeline.errors import MdsError

_COMMANDS = {
    "run": "Record until stopped.",
    "status": "Show what the running service does.",
    "health": "Tell whether it is recording; exit 1 if not.",
    "connections": "Show the three Kite connections.",
    "instruments": "Show the subscribed instruments.",
    "storage": "Show what is being written.",
    "metrics": "Show counts and rates.",
    "stop": "End the running service in order.",
    "verify": "Prove from the files that nothing is missing.",
    "simulate": "Serve a made-up market as Kite does.",
}
_MODULES = dict.fromkeys(("health", "connections", "instruments", "storage", "metrics", "stop"), "status")


class _Commands(click.Group):
    """Imports a command when it is called: a question to the service should not wait for what recording needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  the signature is click's
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  as above
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"pipeline.cli.{_MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  as above
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"max_content_width": 110})
@click.version_option(__version__, prog_name="mds")
def cli() -> None:
    """Record every tick of a Kite Connect feed into daily JSONL files, each exactly once.

    \b
    Try it without credentials:
      mds run --simulate --duration 10    record a made-up market for ten seconds
      mds verify                          prove that all of it is in the files
    """


def main() -> None:
    """Run the command line; errors are one line on stderr."""
    try:
        cli(prog_name="mds")
    except MdsError as error:
        click.echo(f"mds: {error}", err=True)
        sys.exit(error.exit_code)
