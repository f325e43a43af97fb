"""`mds instruments`: what is subscribed, and Kite's list of what can be."""

import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.text import Text

from pipeline import config, readable
from pipeline.cli import tables
from pipeline.cli.options import MODE, config_option, connection_option, json_option, print_json
from pipeline.client import Client
from pipeline.config import CONNECTIONS, Config, Mode
from pipeline.days import Calendar
from pipeline.errors import ConfigError
from pipeline.instruments.instrument import Instrument
from pipeline.instruments.listing import FOUND_SHOWN, SymbolError, newest, read
from pipeline.requests import MAX_PAGE, FindParams
from pipeline.status import InstrumentSubscription

STALE_S_MAX: Final = 86_400 * 365
MIRROR: Final = CONNECTIONS[-1]  # records what it mirrors, as well
TYPES: Final = ("EQ", "FUT", "CE", "PE")
NOTHING: Final = "-"
SUBSCRIBED: Final = (">token", "symbol", "connection", "mode", ">ticks", ">last price", "last tick", ">age")
LEAST: Final = ("last tick", "connection", "mode")  # of these columns, on a narrow terminal


@click.group(invoke_without_command=True)
@click.option("--mode", type=MODE, help="Only those in this mode.")
@connection_option("Only those on connection N.")
@click.option("--stale", is_flag=True, help="Only those without a tick for some time, or ever.")
@click.option(
    "--stale-s",
    type=click.FloatRange(0, STALE_S_MAX),
    metavar="S",
    help=f"--stale, for S seconds.  [default: {FindParams().stale_s:g}]",
)
@click.option("--never", is_flag=True, help="Only those that have never ticked.")
@config_option
@json_option
@click.pass_context
def instruments(
    context: click.Context,
    *,
    mode: Mode | None,
    connection: int | None,
    stale: bool,
    stale_s: float | None,
    never: bool,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Show the subscribed instruments, with count, price, time and age of the latest tick.

    What can be subscribed is in Kite's list: `mds instruments sync` fetches it, `mds instruments find` searches it.
    """
    context.obj = (config_file, as_json)
    if context.invoked_subcommand:
        return
    wanted: dict[str, Any] = {"mode": mode, "connection_id": connection, "limit": MAX_PAGE}
    if stale or stale_s is not None:
        wanted |= {"stale": True} | ({} if stale_s is None else {"stale_s": stale_s})
    with Client(config.load(config_file).runtime.run_dir) as client:
        found = client.find_instruments(**wanted).instruments
    answer = [instrument for instrument in found if not (never and instrument.tick_count)]
    if as_json:
        print_json([instrument.model_dump() for instrument in answer])
    else:
        _show_subscribed(answer)


@instruments.command(short_help="Fetch Kite's list of instruments.")
@click.option("--force", is_flag=True, help="Keep the list even if it is far shorter than the one before.")
@config_option
@json_option
@click.pass_obj
def sync(given: tuple[Path | None, bool], force: bool, config_file: Path | None, as_json: bool) -> None:
    """Fetch Kite's list of instruments, which knows them by symbol, and keep it with the recordings.

    It goes to market_data/instruments_YYYY-MM-DD.csv.zst: one for each day, as Kite uses its tokens again. From then on
    symbols like NSE:INFY are known wherever tokens are. The recorder does the same by itself, once a day.

    Kite gives the list without a login, too. Exits with 1 if it could not be fetched; then the one before is still
    there.
    """
    from pipeline.instruments import sync as fetching  # noqa: PLC0415  with what it takes to keep others out

    settings = _with_credentials(config_file or given[0])
    done = fetching.sync(settings, Calendar(settings.storage.timezone).now().date(), force=force)
    if as_json or given[1]:
        print_json(
            {
                "date": done.day,
                "file": str(done.path),
                "instruments": done.instruments,
                "bytes": done.bytes,
                "exchanges": done.exchanges,
                "before": None if done.before is None else str(done.before),
                "new": done.new,
                "gone": done.gone,
            }
        )
        return
    click.echo(f"{done.path}: {readable.counted(done.instruments, 'instrument')}, {readable.size(done.bytes)}")
    table = tables.table("exchange", ">instruments")
    for exchange, count in done.exchanges.items():
        table.add_row(Text(readable.printable(exchange)), f"{count:,}")
    tables.show(Console(), table)
    if done.before is not None:
        click.echo(f"Compared with {done.before}: {done.new:,} new, {done.gone:,} gone.")


@instruments.command(short_help="Find instruments in Kite's list.")
@click.argument("words", nargs=-1, metavar="TEXT...")
@click.option("--exchange", metavar="X", help="Only of this exchange: NSE, BSE, NFO, BFO, CDS, MCX, ...")
@click.option(
    "--type", "kind", type=click.Choice(TYPES, case_sensitive=False), help="Only shares, futures, or options."
)
@click.option("--expiry", type=click.DateTime(["%Y-%m-%d"]), metavar="YYYY-MM-DD", help="Only with this last day.")
@click.option(
    "--limit", type=click.IntRange(1), default=FOUND_SHOWN, show_default=True, metavar="N", help="The best N."
)
@config_option
@json_option
@click.pass_obj
def find(
    given: tuple[Path | None, bool],
    *,
    words: tuple[str, ...],
    exchange: str | None,
    kind: str | None,
    expiry: datetime | None,
    limit: int,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Find instruments in Kite's list, in whose symbol, name or token all of TEXT is.

    \b
      mds instruments find reliance
      mds instruments find nifty 24800 --type CE --expiry 2025-10-28
      mds instruments find 408065

    The best come first. Exits with 1 if there is none, and tells what comes near, and with 2 if there is no list yet.
    """
    if not (words or exchange or kind or expiry):
        raise click.UsageError("what is to be found? name it, or give --exchange, --type or --expiry")
    storage = config.load(config_file or given[0]).storage
    data_dir = storage.data_dir
    path = newest(data_dir, Calendar(storage.timezone).now().date())
    if path is None:
        raise SymbolError(f"{data_dir}: there is no list of instruments yet; fetch it with: mds instruments sync")
    listing = read(path)
    text = " ".join(words)
    day = expiry.date() if expiry else None
    found = listing.find(text, exchange=exchange, instrument_type=kind, expiry=day, limit=limit)
    if as_json or given[1]:
        print_json([_fields(each) for each in found])
    elif found:
        _show_found(found)
    if not found:
        near = readable.printable(", ".join(listing.near(text)))
        told = f"; near it are {near}" if near and not (exchange or kind or expiry) else ""
        click.echo(f"Nothing like that is in {path}{told}.", err=True)
        sys.exit(1)


def _with_credentials(config_file: Path | None) -> Config:
    """Return the settings, with credentials if there are any."""
    try:
        return config.load(config_file, need_credentials=True).resolved()
    except ConfigError:
        return config.load(config_file).resolved()


def _fields(instrument: Instrument) -> dict[str, Any]:
    """Return an instrument for `--json`, with Kite's names."""
    fields = instrument._asdict()
    return {"instrument_token": fields.pop("token"), "symbol": instrument.symbol, **fields}


def _recorded_on(instrument: InstrumentSubscription) -> tuple[int, ...]:
    """Return the connections that record it."""
    return (instrument.connection_id, MIRROR) if instrument.mirrored else (instrument.connection_id,)


def _show_subscribed(answer: list[InstrumentSubscription]) -> None:
    console = Console()
    rows: list[tables.Row] = [dict(zip(SUBSCRIBED, _subscribed(i), strict=True)) for i in answer]
    names = tables.fitting(rows, LEAST, console.width) if rows else SUBSCRIBED
    table = tables.table(*names)
    for row in rows:
        table.add_row(*(row[name] for name in names))
    tables.show(console, table)


def _subscribed(i: InstrumentSubscription) -> tuple[str, ...]:
    """Return what stands in these columns."""
    places = ", ".join(map(str, _recorded_on(i)))
    price = NOTHING if i.last_price is None else f"{i.last_price:,.2f}"
    last = i.last_tick_time[11:23] if i.tick_count and i.last_tick_time else NOTHING if i.tick_count else "never"
    named = (f"{i.instrument_token}", i.symbol or NOTHING)
    return (*named, places, i.mode, f"{i.tick_count:,}", price, last, readable.span(i.tick_age_s))


def _show_found(found: Iterable[Instrument]) -> None:
    table = tables.table(">token", "symbol", "name", "type", "expiry", ">strike", ">lot")
    for each in found:
        strike = f"{each.strike:,.4f}".rstrip("0").rstrip(".") if each.strike else NOTHING
        expiry = each.expiry.isoformat() if each.expiry else NOTHING
        texts = (Text(readable.printable(text)) for text in (each.symbol, each.name, each.instrument_type))
        table.add_row(str(each.token), *texts, expiry, strike, f"{each.lot_size:,}")
    tables.show(Console(), table)
