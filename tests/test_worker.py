"""A worker process that ends, between a supervisor and a writer that are played by the test."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
import zmq

from pipeline import role
from pipeline.epoch import open_epoch
from pipeline.kite.feed import StateChange
from pipeline.spool import Incoming
from pipeline.wire import (
    COMMANDS_SOCKET,
    COMMITS_SOCKET,
    STATUS_SOCKET,
    TICKS_SOCKET,
    Commit,
    Mark,
    Order,
    StreamId,
    decode_header,
    encode_commit,
    encode_order,
)
from pipeline.worker import Worker
from tests.builders import T0_NS, a_config

ROOT = Path(__file__).parents[1]
CONNECTION = 3
DEADLINE_S = 40
FIRST_ORDER = Order("service", 1, 0, {}, [], before=[7, 8], relieved={7: T0_NS + 1000, 8: T0_NS + 2000})
KILLED = [("killed", [7], "000000", "000001"), ("killed", [8], "000000", "000002")]  # microseconds of from and to


class House:
    """A folder in which an epoch of a connection was killed, and the sockets of supervisor and writer."""

    def __init__(self, folder: Path, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        self.config = a_config(folder)
        role.prepare_run_dir(self.config)
        self.config.storage.data_dir.mkdir()
        killed = open_epoch(self.config, CONNECTION, T0_NS)
        killed.spool.append_frames([Incoming(T0_NS, 0, b"\0")])
        killed.spool.close()
        self.events: list[dict[str, object]] = []
        self._stored: dict[StreamId, Mark] = {}
        self._log = folder / "log"
        self._status = self._bind(context.socket(zmq.PULL), STATUS_SOCKET)
        self._commands = self._bind(context.socket(zmq.ROUTER), COMMANDS_SOCKET)
        self._commands.setsockopt(zmq.ROUTER_HANDOVER, 1)  # as the supervisor's
        self._ticks = self._bind(context.socket(zmq.PULL), TICKS_SOCKET)
        self._commits = self._bind(context.socket(zmq.PUB), COMMITS_SOCKET)

    def _bind(self, socket: "zmq.Socket[bytes]", name: str) -> "zmq.Socket[bytes]":
        socket.bind(role.endpoint(self.config.runtime.run_dir, name))
        return socket

    def run(self, *arguments: str, answered_in: str = "") -> None:
        """Run a worker to its end, which it is told at its first word, and answer its words in this state only."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MDS_")} | self.config.to_child()
        command = [sys.executable, "-m", "pipeline.worker", str(CONNECTION), *arguments]
        give_up_s = time.monotonic() + DEADLINE_S
        with self._log.open("wb") as log, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log) as process:
            try:
                is_told = bool(arguments)
                while process.poll() is None:
                    assert time.monotonic() < give_up_s, "it does not end"
                    for status in self._heard():
                        if not is_told:
                            process.send_signal(signal.SIGTERM)
                            is_told = True
                        if status["state"] == answered_in:
                            order = encode_order(FIRST_ORDER._replace(version=status["version"] + 1))
                            self._commands.send_multipart([role.worker_role(CONNECTION).encode(), order])
                    self._store()
            finally:
                process.kill()
        assert process.returncode == 0, self._log.read_text()

    def kill_after(self, *orders: Order) -> None:
        """Run a worker, and kill it when it has obeyed these, one after the other."""
        due = list(orders)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MDS_")} | self.config.to_child()
        command = [sys.executable, "-m", "pipeline.worker", str(CONNECTION)]
        give_up_s = time.monotonic() + DEADLINE_S
        with self._log.open("wb") as log, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log) as process:
            try:
                while due:
                    assert time.monotonic() < give_up_s, "it does not obey"
                    for status in self._heard():
                        if due and status["version"] == due[0].version:
                            due.pop(0)
                        for order in due[:1]:
                            self._commands.send_multipart([role.worker_role(CONNECTION).encode(), encode_order(order)])
            finally:
                process.kill()

    def _heard(self):
        """Yield what the worker says of itself by now."""
        if self._status.poll(20):
            while self._status.poll(0):
                message = orjson.loads(self._status.recv())
                if message["type"] == "status":
                    yield message

    def _store(self):
        """Take what there is for the writer, and say that all of it is durable."""
        while self._ticks.poll(0):
            head, _, events = self._ticks.recv_multipart()
            header = decode_header(head)
            if header.first.event_seq > self._stored.get(header.stream, Mark()).event_seq:
                self._stored[header.stream] = header.last
                self.events += map(orjson.loads, events.splitlines())
        self._commits.send(encode_commit(Commit("boot", True, self._stored, self._stored)))

    def gaps(self):
        """Return the gap records: cause, instruments, and the microseconds of from and to."""
        gaps = [event for event in self.events if event["event"] == "gap"]
        return [(g["cause"], g["instruments"], str(g["from"])[20:26], str(g["to"])[20:26]) for g in gaps]


