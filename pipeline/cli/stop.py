"""`mds stop`."""

import sys
from pathlib import Path

import click

from pipeline import config, orphans
from pipeline.cli.options import config_option
from pipeline.client import Client
from pipeline.errors import NotRunningError


@click.command()
@config_option
@click.option("--if-running", is_flag=True, help="Exit with 0 where nothing runs.")
def stop(config_file: Path | None, if_running: bool) -> None:
    """End the running service in order, as Ctrl-C does where it was started, and wait until it has ended.

    Where the supervisor was killed, what it has left running is ended in the same order. Exits with 1 if something
    does not end or, without a supervisor, had to stay in a spool, from which the next run stores it.
    """
    settings = config.load(config_file).resolved()
    with Client(settings.runtime.run_dir) as client:
        try:
            ended = client.shutdown()
        except NotRunningError:
            if not orphans.find(settings):
                if if_running and not orphans.is_supervised(settings):
                    return
                raise
            ended = True
    stored = orphans.end(settings, click.echo) if ended else True
    click.echo("ended" if ended else "still ending")
    sys.exit(0 if ended and stored else 1)
