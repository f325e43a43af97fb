"""`mds run`."""

import asyncio
import sys
from pathlib import Path

import click

from pipeline import config, log, role
from pipeline.cli.options import config_option
from pipeline.supervisor.simulation import with_simulator
from pipeline.supervisor.supervisor import Supervisor


@click.command()
@config_option
@click.option("--simulate", is_flag=True, help="Record the built-in simulator instead of Kite; no credentials needed.")
@click.option("--duration", type=click.FloatRange(min=0), metavar="S", help="End by itself after S seconds.")
def run(config_file: Path | None, simulate: bool, duration: float | None) -> None:
    """Record until SIGINT, SIGTERM, SIGHUP or `mds stop`.

    Ends in order: the connections close, and everything that was received is stored. Exit 0 then; exit 1 if
    something had to stay in the spool, from which the next run stores it.
    """
    settings = config.load(config_file, need_credentials=not simulate).resolved()
    if simulate:
        settings = with_simulator(settings)
    supervisor = Supervisor(settings, simulate=simulate)
    supervisor.lock()
    log.setup(role.SUPERVISOR, settings.secrets)
    printing = log.print_from_thread(role.RELAYED)
    try:
        summary = asyncio.run(supervisor.run(duration))
    finally:
        printing.stop()
    click.echo(f"received {summary.received:,} ticks, stored {summary.stored:,}, still spooled {summary.spooled:,}")
    sys.exit(0 if summary.drained else 1)
