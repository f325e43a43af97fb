"""Records of a spool: what a frame or an event looks like on disk. Pure.

A segment of a spool is a row of records; all integers little-endian:

     0  4s   "MDR1"
     4  u32  crc32 of all that follows
     8  u32  length of the payload
    12  u8   kind: frame, event, segment, idle, wanted
    16  u32  numbered: ticks accepted from the frame, 1 for an event
    20  u64  first_seq: of these ticks; of an event its event_seq
    28  u64  recv_ns
    36       payload: the raw frame, or the event's JSON line
"""

import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import msgspec

from pipeline.wire import Mark

MAGIC = b"MDR1"

_SEAL = struct.Struct("<4sI")
_FIELDS = struct.Struct("<IB3xIQQ")
_STATE = struct.Struct("<Q")  # payload of a segment record: event_seq; its seq and recv_ns are in the header
HEADER_BYTES = _SEAL.size + _FIELDS.size
SEGMENT_RECORD_BYTES = HEADER_BYTES + _STATE.size


class Kind(IntEnum):
    """What a record holds."""

    FRAME = 0
    EVENT = 1
    SEGMENT = 2
    IDLE = 3  # from here on the connection has no instruments: nothing can be missed
    WANTED = 4  # from here on it has, and misses something since `recv_ns`: no frame came yet, or not of all of them


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record, see the layout above."""

    kind: int
    first_seq: int
    numbered: int  # accepted ticks of a frame, 1 for an event
    recv_ns: int
    payload: bytes


class Damage(NamedTuple):
    """Bytes `start` to `end` of a segment are no records."""

    start: int
    end: int


def encode_record(kind: int, first_seq: int, numbered: int, recv_ns: int, payload: bytes) -> bytes:
    """Return one record as bytes."""
    fields = _FIELDS.pack(len(payload), kind, numbered, first_seq, recv_ns)
    return b"".join((_SEAL.pack(MAGIC, zlib.crc32(payload, zlib.crc32(fields))), fields, payload))


def parse(data: bytes, start: int = 0) -> Iterator[tuple[Record | Damage, int]]:
    """Yield each record, or run of damaged bytes, with the offset behind it.

    What could be the beginning of a record that `data` does not hold whole is yielded last, as damage up to the end
    of `data`: a reader of a part reads on from its start, for a reader of the whole it is the torn end.
    """
    offset, end = start, len(data)
    while offset < end:
        found = record_at(data, offset)
        if found is None:
            offset_of_next = _next_record(data, offset + 1)
            yield Damage(offset, offset_of_next), offset_of_next
            offset = offset_of_next
        else:
            offset = found[1]
            yield found


def record_at(data: bytes, offset: int) -> tuple[Record, int] | None:
    """Return the record that begins at `offset` and the offset behind it, None if there is no whole, undamaged one."""
    if offset + HEADER_BYTES > len(data):
        return None
    magic, crc = _SEAL.unpack_from(data, offset)
    length, kind, numbered, first_seq, recv_ns = _FIELDS.unpack_from(data, offset + _SEAL.size)
    end = offset + HEADER_BYTES + length
    if magic != MAGIC or end > len(data) or zlib.crc32(memoryview(data)[offset + _SEAL.size : end]) != crc:
        return None
    return Record(kind, first_seq, numbered, recv_ns, data[offset + HEADER_BYTES : end]), end


def encode_segment(last: Mark, last_recv_ns: int) -> bytes:
    """Return the record that a segment begins with: where the stream stands."""
    return encode_record(Kind.SEGMENT, last.seq, 0, last_recv_ns, _STATE.pack(last.event_seq))


def state_in(record: Record) -> Mark:
    """Return where the stream stood when the segment that begins with `record` was begun."""
    return Mark(record.first_seq, _STATE.unpack(record.payload)[0])


def _next_record(data: bytes, offset: int) -> int:
    """Return the offset of the next whole record at or behind `offset`, or the end of `data`."""
    while (offset := data.find(MAGIC, offset)) >= 0:
        if record_at(data, offset) is not None:
            return offset
        offset += 1
    return len(data)
