"""The commands as a user types them: the real `mds`, in a folder of its own."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import __version__
from pipeline.cli import _COMMANDS
from pipeline.files import FORMAT

MDS = str(Path(sys.executable).parent / "mds")
DEADLINE_S = 30
CONNECTION_KEYS = {
    "role",
    "mode",
    "state",
    "active",
    "subscribed_instruments",
    "tick_count",
    "last_tick_time",
    "start_time",
    "capacity_remaining",
    "pid",
}
ROLES = {"supervisor", "writer", "worker-1", "worker-2", "worker-3", "http", "simulator"}
GROUPS = {"token": "token set"}  # a command of each
ARGUMENTS = {  # of the commands that need some
    "subscribe": ["408065"],
    "unsubscribe": ["408065"],
    "mode": ["full", "408065"],
    "mirror": ["on"],
    "failover": ["1"],
    "restart": ["writer"],
}
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("MDS_", "KITE_"))}


def mds(folder, *arguments, columns=80, **variables):
    """Run a command to its end."""
    return subprocess.run(
        [MDS, *arguments],
        cwd=folder,
        env=CLEAN | {"COLUMNS": str(columns), **variables},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def start(folder, *arguments):
    return subprocess.Popen(
        [MDS, *arguments], cwd=folder, env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition):
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def is_storing(folder):
    """Whether the service in this folder is healthy and has stored something."""
    done = mds(folder, "status", "--json")
    if done.returncode != 0:
        return False
    status = json.loads(done.stdout)
    return status["health"]["status"] == "healthy" and status["storage"]["ticks_stored"] > 0


def one_line(done, code):
    """Assert that a command ended with one line on stderr and this exit code; return the line."""
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("mds: ")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


# Help and usage.


def test_help_lists_every_command(tmp_path):
    """`mds --help` says what it is, how to try it, and what each command does."""
    done = mds(tmp_path, "--help")
    assert done.returncode == 0
    assert "mds run --simulate --duration 10" in done.stdout
    for name, text in _COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert text in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", [GROUPS.get(name, name) for name in _COMMANDS])
def test_each_command_has_help(tmp_path, name):
    """`mds COMMAND --help` shows its usage, a text and its options, and --config among them."""
    done = mds(tmp_path, *name.split(), "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: mds {name} ")
    assert "--config " in done.stdout
    assert "--help" in done.stdout
    prints_data = name not in ("init", "run", "stop", "simulate", "login", "token set")
    assert ("--json" in done.stdout) == prints_data


def test_version_and_module(tmp_path):
    """`mds --version` names the version and its format, and `python -m pipeline` is the same command."""
    done = mds(tmp_path, "--version")
    assert done.stdout == f"mds, version {__version__} (format {FORMAT})\n"
    command = [sys.executable, "-m", "pipeline"]
    for arguments in (["--version"], ["--help"]):
        same = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=True, env=CLEAN
        )
        assert same.stdout == mds(tmp_path, *arguments, columns=80).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run", "--nonsense"],
        ["run", "argument"],
        ["run", "--duration", "soon"],
        ["run", "--duration", "-1"],
        ["status", "--config"],
        ["verify", "none.jsonl"],
        ["simulate", "--nonsense"],
        ["simulate", "--rate", "-1"],
    ],
)
def test_wrong_usage(tmp_path, arguments):
    """Wrong usage is explained on stderr with exit code 2, and nothing is made."""
    done = mds(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


# Without a service.


ALONE = (
    *("run", "tail", "files", "analyze", "bars", "report", "compact", "verify", "simulate", "gaps", "top"),
    *("init", "login", "token", "doctor"),
)


@pytest.mark.parametrize("name", [name for name in _COMMANDS if name not in ALONE])
def test_no_service(tmp_path, name):
    """A question without a service to ask is one line and exit code 1."""
    done = mds(tmp_path, name, *ARGUMENTS.get(name, ()))
    assert f"no service is running in {tmp_path}/run" in one_line(done, 1)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_recorded_yet(tmp_path):
    """`mds verify` of nothing is no proof: exit code 1; a data folder that is not there is a wrong setting, 2."""
    assert "market_data: no such folder; storage.data_dir names" in one_line(mds(tmp_path, "verify"), 2)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "market_data").mkdir()
    done = mds(tmp_path, "verify")
    assert done.returncode == 1
    assert "Nothing is recorded yet" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("MDS_RUNTIME__RUN_DIR", "file", "runtime.run_dir: .*not a folder, a file is in the way"),
        ("MDS_STORAGE__DATA_DIR", "file", "storage.data_dir: .*not a folder, a file is in the way"),
        ("MDS_STORAGE__DATA_DIR", "file/below", "storage.data_dir: .*not a folder, a file is in the way"),
        ("MDS_STORAGE__SPOOL_DIR", "file", "storage.spool_dir: .*not a folder, a file is in the way"),
        ("MDS_STORAGE__DATA_DIR", "/proc/mds", "storage.data_dir: /proc/mds: "),
        ("MDS_RUNTIME__RUN_DIR", "/proc/mds", "runtime.run_dir: /proc/mds: "),
        ("MDS_SIMULATOR__HOST", "192.0.2.1", "simulator: cannot listen on 192.0.2.1: Cannot assign"),
    ],
)
def test_places_that_cannot_be_used(tmp_path, variable, value, words):
    """A folder or an address that cannot be used is one line naming the setting, exit code 2."""
    (tmp_path / "file").touch()
    done = mds(tmp_path, "run", "--simulate", "--duration", "0", **{variable: value})
    assert re.search(words, one_line(done, 2))


# With a service.


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service that records the simulator, healthy; it is ended by the test that ends it, or else here."""
    folder = tmp_path_factory.mktemp("service")
    process = start(folder, "run", "--simulate")

    try:
        wait_for(lambda: is_storing(folder))
        yield folder, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)


