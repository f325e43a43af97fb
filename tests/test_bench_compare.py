"""What was sent against what is stored: equal exactly where each tick is stored once, in order, to the last bit."""

import json
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.rig import sent
from bench.rig.compare import Comparison, compare, difference, owners
from bench.rig.sent import Digests, digests_of_packets, digests_of_ticks, packets_in, sent_digests
from pipeline.simulator.frames import header
from pipeline.store.files import Chunk, Place
from pipeline.store.lines import read_chunk
from pipeline.store.schema import TIMEZONE
from pipeline.wire import StreamId
from tests.test_packets import EPOCH, LENGTHS, as_ours, framed, official, packet, packet_lists

SENT = (Path("connection-1.sent"), Path("connection-2.sent"))
FILE = "market_data_2025-10-01.jsonl"
TIMESTAMP = "2025-10-01T09:15:23.123456+05:30"

numbers = st.lists(st.integers(0, 12), max_size=30)  # for digests, so that many are alike


def message(*packets: bytes) -> bytes:
    """Return packets as one message of the record."""
    frame = framed(*packets)
    return header(len(frame)) + frame


def stored(packets: Sequence[bytes], connection_id: int = 1, first_seq: int = 1) -> list[dict[str, Any]]:
    """Return what is stored of packets, as the official client understands them."""
    ticks = [as_ours(tick) for frame in map(framed, packets) for tick in official._parse_binary(frame)]
    tail = {"timestamp": TIMESTAMP, "connection_id": connection_id, "epoch": EPOCH}
    return [tick | tail | {"seq": seq} for seq, tick in enumerate(ticks, first_seq)]


def lines(ticks: Sequence[dict[str, Any]]) -> bytes:
    """Return ticks as the lines of a file."""
    return b"".join(json.dumps(tick).encode() + b"\n" for tick in ticks)


def digests_of_lines(data: bytes) -> list[int]:
    """Return the digests of stored lines."""
    ticks, bad = read_chunk(Chunk(data, Place(Path(FILE), 1, 0)), TIMEZONE)
    assert not bad
    return list(map(int, digests_of_ticks(ticks)))


def digests_sent(packets: Sequence[bytes]) -> list[int]:
    """Return the digests of packets that were sent in one message."""
    data = message(*packets)
    starts, sizes, end = packets_in(data)
    assert end == len(data)
    return list(map(int, digests_of_packets(data, starts, sizes)))


def digests(*some: int) -> Digests:
    """Return numbers as digests."""
    return np.array(some, np.uint64)


@settings(max_examples=150)
@given(packet_lists)
def test_what_the_official_client_understands_has_the_digest_of_what_was_sent(packets: list[bytes]) -> None:
    """That is so of packets of every length and segment, with its values as `json` writes them."""
    assert digests_of_lines(lines(stored(packets))) == digests_sent(packets)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where in a tick there are values."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield path


def altered(value: Any) -> Any:
    """Return a value that differs as little as can be."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value ^ 1
    if isinstance(value, float):
        return float(np.nextafter(value, np.inf))
    if value is None:
        return "1970-01-01T05:30:01+05:30"
    last = value[18]  # of the seconds
    return value[:18] + str(int(last) ^ 1) + value[19:]


@settings(max_examples=40)
@given(packet_lists.filter(bool), st.data())
def test_every_field_that_is_stored_counts(packets: list[bytes], data: st.DataObject) -> None:
    """A tick of which one value differs by one bit has another digest, and those around it keep theirs."""
    ticks = stored(packets)
    place = data.draw(st.integers(0, len(ticks) - 1))
    fixed = {("mode",), ("timestamp",), ("connection_id",), ("epoch",), ("seq",)}
    *path, last = data.draw(st.sampled_from([path for path in leaves(ticks[place]) if path not in fixed]))
    owner: Any = ticks[place]
    for key in path:
        owner = owner[key]
    owner[last] = altered(owner[last])
    unlike = [one != other for one, other in zip(digests_of_lines(lines(ticks)), digests_sent(packets), strict=True)]
    assert unlike == [number == place for number in range(len(packets))]


@pytest.mark.parametrize("length", LENGTHS)
def test_values_that_change_places_are_noticed(length: int) -> None:
    """No two fields of a packet can be swapped unnoticed."""
    whole = packet(length, 2885 << 8 | 1, bytes(range(1, 200)))
    words = range(4, min(length, 64) - 3, 4)
    swapped = {whole}
    for one in words:
        for other in words:
            made = bytearray(whole)
            made[one : one + 4], made[other : other + 4] = whole[other : other + 4], whole[one : one + 4]
            if not {one, other} & ({24} if length in {28, 32} else set()):  # of an index: the change, not stored
                swapped.add(bytes(made))
    assert len(set(digests_sent(sorted(swapped)))) == len(swapped)


def test_what_is_not_stored_does_not_count() -> None:
    """The change of price of an index packet is not stored, nor is the padding of the depth."""
    index, full = (packet(length, 1 << 8 | 9, b"\1") for length in (28, 184))
    other_index, other_full = index[:24] + b"\7\7\7\7" + index[28:], full[:74] + b"\7\7" + full[76:]
    assert digests_sent([index, full]) == digests_sent([other_index, other_full])


@settings(max_examples=200)
@given(st.lists(packet_lists, max_size=6), st.data())
def test_a_record_is_read_up_to_where_it_is_torn(messages: list[list[bytes]], data: st.DataObject) -> None:
    """Packets of whole messages are found, whatever their lengths, and the rest waits for more bytes."""
    written = [message(*packets) for packets in messages]
    record = b"".join(written)
    cut = data.draw(st.integers(0, len(record)))
    ends = [0, *accumulate(map(len, written))]
    whole = sum(end <= cut for end in ends) - 1
    starts, sizes, end = packets_in(record[:cut])
    found = [record[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    assert found == [one for packets in messages[:whole] for one in packets]
    assert end == ends[whole]


@pytest.mark.parametrize("number", [1, 2, 20, 400, 3000])
def test_messages_of_every_size_are_read(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their header has one, three or nine bytes for the length; where the blocks of reading end does not matter."""
    packets = [packet(44, 2885 << 8 | 1, struct.pack(">I", place)) for place in range(number)]
    (path := tmp_path / SENT[0]).write_bytes(message(*packets) * 3 + message(*packets)[:-1])
    monkeypatch.setattr(sent, "BLOCK_BYTES", 1000)
    assert sent_digests(path).tolist() == digests_sent(packets) * 3


