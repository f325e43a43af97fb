"""Disks that fail, stall or are full under the real processes: strace makes their system calls fail or wait.

Nothing is acknowledged that is not durable, nothing is lost or stored twice, and recording resumes by itself. What the
writer acknowledges is compared with what strace saw become durable.
"""

import json
import os
import re
import signal
import subprocess
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import pytest
import zmq

from pipeline.config import CONNECTIONS
from pipeline.events import SUPERVISOR_ID, source_of
from pipeline.role import endpoint
from pipeline.wire import COMMITS_SOCKET, Commit, StreamId, decode_commit
from tests.integration import test_disk
from tests.integration.conftest import SCALE, Begin, NewService
from tests.integration.drills import (
    HOMES,
    PRIMARY,
    SECONDARY,
    SOON,
    UNIVERSE,
    done,
    end,
    is_home,
    ns,
    size,
    until_on_disk,
    wait_until_home,
)
from tests.integration.kite import Kite
from tests.integration.service import DEADLINE_S, Raw, Service, until
from tests.integration.test_disk import NewDisk, fill
from tests.integration.test_failover import wait_until_carried

HUNG_S = 2.0  # who gives no sign of life for so long is killed
STALL_S = min(4.0 * SCALE, 30.0)  # longer than that; at scale longer than a process may take to start, too
FOR_EVER = "delay_enter=3600s"  # until strace lets go
LET_GO_S = 5.0  # for strace to end as it was asked to
TICK_BYTES = 1000  # that a tick takes as a Python object, at the very least

new_disk = test_disk.new_disk


# strace.


class Step(NamedTuple):
    """A system call on a file has begun, or has ended with this result."""

    at_s: float  # Unix time
    thread: int
    call: str
    name: str  # of the file
    argument: int  # the last one
    result: int | None


class Synced(NamedTuple):
    """So much of a file has become durable."""

    at_s: float  # Unix time
    size: int