def test_status_json_has_the_fixed_keys(service):
    """`mds status --json` is one object with the keys that the contract fixes."""
    folder, process = service
    status = json.loads(mds(folder, "status", "--json").stdout)
    assert set(status) == {"health", "connections", "instruments", "storage", "metrics", "processes"}
    assert list(status["connections"]) == ["1", "2", "3"]
    for connection in status["connections"].values():
        assert set(connection) >= CONNECTION_KEYS
    assert set(status["processes"]) == ROLES
    for one in status["processes"].values():
        assert set(one) == {"pid", "state", "restarts"}
    assert status["processes"]["supervisor"]["pid"] == process.pid
    first, second, third = status["connections"].values()
    assert (first["state"], second["state"], third["state"]) == ("live", "live", "standby")
    assert first["capacity_remaining"] == 3000 - first["subscribed_instruments"]
    assert len(status["instruments"]) == first["subscribed_instruments"] + second["subscribed_instruments"]


@pytest.mark.parametrize("name", ["health", "connections", "instruments", "storage", "metrics"])
def test_each_part_has_json_of_its_own(service, name):
    """A part of the status is the same data as in the whole."""
    folder, _ = service
    part = json.loads(mds(folder, name, "--json").stdout)
    whole = json.loads(mds(folder, "status", "--json").stdout)[name]
    assert type(part) is type(whole)
    assert part.keys() == whole.keys() if isinstance(part, dict) else len(part) == len(whole)


@pytest.mark.parametrize("columns", [80, 200])
def test_tables_fit_the_terminal(service, columns):
    """No table is wider than the terminal or cuts a word; one line is one connection."""
    folder, _ = service
    shown = mds(folder, "status", columns=columns).stdout
    assert shown.startswith("healthy: ")
    rows = {line.split()[1]: line.split() for line in shown.splitlines() if line[:1] in ("1", "2", "3")}
    assert list(rows) == ["primary", "secondary", "tertiary"]
    assert rows["tertiary"][2] == "standby"
    header = next(line for line in shown.splitlines() if line.split()[:1] == ["role"])
    wide_only = ("mode", "rate 1s", "pending", "reconnects", "pid")
    assert all(name in header for name in ("state", "instruments", "ticks", "rate 10s", "age", "lag", "gaps"))
    assert [name in header for name in wide_only] == [columns == 200 or name == "rate 1s" for name in wide_only]
    for name in ("status", "instruments", "metrics"):
        tables = mds(folder, name, columns=columns).stdout
        assert "…" not in tables
        assert tables
        assert max(map(len, tables.splitlines())) <= columns


