"""`mds analyze`: what is in recorded ticks, over all and for each instrument."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import click
import polars as pl
from rich.console import Console

from pipeline.cli import tables
from pipeline.cli.options import json_option, print_json
from pipeline.cli.reading import named, reading
from pipeline.cli.sources import Selected, sources_options
from pipeline.errors import MdsError
from pipeline.readable import counted, milliseconds, moment, printable, span
from pipeline.store.analysis import Analysis
from pipeline.store.analysis import analyze as find_out

SHOWN: Final = 20  # instruments
SLOW: Final = 10  # ticks a second, told with decimals below
UNKNOWN: Final = "-"
SORTS: Final = {
    "ticks": "ticks",
    "rate": "rate",
    "volume": "volume",
    "spread": "spread_mean",
    "silence": "silence",
    "token": "instrument_token",
}
# What a narrow terminal does without, the least missed first.
LEAST: Final = ("first", "last", ">share", ">spread max", ">mean", "since", ">spread", ">low", ">high", ">ticks/s")


@click.command()
@sources_options
@click.option("--sort", type=click.Choice(list(SORTS)), default="ticks", show_default=True, help="Which come first.")
@click.option(
    "--top", type=click.IntRange(1), metavar="N", help=f"Only the first N; else {SHOWN}, with --json all instruments."
)
@json_option
def analyze(*, selected: Selected, sort: str, top: int | None, as_json: bool) -> None:
    """Tell what is in the ticks of days (YYYY-MM-DD) or files; in the newest day if none is given.

    For each instrument: ticks and their rate, low, high, mean and last price, the volume traded while it was recorded,
    mean and largest spread between best bid and best offer, and the largest silence between two ticks of a day.

    Exits with 1 where there are no ticks.
    """
    with reading(selected):
        found = find_out(selected.frame())
    if not found.total_ticks:
        raise MdsError("there are no ticks of these instruments and times")
    instruments = found.instruments.sort(
        SORTS[sort], "instrument_token", descending=[sort != "token", False], nulls_last=True
    )
    if as_json:
        shown = instruments if top is None else instruments.head(top)
        print_json(replace(found, instruments=named(shown, selected.symbols)).to_json())
        return
    for line in _summary(found):
        click.echo(line)
    click.echo()
    shown = instruments.head(top or SHOWN)
    _show(named(shown, selected.symbols))
    if shown.height < instruments.height:
        click.echo(f"and {counted(instruments.height - shown.height, 'instrument')} more: --top N, or --json")


def _summary(found: Analysis) -> Iterator[str]:
    told = found.summary()
    start, end = (moment(time) if time else UNKNOWN for time in told["time_range"].values())
    rate = f", {found.rate:,.{0 if found.rate >= SLOW else 2}f} ticks/s" if found.rate else ""
    yield (
        f"{counted(found.total_ticks, 'tick')} of {counted(found.unique_instruments, 'instrument')}, "
        f"{start} to {end}, in {span(found.seconds)}{rate}"
    )
    yield ", ".join(f"{mode} {count:,}" for mode, count in found.modes.items())
    prices = (found.price_min, found.price_max, found.price_mean)
    volume = UNKNOWN if found.volume is None else f"{found.volume:,}"
    yield "prices {} to {}, mean {}; traded while recorded {}".format(*map(_price, prices), volume)


def _show(instruments: pl.DataFrame) -> None:
    """Print a row for each, without the columns for which there is no room."""
    rows = [_row(each) for each in instruments.iter_rows(named=True)]
    console = Console()
    names = tables.fitting(rows, LEAST, console.width)
    table = tables.table(*names)
    for row in rows:
        table.add_row(*(row[name] for name in names))
    tables.show(console, table)


def _row(each: dict[str, Any]) -> tables.Row:
    first, last, since = (_clock(each[name]) for name in ("first", "last", "silence_start"))
    return {
        "instrument": printable(each["symbol"] or str(each["instrument_token"])),
        ">ticks": f"{each['ticks']:,}",
        ">share": f"{each['share']:.1%}",
        ">ticks/s": UNKNOWN if each["rate"] is None else f"{each['rate']:,.2f}",
        "first": first,
        "last": last,
        ">low": _price(each["price_min"]),
        ">high": _price(each["price_max"]),
        ">mean": _price(each["price_mean"]),
        ">price": _price(each["price_last"]),
        ">volume": UNKNOWN if each["volume"] is None else f"{each['volume']:,}",
        ">spread": _price(each["spread_mean"]),
        ">spread max": _price(each["spread_max"]),
        ">silence": UNKNOWN if each["silence"] is None else milliseconds(each["silence"] * 1000),
        "since": since,
    }


def _clock(time: datetime | None) -> str:
    return time.strftime("%H:%M:%S") if time else UNKNOWN


def _price(value: float | None) -> str:
    """Return a price with two digits, or four where currencies have them."""
    return UNKNOWN if value is None else f"{value:,.4f}".removesuffix("00")
