"""Rows are proved to be the ticks of lines: whatever is different is found, whatever is the same is not refused."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store.files import Chunk, Place
from pipeline.store.lines import read_chunk
from pipeline.store.parquet.proof import UnlikeError, prove
from pipeline.store.schema import COLUMNS
from pipeline.ticks import encode_lines
from tests.stored import FIRST, KINDS, ZONE, stored_ticks, tick_at

TICKS = [
    tick_at(FIRST + timedelta(milliseconds=n), kind, seq=n + 1, instrument_token=100 + n % 3)
    for n in range(4)
    for kind in KINDS
]
TICKS.append(tick_at(FIRST, "full", seq=5, instrument_token=100, last_trade_time="2025-10-01T09:15:22+05:30"))


def chunk(data: bytes) -> Chunk:
    """Return lines as they are read."""
    return Chunk(data, Place(Path("market_data_2025-10-01.jsonl"), 1, 0))


def rows_of(data: bytes) -> pl.DataFrame:
    """Return lines as columns, as they are stored."""
    return read_chunk(chunk(data), ZONE).frame.sort("instrument_token", maintain_order=True)


LINES = encode_lines(TICKS)
ROWS = rows_of(LINES)


def test_the_same() -> None:
    """In one chunk or in several."""
    lines = LINES.splitlines(keepends=True)
    assert prove(ROWS, [chunk(LINES)]) == []
    assert prove(ROWS, [chunk(line) for line in lines]) == []


@settings(max_examples=60)
@given(st.lists(stored_ticks(), max_size=10))
def test_any_ticks(ticks: list[Any]) -> None:
    """Extreme values too, in whatever way they are spelled; a time in another zone is told."""
    data = encode_lines(ticks)
    rows = rows_of(data)
    offsets = [tick.timestamp[26:] for tick in ticks]
    if all(offset == "+05:30" for offset in offsets):
        assert prove(rows, [chunk(data)]) == []
    else:
        with pytest.raises(UnlikeError):
            prove(rows, [chunk(data)])


@pytest.mark.parametrize("name", COLUMNS)
def test_any_changed_value_is_found(name: str) -> None:
    """In any column, of a single row."""
    column = ROWS[name]
    row = int(column.is_not_null().arg_max() or 0)
    other: Any = {"mode": "full", "tradable": False}.get(name)
    if other is None:
        other = column[row] + (timedelta(seconds=1) if column.dtype.is_temporal() else 1)
    changed = ROWS.with_columns(
        pl.when(pl.int_range(pl.len()) == row)
        .then(pl.lit(other).cast(column.dtype))
        .otherwise(pl.col(name))
        .alias(name)
    )
    assert not changed.equals(ROWS)
    with pytest.raises(UnlikeError):
        prove(changed, [chunk(LINES)])


@pytest.mark.parametrize("name", ["last_price", "oi", "timestamp", "bid_orders_5", "mode"])
def test_a_value_that_is_missing_is_found(name: str) -> None:
    """Null where there was one."""
    with pytest.raises(UnlikeError):
        prove(ROWS.with_columns(pl.lit(None).cast(ROWS.schema[name]).alias(name)), [chunk(LINES)])


@pytest.mark.parametrize("name", ["high", "oi", "last_trade_time", "bid_orders_5"])
def test_a_value_too_much_is_found(name: str) -> None:
    """One where such a tick has none: it does not show in its line."""
    with pytest.raises(UnlikeError):
        prove(ROWS.with_columns(pl.col(name).fill_null(ROWS[name].drop_nulls()[0])), [chunk(LINES)])


def test_zero_has_a_sign() -> None:
    """0.0 and -0.0 are equal numbers, and different ticks."""
    rows = rows_of(encode_lines([tick_at(FIRST, last_price=0.0)]))
    with pytest.raises(UnlikeError):
        prove(rows, [chunk(encode_lines([tick_at(FIRST, last_price=-0.0)]))])


@pytest.mark.parametrize(
    "rows",
    [
        ROWS.slice(1),
        ROWS.head(-1),
        ROWS.clear(),
        pl.concat([ROWS, ROWS.head(1)]),
        pl.concat([ROWS.slice(1, 1), ROWS.head(1), ROWS.slice(2)]),
        ROWS.reverse(),
    ],
    ids=["first", "last", "all", "twice", "swapped", "reversed"],
)
def test_rows_that_are_missing_repeated_or_elsewhere_are_found(rows: pl.DataFrame) -> None:
    """Each tick once, and those of an instrument in the order of the lines."""
    with pytest.raises(UnlikeError):
        prove(rows, [chunk(LINES)])


@pytest.mark.parametrize(
    "line",
    [b"", b"hello", b"{}", b'"\xff"', b'{"instrument_token":100}', LINES.splitlines()[0][:-5]],
    ids=["empty", "text", "object", "not utf-8", "no tick", "cut"],
)
def test_lines_that_are_no_ticks_are_named(line: bytes) -> None:
    """They have no row, and are told with their place."""
    lines = LINES.splitlines(keepends=True)
    lines.insert(2, line + b"\n")
    [bad] = prove(ROWS, [chunk(b"".join(lines))])
    assert (bad.place.line, bad.place.offset) == (3, len(b"".join(lines[:2])))
    assert bad.why


def test_other_spellings_are_the_same_tick() -> None:
    """Blanks, another order of fields, escapes: what counts is the tick."""
    line = encode_lines([tick_at(FIRST, last_price=100.0, instrument_token=100)])
    for other in (
        line.replace(b":", b": ", 1),
        line.replace(b"100.0", b"1e2"),
        line.replace(b'"quote"', b'"qu\\u006fte"'),
        b'{"seq"' + line.rsplit(b'"seq"', 1)[1].rstrip(b"}\n") + b"," + line[1:].rsplit(b',"seq"', 1)[0] + b"}\n",
    ):
        assert other != line
        assert prove(rows_of(line), [chunk(other)]) == []


def test_another_zone_is_told() -> None:
    """With what to set: the text of a time cannot be made again from an instant."""
    line = encode_lines([tick_at(FIRST)]).replace(b"+05:30", b"+05:00")
    with pytest.raises(UnlikeError, match=r"storage\.timezone"):
        prove(rows_of(line), [chunk(line)])
