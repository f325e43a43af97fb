"""Proving that rows read back from Parquet are the ticks of the JSON lines they were made of: each once, none changed.

The rows are written as lines again and compared with the stored ones byte for byte. Where lines differ, each is judged
by itself: it is a tick with the very same values, or it is none and has no row. Rows lie sorted by instrument, those of
an instrument in the order of the lines: this is proved too.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from pipeline.store.bad import BadLine, sort_out
from pipeline.store.files import Chunk, as_block
from pipeline.store.parquet.text import split, to_lines
from pipeline.ticks import StoredTick, decode_line, encode_lines

_SLICE_ROWS: Final = 2**13  # are compared at a time: their text is as large as the lines
_OFFSET: Final = len("2025-10-01T09:15:23.123456")
_INSTRUMENT: Final = r'"instrument_token":(\d+)'


class UnlikeError(ValueError):
    """Rows and lines are not the same ticks; the message tells of the first difference."""


def prove(rows: pl.DataFrame, chunks: Sequence[Chunk]) -> list[BadLine]:
    """Prove that `rows` are the ticks of whole lines that follow each other; return the lines that are none.

    Raises UnlikeError.
    """
    if _equal_at_once(rows, chunks):
        return []
    ticks: list[StoredTick] = []
    bad: list[BadLine] = []
    for chunk in chunks:
        some, others = sort_out(as_block(chunk))
        ticks += some
        bad += others
    _compare(rows, ticks)
    return bad


def _equal_at_once(rows: pl.DataFrame, chunks: Sequence[Chunk]) -> bool:
    """Tell whether the lines of the rows are these, to the byte; if not, single lines still may be the same ticks."""
    found = [lines for chunk in chunks if (lines := split(chunk.data)) is not None]
    if len(found) < len(chunks) or sum(map(len, found)) != rows.height:
        return False
    if not found:
        return True
    lines = pl.concat(found)
    tokens = lines.str.extract(_INSTRUMENT).cast(pl.UInt32, strict=False)
    if tokens.null_count():
        return False
    lines = lines.gather(np.argsort(tokens.to_numpy(), kind="stable"))
    try:
        return all(
            (to_lines(part) == lines.slice(number * _SLICE_ROWS, part.height)).all()
            for number, part in enumerate(rows.iter_slices(_SLICE_ROWS))
        )
    except ValueError:
        return False


def _compare(rows: pl.DataFrame, ticks: list[StoredTick]) -> None:
    if rows.height != len(ticks):
        raise UnlikeError(f"{rows.height:,} rows for {len(ticks):,} ticks")
    ticks.sort(key=lambda tick: tick.instrument_token)
    try:
        found = [decode_line(line.encode()) for part in rows.iter_slices(_SLICE_ROWS) for line in to_lines(part)]
    except ValueError as error:
        raise UnlikeError(str(error)) from None
    for tick, row in zip(ticks, found, strict=True):
        if tick.timestamp[_OFFSET:] != row.timestamp[_OFFSET:]:
            raise UnlikeError(
                f"{tick.timestamp} is not a time in storage.timezone; set that to where this was recorded"
            )
        # As text: 0.0 and -0.0 are equal, and two different ticks.
        if tick != row or encode_lines([tick]) != encode_lines([row]):
            stored, read = encode_lines([tick]).decode().strip(), encode_lines([row]).decode().strip()
            raise UnlikeError(f"{stored} reads back as {read}")