class Strace:
    """strace on a running process and all that it starts: the fault lasts until `end`, the log stays.

    `fault` is one of `strace -e inject`, on these `calls`. The calls `also` are only written to the log.
    """

    _WHOLE = re.compile(r"(\d+) +([\d.]+) (\w+)\(\d+<(.+?)>(?:.*, (\d+))?\) += (-?\d+)\b.* <([\d.]+)>")
    _BEGUN = re.compile(r"(\d+) +([\d.]+) (\w+)\(\d+<(.+?)>(?:.*, (\d+))? <unfinished \.\.\.>")
    _ENDED = re.compile(r"(\d+) +([\d.]+) <\.\.\. (\w+) resumed>.*\) += (-?\d+)\b.*")

    def __init__(self, log: Path, pids: list[int], calls: str, fault: str, *, also: str = "", only: str = "") -> None:
        self.began_s = time.time()
        self.ended_s = 0.0
        self._log = log
        command = ["strace", "-f", "-y", "-s0", "-ttt", "-T", "-o", str(log), "-e", f"trace={calls},{also}".rstrip(",")]
        command += ["-e", f"inject={calls}:{fault}", *(["-P", only] if only else [])]
        command += [word for pid in pids for word in ("-p", str(pid))]
        errors = log.with_suffix(".err")
        with errors.open("wb") as err:
            try:
                self._process = subprocess.Popen(command, stderr=err)
            except FileNotFoundError:
                pytest.skip("there is no strace command here")
        until(lambda: self._is_attached(pids) or self._process.poll() is not None, "strace is attached")
        if self._process.poll() is not None:
            pytest.skip(f"strace cannot attach to processes here: {errors.read_text().strip()}")

    def end(self, kill: Callable[[], object] | None = None) -> None:
        """Let go: what waits goes on, what is called from now on is done as usual.

        With `kill` the processes end instead, and strace with them: told to let go of who dies, it may hang.
        """
        if self.ended_s:
            return
        self.ended_s = time.time()
        if kill:
            kill()
        else:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(LET_GO_S)
        except subprocess.TimeoutExpired:  # a thread has just begun or ended; the kernel lets go for it
            self._process.kill()
            self._process.wait(DEADLINE_S)

    @property
    def faults_s(self) -> list[float]:
        """When system calls failed or were delayed so far, as Unix times."""
        lines = self._log.read_text().splitlines()
        return [float(line.split()[1]) for line in lines if "(INJECTED)" in line or "(DELAYED)" in line]

    def until_faults(self, number: int) -> None:
        """Wait until so many system calls have failed or been delayed."""
        until(lambda: len(self.faults_s) >= number, f"{number} system calls have failed or been delayed")

    def steps(self) -> Iterator[Step]:
        """Yield what was done to files, in order."""
        begun: dict[int, Step] = {}
        for line in self._log.read_text().splitlines():
            if whole := self._WHOLE.match(line):
                thread, at, call, path, argument, result, took = whole.groups()
                step = Step(float(at), int(thread), call, Path(path).name, int(argument or 0), None)
                yield step
                yield step._replace(at_s=step.at_s + float(took), result=int(result))
            elif started := self._BEGUN.match(line):
                thread, at, call, path, argument = started.groups()
                begun[int(thread)] = Step(float(at), int(thread), call, Path(path).name, int(argument or 0), None)
                yield begun[int(thread)]
            elif (ended := self._ENDED.match(line)) and int(ended[1]) in begun:
                yield begun.pop(int(ended[1]))._replace(at_s=float(ended[2]), result=int(ended[4]))

    def synced(self, sizes: Mapping[str, int]) -> dict[str, list[Synced]]:
        """Return what has become durable of each file, from its size at the beginning on.

        What a sync has failed for may be lost whatever later ones say, unless it is cut off and written again. What is
        cut off later does not count either: it must not have been acknowledged.
        """
        written = defaultdict(int, sizes)
        syncing: dict[int, int] = {}
        doubtful: dict[str, int] = {}  # from where on
        found = defaultdict(lambda: [Synced(0.0, 0)], {name: [Synced(0.0, size)] for name, size in sizes.items()})
        for at_s, thread, call, name, argument, result in self.steps():
            if result is None:
                syncing[thread] = written[name]
            elif call == "write":
                written[name] += max(result, 0)
            elif call == "ftruncate":
                written[name] = argument
                found[name] = [Synced(when_s, min(size, argument)) for when_s, size in found[name]]
                if argument <= doubtful.get(name, -1):
                    del doubtful[name]
            elif result < 0:
                doubtful.setdefault(name, found[name][-1].size)
            else:
                found[name].append(Synced(at_s, min(syncing[thread], doubtful.get(name, syncing[thread]))))
        return found

    def _is_attached(self, pids: list[int]) -> bool:
        by_us = f"TracerPid:\t{self._process.pid}\n"
        tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
        return all(by_us in (task / "status").read_text() for task in tasks)


Attach = Callable[..., Strace]


@pytest.fixture
def attach(tmp_path: Path) -> Iterator[Attach]:
    """Attaches strace to running processes."""
    with ExitStack() as attached:
        logs = (tmp_path / f"strace-{number}.log" for number in range(1, 1000))

        def new(pids: list[int], calls: str, fault: str, **options: Any) -> Strace:
            trace = Strace(next(logs), pids, calls, fault, **options)
            attached.callback(trace.end)
            return trace

        yield new


# What is acknowledged.


