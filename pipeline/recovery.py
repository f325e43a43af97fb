"""Finding out from the data files where every stream stands, and mending a last line that was not written whole."""

import contextlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from pipeline import removed
from pipeline.events import SUPERVISOR, SUPERVISOR_ID
from pipeline.files import Extent, is_tick_file_name
from pipeline.wire import Mark, StreamId

log = logging.getLogger(__name__)

SCAN_BYTES = 4 * 2**20
OWN_BEGINNINGS = (b"{", b"\0")  # of a torn line: file systems fill with zeros what a power loss kept from them

_TICK_END = re.compile(rb'"connection_id":([123]),"epoch":(\d{1,19}),"seq":(\d{1,19})\}\n')
_EVENT_END = re.compile(rb'"source":"(worker-[123]|supervisor)","epoch":(\d{1,19}),"event_seq":(\d{1,19})\}\n')
_WRITER_END = re.compile(rb'"source":"writer","epoch":\d{1,19},"event_seq":\d{1,19}\}\n')


class Recovery:
    """Reads files back, one after the other. Begins with what a checkpoint knows."""

    def __init__(self, state_dir: Path, marks: Mapping[StreamId, Mark], retired: Mapping[int, int]) -> None:
        self.marks = dict(marks)  # where each stream stands
        self.settled: dict[str, Extent] = {}  # how far the files go that were read
        self.findings: list[tuple[str, dict[str, Any]]] = []  # events that the log should have
        self._state_dir = state_dir
        self._retired = retired

    def read(self, path: Path, known: Extent) -> None:
        """Read a file from where it is known on, take in its numbers, and mend a torn end. Raises OSError."""
        name, settled = path.name, known.bytes
        lines = known.lines if settled else 0
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            if settled and not removed.holds(self._state_dir, name, settled):
                log.error("%s: gone, it had %d bytes of stored ticks or events", path, settled)
                self.findings.append(("file_missing", {"file": name, "bytes": settled}))
            return
        try:
            size = os.fstat(fd).st_size
            if size < settled:
                log.error("%s: %d bytes were stored, only %d are there: somebody has cut it", path, settled, size)
                self.findings.append(("file_shortened", {"file": name, "bytes": size, "bytes_stored": settled}))
                settled, lines = size, None
            end, new_lines, foreign = self._scan(fd, settled, is_ticks=is_tick_file_name(name))
            if foreign:
                log.warning("%s: %d lines are not the recorder's own, they are left as they are", path, foreign)
                self.findings.append(("foreign_lines", {"file": name, "lines": foreign}))
            if end < size:
                self.findings.append(self._mend_end(fd, path, end, size))
            # What a killed writer wrote is about to be acknowledged, and may not be on the disk. After a sync that has
            # failed its pages even count as clean: only what is written again is sure to be synced.
            _write_again(path, settled, min(end, size))
            os.fdatasync(fd)
            mended = os.fstat(fd).st_size
            new_lines += mended > size  # by the newline that was missing
            self.settled[name] = Extent(mended, None if lines is None else lines + new_lines)
        finally:
            os.close(fd)

    def _scan(self, fd: int, start: int, *, is_ticks: bool) -> tuple[int, int, int]:
        """Take in the numbers of all whole lines from `start` on.

        Return where the last ends, how many there are, and how many of them are foreign.
        """
        offset, count, own, rest = start, 0, 0, b""
        while data := os.pread(fd, SCAN_BYTES, offset):
            offset += len(data)
            lines, newline, rest = (rest + data).rpartition(b"\n")
            count += lines.count(b"\n") + len(newline)
            own += self._take_in(lines + newline, is_ticks=is_ticks)
        return offset - len(rest), count, count - own

    def _take_in(self, lines: bytes, *, is_ticks: bool) -> int:
        """Raise `marks` to the numbers in `lines`; return how many lines have one."""
        own = 0
        for found in (_TICK_END if is_ticks else _EVENT_END).finditer(lines):
            own += 1
            who, epoch, seq = found.groups()
            epoch_number = int(epoch)
            if is_ticks:
                stream, reached = StreamId(int(who), epoch_number), Mark(int(seq), 0)
            else:
                connection_id = SUPERVISOR_ID if who == SUPERVISOR.encode() else int(who[-1:])
                stream, reached = StreamId(connection_id, epoch_number), Mark(0, int(seq))
            if epoch_number >= self._retired.get(stream.connection_id, 0):
                mark = self.marks.get(stream, Mark())
                self.marks[stream] = Mark(max(mark.seq, reached.seq), max(mark.event_seq, reached.event_seq))
        if not is_ticks:
            own += len(_WRITER_END.findall(lines))
        return own

    def _mend_end(self, fd: int, path: Path, end: int, size: int) -> tuple[str, dict[str, Any]]:
        """Deal with a last line that has no newline: complete it if it is whole, else cut it and keep what was cut.

        What does not begin like a line of ours is somebody else's, and left as it is.
        """
        tail = os.pread(fd, size - end, end)
        if tail[:1] not in OWN_BEGINNINGS:
            log.warning("%s: its last line is not the recorder's own, it is left as it is", path)
            return "foreign_lines", {"file": path.name, "lines": 1}
        try:
            orjson.loads(tail)
        except ValueError:
            kept = self._state_dir / f"{path.name}-{end}.cut"
            with contextlib.suppress(OSError):  # a full disk: the cut makes room, and a worker sends it again
                kept.write_bytes(tail)
            os.ftruncate(fd, end)
            log.warning("%s: torn at byte %d, %d bytes cut and kept in %s", path, end, size - end, kept)
            return "torn_end", {"file": path.name, "offset": end, "bytes": size - end, "kept_in": kept.name}
        os.write(fd, b"\n")
        self._take_in(tail + b"\n", is_ticks=is_tick_file_name(path.name))
        log.warning("%s: the newline of its last line was missing, it is there now", path)
        return "torn_end", {"file": path.name, "offset": size, "bytes": 0}


def _write_again(path: Path, start: int, end: int) -> None:
    """Write these bytes of a file once more, as they are. Raises OSError."""
    with path.open("r+b", buffering=0) as file:
        while start < end:
            data = os.pread(file.fileno(), min(SCAN_BYTES, end - start), start)
            if not data:
                break
            start += os.pwrite(file.fileno(), data, start)
