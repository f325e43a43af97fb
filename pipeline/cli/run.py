"""`mds run`."""

import asyncio
import logging
import os
import sys
from pathlib import Path

import click

from pipeline import config, extras, log, logfile, printing, role
from pipeline.cli.first import go_on_in_child
from pipeline.cli.options import config_option
from pipeline.errors import MdsError
from pipeline.supervisor.simulation import with_simulator
from pipeline.supervisor.supervisor import Supervisor


@click.command()
@config_option
@click.option("--simulate", is_flag=True, help="Record the built-in simulator instead of Kite; no credentials needed.")
@click.option("--duration", type=click.FloatRange(min=0), metavar="S", help="End by itself after S seconds.")
@click.option("--fresh", is_flag=True, help="Begin with the configuration, not with what was subscribed last.")
def run(config_file: Path | None, simulate: bool, duration: float | None, fresh: bool) -> None:
    """Record the instruments of the configuration until stopped.

    What was subscribed and unsubscribed while an earlier run went on still holds; --fresh forgets it.

    Stop it with Ctrl-C, SIGTERM, SIGHUP or `mds stop`. It then closes the connections and stores everything that
    was received. Exits with 0 when all is stored, with 1 if something had to stay in the spool, from which the next
    run stores it, and with 2 if it could not begin.

    With SIGUSR1 it ends alone: the others go on recording, until the next run adopts them, or `mds stop` ends them.

    Kite's credentials are read from KITE_API_KEY and KITE_ACCESS_TOKEN, then from files of these names in the folder
    that CREDENTIALS_DIRECTORY names; what is set nowhere is what `mds login` or `mds token set` has stored. A token
    that is stored later is taken up while it runs.
    """
    go_on_in_child()
    settings = config.load(config_file, need_credentials=not simulate).resolved()
    if settings.storage.compact:
        extras.require("storage.compact")
    if simulate:
        settings = with_simulator(settings)
    supervisor = Supervisor(settings, simulate=simulate, fresh=fresh)
    supervisor.lock()
    log.setup(settings, role.SUPERVISOR, *logfile.log_files(settings))
    threads = printing.Printing()
    summary, code = None, 1
    try:
        summary = asyncio.run(supervisor.run(duration))
        code = 0 if summary is None or summary.drained else 1
    except MdsError:
        raise
    except Exception:
        logging.getLogger(__name__).exception("the supervisor has failed; what it has started goes on recording")
    finally:
        printed = threads.finish()
    if summary is not None:
        click.echo(f"received {summary.received:,} ticks, stored {summary.stored:,}, still spooled {summary.spooled:,}")
    elif code == 0:
        click.echo("ended alone: the others go on recording; mds run adopts them, mds stop ends them")
    if not printed:
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
