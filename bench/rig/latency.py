"""How long after its receive time a tick was in the file, and how long until it was durable, seen from outside.

A process of its own looks on, so that nothing need be believed of what the recorder tells about itself: the kernel
wakes it at each write into the data folder, and it notes the file's size, and then the time. A line whose end is
within that size was written by then. It listens to the writer's commits too, and notes when each stream's durable mark
moves: all ticks up to it were durable by then, for what the writer says is checked by the tests that cut its power.

What comes out are upper bounds: the time in which this process was woken, and its turn on a busy core, are in them.
The receive time of a tick, which is when the worker had its frame, is what its line says. Both clocks are the same.
"""

import contextlib
import ctypes
import os
import signal
import struct
import time
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import zmq
from numpy.typing import NDArray

from bench.rig.compare import by_stream
from pipeline.clock import ReceiveClock
from pipeline.files import DATA_FILE, is_tick_file_name
from pipeline.role import endpoint
from pipeline.store.files import Chunk
from pipeline.wire import COMMITS_SOCKET, StreamId, decode_commit

ANSWER_S: Final = 60.0  # for the process to start, and to hand over what it has noted
CHECK_MS: Final = 1000  # how often its clock is compared with the wall clock
QUIET_MS: Final = 150  # at the end it goes on until nothing has come for so long
ANCHORS: Final = 100
US_PER_MS: Final = 1000
NEVER: Final = -1

_IN_MODIFY: Final = 0x2
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, bytes of the name that follows
_READ_BYTES: Final = 64 * 2**10

Longs = NDArray[np.int64]


@dataclass
class Notes:
    """Marks of something that grows, and when each was seen, in ns."""

    marks: "array[int]" = field(default_factory=lambda: array("q"))
    times: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, mark: int, time_ns: int) -> None:
        """Take down a mark that was reached by then."""
        self.marks.append(mark)
        self.times.append(time_ns)

    def reached(self, marks: Longs) -> Longs:
        """Return by when each of `marks` had been reached for good, in ns; NEVER where that was not seen.

        What was taken back, as by a writer whose sync failed, counts from when it was reached again. Afterwards
        nothing more is added.
        """
        return self._times[np.searchsorted(self._lowest_from_here, marks)]

    @cached_property
    def _lowest_from_here(self) -> Longs:
        return np.minimum.accumulate(np.array(self.marks, np.int64)[::-1])[::-1]

    @cached_property
    def _times(self) -> Longs:
        return np.append(np.array(self.times, np.int64), NEVER)


@dataclass
class Seen:
    """What the process has noted: sizes by the file's name, and durable numbers by stream."""

    written: defaultdict[str, Notes] = field(default_factory=lambda: defaultdict(Notes))
    durable: defaultdict[StreamId, Notes] = field(default_factory=lambda: defaultdict(Notes))


class Probe:
    """The process that looks on. A context manager; neither folder need have anything in it yet.

    It is to be there before the recorder is, and until that has ended.
    """

    def __init__(self, data_dir: Path, run_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_look_on, args=(theirs, data_dir, run_dir), daemon=True)
        # Ctrl-C reaches every process of a terminal; this one is ended by its owner, and passes the mask on to it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        try:
            self._receive()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process.pid is not None
        return self._process.pid

    def seen(self) -> Seen:
        """End it, and return what it has noted."""
        self._pipe.send("end")
        found: Seen = self._receive()
        self._process.join()
        return found

    def close(self) -> None:
        """End it, if it still runs."""
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def _receive(self) -> Any:
        """Return what it says next. Raises OSError where it has died, or says nothing."""
        try:
            if self._pipe.poll(ANSWER_S):
                return self._pipe.recv()
        except EOFError:
            pass
        raise ChildProcessError("the process that looks on for this benchmark has died, or hangs")


@dataclass(frozen=True)
class Delay:
    """How long something took, in milliseconds, None of nothing."""

    p50: float | None = None
    p99: float | None = None
    max: float | None = None
    max_ever: float | None = None  # with those that came too early to count
    count: int = 0
    not_seen: int = 0  # of those that count, those of which the end was not seen: they are in no figure


