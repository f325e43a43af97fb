"""What the simulator has sent, read from its record and made comparable with what is stored.

The record has WebSocket messages as `pipeline.simulator.frames` draws them. It is read with the simulator's layout of
the packets and arithmetic of numpy: nothing of the recorder's decoder takes part.

A digest stands for a tick: 64 bits over every field that is stored of it, by its bits. It does not depend on where the
tick was sent or when it was received. Two ticks that differ in one field have different digests, of more fields with a
likelihood of 1 - 2^-64.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.simulator.market import INDEX, INDEX_CODE, PACKET_BYTES, SEGMENTS, TRADED
from pipeline.store.schema import KEY, KINDS, LEVEL, LEVELS, SIDES, TIMES, Kind, is_kind, schema

Digests = NDArray[np.uint64]

BLOCK_BYTES: Final = 8 * 2**20
US_PER_S: Final = 1_000_000

_BINARY: Final = 0x82  # the first byte of each message
_KINDS: Final[dict[int, Kind]] = {8: "ltp", 28: "index_quote", 32: "index_full", 44: "quote", 184: "full"}
_DIVISORS: Final = np.full(256, 100.0)  # of prices, by segment
for _segment in SEGMENTS.values():
    _DIVISORS[_segment.code] = _segment.divisor


def sent_digests(path: Path) -> Digests:
    """Return the digests of what one socket was sent. Raises ValueError where the file is no such record."""
    found = [digests_of_packets(data, starts, sizes) for data, starts, sizes in _blocks(path)]
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def digests_of_packets(data: bytes, starts: list[int], sizes: bytes) -> Digests:
    """Return the digests of the packets that begin at `starts` in `data`, and have these sizes."""
    raw, places, lengths = np.frombuffer(data, np.uint8), np.array(starts, np.intp), np.frombuffer(sizes, np.uint8)
    digests = np.zeros(len(places), np.uint64)
    for length, kind in _KINDS.items():
        mine = lengths == length
        if mine.any():
            digests[mine] = _hashes(_columns(length, raw, places[mine]), kind)
    return digests


def digests_of_ticks(ticks: pl.DataFrame) -> Digests:
    """Return the digests of stored ticks, with all columns of the schema."""
    digests = np.zeros(ticks.height, np.uint64)
    for kind in KINDS:
        mine = ticks.select(is_kind(kind)).to_series()
        if mine.any():
            digests[mine.to_numpy()] = _hashes(ticks.filter(mine), kind)
    return digests


def packets_in(data: bytes) -> tuple[list[int], bytes, int]:
    """Return where the packets of whole messages begin, their sizes, and where the last whole message ends.

    What is no packet of a known size is passed over, as is what is cut off within a message.
    """
    starts: list[int] = []
    sizes = bytearray()
    at = 0
    while (head := _header(data, at)) is not None and head[1] <= len(data):
        body, end = head
        count = int.from_bytes(data[body : body + 2], "big")
        stride = 2 + int.from_bytes(data[body + 2 : body + 4], "big")
        high, low = data[body + 2 : end : stride], data[body + 3 : end : stride]
        # Mostly all packets of a message have one size, which slices find out without a loop.
        is_uniform = body + 2 + count * stride == end and high == bytes(count) and low == low[:1] * count
        if is_uniform and stride - 2 in _KINDS:
            starts.extend(range(body + 4, end, stride))
            sizes += low
        else:
            place = body + 2
            for _ in range(count):
                size = int.from_bytes(data[place : place + 2], "big")
                if place + 2 + size > end:
                    break
                if size in _KINDS:
                    starts.append(place + 2)
                    sizes.append(size)
                place += 2 + size
        at = end
    return starts, bytes(sizes), at


def _header(data: bytes, at: int) -> tuple[int, int] | None:
    """Return where the payload of the message at `at` begins and ends, None where the header is not whole."""
    if at + 2 > len(data):
        return None
    if data[at] != _BINARY:
        raise ValueError(f"byte {at} of a block is {data[at]:#x}: not a record of what the simulator has sent")
    size, width = data[at + 1], 0
    if size > 125:
        width = 2 if size == 126 else 8
        size = int.from_bytes(data[at + 2 : at + 2 + width], "big")
    body = at + 2 + width
    return (body, body + size) if body <= len(data) else None


def _blocks(path: Path) -> Iterator[tuple[bytes, list[int], bytes]]:
    """Yield bytes of a record, and where in them there are packets; a torn end is left out."""
    rest = b""
    with path.open("rb", buffering=0) as file:
        while read := file.read(BLOCK_BYTES):
            data = rest + read
            starts, sizes, end = packets_in(data)
            rest = data[end:]
            if starts:
                yield data, starts, sizes


@cache
def _layout(length: int) -> dict[str, tuple[np.dtype[Any], int]]:
    """Return type and offset of the fields of a packet that are stored as they are, or divided, by their columns."""
    packet = INDEX if length in {28, 32} else TRADED
    columns = KINDS[_KINDS[length]] - {"change"}  # which is worked out; that of an index packet is not stored
    layout = {name: (packet[name], _offset(packet, name)) for name in packet.names or () if name in columns}
    if length == PACKET_BYTES:
        entry = packet["depth"].base
        levels = [(side, level) for side in SIDES for level in LEVELS]
        for place, (side, level) in enumerate(levels):
            begin = _offset(packet, "depth") + place * entry.itemsize
            for name in LEVEL:
                layout[f"{side}_{name}_{level}"] = entry[name], begin + _offset(entry, name)
    return layout


def _offset(record: np.dtype[Any], name: str) -> int:
    assert record.fields is not None
    return record.fields[name][1]


def _columns(length: int, raw: NDArray[np.uint8], places: NDArray[np.intp]) -> pl.DataFrame:
    """Return packets of one length as they should be stored."""
    types = schema()

    def field(dtype: np.dtype[Any], offset: int) -> NDArray[Any]:
        anywhere: NDArray[Any] = np.ndarray(len(raw) - dtype.itemsize + 1, dtype, raw, 0, (1,))
        return anywhere[places + offset]

    segments = field(np.dtype("u1"), 3)
    divisors = _DIVISORS[segments]
    columns: dict[str, Any] = {"tradable": segments != INDEX_CODE}
    for name, (dtype, offset) in _layout(length).items():
        values = field(dtype, offset)
        if dtype.kind == "i":  # what has a sign is a price
            columns[name] = values / divisors
        elif name in TIMES:
            moments = pl.Series(values.astype(np.int64) * US_PER_S)
            columns[name] = pl.select(pl.when(moments != 0).then(moments)).to_series().cast(types[name])
        else:
            columns[name] = values.astype(dtype.newbyteorder("="))
    if "close" in columns:
        last, close = columns["last_price"], columns["close"]
        change = np.zeros(len(last))
        columns["change"] = np.divide((last - close) * 100, close, out=change, where=close != 0)
    return pl.DataFrame(columns, schema_overrides={name: types[name] for name in columns})


@cache
def _content(kind: Kind) -> list[str]:
    """Return the columns by which ticks of one kind are told apart."""
    return sorted(KINDS[kind] - {"mode", "timestamp", *KEY})


def _hashes(ticks: pl.DataFrame, kind: Kind) -> Digests:
    hashes: Digests = ticks.select(_content(kind)).hash_rows(seed=list(KINDS).index(kind)).to_numpy()
    return hashes
