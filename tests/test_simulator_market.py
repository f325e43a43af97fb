"""The pure parts of the simulator: the market, its messages, and the faults."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.protocol import State
from websockets.uri import parse_uri

from pipeline.errors import ConfigError
from pipeline.simulator import faults, market
from pipeline.simulator.frames import encode
from pipeline.simulator.market import INDEX, PACKET_BYTES, SEGMENTS, TRADED, Market, is_known, tokens

NOW_S = 1_760_000_000
SIZES = (8, 28, 32, 44, 184)


def split(message: bytes) -> tuple[list[bytes], bool]:
    """Return the packets of known length in a message up to the first that is not whole, and whether that is all."""
    count, at = int.from_bytes(message[:2], "big"), 2
    found: list[bytes] = []
    for _ in range(count):
        size = int.from_bytes(message[at : at + 2], "big")
        packet = message[at + 2 : at + 2 + size]
        if len(packet) != size or size not in SIZES:
            return found, False
        found.append(packet)
        at += 2 + size
    return found, at == len(message)


def messages_in(data: bytes) -> list[bytes]:
    """Return the payloads of the WebSocket messages in `data`, read by websockets."""
    client = ClientProtocol(parse_uri("ws://localhost"), state=State.OPEN, max_size=None)
    client.receive_data(data)
    return [bytes(event.data) for event in client.events_received()]  # type: ignore[union-attr]  # all are frames


@given(st.lists(st.sampled_from(SIZES), min_size=1, max_size=400), st.integers(1, 450))
def test_messages_carry_every_packet_in_order(lengths, frame_ticks):
    """What a WebSocket client reads are messages of `frame_ticks` packets each, cut to their lengths, none lost."""
    packets = np.frombuffer(np.random.default_rng(1).bytes(len(lengths) * PACKET_BYTES), dtype=f"V{PACKET_BYTES}")
    messages = messages_in(encode(packets, np.array(lengths), frame_ticks).tobytes())
    found = [split(message) for message in messages]
    assert all(whole for _, whole in found)
    assert [len(these) for these, _ in found[:-1]] == [frame_ticks] * (len(found) - 1)
    assert [p for these, _ in found for p in these] == [
        packet.tobytes()[:length] for packet, length in zip(packets, lengths, strict=True)
    ]


def test_message_over_64_kib_has_the_long_header():
    """3,000 full packets go in one message, whose length needs eight bytes."""
    packets = np.zeros(3000, f"V{PACKET_BYTES}")
    (message,) = messages_in(encode(packets, np.full(3000, 184), 3000).tobytes())
    assert len(message) == 2 + 3000 * 186


def walk(seed: int, wanted: list[int]) -> bytes:
    """Return all bytes of a short walk."""
    one = Market(seed)
    rows = one.rows(wanted, NOW_S)
    return one.packets(rows).tobytes() + one.advance(rows, 3, NOW_S + 1).tobytes()


def test_same_seed_same_market():
    """Seed and calls determine every byte; another seed gives another market."""
    assert walk(7, tokens(200)) == walk(7, tokens(200))
    assert walk(7, tokens(200)) != walk(8, tokens(200))


def test_an_instrument_depends_on_seed_and_token_alone():
    """Which instruments were asked for before changes nothing about an instrument's prices of the day."""
    alone, late = Market(7), Market(7)
    late.rows(tokens(50), NOW_S)
    token = tokens(60)[-1:]
    one, other = alone.rows(token, NOW_S), late.rows(token, NOW_S)
    for name in ("open", "close", "lower", "upper", "tick"):
        assert alone.state[name][one] == late.state[name][other]


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_tokens_are_a_fixed_list(one, other):
    """A shorter list is the beginning of a longer one, and no token is there twice or dead."""
    short, long = sorted((tokens(one), tokens(other)), key=len)
    assert long[: len(short)] == short
    assert len(set(long)) == len(long)
    assert all(map(is_known, long))


def test_tokens_go_across_segments():
    """A small universe has shares, derivatives, currencies, commodities and an index."""
    assert {token & 0xFF for token in tokens(30)} == {s.code for name, s in SEGMENTS.items() if name != "mcxsx"}


