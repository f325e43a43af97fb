"""`mds files`: what is stored of which day, about one file, and removing what is old."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from pipeline import config
from pipeline.cli import tables
from pipeline.cli.options import config_option, json_option, print_json
from pipeline.config import Config
from pipeline.errors import MdsError
from pipeline.readable import counted, size
from pipeline.store.files import event_files, require_folder, tick_files
from pipeline.store.keeping import about, inventory
from pipeline.store.keeping.cleaning import Outcome
from pipeline.store.keeping.cleaning import clean as clean_up
from pipeline.store.keeping.counting import SOON_READ_BYTES, Counter
from pipeline.store.keeping.inventory import Day, Total

UNKNOWN = "?"
NONE = "-"
DAYS_MAX = 36_500
SAID_OTHERWISE = ("exists", "filename", "size_mb", "created")  # facts of a file that JSON has twice


@click.group(invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def files(context: click.Context, config_file: Path | None, as_json: bool) -> None:
    """List the days that are stored: ticks, size, first and last tick, and in which form.

    "?" stands where nobody knows: a day in Parquet cannot be counted where it is damaged, or pyarrow is not installed.
    Whole lines are counted, as far as they are written by now. The recorder counts along, so files are read only where
    it does not know, and once.
    """
    context.obj = (config_file, as_json)
    if context.invoked_subcommand:
        return
    settings = _load(config_file)
    with _reading(settings):
        counter = Counter(settings.storage.data_dir)
        _count_with_progress(settings.storage.data_dir, counter)
        found = inventory.days(settings.storage.data_dir, counter, settings.storage.timezone)
        counter.save()
    if as_json:
        print_json(inventory.to_json(found))
    elif found:
        _show(found)
    else:
        click.echo(f"Nothing is stored in {settings.storage.data_dir} yet.")


@files.command()
@click.argument("name", metavar="FILE|DATE")
@config_option
@json_option
@click.pass_obj
def info(given: tuple[Path | None, bool], name: str, config_file: Path | None, as_json: bool) -> None:
    """Tell about one file: FILE is a path, or a name in the data folder, or a day.

    Exits with 1 if there is no such file.
    """
    settings = _load(config_file or given[0])
    with _reading(settings):
        found = about.file(settings, name)
    if as_json or given[1]:
        print_json(found)
        return
    table = tables.table("", "")
    for key, value in found.items():
        if key not in SAID_OTHERWISE:
            table.add_row(key.replace("_", " "), _fact(key, value))
    tables.show(Console(), table)


@files.command()
@click.option(
    "--keep-days",
    type=click.IntRange(0, DAYS_MAX),
    default=30,
    show_default=True,
    metavar="N",
    help="Keep today and the N days before it.",
)
@click.option("--parquet", is_flag=True, help="Remove days in Parquet too, which are kept otherwise.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@config_option
@json_option
@click.pass_obj
def clean(
    given: tuple[Path | None, bool],
    *,
    keep_days: int,
    parquet: bool,
    dry_run: bool,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Remove tick files of old days, and the event file of a day of which no ticks are left.

    A day stays as long as a spool holds something of it that is not stored yet. What has not exactly the name of one of
    the recorder's files is never touched. Exits with 1 if something that should be removed could not be.
    """
    settings = _load(config_file or given[0])
    outcomes = []
    for outcome in _clean(settings, keep_days, parquet=parquet, dry_run=dry_run):
        outcomes.append(outcome)
        if not (as_json or given[1]):
            click.echo(_outcome(outcome, dry_run=dry_run))
    removed = [outcome for outcome in outcomes if outcome.what == "removed"]
    freed = sum(outcome.bytes for outcome in removed)
    if as_json or given[1]:
        print_json(
            {
                "keep_days": keep_days,
                "dry_run": dry_run,
                **{
                    what: [outcome.to_json() for outcome in outcomes if outcome.what == what]
                    for what in ("removed", "kept", "failed")
                },
                "bytes": freed,
            }
        )
    elif dry_run:
        click.echo(f"{counted(len(removed), 'file')} would be removed, {size(freed)}. Nothing was.")
    else:
        click.echo(f"{counted(len(removed), 'file')} removed, {size(freed)}.")
    sys.exit(1 if any(outcome.what == "failed" for outcome in outcomes) else 0)


def _clean(settings: Config, keep_days: int, *, parquet: bool, dry_run: bool) -> Iterator[Outcome]:
    """Do it; what goes wrong where the outcomes are printed is not of the data folder."""
    with _reading(settings):
        yield from clean_up(settings, keep_days, parquet=parquet, dry_run=dry_run)


def _load(config_file: Path | None) -> Config:
    settings = config.load(config_file)
    require_folder(settings.storage.data_dir)
    return settings


@contextmanager
def _reading(settings: Config) -> Iterator[None]:
    """Tell in a line what cannot be read."""
    try:
        yield
    except OSError as error:
        raise MdsError(f"{error.filename or settings.storage.data_dir}: {error.strerror}") from None


def _count_with_progress(data_dir: Path, counter: Counter) -> None:
    """Count on a terminal what nobody has counted, and show how far this is; elsewhere it is counted when it is due."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return
    paths = (*tick_files(data_dir), *event_files(data_dir))
    unread = {}
    for path in paths:
        with suppress(FileNotFoundError):  # it is being removed
            if (left := counter.unread(path)) > SOON_READ_BYTES:
                unread[path] = left
    if not unread:
        return
    with tables.progress(console, "counting") as progress:
        task = progress.add_task("", total=sum(unread.values()))
        for path in unread:
            with suppress(FileNotFoundError):
                counter.count(path, lambda read: progress.advance(task, read))


def _show(found: list[Day]) -> None:
    table = tables.table("date", ">ticks", ">size", "first", "last", "stored as", ">events")
    for day in found:
        table.add_row(
            day.day.isoformat(),
            _number(day.ticks),
            size(day.bytes),
            _clock(day, day.first),
            _clock(day, day.last),
            day.stored_as,
            _number(day.events.lines) if day.events else NONE,
        )
    total = Total.of(found)
    table.add_row("all", f"{total.ticks:,}", size(total.bytes), "", "", "", "")
    tables.show(Console(), table)
    if total.unknown:
        click.echo(
            f"Not in these ticks: {counted(total.unknown, 'day')} in Parquet that cannot be counted: damaged, or "
            "pyarrow is not installed."
        )


def _clock(day: Day, stamp: str | None) -> str:
    if stamp is None:
        return NONE
    return stamp[11:19] if stamp[:10] == day.day.isoformat() else stamp[:19]


def _number(count: int | None) -> str:
    return UNKNOWN if count is None else f"{count:,}"


def _fact(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int):
        return f"{value:,}"
    if value is None:
        return UNKNOWN if key in ("tick_count", "event_count") else NONE
    return str(value)


def _outcome(outcome: Outcome, *, dry_run: bool) -> str:
    if outcome.why is not None:
        return f"{outcome.what}: {outcome.why}"
    word = "would remove" if dry_run else "removed"
    ticks = "" if outcome.ticks is None else f", {counted(outcome.ticks, 'tick')}"
    return f"{word} {outcome.path} ({size(outcome.bytes)}{ticks})"