class Latency:
    """Puts ticks and what was seen together, chunk by chunk. Ticks that were received before `since_ns` count apart."""

    def __init__(self, seen: Seen, since_ns: int) -> None:
        self._seen = seen
        self._since_us = since_ns // US_PER_MS
        self._early_us = [0, 0]
        self._took_us: tuple[list[NDArray[np.int32]], list[NDArray[np.int32]]] = ([], [])
        self._not_seen = [0, 0]

    def take(self, chunk: Chunk, ticks: pl.DataFrame) -> None:
        """Measure the ticks of whole lines. Of lines that are not all ticks, none are."""
        ends = chunk.first.offset + np.flatnonzero(np.frombuffer(chunk.data, np.uint8) == ord("\n")) + 1
        if len(ends) != ticks.height:
            self._not_seen = [missing + ticks.height for missing in self._not_seen]
            return
        received_us = ticks["timestamp"].to_physical().to_numpy()
        numbers = ticks["seq"].to_numpy()
        durable_ns = np.full(len(ends), NEVER)
        for stream, mine in by_stream(ticks):
            durable_ns[mine] = self._seen.durable[stream].reached(numbers[mine])
        for place, at_ns in enumerate((self._seen.written[chunk.first.path.name].reached(ends), durable_ns)):
            self._measure(place, received_us, at_ns)

    def written(self) -> Delay:
        """Return how long it took from receiving until the line was in the file."""
        return self._delay(0)

    def durable(self) -> Delay:
        """Return how long it took from receiving until the tick was durable."""
        return self._delay(1)

    def _measure(self, place: int, received_us: Longs, at_ns: Longs) -> None:
        took_us = np.minimum(at_ns // US_PER_MS - received_us, np.iinfo(np.int32).max)
        is_seen, counts = at_ns != NEVER, received_us >= self._since_us
        self._not_seen[place] += int((~is_seen & counts).sum())
        self._took_us[place].append(took_us[is_seen & counts].astype(np.int32))
        self._early_us[place] = max(self._early_us[place], int(took_us[is_seen & ~counts].max(initial=0)))

    def _delay(self, place: int) -> Delay:
        took_ms = np.concatenate([np.zeros(0, np.int32), *self._took_us[place]]) / US_PER_MS
        early_ms, not_seen = self._early_us[place] / US_PER_MS, self._not_seen[place]
        if not len(took_ms):
            return Delay(max_ever=early_ms or None, not_seen=not_seen)
        p50, p99, most = (round(float(value), 3) for value in np.percentile(took_ms, (50, 99, 100)))
        return Delay(p50, p99, most, max(most, early_ms), len(took_ms), not_seen)


def _look_on(pipe: Connection, data_dir: Path, run_dir: Path) -> None:
    """Note what is written and committed until told to end, or until nobody is there who could."""
    # A turn of another process between its two readings makes a clock late; of many the last one without is the best.
    clock = max((ReceiveClock() for _ in range(ANCHORS)), key=ReceiveClock.now_ns)
    with zmq.Context() as context, context.socket(zmq.SUB) as commits, _watch(data_dir) as writes:
        commits.setsockopt(zmq.LINGER, 0)
        commits.subscribe(b"")
        commits.connect(endpoint(run_dir, COMMITS_SOCKET))
        with contextlib.suppress(EOFError, OSError):
            pipe.send("ready")
            pipe.send(_notes(pipe, clock, data_dir, writes, commits))


def _notes(pipe: Connection, clock: ReceiveClock, data_dir: Path, writes: int, commits: "zmq.Socket[bytes]") -> Seen:
    """Return what there was to note until something came through the pipe, and a little longer. Raises EOFError."""
    seen = Seen()
    latest: dict[StreamId, int] = {}
    check_s = 0.0
    poller = zmq.Poller()
    for source in (writes, commits, pipe.fileno()):
        poller.register(source, zmq.POLLIN)
    wait_ms = CHECK_MS
    while (ready := dict(poller.poll(wait_ms))) or wait_ms == CHECK_MS:
        if writes in ready:
            for name in _changed(os.read(writes, _READ_BYTES)):
                size = (data_dir / name).stat().st_size  # before the time: it had this size by then
                seen.written[name].add(size, clock.now_ns())
        if commits in ready:
            message, now_ns = commits.recv(), clock.now_ns()
            for stream, mark in decode_commit(message).durable.items():
                if latest.get(stream) != mark.seq:
                    latest[stream] = mark.seq
                    seen.durable[stream].add(mark.seq, now_ns)
        if pipe.fileno() in ready:
            pipe.recv()
            poller.unregister(pipe.fileno())
            wait_ms = QUIET_MS
        if time.monotonic() - check_s > CHECK_MS / 1000:
            clock.check()
            check_s = time.monotonic()
    return seen


@contextlib.contextmanager
def _watch(folder: Path) -> Iterator[int]:
    """Yield a descriptor that gets an event at each write into a file of a folder, see inotify(7)."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_CLOEXEC)
    try:
        if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(folder), _IN_MODIFY) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
        yield watch
    finally:
        if watch >= 0:
            os.close(watch)


def _changed(events: bytes) -> set[str]:
    """Return which tick files were written to.

    Where the kernel has dropped events, a later one tells of the same file, and of what was written meanwhile.
    """
    names = set()
    at = 0
    while at < len(events):
        length = _EVENT.unpack_from(events, at)[-1]
        at += _EVENT.size + length
        names.add(events[at - length : at].rstrip(b"\0").decode())
    return {name for name in names if is_tick_file_name(name) and DATA_FILE.fullmatch(name)}
