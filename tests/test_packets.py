"""Frames to ticks: equal to the official client bit by bit, and whole on any bytes."""

import json
import struct
from datetime import datetime
from itertools import cycle, islice
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kiteconnect import KiteTicker

from pipeline.days import Calendar
from pipeline.kite.packets import Decoder, Layout, Reject, split, tokens_in
from pipeline.ticks import (
    Depth,
    DepthLevel,
    FullTick,
    IndexFullTick,
    IndexQuoteTick,
    LtpTick,
    Ohlc,
    QuoteTick,
    StoredTick,
    encode_lines,
)

EPOCH = 1759290323123
RECV_NS = 1759290323123456789
TIMESTAMP = "2025-10-01T09:15:23.123456+05:30"
STREAM: dict[str, Any] = {"timestamp": TIMESTAMP, "connection_id": 2, "epoch": EPOCH}

LENGTHS = (8, 28, 32, 44, 184)
SEGMENTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 0, 10, 255)
PRICES = {
    8: (4,),
    28: (4, 8, 12, 16, 20),
    32: (4, 8, 12, 16, 20),
    44: (4, 12, 28, 32, 36, 40),
    184: (4, 12, 28, 32, 36, 40, *range(68, 184, 12)),
}
CLOSE = {28: 20, 32: 20, 44: 40, 184: 40}

official = KiteTicker("key", "token")
calendar = Calendar("Asia/Kolkata")


def framed(*packets: bytes, announced: int | None = None) -> bytes:
    """Return a frame of these packets."""
    count = len(packets) if announced is None else announced
    return struct.pack(">H", count) + b"".join(struct.pack(">H", len(p)) + p for p in packets)


def decoded(frame: bytes, layout: Layout | None = None, first_seq: int = 1) -> list[StoredTick]:
    """Return the ticks of a frame."""
    return Decoder(calendar, 2, EPOCH).decode(frame, layout or split(frame), RECV_NS, first_seq)


def packet(length: int, token: int, content: bytes, *, without_close: bool = False) -> bytes:
    """Return a packet filled with `content` over and over, its prices below 2^31."""
    made = bytearray(struct.pack(">I", token) + bytes(islice(cycle(content or b"\0"), length - 4)))
    for offset in PRICES[length]:
        made[offset] &= 0x7F
    if without_close and length in CLOSE:
        made[CLOSE[length] : CLOSE[length] + 4] = bytes(4)
    return bytes(made)


tokens = st.builds(lambda number, segment: number << 8 | segment, st.integers(0, 2**24 - 1), st.sampled_from(SEGMENTS))


