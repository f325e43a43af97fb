"""Reading ticks as columns: `read_ticks`, in whatever form they are stored.

Nothing is read before the frame is collected. Then it streams: JSONL comes in chunks, of which filters and columns keep
what was asked for; of Parquet only that is read at all.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl
from polars.io.plugins import register_io_source

from pipeline.files import event_file_name
from pipeline.store.bad import Judge, OnBad
from pipeline.store.dedupe import Day, drop_copies
from pipeline.store.files import Chunk, Fragment, read_chunks
from pipeline.store.lines import CHUNK_BYTES, Read, read_chunk
from pipeline.store.names import SYMBOL, by_list, names_in
from pipeline.store.parquet import io as parquet
from pipeline.store.schema import schema
from pipeline.store.selection import Selection
from pipeline.store.sources import Moment, Sources, TickFile, find, place, select

if TYPE_CHECKING:
    import pandas as pd

READ_AHEAD: Final = 2  # chunks that are read while one is used


class TickFrame(pl.LazyFrame):
    """A polars LazyFrame, which may be asked for pandas too."""

    def to_pandas(self) -> "pd.DataFrame":
        """Collect it into a pandas DataFrame."""
        return self.collect().to_pandas()


def read_ticks(  # noqa: PLR0917  these may be told by their place
    source: Sources = None,
    tokens: Iterable[int | str] | int | str | None = None,
    modes: Iterable[str] | str | None = None,
    start: Moment = None,
    end: Moment = None,
    columns: Sequence[str] | None = None,
    *,
    dedupe: bool = False,
    symbols: bool = False,
    on_bad: OnBad = "skip",
    data_dir: Path | str | None = None,
    timezone: str | None = None,
) -> TickFrame:
    """Return stored ticks as a polars LazyFrame with `columns` of `schema.schema`, by default all.

    `source` is a day (a date, or text like "2025-10-01"), a file, a data folder or one of Parquet, or several of these;
    None: all days. Days and symbols are looked up in `data_dir`. Where it or `timezone` is not given, it is what the
    settings say; for the symbols of one file or folder, that folder.

    `tokens` are instrument tokens or symbols, `modes` of "ltp", "quote" and "full"; `start` is included, `end` is not,
    both are receive times (datetime, date or ISO 8601 text; without an offset in `timezone`). `dedupe` leaves out the
    second copy of what two connections or a fresh subscription delivered, see `pipeline.store.dedupe`. `symbols` adds
    the column `symbol`, like NSE:INFY, null where it is not known: each day's by the list of instruments of that day,
    or the newest before it, in `data_dir`.

    Rows come as they are stored: JSONL in the order of storing, which within a connection is that of receiving; Parquet
    in groups of rows that follow each other in time, each sorted by instrument. Sort by `timestamp` where it matters.
    Of a file that is being written it reads what is there when it is collected.

    `on_bad` says what becomes of a line that is no tick, a torn last one for instance: "skip" names file, line and
    byte in the log and passes over it, "raise" raises BadLineError, a callable is handed each BadLine. Raises
    ConfigError or MdsError where there is nothing of that kind or day.
    """
    folder, zone = place(source, data_dir, timezone)
    selection = select(folder, zone, tokens=tokens, modes=modes, start=start, end=end)
    files = find(source, folder)
    if symbols:
        runs = list(by_list(files, folder)) or [(None, [])]
        frame = pl.concat(_with_symbols(_scan(run, zone, on_bad), path, selection) for path, run in runs)
    else:
        frame = _scan(files, zone, on_bad).filter(_of_instruments(selection))
    if dedupe:
        frame = drop_copies(frame, _days(files, zone, selection))
    frame = frame.filter(_in_time(selection))
    if columns is not None:
        frame = frame.select([*columns, SYMBOL] if symbols and SYMBOL not in columns else columns)
    return TickFrame._from_pyldf(frame._ldf)  # type: ignore[return-value]  # noqa: SLF001  polars has no other way


def read_jsonl_to_dataframe(filepath: Path | str, max_rows: int | None = None) -> "pd.DataFrame":
    """Return the first `max_rows` ticks of a file, or all, as a pandas DataFrame with the columns of `read_ticks`.

    Columns that are empty throughout are left out: those of depth where nothing was recorded in full mode.
    """
    frame = read_ticks(Path(filepath))
    ticks = (frame if max_rows is None else frame.head(max_rows)).collect()
    return ticks.select(column for column in ticks if column.null_count() < max(ticks.height, 1)).to_pandas()


def _of_instruments(selection: Selection) -> list[pl.Expr]:
    """Return what is true of ticks of the instruments and modes that are selected."""
    rules = [pl.lit(value=True)]
    if selection.tokens is not None:
        rules.append(pl.col("instrument_token").is_in(sorted(selection.tokens)))
    if selection.modes is not None:
        rules.append(
            pl.any_horizontal(pl.lit(value=False), *(pl.col("mode") == mode for mode in sorted(selection.modes)))
        )
    return rules


def _in_time(selection: Selection) -> list[pl.Expr]:
    """Return what is true of ticks of the time that is selected."""
    rules = [pl.lit(value=True)]
    if selection.start is not None:
        rules.append(pl.col("timestamp") >= selection.start)
    if selection.end is not None:
        rules.append(pl.col("timestamp") < selection.end)
    return rules


def _with_symbols(frame: pl.LazyFrame, path: Path | None, selection: Selection) -> pl.LazyFrame:
    """Return the ticks of selected instruments with their symbols, by this list; it is read when they are collected."""
    selected = frame.filter(_of_instruments(selection))
    if path is None:
        return selected.with_columns(pl.lit(None, pl.String).alias(SYMBOL))
    columns = {"instrument_token": schema()["instrument_token"], SYMBOL: pl.String()}

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        names = names_in(path)
        found = pl.DataFrame([list(names), list(names.values())], schema=columns)
        found = found if predicate is None else found.filter(predicate)
        yield found.head(found.height if n_rows is None else n_rows).select(with_columns or list(columns))

    names = register_io_source(source, schema=columns, explain_name=path.name)
    return selected.join(names, on="instrument_token", how="left", maintain_order="left")


def _days(files: Sequence[TickFile], timezone: str, selection: Selection) -> list[Day]:
    """Return what copies are looked for in: the ticks of each day as a whole, or of each file of no known day."""
    found = []
    for day, run in groupby(files, key=lambda file: file.day or file.path):
        of_day = list(run)
        folders = of_day[0].path.absolute().parents if isinstance(day, date) else ()
        events = (folder / event_file_name(day) for folder in folders if isinstance(day, date))
        # Bad lines are told by who reads the ticks themselves.
        ticks = _scan(of_day, timezone, on_bad=lambda _: None).filter(_of_instruments(selection))
        found.append(Day(ticks, next(filter(Path.is_file, events), None)))
    return found


def _scan(files: Sequence[TickFile], timezone: str, on_bad: OnBad) -> pl.LazyFrame:
    """Return the ticks of files in their order, with all columns."""
    if not files:
        return schema(timezone).to_frame().lazy()
    runs = groupby(files, key=lambda file: file.kind)
    frames = [_scan_run(kind, [file.path for file in run], timezone, on_bad) for kind, run in runs]
    return pl.concat(frames) if frames else pl.LazyFrame(schema=schema(timezone))


def _scan_run(kind: str, paths: Sequence[Path], timezone: str, on_bad: OnBad) -> pl.LazyFrame:
    if kind == "parquet":
        return pl.concat(parquet.scan(path, timezone) for path in paths)
    return _scan_lines(paths, timezone, on_bad)


def _scan_lines(paths: Sequence[Path], timezone: str, on_bad: OnBad) -> pl.LazyFrame:
    """Return the ticks of JSONL files, read one after the other: all at once would be in memory all at once."""

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = list(schema()) if with_columns is None else with_columns
        needed = wanted if predicate is None else list(dict.fromkeys([*wanted, *predicate.meta.root_names()]))
        left = n_rows
        for frame in (frame for path in paths for frame in _read(path, timezone, needed, Judge(path, on_bad))):
            rows = frame if left is None else frame.head(left)
            left = None if left is None else left - rows.height
            yield (rows if predicate is None else rows.filter(predicate)).select(wanted)
            if left == 0:
                break

    name = paths[0].name if len(paths) == 1 else f"{len(paths)} JSONL files"
    return register_io_source(source, schema=schema(timezone), explain_name=name)


def _read(path: Path, timezone: str, columns: Sequence[str], judge: Judge) -> Iterator[pl.DataFrame]:
    """Yield the ticks of a file, chunk by chunk, while those behind are being read."""
    waiting: list[Future[Read] | Fragment] = []

    def take() -> Iterator[pl.DataFrame]:
        item = waiting.pop(0)
        if isinstance(item, Fragment):
            read = read_chunk(Chunk(item.text + b"\n", item.place), timezone, columns)
            if read.bad:
                judge.hear_fragment(item)
        else:
            read = item.result()
            for bad in read.bad:
                judge.hear(bad)
        if read.frame.height:
            yield read.frame

    pool = ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="read")
    try:
        for part in read_chunks(path, path.stat().st_size, CHUNK_BYTES):
            waiting.append(part if isinstance(part, Fragment) else pool.submit(read_chunk, part, timezone, columns))
            if len(waiting) > READ_AHEAD:
                yield from take()
        while waiting:
            yield from take()
        judge.end()
    finally:
        # Not waited for: who has enough rows drops this generator on any thread, one of the pool's even.
        pool.shutdown(wait=False, cancel_futures=True)
