"""Locks, and sockets in folders with long names."""

import fcntl
import gc
import logging
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import zmq

from pipeline import __version__, role
from pipeline.config import Config
from pipeline.errors import AlreadyRunningError, ConfigError
from pipeline.role import Holder, Lock, RelayHandler, StatusLine, endpoint, read_holder, spare_collector
from pipeline.wire import STATUS_SOCKET

DEADLINE_S = 20
DEADLINE_MS = DEADLINE_S * 1000


@pytest.fixture
def holding(tmp_path):
    """A process that holds `test.lock`, and the file."""
    path = tmp_path / "test.lock"
    code = f"""
import sys
from pathlib import Path
from pipeline.role import Lock
Lock(Path({str(path)!r})).acquire("theirs")
print("held", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process, path
    process.kill()
    process.communicate()


def test_a_lock_is_held_until_it_is_released(tmp_path):
    """The file names the holder while it is held, and nobody after; it stays, and can be taken again."""
    path = tmp_path / "test.lock"
    assert read_holder(path) is None
    lock = Lock(path)
    lock.acquire("hash")
    assert read_holder(path) == Holder(os.getpid(), __version__, "hash")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lock.release()
    assert path.exists()
    assert read_holder(path) is None
    again = Lock(path)
    again.acquire("other")
    assert read_holder(path) == Holder(os.getpid(), __version__, "other")
    again.release()


def test_a_second_holder_is_refused_with_the_pid_of_the_first(holding):
    """Whoever comes second learns which process to end, and changes nothing; SIGKILL frees the lock."""
    process, path = holding
    assert read_holder(path) == Holder(process.pid, __version__, "theirs")
    with pytest.raises(AlreadyRunningError, match=rf"test\.lock is held by process {process.pid}; end that one first"):
        Lock(path).acquire("ours")
    assert read_holder(path) == Holder(process.pid, __version__, "theirs")
    process.kill()
    process.wait(DEADLINE_S)
    assert read_holder(path) is None
    lock = Lock(path)
    lock.acquire("ours")
    lock.release()


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"[]", b"{}", b'{"pid":"x","version":"1","config_hash":""}'])
def test_a_held_file_with_garbage_has_no_known_holder(tmp_path, content):
    """A lock file that is not ours to read tells of nobody; taking it is refused all the same."""
    path = tmp_path / "test.lock"
    path.write_bytes(content)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert read_holder(path) is None
        with pytest.raises(AlreadyRunningError, match="held by another process"):
            Lock(path).acquire("hash")


@pytest.mark.parametrize("content", [b"", b"garbage", b'{"pid":1,"version":"0","config_hash":"x"}'])
def test_a_stale_file_is_nobody_s(tmp_path, content):
    """What a killed process has left in its lock file does not count."""
    path = tmp_path / "test.lock"
    path.write_bytes(content)
    assert read_holder(path) is None


def test_places_that_cannot_hold_a_lock(tmp_path):
    """A run folder that is a file has no holders; a lock in a folder that is not there is a clear error."""
    (tmp_path / "file").touch()
    assert read_holder(tmp_path / "file" / "supervisor.lock") is None
    with pytest.raises(ConfigError, match=r"supervisor\.lock: No such file or directory"):
        Lock(tmp_path / "none" / "supervisor.lock").acquire("hash")


def test_the_run_folder_is_for_this_user_only(tmp_path):
    """It is made with its parents, and closed to others also where it was open before."""
    run_dir = tmp_path / "a" / "run"
    config = Config().with_changes(runtime={"run_dir": run_dir})
    role.prepare_run_dir(config)
    run_dir.chmod(0o755)
    role.prepare_run_dir(config)
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_in_the_way_of_the_run_folder(tmp_path, below):
    """One clear line names the key, the path and what is wrong with it."""
    (tmp_path / "file").touch()
    config = Config().with_changes(runtime={"run_dir": tmp_path / "file" / below})
    with pytest.raises(ConfigError, match=r"^runtime\.run_dir: .*file.*: not a folder, a file is in the way$"):
        role.prepare_run_dir(config)


def test_a_short_path_is_used_as_it_is():
    """Where it fits, the address is the plain path."""
    assert endpoint(Path("/run/mds"), "control.sock") == "ipc:///run/mds/control.sock"


@pytest.mark.parametrize("length", [106, 107, 108, 109, 300])
def test_a_socket_works_in_a_folder_with_a_long_name(tmp_path, length):
    """A run folder's path may be longer than a Unix socket's: two processes meet in it all the same."""
    run_dir = tmp_path
    while (missing := length - len(os.fsencode(run_dir / "s.sock"))) > 1:
        run_dir /= "d" * min(missing - 1, 100)
    run_dir.mkdir(parents=True, exist_ok=True)
    context = zmq.Context()
    pull = context.socket(zmq.PULL)
    try:
        pull.bind(endpoint(run_dir, "s.sock"))
        assert (run_dir / "s.sock").is_socket()
        push = context.socket(zmq.PUSH)
        push.connect(endpoint(run_dir, "s.sock"))
        push.send(b"from here")
        assert pull.poll(DEADLINE_MS)
        assert pull.recv() == b"from here"
        code = f"""