class Commits(Thread):
    """All that the writer acknowledges while the block lasts, with the Unix time when it arrived."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.heard: list[tuple[float, Commit]] = []
        self._over = Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(endpoint(run_dir, COMMITS_SOCKET))

    def __enter__(self) -> "Commits":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self._context.destroy(linger=0)

    def run(self) -> None:
        """Listen."""
        while not self._over.is_set():
            if self._socket.poll(50):
                self.heard.append((time.time(), decode_commit(self._socket.recv())))


class Watched:
    """The writer under strace, and what it acknowledges meanwhile."""

    def __init__(self, service: Service, attach: Attach, fault: str, commits: Commits) -> None:
        self._service = service
        self._commits = commits
        self.pid = service.send("writer", signal.SIGSTOP)  # so that the sizes of the files are known
        until(lambda: "\nState:\tT" in Path(f"/proc/{self.pid}/status").read_text(), "the writer is frozen")
        self._sizes = {path.name: path.stat().st_size for path in service.data_dir.glob("*.jsonl")}
        self.trace = attach([self.pid], "fdatasync", fault, also="write,ftruncate")
        os.kill(self.pid, signal.SIGCONT)

    def assert_acknowledged_was_durable(self) -> int:
        """Check that what was acknowledged until strace let go was durable; return how many commits brought news.

        To be called at the end: what is durable never changes, so each line stands where it stood.
        """
        synced = self.trace.synced(self._sizes)
        ends = line_ends(self._service.data_dir)
        heard = [(at_s, c.durable) for at_s, c in self._commits.heard if self.trace.began_s < at_s < self.trace.ended_s]
        for at_s, durable in heard:
            for stream, mark in durable.items():
                for name, end_of_line in (ends[stream, n] for n in mark._asdict().items() if n[1]):
                    known = synced[name][bisect_right(synced[name], at_s, key=lambda s: s.at_s) - 1].size
                    assert end_of_line <= known, f"{stream} {mark} was acknowledged at {at_s:.6f}, {name} {known}"
        return sum(before != after for (_, before), (_, after) in pairwise(heard))

    def first_news_s(self, after_s: float) -> float:
        """Return when something new was acknowledged for the first time after this."""
        heard = [(at_s, c.durable) for at_s, c in self._commits.heard]
        return next(at for (_, before), (at, now) in pairwise(heard) if at > after_s and before != now)


def line_ends(data_dir: Path) -> dict[tuple[StreamId, tuple[str, int]], tuple[str, int]]:
    """Return the file in which each tick and each event of a stream stands, and where its line ends."""
    connections = {source_of(c): c for c in (SUPERVISOR_ID, *CONNECTIONS)}
    ends = {}
    for path in data_dir.glob("*.jsonl"):
        number = "event_seq" if path.name.startswith("events") else "seq"
        offset = 0
        for line in path.read_bytes().splitlines(keepends=True):
            offset += len(line)
            said = json.loads(line)
            connection_id = connections.get(said["source"]) if "source" in said else said["connection_id"]
            if connection_id is not None:  # else an event of the writer's own
                ends[StreamId(connection_id, said["epoch"]), (number, said[number])] = (path.name, offset)
    return ends


# What is waited for.


def wait_until_paused(service: Service) -> None:
    """Wait until it says that it does not store, and why."""
    status = service.wait_for(lambda s: s["storage"]["state"] == "paused", "the writer says that it does not store")
    assert status["storage"]["reason"] == "the disk has failed"
    assert status["health"]["status"] == "down"
    assert [r for r in status["health"]["reasons"] if "not storing: the disk has failed" in r]


def wait_until_recording(service: Service, ticks: int = 500) -> None:
    """Wait until it stores again, and so many more ticks are durable."""
    before = service.wait_for(lambda s: s["storage"]["state"] == "recording", "it is recording")
    stored = before["metrics"]["total_ticks_stored"]
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] >= stored + ticks, f"{ticks} more ticks are stored")


def ticks_received(service: Service) -> int:
    """Return how many ticks have been received by now."""
    received: int = service.wait_for(bool, "it answers")["metrics"]["total_ticks_received"]
    return received


# Syncs fail.


@pytest.mark.timeout(60 + 60 * SCALE)
@pytest.mark.parametrize(
    "when",
    [(3, 3, 1), (3, 3 + 7 * round(2 * SCALE), 7), (3, 2 + round(3 * SCALE), 1)],
    ids=["once", "again-and-again", "all-for-a-while"],
)
def test_a_failed_sync_is_taken_back(
    kite: Kite, new_service: NewService, begin: Begin, attach: Attach, when: tuple[int, int, int]
):
    """The writer says so, goes back to its last commit and goes on; the workers send again what it has taken back."""
    first, last, step = when  # of the calls on one thread
    service = new_service(universe=UNIVERSE, failover=SOON)
    kite.load(2000, frame=5)
    begin(service)
    with Commits(service.run_dir) as commits:
        writer = Watched(service, attach, f"error=EIO:when={first}..{last}+{step}", commits)
        wait_until_paused(service)
        noticed_s = time.time()
        writer.trace.until_faults(len(range(first, last + 1, step)))
        wait_until_recording(service)
        writer.trace.end()
        faults_s = writer.trace.faults_s
        wait_until_recording(service)
        status = service.wait_for(lambda s: s["storage"]["syncs_failed"] >= len(faults_s), "failures are counted")
        assert status["storage"]["syncs_failed"] == len(faults_s)
        assert status["processes"]["writer"]["restarts"] == 0
    assert service.pid("writer") == writer.pid
    end(kite, service)
    news = writer.assert_acknowledged_was_durable()
    assert service.events("sync_failed", error="Input/output error")
    assert len(service.events("storing_paused")) == len(service.events("storing_resumed")) > 0
    assert service.events("gap") == []
    print(  # noqa: T201  the figures
        f"{len(faults_s)} failures: told {noticed_s - faults_s[0]:.2f} s after the first, durable again "
        f"{writer.first_news_s(faults_s[-1]) - faults_s[-1]:.2f} s after the last; {news} commits were right"
    )


@pytest.mark.timeout(60 + 60 * SCALE)
def test_a_writer_killed_right_after_a_failed_sync_loses_nothing(
    kite: Kite, new_service: NewService, begin: Begin, attach: Attach
):
    """Whatever it has done of going back: the next one finds out, and the workers send the rest again."""
    service = new_service(universe=UNIVERSE, failover=SOON)
    kite.load(2000, frame=5)
    begin(service)
    watched = []
    with Commits(service.run_dir) as commits:
        for _ in range(round(3 * SCALE)):
            wait_until_recording(service, 200)
            writer = Watched(service, attach, "error=EIO:when=2+", commits)
            watched.append(writer)
            writer.trace.until_faults(1)
            writer.trace.end(lambda: service.kill("writer"))
        wait_until_recording(service)
    end(kite, service)
    for writer in watched:
        writer.assert_acknowledged_was_durable()
    assert len(service.events("process_died", process="writer")) == len(watched)
    assert service.events("gap") == []


def test_the_spare_takes_over_while_syncs_fail(kite: Kite, new_service: NewService, begin: Begin, attach: Attach):
    """Worker 1 is killed meanwhile: the spools of all three keep what comes, and in the end all of it is stored."""
    service = new_service(universe=UNIVERSE, failover=SOON)
    kite.load(2000, frame=5)
    begin(service)
    with Commits(service.run_dir) as commits:
        writer = Watched(service, attach, "error=EIO:when=3+", commits)
        wait_until_paused(service)
        service.kill("worker-1")
        wait_until_carried(service, len(PRIMARY))
        wait_until_home(kite, service)
        service.wait_for(lambda s: s["metrics"]["total_ticks_pending"] > 1000, "ticks wait in the spools")
        writer.trace.end()
        wait_until_recording(service)
    assert service.pid("writer") == writer.pid
    end(kite, service, cut=1)
    writer.assert_acknowledged_was_durable()
    assert [(gap["cause"], gap["instruments"]) for gap in service.events("gap")] == [("killed", sorted(PRIMARY))]
    assert done(service, "failover") == ["connection 1: its process is gone"]


# The disk is full.


def test_the_spare_takes_over_while_the_disk_is_full(
    kite: Kite, new_service: NewService, new_disk: NewDisk, begin: Begin
):
    """The spools, on another file system, have all three connections' ticks until there is room again."""
    storage = {"data_dir": str(new_disk(24)), "spool_dir": "spool", "reserve_mb": 0}
    service = new_service(universe=UNIVERSE, failover=SOON, storage=storage)
    kite.load(2000, frame=5)
    begin(service)
    until_on_disk(service, 1, size(service))
    ballast = fill(service.data_dir, 200)
    service.wait_for(lambda s: s["storage"]["state"] == "paused", "the writer pauses")
    service.kill("worker-1")
    wait_until_carried(service, len(PRIMARY))
    wait_until_home(kite, service)
    service.wait_for(lambda s: s["metrics"]["total_ticks_pending"] > 1000, "ticks wait in the spools")
    ballast.unlink()
    wait_until_recording(service)
    end(kite, service, cut=1)
    assert [(gap["cause"], gap["instruments"]) for gap in service.events("gap")] == [("killed", sorted(PRIMARY))]


