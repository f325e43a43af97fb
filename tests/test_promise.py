"""The promise, without sockets: each spooled tick is stored exactly once and in order, whatever dies or is lost.

Real spools, outboxes, messages and a real journal; between them a road that refuses, loses and repeats, and a disk that
fills, fails and forgets what was not synced. Hypothesis deals the disasters; then the road and the disk are mended,
everything has to drain, and the files have to hold what was spooled, and nothing else.
"""

import contextlib
import errno
import os
import random
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from unittest import mock

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.days import NS_PER_S, Calendar
from pipeline.epoch import close_epoch, open_epoch
from pipeline.files import CHECKPOINT, DATA_FILE, event_file_name, tick_file_name
from pipeline.journal import Commit, DiskFullError, Journal, Verdict
from pipeline.outbox import Batch, Loss, Outbox
from pipeline.spool import Incoming
from pipeline.wire import Commit as CommitMessage
from pipeline.wire import Mark, StreamId, decode_commit, decode_header, encode_commit
from tests.builders import T0_NS, ZONE, a_config, encode_frames, event_line, tick_line

CONNECTIONS = (1, 2)
MEMORY = Path("/dev/shm")  # noqa: S108  faster than a disk; the folder in it is private
QUEUE = 6  # batches between a worker and the writer
COMMITS_KEPT = 8  # that may still arrive, late or again
ROUNDS = 400  # of a mended road, in which everything has to drain
MIDNIGHT_NS = T0_NS + (14 * 60 + 50) * 60 * NS_PER_S  # the one after T0
TICK_END = re.compile(rb'"connection_id":(\d),"epoch":(\d+),"seq":(\d+)\}\n')
EVENT_END = re.compile(rb'"source":"worker-(\d)","epoch":(\d+),"event_seq":(\d+)\}\n')

each_connection = st.sampled_from(CONNECTIONS)


