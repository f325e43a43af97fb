"""The writer process: takes batches from all workers, appends them to the day's files, and says what is durable.

One thread, the main one, owns the sockets and the files. A second waits for `fdatasync`, so that reading and writing go
on meanwhile; at most one sync is under way. A third sends heartbeats, so that a disk that hangs is told apart from a
process that hangs. Only what a finished sync covers is acknowledged.
"""

import contextlib
import logging
import math
import os
import signal
import sys
import threading
import time
from bisect import bisect_left
from queue import SimpleQueue
from types import FrameType

import zmq

from pipeline import role
from pipeline.config import Config, from_child
from pipeline.days import NS_PER_MS, Calendar
from pipeline.errors import MdsError
from pipeline.files import WRITER_LOCK, claim_format
from pipeline.journal import Commit, DiskFullError, Journal, Verdict
from pipeline.wire import COMMITS_SOCKET, TICKS_SOCKET, WireError, decode_header, encode_commit
from pipeline.wire import Commit as CommitMessage

log = logging.getLogger("pipeline.writer")  # not __main__, as which it is run

DRAIN_BATCHES = 64  # taken before commits and the clock are looked at again
RECEIVE_BATCHES = 16  # ZeroMQ's queue for each worker: the spool is the queue, this only keeps the pipe full
REPEAT_S = 0.2  # a commit message may be lost: the last one is repeated
CHECKPOINT_S = 1.0
FILES_CHECK_S = 0.5
ROOM_CHECK_S = 0.5
FAULT_PAUSE_S = 1.0  # after a failed sync or a full disk, before taking again
HEARTBEAT_S = 0.5
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # of how long a sync takes


class Syncer(threading.Thread):
    """Syncs commits, one after the other, and makes `fd` readable when one is done."""

    def __init__(self) -> None:
        super().__init__(name="sync", daemon=True)
        self.fd = os.eventfd(0, os.EFD_CLOEXEC)
        self.since_s = 0.0  # monotonic; 0 when no sync is under way
        self.last_ms = 0.0
        self.longest_ms = 0.0  # since somebody set it back
        self.total_us = 0  # of those that are counted
        self.counts = [0] * (len(BOUNDS_S) + 1)  # of those that took no longer than each bound, and of all
        self._requests: SimpleQueue[Commit] = SimpleQueue()
        self._results: SimpleQueue[tuple[Commit, OSError | None]] = SimpleQueue()

    def request(self, commit: Commit) -> None:
        """Begin to sync."""
        self.since_s = time.monotonic()
        self._requests.put(commit)

    def result(self) -> tuple[Commit, OSError | None]:
        """Wait for the sync that is under way; the error if it has failed."""
        os.eventfd_read(self.fd)
        commit, error = self._results.get()
        lasted_s = time.monotonic() - self.since_s
        self.since_s = 0.0
        self.last_ms = lasted_s * 1000
        self.longest_ms = max(self.longest_ms, self.last_ms)
        if error is None:
            self.total_us += int(lasted_s * 1e6)
            first = bisect_left(BOUNDS_S, lasted_s)
            # Another thread reads them: they change all at once.
            self.counts = [count + (place >= first) for place, count in enumerate(self.counts)]
        return commit, error

    def run(self) -> None:
        """Serve requests for ever."""
        while True:
            commit = self._requests.get()
            error: OSError | None = None
            try:
                commit.sync()
            except OSError as failure:
                error = failure
            self._results.put((commit, error))
            os.eventfd_write(self.fd, 1)