# Syncs stall.


def longest_pauses_ms(service: Service, from_s: float, to_s: float) -> dict[int, float]:
    """Return for how long each of the first two connections received nothing, at most, between two Unix times."""
    times = defaultdict(list)
    for tick in service.ticks():
        times[tick["connection_id"]].append(ns(tick["timestamp"]) / 1e9)
    within = {c: [from_s, *(at_s for at_s in times[c] if from_s < at_s < to_s), to_s] for c in (1, 2)}
    return {c: round(max(b - a for a, b in pairwise(some)) * 1000, 1) for c, some in within.items()}


@pytest.mark.timeout(60 + 60 * SCALE)
@pytest.mark.parametrize(
    ("fault", "longest_s"),
    [("delay_enter=500ms", 0.5), (f"{FOR_EVER}:when=2+", STALL_S)],
    ids=["each-for-0.5-s", "one"],
)
def test_a_stalled_sync_keeps_nobody_from_receiving(  # noqa: PLR0917  fixtures
    kite: Kite,
    new_service: NewService,
    new_disk: NewDisk,
    begin: Begin,
    attach: Attach,
    fault: str,
    longest_s: float,
):
    """Each sync takes half a second, or one takes longer than a process may hang: only what is durable has to wait."""
    service = new_service(universe=UNIVERSE, failover=SOON, storage={"spool_dir": str(new_disk(256))})
    kite.load(2000, frame=10)  # every 10 ms on each connection
    begin(service)
    wait_until_recording(service)
    from_s, before = time.time(), service.resident_kb()["Rss"]
    until(lambda: time.time() > from_s + STALL_S / 2, "there is something to compare with")
    usual_s = time.time()
    with Commits(service.run_dir) as commits:
        writer = Watched(service, attach, fault, commits)
        began_s = time.time()
        received = ticks_received(service)
        told_s = HUNG_S if longest_s > HUNG_S else 0.0
        syncing = service.wait_for(lambda s: (s["storage"]["syncing_since_s"] or 0) > told_s, "it says that it waits")
        assert syncing["storage"]["state"] == "recording"
        until(lambda: time.time() > began_s + STALL_S, "the disk has stalled for long")
        held_back = ticks_received(service) - received
        growth_kb = service.resident_kb()["Rss"] - before
        stalled_s = time.time()
        writer.trace.end()
        wait_until_recording(service)
    assert service.pid("writer") == writer.pid
    end(kite, service)
    news = writer.assert_acknowledged_was_durable()
    assert service.events("process_hung") == service.events("gap") == service.events("storing_paused") == []
    usual, meanwhile = longest_pauses_ms(service, from_s, usual_s), longest_pauses_ms(service, began_s, stalled_s)
    print(  # noqa: T201  the figures
        f"syncs of {longest_s} s for {stalled_s - began_s:.1f} s: {news} commits with news, {held_back} ticks received "
        f"meanwhile, memory grew by {growth_kb} kB; longest pause on each connection {meanwhile} ms, without {usual} ms"
    )
    assert growth_kb * 1024 < held_back * TICK_BYTES


