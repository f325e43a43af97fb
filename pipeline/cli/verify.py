"""`mds verify`: is every recorded tick in the files, once and in order."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import orjson
from rich.console import Console

from pipeline import config
from pipeline.cli import tables
from pipeline.cli.options import config_option, json_option
from pipeline.errors import MdsError
from pipeline.extras import way_out
from pipeline.store import snapshot as snapshots
from pipeline.store.completeness import words as in_words
from pipeline.store.completeness.completeness import Day, read
from pipeline.store.files import GapEvent
from pipeline.store.verify import Problem, Report
from pipeline.store.verify import verify as check

GAPS_SHOWN = 5


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="[FILE]...")
@config_option
@json_option
def verify(files: tuple[Path, ...], config_file: Path | None, as_json: bool) -> None:
    """Prove from the files alone that every recorded tick is there, once and in order.

    Checks the whole data folder, or each FILE and the event log of the same day beside it. It may run while the
    recorder does. Days that are Parquet only are checked by their footers. Exits with 1 if anything is wrong or nothing
    is recorded yet.
    """
    settings = config.load(config_file)
    try:
        snapshot = snapshots.take(settings, files)
        report = _with_progress(snapshot)
        days = _completeness(snapshot, report)
    except OSError as error:
        raise MdsError(f"{error.filename or settings.storage.data_dir}: {error.strerror}") from None
    if as_json:
        click.echo(orjson.dumps(report.to_json() | {"completeness": in_words.to_json(days, snapshot.zone)}))
    else:
        for line in _lines(report, list(in_words.summary(days, snapshot.zone))):
            click.echo(line)
    sys.exit(0 if report.ok else 1)


def _with_progress(snapshot: snapshots.Snapshot) -> Report:
    console = Console(stderr=True)
    if not console.is_terminal:
        return check(snapshot)
    with tables.progress(console, "verifying") as progress:
        task = progress.add_task("", total=snapshot.bytes)
        return check(snapshot, lambda read: progress.advance(task, read))


def _completeness(snapshot: snapshots.Snapshot, report: Report) -> list[Day]:
    """Return what the event logs beside the files tell of their days; the verdict does not depend on it."""
    parts = (*snapshot.ticks, *snapshot.events)
    try:
        return read({part.path.parent for part in parts}, {part.day for part in parts}, snapshot.zone, report.ticked)
    except OSError as error:  # of another day, or it would have been noticed
        click.echo(f"what was missed cannot be told: {error.filename}: {error.strerror}", err=True)
        return []


def _lines(report: Report, completeness: Sequence[str]) -> Iterator[str]:
    if not report.files and not report.days_not_checked:
        yield "Nothing is recorded yet: there is no market_data_YYYY-MM-DD.jsonl."
        return
    speed = report.bytes / max(report.seconds, 1e-6) / 1e6
    yield (
        f"{_count(report.files, 'file')} with {_count(report.ticks, 'tick')} in {_count(report.streams, 'stream')}, "
        f"{_count(report.events, 'event')}: {report.bytes / 1e6:,.1f} MB read at {speed:,.0f} MB/s"
    )
    yield from _interruptions(report)
    yield from _limits(report)
    if report.event_files and completeness:
        yield "What was received of the subscribed instruments:"
        yield from (f"  {line}" for line in completeness)
    if report.problems:
        yield "Wrong:"
        for problem in report.problems:
            yield f"  {_problem(problem)}"
    yield click.style(_verdict(report), fg="green" if report.ok else "red", bold=True)


def _limits(report: Report) -> Iterator[str]:
    """Return what was not checked, or could not be."""
    if report.cut:
        yield f"{_count(report.cut, 'stream')} cut: part of it lies in days that were not checked."
    if report.days_not_checked:
        days = _count(report.days_not_checked, "day")
        yield f"Not checked: {days} in Parquet, which needs more packages: {way_out()}"
    if report.pending:
        yield f"{_count(report.pending, 'tick')} still spooled, not yet in the files."
    if report.chain == "not checked":
        yield "Chain not checked: no event log, so ticks missing at the end of a recording would not show."


def _interruptions(report: Report) -> Iterator[str]:
    if not report.interruptions:
        return
    yield "Interruptions on record, times in which ticks could not be received:"
    for cause, found in sorted(report.interruptions.items()):
        unknown = f", and {_count(found.unknown, 'time')} nobody knows how long" if found.unknown else ""
        yield f"  {cause:14} {_count(found.count, 'time'):>10}  {found.seconds:12,.1f} s in all{unknown}"
    yield "  the latest:"
    for gap in list(report.recorded_gaps)[-GAPS_SHOWN:]:
        yield f"    {_gap(gap)}"


def _verdict(report: Report) -> str:
    if report.ok and report.missing:
        return (
            f"{_count(report.missing, 'tick')} lost, as the event log tells. "
            f"All other {report.ticks:,} are there, each once, in order."
        )
    if report.ok:
        return f"All {report.ticks:,} ticks are there, each once, in order."
    if not report.files:
        return "Nothing was checked."
    wrong = [
        (report.missing, f"{_count(report.missing, 'tick')} missing"),
        (report.gaps, f"{_count(report.gaps, 'gap')} in the numbers ({report.gaps_recorded:,} on record)"),
        (report.duplicates, f"{_count(report.duplicates, 'repeated line')}"),
        (report.out_of_order, f"{_count(report.out_of_order, 'line')} out of order"),
        (report.torn, f"{_count(report.torn, 'file')} torn at the end"),
        (report.invalid, f"{_count(report.invalid, 'invalid line')}"),
        (report.chain == "broken", "the chain of recordings is broken"),
    ]
    return f"Not all is right: {', '.join(words for is_so, words in wrong if is_so)}."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _gap(gap: GapEvent) -> str:
    since = gap.since.strftime("%Y-%m-%d %H:%M:%S") if gap.since else "?"
    until = gap.until.strftime("%H:%M:%S") if gap.until else "?"
    instruments = _count(len(gap.instruments), "instrument")
    seconds = f"{gap.seconds:,.1f} s" if gap.since and gap.until else "nobody knows how long"
    return f"connection {gap.connection_id}, {since} to {until} ({seconds}): {gap.cause}, {instruments}"


def _problem(problem: Problem) -> str:
    place = ""
    if problem.place and not problem.message.startswith(f"{problem.place.path}: "):
        path, line, offset = problem.place
        place = f"{path}:{line} (byte {offset}): " if line else f"{path}: "  # no line: a Parquet part
    return f"{problem.kind}: {place}{problem.message}"
