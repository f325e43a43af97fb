"""Tests for the writer's loop, in a thread, with its real sockets and files; only the disk's faults are made up."""

import errno
import threading
import time

import pytest
import zmq

from pipeline import role
from pipeline.wire import COMMITS_SOCKET, TICKS_SOCKET, Commit, Header, Mark, StreamId, decode_commit, encode_header
from pipeline.writer import Writer
from tests.builders import DAY, EPOCH, a_config, tick_line
from tests.integration.service import until

DEADLINE_S = 20
STREAM = StreamId(1, EPOCH)


class Peer:
    """A worker without a spool: sends what it is told, hears what is durable."""

    def __init__(self, config, context):
        run_dir = config.runtime.run_dir
        self.push = context.socket(zmq.PUSH)
        self.push.connect(role.endpoint(run_dir, TICKS_SOCKET))
        self.sub = context.socket(zmq.SUB)
        self.sub.setsockopt(zmq.SUBSCRIBE, b"")
        self.sub.connect(role.endpoint(run_dir, COMMITS_SOCKET))

    def send(self, seq):
        """Send the batch of one tick."""
        header = Header(1, DAY, EPOCH, EPOCH, Mark(seq - 1, 0), Mark(seq, 1), 1, 0)
        self.push.send_multipart([encode_header(header), tick_line(seq), b""])

    def hear(self, is_it) -> Commit:
        """Return the first commit for which `is_it` holds."""
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            if self.sub.poll(100):
                commit = decode_commit(self.sub.recv())
                if is_it(commit):
                    return commit
        raise AssertionError("the writer did not say so in time")


@pytest.fixture
def running(tmp_path):
    """Return a writer that runs in a thread, and its peer."""
    config = a_config(tmp_path).with_changes(
        runtime={"run_dir": tmp_path / "run"}, storage={"commit_interval_ms": 0, "reserve_mb": 0}
    )
    role.prepare_run_dir(config)
    config.state_dir.mkdir(parents=True, exist_ok=True)
    context = zmq.Context()
    writer = Writer(config, context)
    thread = threading.Thread(target=writer.run, daemon=True)
    peer = Peer(config, context)
    thread.start()
    yield writer, peer
    writer.stop()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_what_is_durable_is_said(running):
    """A tick is acknowledged once it is synced; rubbish in between is dropped."""
    _, peer = running
    peer.send(1)
    peer.push.send_multipart([b"rubbish"])
    peer.push.send_multipart([b"rubbish", b"", b"", b""])
    peer.send(2)
    assert peer.hear(lambda commit: commit.durable.get(STREAM) == Mark(2, 0)).taking


def test_a_file_that_is_removed_is_back_soon(running, tmp_path):
    """Whether ticks come or not, nobody has to wait for the writer's end to learn of it."""
    _, peer = running
    peer.send(1)
    peer.hear(lambda commit: commit.durable.get(STREAM) == Mark(1, 0))
    (path,) = tmp_path.rglob("market_data_*.jsonl")
    for seq in (2, 3):
        path.unlink()
        until(path.exists, "the file is there again")
        peer.send(seq)
        peer.hear(lambda commit, seq=seq: commit.durable.get(STREAM) == Mark(seq, 0))
        assert path.read_bytes() == b"".join(map(tick_line, range(1, seq + 1)))


def test_a_file_that_is_removed_at_the_very_end_is_back(running, tmp_path, monkeypatch):
    """The writer looks once more before it lets go of its files."""
    monkeypatch.setattr("pipeline.writer.FILES_CHECK_S", 1e9)
    writer, peer = running
    peer.hear(lambda _: True)
    peer.send(1)
    peer.hear(lambda commit: commit.durable.get(STREAM) == Mark(1, 0))
    (path,) = tmp_path.rglob("market_data_*.jsonl")
    path.unlink()
    writer.stop()
    until(path.exists, "the file is there again")
    assert path.read_bytes() == tick_line(1)


def test_a_failed_write_beside_a_finished_sync_is_survived(running, monkeypatch):
    """The write fails in the very turn in which a sync ends: the writer rolls back, says so, and takes again."""
    writer, peer = running
    boot = peer.hear(lambda _: True).boot
    accept, taken = writer.journal.accept, []

    def failing_once(*batch):
        taken.append(batch)
        if len(taken) == 2:
            raise OSError(errno.EIO, "made up")
        return accept(*batch)

    poll = zmq.Poller.poll

    def both_at_once(poller, timeout=None):
        """Return when a batch and the end of the sync are there, so that one turn of the loop has both."""
        deadline_s = time.monotonic() + DEADLINE_S
        while len(taken) == 1 and len(ready := poll(poller, 1)) < 2 and time.monotonic() < deadline_s:
            continue
        return ready if len(taken) == 1 else poll(poller, timeout)

    monkeypatch.setattr(writer.journal, "accept", failing_once)
    monkeypatch.setattr(zmq.Poller, "poll", both_at_once)
    peer.send(1)
    deadline_s = time.monotonic() + DEADLINE_S
    while not writer._syncing:  # until the next turn, which waits for both
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
    peer.send(2)
    reborn = peer.hear(lambda commit: commit.boot != boot)
    assert reborn.durable.get(STREAM, Mark()) == Mark()
    peer.send(1)
    peer.send(2)
    peer.hear(lambda commit: commit.durable.get(STREAM) == Mark(2, 0))