class Disk:
    """Stands in for the system calls that make data durable or fail to; remembers what a power loss would leave."""

    def __init__(self, data_dir: Path) -> None:
        self.synced: dict[Path, int] = {}
        self.fault = 0  # errno of writes and syncs of data files
        self._data_dir = data_dir
        self._write = os.write

    def files(self) -> list[Path]:
        """Return the data files, oldest first within a kind."""
        return sorted(path for path in self._data_dir.glob("*.jsonl") if DATA_FILE.fullmatch(path.name))

    def write(self, fd: int, data: bytes) -> int:
        """Write; at fault half of it."""
        if self.fault and self._is_data(self._path(fd)):
            written = self._write(fd, data[: len(data) // 2])
            if self.fault == errno.ENOSPC and written:
                return written
            raise OSError(self.fault, os.strerror(self.fault))
        return self._write(fd, data)

    def sync(self, fd: int) -> None:
        """Remember how far the file is safe."""
        path = self._path(fd)
        if self._is_data(path):
            if self.fault == errno.EIO:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self.synced[path] = os.fstat(fd).st_size

    def safe_size(self, path: Path) -> int:
        """Return what of the file a power loss leaves for certain."""
        return min(self.synced.get(path, 0), path.stat().st_size)

    def _path(self, fd: int) -> Path:
        return Path(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115  a descriptor is not a path

    def _is_data(self, path: Path) -> bool:
        return path.parent == self._data_dir and path.suffix == ".jsonl"


class Promise(RuleBasedStateMachine):
    """Two workers, one writer, and everything that can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.exit = contextlib.ExitStack()
        folder = Path(self.exit.enter_context(tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)))
        self.config = a_config(folder)
        self.calendar = Calendar(ZONE)
        data_dir = self.config.storage.data_dir
        self.config.state_dir.mkdir(parents=True)
        self.disk = Disk(data_dir)
        for name, fake in (
            ("os.write", self.disk.write),
            ("os.fdatasync", self.disk.sync),
            ("os.fsync", self.disk.sync),
            ("pipeline.spool.SEGMENT_BYTES", 400),
            ("pipeline.outbox.READ_BYTES", 300),
            ("pipeline.journal.OPEN_FILES", 3),
            ("pipeline.recovery.SCAN_BYTES", 100),
        ):
            self.exit.enter_context(mock.patch(name, fake))
        self.boot_ns = 0  # goes on whatever the wall clock does
        self.offsets_ns = dict.fromkeys(CONNECTIONS, MIDNIGHT_NS - 60 * NS_PER_S)  # of the epochs' receive clocks
        self.wall_offset_ns = MIDNIGHT_NS - 60 * NS_PER_S
        self.now_s = 100.0
        self.expected: dict[tuple[StreamId, str], list[tuple[str, bytes]]] = defaultdict(list)
        self.outboxes: dict[int, Outbox] = {}
        self.roads: dict[int, list[Batch]] = {c: [] for c in CONNECTIONS}
        self.refuses = dict.fromkeys(CONNECTIONS, False)
        self.published: list[tuple[int, bytes]] = []
        self.publications = 0
        self.heard = dict.fromkeys(CONNECTIONS, 0)  # the last publication that arrived
        self.boots = 0
        self.commit: Commit | None = None
        self.sync_failed = False
        self.losses: list[Loss] = []

    @initialize()
    def begin(self):
        self.start_writer()
        for connection_id in CONNECTIONS:
            self.start_worker(connection_id)

    # The workers.

    def start_worker(self, connection_id):
        self.offsets_ns[connection_id] = self.wall_offset_ns
        opening = open_epoch(self.config, connection_id, self.now_ns(connection_id))
        assert opening.predecessor.end != "unknown"

        def send(batch: Batch) -> bool:
            road = self.roads[connection_id]
            if self.refuses[connection_id] or len(road) >= QUEUE:
                return False
            road.append(batch)
            return True

        self.outboxes[connection_id] = Outbox(
            connection_id,
            opening,
            calendar=self.calendar,
            encode=lambda epoch, frames: encode_frames(connection_id, epoch, frames),
            send=send,
            on_loss=self.losses.append,
        )

    def now_ns(self, connection_id):
        self.boot_ns += 1000
        return self.boot_ns + self.offsets_ns[connection_id]

    @rule(connection_id=each_connection, sizes=st.lists(st.integers(0, 4), min_size=1, max_size=5))
    def frames_arrive(self, connection_id, sizes):
        live = self.outboxes[connection_id].live
        frames, seq = [], live.spool.last.seq
        for ticks in sizes:
            recv_ns = self.now_ns(connection_id)
            frames.append(Incoming(recv_ns, ticks, b"f" * (1 + 8 * ticks)))
            for n in range(seq + 1, seq + ticks + 1):
                line = tick_line(n, connection_id=connection_id, epoch=live.stream.epoch)
                self.expected[live.stream, "ticks"].append((tick_file_name(self.calendar.day_of(recv_ns)), line))
            seq += ticks
        live.append_frames(frames)

    @rule(connection_id=each_connection)
    def an_event_happens(self, connection_id):
        live = self.outboxes[connection_id].live
        recv_ns = self.now_ns(connection_id)
        line = event_line(live.spool.last.event_seq + 1, connection_id=connection_id, epoch=live.stream.epoch)
        self.expected[live.stream, "events"].append((event_file_name(self.calendar.day_of(recv_ns)), line))
        live.append_event(recv_ns, line)

    @rule(connection_id=each_connection)
    def no_instruments_are_left(self, connection_id):
        self.outboxes[connection_id].live.spool.append_wanted(self.now_ns(connection_id), wanted=False)

    @rule(connection_id=each_connection)
    def pump(self, connection_id):
        self.outboxes[connection_id].pump()

    @rule(connection_id=each_connection, back_s=st.sampled_from([0, 0, 30, 86_400]), lost=st.integers(0, QUEUE))
    def a_worker_is_killed(self, connection_id, back_s, lost):
        """Its epoch is left over; the clock may have been set back meanwhile."""
        self.outboxes[connection_id].close()
        del self.roads[connection_id][len(self.roads[connection_id]) - lost :]
        self.wall_offset_ns -= back_s * NS_PER_S
        self.start_worker(connection_id)

    @rule(connection_id=each_connection)
    @precondition(lambda self: any(outbox.done for outbox in self.outboxes.values()))
    def a_worker_is_stopped(self, connection_id):
        if self.outboxes[connection_id].done:
            self.end_worker(connection_id)
            self.start_worker(connection_id)

    def end_worker(self, connection_id):
        outbox = self.outboxes[connection_id]
        close_epoch(self.config, connection_id, outbox.live.stream.epoch, outbox.live.spool)

    # The road and the clock.

    @rule(connection_id=each_connection)
    def the_road_refuses_or_takes(self, connection_id):
        self.refuses[connection_id] = not self.refuses[connection_id]

    @rule(connection_id=each_connection, index=st.integers(0, QUEUE - 1))
    def a_batch_is_lost(self, connection_id, index):
        del self.roads[connection_id][index : index + 1]

    @rule(connection_id=each_connection, index=st.integers(0, QUEUE - 1))
    def a_batch_comes_twice(self, connection_id, index):
        self.roads[connection_id] += self.roads[connection_id][index : index + 1]

    @rule(connection_id=each_connection, index=st.integers(1, COMMITS_KEPT))
    def a_commit_arrives(self, connection_id, index):
        """Any may be lost, late or repeated; ZeroMQ keeps their order, over a new writer's start as well."""
        if len(self.published) < index:
            return
        number, message = self.published[-index]
        if number >= self.heard[connection_id]:
            self.heard[connection_id] = number
            self.outboxes[connection_id].committed(decode_commit(message), self.now_s)

    @rule(seconds=st.sampled_from([0.1, 0.6, 2.0, 50.0, 3600.0 * 20]))
    def time_passes(self, seconds):
        self.now_s += seconds
        self.boot_ns += int(seconds * NS_PER_S)

    @rule(connection_id=each_connection)
    def the_writer_seems_to_stall(self, connection_id):
        """The outbox sends again what is still on the road, in batches of another size."""
        self.now_s += 2.0
        self.a_commit_is_published()
        self.a_commit_arrives(connection_id, 1)
        self.outboxes[connection_id].pump()

    @rule(connection_id=each_connection)
    def all_goes_well_for_a_while(self, connection_id):
        self.batches_arrive(connection_id, QUEUE)
        if self.commit is None:
            self.a_sync_begins(checkpoint=False)
        self.a_sync_ends()
        self.a_commit_is_published()
        self.a_commit_arrives(connection_id, 1)
        self.outboxes[connection_id].pump()

    # The writer.

    def start_writer(self):
        self.boots += 1
        self.commit, self.sync_failed = None, False
        self.journal = Journal(self.config.storage.data_dir, self.config.state_dir, self.calendar, 10**15 + self.boots)
        fault, self.disk.fault = self.disk.fault, 0
        self.journal.recover()
        self.disk.fault = fault

    def roll_back(self):
        self.boots += 1
        self.commit, self.sync_failed = None, False
        fault, self.disk.fault = self.disk.fault, 0
        self.journal.roll_back()
        self.disk.fault = fault
        self.disk.synced = {path: self.disk.safe_size(path) for path in self.disk.synced}

    @rule(connection_id=each_connection, count=st.integers(1, QUEUE))
    def batches_arrive(self, connection_id, count):
        for _ in range(count):
            if self.roads[connection_id]:
                head, ticks, events = self.roads[connection_id].pop(0)
                self.accept(head, ticks, events)

    def accept(self, head, ticks, events):
        before = {path: path.stat().st_size for path in self.disk.files()}
        high = dict(self.journal.high)
        header = decode_header(head)
        try:
            verdict = self.journal.accept(header, ticks, events)
        except DiskFullError:
            assert {path: path.stat().st_size for path in self.disk.files() if path.stat().st_size} == {
                path: size for path, size in before.items() if size
            }
            assert self.journal.high.get(header.stream) == high.get(header.stream)
        except OSError:
            self.roll_back()
        else:
            if verdict is not Verdict.STORED:
                assert self.journal.high.get(header.stream) in (None, high.get(header.stream))

    @rule(checkpoint=st.booleans())
    @precondition(lambda self: self.commit is None)
    def a_sync_begins(self, checkpoint):
        self.commit = self.journal.begin_commit(checkpoint=checkpoint)
        try:
            self.commit.sync()
        except OSError:
            self.sync_failed = True

    @rule()
    @precondition(lambda self: self.commit is not None)
    def a_sync_ends(self):
        if self.sync_failed:
            self.roll_back()
        elif self.commit is not None:
            self.journal.committed(self.commit)
            self.commit = None

    @rule()
    def a_commit_is_published(self):
        journal = self.journal
        message = CommitMessage(f"boot-{self.boots}", True, journal.durable, journal.high, journal.retired)
        self.publications += 1
        self.published = [*self.published, (self.publications, encode_commit(message))][-COMMITS_KEPT:]

    @rule(fault=st.sampled_from([0, errno.ENOSPC, errno.EIO]))
    def the_disk_fills_or_fails_or_is_mended(self, fault):
        self.disk.fault = fault

    @rule(connection_id=each_connection, arrived=st.integers(0, QUEUE))
    def the_writer_is_killed(self, connection_id, arrived):
        """What it had read from the road dies with it; what it has written does not."""
        del self.roads[connection_id][:arrived]
        self.journal.close()
        self.start_writer()

    @rule(seed=st.integers(0, 2**16))
    def the_power_fails_for_the_writer(self, seed):
        """Of what was not synced, some beginning is left of each file."""
        left = random.Random(seed)
        self.roads = {c: [] for c in CONNECTIONS}
        self.journal.close()
        for path in self.disk.files():
            os.truncate(path, left.randint(self.disk.safe_size(path), path.stat().st_size))
        self.start_writer()

    # What must hold.

    @invariant()
    def nothing_is_given_up(self):
        assert not self.losses

    @invariant()
    def the_checkpoint_names_what_is_not_settled(self):
        path = self.config.state_dir / CHECKPOINT
        if path.exists():
            found = orjson.loads(orjson.loads(path.read_bytes())["body"])
            for file in self.disk.files():
                size = found["files"].get(file.name, file.stat().st_size)
                assert size <= self.disk.safe_size(file)
                if file.name in found["files"]:
                    assert found["lines"][file.name] == file.read_bytes()[:size].count(b"\n")

    @invariant()
    def what_is_called_durable_is_synced(self):
        reached: dict[StreamId, Mark] = defaultdict(Mark)
        for path in self.disk.files():
            safe = path.read_bytes()[: self.disk.safe_size(path)]
            for found in TICK_END.finditer(safe):
                stream = StreamId(int(found[1]), int(found[2]))
                reached[stream] = Mark(max(reached[stream].seq, int(found[3])), reached[stream].event_seq)
            for found in EVENT_END.finditer(safe):
                stream = StreamId(int(found[1]), int(found[2]))
                reached[stream] = Mark(reached[stream].seq, max(reached[stream].event_seq, int(found[3])))
        for stream, mark in self.journal.durable.items():
            assert mark.seq <= reached[stream].seq
            assert mark.event_seq <= reached[stream].event_seq

    def teardown(self):
        with self.exit:
            if self.outboxes:
                self.drain()
                self.check_files()

    def drain(self):
        self.disk.fault = 0
        self.refuses = dict.fromkeys(CONNECTIONS, False)
        for _ in range(ROUNDS):
            if all(outbox.done for outbox in self.outboxes.values()):
                break
            if self.commit is None:
                self.a_sync_begins(checkpoint=False)
            self.a_sync_ends()
            self.a_commit_is_published()
            for connection_id, outbox in self.outboxes.items():
                self.a_commit_arrives(connection_id, 1)
                outbox.pump()
                self.batches_arrive(connection_id, QUEUE)
            self.now_s += 0.2
        for connection_id, outbox in self.outboxes.items():
            assert outbox.done, f"connection {connection_id} never drained"
            assert outbox.pending == 0
            self.end_worker(connection_id)
        self.journal.close()

    def check_files(self):
        assert not self.losses
        stored: dict[tuple[StreamId, str], list[tuple[str, bytes]]] = defaultdict(list)
        for path in self.disk.files():
            kind, pattern = ("ticks", TICK_END) if path.name.startswith("market") else ("events", EVENT_END)
            for line in path.read_bytes().splitlines(keepends=True):
                orjson.loads(line)
                found = pattern.search(line)
                if found:
                    stored[StreamId(int(found[1]), int(found[2])), kind].append((path.name, line))
                else:
                    assert b'"source":"writer"' in line
        assert stored == self.expected
        assert list(self.config.spool_dir.iterdir()) == []


Promise.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestPromise = Promise.TestCase


def a_step(dice):
    """Return the name and the arguments of what happens next: mostly work, some disasters."""
    connection = {"connection_id": dice.choice(CONNECTIONS)}
    index = {"index": dice.randrange(QUEUE)}
    choices = {
        "frames_arrive": (12, connection | {"sizes": dice.choices(range(5), k=dice.randint(1, 4))}),
        "an_event_happens": (4, connection),
        "no_instruments_are_left": (1, connection),
        "pump": (6, connection),
        "batches_arrive": (12, connection | {"count": dice.randint(1, QUEUE)}),
        "a_sync_begins": (5, {"checkpoint": dice.random() < 0.3}),
        "a_sync_ends": (5, {}),
        "a_commit_is_published": (5, {}),
        "a_commit_arrives": (8, connection | {"index": dice.choice((1, 1, 1, 2, COMMITS_KEPT))}),
        "time_passes": (2, {"seconds": dice.choice((0.1, 0.6, 2.0, 50.0, 72_000.0))}),
        "the_writer_seems_to_stall": (2, connection),
        "the_road_refuses_or_takes": (2, connection),
        "a_batch_is_lost": (1, connection | index),
        "a_batch_comes_twice": (1, connection | index),
        "the_disk_fills_or_fails_or_is_mended": (2, {"fault": dice.choice((0, 0, errno.ENOSPC, errno.EIO))}),
        "a_worker_is_killed": (1, connection | {"back_s": dice.choice((0, 30, 86_400)), "lost": dice.randint(0, 2)}),
        "a_worker_is_stopped": (1, connection),
        "the_writer_is_killed": (1, connection | {"arrived": dice.randint(0, QUEUE)}),
        "the_power_fails_for_the_writer": (2, {"seed": dice.randrange(2**16)}),
    }
    name = dice.choices(list(choices), weights=[weight for weight, _ in choices.values()])[0]
    return name, choices[name][1]


@settings(max_examples=250, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_long_histories(seed):
    """The same with hundreds of steps, more of them work than disasters, so that much is under way when one comes."""
    dice = random.Random(seed)
    machine = Promise()
    try:
        machine.begin()
        for _ in range(250):
            name, arguments = a_step(dice)
            if (name == "a_sync_begins" and machine.commit) or (name == "a_sync_ends" and not machine.commit):
                continue
            getattr(machine, name)(**arguments)
            machine.nothing_is_given_up()
            machine.the_checkpoint_names_what_is_not_settled()
        machine.what_is_called_durable_is_synced()
    except BaseException:
        machine.exit.close()
        raise
    machine.teardown()
