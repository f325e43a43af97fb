"""The data files: append, commit, roll back, recover. The writer process owns them alone; no sockets here.

What is written stands in the page cache at once, where it survives the death of the process; it is durable, and may be
acknowledged, once a commit has synced it. For each stream `high` is what has been written, `durable` what is synced.

The checkpoint names every file that bytes may have been added to since it was written, with the size up to which the
file is settled, and every `durable` mark. It only bounds what has to be read at the next start: lines carry their own
numbers, so `high` can always be found again from the files. Hence its one rule: no byte goes into a file that the
checkpoint on disk does not name, or beyond which it has it settled.

How many lines each file has is counted along, for readers.
"""

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

from pipeline import removed
from pipeline.astray import is_in_place, put_back
from pipeline.checkpoint import Checkpoint, read_checkpoint
from pipeline.counts import add_counts, read_counts
from pipeline.days import NS_PER_S, Calendar
from pipeline.durable import replace_durably, sync_folder, write_all
from pipeline.events import WRITER, encode_event
from pipeline.files import CHECKPOINT, DATA_FILE, Extent, event_file_name, tick_file_name
from pipeline.recovery import Recovery
from pipeline.wire import Header, Mark, StreamId

log = logging.getLogger(__name__)

OPEN_FILES = 8  # today's two, yesterday's two around midnight, and what old spools bring
KEPT_DAYS = 3  # days whose files the checkpoint goes on naming when they are closed


class Verdict(Enum):
    """What became of a batch."""

    STORED = "stored"
    KNOWN = "known"  # all of it had been stored before
    HOLE = "hole"  # something before it is missing and will be sent again: not taken


class DiskFullError(OSError):
    """A write found no room; nothing of it was kept."""


@dataclass
class _File:
    path: Path
    fd: int
    size: int  # written
    durable: int  # synced
    lines: int | None  # written; None: nobody has counted those that were there before
    durable_lines: int | None
    dirty: bool = False
    syncing: bool = False  # part of a commit that is under way

    def cut(self, size: int, lines: int | None) -> None:
        """Take back what was written since it had this size. Raises OSError."""
        os.ftruncate(self.fd, size)
        self.size, self.lines = size, lines


@dataclass
class Commit:
    """What one sync makes durable: made by `begin_commit`, synced on any thread, taken in by `committed`."""

    extents: dict[str, Extent]
    fds: list[int]
    marks: dict[StreamId, Mark]
    own_events: int
    write_checkpoint: Callable[[], None] | None  # when one is due: of what was durable before

    def sync(self) -> None:
        """Wait until the files are on the disk. Raises OSError; then nothing since the last commit is to be trusted."""
        for fd in self.fds:
            os.fdatasync(fd)
        if self.write_checkpoint is not None:
            try:
                self.write_checkpoint()
            except OSError as error:  # it only bounds the next start's reading
                log.warning("the checkpoint could not be written: %s", error.strerror)


