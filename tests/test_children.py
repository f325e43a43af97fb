"""Starting, watching and ending processes: real ones, that live as long as a test wants."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import __version__, role
from pipeline.config import Config
from pipeline.errors import RequestRefusedError
from pipeline.log import OWN_LOG_BYTES
from pipeline.role import HTTP, SIMULATOR, WRITER, read_holder
from pipeline.supervisor.children import Children

DEADLINE_S = 20
PROGRAM = """
import os, signal, sys
from pathlib import Path

what = sys.argv[1]
if what == "fail":
    sys.exit("failed on purpose")
if what == "lock":
    from pipeline.config import from_child
    from pipeline.role import Lock, lock_path
    config = from_child()
    lock = Lock(lock_path(config, sys.argv[2]))
    lock.acquire(config.hash)
if what == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", what, os.getpid(), flush=True)
signal.pause()
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / "the_child.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parent.parent}")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    return Config().with_changes(runtime={"run_dir": run_dir}, storage={"data_dir": tmp_path / "data"})


@contextlib.asynccontextmanager
async def started(config):
    """Children and the list of what was told of them; what still runs at the end is killed."""
    told = []
    family = Children(config, lambda child: told.append((child.role, child.state, child.pid)))
    try:
        yield family, told
    finally:
        for name, child in family.all.items():
            child.is_ending = True
            family.terminate(name, signal.SIGKILL)
        await until(lambda: all(child.pid is None for child in family.all.values()))


async def until(condition):
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  files and processes set no asyncio.Event
            await asyncio.sleep(0.005)


def output(config, name):
    path = config.runtime.run_dir / f"{name}.log"
    return path.read_text() if path.exists() else ""


def alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_a_child_is_started_in_a_session_of_its_own_and_ends_when_asked(config):
    """It runs apart from our terminal, logs to its file, and goes with SIGTERM."""

    async def scenario():
        async with started(config) as (family, told):
            family.add("worker-1", "the_child", "wait")
            child = family.all["worker-1"]
            pid = child.pid
            await until(lambda: f"ready wait {pid}" in output(config, "worker-1"))
            assert os.getsid(pid) == pid
            assert await family.end("worker-1", DEADLINE_S)
            assert (child.state, child.pid, child.exit_code) == ("stopped", None, -signal.SIGTERM)
            assert told == [("worker-1", "running", pid), ("worker-1", "stopped", None)]
            assert not alive(pid)
            assert await family.end("worker-1", DEADLINE_S)
            assert await family.end("unknown", DEADLINE_S)

    asyncio.run(scenario())


@pytest.mark.parametrize("name", [WRITER, "worker-1"])
def test_a_killed_child_is_restarted(config, name, caplog):
    """Its death is told with the cause and counted, and another process takes its place."""

    async def scenario():
        async with started(config) as (family, told):
            family.add(name, "the_child", "wait")
            child = family.all[name]
            first = child.pid
            os.kill(first, signal.SIGKILL)
            await until(lambda: child.pid not in (None, first))
            assert told == [(name, "running", first), (name, "restarting", None), (name, "running", child.pid)]
            assert child.restarts.count == 1

    asyncio.run(scenario())
    assert "has ended by SIGKILL, starting it again in" in caplog.text


def test_a_child_that_fails_is_tried_again_and_again(config, caplog):
    """An exit code is told; each new try waits longer."""

    async def scenario():
        async with started(config) as (family, _):
            family.add("worker-1", "the_child", "fail")
            await until(lambda: family.all["worker-1"].restarts.count >= 3)

    asyncio.run(scenario())
    assert "has ended with exit code 1, starting it again in" in caplog.text
    assert output(config, "worker-1").count("failed on purpose") >= 3


def test_who_may_die_too_often(config):
    """Nothing depends on the HTTP process: it is never given up, as a worker is."""

    async def scenario():
        async with started(config) as (family, _):
            for name in ("worker-1", HTTP):
                family.add(name, "the_child", "wait")
            deaths = config.failover.max_deaths + 1
            last = {name: [family.all[name].restarts.died(1.0) for _ in range(deaths)][-1] for name in family.all}
            assert last["worker-1"] is None
            assert last[HTTP] is not None

    asyncio.run(scenario())


def test_a_signal_without_a_name_is_no_obstacle(config, caplog):
    """Death by a real-time signal is told by its number, and followed by a restart too."""

    async def scenario():
        async with started(config) as (family, _):
            family.add("worker-1", "the_child", "wait")
            child = family.all["worker-1"]
            first = child.pid
            os.kill(first, signal.SIGRTMIN + 1)
            await until(lambda: child.pid not in (None, first))

    asyncio.run(scenario())
    assert f"has ended by signal {signal.SIGRTMIN + 1}" in caplog.text


