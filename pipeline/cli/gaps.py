"""`mds gaps`: what could not be recorded, and what it has cost."""

from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from pipeline import config
from pipeline.cli import tables
from pipeline.cli.options import config_option, json_option, print_json
from pipeline.errors import MdsError
from pipeline.store import gaps as records
from pipeline.store.files import GapEvent

UNKNOWN = "?"
LONG, SHORT = slice(0, 23), slice(5, 19)  # of a time: year to milliseconds, or month to seconds


@click.command()
@click.option(
    "--date",
    "day",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="Only the gaps that ended on this day.",
)
@config_option
@json_option
def gaps(day: datetime | None, config_file: Path | None, as_json: bool) -> None:
    """List the times in which instruments could not be recorded, with cause and cost, from the event log.

    The cost of a gap is its seconds times its instruments. A gap may have begun on an earlier day; "?" stands where
    nobody knows when. One that is not over yet is not on record: `mds health` tells of it.

    It needs no running service. Exits with 1 where nothing was recorded.
    """
    data_dir = config.load(config_file).storage.data_dir
    try:
        found = records.read(data_dir, day.date() if day else None)
    except OSError as error:
        raise MdsError(f"{error.filename or data_dir}: {error.strerror}") from None
    if as_json:
        print_json(records.to_json(found))
    elif found:
        _show(found)
    else:
        click.echo(f"No gaps are on record{f' on {day.date()}' if day else ''}.")


def _show(found: list[GapEvent]) -> None:
    """Print gaps and sums; where the terminal is too narrow, with shorter times."""
    console = Console()
    table = _list(found, LONG)
    if tables.width(console, table) > console.width:
        table = _list(found, SHORT)
    tables.show(console, table)
    click.echo()
    total, by_cause = records.totals(found)
    sums = tables.table("cause", ">gaps", ">seconds", ">instrument-s")
    for name, some in (*by_cause.items(), ("all", total)):
        known = some.gaps > some.unknown
        lasted, cost = (some.seconds, some.instrument_seconds) if known else (None, None)
        sums.add_row(name, f"{some.gaps:,}", _number(lasted, 3), _number(cost, 1))
    tables.show(console, sums)
    if total.unknown:
        click.echo(f"Not in these seconds: {total.unknown:,} of which nobody knows when they began.")


def _list(found: list[GapEvent], part: slice) -> Table:
    table = tables.table("", "from", "to", ">seconds", "cause", ">instruments", ">instrument-s")
    for gap in found:
        table.add_row(
            str(gap.connection_id),
            _time(gap.since, part),
            _time(gap.until, part),
            _number(records.seconds(gap), 3),
            gap.cause,
            f"{len(gap.instruments):,}",
            _number(records.instrument_seconds(gap), 1),
        )
    return table


def _time(moment: datetime | None, part: slice) -> str:
    return moment.isoformat(" ", "milliseconds")[part] if moment else UNKNOWN


def _number(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:,.{digits}f}"
