"""Kill campaigns: what the test suite does a few times, many times.

    python -m bench.drills kills --writer 200 --workers 200 --supervisor 50
    python -m bench.drills faults --faults 150 --seed 1

Each runs real processes against the Kite server of the tests, in a temporary folder, and prints its figures. It exits
with 1 where a check fails, says why, and leaves the folder.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import asdict

import click
from rich.console import Console

from bench.rig.arena import READ_BACK_S, arena
from bench.rig.options import of_drills
from bench.rig.show import counted
from pipeline.cli import tables
from tests.integration import drills, service
from tests.integration.drills import Figures
from tests.integration.faults import random_faults


@click.group()
def main() -> None:
    """Do to a running recorder what may happen to it, and check that nothing is lost."""
    service.DEADLINE_S = READ_BACK_S


@main.command()
@click.option(
    "--writer",
    default=200,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="How often the writer is killed.",
)
@click.option(
    "--workers",
    default=200,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="How often a worker is killed.",
)
@click.option(
    "--supervisor",
    default=50,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="How often the supervisor is killed.",
)
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
@of_drills
def kills(
    *, writer: int, workers: int, supervisor: int, rate: int, pause_s: float, seed: int, keep: bool, as_json: bool
) -> None:
    """Kill writer, workers and supervisor at random moments."""
    chance = random.Random(seed)
    victims = drills.shuffled(chance, writer=writer, workers=workers, supervisor=supervisor)
    with arena(keep=keep) as (kite, recorder), counted(victims, "kills") as bar:
        seen = drills.random_kills(kite, recorder, bar, chance=chance, rate=rate, pause_s=pause_s)
    show_figures(seen, as_json=as_json)


@main.command()
@click.option("--faults", default=150, show_default=True, type=click.IntRange(min=1), metavar="N", help="How many.")
@click.option("--rate", default=5000, show_default=True, metavar="N", help="Ticks a second in all.")
@click.option("--seed", default=1, show_default=True, metavar="N", help="Of what is done, and when.")
@of_drills
def faults(*, faults: int, rate: int, seed: int, keep: bool, as_json: bool) -> None:
    """Let whatever can happen to processes and sockets happen, while requests go on."""
    with arena(keep=keep) as (kite, recorder), counted(range(faults), "faults") as bar:
        seen = random_faults(kite, recorder, bar, chance=random.Random(seed), rate=rate)
    show_figures(seen, as_json=as_json)


def show_figures(seen: Figures, *, as_json: bool) -> None:
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
