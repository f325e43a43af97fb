"""`mds status` and its parts: questions to the running service."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console

from pipeline import config
from pipeline.cli import tables
from pipeline.cli.options import MODE, config_option, connection_option, json_option, print_json
from pipeline.client import Client
from pipeline.config import CONNECTIONS, Mode
from pipeline.requests import KEPT_CHANGES, HistoryEntry, HistoryParams
from pipeline.status import ConnectionStatus, HealthResponse, InstrumentSubscription, Process, Storage

WIDE_ONLY = ("mode", ">pid")  # the role tells the mode, the list of processes the pid
MIRROR = CONNECTIONS[-1]  # records what it mirrors, as well
_COLOURS = {
    **dict.fromkeys(("healthy", "live", "running", "done"), "green"),
    "degraded": "yellow",
    **dict.fromkeys(("down", "refused"), "red"),
}

_Answer = TypeVar("_Answer")


def _ask(config_file: Path | None, question: Callable[[Client], _Answer]) -> _Answer:
    settings = config.load(config_file)
    with Client(settings.runtime.run_dir) as client:
        return question(client)


@click.command()
@config_option
@json_option
def status(config_file: Path | None, as_json: bool) -> None:
    """Show what the running service does: health, connections, storage, processes.

    Exits with 1 if no service is running in the run folder.
    """
    answer = _ask(config_file, Client.status)
    if as_json:
        print_json(answer.model_dump())
        return
    console = Console()
    _show_health(console, answer.health)
    _show_connections(console, answer.connections)
    _show_storage(console, answer.storage)
    _show_processes(console, answer.processes)


@click.command()
@config_option
@json_option
def health(config_file: Path | None, as_json: bool) -> None:
    """Tell whether everything that is subscribed is being recorded, and if not, why.

    Exits with 1 if it is not, or if no service is running.
    """
    answer = _ask(config_file, Client.health)
    if as_json:
        print_json(answer.model_dump())
    else:
        _show_health(Console(), answer)
    sys.exit(1 if answer.status == "down" else 0)


@click.command()
@config_option
@json_option
def connections(config_file: Path | None, as_json: bool) -> None:
    """Show the three Kite connections: state, instruments, ticks received and not yet durable."""
    answer = _ask(config_file, Client.connections)
    if as_json:
        print_json({name: connection.model_dump() for name, connection in answer.items()})
    else:
        _show_connections(Console(), answer)


@click.command()
@click.option("--mode", type=MODE, help="Only those in this mode.")
@connection_option("Only those on connection N.")
@config_option
@json_option
def instruments(config_file: Path | None, mode: Mode | None, connection: int | None, as_json: bool) -> None:
    """Show the subscribed instruments, with count, price and time of the latest tick."""
    answer = [
        instrument
        for instrument in _ask(config_file, Client.instruments)
        if mode in (None, instrument.mode) and connection in (None, *_recorded_on(instrument))
    ]
    if as_json:
        print_json([instrument.model_dump() for instrument in answer])
    else:
        _show_instruments(Console(), answer)


@click.command()
@config_option
@json_option
def storage(config_file: Path | None, as_json: bool) -> None:
    """Show what is being written: file, ticks stored, disk."""
    answer = _ask(config_file, Client.storage)
    if as_json:
        print_json(answer.model_dump())
    else:
        _show_storage(Console(), answer)


@click.command()
@config_option
@json_option
def metrics(config_file: Path | None, as_json: bool) -> None:
    """Show counts and rates."""
    answer = _ask(config_file, Client.metrics)
    if as_json:
        print_json(answer.model_dump())
        return
    table = tables.table("", "")
    for name, value in answer.model_dump().items():
        table.add_row(name.replace("_", " "), str(value))
    Console().print(table)


@click.command()
@click.option(
    "--limit",
    type=click.IntRange(1, KEPT_CHANGES),
    default=HistoryParams().limit,
    show_default=True,
    metavar="N",
    help="The latest N.",
)
@config_option
@json_option
def history(config_file: Path | None, limit: int, as_json: bool) -> None:
    """Show which changes of what is recorded were asked for, when, by whom, and what came of it; the latest last."""
    answer = _ask(config_file, lambda client: client.history(limit))
    if as_json:
        print_json([entry.model_dump() for entry in answer])
    else:
        _show_history(Console(), answer)


def _coloured(word: str) -> str:
    return f"[{_COLOURS[word]}]{word}[/]" if word in _COLOURS else word


def _time(timestamp: str | None) -> str:
    return timestamp[11:23] if timestamp else "-"


def _show_health(console: Console, answer: HealthResponse) -> None:
    console.print(
        f"{_coloured(answer.status)}: {answer.total_subscribed_instruments} instruments, "
        f"{answer.ticks_per_second:,.0f} ticks/s, last tick {_time(answer.last_tick_time)}, "
        f"up {answer.uptime_seconds:,.0f} s",
        highlight=False,
        soft_wrap=True,
    )
    for reason in answer.reasons:
        console.print(f"  - {reason}", highlight=False, markup=False, soft_wrap=True)


def _show_connections(console: Console, answer: dict[str, ConnectionStatus]) -> None:
    rows = [
        {
            "": name,
            "role": c.role,
            "state": _coloured(c.state),
            "mode": c.mode,
            ">instruments": f"{c.subscribed_instruments:,}",
            ">ticks": f"{c.tick_count:,}",
            ">ticks/s": f"{c.tick_rate:,.0f}",
            "last tick": _time(c.last_tick_time),
            ">pending": f"{c.ticks_pending:,}",
            ">pid": str(c.pid or "-"),
        }
        for name, c in answer.items()
    ]
    columns = [column for column in rows[0] if console.width >= tables.WIDE or column not in WIDE_ONLY]
    table = tables.table(*columns)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    console.print(table)


def _recorded_on(instrument: InstrumentSubscription) -> tuple[int, ...]:
    """Return the connections that record it."""
    return (instrument.connection_id, MIRROR) if instrument.mirrored else (instrument.connection_id,)


def _show_instruments(console: Console, answer: list[InstrumentSubscription]) -> None:
    table = tables.table(">token", "connection", "mode", ">ticks", ">last price", "last tick")
    for i in answer:
        price = "-" if i.last_price is None else f"{i.last_price:,.2f}"
        row = (f"{i.instrument_token}", ", ".join(map(str, _recorded_on(i))), i.mode, f"{i.tick_count:,}", price)
        table.add_row(*row, _time(i.last_tick_time) if i.tick_count else "never")
    console.print(table)


def _show_history(console: Console, answer: list[HistoryEntry]) -> None:
    """Print a line for each change and, below a refused one, the reason, however long."""
    table = tables.table("time", "who", "action", ">instruments", "mode", "connections", "result")
    for entry in answer:
        count, connections = f"{len(entry.instruments):,}", ", ".join(sorted(entry.connections)) or "-"
        row = (entry.timestamp[:19].replace("T", " "), entry.by, entry.action, count, entry.mode or "-", connections)
        table.add_row(*row, _coloured(entry.result))
    with console.capture() as printed:
        console.print(table)
    header, *rows = printed.get().splitlines()
    click.echo(header)
    for entry, line in zip(answer, rows, strict=True):
        click.echo(line)
        if entry.reason:
            click.echo(f"  {entry.reason}")


def _show_storage(console: Console, answer: Storage) -> None:
    console.print(
        f"writer {answer.state}{': ' + answer.reason if answer.reason else ''}; {answer.current_file}, "
        f"{answer.ticks_stored:,} ticks stored, {answer.bytes_written / 2**20:,.1f} MB, "
        f"last sync {answer.commit_ms:.1f} ms, {answer.free_bytes / 2**30:,.1f} GB free",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _show_processes(console: Console, answer: dict[str, Process]) -> None:
    table = tables.table("process", "state", ">pid", ">restarts")
    for name, process in answer.items():
        if process.state != "off":
            table.add_row(name, _coloured(process.state), str(process.pid), str(process.restarts))
    console.print(table)
