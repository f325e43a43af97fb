"""`mds status` and its parts: questions to the running service."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.text import Text

from pipeline import config, readable
from pipeline.cli import tables
from pipeline.cli.options import config_option, json_option, print_json
from pipeline.cli.tables import coloured
from pipeline.client import Client
from pipeline.requests import KEPT_CHANGES, HistoryEntry, HistoryParams
from pipeline.status import ConnectionStatus, HealthResponse, Process, Storage

# Of the connections' table; the role tells the mode, the list of processes the pid.
LEAST = (">pid", "mode", ">pending", ">reconnects", ">rate 1s", ">rate 60s", ">lag", ">gaps", ">age")

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
    for name, value in answer:
        table.add_row(name.replace("_", " "), _figure(value))
    tables.show(Console(), table)


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


def _figure(value: Any) -> str:
    """Return a figure as people read it, texts as they are."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_figure(each)}" for name, each in value.items())
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _show_health(console: Console, answer: HealthResponse) -> None:
    figures = (
        readable.counted(answer.total_subscribed_instruments, "instrument"),
        f"{answer.ticks_per_second:,.0f} ticks/s",
        readable.ago(answer.tick_age_s),
        *filter(None, [readable.market(answer)]),
        f"up {readable.span(answer.uptime_seconds)}",
    )
    console.print(coloured(answer.status) + f": {', '.join(figures)}", highlight=False, soft_wrap=True)
    for reason in answer.reasons:
        console.print(f"  - {readable.printable(reason)}", highlight=False, markup=False, soft_wrap=True)
    if answer.never_ticked:
        click.echo(f"{readable.counted(answer.never_ticked, 'instrument')} never ticked: mds instruments --never")


def _show_connections(console: Console, answer: dict[str, ConnectionStatus]) -> None:
    rows: list[tables.Row] = [
        {
            "": name,
            "role": c.role,
            "state": coloured(c.state),
            "mode": c.mode,
            ">instruments": f"{c.subscribed_instruments:,}",
            ">ticks": f"{c.tick_count:,}",
            ">rate 1s": f"{c.tick_rate_1s:,.0f}",
            ">rate 10s": f"{c.tick_rate:,.0f}",
            ">rate 60s": f"{c.tick_rate_60s:,.0f}",
            ">age": readable.span(c.tick_age_s),
            ">pending": f"{c.ticks_pending:,}",
            ">lag": readable.milliseconds(c.lag_ms),
            ">gaps": f"{c.gaps:,}",
            ">reconnects": f"{c.reconnects:,}",
            ">pid": str(c.pid or "-"),
        }
        for name, c in answer.items()
    ]
    names = tables.fitting(rows, LEAST, console.width)
    table = tables.table(*names)
    for row in rows:
        table.add_row(*(row[name] for name in names))
    tables.show(console, table)


def _show_history(console: Console, answer: list[HistoryEntry]) -> None:
    """Print a line for each change and, below a refused one, the reason, however long."""
    table = tables.table("time", "who", "action", ">instruments", "mode", "connections", "result")
    for entry in answer:
        count, connections = f"{len(entry.instruments):,}", ", ".join(sorted(entry.connections)) or "-"
        row = (entry.timestamp[:19].replace("T", " "), entry.by, entry.action, count, entry.mode or "-", connections)
        table.add_row(*row, coloured(entry.result))
    with console.capture() as printed:
        console.print(table)
    header, *rows = printed.get().splitlines()
    click.echo(header)
    for entry, line in zip(answer, rows, strict=True):
        click.echo(line)
        if entry.reason:
            click.echo(f"  {entry.reason}")


def _show_storage(console: Console, answer: Storage) -> None:
    reason = f", {readable.printable(answer.reason)}" if answer.reason else ""
    hours = answer.hours_until_full
    written = readable.size(answer.bytes_written)
    longest = f"longest of 10 s {answer.commit_ms_max:.1f} ms"
    until_full = f", full in {readable.span(hours * readable.HOUR_S)} at this rate" if hours is not None else ""
    lines = (
        f"{reason}: {answer.current_file}, {answer.ticks_stored:,} ticks stored",
        f"  {written}, {answer.bytes_per_second / 2**20:,.2f} MB/s, spool {readable.size(answer.spool_bytes)}",
        f"  {answer.commits_per_second:,.0f} commits/s, last sync {answer.commit_ms:.1f} ms, {longest}",
        f"  {readable.size(answer.free_bytes)} free{until_full}",
    )
    console.print(Text("writer ") + coloured(answer.state) + "\n".join(lines), highlight=False, soft_wrap=True)
    faults = ((answer.syncs_failed, "sync failed"), (answer.batches_refused, "batch refused"))
    for count, what in faults:
        if count:
            click.echo(f"  {count:,} {what}")


def _show_processes(console: Console, answer: dict[str, Process]) -> None:
    table = tables.table("process", "state", ">pid", ">restarts")
    for name, process in answer.items():
        if process.state != "off":
            table.add_row(name, coloured(process.state), str(process.pid or "-"), str(process.restarts))
    tables.show(console, table)