def packets_of(lengths: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    """Return a strategy for packets whose length is one of these."""
    contents = st.one_of(st.binary(max_size=200), st.sampled_from([b"\0", b"\xff", b"\0\0\0\1", b"\x7f\xff\xff\xff"]))
    return st.builds(packet, lengths, tokens, contents, without_close=st.sampled_from([False] * 5 + [True]))


mixed = st.lists(packets_of(st.sampled_from(LENGTHS)), max_size=30)
uniform = st.sampled_from(LENGTHS).flatmap(lambda length: st.lists(packets_of(st.just(length)), max_size=30))
packet_lists = mixed | uniform


def bits(value: Any) -> Any:
    """Return `value` so that only what is equal in type and in every bit compares equal."""
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    return ("float", struct.pack(">d", value)) if isinstance(value, float) else (type(value).__name__, value)


def as_ours(tick: dict[str, Any]) -> dict[str, Any]:
    """Return a tick of the official client with its naive local datetimes as we write times."""
    times = {key: int(value.timestamp()) for key, value in tick.items() if isinstance(value, datetime)}
    return tick | {
        key: datetime.fromtimestamp(second, calendar.zone).isoformat() if second else None
        for key, second in times.items()
    }


def without_stream(tick: dict[str, Any]) -> dict[str, Any]:
    """Return one of our ticks with what the official client has."""
    return {key: value for key, value in tick.items() if key not in ("timestamp", "connection_id", "epoch", "seq")}


@settings(max_examples=2500, deadline=None)
@given(packet_lists)
def test_equal_to_the_official_client(packets: list[bytes]) -> None:
    """Every field has the official parser's type and bits, in the struct and in what is read back from its line."""
    frame = framed(*packets)
    ticks = decoded(frame)
    expected = [bits(as_ours(tick)) for tick in official._parse_binary(frame)]
    assert [bits(without_stream(msgspec.to_builtins(tick))) for tick in ticks] == expected
    assert [bits(without_stream(json.loads(line))) for line in encode_lines(ticks).splitlines()] == expected


NIFTY = 1 << 8 | 9
SHARE = 2885 << 8 | 1
RUPEE = 5 << 8 | 3
BUY = [(10, 95, 1), (20, 90, 2), (30, 85, 3), (40, 80, 4), (2**32 - 1, 75, 2**16 - 1)]
SELL = [(11, 105, 5), (21, 110, 6), (31, 115, 7), (41, 120, 8), (0, 0, 0)]
QUOTE_BODY = "000b4501 0000012c 00000005 0000012b fedcba98 00000007 00000008 0000012d 00000136 00000122 00000064"
FULL_TAIL = "00000000 00000009 0000000a 0000000b 68dca3d3" + "".join(
    struct.pack(">IiH2x", *level).hex() for level in BUY + SELL
)
TRADES: dict[str, Any] = {
    "last_traded_quantity": 5,
    "average_traded_price": 2.99,
    "volume_traded": 0xFEDCBA98,
    "total_buy_quantity": 7,
    "total_sell_quantity": 8,
}
OHLC = Ohlc(open=3.01, high=3.1, low=2.9, close=1.0)
INDEX_BODY = "00000109 0000012c 00000136 00000122 0000012d 00000064 000000c8"
INDEX: dict[str, Any] = {"tradable": False, "instrument_token": NIFTY, "last_price": 3.0, "ohlc": OHLC, "change": 200.0}
VECTORS: dict[str, tuple[str, StoredTick]] = {
    "ltp": (
        "000b4501 0003943f",
        LtpTick(tradable=True, instrument_token=SHARE, last_price=2345.59, **STREAM, seq=7),
    ),
    "ltp, currency": (
        "00000503 32ea9a12",
        LtpTick(tradable=True, instrument_token=RUPEE, last_price=85.4235666, **STREAM, seq=7),
    ),
    "ltp, commodity": (
        "0000010c 0012d687",
        LtpTick(tradable=True, instrument_token=0x10C, last_price=123.4567, **STREAM, seq=7),
    ),
    "index quote": (INDEX_BODY, IndexQuoteTick(**INDEX, **STREAM, seq=7)),
    "index full": (
        INDEX_BODY + "68dca3d3",
        IndexFullTick(**INDEX, exchange_timestamp="2025-10-01T09:15:23+05:30", **STREAM, seq=7),
    ),
    "index full, no time": (INDEX_BODY + "00000000", IndexFullTick(**INDEX, exchange_timestamp=None, **STREAM, seq=7)),
    "quote": (
        QUOTE_BODY,
        QuoteTick(
            tradable=True, instrument_token=SHARE, last_price=3.0, **TRADES, ohlc=OHLC, change=200.0, **STREAM, seq=7
        ),
    ),
    "quote, no close": (
        QUOTE_BODY[:-8] + "00000000",
        QuoteTick(
            tradable=True,
            instrument_token=SHARE,
            last_price=3.0,
            **TRADES,
            ohlc=Ohlc(open=3.01, high=3.1, low=2.9, close=0.0),
            change=0,
            **STREAM,
            seq=7,
        ),
    ),
    "full": (
        QUOTE_BODY + FULL_TAIL,
        FullTick(
            tradable=True,
            instrument_token=SHARE,
            last_price=3.0,
            **TRADES,
            ohlc=OHLC,
            change=200.0,
            last_trade_time=None,
            oi=9,
            oi_day_high=10,
            oi_day_low=11,
            exchange_timestamp="2025-10-01T09:15:23+05:30",
            depth=Depth(
                buy=tuple(DepthLevel(q, p / 100, n) for q, p, n in BUY),  # type: ignore[arg-type]  # five of them
                sell=tuple(DepthLevel(q, p / 100, n) for q, p, n in SELL),  # type: ignore[arg-type]  # five of them
            ),
            **STREAM,
            seq=7,
        ),
    ),
}


@pytest.mark.parametrize("vector", VECTORS)
def test_vectors(vector: str) -> None:
    """These bytes, written by hand from the documentation, are these ticks."""
    wire, tick = VECTORS[vector]
    frame = framed(bytes.fromhex(wire))
    assert decoded(frame, first_seq=7) == [tick]
    if vector == "quote, no close":
        assert b'"change":0,' in encode_lines([tick])  # the client's integer


@pytest.mark.parametrize(
    ("segment", "price"),
    [(1, -0.05), (2, -0.05), (3, -0.0000005), (6, -0.0005), (7, -0.05), (9, -0.05), (12, -0.0005)],
)
def test_negative_prices(segment: int, price: float) -> None:
    """Every price is signed, of every length and segment, and quantities are not."""
    for length in LENGTHS:
        made = bytearray(b"\xff" * length)
        made[0:4] = struct.pack(">I", segment)
        for offset in PRICES[length]:
            made[offset : offset + 4] = struct.pack(">i", -5)
        (tick,) = decoded(framed(bytes(made)))
        assert tick.last_price == price
        if not isinstance(tick, LtpTick):
            assert tick.ohlc == Ohlc(price, price, price, price)
            assert tick.change == 0
        if isinstance(tick, QuoteTick | FullTick):
            assert tick.average_traded_price == price
            assert tick.last_traded_quantity == tick.volume_traded == 2**32 - 1
        if isinstance(tick, FullTick):
            assert {*tick.depth.buy, *tick.depth.sell} == {DepthLevel(2**32 - 1, price, 2**16 - 1)}


def test_numbering() -> None:
    """Ticks are numbered in the order of the packets, also where lengths alternate, and share the receive time."""
    packets = [packet(length, number << 8 | 1, b"\1") for number, length in enumerate([8, 44, 44, 184, 8, 28, 32, 8])]
    ticks = decoded(framed(*packets), first_seq=1000)
    assert [tick.instrument_token >> 8 for tick in ticks] == list(range(8))
    assert [tick.seq for tick in ticks] == list(range(1000, 1008))
    assert {(tick.timestamp, tick.connection_id, tick.epoch) for tick in ticks} == {(TIMESTAMP, 2, EPOCH)}


def test_as_many_packets_as_the_header_can_say() -> None:
    """The number of packets is unsigned."""
    frame = framed(*[packet(8, SHARE, b"\1")] * 65535)
    assert split(frame).count == len(decoded(frame)) == 65535


def test_heartbeat() -> None:
    """A frame of one byte, whatever byte, is a heartbeat and nothing else."""
    assert split(b"\0") == split(b"\xff") == Layout(0, heartbeat=True)
    assert decoded(b"\0") == []


LTP = packet(8, SHARE, b"\1")
QUOTE = packet(44, SHARE, b"\1")
FULL = packet(184, SHARE, b"\1")
CUT = struct.pack(">H", 184) + FULL[:44]


@pytest.mark.parametrize(
    ("frame", "count", "rejects"),
    [
        pytest.param(b"", 0, [(0, "empty frame", b"")], id="empty"),
        pytest.param(b"\0\0", 0, [], id="no packets announced"),
        pytest.param(b"\0\0ab", 0, [(2, "trailing bytes", b"ab")], id="none announced, something there"),
        pytest.param(b"\0\2", 0, [(2, "missing packets", b"")], id="header only"),
        pytest.param(b"\0\1\0", 0, [(2, "truncated header", b"\0")], id="half a length"),
        pytest.param(b"\0\1" + CUT, 0, [(2, "truncated packet", CUT)], id="full packet cut to the length of a quote"),
        pytest.param(framed(LTP)[:-1], 0, [(2, "truncated packet", b"\0\x08" + LTP[:-1])], id="a byte short"),
        pytest.param(framed(LTP, announced=3), 1, [(12, "missing packets", b"")], id="too few"),
        pytest.param(framed(LTP, LTP, announced=3) + b"\0", 2, [(22, "truncated header", b"\0")], id="cut in a length"),
        pytest.param(framed(LTP, QUOTE, announced=1), 1, [(12, "trailing bytes", b"\0\x2c" + QUOTE)], id="too many"),
        pytest.param(framed(LTP) + b"x", 1, [(12, "trailing bytes", b"x")], id="a byte more"),
        pytest.param(
            framed(LTP, b"u" * 50, QUOTE),
            2,
            [(12, "unknown packet length 50", b"\0\x32" + b"u" * 50)],
            id="unknown between known",
        ),
        pytest.param(
            framed(b"", QUOTE, b"123"),
            1,
            [(2, "unknown packet length 0", b"\0\0"), (50, "unknown packet length 3", b"\0\x03123")],
            id="unknown first and last",
        ),
        pytest.param(
            framed(b"u", QUOTE) + b"zz",
            1,
            [(2, "unknown packet length 1", b"\0\1u"), (51, "trailing bytes", b"zz")],
            id="two faults",
        ),
        pytest.param(
            framed(QUOTE, announced=9) + b"\xff\xff" + LTP,
            1,
            [(48, "truncated packet", b"\xff\xff" + LTP)],
            id="length is unsigned",
        ),
        pytest.param(framed(b"u" * 50), 0, [(2, "unknown packet length 50", b"\0\x32" + b"u" * 50)], id="all unknown"),
    ],
)
def test_rejects(frame: bytes, count: int, rejects: list[tuple[int, str, bytes]]) -> None:
    """What is no whole packet of a known length is returned with its reason, and the others are kept."""
    layout = split(frame)
    assert (layout.count, layout.rejects) == (count, [Reject(*reject) for reject in rejects])
    assert not layout.heartbeat
    assert len(decoded(frame, layout)) == count


@given(packet_lists, st.data())
def test_unknown_packets_do_not_touch_the_others(packets: list[bytes], data: st.DataObject) -> None:
    """Packets of unknown length can stand anywhere between the others, whose ticks are the same as without them."""
    unknown = data.draw(st.lists(st.binary(max_size=60).filter(lambda raw: len(raw) not in LENGTHS), max_size=5))
    everything = list(packets)
    for raw in unknown:
        everything.insert(data.draw(st.integers(0, len(everything))), raw)
    layout = split(framed(*everything))
    assert sorted(reject.raw[2:] for reject in layout.rejects) == sorted(unknown)
    assert decoded(framed(*everything), layout) == decoded(framed(*packets))


def whole_packets(frame: bytes) -> list[tuple[int, int]]:
    """Return where the packets begin that are to be accepted, and their lengths."""
    found = []
    at = 2
    for _ in range(int.from_bytes(frame[:2], "big")):
        length = int.from_bytes(frame[at : at + 2], "big")
        if at + 2 + length > len(frame):
            break
        if length in LENGTHS:
            found.append((at, length))
        at += 2 + length
    return found


def check_layout(frame: bytes) -> None:
    """Check that the packets are the right ones, and that header, packets and rejects are the frame, each byte once."""
    layout = split(frame)
    accepted = [(at, run.length) for run in layout.runs for at in range(run.start, run.end, run.length + 2)]
    assert accepted == whole_packets(frame)
    parts = [(reject.offset, reject.raw) for reject in layout.rejects]
    parts += [(run.start, frame[run.start : run.end]) for run in layout.runs]
    whole = frame[:2]
    for offset, raw in sorted(parts):
        assert offset == len(whole)
        whole += raw
    assert whole == frame
    assert layout.count == len(accepted)
    assert layout.heartbeat == (len(frame) == 1)
    assert len(encode_lines(decoded(frame, layout)).splitlines()) == layout.count
    assert split(bytes(bytearray(frame))) == layout


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes(frame: bytes) -> None:
    """No bytes make it raise, and none of them get lost."""
    check_layout(frame)


@settings(max_examples=1000, deadline=None)
@given(packet_lists, st.data())
def test_damaged_frames(packets: list[bytes], data: st.DataObject) -> None:
    """Frames that are cut, lengthened or changed anywhere keep their whole packets, and no byte gets lost."""
    frame = bytearray(framed(*packets))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame)))
        match data.draw(st.sampled_from(["set", "cut", "remove", "insert"])):
            case "set":
                frame[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del frame[at:]
            case "remove":
                del frame[at : at + data.draw(st.integers(1, 50))]
            case "insert":
                frame[at:at] = data.draw(st.binary(max_size=50))
    check_layout(bytes(frame))


@pytest.mark.parametrize("lengths", [(28, 32, 44, 8), (32, 44, 44, 8), (8, 10, 6, 8)])
def test_lengths_that_add_up_as_if_all_were_the_first(lengths: tuple[int, ...]) -> None:
    """Packets of several lengths are told apart, also where the frame is as long as with one length for all."""
    frame = framed(*(bytes(length) for length in lengths))
    assert len(frame) == 2 + len(lengths) * (lengths[0] + 2)
    check_layout(frame)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("number", [1, 2, 3, 40])
def test_one_wrong_length_in_a_uniform_frame(length: int, number: int) -> None:
    """A length that is wrong in either byte is noticed at any place of a frame whose other packets are all alike."""
    good = framed(*[packet(length, 0, struct.pack(">H", length))] * number)
    check_layout(good)
    for place in range(2, len(good), length + 2):
        for at, value in ((place, 1), (place + 1, length + 1), (place + 1, 8)):
            bad = bytearray(good)
            bad[at] = value
            check_layout(bytes(bad))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("number", [63, 64, 65, 127, 128, 129, 193])
@pytest.mark.parametrize("announced_too_many", [0, 1])
def test_long_runs_in_a_mixed_frame(length: int, number: int, announced_too_many: int) -> None:
    """A run of any length between others is one run, and the packets that follow it are found."""
    other = 44 if length != 44 else 8
    lengths = [other, *[length] * number, other, other]
    frame = framed(*map(bytes, lengths), announced=len(lengths) + announced_too_many)
    check_layout(frame)
    layout = split(frame)
    assert [(run.length, (run.end - run.start) // (run.length + 2)) for run in layout.runs] == [
        (other, 1),
        (length, number),
        (other, 2),
    ]
    assert [reject.reason for reject in layout.rejects] == ["missing packets"] * announced_too_many


@given(st.lists(st.tuples(st.sampled_from(LENGTHS), tokens), max_size=9), st.binary(max_size=9))
def test_the_instruments_of_a_frame(found, rubbish):
    """Those of all whole packets, whatever their lengths, and nothing of what follows them."""
    frame = framed(*(packet(length, token, b"\1") for length, token in found), announced=len(found)) + rubbish
    assert tokens_in(frame, split(frame)) == {token for _, token in found}