@pytest.mark.parametrize(
    ("token", "known"),
    [
        (408065, True),
        (738561, True),
        (256265, True),
        (13 << 8 | 1, False),
        ((97 * 5 + 13) << 8 | 9, False),
        (1594 << 8 | 10, False),
        (0, False),
        (-255, False),
        (2**32 + 1, False),
    ],
)
def test_which_tokens_exist(token, known):
    """Known are the tokens of known segments, except the dead ones and what is no unsigned 32-bit number."""
    assert is_known(token) is known


def test_walk_is_plausible():
    """Over thousands of trades prices stay in the day's bounds, on the tick grid, within high and low; volume grows."""
    one = Market(3)
    wanted = [t for t in tokens(400) if t & 0xFF != market.INDEX_CODE]
    rows = one.rows(wanted, NOW_S)
    state = one.state[rows]
    before = one.packets(rows).view(TRADED)
    for turn in range(20):
        trades = one.advance(rows, 50, NOW_S + turn).view(TRADED).reshape(50, len(rows))
        last = trades["last_price"].astype(np.int64)
        assert (state["lower"] <= last).all()
        assert (last <= state["upper"]).all()
        assert (last % state["tick"] == 0).all()
        assert (trades["low"] <= np.minimum(last, trades["open"])).all()
        assert (trades["high"] >= np.maximum(last, trades["open"])).all()
        assert (trades["low"] <= trades["average_traded_price"]).all()
        assert (trades["average_traded_price"] <= trades["high"]).all()
        volume = np.concatenate([before["volume_traded"][None], trades["volume_traded"]]).astype(np.int64)
        assert (np.diff(volume, axis=0) == trades["last_traded_quantity"]).all()
        assert (trades["last_traded_quantity"] > 0).all()
        assert (trades["oi_day_low"] <= trades["oi"]).all()
        assert (trades["oi"] <= trades["oi_day_high"]).all()
        prices = trades["depth"]["price"].astype(np.int64)
        assert (np.diff(prices[..., :5]) < 0).all()
        assert (np.diff(prices[..., 5:]) > 0).all()
        assert (prices > 0).all()
        assert (prices[..., 0] < last).all()
        assert (last < prices[..., 5]).all()
        assert (trades["exchange_timestamp"] == NOW_S + turn).all()
        assert (trades["instrument_token"] == wanted).all()
        before = trades[-1]
    assert (before["high"] > before["low"]).all()
    assert (one.packets(rows).view(TRADED) == before).all()


def test_currencies_have_divisors_of_their_own():
    """A rupee is 10,000,000 units in cds, 10,000 in bcd and nco, 100 elsewhere."""
    one = Market(1)
    wanted = tokens(300)
    last = one.packets(one.rows(wanted, NOW_S)).view(TRADED)["last_price"]
    for token, units in zip(wanted, last, strict=True):
        segment = next(s for s in SEGMENTS.values() if s.code == token & 0xFF)
        assert 0.85 * segment.cheapest < units / segment.divisor < 1.15 * segment.dearest


def test_index_has_its_own_layout():
    """An index has high, low, open, close in this order, the change, and its time at byte 28."""
    one = Market(1)
    rows = one.rows([256265, 260105, 408065], NOW_S)
    packets = one.advance(rows, 500, NOW_S).view(INDEX)
    for packet in packets[[-3, -2]]:
        token, last, high, low, open_, close, change, time_s = struct.unpack(">I6iI", packet.tobytes()[:32])
        assert token in (256265, 260105)
        assert low <= min(last, open_) <= max(last, open_) <= high
        assert low < high
        assert change == last - close
        assert time_s == NOW_S


