"""One part of a day: made of a stretch of the JSONL, and proved against it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from pipeline.errors import MdsError
from pipeline.store.bad import BadLine
from pipeline.store.files import Chunk, Fragment, Place, read_chunks
from pipeline.store.lines import read_chunk
from pipeline.store.parquet.footer import Bad, Footer, Runs
from pipeline.store.parquet.io import Part, Writer, read_groups
from pipeline.store.parquet.proof import UnlikeError, prove
from pipeline.store.schema import schema

CHUNK_BYTES = 16 * 2**20  # of JSONL that are read at once: what takes the most memory
GROUP_BYTES = 64 * 2**20  # of JSONL that become a row group: in smaller ones an instrument has too few ticks
PART_BYTES = 8 * GROUP_BYTES  # of JSONL that become a part: what a kill may cost
BAD_NAMED: Final = 10  # of a part; all are counted

OnRead = Callable[[int], None]  # is told the bytes of JSONL that were read


@dataclass(frozen=True)
class Source:
    """The JSONL of a day: `end` is that of its last whole line, `head` a digest of its first."""

    path: Path
    day: date
    timezone: str
    head: str
    end: int


def write_part(path: Path, source: Source, start: Place, on_read: OnRead) -> Footer:
    """Write a part of the lines that begin at `start`, as many as it may have. Raises OSError."""
    part = _Rows(start)
    with Writer(path, source.timezone) as writer:
        for item in read_chunks(source.path, source.end, CHUNK_BYTES, start):
            if isinstance(item, Fragment):
                part.add_fragment(item)
            else:
                part.add(item, *read_chunk(item, source.timezone), source.day)
                on_read(len(item.data))
            if part.group_bytes >= GROUP_BYTES:
                part.flush(writer)
            if part.end - start.offset >= PART_BYTES:
                break
        part.flush(writer)
        footer = part.footer(source)
        writer.close(footer)
    return footer


class _Rows:
    """The rows of a part in the making, and what its footer will say of them."""

    def __init__(self, start: Place) -> None:
        self.end = start.offset
        self._start = start
        self._lines = 0
        self._rows: list[pl.DataFrame] = []  # of the next group
        self._groups: list[int] = []
        self._ticks = self._strays = 0
        self._bad: list[BadLine] = []
        self._runs = Runs()
        self._instruments: set[int] = set()

    @property
    def group_bytes(self) -> int:
        """What has come since the last group."""
        return self.end - (self._groups[-1] if self._groups else self._start.offset)

    def add_fragment(self, fragment: Fragment) -> None:
        """Take in what is too long for a line."""
        self._bad.append(BadLine(fragment.place, fragment.why))
        self.end = fragment.place.offset + fragment.length
        self._lines += 1

    def add(self, chunk: Chunk, rows: pl.DataFrame, bad: list[BadLine], day: date) -> None:
        """Take in lines, and the rows that they have become."""
        self._rows.append(rows)
        self._bad += bad
        self.end = chunk.first.offset + len(chunk.data)
        self._lines += chunk.data.count(b"\n")
        self._ticks += rows.height
        self._instruments.update(rows["instrument_token"].unique())
        self._strays += rows.select((pl.col("timestamp").dt.date() != day).sum()).item()
        for (connection_id, epoch), of_stream in rows.group_by("connection_id", "epoch", maintain_order=True):
            numbers = of_stream["seq"].to_numpy()
            cuts = np.flatnonzero(np.diff(numbers) != 1)
            firsts, lasts = numbers[np.append(0, cuts + 1)], numbers[np.append(cuts, len(numbers) - 1)]
            self._runs.add(connection_id, epoch, zip(firsts.tolist(), lasts.tolist(), strict=True))

    def flush(self, writer: Writer) -> None:
        """Write what has come since the last group, if it has a tick."""
        if sum(rows.height for rows in self._rows):
            writer.add(pl.concat(self._rows).sort("instrument_token", maintain_order=True))
            self._groups.append(self.end)
        self._rows = []

    def footer(self, source: Source) -> Footer:
        """Return what the footer says."""
        return Footer(
            source=source.path.name,
            head=source.head,
            first=self._start.offset,
            end=self.end,
            line=self._start.line,
            lines=self._lines,
            ticks=self._ticks,
            bad=len(self._bad),
            named=[Bad(bad.place.line, bad.place.offset, bad.why) for bad in self._bad[:BAD_NAMED]],
            strays=self._strays,
            is_last=self.end == source.end,
            groups=self._groups,
            streams=self._runs.streams(),
            instruments=sorted(self._instruments),
        )


def prove_part(part: Part, source: Path, on_read: OnRead) -> None:
    """Read a part back and prove that it has each tick of its lines, in its place, and nothing else.

    Raises MdsError telling what is different, OSError where the JSONL cannot be read.
    """
    footer = part.footer
    place = Place(source, footer.line, footer.first)
    none = schema().to_frame()
    bad = lines = 0
    try:
        groups = read_groups(part.path)
        for end in (*footer.groups, footer.end):
            chunks = []
            for item in read_chunks(source, end, CHUNK_BYTES, place):
                if isinstance(item, Fragment):
                    bad, lines = bad + 1, lines + 1
                    place = Place(source, place.line + 1, item.place.offset + item.length)
                else:
                    chunks.append(item)
                    count = item.data.count(b"\n")
                    lines += count
                    place = Place(source, place.line + count, item.first.offset + len(item.data))
            bad += len(prove(next(groups, none), chunks))
            on_read(sum(len(chunk.data) for chunk in chunks))
        if place.offset != footer.end or (bad, lines) != (footer.bad, footer.lines):
            raise UnlikeError(f"{lines:,} lines, {bad:,} of them no ticks, instead of {footer.lines:,}, {footer.bad:,}")
    except UnlikeError as error:
        raise MdsError(
            f"{part.path}: is not what {source} has from byte {footer.first} to {footer.end}: {error}; the JSONL is "
            "untouched"
        ) from None