def test_a_child_that_ignores_sigterm_is_killed(config):
    """Ending takes no longer than it may: then comes SIGKILL, and the answer is that it did not go by itself."""

    async def scenario():
        async with started(config) as (family, _):
            family.add("worker-1", "the_child", "stubborn")
            child = family.all["worker-1"]
            pid = child.pid
            await until(lambda: "ready" in output(config, "worker-1"))
            assert not await family.end("worker-1", 0.1)
            assert not alive(pid)
            assert (child.state, child.exit_code) == ("stopped", -signal.SIGKILL)

    asyncio.run(scenario())


def test_ending_one_child_leaves_the_others_their_restarts(config):
    """While workers end, a writer that dies is still replaced: it is what they wait for."""

    async def scenario():
        async with started(config) as (family, _):
            family.add(WRITER, "the_child", "wait")
            family.add("worker-1", "the_child", "wait")
            await family.end("worker-1", DEADLINE_S)
            writer = family.all[WRITER]
            first = writer.pid
            os.kill(first, signal.SIGKILL)
            await until(lambda: writer.pid not in (None, first))
            assert family.all["worker-1"].pid is None

    asyncio.run(scenario())


def test_a_child_that_is_ended_between_two_lives_stays_away(config):
    """Ending a child that waits for its restart ends the waiting."""

    async def scenario():
        async with started(config) as (family, told):
            family.add("worker-1", "the_child", "wait")
            child = family.all["worker-1"]
            os.kill(child.pid, signal.SIGKILL)
            await until(lambda: child.state == "restarting")
            assert await family.end("worker-1", DEADLINE_S)
            assert child.state == "stopped"
            family._start(child)  # what the restart's timer calls
            assert child.pid is None
            assert len(told) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("failing", ["Popen", "pidfd_open"])
@pytest.mark.parametrize("name", [WRITER, SIMULATOR])
def test_a_child_that_the_system_cannot_start_is_tried_again(config, monkeypatch, caplog, failing, name):
    """No memory, no descriptors: that passes, and the child must not be lost for ever, nor left unwatched."""
    owner = subprocess if failing == "Popen" else os
    real = getattr(owner, failing)
    refused: list[object] = []
    spawned: list[subprocess.Popen[bytes]] = []

    def refuse_at_first(*args, **kwargs):
        if len(refused) < 3:
            refused.append(args)
            raise OSError(12, "Cannot allocate memory")
        return real(*args, **kwargs)

    def keep(*args, **kwargs):
        spawned.append(real_popen(*args, **kwargs))
        return spawned[-1]

    real_popen = subprocess.Popen
    if failing == "pidfd_open":
        monkeypatch.setattr(subprocess, "Popen", keep)
    monkeypatch.setattr(owner, failing, refuse_at_first)

    async def scenario():
        async with started(config) as (family, told):
            family.add(name, "the_child", "wait")
            child = family.all[name]
            assert child.state == "restarting"
            await until(lambda: child.pid is not None)
            assert told == [(name, "running", child.pid)]
            assert child.restarts.count == 3
            assert all(not alive(process.pid) for process in spawned[:-1])

    asyncio.run(scenario())
    assert f"{name} cannot be started (Cannot allocate memory), starting it again in" in caplog.text


def run_older(config, name, *, config_hash=None):
    """Start a process that holds the lock of a role, as a killed supervisor leaves it behind."""
    older = config if config_hash is None else config.with_changes(kite={"max_connections": 1})
    process = subprocess.Popen([sys.executable, "-m", "the_child", "lock", name], env=os.environ | older.to_child())
    path = role.lock_path(config, name)
    deadline_s = time.monotonic() + DEADLINE_S
    while read_holder(path) is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return process


def test_what_is_running_is_adopted(config, caplog):
    """A process that holds its lock with our version and configuration is kept, watched, and replaced when it dies."""
    caplog.set_level("INFO")
    older = run_older(config, "worker-1")

    async def scenario():
        async with started(config) as (family, told):
            family.add("worker-1", "the_child", "lock", "worker-1")
            child = family.all["worker-1"]
            assert told == [("worker-1", "running", older.pid)]
            older.kill()
            older.wait()
            await until(lambda: child.pid not in (None, older.pid))
            await until(lambda: read_holder(role.lock_path(config, "worker-1")) is not None)
            holder = read_holder(role.lock_path(config, "worker-1"))
            assert holder is not None
            assert (holder.pid, holder.version, holder.config_hash) == (child.pid, __version__, config.hash)

    asyncio.run(scenario())
    assert f"worker-1 (process {older.pid}) is running, adopted" in caplog.text


