"""Which days are closed: nobody will add a tick or an event to their files any more. Reads only.

A day is closed when it is over in `storage.timezone` and no spool holds anything of it, or of an earlier day, that is
not durable in the data files. What is durable is what the writer's checkpoint says. A spool goes on holding records
that are, the last segment of each stream for as long as its worker runs: these hold no day open.

The recorder may be running. What vanishes from a spool while we look was durable; what is added to it is of today. In
doubt a day is open: without a checkpoint all that is spooled counts, and a spool that is damaged or cannot be read
may hold ticks of any day.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from pipeline.checkpoint import Checkpoint, peek
from pipeline.config import Config
from pipeline.days import Calendar
from pipeline.events import SUPERVISOR_ID
from pipeline.files import CHECKPOINT
from pipeline.records import SEGMENT_RECORD_BYTES, Damage, Kind, Record, parse, record_at, state_in
from pipeline.wire import Mark, StreamId

# After midnight, before the day counts as over: a worker follows a clock that was set forward within about a second.
AFTER_MIDNIGHT = timedelta(seconds=10)
READ_BYTES = 2**20  # of a segment at a time


class FirstOpen(NamedTuple):
    """The first day that is not closed: all days before it are, and no later one is. In words why."""

    day: date
    why: str


class _DamagedError(Exception):
    pass


def is_closed(config: Config, day: date) -> bool:
    """Tell whether a day is closed."""
    return why_open(config, day) is None


def why_open(config: Config, day: date) -> str | None:
    """Return in words why a day is not closed, None where it is. To ask for many days, ask for `first_open` once."""
    first = first_open(config)
    return first.why if first.day <= day else None


def first_open(config: Config) -> FirstOpen:
    """Return where the closed days end. Reads no more than the spooled records that are durable, and one beyond."""
    zone = ZoneInfo(config.storage.timezone)
    today = (datetime.now(zone) - AFTER_MIDNIGHT).date()
    first = FirstOpen(today, f"{today} is not over")
    checkpoint = peek(config.state_dir / CHECKPOINT)
    try:
        for stream, folder in _streams(config.spool_dir):
            if stream.epoch >= checkpoint.retired.get(stream.connection_id, 0):
                first = min(first, _held(stream, folder, checkpoint, config.storage.timezone) or first)
    except OSError as error:
        where = error.filename or config.spool_dir
        return FirstOpen(date.min, f"{where} may hold ticks of any day and cannot be read: {error.strerror}")
    return first


def _streams(spool_dir: Path) -> Iterator[tuple[StreamId, Path]]:
    """Yield the streams that have a spool."""
    for folder in sorted(spool_dir.glob("*/*")):
        if _is_number(folder.parent.name) and _is_number(folder.name):
            yield StreamId(int(folder.parent.name), int(folder.name)), folder


def _held(stream: StreamId, folder: Path, checkpoint: Checkpoint, timezone: str) -> FirstOpen | None:
    """Return the day that a spool holds open, None where all of it is durable."""
    try:
        recv_ns = _first_not_durable(folder, checkpoint.marks.get(stream, Mark()))
    except _DamagedError as error:
        return FirstOpen(date.min, f"{error} is damaged and may hold ticks of any day: mds run stores what is left")
    if recv_ns is None:
        return None
    day = Calendar(timezone).day_of(recv_ns)
    who = "the service" if stream.connection_id == SUPERVISOR_ID else f"connection {stream.connection_id}"
    return FirstOpen(day, f"the spool of {who} holds something of {day} that is not stored yet: mds run stores it")


def _first_not_durable(folder: Path, durable: Mark) -> int | None:
    """Return the receive time of the first frame or event that is not durable. Raises _DamagedError where unknown."""
    segments = sorted(path for path in folder.glob("*.spool") if _is_number(path.stem))
    begin = max((n for n, path in enumerate(segments) if _begins_durable(path, durable)), default=0)
    for path in segments[begin:]:
        for record in _records(path, may_be_torn=path == segments[-1]):
            frame, event = record.kind == Kind.FRAME, record.kind == Kind.EVENT
            if (frame and record.first_seq + record.numbered - 1 > durable.seq) or (
                event and record.first_seq > durable.event_seq
            ):
                return record.recv_ns
    return None


def _begins_durable(path: Path, durable: Mark) -> bool:
    """Tell whether all before a segment is durable, by its first record."""
    try:
        with path.open("rb") as file:
            found = record_at(file.read(SEGMENT_RECORD_BYTES), 0)
    except FileNotFoundError:
        return False
    return found is not None and found[0].kind == Kind.SEGMENT and durable.covers(state_in(found[0]))


def _records(path: Path, *, may_be_torn: bool) -> Iterator[Record]:
    """Yield the records of a segment as far as it goes now; none where it has been removed."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        rest = b""
        while True:
            data = file.read(max(READ_BYTES, len(rest)))  # a record may be longer: each time twice as much of it
            rest += data
            start = 0
            for found, end in parse(rest):
                if isinstance(found, Damage):
                    if end < len(rest) or not (data or may_be_torn):
                        raise _DamagedError(path)
                    break
                yield found
                start = end
            rest = rest[start:]
            if not data:
                return


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()
