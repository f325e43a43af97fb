"""Parquet files of closed days: one part is written, and parts are read back.

    <data_dir>/parquet/date=YYYY-MM-DD/part-NNNNN.parquet

A part holds a stretch of the day's JSONL (`footer`). Its row groups follow each other as the lines do, hence in time;
within a group rows are sorted by instrument, and those of an instrument are in the order of the lines.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl
import pyarrow as pa
from pyarrow import parquet

from pipeline.errors import MdsError
from pipeline.store.parquet import footer as footers
from pipeline.store.parquet.files import parts
from pipeline.store.parquet.footer import Footer
from pipeline.store.parquet.text import to_lines
from pipeline.store.schema import KEY, TIMES, schema

# How columns are encoded was measured. Numbers that grow by little are stored as differences; prices that hardly ever
# repeat are stored as they are, zstd finds what repeats within an instrument; the others as numbers of a dictionary.
_GROWING: Final = ("timestamp", "seq", "volume_traded")
_AS_THEY_ARE: Final = ("change", "last_price", "average_traded_price")
_LEVEL: Final = 3  # higher ones cost twice the time for a fiftieth of the size
_HEAD_BYTES: Final = 2**16  # more than a tick's line ever has
_LINES_AT_ONCE: Final = 2**13


class Part(NamedTuple):
    """A part that is there."""

    path: Path
    footer: Footer


class Writer:
    """Writes one part. A context manager: what was not closed in order is removed. Raises OSError."""

    def __init__(self, path: Path, timezone: str) -> None:
        self._path = path
        self._schema = _to_arrow(schema(timezone).to_frame()).schema
        names = self._schema.names
        self._writer = parquet.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            compression_level=_LEVEL,
            use_dictionary=[name for name in names if name not in (*_GROWING, *_AS_THEY_ARE)],
            column_encoding=dict.fromkeys(_GROWING, "DELTA_BINARY_PACKED"),
            sorting_columns=[parquet.SortingColumn(names.index("instrument_token"))],
            write_page_checksum=True,
        )

    def add(self, rows: pl.DataFrame) -> None:
        """Write a row group; `rows` have all columns and are sorted by instrument."""
        self._writer.write_table(_to_arrow(rows), row_group_size=max(rows.height, 1))

    def close(self, footer: Footer) -> None:
        """Write the footer, and make the file durable. What is read from now on comes from the disk."""
        self._writer.add_key_value_metadata({footers.KEY: footers.encode(footer).decode()})
        self._writer.close()
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):  # it tries to write what is left, where there is no room
                self._writer.close()
            self._path.unlink(missing_ok=True)


def _to_arrow(rows: pl.DataFrame) -> pa.Table:
    return rows.to_arrow(compat_level=pl.CompatLevel.oldest())


def head_of(source: Path) -> str:
    """Return a digest of the first line of a JSONL. Raises OSError."""
    with source.open("rb") as file:
        line = file.readline(_HEAD_BYTES)
    return hashlib.sha256(line).hexdigest()[:16]


def read_footer(path: Path) -> Footer:
    """Return what a part tells of itself. Raises MdsError where it is damaged or none of ours."""
    try:
        metadata = parquet.read_metadata(path)
        found = footers.decode((metadata.metadata or {}).get(footers.KEY.encode(), b""))
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise _damaged(path, error) from None
    groups = metadata.num_row_groups
    if found.ticks != metadata.num_rows or len(found.groups) != groups or found.ticks != _numbers(found):
        raise _damaged(path, "its rows are not as many as it should have")
    return found


def _numbers(footer: Footer) -> int:
    return sum(last - first + 1 for stream in footer.streams for first, last in stream.runs)


def _damaged(path: Path, why: object) -> MdsError:
    words = str(why).splitlines()[0] if str(why) else "unknown"
    return MdsError(
        f"{path}: cannot be read as a part of a day: {words}; while the JSONL is there remove {path.parent} and run "
        "mds compact again, else restore it from a copy"
    )


def read_parts(folder: Path) -> list[Part]:
    """Return all parts of a day, in the order of their numbers; none where there is no such folder."""
    return [Part(path, read_footer(path)) for path in parts(folder)]


def chain(found: Sequence[Part], head: str) -> list[Part]:
    """Return those parts of the JSONL with this first line that follow each other, from its beginning."""
    chained: list[Part] = []
    end = 0
    for part in sorted((part for part in found if part.footer.head == head), key=lambda part: part.footer.first):
        if part.footer.first != end:
            break
        chained.append(part)
        end = part.footer.end
    return chained


def covered(folder: Path, source: Path) -> int | None:
    """Return how many bytes of a JSONL the published parts hold; None where there are none of it.

    Raises OSError where the JSONL cannot be read, MdsError where a part is damaged.
    """
    chained = chain(read_parts(folder), head_of(source))
    return chained[-1].footer.end if chained else None


def others(folder: Path, source: Path) -> list[Path]:
    """Return the parts of an earlier JSONL of this day, which is gone: ticks that came late began another."""
    head = head_of(source)
    return [part.path for part in read_parts(folder) if part.footer.head != head]


def read_groups(path: Path) -> Iterator[pl.DataFrame]:
    """Yield the row groups of a part, one at a time, with all columns. Raises MdsError where it is damaged."""
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            for number in range(file.num_row_groups):
                rows = pl.from_arrow(file.read_row_group(number, use_threads=False))
                if not isinstance(rows, pl.DataFrame):
                    raise AssertionError("a table became a series")
                yield rows
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def scan(path: Path, timezone: str | None = None) -> pl.LazyFrame:
    """Return the ticks of a part, or of all parts of a folder, with the columns of `schema.schema`.

    Times are in `timezone`, where none is given in that in which they were stored.
    """
    files: Any = parts(path) if path.is_dir() else [path]
    if not files:
        raise MdsError(f"{path}: has no parts of a day")
    frame = pl.scan_parquet(files, hive_partitioning=False)
    if timezone is not None and frame.collect_schema() != schema(timezone):
        frame = frame.with_columns(pl.col(name).dt.convert_time_zone(timezone) for name in TIMES)
    return frame


def iter_lines(path: Path) -> Iterator[bytes]:
    """Yield the ticks of a part, or of all parts of a folder, as stored lines, in the order of receiving."""
    for file in parts(path) if path.is_dir() else [path]:
        for rows in read_groups(file):
            for some in rows.sort("timestamp", *KEY).iter_slices(_LINES_AT_ONCE):
                yield from (line.encode() for line in to_lines(some))
