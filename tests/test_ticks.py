"""A stored tick: how its line looks, and that both readers take and refuse the same lines."""

import copy
import json
import re
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.ticks import (
    Depth,
    DepthLevel,
    FullRecord,
    FullTick,
    IndexFullTick,
    IndexQuoteTick,
    LtpRecord,
    LtpTick,
    Ohlc,
    QuoteRecord,
    QuoteTick,
    StoredTick,
    decode_line,
    encode_lines,
    parse_tick,
)

STREAM: dict[str, Any] = {
    "timestamp": "2025-10-01T09:15:23.123456+05:30",
    "connection_id": 1,
    "epoch": 1759290323123,
    "seq": 123,
}
BASE: dict[str, Any] = {"tradable": True, "instrument_token": 738561, "last_price": 1402.35}
DAY: dict[str, Any] = {"ohlc": Ohlc(1400.0, 1410.5, 1391.2, 1399.95), "change": 0.17143469409621515}
TRADES: dict[str, Any] = {
    "last_traded_quantity": 5,
    "average_traded_price": 1401.1,
    "volume_traded": 2**32 - 1,
    "total_buy_quantity": 7,
    "total_sell_quantity": 8,
}
SIDE = tuple(DepthLevel(10 * n, 1400.0 + n, n) for n in range(5))
TICKS: dict[str, StoredTick] = {
    "ltp": LtpTick(**BASE, **STREAM),
    "index quote": IndexQuoteTick(**BASE, **DAY, **STREAM),
    "index full": IndexFullTick(**BASE, **DAY, exchange_timestamp="2025-10-01T09:15:22+05:30", **STREAM),
    "quote": QuoteTick(**BASE, **TRADES, **DAY, **STREAM),
    "full": FullTick(
        **BASE,
        **TRADES,
        **DAY,
        last_trade_time=None,
        oi=1,
        oi_day_high=2,
        oi_day_low=3,
        exchange_timestamp="2025-10-01T09:15:22+05:30",
        depth=Depth(SIDE, SIDE),  # type: ignore[arg-type]  # five of them
        **STREAM,
    ),
}


def line_of(kind: str) -> bytes:
    """Return the stored line of the sample of this kind, with its newline."""
    return encode_lines([TICKS[kind]])


def both_take(line: bytes) -> bool:
    """Return whether a line is taken, which both readers must agree on, and check that they read the same."""
    try:
        tick = decode_line(line)
    except msgspec.DecodeError:
        with pytest.raises(ValidationError):
            parse_tick(line)
        return False
    record = parse_tick(line).model_dump(exclude_unset=True)
    values = msgspec.to_builtins(tick)
    for key in ("timestamp", "exchange_timestamp", "last_trade_time"):
        if values.get(key) is not None:
            values[key] = datetime.fromisoformat(values[key])
    if "depth" in values:
        values["depth"] = {side: list(levels) for side, levels in values["depth"].items()}
    assert record == values
    return True


@pytest.mark.parametrize("kind", TICKS)
def test_line(kind: str) -> None:
    """A tick of each kind becomes one line that ends with its stream and number, and reads back as itself."""
    line = line_of(kind)
    assert re.search(rb'"connection_id":1,"epoch":1759290323123,"seq":123}\n\Z', line)
    assert line.count(b"\n") == 1
    assert decode_line(line) == TICKS[kind]
    assert both_take(line)


def test_lines_follow_each_other() -> None:
    """Several ticks are several lines, in their order."""
    lines = encode_lines(list(TICKS.values())).splitlines(keepends=True)
    assert lines == [line_of(kind) for kind in TICKS]


def test_what_a_user_gets() -> None:
    """The models of the modes have aware datetimes, and None where an index has nothing."""
    full = parse_tick(line_of("full"))
    assert isinstance(full, FullRecord)
    assert full.timestamp.utcoffset() == timedelta(hours=5, minutes=30)
    assert full.exchange_timestamp == datetime.fromisoformat("2025-10-01T09:15:22+05:30")
    assert full.last_trade_time is None
    assert full.depth is not None
    assert full.depth.sell[4].price == 1404.0
    index = parse_tick(line_of("index quote").decode())
    assert isinstance(index, QuoteRecord)
    assert index.ohlc.close == 1399.95
    assert index.volume_traded is None
    assert isinstance(parse_tick(line_of("ltp")), LtpRecord)


WRONG_TIMES = [
    "2025-10-01T09:15:23.123456",  # no offset
    "2025-10-01T09:15:23.123456Z",
    "2025-10-01T09:15:23.123+05:30",
    "2025-10-01 09:15:23.123456+05:30",
    "2025-02-30T09:15:23.123456+05:30",
    "2025-13-01T09:15:23.123456+05:30",
    "2025-10-01T24:15:23.123456+05:30",
    "2025-10-01T09:15:23.123456+24:30",
    "2025-10-01T09:15:23.123456+05:30\n",
    " 2025-10-01T09:15:23.123456+05:30",
    "\u0662025-10-01T09:15:23.123456+05:30",
    "",
    "1759290323",
    1759290323,
    None,
]