def test_a_damaged_message_does_not_hide_those_behind_it() -> None:
    """Packets of unknown length are passed over, and so is what is cut off within its message."""
    quote, ltp = packet(44, 1 << 8 | 1, b"\1"), packet(8, 1 << 8 | 1, b"\1")
    unknown, cut = message(quote, bytes(50), ltp), framed(quote, quote)[:-1]
    data = unknown + header(len(cut)) + cut + header(1) + b"\0" + message(ltp)
    starts, sizes, end = packets_in(data)
    assert [data[start : start + size] for start, size in zip(starts, sizes, strict=True)] == [quote, ltp, quote, ltp]
    assert end == len(data)


def test_what_is_no_record_is_refused() -> None:
    """Bytes that do not begin a message are not read as one."""
    with pytest.raises(ValueError, match="not a record"):
        packets_in(message(packet(8, 1, b"\1")) + b"\1\2\3")


@given(numbers, numbers)
def test_lost_repeated_and_foreign_ticks_are_counted(was_sent: list[int], is_stored: list[int]) -> None:
    """They are the differences of what there is of each tick, however often it occurs."""
    found = difference([digests(*was_sent)], digests(*is_stored))
    wanted, there = Counter(was_sent), Counter(is_stored)
    surplus = there - wanted
    assert (found.sent, found.stored) == (len(was_sent), len(is_stored))
    assert found.lost == (wanted - there).total()
    assert found.repeated == sum(count for tick, count in surplus.items() if tick in wanted)
    assert found.foreign == sum(count for tick, count in surplus.items() if tick not in wanted)
    assert found.is_equal == (was_sent == is_stored)


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)))
def test_ticks_behind_a_later_one_are_out_of_order(order: list[int], lost: set[int], twice: set[int]) -> None:
    """What is lost or repeated does not put the others out of order."""
    is_stored = [copy for tick in order if tick not in lost for copy in [tick] * (1 + (tick in twice))]
    found = difference([digests(*range(12))], digests(*is_stored))
    kept = [tick for tick in order if tick not in lost | twice]
    latest = accumulate(kept, max)
    assert found.out_of_order == sum(tick < most for tick, most in zip(kept, latest, strict=True))
    assert (found.lost, found.repeated) == (len(lost), len(twice - lost))


@given(st.lists(numbers, min_size=1, max_size=4), st.data())
def test_what_a_socket_had_on_its_way_is_cut_off(sockets: list[list[int]], data: st.DataObject) -> None:
    """Of what is lost, the ticks at the end of each socket are told apart; one from the middle is none of them."""
    unlike = [[place * 1000 + number for number in range(len(socket))] for place, socket in enumerate(sockets)]
    kept = [data.draw(st.integers(0, len(socket))) for socket in unlike]
    is_stored = [tick for socket, number in zip(unlike, kept, strict=True) for tick in socket[:number]]
    found = difference([digests(*socket) for socket in unlike], digests(*is_stored))
    assert found.cut_off == found.lost == sum(map(len, unlike)) - len(is_stored)
    if kept[0] > 1:
        found = difference([digests(*socket) for socket in unlike], digests(*is_stored[1:]))
        assert found.cut_off == found.lost - 1


