"""Places in a tick file, found without reading all of it: the end of its lines, its last lines, where a time begins."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pipeline.store.files import MAX_LINE_BYTES
from pipeline.store.growing import BLOCK_BYTES, Chunk
from pipeline.store.selection import read_tick

PROBE_BYTES = 64 * 2**10
MARGIN_BYTES = 8 * 2**20  # connections are not received in step: the order of times in a file is only roughly theirs


def end_of_lines(path: Path, size: int) -> int:
    """Return where the last whole line of the first `size` bytes ends; 0 where there is none. Raises OSError."""
    with _opened(path) as fd:
        for end in range(size, 0, -BLOCK_BYTES):
            start = max(end - BLOCK_BYTES, 0)
            newline = os.pread(fd, end - start, start).rfind(b"\n") + 1
            if newline:
                return start + newline
    return 0


def chunks_back(path: Path, size: int) -> Iterator[Chunk]:
    """Yield the whole lines of the first `size` bytes a block at a time, the last block first. Raises OSError.

    Where a line is longer than any tick it is passed over.
    """
    with _opened(path) as fd:
        end, span = size, BLOCK_BYTES
        while end > 0:
            start = max(end - span, 0)
            data = os.pread(fd, end - start, start)
            begin = data.find(b"\n") + 1 if start else 0
            last = data.rfind(b"\n") + 1
            if begin < last:
                yield Chunk(start + begin, data[begin : last - 1].split(b"\n"))
                end, span = start + begin, BLOCK_BYTES
            elif span < MAX_LINE_BYTES:
                span *= 2  # the line begins before this block; at the beginning of the file there is none
                end = end if start else 0
            else:
                end = start


def offset_since(path: Path, moment: datetime, size: int) -> int:
    """Return the beginning of a line before which no tick was received since `moment`. Raises OSError.

    It lies `MARGIN_BYTES` before the place where times pass `moment`: ticks that were stored later than others by more
    than that may lie before it, or mislead the search.
    """
    with _opened(path) as fd:
        before, since = 0, size
        while since - before > PROBE_BYTES:
            middle = (before + since) // 2
            received = _first_time(_lines_behind(fd, middle, PROBE_BYTES))
            if received is not None and received < moment:
                before = middle
            else:
                since = middle
        offset = max(before - MARGIN_BYTES, 0)
        return offset and _lines_behind(fd, offset, MAX_LINE_BYTES).offset


def received_at(timestamp: str) -> datetime | None:
    """Return the time of a tick; None where it is no time with an offset."""
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _lines_behind(fd: int, offset: int, length: int) -> Chunk:
    """Return the lines that begin behind `offset` and end within so many bytes."""
    data = os.pread(fd, length, offset)
    begin, end = data.find(b"\n") + 1, data.rfind(b"\n") + 1
    return Chunk(offset + begin, data[begin : end - 1].split(b"\n") if begin < end else [])


def _first_time(chunk: Chunk) -> datetime | None:
    for line in chunk.lines:
        try:
            received = received_at(read_tick(line)["timestamp"])
        except ValueError:
            continue
        if received is not None:
            return received
    return None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
