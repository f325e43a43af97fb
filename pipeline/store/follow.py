"""The ticks as they are stored, read from the files as they grow. It needs no running service, and disturbs none.

The files of the two latest days are looked at each time, as are those to which something was added of late: a spool
that waited for long brings ticks of an earlier day. The others are looked at once a second. A number that a stream has
come to in a day's file does not come again from it, see `growing` for why it might.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from pipeline import config
from pipeline.days import Calendar
from pipeline.errors import MdsError
from pipeline.instruments.symbols import Symbols
from pipeline.store.files import date_of, event_files, tick_files
from pipeline.store.format import require_known
from pipeline.store.growing import BLOCK_BYTES, Chunk, GrowingFile
from pipeline.store.seek import chunks_back, end_of_lines, offset_since, received_at
from pipeline.store.selection import Found, Seen, Selection

log = logging.getLogger(__name__)

POLL_S = 0.02  # between two looks at the files
SCAN_S = 1.0  # between two looks at the files of earlier days, and for files that the folder's time did not tell of
AWAKE_S = 60.0  # that an earlier day's file is looked at each time after something was added to it
LATEST_DAYS = 2  # around midnight both grow
PRIMED_BYTES = 2**20  # before the place where following begins: which numbers were there before
BACK_BYTES = 512 * 2**20  # that are searched for the last ticks of an instrument: about a second
BAD_LINES_LOGGED = 10  # of each file


def follow(
    data_dir: Path | str | None = None,
    tokens: Iterable[int | str] | int | str | None = None,
    modes: Iterable[str] | str | None = None,
    *,
    since: datetime | Literal["start"] | None = None,
    poll_s: float = POLL_S,
    stop: threading.Event | None = None,
    timezone: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the ticks of a data folder as they are stored, as dicts of what the lines hold, each once, without end.

    `tokens` are instrument tokens or symbols; without any, and without `modes`, it is all ticks. It begins with what
    is stored from this call on; with `since`, at the beginning of today's file ("start"), or with what was received
    since that time. A time without an offset, and what is today, are of the storage time zone. Without `data_dir`
    folder and time zone are those of the configuration. Files and folder need not be there yet.

    The files are looked at every `poll_s` seconds. Within a stream ticks come in order. Lines that are no ticks are
    named in the log and passed over. When `stop` is set it ends once it has yielded what was stored before. Raises
    MdsError where a symbol is not known or a file cannot be read.
    """
    if isinstance(since, str) and since != "start":
        raise MdsError(f'since={since!r}: it is a datetime, or "start" for the beginning of today')
    storage = config.load().storage if data_dir is None else config.Storage()
    folder = storage.data_dir if data_dir is None else Path(data_dir)
    calendar = Calendar(timezone or storage.timezone)
    selection = Selection(None if tokens is None else Symbols(folder).resolve(tokens), modes)
    follower = Follower(folder, selection, calendar, since=since)
    return _until_stopped(follower, poll_s, stop)


def _until_stopped(follower: "Follower", poll_s: float, stop: threading.Event | None) -> Iterator[dict[str, Any]]:
    while True:
        is_last = stop is not None and stop.is_set()
        for batch in follower.new():
            for found in batch:
                yield found.tick
        if is_last:
            return
        if stop is None:
            time.sleep(poll_s)
        else:
            stop.wait(poll_s)


