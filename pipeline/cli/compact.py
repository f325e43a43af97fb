"""`mds compact`: Parquet of days that are over."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from pipeline import config
from pipeline.cli import tables
from pipeline.cli.options import config_option, json_option, print_json
from pipeline.config import Config
from pipeline.errors import MdsError
from pipeline.readable import counted

# Read when polars is imported: the other cores are the recorder's.
os.environ["POLARS_MAX_THREADS"] = os.environ.get("POLARS_MAX_THREADS", "1")

from pipeline.store.files import require_folder
from pipeline.store.parquet.compact import Outcome, closed_days, lock
from pipeline.store.parquet.compact import compact as compact_day


@dataclass(frozen=True)
class _Failed:
    """A day that could not be compacted."""

    day: date
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {"date": self.day.isoformat(), "result": "failed", "reason": self.reason}


@click.command()
@click.argument("dates", nargs=-1, type=click.DateTime(["%Y-%m-%d"]), metavar="[DATE]...")
@click.option(
    "--delete-source", is_flag=True, help="Remove the JSONL of each day that is proved to be in Parquet whole."
)
@config_option
@json_option
def compact(dates: tuple[datetime, ...], delete_source: bool, config_file: Path | None, as_json: bool) -> None:
    """Make Parquet of the ticks of each DATE, or of all days that are closed.

    It goes to market_data/parquet/date=YYYY-MM-DD/, a twelfth of the size or less, for polars, DuckDB, pandas and all
    commands that read ticks. What is written is read back and compared with the JSONL tick for tick. A day that is
    there already costs nothing; one that has got late ticks gets another part. It may be stopped at any moment, and
    goes on from there when it is started again. It takes one core, and may run beside the recorder.

    A day is closed when it is over and nothing of it waits in a spool any more. Exits with 1 if a day could not be
    compacted, or a JSONL that should be removed has to stay.
    """
    settings = config.load(config_file).resolved()
    require_folder(settings.storage.data_dir)
    held = lock(settings)
    try:
        days = sorted({day.date() for day in dates}) if dates else closed_days(settings)
        done = []
        for day in days:
            done.append(_compact(settings, day, delete_source=delete_source))
            if not as_json:
                for line in _lines(done[-1]):
                    click.echo(line)
    finally:
        held.release()
    if as_json:
        print_json({"days": [one.to_json() for one in done]})
    elif not done:
        click.echo("Nothing to compact: no day with ticks is closed.")
    sys.exit(1 if any(isinstance(one, _Failed) or one.source_kept for one in done) else 0)


def _compact(settings: Config, day: date, *, delete_source: bool) -> Outcome | _Failed:
    console = Console(stderr=True)
    try:
        with _progress(console, f"compacting {day}") as on_progress:
            return compact_day(settings, day, delete_source=delete_source, on_progress=on_progress)
    except MdsError as error:
        return _Failed(day, str(error))


@contextmanager
def _progress(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far it is: a bar in a terminal, else a line when it begins."""
    if not console.is_terminal:
        click.echo(what, err=True)
        yield lambda _done, _all: None
        return
    with tables.progress(console, what) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, all_: progress.update(task, completed=done, total=all_)


def _lines(done: Outcome | _Failed) -> Iterator[str]:
    if isinstance(done, _Failed):
        yield click.style(done.reason, fg="red")
        return
    found = f"{counted(done.ticks, 'tick')} in {done.parquet_bytes / 1e6:,.1f} MB"
    if done.result == "JSONL is gone":
        yield f"{done.day}: nothing to do, it is Parquet only: {found}"
        return
    share = f"1/{done.jsonl_bytes / done.parquet_bytes:.1f} of " if done.jsonl_bytes > done.parquet_bytes else "JSONL: "
    ratio = f"{share}{done.jsonl_bytes / 1e6:,.1f} MB"
    if done.result == "nothing new":
        yield f"{done.day}: is there already: {found}, {ratio}"
    else:
        speed = f"{done.new_ticks / max(done.seconds, 1e-6):,.0f} a second"
        yield f"{done.day}: {found}, {ratio}, each read back and compared; {speed}"
    for bad in done.named:
        yield f"  {bad}"
    if done.bad_lines > len(done.named):
        yield f"  {done.bad_lines:,} lines in all are no ticks"
    if done.torn_bytes:
        yield f"  the JSONL ends within a line, its last {done.torn_bytes:,} bytes are left out"
    if done.source_deleted:
        yield "  the JSONL is removed"
    if done.source_kept:
        yield click.style(f"  the JSONL stays: {done.source_kept}", fg="red")
