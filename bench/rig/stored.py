"""What a recorder stores, checked line by line while it is written; and room made again behind the check.

Each line is read once. It must be a tick of its file's day, and in each stream (connection_id, epoch) `seq` must be
1, 2, 3, ..., as `mds verify` has it. The event log is not looked at.
"""

import ctypes
import os
from collections import Counter
from datetime import date
from pathlib import Path

from pipeline.store.files import Place, date_of, tick_files
from pipeline.store.growing import Chunk, GrowingFile
from pipeline.store.sequence import Sequence
from pipeline.ticks import decode_line

KEPT_BYTES = 256 * 2**20  # at the end of a file: a writer that begins again reads some of it, from its checkpoint on
PAGE_BYTES = 4096
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class StoredTicks:
    """Counts and checks the ticks of a folder. `wrong` has how many lines or numbers are, by what is wrong."""

    def __init__(self, data_dir: Path) -> None:
        self.count = 0
        self.wrong: Counter[str] = Counter()
        self._data_dir = data_dir
        self._files: dict[Path, GrowingFile] = {}
        self._freed: dict[Path, int] = {}  # bytes
        self._sequences: dict[tuple[int, int], Sequence] = {}

    def __call__(self) -> int:
        """Return how many ticks there are by now."""
        for path in tick_files(self._data_dir):
            file = self._files.setdefault(path, GrowingFile(path))
            if (size := file.look()) is not None:
                for chunk in file.read(size):
                    self._check(path, chunk)
        return self.count

    @property
    def missing(self) -> int:
        """How many numbers have been left out."""
        sequences = self._sequences.values()
        still = sum(hole.last - hole.first + 1 for sequence in sequences for hole in sequence.gaps())
        return still + sum(sequence.forgotten_numbers for sequence in sequences)

    def discard(self) -> None:
        """Give the disk back what was checked, but for the end of each file. Sizes and places stay as they are.

        Raises OSError where the file system cannot do that.
        """
        for path, file in self._files.items():
            done, to = self._freed.get(path, 0), (file.offset - KEPT_BYTES) // PAGE_BYTES * PAGE_BYTES
            if to > done:
                punch(path, done, to - done)
                self._freed[path] = to

    def _check(self, path: Path, chunk: Chunk) -> None:
        day = str(date_of(path))
        for index, line in enumerate(chunk.lines):
            try:
                tick = decode_line(line)
            except (ValueError, RecursionError):
                self.wrong["no tick"] += 1
                continue
            self.count += 1
            if tick.timestamp[:10] != day:
                self.wrong["of another day"] += 1
            key = (tick.connection_id, tick.epoch)
            sequence = self._sequences.get(key)
            if sequence is None:
                sequence = self._sequences[key] = Sequence(day=date.max)  # the day matters where files are left out
            if tick.seq == sequence.next:
                sequence.next += 1
            elif problem := sequence.take(tick.seq, Place(path, 0, chunk.offset_of(index)), hidden=False):
                self.wrong[problem] += 1


def punch(path: Path, offset: int, length: int) -> None:
    """Free the blocks of a part of a file, which then reads as zeros; its size stays. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if _libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(fd)
