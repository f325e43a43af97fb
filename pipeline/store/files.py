"""The recorder's files: which they are, and reading them in whole lines with constant memory.

A file may be in the middle of being written. Whoever reads it says up to which size; a last line that the size cuts is
read to its end while a writer holds the folder's lock, and is torn otherwise.
"""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NamedTuple

import msgspec

from pipeline.config import STATE_FOLDER, Mode
from pipeline.errors import ConfigError
from pipeline.files import DATA_FILE, WRITER_LOCK

BLOCK_BYTES = 128 * 2**10  # larger ones are slower: the decoded lines fall out of the processor's cache
PROBE_BYTES = 4096  # longer than a line of a tick
MAX_LINE_BYTES = 4 * 2**20  # no record comes near it: beyond that it is no line of ours, and not kept in memory
LIVE_LINE_S = 2.0  # a writer that has begun a line ends it at once, unless it was stopped

_WORKER = re.compile(r"worker-([0-9]+)")


def date_of(path: Path) -> date | None:
    """Return the day of a tick or event file by its name; None where the name is not the recorder's."""
    match = DATA_FILE.fullmatch(path.name)
    try:
        return date.fromisoformat(match[2]) if match else None
    except ValueError:
        return None


def is_event_file(path: Path) -> bool:
    """Tell whether the name is that of an event file."""
    return path.name.startswith("events_") and date_of(path) is not None


def tick_files(data_dir: Path) -> list[Path]:
    """Return the tick files of a folder, oldest first."""
    return _named(data_dir, "market_data_*.jsonl")


def event_files(data_dir: Path) -> list[Path]:
    """Return the event files of a folder, oldest first."""
    return _named(data_dir, "events_*.jsonl")


def require_folder(data_dir: Path) -> None:
    """Raise ConfigError where there is no such data folder: that is not the same as one without files."""
    if not data_dir.is_dir():
        raise ConfigError(f"{data_dir}: no such folder; storage.data_dir names the one with the data files")


def _named(data_dir: Path, pattern: str) -> list[Path]:
    return sorted(path for path in data_dir.glob(pattern) if date_of(path) and path.is_file())


class Place(NamedTuple):
    """A line: its file, its number from 1, and the byte at which it begins."""

    path: Path
    line: int
    offset: int


@dataclass
class Chunk:
    """Whole lines that follow each other, as they stand in the file."""

    data: bytes
    first: Place


@dataclass
class Block:
    """Whole lines that follow each other, without their newlines."""

    lines: list[bytes]
    first: Place

    def place(self, index: int) -> Place:
        """Return where `lines[index]` stands."""
        return Place(self.first.path, self.first.line + index, self.first.offset + self._starts[index])

    @property
    def length(self) -> int:
        """The bytes of all lines with their newlines."""
        return self._starts[-1]

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate((len(line) + 1 for line in self.lines), initial=0))


@dataclass(frozen=True)
class Fragment:
    """What is not a line: the end of a file without a newline, or more bytes than any line has."""

    kind: Literal["torn", "too long"]
    place: Place
    length: int
    text: bytes = field(default=b"", compare=False, repr=False)  # of a torn one: it may lack no more than the newline

    @property
    def why(self) -> str:
        """What is wrong with it, in words."""
        if self.kind == "torn":
            return f"the file ends within a line, after {self.length} bytes of it"
        return f"a line of {self.length} bytes"


def read_blocks(path: Path, size: int) -> Iterator[Block | Fragment]:
    """Yield the lines of the first `size` bytes, in blocks."""
    for chunk in read_chunks(path, size, BLOCK_BYTES):
        yield chunk if isinstance(chunk, Fragment) else as_block(chunk)


def as_block(chunk: Chunk) -> Block:
    """Return a chunk as lines."""
    return Block(chunk.data[:-1].split(b"\n"), chunk.first)


def read_chunks(path: Path, size: int, chunk_bytes: int, start: Place | None = None) -> Iterator[Chunk | Fragment]:
    """Yield the bytes of a file up to `size`, of about `chunk_bytes` at a time; `start` is the beginning of a line."""
    place = start or Place(path, 1, 0)
    rest = b""
    dropped = 0  # bytes of a line that is too long
    position = place.offset
    with path.open("rb", buffering=0) as file:
        file.seek(position)
        while position < size:
            end = min(position + chunk_bytes, size)
            cut = _line_end(file, end)
            data = file.read((cut if cut > position else end) - position)
            if not data:
                break
            position += len(data)
            rest += data
            end = rest.rfind(b"\n") + 1
            if not end:
                if dropped or len(rest) > MAX_LINE_BYTES:
                    dropped += len(rest)
                    rest = b""
                continue
            begin = 0
            if dropped:
                begin = rest.find(b"\n") + 1
                yield Fragment("too long", place, dropped + begin)
                place = Place(path, place.line + 1, place.offset + dropped + begin)
                dropped = 0
            if begin < end:
                lines = rest[begin:end]
                yield Chunk(lines, place)
                place = Place(path, place.line + lines.count(b"\n"), place.offset + len(lines))
            rest = rest[end:]
        if rest or dropped:
            rest += _end_of_line(file, path)
            if rest.endswith(b"\n") and not dropped:
                yield Chunk(rest, place)
            else:
                yield Fragment("torn", place, dropped + len(rest), rest)


