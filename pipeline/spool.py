"""A worker's queue on disk: raw frames and events of one stream, written before anything else is done with them.

    <spool_dir>/<connection_id>/<epoch>/<segment>.spool      segments 00000001, 00000002, ...

A segment is a row of `records`. The first is of kind segment and repeats where the stream stood when the segment was
begun, so that neither the numbering nor the time of the last frame is lost when older segments are removed. A record is
written with one `write`; the page cache keeps it when the process is killed. A segment is removed when all of it is
durable in the data files. The owner is one process; nothing here is thread-safe.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from pipeline.durable import write_all
from pipeline.errors import SpoolFullError
from pipeline.records import (
    HEADER_BYTES,
    SEGMENT_RECORD_BYTES,
    Damage,
    Kind,
    Record,
    encode_record,
    encode_segment,
    parse,
    record_at,
    state_in,
)
from pipeline.wire import Mark

log = logging.getLogger(__name__)

SEGMENT_BYTES = 16 * 2**20  # removed whole: small enough to follow the commits, large enough to be rare
BALLAST_BYTES = 2**16  # set aside on disk: given up where there is no room left to begin the next epoch
SEGMENTS_WITHIN_LIMIT = 8  # a small limit gets small segments, or one old segment would fill it
BALLAST = "ballast"
EVENT_RESERVE_BYTES = 2**20  # above the limit: what says that frames were refused must find room


class Incoming(msgspec.Struct, frozen=True, gc=False):
    """A frame that is to be appended."""

    recv_ns: int
    ticks: int  # accepted from it
    raw: bytes


class Position(NamedTuple):
    """A place in a spool: the segment's number and the offset in it."""

    segment: int
    offset: int


@dataclass
class _Segment:
    path: Path
    size: int
    before: Mark | None  # the stream stood here when the segment was begun; None: its first record is damaged
    last: Mark  # and here, or further, at its end
    damaged: bool = False


@dataclass
class Chunk:
    """What one `Spool.read` brought: records in order, and the place to read on from."""

    records: list[Record]
    next: Position


