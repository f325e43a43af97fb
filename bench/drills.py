"""Kill campaigns: what the test suite does a few times, many times.

    python -m bench.drills kills --writer 200 --workers 200 --supervisor 50
    python -m bench.drills faults --faults 150 --seed 1

Each runs real processes against the Kite server of the tests, in a temporary folder, and prints its figures. It exits
with 1 where a check fails, says why, and leaves the folder.
"""

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from pipeline.cli import tables
from tests.integration import drills, service
from tests.integration.drills import Figures
from tests.integration.faults import random_faults
from tests.integration.kite import Kite
from tests.integration.service import Service

READ_BACK_S = 1800.0  # for a command to end: `mds verify` reads gigabytes

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Item = TypeVar("_Item")


def options(command: _Command) -> _Command:
    """Add what all drills take."""
    keep = click.option("--keep", is_flag=True, help="Keep the folder with files and logs; it can have gigabytes.")
    as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    return keep(as_json(command))


@click.group()
def main() -> None:
    """Do to a running recorder what may happen to it, and check that nothing is lost."""
    service.DEADLINE_S = READ_BACK_S


@main.command()
@click.option("--writer", default=200, show_default=True, type=click.IntRange(min=0), metavar="N")
@click.option("--workers", default=200, show_default=True, type=click.IntRange(min=0), metavar="N")
@click.option("--supervisor", default=50, show_default=True, type=click.IntRange(min=0), metavar="N")
@click.option("--rate", default=10_000, show_default=True, metavar="N", help="Ticks a second in all.")
@click.option(
    "--pause",
    "pause_s",
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="At most so long after it is back a process is killed.",
)
@click.option("--seed", default=1, show_default=True, metavar="N", help="Of the order and the moments of the kills.")
@options
def kills(
    *, writer: int, workers: int, supervisor: int, rate: int, pause_s: float, seed: int, keep: bool, as_json: bool
) -> None:
    """Kill writer, workers and supervisor at random moments."""
    chance = random.Random(seed)
    victims = drills.shuffled(chance, writer=writer, workers=workers, supervisor=supervisor)
    with ground(keep=keep) as (kite, recorder), progress(victims) as bar:
        seen = drills.random_kills(kite, recorder, bar, chance=chance, rate=rate, pause_s=pause_s)
    show(seen, as_json=as_json)


@main.command()
@click.option("--faults", default=150, show_default=True, type=click.IntRange(min=1), metavar="N")
@click.option("--rate", default=5000, show_default=True, metavar="N", help="Ticks a second in all.")
@click.option("--seed", default=1, show_default=True, metavar="N", help="Of what is done, and when.")
@options
def faults(*, faults: int, rate: int, seed: int, keep: bool, as_json: bool) -> None:
    """Let whatever can happen to processes and sockets happen, while requests go on."""
    with ground(keep=keep) as (kite, recorder), progress(range(faults)) as bar:
        seen = random_faults(kite, recorder, bar, chance=random.Random(seed), rate=rate)
    show(seen, as_json=as_json)


@contextmanager
def ground(*, keep: bool) -> Iterator[tuple[Kite, Service]]:
    """Make a folder with a Kite server and a recorder pointed at it; afterwards end both, and delete the folder.

    It stays where a check fails, whatever `keep` says.
    """
    folder = Path(tempfile.mkdtemp(prefix="mds-bench-"))
    kite = Kite(folder / "kite")
    recorder = Service(folder / "service", kite={"ws_url": kite.url}, **drills.SETTINGS)
    stays = keep
    try:
        yield kite, recorder
    except AssertionError as error:
        stays = True
        raise click.ClickException(str(error)) from None
    finally:
        recorder.kill_all()
        kite.close()
        if stays:
            click.echo(f"\nfiles and logs are in {folder}", err=True)
        else:
            shutil.rmtree(folder)


def progress(items: Sequence[_Item]) -> Any:
    """Return these with a progress bar on stderr, for a `with`."""
    return click.progressbar(items, label="kills", file=sys.stderr, show_pos=True)


def show(seen: Figures, *, as_json: bool) -> None:
    """Print the figures."""
    if as_json:
        click.echo(json.dumps(asdict(seen) | {"lost": 0, "stored_twice": 0}))
        return
    table = tables.table("", ">")
    for name, value in rows(seen):
        table.add_row(name, value)
    tables.show(Console(), table)


def rows(seen: Figures) -> Iterator[tuple[str, str]]:
    """Yield the lines of the table."""
    for role, number in seen.kills.items():
        yield f"kills of {role}", f"{number:,}"
    for what, number in seen.faults.items():
        yield what, f"{number:,}"
    yield "duration", f"{seen.duration_s:,.0f} s"
    yield "ticks sent", f"{seen.sent:,}"
    yield "ticks stored", f"{seen.stored:,}"
    yield "lost", "0"
    yield "stored twice", "0"
    yield "on their way to a worker that was killed", f"{seen.sent - seen.stored:,}"
    yield "gaps on record", f"{seen.gaps:,}"
    yield "their instrument-seconds", f"{seen.gap_instrument_s:,.1f}"
    yield "instrument-seconds on no socket of the server", f"{seen.uncovered_instrument_s:,.1f}"
    yield "instrument-seconds on record for no reason", f"{seen.overstated_instrument_s:,.1f}"
    yield "longest of one instrument", f"{seen.longest_uncovered_s:.3f} s"
    yield "longest time on two connections", f"{seen.overlap_s:.3f} s"
    yield "killed by the supervisor as hung", f"{seen.hung:,}"


if __name__ == "__main__":
    main()