def _line_end(file: BinaryIO, position: int) -> int:
    """Return where the last line before `position` ends, 0 if that is far before it.

    What is read up to there need not be copied to put together a line that two reads have cut.
    """
    begin = max(position - PROBE_BYTES, 0)
    newline = os.pread(file.fileno(), position - begin, begin).rfind(b"\n") + 1
    return newline and begin + newline


def _end_of_line(file: BinaryIO, path: Path) -> bytes:
    """Read on to the next newline, as long as somebody is writing."""
    deadline = time.monotonic() + LIVE_LINE_S
    read = b""
    while True:
        # Asked before reading: a writer that has let go of the lock has written all that it will.
        being_written = is_being_written(path.parent)
        read += file.read(BLOCK_BYTES)
        end = read.find(b"\n") + 1
        if end or not being_written or time.monotonic() > deadline or len(read) > MAX_LINE_BYTES:
            return read[: end or None]
        time.sleep(0.002)


def is_being_written(data_dir: Path) -> bool:
    """Tell whether a writer holds the data folder."""
    try:
        with (data_dir / STATE_FOLDER / WRITER_LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # closing the file gives it back
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What every line of an event file has."""

    event: str
    timestamp: Moment
    source: str
    epoch: int
    event_seq: Annotated[int, msgspec.Meta(ge=1)]
    connection_id: int | None = None

    @property
    def worker(self) -> int | None:
        """The connection whose worker wrote this, None for other processes."""
        match = _WORKER.fullmatch(self.source)
        return int(match[1]) if match else None


class EpochEvent(Event, frozen=True, kw_only=True):
    """A worker began an epoch; `previous_*` say how far the one before had come, as far as that is known."""

    connection_id: int
    previous_epoch: int | None
    previous_last_seq: int | None
    previous_last_event_seq: int | None
    previous_end: str


class StoppedEvent(Event, frozen=True, kw_only=True):
    """A worker ended its epoch in order, at this tick."""

    last_seq: int | None = None


class SubscribedEvent(Event, frozen=True, kw_only=True):
    """What Kite sends from now on to a connection, or what is different of it."""

    instruments: dict[Mode, list[Annotated[int, msgspec.Meta(ge=0, lt=2**32)]]] = {}
    dropped: list[int] = []


class GapEvent(Event, frozen=True, kw_only=True):
    """Something was not received, or was lost; `gap_epoch` and the range name ticks that had a number already."""

    connection_id: int
    cause: str
    since: Moment | None = msgspec.field(name="from")
    until: Moment | None = msgspec.field(name="to")
    instruments: list[int] = []
    gap_epoch: int | None = None
    first_seq: int | None = None
    last_seq: int | None = None

    @property
    def seconds(self) -> float:
        """How long it lasted, 0 where the beginning is not known."""
        return max((self.until - self.since).total_seconds(), 0.0) if self.since and self.until else 0.0


_SHAPES: dict[str, type[Event]] = {
    "epoch": EpochEvent,
    "stopped": StoppedEvent,
    "gap": GapEvent,
    "subscribed": SubscribedEvent,
    "resubscribed": SubscribedEvent,
}


def decode_event(line: bytes) -> Event:
    """Return the event of a line, of its own class where it has one.

    Raises ValueError in words, msgspec's own errors among them.
    """
    event = msgspec.json.decode(line, type=Event)
    if event.event in _SHAPES:
        event = msgspec.json.decode(line, type=_SHAPES[event.event])
    if event.worker is not None and event.connection_id != event.worker:
        raise ValueError(f"an event of {event.source} with connection_id {event.connection_id}")
    return event


def read_events(path: Path) -> Iterator[Event]:
    """Yield the events of a file as far as it goes now, passing over what is none."""
    for block in read_blocks(path, path.stat().st_size):
        for line in block.lines if isinstance(block, Block) else ():
            try:
                yield decode_event(line)
            except (ValueError, RecursionError):
                continue