class Spool:
    """One stream's spool: appended to by its worker while the epoch runs, drained by a later one when it was killed."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.last = Mark()  # the numbers given last
        self.last_recv_ns = 0  # 0: never, or no instruments since
        self.bytes = 0  # on disk
        self._max_bytes = max_bytes
        self._segment_bytes = min(SEGMENT_BYTES, max(max_bytes // SEGMENTS_WITHIN_LIMIT, HEADER_BYTES))
        self._segments: dict[int, _Segment] = {}
        self._fd = -1
        self._is_cramped = False  # the file system had no room for a record

    @classmethod
    def create(cls, folder: Path, max_bytes: int, last_recv_ns: int = 0) -> "Spool":
        """Begin the spool of a new epoch. Raises OSError where the folder cannot be made or written.

        `last_recv_ns` is taken over from the epoch before: killed before its first frame, this one still tells since
        when nothing has been recorded.
        """
        folder.mkdir(parents=True)
        spool = cls(folder, max_bytes)
        spool.last_recv_ns = last_recv_ns
        spool._begin_segment(1)
        with contextlib.suppress(OSError), (folder / BALLAST).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)
        return spool

    @classmethod
    def open(cls, folder: Path) -> "Spool":
        """Open what an earlier epoch left, to be drained. Its end is found by reading the last segment.

        Where the beginning of that one is damaged or was not written, the one before it is read as well.
        """
        spool = cls(folder, 0)
        for path in sorted(folder.glob("*.spool")):
            if path.stem.isascii() and path.stem.isdigit() and path.is_file():
                spool._add_existing(path)
        reliable = max((number for number, segment in spool._segments.items() if segment.before), default=0)
        for number, segment in spool._segments.items():
            if number >= reliable:
                spool._take_in(segment)
        known = spool.last
        for _, segment in sorted(spool._segments.items(), reverse=True):
            segment.last = known
            known = segment.before or known
        return spool

    @property
    def begun(self) -> bool:
        """Whether its epoch has come so far as to write a record."""
        return self.last != Mark() or any(segment.before for segment in self._segments.values())

    @property
    def end(self) -> Position:
        """Behind the last record."""
        number = max(self._segments, default=0)
        return Position(number, self._segments[number].size if number else 0)

    def append_frames(self, frames: Sequence[Incoming], missing_since_ns: int | None = None) -> list[Record]:
        """Append frames that arrived together, with one write, and return them with their numbers.

        `missing_since_ns` is remembered as `last_recv_ns` in their stead, where they are not yet of all instruments.
        Raises SpoolFullError past the limit or without room on the file system; then nothing of them is kept.
        """
        seq = self.last.seq
        records, encoded = [], []
        for frame in frames:
            records.append(Record(Kind.FRAME, seq + 1, frame.ticks, frame.recv_ns, frame.raw))
            encoded.append(encode_record(Kind.FRAME, seq + 1, frame.ticks, frame.recv_ns, frame.raw))
            seq += frame.ticks
        last_recv_ns = frames[-1].recv_ns
        if missing_since_ns is not None:
            last_recv_ns = missing_since_ns
            encoded.append(encode_record(Kind.WANTED, seq, 0, last_recv_ns, b""))
        self._append(b"".join(encoded), self._max_bytes, Mark(seq, self.last.event_seq), last_recv_ns)
        return records

    def append_event(self, recv_ns: int, line: bytes) -> Record:
        """Append the JSON line of the event with the number `last.event_seq + 1`. Raises like `append_frames`."""
        mark = Mark(self.last.seq, self.last.event_seq + 1)
        encoded = encode_record(Kind.EVENT, mark.event_seq, 1, recv_ns, line)
        self._append(encoded, self._max_bytes + EVENT_RESERVE_BYTES, mark, self.last_recv_ns)
        return Record(Kind.EVENT, mark.event_seq, 1, recv_ns, line)

    def append_wanted(self, recv_ns: int, *, wanted: bool) -> None:
        """Remember whether the connection has instruments from now on. Raises like `append_frames`."""
        encoded = encode_record(Kind.WANTED if wanted else Kind.IDLE, self.last.seq, 0, recv_ns, b"")
        self._append(encoded, self._max_bytes + EVENT_RESERVE_BYTES, self.last, recv_ns if wanted else 0)

    def seek(self, mark: Mark) -> Position:
        """Return a place from which everything behind `mark` that is still held can be read.

        What lies before `mark` may be read again from there: the reader skips it.
        """
        place = Position(min(self._segments, default=0), 0)
        for number, segment in sorted(self._segments.items()):
            before = segment.before
            if before is not None and mark.covers(before):
                place = Position(number, 0)
        return place

    def read(self, place: Position, max_bytes: int) -> Chunk:
        """Return the records from `place` on, about `max_bytes` of them; none at the end."""
        number, offset = place
        segment = self._segments.get(number)
        if segment is None:
            later = [n for n in self._segments if n > number]
            return Chunk([], Position(min(later), 0) if later else self.end)
        wanted_bytes = min(max_bytes, segment.size - offset)
        data = _read(segment.path, offset, wanted_bytes)
        if len(data) < wanted_bytes:  # it cannot be read, or somebody has cut it: what is missing is damage
            segment.damaged = True  # a torn end has its bytes: this file may be readable another time
            self._report(segment, offset + len(data), segment.size)
        whole = offset + len(data) >= segment.size or len(data) < wanted_bytes
        records, position = [], 0
        for found, end in parse(data):
            if isinstance(found, Record):
                records.append(found)
            elif end == len(data) and not whole:
                if found.start == 0:  # one record larger than the part
                    return self.read(place, max_bytes * 2)
                break
            else:
                self._report(segment, offset + found.start, offset + end)
            position = end
        if not whole:
            return Chunk(records, Position(number, offset + position))
        later = [n for n in self._segments if n > number]
        return Chunk(records, Position(min(later), 0) if later else self.end)

    def trim(self, durable: Mark) -> None:
        """Remove the segments of which everything is durable, but for the one that is being written."""
        active = max(self._segments, default=0)
        for number, segment in list(self._segments.items()):
            if number != active and durable.covers(segment.last):
                self._drop(segment)
                del self._segments[number]
            elif number == active and self._is_cramped and durable.covers(self.last):
                self._begin_anew(number)

    def remove(self) -> None:
        """Remove the whole spool: everything in it is durable."""
        self.close()
        for segment in self._segments.values():
            self._drop(segment)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._segments.clear()

    def close(self) -> None:
        """Let go of the file; what is spooled stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _report(self, segment: _Segment, start: int, end: int) -> None:
        is_last = segment is self._segments[max(self._segments)]
        torn = is_last and end == segment.size and (start > 0 or end < SEGMENT_RECORD_BYTES)  # else it is none of ours
        if torn:
            log.warning("%s: cut at byte %d, its last record was not written whole", segment.path, start)
        elif not segment.damaged:
            log.error("%s: damaged, bytes %d to %d are no records; the file is kept", segment.path, start, end)
            segment.damaged = True

    def _drop(self, segment: _Segment) -> None:
        """Remove a segment; a damaged one is kept under another name beside the spool."""
        try:
            if segment.damaged:
                segment.path.replace(self.folder.parent / f"{self.folder.name}-{segment.path.stem}.damaged")
            else:
                segment.path.unlink(missing_ok=True)
        except OSError as error:  # all of it is stored: it only takes room, and the next start tries again
            log.error("%s: cannot be removed: %s", segment.path, error.strerror)
        self.bytes -= segment.size

    def _append(self, data: bytes, limit: int, mark: Mark, last_recv_ns: int) -> None:
        number = max(self._segments)
        segment = self._segments[number]
        if self.bytes + len(data) > limit:
            raise SpoolFullError(f"{self.folder}: the spool has reached storage.spool_max_mb")
        try:
            write_all(self._fd, data)
        except OSError as error:
            os.ftruncate(self._fd, segment.size)
            self._is_cramped = True
            raise SpoolFullError(f"{self.folder}: {error.strerror}") from error
        segment.size += len(data)
        segment.last = mark
        self.bytes += len(data)
        self.last = mark
        self.last_recv_ns = last_recv_ns
        if segment.size >= self._segment_bytes:
            self._begin_segment(number + 1)

    def _begin_segment(self, number: int) -> None:
        path = self.folder / f"{number:08d}.spool"
        data = encode_segment(self.last, self.last_recv_ns)
        fd = -1
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
            write_all(fd, data)
        except OSError:
            if fd >= 0:
                os.close(fd)
                path.unlink(missing_ok=True)
            if not self._segments:
                raise
            return  # the present segment grows on; the next append tries again
        self.close()
        self._fd = fd
        self._segments[number] = _Segment(path, len(data), self.last, self.last)
        self.bytes += len(data)

    def _begin_anew(self, number: int) -> None:
        """Empty the segment that is being written, and make it the next: a full file system has no room for another."""
        segment, data = self._segments[number], encode_segment(self.last, self.last_recv_ns)
        path = self.folder / f"{number + 1:08d}.spool"
        try:
            with segment.path.open("r+b", buffering=0) as file:  # self._fd can only append
                file.write(data)  # over a record of this size: up to here, the old ones behind it end where it says
                file.truncate(len(data))
            segment.path.replace(path)
        except OSError as error:
            log.error("%s: cannot be emptied: %s", segment.path, error.strerror)
            return
        self._is_cramped = False
        self.bytes -= segment.size - len(data)
        del self._segments[number]
        self._segments[number + 1] = _Segment(path, len(data), self.last, self.last)

    def _add_existing(self, path: Path) -> None:
        """Add a segment of an earlier epoch, with what its first record says."""
        found = record_at(_read(path, 0, SEGMENT_RECORD_BYTES), 0)
        record = found[0] if found else None
        before = state_in(record) if record and record.kind == Kind.SEGMENT else None
        size = path.stat().st_size
        self._segments[int(path.stem)] = _Segment(path, size, before, Mark())
        self.bytes += size

    def _take_in(self, segment: _Segment) -> None:
        """Read a segment of an earlier epoch to its end, for the numbers given last."""
        for found, _ in parse(_read(segment.path, 0, segment.size)):
            if isinstance(found, Damage):
                continue
            if found.kind == Kind.SEGMENT:
                self.last = state_in(found)
                self.last_recv_ns = found.recv_ns
            elif found.kind == Kind.FRAME:
                self.last = Mark(found.first_seq + found.numbered - 1, self.last.event_seq)
                self.last_recv_ns = found.recv_ns
            elif found.kind == Kind.EVENT:
                self.last = Mark(self.last.seq, found.first_seq)
            elif found.kind == Kind.IDLE:
                self.last_recv_ns = 0
            elif found.kind == Kind.WANTED:
                self.last_recv_ns = found.recv_ns


def drop_ballast(folder: Path) -> bool:
    """Give up what a spool has set aside; True if there was something."""
    try:
        (folder / BALLAST).unlink()
    except OSError:
        return False
    return True


def _read(path: Path, offset: int, size: int) -> bytes:
    """Return a part of a file; nothing where it cannot be read, which is damage like any other."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        log.error("%s: cannot be read: %s", path, error.strerror)
        return b""
