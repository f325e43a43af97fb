"""Frames from Kite to ticks. Pure: bytes and a receive time in, structs out; no clock, no socket.

All integers are big-endian. A frame of one byte is a heartbeat; any other is

    0  uint16  number of packets
    2  the packets, each as
         0  uint16  length of the packet: 8, 28, 32, 44 or 184
         2  the packet

and a packet, told by its length, is

    offset     8 ltp          28 index quote, 32 index full    44 quote, 184 full
      0        uint32 token   uint32 token                     uint32 token
      4        int32 last     int32 last                       int32 last
      8                       int32 high                       uint32 last traded quantity
     12                       int32 low                        int32 average traded price
     16                       int32 open                       uint32 volume
     20                       int32 close                      uint32 total buy quantity
     24                       int32 price change, not read     uint32 total sell quantity
     28                       uint32 exchange time   (32)      int32 open
     32                                                        int32 high
     36                                                        int32 low
     40                                                        int32 close
     44                                                        uint32 last trade time   (184, as all below)
     48                                                        uint32 oi
     52                                                        uint32 oi, day's high
     56                                                        uint32 oi, day's low
     60                                                        uint32 exchange time
     64                                                        10 depth levels, 5 buy and 5 sell, each as
                                                                 0  uint32  quantity
                                                                 4  int32   price
                                                                 8  uint16  orders
                                                                10  2 bytes of padding

The token's low byte is the segment. It sets what prices are divided by, and tells indices, which are not tradable.
Times are Unix seconds, 0 where there is none.

Source: Kite Connect v3, WebSocket streaming, and the official Python client, whose values these are to the last bit.
The client reads prices as unsigned, the documentation says signed, and commodity prices have been negative: signed.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Any, TypeAlias

import msgspec

from pipeline.days import Calendar
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
)

_HEADER_BYTES = 2  # the number of packets
_PREFIX_BYTES = 2  # a packet's length, before it
# Packets that are compared at once: where lengths change often, more would be compared again and again.
_LOOK_AHEAD = 64

_INDICES = 9
_DIVISORS = [100.0] * 256  # by segment
_DIVISORS[3] = 10_000_000.0  # cds
_DIVISORS[6] = _DIVISORS[12] = 10_000.0  # bcd, nco

# By packet length. Each takes its length prefix along, so that packets that follow each other are read in one go.
_PACKETS = {
    8: Struct(">2xIi"),
    28: Struct(">2xIiiiii4x"),
    32: Struct(">2xIiiiii4xI"),
    44: Struct(">2xIiIiIIIiiii"),
    184: Struct(">2xIiIiIIIiiiiIIIII" + "IiHxx" * 10),
}

_Packets: TypeAlias = Iterator[tuple[Any, ...]]


class Reject(msgspec.Struct, frozen=True):
    """Bytes of a frame that are no packet, with what is wrong with them and where in the frame they begin."""

    offset: int
    reason: str
    raw: bytes


class Run(msgspec.Struct, gc=False):
    """Packets of one length that follow each other: frame[start:end], length prefixes included."""

    length: int
    start: int
    end: int


class Layout(msgspec.Struct, frozen=True):
    """What a frame holds: `count` packets, in `runs` of one length, and what had to be rejected.

    Two bytes of header, the runs and the rejects are the whole frame, each byte once; a heartbeat has neither.
    """

    count: int
    runs: tuple[Run, ...] = ()
    rejects: list[Reject] = []
    heartbeat: bool = False


def tokens_in(frame: bytes, layout: Layout) -> set[int]:
    """Return the instruments that have a packet in this frame."""
    return {
        int.from_bytes(frame[at : at + 4], "big")
        for run in layout.runs
        for at in range(run.start + _PREFIX_BYTES, run.end, run.length + _PREFIX_BYTES)
    }


def split(frame: bytes) -> Layout:
    """Find the whole packets of known length in `frame`. Depends on its bytes only, and takes any bytes.

    A packet of unknown length is rejected alone; one that is cut off is rejected, and nothing can follow it.
    """
    size = len(frame)
    if size < _HEADER_BYTES:
        return Layout(0, heartbeat=True) if size else Layout(0, rejects=[Reject(0, "empty frame", b"")])
    announced = frame[0] << 8 | frame[1]
    if announced and size >= _HEADER_BYTES + _PREFIX_BYTES:
        # Mostly all packets have one length: then every stride-th byte is the same, which slices check without a loop.
        length = frame[2] << 8 | frame[3]
        stride = _PREFIX_BYTES + length
        if (
            size == _HEADER_BYTES + announced * stride
            and length in _PACKETS
            and (
                announced == 1
                or (frame[2::stride] == frame[2:3] * announced and frame[3::stride] == frame[3:4] * announced)
            )
        ):
            return Layout(announced, (Run(length, _HEADER_BYTES, size),))
    return _split_mixed(frame, announced)


def _split_mixed(frame: bytes, announced: int) -> Layout:
    """Do the work of `split` run by run."""
    size = len(frame)
    count = 0
    runs: list[Run] = []
    rejects: list[Reject] = []
    run = Run(0, 0, 0)  # that the last packet belongs to; this one never gets any
    end = _HEADER_BYTES
    left = announced
    while left:
        start = end
        if size - start < _PREFIX_BYTES:
            rejects.append(Reject(start, "truncated header" if start < size else "missing packets", frame[start:]))
            break
        length = frame[start] << 8 | frame[start + 1]
        stride = _PREFIX_BYTES + length
        end = start + stride
        if end > size:
            rejects.append(Reject(start, "truncated packet", frame[start:]))
            break
        if length not in _PACKETS:
            left -= 1
            rejects.append(Reject(start, f"unknown packet length {length}", frame[start:end]))
            continue
        number = 1
        if frame[end : end + _PREFIX_BYTES] == frame[start : start + _PREFIX_BYTES]:
            number = _same(frame, start, stride, min(left, (size - start) // stride, _LOOK_AHEAD))
            end = start + number * stride
        left -= number
        count += number
        if length == run.length and start == run.end:
            run.end = end
        else:
            run = Run(length, start, end)
            runs.append(run)
    else:
        if end < size:
            rejects.append(Reject(end, "trailing bytes", frame[end:]))
    return Layout(count, tuple(runs), rejects)


def _same(frame: bytes, start: int, stride: int, at_most: int) -> int:
    """Return how many of the packets from `start` on, each of which is whole, have the length of the first."""
    stop = start + at_most * stride
    high, low = frame[start:stop:stride], frame[start + 1 : stop : stride]
    return at_most - max(len(high.lstrip(high[:1])), len(low.lstrip(low[:1])))


class Decoder:
    """Makes ticks of one stream, `(connection_id, epoch)`, from its frames. Not thread-safe, as its calendar."""

    def __init__(self, calendar: Calendar, connection_id: int, epoch: int) -> None:
        self._calendar = calendar
        self._connection_id = connection_id
        self._epoch = epoch
        self._decoders = {8: self._ltp, 28: self._index_quote, 32: self._index_full, 44: self._quote, 184: self._full}

    def decode(self, frame: bytes, layout: Layout, recv_ns: int, first_seq: int) -> list[StoredTick]:
        """Return the ticks of `frame`, which `split` gave `layout` for, in the order of its packets.

        All have been received at `recv_ns`, nanoseconds since the epoch; they are numbered from `first_seq`.
        """
        timestamp = self._calendar.timestamp(recv_ns)
        ticks: list[StoredTick] = []
        for run in layout.runs:
            packets = _PACKETS[run.length].iter_unpack(frame[run.start : run.end])
            self._decoders[run.length](packets, timestamp, first_seq + len(ticks), ticks)
        return ticks

    # Below, prices are divided, never multiplied by a reciprocal, `change` is computed from the divided ones in the
    # client's order, and is the client's integer 0 where there is no close: all to be equal to its values bit by bit.

    def _ltp(self, packets: _Packets, timestamp: str, first_seq: int, ticks: list[StoredTick]) -> None:
        connection_id, epoch = self._connection_id, self._epoch
        for seq, (token, last) in enumerate(packets, first_seq):
            segment = token & 0xFF
            price = last / _DIVISORS[segment]
            ticks.append(LtpTick(segment != _INDICES, token, price, timestamp, connection_id, epoch, seq))

    def _index_quote(self, packets: _Packets, timestamp: str, first_seq: int, ticks: list[StoredTick]) -> None:
        connection_id, epoch = self._connection_id, self._epoch
        for seq, packet in enumerate(packets, first_seq):
            token, last, high, low, open_, close = packet
            segment = token & 0xFF
            divisor = _DIVISORS[segment]
            last /= divisor
            close /= divisor
            change = (last - close) * 100 / close if close else 0
            ohlc = Ohlc(open_ / divisor, high / divisor, low / divisor, close)
            ticks.append(
                IndexQuoteTick(segment != _INDICES, token, last, ohlc, change, timestamp, connection_id, epoch, seq)
            )

    def _index_full(self, packets: _Packets, timestamp: str, first_seq: int, ticks: list[StoredTick]) -> None:
        connection_id, epoch, second = self._connection_id, self._epoch, self._calendar.second
        for seq, packet in enumerate(packets, first_seq):
            token, last, high, low, open_, close, exchange_s = packet
            segment = token & 0xFF
            divisor = _DIVISORS[segment]
            last /= divisor
            close /= divisor
            change = (last - close) * 100 / close if close else 0
            ohlc = Ohlc(open_ / divisor, high / divisor, low / divisor, close)
            exchange = second(exchange_s)
            ticks.append(
                IndexFullTick(
                    segment != _INDICES, token, last, ohlc, change, exchange, timestamp, connection_id, epoch, seq
                )
            )

    def _quote(self, packets: _Packets, timestamp: str, first_seq: int, ticks: list[StoredTick]) -> None:
        connection_id, epoch = self._connection_id, self._epoch
        for seq, packet in enumerate(packets, first_seq):
            token, last, traded, average, volume, bought, sold, open_, high, low, close = packet
            segment = token & 0xFF
            divisor = _DIVISORS[segment]
            last /= divisor
            close /= divisor
            change = (last - close) * 100 / close if close else 0
            ohlc = Ohlc(open_ / divisor, high / divisor, low / divisor, close)
            # fmt: off
            ticks.append(
                QuoteTick(
                    segment != _INDICES, token, last, traded, average / divisor, volume, bought, sold, ohlc, change,
                    timestamp, connection_id, epoch, seq,
                )
            )
            # fmt: on

    def _full(self, packets: _Packets, timestamp: str, first_seq: int, ticks: list[StoredTick]) -> None:
        connection_id, epoch, second = self._connection_id, self._epoch, self._calendar.second
        for seq, packet in enumerate(packets, first_seq):
            # Flat, with neither a loop over the levels nor a function for each side: these cost a tenth of the time.
            # fmt: off
            (
                token, last, traded, average, volume, bought, sold, open_, high, low, close,
                trade_s, oi, oi_high, oi_low, exchange_s,
                q0, p0, n0, q1, p1, n1, q2, p2, n2, q3, p3, n3, q4, p4, n4,
                q5, p5, n5, q6, p6, n6, q7, p7, n7, q8, p8, n8, q9, p9, n9,
            ) = packet
            segment = token & 0xFF
            divisor = _DIVISORS[segment]
            last /= divisor
            close /= divisor
            change = (last - close) * 100 / close if close else 0
            ohlc = Ohlc(open_ / divisor, high / divisor, low / divisor, close)
            depth = Depth(
                (
                    DepthLevel(q0, p0 / divisor, n0),
                    DepthLevel(q1, p1 / divisor, n1),
                    DepthLevel(q2, p2 / divisor, n2),
                    DepthLevel(q3, p3 / divisor, n3),
                    DepthLevel(q4, p4 / divisor, n4),
                ),
                (
                    DepthLevel(q5, p5 / divisor, n5),
                    DepthLevel(q6, p6 / divisor, n6),
                    DepthLevel(q7, p7 / divisor, n7),
                    DepthLevel(q8, p8 / divisor, n8),
                    DepthLevel(q9, p9 / divisor, n9),
                ),
            )
            ticks.append(
                FullTick(
                    segment != _INDICES, token, last, traded, average / divisor, volume, bought, sold, ohlc, change,
                    second(trade_s), oi, oi_high, oi_low, second(exchange_s), depth,
                    timestamp, connection_id, epoch, seq,
                )
            )
            # fmt: on