class Journal:
    """The data and event files of one data folder, see above. The caller holds the folder's lock."""

    def __init__(
        self,
        data_dir: Path,
        state_dir: Path,
        calendar: Calendar,
        epoch: int,
        on_event: Callable[[str, str, Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.high: dict[StreamId, Mark] = {}
        self.durable: dict[StreamId, Mark] = {}
        self.retired: dict[int, int] = {}
        self.ticks_written = 0  # by this process; those written again after a roll-back count again
        self.bytes_written = 0
        self._data_dir = data_dir
        self._state_dir = state_dir
        self._calendar = calendar
        self._epoch = epoch  # of the writer's own events
        self._on_event = on_event  # gets name, timestamp and fields of these
        self._event_seq = 0
        self._own_events: list[tuple[date, bytes]] = []  # written, not yet durable: nobody would send them again
        self._files: dict[str, _File] = {}
        self._has_inodes = True  # that stay the same: whether a file is still in its place can be told
        self._days: dict[StreamId, date] = {}  # whose files a stream was last written to
        self._settled: dict[str, Extent] = {}  # what the checkpoint names besides the open files
        self.checkpoint_due = False  # more is durable than was written down
        self._checkpoint_lock = threading.Lock()  # a sync on another thread may be writing one
        self._checkpoints = 0  # begun: an older one must not replace a newer

    @property
    def dirty(self) -> bool:
        """Whether something is written and not yet durable."""
        return any(file.dirty for file in self._files.values())

    def recover(self) -> None:
        """Find out what the files hold, cut torn ends, and log what was found.

        Raises DiskFullError, after which it can be called again, or OSError.
        """
        checkpoint = read_checkpoint(self._state_dir / CHECKPOINT)
        if checkpoint is None:
            names = [path.name for path in sorted(self._data_dir.iterdir()) if DATA_FILE.fullmatch(path.name)]
            checkpoint = Checkpoint(dict.fromkeys(names, Extent(0, 0)))
            if names:
                log.warning("no checkpoint, reading all %d files to find where every stream stands", len(names))
        recovery = Recovery(self._state_dir, checkpoint.marks, checkpoint.retired)
        try:
            for name, extent in checkpoint.files.items():
                recovery.read(self._data_dir / name, extent)
            self.retired = dict(checkpoint.retired)
            self.high, self.durable = dict(recovery.marks), dict(recovery.marks)
            self._settled = recovery.settled
            for event, fields in recovery.findings:
                self.log_event(event, fields)
            self.checkpoint()
        except OSError as error:
            _raise_if_full(error)
            raise

    def accept(self, header: Header, ticks: bytes, events: bytes) -> Verdict:
        """Write what continues its stream. Raises DiskFullError, or OSError when the disk fails; nothing was taken."""
        stream = header.stream
        if header.epoch < self.retired.get(header.connection_id, 0):
            return Verdict.KNOWN
        mark = self.high.get(stream, Mark())
        if header.after.seq > mark.seq or header.after.event_seq > mark.event_seq:
            return Verdict.HOLE
        self._retire(header)
        last = header.last
        new_ticks = last.seq - max(mark.seq, header.first.seq - 1)
        new_events = last.event_seq - max(mark.event_seq, header.first.event_seq - 1)
        if new_ticks <= 0 and new_events <= 0:
            return Verdict.KNOWN
        new: dict[str, tuple[bytes, int]] = {}
        if new_events > 0:
            new[event_file_name(header.day)] = _last_lines(events, header.event_count, new_events)
        if new_ticks > 0:
            new[tick_file_name(header.day)] = _last_lines(ticks, header.tick_count, new_ticks)
        if self._days.get(stream) != header.day:
            self._change_day(stream, header.day)
        self._append_all(new)
        self.high[stream] = Mark(max(mark.seq, last.seq), max(mark.event_seq, last.event_seq))
        self.ticks_written += max(new_ticks, 0)
        return Verdict.STORED

    def log_event(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write an event of the writer's own. Where there is no room it is left out: the log line remains."""
        now = self._calendar.now()
        timestamp = now.isoformat(timespec="microseconds")
        if self._on_event is not None:
            self._on_event(event, timestamp, fields)
        line = encode_event(
            event,
            timestamp,
            fields,
            source=WRITER,
            epoch=self._epoch,
            event_seq=self._event_seq + 1,
        )
        with contextlib.suppress(DiskFullError):
            self._append_all({event_file_name(now.date()): (line, 1)})
            self._event_seq += 1
            self._own_events.append((now.date(), line))

    def begin_commit(self, *, checkpoint: bool) -> Commit:
        """Return what is to be synced now, with a checkpoint if one is due."""
        dirty = {name: file for name, file in self._files.items() if file.dirty}
        for file in dirty.values():
            file.dirty, file.syncing = False, True
        extents = {name: Extent(file.size, file.lines) for name, file in dirty.items()}
        write_checkpoint = self._prepare_checkpoint() if checkpoint else None
        fds = [file.fd for file in dirty.values()]
        return Commit(extents, fds, dict(self.high), len(self._own_events), write_checkpoint)

    def committed(self, commit: Commit) -> None:
        """Take in a commit that was synced."""
        for name, extent in commit.extents.items():
            file = self._files[name]
            (file.durable, file.durable_lines), file.syncing = extent, False
            self.checkpoint_due = True
        self.durable = {stream: mark for stream, mark in commit.marks.items() if not self._is_retired(stream)}
        del self._own_events[: commit.own_events]

    def roll_back(self) -> None:
        """Go back to the last commit, because a sync has failed. Raises OSError when even that cannot be done."""
        for file in self._files.values():
            file.cut(file.durable, file.durable_lines)
            file.dirty, file.syncing = True, False  # the truncation wants a sync as well
        self.high = dict(self.durable)
        own_events, self._own_events = self._own_events, []
        for day, line in own_events:
            with contextlib.suppress(DiskFullError):
                self._append_all({event_file_name(day): (line, 1)})
                self._own_events.append((day, line))

    def keep_in_place(self) -> bool:
        """See that all files stand where they should; put back, and log, what somebody has removed or replaced.

        Of what is not open only the loss can be told. Not while a commit is under way. False where an open one is
        lost: what was not durable in it wants a roll-back.
        """
        kept = [self._keep(file) for file in list(self._files.values())] if self._has_inodes else []
        for name in self._settled.keys() - self._files.keys():
            self._look_for(name)
        return all(kept)

    def checkpoint(self) -> None:
        """Write down where everything durable ends. Raises OSError; the last checkpoint then stays in force."""
        self._prepare_checkpoint()()

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files.values():
            os.close(file.fd)
        self._files.clear()

    def _prepare_checkpoint(self) -> Callable[[], None]:
        """Take down the present state, to be written on any thread."""
        days = sorted({_day_in(name) for name in (*self._settled, *self._files)})[-KEPT_DAYS:]
        if leaving := {name: extent for name, extent in self._settled.items() if _day_in(name) not in days}:
            add_counts(self._data_dir, self._state_dir, leaving)  # once a day: the day's new files are synced as well
            self._settled = {name: extent for name, extent in self._settled.items() if name not in leaving}
        open_files = {name: Extent(file.durable, file.durable_lines) for name, file in self._files.items()}
        files = self._settled | open_files
        data = Checkpoint(files, self.durable, self.retired).encode()
        self._checkpoints += 1
        self.checkpoint_due = False
        number = self._checkpoints

        def write() -> None:
            with self._checkpoint_lock:
                if number == self._checkpoints:
                    replace_durably(self._state_dir / CHECKPOINT, data)

        return write

    def _is_retired(self, stream: StreamId) -> bool:
        return stream.epoch < self.retired.get(stream.connection_id, 0)

    def _retire(self, header: Header) -> None:
        """Forget the epochs of which the worker says that all of it is durable and removed."""
        if header.oldest_epoch > self.retired.get(header.connection_id, 0):
            self.retired[header.connection_id] = header.oldest_epoch
            self.high = {stream: mark for stream, mark in self.high.items() if not self._is_retired(stream)}
            self.durable = {stream: mark for stream, mark in self.durable.items() if not self._is_retired(stream)}
            self._days = {stream: day for stream, day in self._days.items() if not self._is_retired(stream)}

    def _change_day(self, stream: StreamId, day: date) -> None:
        """Sync what a stream has in other days' files before it goes on in this day's.

        A power loss could else cut the older file and not the newer one, a hole that nobody would fill. And a file of
        a closed day may have been removed, while it stayed open here: what comes late needs a new one.
        """
        for file in self._files_of(self._days.get(stream)):
            if file.durable < file.size:
                os.fdatasync(file.fd)
        for file in self._files_of(day):
            if not file.dirty and not file.syncing and self._is_removed(file):
                self._drop(file)
        self._days[stream] = day

    def _keep(self, file: _File) -> bool:
        """Do what `keep_in_place` says with one file."""
        name, size = file.path.name, os.fstat(file.fd).st_size
        if size < file.size:
            log.error("%s: %d bytes were stored, only %d are there: somebody has cut it", file.path, file.size, size)
            lost, file.size, file.durable = file.size, size, min(file.durable, size)
            file.lines = file.durable_lines = None
            self.log_event("file_shortened", {"file": name, "bytes": size, "bytes_stored": lost})
        if is_in_place(file.fd, file.path):
            return True
        if self._is_removed(file):
            self._drop(file)
            return True
        aside = self._state_dir / f"{name}-{time.time_ns() // NS_PER_S}.aside"
        try:
            new_fd = put_back(file.fd, file.path, aside)
        except OSError as error:
            log.error("%s: somebody has removed it, its %d bytes are lost: %s", file.path, size, error.strerror)
            self._drop(file)
            self.log_event("file_missing", {"file": name, "bytes": size, "error": error.strerror})
            return False
        if new_fd != file.fd:
            os.close(file.fd)
            file.fd = new_fd
        if not is_in_place(file.fd, file.path):
            log.warning("%s: no file keeps its inode here: whether one is removed cannot be told", file.path)
            self._has_inodes = False
        kept = {"kept_in": aside.name} if aside.exists() else {}
        what = f"replaced it, what they put there is now {aside}" if kept else "removed it"
        log.error("%s: somebody has %s: it is back with all that was recorded", file.path, what)
        self.log_event("file_restored", {"file": name, "bytes": size, **kept})
        return True

    def _look_for(self, name: str) -> None:
        """Tell of a settled file that is gone, while it was not open."""
        path, settled = self._data_dir / name, self._settled.get(name)
        if settled is None or path.exists():
            return
        del self._settled[name]
        self.checkpoint_due = True
        if settled.bytes and not removed.holds(self._state_dir, name, settled.bytes):
            log.error("%s: gone, it had %d bytes of stored ticks or events", path, settled.bytes)
            self.log_event("file_missing", {"file": name, "bytes": settled.bytes})

    def _is_removed(self, file: _File) -> bool:
        """Tell whether a file was removed on purpose, with all that is in it."""
        return os.fstat(file.fd).st_nlink == 0 and removed.holds(self._state_dir, file.path.name, file.size)

    def _drop(self, file: _File) -> None:
        os.close(file.fd)
        del self._files[file.path.name]
        self._settled.pop(file.path.name, None)
        self.checkpoint_due = True

    def _files_of(self, day: date | None) -> list[_File]:
        """Return the open files of a day."""
        names = (tick_file_name(day), event_file_name(day)) if day else ()
        return [self._files[name] for name in names if name in self._files]

    def _append_all(self, new: Mapping[str, tuple[bytes, int]]) -> None:
        """Append these lines to each named file, or to none of them."""
        done: list[tuple[_File, int, int | None]] = []
        try:
            for name, (data, lines) in new.items():
                file = self._files.get(name) or self._open(name)
                done.append((file, file.size, file.lines))
                write_all(file.fd, data)
                file.size += len(data)
                if file.lines is not None:
                    file.lines += lines
                file.dirty = True
                self.bytes_written += len(data)
        except OSError as error:
            for file, size, count in done:
                file.cut(size, count)
            _raise_if_full(error)
            raise

    def _open(self, name: str) -> _File:
        """Open a day's file, after the checkpoint names it."""
        self._close_idle()
        self._look_for(name)
        path = self._data_dir / name
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size = os.fstat(fd).st_size
        settled = self._settled.get(name) or read_counts(self._state_dir).get(name, Extent(0, 0))
        lines = 0 if size == 0 else settled.lines if settled.bytes == size else None
        file = self._files[name] = _File(path, fd, size, size, lines, lines)
        try:
            if settled.bytes != size or name not in self._settled:  # as where it was removed, and is begun again
                self.checkpoint()
            if size == 0:
                sync_folder(self._data_dir)
            elif os.pread(fd, 1, size - 1) != b"\n":  # a foreign end: our line begins on one of its own
                os.write(fd, b"\n")
                os.fdatasync(fd)
                file.size = file.durable = size + 1
                if lines is not None:
                    file.lines = file.durable_lines = lines + 1
        except OSError:
            os.close(fd)
            del self._files[name]
            raise
        log.info("writing to %s", path)
        return file

    def _close_idle(self) -> None:
        for name, file in sorted(self._files.items(), key=lambda item: _day_in(item[0])):
            if len(self._files) < OPEN_FILES:
                break
            if not file.dirty and not file.syncing and file.durable == file.size:
                os.close(file.fd)
                self._settled[name] = Extent(file.size, file.lines)
                del self._files[name]


def _day_in(name: str) -> str:
    found = DATA_FILE.fullmatch(name)
    return found[2] if found else ""


def _raise_if_full(error: OSError) -> None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise DiskFullError(error.errno, error.strerror) from error


def _last_lines(lines: bytes, have: int, want: int) -> tuple[bytes, int]:
    """Return the last `want` of the `have` lines, and how many these are."""
    return (lines, have) if want >= have else (lines.split(b"\n", have - want)[-1], want)