def test_what_runs_with_another_configuration_is_outdated(config):
    """It is adopted, asked to end when it is restarted, and then started as it is configured now."""
    older = run_older(config, "worker-1", config_hash="other")

    async def scenario():
        async with started(config) as (family, _):
            family.add("worker-1", "the_child", "lock", "worker-1")
            child = family.all["worker-1"]
            assert child.pid == older.pid
            assert family.outdated() == ["worker-1"]
            await asyncio.gather(family.restart("worker-1"), asyncio.to_thread(older.wait, DEADLINE_S))
            assert family.outdated() == []
            assert older.returncode == -signal.SIGTERM
            await until(lambda: "ready" in output(config, "worker-1"))
            holder = read_holder(role.lock_path(config, "worker-1"))
            assert holder is not None
            assert holder.config_hash == config.hash
            assert child.pid != older.pid

    asyncio.run(scenario())


def test_a_child_is_restarted_when_asked(config):
    """It ends in order and one other takes its place, which is not ended in turn; it counts as no death."""

    async def scenario():
        async with started(config) as (family, told):
            family.add("worker-1", "the_child", "wait")
            child = family.all["worker-1"]
            first = child.pid
            await until(lambda: "ready" in output(config, "worker-1"))
            second = await family.restart("worker-1")
            assert second == child.pid
            assert [pid for _, _, pid in told] == [first, None, second]
            assert child.restarts.count == 0
            assert alive(second)
            with pytest.raises(RequestRefusedError, match=r"no process of this service is called 'nobody'.*worker-1"):
                await family.restart("nobody")

    asyncio.run(scenario())


def test_what_the_configuration_does_not_have_any_more_is_ended(config):
    """A worker of an earlier service that is not added is asked to end, and not started again."""
    older = run_older(config, "worker-2", config_hash="other")

    async def scenario():
        async with started(config) as (family, _):
            family.end_unwanted({"worker-2": "the_child", "worker-3": "the_child"})
            await asyncio.to_thread(older.wait, DEADLINE_S)
            await until(lambda: family.all["worker-2"].state == "stopped")
            assert "worker-3" not in family.all

    asyncio.run(scenario())
    assert older.returncode == -signal.SIGTERM


def test_a_lock_file_that_names_a_stranger_adopts_nobody(config):
    """A process that does not run what the role runs is left alone."""
    older = run_older(config, "worker-1")

    async def scenario():
        async with started(config) as (family, told):
            family.end_unwanted({"worker-1": "another_module"})
            assert family.all == {}
            assert told == []

    asyncio.run(scenario())
    assert older.poll() is None
    older.kill()
    older.wait(DEADLINE_S)


def test_the_simulator_holds_a_lock_that_it_knows_nothing_of(config):
    """The supervisor takes the lock, the simulator inherits it: it can be found, and is free when it is gone."""

    async def scenario():
        async with started(config) as (family, _):
            family.add(SIMULATOR, "the_child", "wait")
            pid = family.all[SIMULATOR].pid
            path = role.lock_path(config, SIMULATOR)
            assert read_holder(path) == role.Holder(pid, __version__, config.hash)
            await family.end(SIMULATOR, DEADLINE_S)
            assert read_holder(path) is None

    asyncio.run(scenario())


def test_settings_go_by_the_environment_and_secrets_are_in_no_argument(config, monkeypatch):
    """A child has the resolved configuration and the credentials in its environment, and no MDS_ variable besides."""
    monkeypatch.setenv("MDS_KITE__MAX_CONNECTIONS", "1")
    monkeypatch.setenv("KITE_API_KEY", "the_k3y")
    monkeypatch.setenv("KITE_ACCESS_TOKEN", "the_t0ken")
    config = Config().with_changes(runtime={"run_dir": config.runtime.run_dir})

    async def scenario():
        async with started(config) as (family, _):
            family.add("worker-1", "the_child", "wait")
            await until(lambda: "ready" in output(config, "worker-1"))
            proc = Path(f"/proc/{family.all['worker-1'].pid}")
            command, environment = (proc / "cmdline").read_bytes(), (proc / "environ").read_bytes().split(b"\0")
        assert b"the_t0ken" not in command
        assert b"the_k3y" not in command
        assert b"KITE_ACCESS_TOKEN=the_t0ken" in environment
        names = [variable.split(b"=")[0] for variable in environment]
        assert [name for name in names if name.startswith(b"MDS_")] == [b"MDS_CHILD_CONFIG"]

    asyncio.run(scenario())


@pytest.mark.parametrize(("size", "kept"), [(OWN_LOG_BYTES, False), (OWN_LOG_BYTES + 1, True)])
def test_a_large_log_file_is_begun_anew(config, size, kept):
    """Above the limit the old file is set aside, once; below it the child appends."""
    path = config.runtime.run_dir / "worker-1.log"
    path.write_bytes(b"x" * size)

    async def scenario():
        async with started(config) as (family, _):
            family.add("worker-1", "the_child", "wait")
            await until(lambda: b"ready" in path.read_bytes())

    asyncio.run(scenario())
    assert path.with_suffix(".log.1").exists() == kept
    assert path.read_bytes().startswith(b"ready" if kept else b"x")