@pytest.mark.timeout(60 + 60 * SCALE)
def test_who_starts_while_the_disk_stalls_is_given_time(
    kite: Kite, new_service: NewService, new_disk: NewDisk, begin: Begin, attach: Attach
):
    """Worker 1 and the writer are killed, and what follows them cannot begin: neither is taken for hung meanwhile."""
    service = new_service(universe=UNIVERSE, failover=SOON, storage={"spool_dir": str(new_disk(256))})
    kite.load(2000, frame=5)
    client = begin(service)
    wait_until_recording(service)
    supervisor = service.pid("supervisor")
    assert supervisor
    trace = attach([supervisor], "fsync,fdatasync", FOR_EVER)  # and whom it starts
    began_s = time.time()
    killed = ("writer", "worker-1")
    for role in killed:
        service.kill(role)
    wait_until_carried(service, len(PRIMARY))
    until(lambda: time.time() > began_s + STALL_S, "the disk has stalled for long")
    trace.end()
    wait_until_home(kite, service)
    home_s = time.time()
    wait_until_recording(service)
    recording_s = time.time()
    restarts = {role: process.restarts for role, process in client.status().processes.items()}
    end(kite, service, cut=1)
    print(  # noqa: T201  the figures
        f"stalled for {trace.ended_s - began_s:.1f} s; restarts {restarts}, all were home "
        f"{home_s - trace.ended_s:.1f} s after, recording {recording_s - trace.ended_s:.1f} s after"
    )
    assert service.events("process_hung") == []
    assert restarts == {role: int(role in killed) for role in restarts}
    assert [(gap["cause"], gap["instruments"]) for gap in service.events("gap")] == [("killed", sorted(PRIMARY))]