class Follower:
    """The files of a folder, followed from now on or, with `since`, from then on. Nothing here waits.

    `now_s` is any clock that goes forward. All raise MdsError where a file is there and cannot be read.
    """

    def __init__(
        self,
        data_dir: Path,
        selection: Selection,
        calendar: Calendar,
        *,
        since: datetime | Literal["start"] | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_dir = data_dir
        self._selection = selection
        self._now_s = now_s
        self._since = since.replace(tzinfo=since.tzinfo or calendar.zone) if isinstance(since, datetime) else None
        self._awake: dict[Path, _Followed] = {}  # looked at each time
        self._asleep: dict[Path, int] = {}  # looked at once a second; up to which byte they are read
        self._folder_times = (-1, -1)  # of change, at the last two looks
        self._next_scan_s = now_s()
        self._begins: dict[Path, int] = {}  # of what there was at the beginning, oldest first
        first_day = date.max  # of the files of which something is read that was there before
        if since is not None:
            first_day = self._since.astimezone(calendar.zone).date() if self._since else calendar.now().date()
        with _readable(self._data_dir):
            require_known({self._data_dir}, event_files(self._data_dir)[-1:])
            self._begin(first_day)

    def new(self) -> Iterator[list[Found]]:
        """Yield what was stored since the last time, in the order of each file, the oldest day's first."""
        with _readable(self._data_dir):
            self._scan()
            # A stream writes to the older file first: looked at last, it has what comes before the newer one's ticks.
            changed = [
                (followed, size)
                for _, followed in sorted(self._awake.items(), key=itemgetter(0), reverse=True)
                if (size := followed.file.look()) is not None
            ]
            for followed, size in reversed(changed):
                followed.changed_s = self._now_s()
                for chunk in followed.file.read(size):
                    batch = [found for found in self._pick(chunk, followed) if followed.seen.is_new(found.tick)]
                    if batch:
                        yield batch

    def last(self, number: int) -> list[Found]:
        """Return the last ticks that were there at the beginning, oldest first.

        No more than `BACK_BYTES` are searched: where there are fewer in them, it is these.
        """
        with _readable(self._data_dir):
            return list(islice(self._backwards(), number))[::-1]

    def _backwards(self) -> Iterator[Found]:
        left = BACK_BYTES
        for path, end in reversed(self._begins.items()):
            for chunk in chunks_back(path, end):
                if left <= 0:
                    log.warning(
                        "%s: searched for the last ticks from byte %d on only", path, chunk.offset_of(len(chunk.lines))
                    )
                    return
                left -= BLOCK_BYTES
                yield from reversed(list(self._selection.pick(chunk.lines, _pass_over)))

    def _begin(self, first_day: date) -> None:
        paths = tick_files(self._data_dir)
        for path in paths:
            with suppress(FileNotFoundError):
                size = path.stat().st_size
                day = date_of(path)
                if day is not None and day >= first_day:
                    offset = offset_since(path, self._since, size) if self._since and day == first_day else 0
                    self._awake[path] = _Followed(GrowingFile(path, offset), self._now_s())
                elif path in paths[-LATEST_DAYS:]:
                    self._wake(path, size)
                else:
                    self._asleep[path] = size
                self._begins[path] = self._awake[path].file.offset if path in self._awake else size

    def _scan(self) -> None:
        """Find out which files there are, if that may have changed."""
        try:
            folder_time = self._data_dir.stat().st_mtime_ns
        except FileNotFoundError:
            folder_time = 0
        # It steps some milliseconds at a time: what came in the same step as a change is found at the next look.
        is_calm = self._folder_times == (folder_time, folder_time)
        self._folder_times = self._folder_times[1], folder_time
        now_s = self._now_s()
        if is_calm and now_s < self._next_scan_s:
            return
        self._next_scan_s = now_s + SCAN_S
        paths = tick_files(self._data_dir)
        latest = paths[-LATEST_DAYS:]
        for path in paths:
            with suppress(FileNotFoundError):
                if path not in self._awake and path not in self._asleep:
                    self._awake[path] = _Followed(GrowingFile(path), now_s)
                elif path in self._asleep and (path in latest or path.stat().st_size != self._asleep[path]):
                    self._wake(path, self._asleep[path])
        for path, followed in list(self._awake.items()):
            if path not in latest and now_s - followed.changed_s > AWAKE_S:
                self._asleep[path] = followed.file.offset
                del self._awake[path]

    def _wake(self, path: Path, size: int) -> None:
        """Follow a file from the end of the lines in its first `size` bytes on. Raises FileNotFoundError."""
        end = end_of_lines(path, size)
        followed = _Followed(GrowingFile(path, max(end - PRIMED_BYTES, 0)), self._now_s())
        for chunk in followed.file.read(end):
            for found in Selection().pick(chunk.lines, _pass_over):  # the first line may be part of one
                followed.seen.is_new(found.tick)
        self._awake[path] = followed
        self._asleep.pop(path, None)

    def _pick(self, chunk: Chunk, followed: "_Followed") -> Iterator[Found]:
        def bad(index: int, why: str) -> None:
            followed.bad += 1
            if followed.bad <= BAD_LINES_LOGGED:
                more = "; mds verify names what else is wrong" if followed.bad == BAD_LINES_LOGGED else ""
                place = f"{followed.file.path} byte {chunk.offset_of(index)}"
                log.warning("%s: no tick, passed over: %s%s", place, why, more)

        for found in self._selection.pick(chunk.lines, bad):
            received = received_at(found.tick["timestamp"]) if self._since else None
            if self._since is None or (received and received >= self._since):
                yield found


@dataclass
class _Followed:
    """A file that is looked at each time."""

    file: GrowingFile
    changed_s: float  # when it was last found to have changed
    seen: Seen = field(default_factory=Seen)
    bad: int = 0  # lines that are no ticks


def _pass_over(_index: int, _why: str) -> None:
    """Say nothing of a line that is no tick: it was there before the beginning."""


@contextmanager
def _readable(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MdsError(f"{error.filename or data_dir}: cannot be read: {error.strerror}") from None