@pytest.fixture
def house(tmp_path):
    """A house of which all sockets are closed in the end."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield House(tmp_path, context)
    context.destroy(linger=0)


@pytest.mark.parametrize(("arguments", "state"), [((), "stopped"), (("--drain",), "idle")])
def test_who_ends_before_its_first_order_waits_for_it(house, arguments, state):
    """Only the order tells which instruments missed what since the epoch before was killed: it is put on record."""
    house.run(*arguments, answered_in=state)
    assert house.gaps() == KILLED
    assert open_epoch(house.config, CONNECTION, T0_NS).predecessor.last_recv_ns == 0


def test_where_nobody_orders_the_next_epoch_tells_what_was_missed(house):
    """The wait has an end, and what is not told stays open."""
    house.run()
    assert house.gaps() == []
    assert [event["event"] for event in house.events] == ["epoch", "stopped"]
    house.run("--drain", answered_in="idle")
    assert [(instruments, *span) for _, instruments, *span in house.gaps()] == [(i, *span) for _, i, *span in KILLED]


def test_who_is_up_late_and_killed_leaves_the_gap_to_its_successor(house):
    """It has told nobody yet since when it should have recorded."""
    house.run("--drain", answered_in="idle")
    due_ns = time.time_ns() - 3600 * 10**9
    house.kill_after(Order("service", 1, 0, {7: "quote"}, [], before=[], due={7: due_ns}))
    assert open_epoch(house.config, CONNECTION, time.time_ns()).predecessor.last_recv_ns == due_ns


def test_who_was_idle_for_all_of_a_window_tells_what_it_missed(house):
    """Though it was adopted, and is to record nothing now either."""
    house.run("--drain", answered_in="idle")
    now_ns = time.time_ns()
    due_ns, rest = now_ns - 3600 * 10**9, (now_ns - 1800 * 10**9, now_ns + 3600 * 10**9)
    before = len(house.gaps())
    idle = Order("service", 1, 0, {}, [], before=[])
    house.kill_after(idle, Order("another", 2, 0, {}, [], before=[], due={7: due_ns}, rests=(rest,)))
    house.run("--drain", answered_in="idle")
    assert [gap[:2] for gap in house.gaps()[before:]] == [("opened late", [7])]


class SlowFeed:
    """A live feed whose server has closed long before its answer to the close frame is here."""

    def __init__(self, worker: Worker) -> None:
        self.confirmed = {7: "quote"}
        self.closing_ns = 0
        self._worker = worker

    def set_instruments(self, wanted, *, keep_open):
        """Have them already."""

    async def stop(self):
        """Close."""
        self.closing_ns = time.time_ns() + 10**6  # the worker's clock may be a bit ahead
        await asyncio.sleep(0.05)
        self._worker.on_state(StateChange("stopped"))


def test_who_closes_its_socket_answers_until_it_asked_for_that(house, monkeypatch):
    """What others have from then on, and what nobody has: the server may have closed at once, and answer late."""
    monkeypatch.setattr("pipeline.worker.DRAIN_S", 0.0)

    async def live_and_end():
        with zmq.Context() as context:
            worker = Worker(house.config, CONNECTION, context)
            feed = SlowFeed(worker)
            monkeypatch.setattr(worker, "_feed", feed)
            worker._obey(Order("service", 1, 0, {7: "quote"}, [], before=[7]))
            for state in ("connecting", "live"):
                worker.on_state(StateChange(state))
            worker.on_frame(b"\0")
            heard_ns = time.time_ns()
            await asyncio.sleep(0.01)
            assert await worker._end([]) == role.EXIT_SPOOLED
            return heard_ns, feed.closing_ns

    heard_ns, closing_ns = asyncio.run(live_and_end())
    until_ns = open_epoch(house.config, CONNECTION, time.time_ns()).predecessor.last_recv_ns
    assert heard_ns + 10**6 < until_ns <= closing_ns
