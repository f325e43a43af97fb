"""The commands. Click only: what they do is done elsewhere."""

import errno
import os
import sys
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from pipeline import __version__
from pipeline.errors import MdsError
from pipeline.extras import explain
from pipeline.files import FORMAT

_SECTIONS = {
    "Begin": {
        "init": "Write a settings file, asking for what it needs.",
    },
    "Log in": {
        "login": "Log in at Kite, for the access token of the day.",
        "token": "Store one from elsewhere; tell if it is good.",
    },
    "Record": {
        "run": "Record until stopped.",
        "stop": "End the running service in order.",
    },
    "Look": {
        "top": "Watch it, until q; a line at a time in a pipe.",
        "status": "Show what the running service does.",
        "health": "Tell whether it is recording; exit 1 if not.",
        "connections": "Show the three Kite connections.",
        "instruments": "Show what is subscribed; fetch and search Kite's list.",
        "storage": "Show what is being written.",
        "metrics": "Show counts and rates.",
        "events": "Show what happened of late.",
        "history": "Show what was changed, when and by whom.",
        "doctor": "Find out what is wrong, and what to do.",
    },
    "Change what is recorded": {
        "subscribe": "Record more instruments.",
        "unsubscribe": "Record instruments no longer.",
        "mode": "Record instruments in another mode.",
        "mirror": "Record what connection 1 has on connection 3, too.",
    },
    "Step in": {
        "failover": "Let the spare connection carry another's instruments.",
        "failback": "Give back what the spare connection carries.",
        "restart": "End one of the processes and start it anew.",
    },
    "Prove": {
        "verify": "Prove from the files that nothing is missing.",
        "gaps": "List what could not be recorded, and since when.",
    },
    "Read what was recorded": {
        "files": "List the files; tell about one; delete old ones.",
        "tail": "Print ticks as they are stored.",
        "analyze": "Count, rate, prices and silences of instruments.",
        "bars": "Make OHLCV bars of the ticks.",
        "report": "Make a page, or JSON, about the recording.",
        "compact": "Make Parquet files of days that are over.",
    },
    "Test": {
        "simulate": "Serve a made-up market as Kite does.",
    },
}
_COMMANDS = {name: text for section in _SECTIONS.values() for name, text in section.items()}
_MODULES = {
    **dict.fromkeys(_SECTIONS["Look"], "status"),
    **{name: name for name in ("top", "events", "doctor", "instruments")},
    **dict.fromkeys((*_SECTIONS["Change what is recorded"], *_SECTIONS["Step in"]), "changes"),
}
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of an output: to a file on a full disk


class _Commands(click.Group):
    """Imports a command when it is called: a question to the service should not wait for what recording needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  the signature is click's
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  as above
        if cmd_name not in _COMMANDS:
            return None
        try:
            module = import_module(f"pipeline.cli.{_MODULES.get(cmd_name, cmd_name)}")
        except ImportError as error:
            raise explain(error, f"mds {cmd_name}") from error
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  as above
        width = max(map(len, _COMMANDS))  # of all sections, so that their texts stand under each other
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name, without importing any."""
        names = [CompletionItem(name, help=_COMMANDS[name]) for name in _COMMANDS if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=_Commands, context_settings={"max_content_width": 110})
@click.version_option(__version__, prog_name="mds", message=f"%(prog)s, version %(version)s (format {FORMAT})")
def cli() -> None:
    """Record every tick of a Kite Connect feed into daily JSONL files, each exactly once.

    \b
    Try it without credentials:
      mds run --simulate --duration 10    record a made-up market for ten seconds
      mds verify                          prove that all of it is in the files

    \b
    Record the real market:
      mds init     write a settings file: what is recorded, and where to
      mds login    log in to Kite, once each morning
      mds run      record until Ctrl-C
    """


def main() -> None:
    """Run the command line; errors are one line on stderr."""
    try:
        cli(prog_name="mds")
    except MdsError as error:
        click.echo(f"mds: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITABLE:
            raise
        drop_output()
        click.echo(f"mds: cannot write: {error.strerror}", err=True)
        sys.exit(1)


def drop_output() -> None:
    """Let the end of the process not try again to write what could not be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
