"""How many whole lines the day files have, without reading again what somebody has counted already.

The writer counts along: its checkpoint tells of the files that it has been writing to of late, `counts.json` of the
older ones. From there, or from where this process or an earlier one has counted to, the rest is read. A file of which
nobody knows anything is read once. A count is only carried on where the file is what it was then.

The writer's own counts have no proof of the file that they were made of. A file that the checkpoint names must have a
newline where the count ends; one in `counts.json`, to which nothing is added any more, must have the very same size.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from pipeline.checkpoint import peek
from pipeline.config import STATE_FOLDER
from pipeline.counts import read_counts
from pipeline.durable import replace_durably
from pipeline.files import CHECKPOINT, COUNTED, DATA_FILE, Extent
from pipeline.store.files import BLOCK_BYTES

MARK_BYTES = 256  # the end of what was counted: where it reads otherwise now, the file is another one
SOON_READ_BYTES = 16 * 2**20  # not worth remembering that it was counted


class Counted(NamedTuple):
    """How far a file has been counted; `end` lies behind a newline."""

    inode: int
    end: int
    lines: int
    mark: bytes  # the last bytes before `end`


_decode = msgspec.json.Decoder(dict[str, Counted]).decode


class Counter:
    """Counts the lines of files in one data folder, and of others. May be shared between threads."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._state_dir = data_dir / STATE_FOLDER
        self._counted: dict[Path, Counted] = {}
        self._read_back = False
        self._worth_keeping: set[Path] = set()

    def count(self, path: Path, on_read: Callable[[int], None] = lambda _: None) -> int:
        """Return how many whole lines a file has by now; `on_read` is told the bytes of each block that is read.

        Raises OSError where it cannot be read.
        """
        with path.open("rb", buffering=0) as file:
            start = self._start(file, path)
            counted = self._counted[path] = count_on(file, start, on_read)
        if counted.end - start.end > SOON_READ_BYTES:
            self._worth_keeping.add(path)
        return counted.lines

    def unread(self, path: Path) -> int:
        """Return how many bytes `count` would have to read. Raises OSError."""
        with path.open("rb", buffering=0) as file:
            return os.fstat(file.fileno()).st_size - self._start(file, path).end

    def known(self, path: Path) -> int | None:
        """Return what `count` does; None where this takes much reading. Raises OSError."""
        return self.count(path) if self.unread(path) <= SOON_READ_BYTES else None

    def save(self) -> None:
        """Keep for the next process what took much reading; where nothing can be written it is not kept."""
        new = {p.name: self._counted[p] for p in self._worth_keeping if self._is_day_file(p)}
        if not new:
            return
        there = {name: found for name, found in self._kept().items() if (self._data_dir / name).exists()}
        with contextlib.suppress(OSError):
            self._state_dir.mkdir(exist_ok=True)
            data = msgspec.json.encode(there | new)
            replace_durably(self._state_dir / COUNTED, data, suffix=f".{os.getpid()}.new")
        self._worth_keeping.clear()

    def _start(self, file: BinaryIO, path: Path) -> Counted:
        """Return the furthest place in a file up to which it is counted."""
        found = os.fstat(file.fileno())
        best = Counted(found.st_ino, 0, 0, b"")
        if not self._read_back:
            self._read_back = True
            self._counted = {self._data_dir / name: counted for name, counted in self._kept().items()} | self._counted
        known = self._counted.get(path)
        if known and known.inode == found.st_ino and known.end <= found.st_size and _continues(file, known):
            best = known
        if best.end < found.st_size and self._is_day_file(path):
            for extent in self._told_by_the_writer(path.name, found.st_size):
                if extent.lines is not None and best.end < extent.bytes <= found.st_size:
                    mark = _before(file, extent.bytes)
                    if mark.endswith(b"\n"):
                        best = Counted(found.st_ino, extent.bytes, extent.lines, mark)
        return best

    def _told_by_the_writer(self, name: str, size: int) -> Iterator[Extent]:
        files = peek(self._state_dir / CHECKPOINT).files
        if name in files:
            yield files[name]
        older = read_counts(self._state_dir)
        if name in older and older[name].bytes == size:
            yield older[name]

    def _is_day_file(self, path: Path) -> bool:
        return DATA_FILE.fullmatch(path.name) is not None and path.absolute().parent == self._data_dir.absolute()

    def _kept(self) -> dict[str, Counted]:
        with contextlib.suppress(OSError, ValueError):
            return _decode((self._state_dir / COUNTED).read_bytes())
        return {}


def count_on(file: BinaryIO, start: Counted, on_read: Callable[[int], None] = lambda _: None) -> Counted:
    """Count the whole lines of a file, from where it was counted last."""
    inode, end, lines, mark = start
    file.seek(end)
    position = end
    tail = mark  # what was read last, enough of it for the next mark
    while data := file.read(BLOCK_BYTES):
        newline = data.rfind(b"\n") + 1
        if newline:
            lines += data.count(b"\n")
            end = position + newline
            mark = (tail + data[:newline])[-MARK_BYTES:]
        position += len(data)
        tail = (tail + data)[-MARK_BYTES:]
        on_read(len(data))
    return Counted(inode, end, lines, mark)


def _continues(file: BinaryIO, known: Counted) -> bool:
    """Tell whether a file still begins with what was counted: it may have been cut, or written anew."""
    file.seek(max(known.end - len(known.mark), 0))
    return file.read(len(known.mark)) == known.mark


def _before(file: BinaryIO, end: int) -> bytes:
    """Return the last bytes before `end`."""
    begin = max(end - MARK_BYTES, 0)
    file.seek(begin)
    return file.read(end - begin)