@pytest.mark.parametrize("time", WRONG_TIMES)
def test_wrong_times(time: Any) -> None:
    """Only ISO 8601 with offset is a time: with microseconds where we received, without where the exchange did."""
    full = json.loads(line_of("full"))
    assert not both_take(json.dumps(full | {"timestamp": time}).encode())
    if time is not None:
        without_fraction = time.replace(".123456", "") if isinstance(time, str) else time
        for key in ("last_trade_time", "exchange_timestamp"):
            assert not both_take(json.dumps(full | {key: without_fraction}).encode())
            assert not both_take(json.dumps(full | {key: full["timestamp"]}).encode())


@pytest.mark.parametrize("kind", TICKS)
def test_every_field_is_needed(kind: str) -> None:
    """A line lacks none of its fields, has no other, and only the exchange's times may be null."""
    tick = json.loads(line_of(kind))
    assert not both_take(json.dumps(tick | {"extra": 1}).encode())
    for key in tick:
        # Without exchange_timestamp and so on, a full index tick is no quote: the mode says what there must be.
        assert not both_take(json.dumps({k: v for k, v in tick.items() if k != key}).encode())
        nullable = key in ("exchange_timestamp", "last_trade_time")
        assert both_take(json.dumps(tick | {key: None}).encode()) is nullable


@pytest.mark.parametrize("side", ["buy", "sell"])
@pytest.mark.parametrize("levels", [0, 4, 6])
def test_depth_has_five_levels(side: str, levels: int) -> None:
    """Five bids and five offers, no more and no less."""
    tick = json.loads(line_of("full"))
    tick["depth"][side] = (tick["depth"][side] * 2)[:levels]
    assert not both_take(json.dumps(tick).encode())


@pytest.mark.parametrize(
    ("key", "value", "taken"),
    [
        ("connection_id", 0, False),
        ("connection_id", 3, True),
        ("connection_id", 4, False),
        ("seq", 0, False),
        ("seq", 1, True),
        ("epoch", 0, False),
        ("epoch", 2**63, False),
        ("instrument_token", 2**32 - 1, True),
        ("instrument_token", 2**32, False),
        ("volume_traded", -1, False),
        ("volume_traded", 1.0, False),
        ("volume_traded", "1", False),
        ("volume_traded", True, False),
        ("last_price", 5, True),
        ("last_price", -37.63, True),
        ("last_price", "5", False),
        ("tradable", 1, False),
        ("change", 0, True),
        ("mode", "ltp", False),
        ("mode", "FULL", False),
    ],
)
def test_values(key: str, value: Any, taken: bool) -> None:
    """Types are strict and ranges are those of the wire."""
    assert both_take(json.dumps(json.loads(line_of("full")) | {key: value}).encode()) is taken


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"null", b"[]", b"1", b'"ltp"', b"{}", b'{"mode":"ltp"}', b"\xff", b"[" * 9999]
)
def test_foreign_lines(line: bytes) -> None:
    """What is no tick at all is refused like any other error."""
    assert not both_take(line)


@pytest.mark.parametrize("kind", TICKS)
def test_torn_lines(kind: str) -> None:
    """No beginning of a line is a tick, nor is a line with a second one behind it."""
    line = line_of(kind).rstrip()
    assert not any(both_take(line[:end]) for end in range(len(line)))
    assert not both_take(line + line)


values = st.one_of(
    st.sampled_from(
        [*WRONG_TIMES, True, {}, [], 0, -1, 1.5, "quote", "2025-10-01T09:15:23+05:30", 2**32, 2**64, 10**40]
    ),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=30),
    st.datetimes(timezones=st.timezones()).map(lambda time: time.isoformat()),
)


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(sorted(TICKS)), st.data())
def test_readers_agree_on_changed_fields(kind: str, data: st.DataObject) -> None:
    """Whatever value stands in a field, wherever, both readers say the same of the line."""
    tick = copy.deepcopy(json.loads(line_of(kind)))
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = tick
        while True:
            key = data.draw(st.sampled_from(sorted(place))) if isinstance(place, dict) else 0
            if place[key] and isinstance(place[key], dict | list) and data.draw(st.booleans()):
                place = place[key]
                continue
            if data.draw(st.booleans()):
                place[key] = data.draw(values)
            elif len(place) > 1:
                del place[key]
            break
    both_take(json.dumps(tick).encode())


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(sorted(TICKS)), st.data())
def test_readers_agree_on_damaged_bytes(kind: str, data: st.DataObject) -> None:
    """Whatever bytes of a line are changed, both readers say the same of it."""
    line = bytearray(line_of(kind))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(line)))
        line[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    both_take(bytes(line))
