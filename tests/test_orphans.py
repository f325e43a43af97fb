"""Ending what a killed supervisor has left, played by processes that look like its children from outside."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from pipeline import orphans, role
from pipeline.config import CHILD_VARIABLE
from pipeline.errors import MdsError
from tests.builders import EPOCH, a_config

PLAYED = """
import os, signal, sys, time

def end(*_):
    time.sleep(float(os.environ["LASTS_S"]))
    with open("ended", "a") as file:
        print(*sys.argv[1:], __spec__.name, file=file)
    sys.exit()

signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ["LASTS_S"] == "inf" else end)
print("ready", flush=True)
while True:
    signal.pause()
"""
FOR_EVER = float("inf")
WORKER_1, WORKER_2 = ("pipeline.worker", "1"), ("pipeline.worker", "2")
WRITER, SIMULATOR, HTTP = ("pipeline.writer",), ("pipeline.simulator", "--port", "0"), ("pipeline.web",)


@pytest.fixture
def config(tmp_path):
    """Settings with a run folder in which nobody runs."""
    settings = a_config(tmp_path)
    settings.runtime.run_dir.mkdir()
    return settings


@pytest.fixture
def run(tmp_path, config):
    """Starts `python -m MODULE ARGUMENT...` with settings as the supervisor hands them on; returns its pid."""
    package = tmp_path / "pipeline"
    package.mkdir()
    for module in ("__init__", "worker", "writer", "simulator", "web", "other"):
        (package / f"{module}.py").write_text(PLAYED if module != "__init__" else "")
    with contextlib.ExitStack() as started:

        def start(command, settings=config, *, lasts_s=0.0):
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=tmp_path,
                env={CHILD_VARIABLE: settings.to_child()[CHILD_VARIABLE], "LASTS_S": str(lasts_s)},
                stdout=subprocess.PIPE,
            )
            started.callback(process.communicate)
            started.callback(process.kill)
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            return process.pid

        yield start


def end(config):
    """End what there is; return the result and what was told."""
    told: list[str] = []
    return orphans.end(config, told.append), told


def found(config):
    """The roles and pids that are found."""
    return [(orphan.role, orphan.pid) for orphan in orphans.find(config)]


def test_all_end_in_order(config, run, tmp_path):
    """Workers first and then, when all of them are gone, the writer, then the rest; no lock file is needed."""
    pids = {
        name: run(command, lasts_s=lasts_s)
        for name, command, lasts_s in (
            ("http", HTTP, 0),
            ("simulator", SIMULATOR, 0),
            ("writer", WRITER, 0),
            ("worker-2", WORKER_2, 0.2),
            ("worker-1", WORKER_1, 0),
        )
    }
    roles = ["worker-1", "worker-2", "writer", "simulator", "http"]
    assert found(config) == [(name, pids[name]) for name in roles]
    named = ", ".join(f"{name} (process {pids[name]})" for name in roles)
    assert end(config) == (True, [f"the supervisor is gone; ending what it has left: {named}"])
    ended = (tmp_path / "ended").read_text().splitlines()
    assert sorted(ended[:2]) == ["1 pipeline.worker", "2 pipeline.worker"]
    assert ended[2] == "pipeline.writer"
    assert sorted(ended[3:]) == ["--port 0 pipeline.simulator", "pipeline.web"]
    assert found(config) == []


def test_where_nothing_is_left_nothing_is_done(config):
    """And nothing said."""
    assert end(config) == (True, [])


def test_others_are_left_alone(config, run, tmp_path):
    """Those of another run folder, and whatever else runs with our settings."""
    (tmp_path / "other").mkdir()
    other = config.with_changes(runtime={"run_dir": tmp_path / "other"})
    theirs = run(WRITER, other)
    run(("pipeline.other",))
    run(("pipeline.worker", "4"))
    assert end(config) == (True, [])
    assert found(other) == [("writer", theirs)]


def test_a_run_folder_may_have_two_names(config, run, tmp_path):
    """A link to it will do."""
    link = tmp_path / "link"
    link.symlink_to(config.runtime.run_dir)
    pid = run(WRITER)
    assert found(config.with_changes(runtime={"run_dir": link})) == [("writer", pid)]


def test_with_a_supervisor_there_are_no_orphans(config, run):
    """It ends its children itself."""
    run(WRITER)
    lock = role.Lock(role.lock_path(config, role.SUPERVISOR))
    lock.acquire("hash")
    assert end(config) == (True, [])
    lock.release()
    assert len(orphans.find(config)) == 1


@pytest.mark.parametrize(("command", "name"), [(WORKER_1, "worker-1"), (WRITER, "writer")])
def test_who_has_something_to_lose_is_not_killed(config, run, monkeypatch, command, name):
    """One that does not end is named, with the way out, and what comes after it goes on."""
    monkeypatch.setattr(orphans, "WORKERS_END_S", 0.1)
    monkeypatch.setattr(orphans, "WRITER_END_S", 0.1)
    hanging = run(command, lasts_s=FOR_EVER)
    simulator = run(SIMULATOR)
    with pytest.raises(MdsError, match=rf"{name} \(process {hanging}\) does not end.*kill -KILL {hanging} ") as raised:
        end(config)
    assert raised.value.exit_code == 1
    assert found(config) == [(name, hanging), ("simulator", simulator)]


@pytest.mark.parametrize(("command", "name"), [(SIMULATOR, "simulator"), (HTTP, "http")])
def test_who_has_nothing_to_lose_is_killed_where_it_does_not_end(config, run, monkeypatch, command, name):
    """It is named all the same."""
    monkeypatch.setattr(orphans, "UNASKED_END_S", 0.1)
    hanging = run(command, lasts_s=FOR_EVER)
    stored, told = end(config)
    assert stored
    assert told[1:] == [f"{name} (process {hanging}) does not end, killing it"]
    ended = os.waitid(os.P_PID, hanging, os.WEXITED | os.WNOWAIT)
    assert ended
    assert ended.si_status == signal.SIGKILL


def test_what_stays_in_a_spool_is_named(config, run, tmp_path):
    """It is looked for where the processes spool, whatever the settings of the one who asks; events do not count."""
    for connection_id in (0, 1, 3):
        (tmp_path / "spool" / str(connection_id) / str(EPOCH)).mkdir(parents=True)
    (tmp_path / "spool" / "2").mkdir()
    run(WORKER_1, config.with_changes(storage={"spool_dir": tmp_path / "spool"}))
    stored, told = end(config)
    assert not stored
    assert told[1:] == ["connections with something left in the spool: 1, 3; the next mds run stores it"]


def test_a_service_that_is_started_meanwhile_is_not_ended(config, run):
    """Its supervisor has taken over what was left: that is said."""
    pid = run(WRITER)
    lock = role.Lock(role.lock_path(config, role.SUPERVISOR))
    with pytest.raises(MdsError, match=r"something was started in .*/run meanwhile"):
        orphans.end(config, lambda _: lock.acquire("hash"))
    lock.release()
    assert found(config) == [("writer", pid)]