def test_instruments_that_do_not_tick(service):
    """`mds instruments` lists, if asked, only those that have not ticked for a while, or never."""
    folder, _ = service

    def listed(*options):
        return json.loads(mds(folder, "instruments", "--json", *options).stdout)

    wait_for(lambda: listed("--never") == [])
    every = len(listed())
    assert len(listed("--stale-s", "0")) == every
    assert len(listed("--stale-s", "0", "--mode", "full")) + len(listed("--stale-s", "0", "--mode", "quote")) == every
    assert listed("--stale") == []
    dead = "3329"  # the simulator has nothing for it
    assert mds(folder, "subscribe", dead).returncode == 0
    for options in (["--never"], ["--stale"], ["--never", "--connection", "1"]):
        assert [str(one["instrument_token"]) for one in listed(*options)] == [dead]
    assert listed("--never", "--connection", "2") == []
    assert mds(folder, "health").stdout.splitlines()[-1] == "1 instrument never ticked: mds instruments --never"
    assert mds(folder, "unsubscribe", dead).returncode == 0


def test_a_second_run_is_refused(service):
    """Run folder and data folder are held: one line each that names the process, exit code 2."""
    folder, process = service
    same = one_line(mds(folder, "run", "--simulate"), 2)
    assert f"supervisor.lock is held by process {process.pid}" in same
    other_run = one_line(mds(folder, "run", "--simulate", MDS_RUNTIME__RUN_DIR="other"), 2)
    assert f"held by process {process.pid}" in other_run
    other_data = one_line(mds(folder, "run", "--simulate", MDS_STORAGE__DATA_DIR="other_data"), 2)
    assert f"held by process {process.pid}" in other_data


def test_the_simulator_s_port_in_use(service, tmp_path):
    """A port that another program has is one line, exit code 2."""
    folder, _ = service
    port = (folder / "run" / "simulator.port").read_text()
    line = one_line(mds(tmp_path, "run", "--simulate", MDS_SIMULATOR__PORT=port), 2)
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in line


def test_stop_ends_it_in_order(service):
    """`mds stop` ends the service: exit code 0, a summary, no process left, and nothing missing in the files."""
    folder, process = service
    pids = [one["pid"] for one in json.loads(mds(folder, "status", "--json").stdout)["processes"].values()]
    assert mds(folder, "stop").returncode == 0
    process.wait(DEADLINE_S)
    assert process.returncode == 0
    assert process.stdout.read().endswith(" still spooled 0\n")
    assert not any(pid and Path(f"/proc/{pid}").exists() for pid in pids)
    report = json.loads(mds(folder, "verify", "--json").stdout)
    assert report["ticks"] > 0
    assert [report[key] for key in ("gaps", "duplicates", "torn", "invalid")] == [0, 0, 0, 0]


def test_a_short_run_and_its_proof(tmp_path):
    """`mds run --simulate --duration S` ends by itself and tells its counts; `mds verify` agrees with them."""
    done = mds(tmp_path, "run", "--simulate", "--duration", "2.5")
    assert done.returncode == 0
    words = done.stdout.replace(",", "").split()
    assert [words[0], words[3], words[5]] == ["received", "stored", "still"]
    received, stored, spooled = int(words[1]), int(words[4]), int(words[-1])
    verified = mds(tmp_path, "verify", "--json")
    assert verified.returncode == 0
    assert json.loads(verified.stdout)["ticks"] == received == stored
    assert spooled == 0


def test_interrupting_verify(tmp_path):
    """Ctrl-C ends `mds verify` at once, with a word and without a traceback."""
    file = tmp_path / "market_data_2025-10-01.jsonl"
    file.write_bytes(b"{}\n" * 5_000_000)
    process = start(tmp_path, "verify", file.name)
    opened = Path(f"/proc/{process.pid}/fd")

    def is_reading():
        with contextlib.suppress(OSError):
            return any(fd.readlink() == file for fd in opened.iterdir())
        return False

    try:
        wait_for(is_reading)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "Traceback" not in error
    assert "Aborted" in error
    assert out.strip() == ""


def test_a_run_whose_stderr_nobody_reads_ends(tmp_path):
    """A pipe that is full and never read does not keep the service from recording, nor from ending."""
    unread, stderr = os.pipe()
    os.set_blocking(stderr, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(stderr, b"x" * 4096)
    os.set_blocking(stderr, True)
    try:
        process = subprocess.Popen(
            [MDS, "run", "--simulate"], cwd=tmp_path, env=CLEAN, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        try:
            wait_for(lambda: is_storing(tmp_path))
            assert mds(tmp_path, "stop").returncode == 0
        finally:
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        os.close(stderr)
        os.close(unread)
    assert process.returncode == 0
    assert out.startswith("received ")
