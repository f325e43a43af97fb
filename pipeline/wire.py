"""Messages between the processes, as bytes. Pure: no socket, no clock.

Batches go from a worker (or the supervisor) to the writer, commits from the writer to all of them:

    batch   three ZeroMQ parts: header | tick lines | event lines
            header, little-endian:
             0  u8   version             1  u8   connection_id (0: the supervisor)
             4  u32  day                     proleptic Gregorian ordinal of the files that the lines belong to
             8  u64  epoch
            16  u64  oldest_epoch            the oldest epoch of this connection that is not wholly durable
            24  u64  after_seq               the ticks follow this one: what lies between is not held any more
            32  u64  first_seq               of the tick lines, which are numbered without holes
            40  u64  after_event_seq         the same for events
            48  u64  first_event_seq
            56  u32  tick_count              tick lines
            60  u32  event_count             event lines

    commit  one part, JSON: {"boot", "taking", "retired": {connection: epoch},
            "streams": [[connection, epoch, durable seq, durable event_seq, accepted seq, accepted event_seq], ...]}

A stream that a commit does not list has nothing stored, or lies below `retired` and is stored whole.

Orders go from the supervisor to a worker, and say what it should have on the wire as a difference to the order before,
or to nothing where `after` is 0:

    order   one part, JSON: {"service", "version", "after", "set": {mode: [token, ...]}, "drop": [token, ...],
            "keep_open", "before": [token, ...] or null, "relieved": [[token, ns], ...]}

`keep_open` asks for a socket even without instruments. `before` is what the worker before this one had, if that is
known: it counts with the first order. `relieved` tells of instruments since which receive time another connection
covers them: what this one has missed of them ends there.

Versions count 1, 2, 3, ... for each worker and service, which is one run of the supervisor. A worker's status repeats
both. Where they are not what was sent last, something was lost or one of the two is new, and the next order is whole.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import Annotated, NamedTuple, TypeAlias

import msgspec
import orjson

from pipeline.config import Mode
from pipeline.errors import MdsError

VERSION = 1
TICKS_SOCKET = "ticks.sock"
COMMITS_SOCKET = "commits.sock"
STATUS_SOCKET = "status.sock"
COMMANDS_SOCKET = "commands.sock"
CONTROL_SOCKET = "control.sock"

_HEADER = struct.Struct("<BB2xIQQQQQQII")


class WireError(MdsError):
    """A message is not one of ours."""


class Mark(NamedTuple):
    """How far a stream has come: its last tick and its last event."""

    seq: int = 0
    event_seq: int = 0

    def covers(self, other: "Mark") -> bool:
        """Tell whether a stream that has come this far has come as far as `other`, in ticks and in events."""
        return self.seq >= other.seq and self.event_seq >= other.event_seq


class StreamId(NamedTuple):
    """A stream is what one start of a worker (1, 2, 3) or of the supervisor (0) has numbered."""

    connection_id: int
    epoch: int


class Header(NamedTuple):
    """What a batch is, see the layout above."""

    connection_id: int
    day: date
    epoch: int
    oldest_epoch: int
    after: Mark
    first: Mark
    tick_count: int
    event_count: int

    @property
    def stream(self) -> StreamId:
        """Whose numbers these are."""
        return StreamId(self.connection_id, self.epoch)

    @property
    def last(self) -> Mark:
        """The numbers of the last tick and the last event; one below the first where there are none."""
        return Mark(self.first.seq + self.tick_count - 1, self.first.event_seq + self.event_count - 1)


def encode_header(header: Header) -> bytes:
    """Return the first part of a batch."""
    return _HEADER.pack(
        VERSION,
        header.connection_id,
        header.day.toordinal(),
        header.epoch,
        header.oldest_epoch,
        header.after.seq,
        header.first.seq,
        header.after.event_seq,
        header.first.event_seq,
        header.tick_count,
        header.event_count,
    )


def decode_header(data: bytes) -> Header:
    """Return what `encode_header` was given; raises WireError on anything else."""
    if len(data) != _HEADER.size or data[0] != VERSION:
        raise WireError(f"not a batch header of version {VERSION}: {len(data)} bytes")
    _, connection_id, day, epoch, oldest, after, first, after_event, first_event, count, events = _HEADER.unpack(data)
    try:
        files_day = date.fromordinal(day)
    except (ValueError, OverflowError) as error:
        raise WireError(f"not a batch header: day {day}") from error
    return Header(
        connection_id, files_day, epoch, oldest, Mark(after, after_event), Mark(first, first_event), count, events
    )


@dataclass(frozen=True)
class Commit:
    """What the writer has: `durable` survives power loss, `accepted` is written but not yet synced.

    `boot` changes when the writer has lost what was not durable; while `taking` is false it reads nothing.
    """

    boot: str
    taking: bool = True
    durable: dict[StreamId, Mark] = field(default_factory=dict)
    accepted: dict[StreamId, Mark] = field(default_factory=dict)
    retired: dict[int, int] = field(default_factory=dict)  # connection -> epochs below are stored whole, forgotten


def encode_commit(commit: Commit) -> bytes:
    """Return the one part of a commit message."""
    streams = [
        (*stream, *commit.durable.get(stream, Mark()), *accepted) for stream, accepted in commit.accepted.items()
    ]
    retired = {str(connection): epoch for connection, epoch in commit.retired.items()}
    return orjson.dumps({"boot": commit.boot, "taking": commit.taking, "retired": retired, "streams": streams})


def decode_commit(data: bytes) -> Commit:
    """Return what `encode_commit` was given; raises WireError on anything else."""
    try:
        message = _COMMITS.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise WireError(f"not a commit message: {error}") from error
    durable: dict[StreamId, Mark] = {}
    accepted: dict[StreamId, Mark] = {}
    for connection_id, epoch, seq, event_seq, accepted_seq, accepted_event_seq in message.streams:
        stream = StreamId(connection_id, epoch)
        durable[stream] = Mark(seq, event_seq)
        accepted[stream] = Mark(accepted_seq, accepted_event_seq)
    return Commit(message.boot, message.taking, durable, accepted, message.retired)


_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class _CommitMessage(msgspec.Struct):
    boot: str
    taking: bool
    retired: dict[_Number, _Number]
    streams: list[tuple[_Number, _Number, _Number, _Number, _Number, _Number]]


class Order(NamedTuple):
    """What a worker should have on the wire from now on, as far as it is different from the order `after`.

    To the first one that it hears belong the tokens that its predecessor had `before`, and since which receive time
    another connection has recorded those that are `relieved`. Others keep what is `held` until it is covered here.
    What is `missing` nobody records since that time. `rests` are times in which nothing was to be recorded, and what is
    `due` should be recorded since the time that is given, unless this worker has it.
    """

    service: str
    version: int
    after: int
    changed: Mapping[int, Mode]
    dropped: Sequence[int]
    keep_open: bool = False
    before: Sequence[int] | None = None
    relieved: Mapping[int, int] = MappingProxyType({})
    held: tuple[int, ...] = ()
    missing: Mapping[int, int] = MappingProxyType({})
    due: Mapping[int, int] = MappingProxyType({})
    rests: tuple[tuple[int, int], ...] = ()


def encode_order(order: Order) -> bytes:
    """Return an order as one message part."""
    message = {
        "service": order.service,
        "version": order.version,
        "after": order.after,
        "set": by_mode(order.changed),
        "drop": order.dropped,
        "keep_open": order.keep_open,
        "before": order.before,
        "relieved": list(order.relieved.items()),
        "held": order.held,
        "missing": list(order.missing.items()),
        "due": list(order.due.items()),
        "rests": order.rests,
    }
    return orjson.dumps(message)


def decode_order(data: bytes) -> Order:
    """Return the order of a message part. Raises WireError."""
    try:
        message = _ORDERS.decode(data)
    except msgspec.MsgspecError as error:
        raise WireError(f"an order that cannot be read: {error}") from None
    changed = {token: mode for mode, tokens in message.set.items() for token in tokens}
    return Order(
        message.service,
        message.version,
        message.after,
        changed,
        message.drop,
        message.keep_open,
        message.before,
        dict(message.relieved),
        tuple(message.held),
        dict(message.missing),
        dict(message.due),
        tuple(message.rests),
    )


def by_mode(instruments: Mapping[int, Mode]) -> dict[Mode, list[int]]:
    """Return the tokens of each mode."""
    grouped: dict[Mode, list[int]] = {}
    for token, mode in instruments.items():
        grouped.setdefault(mode, []).append(token)
    return grouped


class _OrderMessage(msgspec.Struct):
    service: str
    version: int
    after: int
    set: dict[Mode, list[int]]
    drop: list[int]
    keep_open: bool
    before: list[int] | None
    relieved: list[tuple[int, int]]
    held: list[int] = []
    missing: list[tuple[int, int]] = []
    due: list[tuple[int, int]] = []
    rests: list[tuple[int, int]] = []


_ORDERS = msgspec.json.Decoder(_OrderMessage)
_COMMITS = msgspec.json.Decoder(_CommitMessage)