def test_some_instruments_begin_without_times_or_with_huge_volume():
    """As on Kite, a first snapshot may have 0 for its times, and volumes above 2**31 occur."""
    one = Market(1)
    rows = one.rows([t for t in tokens(1000) if t & 0xFF != market.INDEX_CODE], NOW_S)
    first = one.packets(rows).view(TRADED)
    assert 0 < (first["exchange_timestamp"] == 0).sum() < 200
    assert ((first["exchange_timestamp"] == 0) == (first["last_trade_time"] == 0)).all()
    assert (first["volume_traded"] > 2**31).any()
    assert (one.advance(rows, 1, NOW_S).view(TRADED)["exchange_timestamp"] == NOW_S).all()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("silence:1@5", faults.Fault("silence", 0, 1, 5.0, None)),
        ("silence", faults.Fault("silence", 0, None, 0.0, None)),
        ("silence:*@0.5+10", faults.Fault("silence", 0, None, 0.5, 10.5)),
        ("abort:2@10", faults.Fault("abort", 0, 2, 10.0, None)),
        ("malformed=50:3", faults.Fault("malformed", 50, 3, 0.0, None)),
        ("malformed", faults.Fault("malformed", 100, None, 0.0, None)),
        ("refuse=429@1+30", faults.Fault("refuse", 429, None, 1.0, 31.0)),
        ("refuse", faults.Fault("refuse", 403, None, 0.0, None)),
        ("profile", faults.Fault("profile", 403, None, 0.0, None)),
        ("profile=503@1+2", faults.Fault("profile", 503, None, 1.0, 3.0)),
    ],
)
def test_fault_grammar(text, fault):
    """A fault is kind, value, connection, start and duration; its text form is read back as the same."""
    assert faults.parse(text) == fault
    assert faults.parse(str(fault)) == fault


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "fault '': cannot be read, it has the form KIND"),
        ("Silence", "cannot be read"),
        ("sleep:1", "no fault is called 'sleep', there are silence, abort, malformed, refuse, profile"),
        ("silence:one", "connection is a whole number from 1 on, not 'one'"),
        ("silence:0", "not '0'"),
        ("silence:", "not ''"),
        ("silence:1@soon", "after is a number of seconds, not 'soon'"),
        ("silence=3", "silence takes no value"),
        ("abort:1@5+3", "abort takes no 'for', it takes after, connection"),
        ("refuse:1", "refuse takes no 'connection', it takes after, for, status"),
        ("refuse=404", "a connect is refused with 403 or 429, not 404"),
        ("profile:1", "profile takes no 'connection', it takes after, for, status"),
        ("profile=200", "a profile is refused with 403, 429 or 503, not 200"),
        ("malformed=0", "every is a whole number from 1 on, not '0'"),
    ],
)
def test_fault_grammar_errors(text, message):
    """What cannot be understood is refused in words that name the text and what would be right."""
    with pytest.raises(ConfigError) as error:
        faults.parse(text)
    assert message in str(error.value)


@given(st.text(max_size=30))
def test_fault_grammar_takes_anything(text):
    """Any text is a fault or a ConfigError."""
    try:
        fault = faults.parse(text)
    except ConfigError:
        return
    assert faults.parse(str(fault)) == fault


def test_faults_are_in_force_from_start_to_end():
    """A fault begins and ends at its times, for its connection, and an abort happens once."""
    these = faults.Faults(map(faults.parse, ("silence:1@5+10", "abort:2@3", "refuse@20")))
    assert these.find("silence", 4.9, 1) is None
    assert these.find("silence", 5.0, 1) is not None
    assert these.find("silence", 5.0, 2) is None
    assert these.find("silence", 15.0, 1) is None
    assert these.take_aborts(2.9) == []
    assert [f.connection for f in these.take_aborts(3.0)] == [2]
    assert these.take_aborts(3.1) == []
    assert [str(f) for f in these.pending(16.0)] == ["refuse=403@20"]
    these.clear()
    assert these.pending(21.0) == []


@given(st.lists(st.sampled_from(SIZES), min_size=1, max_size=20), st.integers(0, 100))
def test_damaged_messages_are_damaged_and_counted(lengths, turn):
    """No damaged message is right, and the number of whole packets that it is said to have is what a reader finds."""
    packets = np.frombuffer(np.random.default_rng(1).bytes(len(lengths) * PACKET_BYTES), dtype=f"V{PACKET_BYTES}")
    (message,) = messages_in(encode(packets, np.array(lengths), len(lengths)).tobytes())
    damaged, whole = faults.damage(message, turn)
    if isinstance(damaged, str):
        assert damaged in faults.ODD_TEXTS
        assert whole == 0
    else:
        found, right = split(damaged)
        assert not right
        assert len(found) == whole
        assert found == split(message)[0][:whole]
