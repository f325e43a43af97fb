"""`mds bars`: OHLCV bars of recorded ticks, to the standard output or into a file."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

import click
import polars as pl

from pipeline.cli.options import json_option
from pipeline.cli.reading import named, reading
from pipeline.cli.sources import Selected, sources_options
from pipeline.errors import MdsError
from pipeline.readable import counted
from pipeline.store import bars as pure

FORMATS: Final = ("csv", "json", "jsonl", "parquet")
SLICE_ROWS: Final = 50_000  # turned into text at a time
START_FORM: Final = "%Y-%m-%dT%H:%M:%S%:z"


@click.command()
@sources_options
@click.option("--interval", default="1m", show_default=True, metavar="N[s|m|h|d]", help="Like 1s, 5m, 1h; 1d at most.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="json is a list with a bar a line, jsonl an object a line. Else as FILE is named, else csv.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write FILE, not to stdout."
)
@click.option("--force", is_flag=True, help="Replace FILE if there is one.")
@json_option
def bars(*, selected: Selected, interval: str, form: str | None, out: Path | None, force: bool, as_json: bool) -> None:
    """Make OHLCV bars of the ticks of days (YYYY-MM-DD) or files; of the newest day if none is given.

    Bars lie on a grid from the opening of the exchange on: those of an hour at NSE run from 09:15 to 10:15, at MCX from
    09:00. The volume is what was traded since the tick before the bar, but nothing is known of what was traded before
    the first tick. Where there was no tick there is no bar.

    Exits with 1 where there are no ticks.
    """
    if as_json and form not in (None, "json"):
        raise click.UsageError(f"--json and --format {form} cannot go together")
    form = _form("json" if as_json else form, out)
    if out is not None and out.exists() and not (force and out.is_file()):
        raise click.UsageError(f"{out} is there; --force replaces it, if it is a file")
    with reading(selected):
        found = pure.bars(selected.frame(), interval).collect()
    if not found.height:
        raise MdsError("no bars: there are no ticks of these instruments and times")
    found = named(found, selected.symbols)
    if out is None:
        _print(found, form)
        return
    _write(found, form, out)
    click.echo(
        f"{out}: {counted(found.height, 'bar')} of {counted(found['instrument_token'].n_unique(), 'instrument')}",
        err=True,
    )


def _form(form: str | None, out: Path | None) -> str:
    """Return the format that is meant."""
    if form is None and out is not None:
        form = out.suffix.removeprefix(".").lower()
        if form not in FORMATS:
            raise click.UsageError(f"{out}: name it .{', .'.join(FORMATS)}, or say --format")
    if form == "parquet" and out is None:
        raise click.UsageError("Parquet is written to a file: --out FILE")
    return form or "csv"


def _texts(found: pl.DataFrame, form: str) -> Iterator[str]:
    if form == "csv":
        for number, part in enumerate(found.iter_slices(SLICE_ROWS)):
            yield part.write_csv(include_header=number == 0, datetime_format=START_FORM)
        return
    lines = (
        part.with_columns(pl.col("start").dt.to_string(START_FORM)).write_ndjson()
        for part in found.iter_slices(SLICE_ROWS)
    )
    if form == "jsonl":
        yield from lines
        return
    before = "[\n"
    for text in lines:
        # The last line of all has no comma: so each part waits for the next one to write it.
        yield before + text.removesuffix("\n").replace("\n", ",\n")
        before = ",\n"
    yield "\n]\n"


def _print(found: pl.DataFrame, form: str) -> None:
    for text in _texts(found, form):
        click.echo(text, nl=False)


def _write(found: pl.DataFrame, form: str, out: Path) -> None:
    """Write the file beside its place, and put it there when it is whole."""
    unfinished = out.with_name(f"{out.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            _fill(file, found, form)
        unfinished.replace(out)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise MdsError(f"{out}: not written: {getattr(error, 'strerror', None) or error}") from None
    finally:
        with suppress(OSError):  # it could not be made
            unfinished.unlink(missing_ok=True)


def _fill(file: BinaryIO, found: pl.DataFrame, form: str) -> None:
    if form == "parquet":
        found.write_parquet(file)
        return
    file.writelines(text.encode() for text in _texts(found, form))