import zmq
from pathlib import Path
from pipeline.role import endpoint
with zmq.Context() as context, context.socket(zmq.PUSH) as push:
    push.connect(endpoint(Path({str(run_dir)!r}), "s.sock"))
    push.send(b"from there")
"""
        subprocess.run([sys.executable, "-c", code], check=True, timeout=DEADLINE_S)
        assert pull.poll(DEADLINE_MS)
        assert pull.recv() == b"from there"
    finally:
        context.destroy(linger=0)


def test_the_status_line_says_who_speaks(tmp_path, monkeypatch):
    """A message has its type, role, pid and time; log records go as fields, a wrong log call harms nobody."""
    began_s = time.monotonic()
    context = zmq.Context()
    pull = context.socket(zmq.PULL)
    try:
        pull.bind(endpoint(tmp_path, STATUS_SOCKET))
        line = StatusLine(context, tmp_path, "writer")
        line.send("status", state="recording")
        handler = RelayHandler(line, ["s3cret"])
        monkeypatch.setattr(logging, "raiseExceptions", False)
        handler.handle(logging.makeLogRecord({"msg": "%d lines", "args": ("no number",)}))
        known = {"name": "pipeline.any", "levelname": "INFO", "created": 5.0}
        handler.handle(logging.makeLogRecord(known | {"msg": "%d lines s3cret", "args": (3,)}))
        heard: list[dict[str, Any]] = []
        while len(heard) < 2:
            assert pull.poll(DEADLINE_MS)
            heard.append(orjson.loads(pull.recv()))
    finally:
        context.destroy(linger=0)
    who = {"role": "writer", "pid": os.getpid()}
    assert began_s <= heard[0].pop("sent_s") <= heard[1].pop("sent_s") <= time.monotonic()
    said = {"created_s": 5.0, "level": "INFO", "logger": "pipeline.any", "message": "3 lines ***"}
    assert heard == [{"type": "status", **who, "state": "recording"}, {"type": "log", **who, **said}]


def test_the_status_line_never_waits(tmp_path):
    """Without a supervisor, messages beyond the backlog are dropped."""
    context = zmq.Context()
    try:
        line = StatusLine(context, tmp_path, "writer")
        for number in range(5000):
            line.send("status", number=number)
        pull = context.socket(zmq.PULL)
        pull.bind(endpoint(tmp_path, STATUS_SOCKET))
        heard: list[int] = []
        while pull.poll(DEADLINE_MS if not heard else 200):
            heard.append(orjson.loads(pull.recv())["number"])
    finally:
        context.destroy(linger=0)
    assert heard == list(range(len(heard)))
    assert 0 < len(heard) < 5000


def test_the_collector_is_spared():
    """What has started is not looked at again by the collector, which comes only after many new objects."""
    threshold = gc.get_threshold()
    try:
        spare_collector()
        assert gc.get_freeze_count() > 1000
        assert gc.isenabled()
        assert gc.get_threshold()[0] > threshold[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
