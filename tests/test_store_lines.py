"""Lines read in bulk are the ticks that the strict reader of single lines takes, with the same values."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store import lines as bulk
from pipeline.store.files import Chunk, Place
from pipeline.store.lines import read_chunk
from pipeline.store.schema import COLUMNS, schema, to_ticks
from pipeline.ticks import StoredTick, decode_line, encode_lines
from tests.stored import KINDS, ZONE, stored_ticks

FILE = Path("market_data_2025-10-01.jsonl")
LINE, OFFSET = 5, 1000  # where the lines stand in it


def read(data: bytes, columns: list[str] | None = None) -> Any:
    """Return what is read of these lines."""
    return read_chunk(Chunk(data, Place(FILE, LINE, OFFSET)), ZONE, columns)


def line_of(tick: StoredTick) -> bytes:
    """Return a tick as its stored line, without the newline."""
    return encode_lines([tick])[:-1]


def in_zone(tick: StoredTick) -> bytes:
    """Return the line of a tick with its times in the storage time zone: an instant is what a column has."""
    return encode_lines(to_ticks(read(encode_lines([tick])).frame))


@given(st.lists(stored_ticks(), max_size=20))
def test_columns_and_back(ticks: list[StoredTick]) -> None:
    """What was stored can be made of its columns again, to the byte."""
    found = read(encode_lines(ticks))
    assert found.bad == []
    assert dict(found.frame.schema) == dict(schema(ZONE))
    assert encode_lines(to_ticks(found.frame)) == encode_lines(ticks)


@given(st.lists(stored_ticks(), min_size=1, max_size=5))
def test_columns_have_the_fields_values(ticks: list[StoredTick]) -> None:
    """A column has its field's value, nested ones too, and null where the mode has no such field."""
    rows = read(encode_lines(ticks)).frame.rows(named=True)
    for row, tick in zip(rows, ticks, strict=True):
        fields = json.loads(line_of(tick))
        fields |= fields.pop("ohlc", {})
        for side, levels in fields.pop("depth", {}).items():
            for number, level in enumerate(levels, start=1):
                for name, value in level.items():
                    fields[f"{'bid' if side == 'buy' else 'ask'}_{name}_{number}"] = value
        assert set(fields) <= set(row) == set(COLUMNS)
        for name, value in row.items():
            precision = "microseconds" if name == "timestamp" else "seconds"
            shown = value.isoformat(timespec=precision) if hasattr(value, "isoformat") else value
            assert shown == fields.get(name), name


@given(stored_ticks(), st.sampled_from(["timestamp", "seq", "ask_orders_5", "open", "mode"]))
def test_columns_that_were_asked_for(tick: StoredTick, name: str) -> None:
    """Only the columns that were asked for are made, in that order."""
    found = read(encode_lines([tick]), [name, "last_price"]).frame
    assert found.columns == [name, "last_price"]
    assert found.schema[name] == schema(ZONE)[name]


ODD: list[Any] = [
    *[None, True, 0, -1, 1.5, 2**32, 2**63, 1e300, "", "x", "5", "quote", [], {}, [1], {"a": 1}],
    *["2025-10-01T09:15:23.123456+05:30", "2025-10-01T09:15:23+05:30", "2025-02-30T09:15:23.123456+05:30"],
    *["2025-10-01T9:15:23.1234567+05:30", "2025-10-01 09:15:23.123456+05:30", "2025-10-01T09:15:23.123456+0530."],
]


@st.composite
def nearly_a_tick(draw: st.DrawFn) -> bytes:  # noqa: C901  a table of cases
    """A line with a field more, fewer, twice, or of another type, or with other bytes."""
    line = line_of(draw(stored_ticks()))
    fields = json.loads(line)
    name: str = draw(st.sampled_from(list(fields)))
    odd = draw(st.sampled_from(ODD))
    match draw(st.sampled_from(["value", "new", "missing", "nested", "level", "twice", "bytes", "cut", "other"])):
        case "value":
            fields[name] = odd
        case "new":
            fields[draw(st.sampled_from(["oi", "depth", "ohlc", "z", "volume_traded", "exchange_timestamp"]))] = odd
        case "missing":
            del fields[name]
        case "nested" if "ohlc" in fields:
            inner = fields[draw(st.sampled_from([name for name in ("ohlc", "depth") if name in fields]))]
            inner[draw(st.sampled_from([*inner, "z"]))] = odd
        case "level" if "depth" in fields:
            level = fields["depth"]["sell"][draw(st.integers(0, 4))]
            level[draw(st.sampled_from([*level, "z"]))] = odd
            if draw(st.booleans()):
                del level[draw(st.sampled_from(list(level)))]
        case "twice":
            return line[:-1] + b',"' + name.encode() + b'":' + json.dumps(fields[name]).encode() + b"}"
        case "bytes":
            place = draw(st.integers(0, len(line) - 1))
            return line[:place] + draw(st.binary(min_size=1, max_size=2)).replace(b"\n", b" ") + line[place + 1 :]
        case "cut":
            return line[: draw(st.integers(0, len(line) - 1))]
        case "other":
            return draw(st.sampled_from([b"", b" ", b"\r", b"\0" * 8, b"null", b"[]", b"{}", b"x"]))
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def taken(line: bytes) -> StoredTick | None:
    """Return the tick of a line as the strict reader has it."""
    try:
        return decode_line(line)
    except (ValueError, RecursionError):
        return None


@settings(max_examples=200)
@given(st.lists(st.one_of(nearly_a_tick(), stored_ticks().map(line_of)), min_size=1, max_size=6))
def test_bad_lines_are_named_and_the_others_read(lines: list[bytes]) -> None:
    """Exactly the lines that the strict reader refuses are named, with line and byte; the others are read."""
    ticks = [taken(line) for line in lines]
    found = read(b"\n".join(lines) + b"\n")
    starts = [OFFSET + sum(len(line) + 1 for line in lines[:index]) for index in range(len(lines))]
    bad = [(LINE + index, starts[index]) for index, tick in enumerate(ticks) if tick is None]
    assert [(line.place.line, line.place.offset) for line in found.bad] == bad
    assert all(line.why for line in found.bad)
    assert encode_lines(to_ticks(found.frame)) == b"".join(in_zone(tick) for tick in ticks if tick is not None)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_prices_are_exact(price: float) -> None:
    """Whatever double a price is, its column has the same."""
    line = encode_lines([KINDS["ltp"]]).replace(b"571.45", json.dumps(price).encode())
    found = read(line).frame["last_price"][0]
    assert found == price
    assert math.copysign(1, found) == math.copysign(1, price)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_read_in_bulk(kind: str) -> None:
    """No kind needs the slow way, alone or beside the others."""
    for ticks in ([KINDS[kind]], [KINDS[kind], *KINDS.values()]):
        assert bulk._at_once(encode_lines(ticks), ZONE, COLUMNS) is not None
