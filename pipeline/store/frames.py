"""Reading ticks as columns: `read_ticks`, in whatever form they are stored.

Nothing is read before the frame is collected. Then it streams: JSONL comes in chunks, of which filters and columns keep
what was asked for; of Parquet only that is read at all.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl
from polars.io.plugins import register_io_source

from pipeline.store.bad import Judge, OnBad
from pipeline.store.files import Fragment, read_chunks
from pipeline.store.lines import CHUNK_BYTES, Read, read_chunk
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


def read_ticks(
    source: Sources = None,
    *,
    tokens: Iterable[int | str] | int | str | None = None,
    modes: Iterable[str] | str | None = None,
    start: Moment = None,
    end: Moment = None,
    columns: Sequence[str] | None = None,
    dedupe: bool = False,
    on_bad: OnBad = "report",
    data_dir: Path | str | None = None,
    timezone: str | None = None,
) -> TickFrame:
    """Return stored ticks as a polars LazyFrame with `columns` of `schema.schema`, by default all.

    `source` is a day (a date, or text like "2025-10-01"), a file, a data folder, or several of these; None: all days.
    Days are looked up in `data_dir`. Where it or `timezone` is not given, it is what the settings say.

    `tokens` are instrument tokens or symbols, `modes` of "ltp", "quote" and "full"; `start` is included, `end` is not,
    both are receive times (datetime, date or ISO 8601 text; without an offset in `timezone`). `dedupe` leaves out the
    second copy of what two connections or a fresh subscription delivered, see `pipeline.store.dedupe`.

    Rows come as they are stored: JSONL in the order of storing, which within a connection is that of receiving; Parquet
    in groups of rows that follow each other in time, each sorted by instrument. Sort by `timestamp` where it matters.
    Of a file that is being written it reads what is there when it is collected.

    `on_bad` says what becomes of a line that is no tick, a torn last one for instance: "report" names file, line and
    byte in the log and passes over it, "raise" raises BadLineError, a callable is handed each BadLine. Raises
    ConfigError or MdsError where there is nothing of that kind or day.
    """
    folder, zone = place(data_dir, timezone)
    selection = select(folder, zone, tokens=tokens, modes=modes, start=start, end=end)
    frames = [_scan(file, zone, on_bad) for file in find(source, folder)]
    frame = pl.concat(frames).filter(_wanted(selection))
    if columns is not None:
        frame = frame.select(columns)
    return TickFrame._from_pyldf(frame._ldf)  # type: ignore[return-value]  # noqa: SLF001  polars has no other way


def read_jsonl_to_dataframe(filepath: Path | str, max_rows: int | None = None) -> "pd.DataFrame":
    """Return the first `max_rows` ticks of a file, or all, as a pandas DataFrame with the columns of `read_ticks`.

    Columns that are empty throughout are left out: those of depth where nothing was recorded in full mode.
    """
    frame = read_ticks(Path(filepath))
    ticks = (frame if max_rows is None else frame.head(max_rows)).collect()
    return ticks.select(column for column in ticks if column.null_count() < max(ticks.height, 1)).to_pandas()


def _wanted(selection: Selection) -> list[pl.Expr]:
    """Return what is true of the rows that are selected."""
    rules = [pl.lit(value=True)]
    if selection.tokens is not None:
        rules.append(pl.col("instrument_token").is_in(sorted(selection.tokens)))
    if selection.modes is not None:
        rules.append(pl.any_horizontal(pl.col("mode") == mode for mode in sorted(selection.modes)))
    if selection.start is not None:
        rules.append(pl.col("timestamp") >= selection.start)
    if selection.end is not None:
        rules.append(pl.col("timestamp") < selection.end)
    return rules


def _scan(file: TickFile, timezone: str, on_bad: OnBad) -> pl.LazyFrame:
    if file.kind == "parquet":
        from pipeline.store.parquet import scan

        return scan(file.path)
    return _scan_lines(file.path, timezone, on_bad)


def _scan_lines(path: Path, timezone: str, on_bad: OnBad) -> pl.LazyFrame:
    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = list(schema()) if with_columns is None else with_columns
        needed = wanted if predicate is None else list(dict.fromkeys([*wanted, *predicate.meta.root_names()]))
        left = n_rows
        for frame in _read(path, timezone, needed, Judge(path, on_bad)):
            rows = frame if left is None else frame.head(left)
            left = None if left is None else left - rows.height
            yield (rows if predicate is None else rows.filter(predicate)).select(wanted)
            if left == 0:
                break

    return register_io_source(source, schema=schema(timezone), explain_name=path.name)


def _read(path: Path, timezone: str, columns: Sequence[str], judge: Judge) -> Iterator[pl.DataFrame]:
    """Yield the ticks of a file, chunk by chunk, while those behind are being read."""
    waiting: list[Future[Read] | Fragment] = []

    def take() -> Iterator[pl.DataFrame]:
        item = waiting.pop(0)
        if isinstance(item, Fragment):
            judge.hear_fragment(item)
            return
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
