"""One file that grows, read in whole lines. It is opened for each reading, so that it may be moved or deleted at will.

Mostly lines are appended. But a writer whose sync has failed cuts the file at its last commit and writes the same lines
again, perhaps in another order, and somebody may put another file in its place. Sizes do not tell: it may have grown
again in between. So what stood before each place at which reading stopped is kept, as a mark. Where the last mark does
not hold any more, reading goes back to the newest that does, or to the beginning; lines then come again.
"""

import logging
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.store.files import MAX_LINE_BYTES

log = logging.getLogger(__name__)

BLOCK_BYTES = 256 * 2**10
MARK_BYTES = 128  # the end of a tick, with its numbers: no two lines have the same
MARKS = 1000  # of a busy file 20 s at 50 looks a second: a sync that takes longer costs reading the file once more


class Chunk(NamedTuple):
    """Whole lines that follow each other, without their newlines, and the byte at which the first begins."""

    offset: int
    lines: list[bytes]

    def offset_of(self, index: int) -> int:
        """Return the byte at which a line begins."""
        return self.offset + sum(len(line) + 1 for line in self.lines[:index])


class _Mark(NamedTuple):
    offset: int
    before: bytes


_BEGINNING = _Mark(0, b"")


class GrowingFile:
    """See above. Reading begins at `offset`, which is 0 or behind a newline.

    Raises OSError, but not for a file that is missing: that has no lines. A line without its newline is not read yet;
    one that is longer than any tick is passed over.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = 0  # up to which it is read
        self._looked: tuple[int, int, int] | None = None  # inode, size and time of change at the last look
        self._marks: deque[_Mark] = deque(maxlen=MARKS)
        self._in_long_line = False
        fd = self._open() if offset else None
        if fd is not None:
            try:
                before = os.pread(fd, min(MARK_BYTES, offset), max(offset - MARK_BYTES, 0))
                if len(before) == min(MARK_BYTES, offset):  # else it was cut a moment ago
                    self._marks.append(_Mark(offset, before))
                    self.offset = offset
            finally:
                os.close(fd)

    def look(self) -> int | None:
        """Return the size that the file has now, None where it is as it was at the last look, or not there."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            if self._looked:
                log.warning("%s: gone; a file that comes in its place is read", self.path)
            self._looked = None
            return None
        looked = stat.st_ino, stat.st_size, stat.st_mtime_ns
        if looked == self._looked:
            return None
        self._looked = looked
        return stat.st_size

    def read(self, size: int) -> Iterator[Chunk]:
        """Yield the lines that were not read yet and end within the first `size` bytes, a block at a time.

        The file is open only while a block is read: who takes the blocks may take their time.
        """
        while (chunk := self._read_block(size)) is not None:
            if chunk.lines:
                yield chunk

    def _read_block(self, size: int) -> Chunk | None:
        """Return the next lines; none of them where only part of a line too long was passed over."""
        fd = self._open()
        if fd is None:
            return None
        try:
            mark = self._marks[-1] if self._marks else _BEGINNING
            left = max(size - self.offset, 0)
            data = _after(fd, mark, min(BLOCK_BYTES, left))
            if data is not None and len(data) == BLOCK_BYTES and b"\n" not in data:
                data = _after(fd, mark, min(MAX_LINE_BYTES, left))
            if data is None:
                self._go_back(fd)
                return Chunk(self.offset, [])
        finally:
            os.close(fd)
        end = data.rfind(b"\n") + 1
        if not end and len(data) < MAX_LINE_BYTES:
            return None
        chunk = Chunk(self.offset, data[: end - 1].split(b"\n") if end else [])
        if self._in_long_line and end:
            chunk = Chunk(self.offset + len(chunk.lines[0]) + 1, chunk.lines[1:])
            self._in_long_line = False
        elif not end and not self._in_long_line:
            log.warning("%s byte %d: passed over, no tick is that long", self.path, self.offset)
            self._in_long_line = True
        read = data[:end] if end else data
        self.offset += len(read)
        self._marks.append(_Mark(self.offset, (mark.before + read[-MARK_BYTES:])[-MARK_BYTES:]))
        return chunk

    def _go_back(self, fd: int) -> None:
        """Find the place up to which the file still holds what was read."""
        was = self.offset
        while self._marks and _after(fd, self._marks[-1], 0) is None:
            self._marks.pop()
        self.offset = self._marks[-1].offset if self._marks else 0
        self._in_long_line = False
        log.warning(
            "%s: cut or replaced, it was read up to byte %d and is read anew from byte %d; no tick is told twice",
            self.path,
            was,
            self.offset,
        )

    def _open(self) -> int | None:
        try:
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None


def _after(fd: int, mark: _Mark, length: int) -> bytes | None:
    """Return what follows a mark, None where the mark does not hold.

    Both are one reading: between two the file might change.
    """
    data = os.pread(fd, len(mark.before) + length, mark.offset - len(mark.before))
    return data[len(mark.before) :] if data.startswith(mark.before) else None