# What is subscribed cannot be saved.


@pytest.mark.parametrize("fault", ["error=EIO", FOR_EVER], ids=["failing", "stalled"])
def test_subscriptions_that_cannot_be_saved_are_recorded_all_the_same(
    kite: Kite, new_service: NewService, begin: Begin, attach: Attach, fault: str
):
    """Requests are answered in time and say that they are not saved; nothing else waits, and later ones are saved."""
    service = new_service(universe=UNIVERSE, failover=SOON)
    kite.load(2000, frame=5)
    client = begin(service)
    path = service.run_dir / "subscriptions.json"
    new = [0x500001 + 0x100 * n for n in range(6)]
    pid = service.pid("supervisor")
    assert pid
    trace = attach([pid], "fsync", fault, only=str(path.with_suffix(".new")))
    saved = path.read_bytes()
    with Raw(service.run_dir) as raw:
        asked_s = time.monotonic()
        for token in new:
            raw.ask("subscribe", {"tokens": [token]})
        changes = [raw.answer()["result"] for _ in new]
        took_s = time.monotonic() - asked_s
    assert [(change["saved"], change["confirmed"]) for change in changes] == [(False, True)] * len(new)
    assert path.read_bytes() == saved
    wait_until_recording(service)
    offset = size(service)
    service.kill("worker-2")
    until_on_disk(service, 3, offset)
    trace.end()
    change = client.unsubscribe(new[-1:])
    assert (change.saved, change.confirmed) == (True, True)
    service.wait_for(is_home, "all are back, the spare stands by")
    kite.until_on_the_wire(HOMES[1] | dict.fromkeys(new[:-1], "quote"), HOMES[2])
    groups = json.loads(path.read_bytes())["subscribed"]
    assert sorted(token for group in groups for token in group["tokens"]) == sorted([*PRIMARY, *SECONDARY, *new[:-1]])
    end(kite, service, cut=1)
    print(f"{len(new)} requests were answered within {took_s:.2f} s")  # noqa: T201  the figure
