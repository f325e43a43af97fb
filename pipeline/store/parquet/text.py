"""Columns -> JSON lines of ticks, in bulk: the way back from `lines`. Pure.

The recorder's own encoder makes a line of a tick at a time. Here polars writes those of all rows of a kind at once,
byte for byte as the recorder does; only floats of unusual size it may spell in another way, with the same value.
"""

import io
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.store.schema import COLUMNS, KINDS, LEVELS, OHLC, SIDES, TIMES, Kind, is_kind

_FORMS: Final = dict.fromkeys(TIMES, "%Y-%m-%dT%H:%M:%S%:z") | {"timestamp": "%Y-%m-%dT%H:%M:%S%.6f%:z"}
_FIELDS: Final = ("quantity", "price", "orders")  # of a level, as they are stored
_DEPTH: Final = "depth"


def to_lines(frame: pl.DataFrame) -> pl.Series:
    """Return the rows of a frame that has all columns as stored lines with their newlines, in their order.

    Raises ValueError where a row is no tick.
    """
    numbered = frame.with_row_index("row")
    made = [_of_kind(part, kind) for kind in KINDS if (part := numbered.filter(is_kind(kind))).height]
    lines = pl.concat(made).sort("row")["line"] if made else pl.Series("line", [], pl.String())
    if len(lines) != frame.height:
        raise ValueError(f"{frame.height - len(lines)} rows are no ticks")
    return lines


def split(data: bytes | memoryview) -> pl.Series | None:
    """Return whole lines, each with its newline; None where they are not UTF-8."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    offsets = np.zeros(len(ends) + 1, np.int64)
    offsets[1:] = ends + 1
    lines = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(data))
    try:
        lines.validate(full=True)
    except pa.ArrowInvalid:
        return None
    return pl.Series("line", lines)


def _of_kind(rows: pl.DataFrame, kind: Kind) -> pl.DataFrame:
    has = KINDS[kind]
    others = [name for name in COLUMNS if name not in has]
    unlike = sum(rows.select(pl.col(others).count()).row(0)) if others else 0
    unlike += sum(rows.select(pl.col([name for name in has if name not in TIMES]).null_count()).row(0))
    if unlike:
        raise ValueError(f"rows of {kind} have other columns than such ticks")
    columns: list[pl.Expr] = []
    for name in COLUMNS:
        if name not in has:
            continue
        if name == OHLC[0]:
            columns.append(pl.struct(OHLC).alias("ohlc"))
        elif name in _FORMS:
            columns.append(pl.col(name).dt.to_string(_FORMS[name]))
        elif name == "bid_price_1":
            columns.append(pl.struct(SIDES.values()).alias(_DEPTH))
        elif name not in OHLC and name[:4] not in ("bid_", "ask_"):
            columns.append(pl.col(name))
    if "bid_price_1" in has:
        rows = rows.with_columns(_levels(rows, side) for side in SIDES)
    written = io.BytesIO()
    rows.select(columns).write_ndjson(written)
    lines = split(written.getbuffer())
    if lines is None:
        raise AssertionError("polars writes what is not UTF-8")
    return pl.DataFrame([rows["row"], lines])


def _levels(rows: pl.DataFrame, side: str) -> pl.Series:
    """Return the five levels of a side as lists; polars' own way to make these is ten times as slow."""
    fields = [
        np.stack([rows[f"{side}_{name}_{level}"].to_numpy() for level in LEVELS], axis=1).ravel() for name in _FIELDS
    ]
    levels = pa.StructArray.from_arrays([pa.array(values) for values in fields], names=list(_FIELDS))
    return pl.Series(SIDES[side], pa.FixedSizeListArray.from_arrays(levels, len(LEVELS)))
