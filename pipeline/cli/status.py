"""`mds status` and its parts: questions to the running service."""

import sys
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table

from pipeline import config
from pipeline.cli.options import config_option, json_option
from pipeline.client import Client
from pipeline.status import ConnectionStatus, Health, Instrument, Process, Status, Storage

WIDE = 100  # columns of a terminal
WIDE_ONLY = ("mode", ">pid")  # the role tells the mode, the list of processes the pid
_COLOURS = {"healthy": "green", "degraded": "yellow", "down": "red", "live": "green", "running": "green"}


def _ask(config_file: Path | None) -> Status:
    settings = config.load(config_file)
    with Client(settings.runtime.run_dir) as client:
        return client.status()


def _print_json(value: Any) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


@click.command()
@config_option
@json_option
def status(config_file: Path | None, as_json: bool) -> None:
    """Show what the running service does: health, connections, storage, processes.

    Exits with 1 if no service is running in the run folder.
    """
    answer = _ask(config_file)
    if as_json:
        _print_json(answer.model_dump())
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
    answer = _ask(config_file).health
    if as_json:
        _print_json(answer.model_dump())
    else:
        _show_health(Console(), answer)
    sys.exit(1 if answer.status == "down" else 0)


@click.command()
@config_option
@json_option
def connections(config_file: Path | None, as_json: bool) -> None:
    """Show the three Kite connections: state, instruments, ticks received and not yet durable."""
    answer = _ask(config_file).connections
    if as_json:
        _print_json({name: connection.model_dump() for name, connection in answer.items()})
    else:
        _show_connections(Console(), answer)


@click.command()
@config_option
@json_option
def instruments(config_file: Path | None, as_json: bool) -> None:
    """Show the subscribed instruments, with count, price and time of the latest tick."""
    answer = _ask(config_file).instruments
    if as_json:
        _print_json([instrument.model_dump() for instrument in answer])
    else:
        _show_instruments(Console(), answer)


@click.command()
@config_option
@json_option
def storage(config_file: Path | None, as_json: bool) -> None:
    """Show what is being written: file, ticks stored, disk."""
    answer = _ask(config_file).storage
    if as_json:
        _print_json(answer.model_dump())
    else:
        _show_storage(Console(), answer)


@click.command()
@config_option
@json_option
def metrics(config_file: Path | None, as_json: bool) -> None:
    """Show counts and rates."""
    answer = _ask(config_file).metrics
    if as_json:
        _print_json(answer.model_dump())
        return
    table = _table("", "")
    for name, value in answer.model_dump().items():
        table.add_row(name.replace("_", " "), str(value))
    Console().print(table)


@click.command()
@config_option
def stop(config_file: Path | None) -> None:
    """End the running service in order, as Ctrl-C does where it was started, and wait until it has ended."""
    settings = config.load(config_file)
    with Client(settings.runtime.run_dir) as client:
        ended = client.shutdown()
    click.echo("ended" if ended else "still ending")
    sys.exit(0 if ended else 1)


def _table(*columns: str) -> Table:
    """Return a table whose columns are written `name`, or `>name` where they hold numbers."""
    spaces = 3 if Console().width >= WIDE else 1
    table = Table(box=None, padding=(0, spaces, 0, 0), pad_edge=False, show_header=any(columns))
    for column in columns:
        name = column.removeprefix(">")
        table.add_column(name, justify="right" if name != column else "left", no_wrap=True)
    return table


def _coloured(word: str) -> str:
    return f"[{_COLOURS[word]}]{word}[/]" if word in _COLOURS else word


def _time(timestamp: str | None) -> str:
    return timestamp[11:23] if timestamp else "-"


def _show_health(console: Console, answer: Health) -> None:
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
    columns = [column for column in rows[0] if console.width >= WIDE or column not in WIDE_ONLY]
    table = _table(*columns)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    console.print(table)


def _show_instruments(console: Console, answer: list[Instrument]) -> None:
    table = _table(">token", "connection", "mode", ">ticks", ">last price", "last tick")
    for i in answer:
        price = "-" if i.last_price is None else f"{i.last_price:,.2f}"
        row = (f"{i.instrument_token}", f"{i.connection_id}", i.mode, f"{i.tick_count:,}", price)
        table.add_row(*row, _time(i.last_tick_time) if i.tick_count else "never")
    console.print(table)


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
    table = _table("process", "state", ">pid", ">restarts")
    for name, process in answer.items():
        if process.state != "off":
            table.add_row(name, _coloured(process.state), str(process.pid), str(process.restarts))
    console.print(table)