class Writer:
    """The writer's loop. Its files are recovered before a socket is bound."""

    def __init__(self, config: Config, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        self._config = config
        self._context = context
        self._run_dir = config.runtime.run_dir
        self._interval_s = config.storage.commit_interval_ms / 1000
        self._reserve_bytes = config.storage.reserve_mb * 2**20
        started_ns = time.time_ns()
        self._boot = str(started_ns)
        line = role.StatusLine(context, self._run_dir, role.WRITER)  # of this thread
        self.journal = Journal(
            config.storage.data_dir,
            config.state_dir,
            Calendar(config.storage.timezone),
            started_ns // NS_PER_MS,
            on_event=line.send_event,
        )
        self._syncer = Syncer()
        self._syncing = False
        self._stopping = False
        self._busy_since_s = 0.0  # 0 while it waits for something to do
        self._taking = True
        self._why_not_taking = ""
        self._take_again_s = 0.0
        self._commit_due_s = 0.0  # 0: nothing to commit
        self._repeat_due_s = 0.0
        self._checkpoint_due_s = 0.0
        self._files_due_s = 0.0
        self._room_due_s = 0.0
        self._free_bytes = 0
        self._refused = 0
        self._failed_syncs = 0
        self._sync_has_failed = False

    def stop(self, *_: int | FrameType | None) -> None:
        """End after everything that has arrived is durable. A signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Record until stopped. Raises OSError when the disk cannot be used at all."""
        with role.StartSigns(self._context, self._run_dir, role.WRITER):
            if not self._recover():
                return
        pull: zmq.Socket[bytes] = self._context.socket(zmq.PULL)
        pull.setsockopt(zmq.RCVHWM, RECEIVE_BATCHES)
        pull.bind(role.endpoint(self._run_dir, TICKS_SOCKET))
        commits: zmq.Socket[bytes] = self._context.socket(zmq.PUB)
        commits.setsockopt(zmq.LINGER, 200)
        commits.bind(role.endpoint(self._run_dir, COMMITS_SOCKET))
        self._check_room(time.monotonic())
        self._syncer.start()
        threading.Thread(target=self._heartbeats, name="heartbeats", daemon=True).start()
        poller = zmq.Poller()
        poller.register(pull, zmq.POLLIN)
        poller.register(self._syncer.fd, zmq.POLLIN)
        while not self._stopping:
            poller.modify(pull, zmq.POLLIN if self._taking else 0)
            self._busy_since_s = 0.0
            ready = dict(poller.poll(self._poll_ms(time.monotonic())))
            self._busy_since_s = time.monotonic()
            if pull in ready:
                self._drain(pull)
            if self._syncing and self._syncer.fd in ready:  # a failed write may have taken the result already
                self._finish_sync()
                self._publish(commits)
            now_s = time.monotonic()
            self._check_files(now_s)
            self._check_room(now_s)
            if self._due_to_sync(now_s) or self._due_to_checkpoint(now_s):
                self._begin_sync(now_s)
            if now_s >= self._repeat_due_s:
                self._publish(commits)
        self._finish(pull, commits)

    def _recover(self) -> bool:
        """Read back the files; with a full disk, wait until there is room for what recovery has to write.

        False when told to stop meanwhile: nothing is known then, and no checkpoint may be written.
        """
        while not self._stopping:
            try:
                self.journal.recover()
            except DiskFullError as error:
                log.error("the disk is full, cannot begin: %s", error.strerror)
                time.sleep(FAULT_PAUSE_S)
            else:
                return True
        return False

    def _poll_ms(self, now_s: float) -> int:
        due = [self._repeat_due_s, self._room_due_s]
        if self._commit_due_s and not self._syncing:
            due.append(self._commit_due_s)
        return math.ceil(max(0.0, min(due) - now_s) * 1000)

    def _drain(self, pull: "zmq.Socket[bytes]") -> None:
        for _ in range(DRAIN_BATCHES):
            try:
                parts = pull.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if not self._take(parts):
                break
        if not self._commit_due_s and self.journal.dirty:
            self._commit_due_s = time.monotonic() + self._interval_s

    def _take(self, parts: list[bytes]) -> bool:
        """Write one batch; False when no more should be taken for now."""
        try:
            header = decode_header(parts[0])
            _, ticks, events = parts
            if self.journal.accept(header, ticks, events) is Verdict.HOLE:
                self._refused += 1
        except (WireError, ValueError) as error:
            log.error("a message that is no batch was dropped: %s", error)
        except DiskFullError:
            self._pause("the disk is full")
            return False
        except OSError as error:
            log.error("writing failed: %s", error)
            self._roll_back()
            return False
        return True

    def _due_to_sync(self, now_s: float) -> bool:
        return not self._syncing and 0 < self._commit_due_s <= now_s

    def _due_to_checkpoint(self, now_s: float) -> bool:
        """Tell whether nothing comes any more, so that the last commit would stay out of the checkpoint."""
        idle = not self._syncing and not self._commit_due_s
        return idle and self.journal.checkpoint_due and now_s >= self._checkpoint_due_s

    def _begin_sync(self, now_s: float) -> None:
        due = now_s >= self._checkpoint_due_s
        if due:
            self._checkpoint_due_s = now_s + CHECKPOINT_S
        self._commit_due_s = 0.0
        self._syncing = True
        self._syncer.request(self.journal.begin_commit(checkpoint=due))

    def _finish_sync(self) -> None:
        commit, error = self._syncer.result()
        self._syncing = False
        if error is None:
            self.journal.committed(commit)
            self._sync_has_failed = False
        else:
            self._failed_syncs += 1
            is_first = not self._sync_has_failed
            self._sync_has_failed = True
            log.error("syncing to disk failed (%s): going back to the last commit, workers send again", error.strerror)
            self._roll_back()
            if is_first:  # once for a row of them: every failure brings these events back to be written again
                self.journal.log_event("sync_failed", {"error": error.strerror, "syncs_failed": self._failed_syncs})
        if self.journal.dirty and not self._commit_due_s:
            self._commit_due_s = time.monotonic() + self._interval_s

    def _roll_back(self) -> None:
        if self._syncing:  # it must not acknowledge what is being taken back
            self._syncer.result()
            self._syncing = False
        self.journal.roll_back()
        self._boot = str(time.time_ns())
        log.debug("back at the last commit, the workers are told so by the boot id %s", self._boot)
        self._commit_due_s = time.monotonic() + FAULT_PAUSE_S
        self._pause("the disk has failed")

    def _pause(self, why: str) -> None:
        self._take_again_s = time.monotonic() + FAULT_PAUSE_S
        if why != self._why_not_taking:
            log.error("%s: not storing, the spools have what arrives meanwhile", why)
            self.journal.log_event("storing_paused", {"cause": why})
        self._taking, self._why_not_taking = False, why

    def _check_files(self, now_s: float) -> None:
        """See that what is written to is still in the folder."""
        if now_s >= self._files_due_s and not self._syncing:
            self._files_due_s = now_s + FILES_CHECK_S
            if not self.journal.keep_in_place():
                self._roll_back()

    def _check_room(self, now_s: float) -> None:
        """Stop taking below the reserve, and take again when there is room."""
        if now_s < self._room_due_s:
            return
        self._room_due_s = now_s + ROOM_CHECK_S
        usage = os.statvfs(self._config.storage.data_dir)
        self._free_bytes = usage.f_bavail * usage.f_frsize
        if self._free_bytes < self._reserve_bytes:
            self._pause(f"less than storage.reserve_mb = {self._config.storage.reserve_mb} MB are free")
        elif not self._taking and now_s >= self._take_again_s and not self._sync_has_failed:
            log.warning("storing again")
            self._taking, self._why_not_taking = True, ""
            self.journal.log_event("storing_resumed", {})

    def _publish(self, commits: "zmq.Socket[bytes]") -> None:
        self._repeat_due_s = time.monotonic() + REPEAT_S
        journal = self.journal
        message = CommitMessage(self._boot, self._taking, journal.durable, journal.high, journal.retired)
        commits.send(encode_commit(message))

    def _finish(self, pull: "zmq.Socket[bytes]", commits: "zmq.Socket[bytes]") -> None:
        """Store what has arrived, make it durable, say so."""
        while self._taking and pull.poll(0):
            self._drain(pull)
        if self._syncing:
            self._finish_sync()
        self._check_files(math.inf)  # what is removed now could not be put back later
        while self._syncing or self.journal.dirty:
            if not self._syncing:
                self._begin_sync(time.monotonic())
            self._finish_sync()
            if not self._taking:
                break
        self._publish(commits)
        with contextlib.suppress(OSError):
            self.journal.checkpoint()
        self.journal.close()
        log.info("ended, %d ticks written", self.journal.ticks_written)

    def _heartbeats(self) -> None:
        line = role.StatusLine(self._context, self._run_dir, role.WRITER)
        pause = threading.Event()  # bears a clock that is shifted to try another day, as time.sleep does not
        while True:
            longest_ms, self._syncer.longest_ms = self._syncer.longest_ms, 0.0
            since_s = min((s for s in (self._syncer.since_s, self._busy_since_s) if s), default=0.0)
            counts = self._syncer.counts
            line.send(
                "status",
                state="recording" if self._taking else "paused",
                reason=self._why_not_taking,
                bytes_written=self.journal.bytes_written,
                commits=counts[-1],
                commit_ms=round(self._syncer.last_ms, 3),
                commit_ms_max=round(longest_ms, 3),
                commit_us=self._syncer.total_us,
                commit_bounds_s=BOUNDS_S,
                commit_counts=counts,
                syncing_since_s=round(time.monotonic() - since_s, 3) if since_s else None,
                syncs_failed=self._failed_syncs,
                batches_refused=self._refused,
                free_bytes=self._free_bytes,
            )
            pause.wait(HEARTBEAT_S)


def main() -> int:
    """Run the writer as the supervisor's child; returns the exit code."""
    config = from_child()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    role.set_up_log(config, role.WRITER, context)
    try:
        role.Lock(role.lock_path(config, role.WRITER)).acquire(config.hash)
        config.state_dir.mkdir(parents=True, exist_ok=True)
        role.Lock(config.state_dir / WRITER_LOCK).acquire(config.hash)
        claim_format(config.state_dir)
        writer = Writer(config, context)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, writer.stop)
        role.spare_collector()  # what recovery adds is little
        writer.run()
    except MdsError as error:
        log.error("%s", error)
        return error.exit_code
    except Exception:
        log.exception("the writer has failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