def test_sockets_belong_to_the_stream_that_has_their_ticks() -> None:
    """Whatever the order: a worker that came after another, one that reconnected, and ticks that are often alike."""
    prices = np.random.default_rng(1).integers(0, 5, (4, 1000)).astype(np.uint64)  # of one instrument, in ltp mode
    first, second, other = StreamId(1, 100), StreamId(1, 200), StreamId(2, 100)
    streams = {first: prices[0, :900], second: np.concatenate([prices[1, :20], prices[3]]), other: prices[2, 5:]}
    assert owners([*prices, digests(*range(100, 200))], streams) == [first, second, other, second, None]
    assert owners([prices[0]], {}) == [None]


def test_short_sockets_and_streams_find_each_other() -> None:
    """A few ticks are enough, of a socket or of what is stored of it; what two were sent alike is one's each."""
    one, two = StreamId(1, 100), StreamId(3, 100)
    assert owners([digests(1, 2), digests(*range(10, 99))], {one: digests(10, 11), two: digests(1)}) == [two, one]
    snapshot = digests(*range(1000))
    assert owners([snapshot, snapshot], {one: snapshot, two: snapshot[:990]}) == [one, one]
    assert owners([snapshot, snapshot], {one: snapshot, two: snapshot}) == [one, two]


class Ground:
    """A record of two sockets and a data folder with what is stored of it, to be spoiled."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "market_data"
        self.data_dir.mkdir()
        self.sent_files = [folder / name for name in SENT]
        contents = [struct.pack(">I", number) for number in range(60)]
        packets = [packet(LENGTHS[place % 5], 2885 << 8 | 1, content) for place, content in enumerate(contents)]
        self.ticks = stored(packets[:30], connection_id=1) + stored(packets[30:], connection_id=2)
        for path, mine in zip(self.sent_files, (packets[:30], packets[30:]), strict=True):
            path.write_bytes(message(*mine[:10]) + b"".join(map(message, mine[10:])))

    def compared(self, more: bytes = b"") -> Comparison:
        """Store the ticks as they are now, the last ones on the next day, and compare."""
        (self.data_dir / FILE).write_bytes(lines(self.ticks[:50]))
        (self.data_dir / FILE.replace("-01.", "-02.")).write_bytes(lines(self.ticks[50:]) + more)
        return compare(self.sent_files, self.data_dir)


@pytest.fixture
def ground(tmp_path):
    """Return two sockets, and what is stored of them."""
    return Ground(tmp_path)


def test_what_is_stored_as_it_was_sent_is_equal(ground):
    """Nothing is found, though connections are mixed in the files, a day ends, and a socket was cut in a message."""
    ground.ticks = [tick for pair in zip(ground.ticks[:30], ground.ticks[30:], strict=True) for tick in pair]
    with ground.sent_files[1].open("ab") as file:
        file.write(message(packet(44, 1, b"\1"))[:-1])
    assert ground.compared() == Comparison(sent=60, stored=60)
    assert ground.compared().is_equal


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda ticks: ticks.pop(5), Comparison(60, 59, lost=1)),
        (lambda ticks: ticks.insert(9, ticks[5]), Comparison(60, 61, repeated=1)),
        (lambda ticks: ticks.insert(9, ticks.pop(5)), Comparison(60, 60, out_of_order=1)),
        (lambda ticks: ticks[7].update(last_price=0.01), Comparison(60, 60, lost=1, foreign=1)),
        (lambda ticks: ticks[7].update(connection_id=2), Comparison(60, 60, lost=1, foreign=1)),
        (lambda ticks: ticks.__delitem__(slice(30, 60)), Comparison(60, 30, lost=30, cut_off=30)),
        (lambda ticks: ticks.__delitem__(slice(25, 30)), Comparison(60, 55, lost=5, cut_off=5)),
        (lambda ticks: ticks.clear(), Comparison(60, 0, lost=60, cut_off=60)),
    ],
)
def test_what_is_spoiled_is_found(ground, spoil, expected):
    """A tick that is dropped, repeated, moved, altered, of the wrong connection, or a connection that is missing."""
    spoil(ground.ticks)
    found = ground.compared()
    assert found == expected
    assert not found.is_equal


def test_a_line_that_is_no_tick_is_foreign(ground):
    """So is a torn one."""
    assert ground.compared(b'{"mode":"ltp"}\nnonsense\n{"mode":"lt') == Comparison(60, 63, foreign=3)
