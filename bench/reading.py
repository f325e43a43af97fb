"""What reading back costs, and whether it is true: `python -m bench.reading`.

Records the simulator as a user would and reads the day in every way there is. Columns and dicts are compared with the
lines as `json` reads them, field for field; the Parquet with the JSONL, tick for tick; what DuckDB, pandas and polars
make of the Parquet with each other; bars with those of a plain loop. The speeds are those of processes that do nothing
else, one after the other, and their memory is the peak of the process. Exit 1 where something differs.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import click
import duckdb
import pandas as pd
import polars as pl

import pipeline
from bench.rig.ending import as_ctrl_c
from pipeline.files import event_file_name, parquet_folder, tick_file_name
from pipeline.store.files import date_of, tick_files
from pipeline.store.schema import KEY
from tests.integration.service import MDS, Service
from tests.test_store_bars import reference

RATE = 30_000  # ticks a second while recording
SLICE = 10_000  # rows that are compared at a time
TIMES = {"timestamp": "microseconds", "last_trade_time": "seconds", "exchange_timestamp": "seconds"}


@click.command()
@click.option("--quotes", default=5_000_000, show_default=True, metavar="N", help="Quote ticks, for the speeds.")
@click.option("--mixed", default=1_000_000, show_default=True, metavar="N", help="Ticks of all modes, for the truth.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(*, quotes: int, mixed: int, as_json: bool) -> None:
    """Record, read back, compare, and time it."""
    figures: dict[str, float] = {}
    with recorded(mixed, "mixed") as path:
        figures |= compacted(path, "mixed")
        for check in (unlike_json, unlike_parquet, unlike_other_engines, unlike_reference_bars):
            figures[check.__name__], _, _ = measured(check, path)
    with recorded(quotes, "quote") as path:
        for name, work in (("pandas.read_json", by_pandas), ("read_ticks", by_read_ticks)):
            figures[f"{name} ticks"], figures[f"{name} s"], figures[f"{name} MB"] = measured(work, path)
        figures["times as fast"] = figures["pandas.read_json s"] / figures["read_ticks s"]
        figures["share of the memory"] = figures["read_ticks MB"] / figures["pandas.read_json MB"]
        figures |= compacted(path, "quote")
    if as_json:
        click.echo(json.dumps(figures))
    else:
        for name, value in figures.items():
            click.echo(f"{name:32}{value:>16,.2f}" if value % 1 else f"{name:32}{value:>16,.0f}")
    sys.exit(1 if any(value for name, value in figures.items() if name.startswith("unlike")) else 0)


@contextmanager
def recorded(ticks: int, what: str) -> Iterator[Path]:
    """Record so many ticks of the simulator in a folder of its own, and yield the file; at the end delete the folder.

    The day is called yesterday, so that it is over.
    """
    modes = ("primary",) if what == "quote" else ("primary", "secondary")
    with as_ctrl_c(), tempfile.TemporaryDirectory(prefix="mds-bench-reading-") as folder:
        words = [sys.executable, "-m", "pipeline.simulator", "--print-tokens", "1000"]
        tokens = list(map(int, subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()))
        universe = {mode: tokens[place :: len(modes)] for place, mode in enumerate(modes)}
        service = Service(
            Path(folder),
            simulator={"rate": RATE // len(modes), "instruments": 1000},
            universe={"primary": [], "secondary": []} | universe,
        )
        try:
            service.start("--simulate")
            while service.stored() < ticks:
                time.sleep(1)
            service.stop()
            found = tick_files(service.data_dir)[-1]
            day = date_of(found) or date.max
            before = day - timedelta(days=1)
            (found.parent / event_file_name(day)).rename(found.parent / event_file_name(before))
            yield found.rename(found.parent / tick_file_name(before))
        finally:
            service.kill_all()


def compacted(path: Path, what: str) -> dict[str, float]:
    """Make Parquet of the day as a user does, on one core; return how fast it was, and how small it is."""
    words = [str(MDS), "compact", str(date_of(path)), "--json"]
    began = time.perf_counter()
    done = subprocess.run(
        words,
        cwd=path.parent.parent,
        env=os.environ | {"POLARS_MAX_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {0}),
    )
    seconds = time.perf_counter() - began
    (day,) = json.loads(done.stdout)["days"]
    size = path.stat().st_size
    parquet = sum(part.stat().st_size for part in folder_of(path).iterdir())
    return {
        f"{what} ticks": day["ticks"],
        f"{what} JSONL MB": size / 1e6,
        f"{what} Parquet MB": parquet / 1e6,
        f"{what} times as small": size / parquet,
        f"{what} compacted ticks/s": day["ticks"] / seconds,
    }


def folder_of(path: Path) -> Path:
    """Return where the Parquet of a JSONL is."""
    return parquet_folder(path.parent, date_of(path) or date.max)


def measured(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float, float]:
    """Do `work` in a fresh process; return its result, seconds, and peak memory in MB.

    Raises RuntimeError where the process dies: for instance of too little memory.
    """
    context = get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(send, work, arguments))
    process.start()
    send.close()
    try:
        result: tuple[Any, float, float] = receive.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process of {work.__name__} ended with {process.exitcode}") from None
    process.join()
    return result


def _report(send: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    began = time.perf_counter()
    result = work(*arguments)
    seconds = time.perf_counter() - began
    send.send((result, seconds, getrusage(RUSAGE_SELF).ru_maxrss / 1000))


def by_pandas(path: Path) -> int:
    """Read a file as people do without us."""
    return len(pd.read_json(path, lines=True))


def by_read_ticks(path: Path) -> int:
    """Read a file into one frame with all columns."""
    return pipeline.read_ticks(path).collect().height


def unlike_json(path: Path) -> int:
    """Return how many ticks are not the same from `json`, `read_ticks` and `iter_ticks`, field for field."""
    slices = pipeline.read_ticks(path).collect().iter_slices(SLICE)
    rows = itertools.chain.from_iterable(some.iter_rows(named=True) for some in slices)
    nothing: dict[str, Any] = {}
    with path.open(encoding="utf-8") as lines:
        found = itertools.zip_longest(map(json.loads, lines), rows, pipeline.iter_ticks(path), fillvalue=nothing)
        return sum(line != tick or flat(line) != in_text(row) for line, row, tick in found)


def unlike_parquet(path: Path) -> int:
    """Return how many ticks of the JSONL the Parquet has not exactly so, or has besides."""
    lines = pipeline.read_ticks(path).sort(KEY).collect()
    columns = pipeline.read_ticks(folder_of(path)).sort(KEY).collect()
    if lines.equals(columns):
        return 0
    return (
        lines.height + columns.height - 2 * lines.join(columns, on=lines.columns, how="semi", nulls_equal=True).height
    )


def unlike_other_engines(path: Path) -> int:
    """Return in how many columns DuckDB and pandas find another sum or another number of values than polars."""
    ours = pipeline.read_ticks(path).collect()
    in_pandas = pd.read_parquet(folder_of(path))
    in_duckdb: Any = duckdb.read_parquet(f"{folder_of(path)}/*.parquet")
    unlike = 0
    for name, dtype in ours.schema.items():
        count, total = ours[name].count(), 0.0
        if dtype.is_numeric():
            total = float(ours[name].cast(pl.Float64).sum())
        wanted = f"count({name}), {f'sum({name}::DOUBLE)' if total else '0'}"
        ((their_count, their_total),) = in_duckdb.aggregate(wanted).fetchall()
        is_close = abs(their_total - total) <= 1e-9 * abs(total)
        unlike += not is_close or their_count != count or int(in_pandas[name].count()) != count
    return unlike


def unlike_reference_bars(path: Path) -> int:
    """Return how many one-minute bars are not those of a plain loop over the lines, or are missing."""
    ours = pipeline.bars(pipeline.read_ticks(path), "1m").collect().to_dicts()
    theirs = reference(pipeline.iter_ticks(path), timedelta(minutes=1))
    return sum(one != other for one, other in itertools.zip_longest(ours, theirs))


def flat(tick: dict[str, Any]) -> dict[str, Any]:
    """Return a stored tick with a field for each column that it has, except where that is null."""
    fields = {name: value for name, value in tick.items() if name not in ("ohlc", "depth") and value is not None}
    fields |= tick.get("ohlc", {})
    for prefix, side in (("bid", "buy"), ("ask", "sell")):
        for number, level in enumerate(tick.get("depth", {}).get(side, ()), start=1):
            fields |= {f"{prefix}_{name}_{number}": value for name, value in level.items()}
    return fields


def in_text(row: dict[str, Any]) -> dict[str, Any]:
    """Return what is not null of a row, with times as they are stored."""
    fields = {name: value for name, value in row.items() if value is not None}
    for name, precision in TIMES.items():
        if name in fields:
            fields[name] = fields[name].isoformat(timespec=precision)
    return fields


if __name__ == "__main__":
    main()
