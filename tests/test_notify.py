"""Running the command of [notify]: real ones, that do what a test wants."""

import asyncio
import contextlib
import json
import os
import shlex
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from pipeline.config import Config
from pipeline.status import Notice
from pipeline.supervisor import notify
from pipeline.supervisor.notify import Notifier

DEADLINE_S = 20
SECRET = "canary-token-77c1"  # noqa: S105  made up
PROGRAM = """
import json, os, subprocess, sys, time
from pathlib import Path

folder, what = Path(sys.argv[1]), sys.argv[2]
if what == "unread":
    sys.exit(0)
told = sys.stdin.read()
with (folder / "told").open("a") as file:
    file.write(told)
if what == "record":
    about = {"environment": dict(os.environ), "is_leader": os.getsid(0) == os.getpid(), "argv": sys.argv[3:]}
    (folder / "about").write_text(json.dumps(about))
    print("on stdout")
if what == "noise":
    sys.stderr.write("noise " * 100_000)
if what == "fail":
    sys.exit("first line\\n" + "canary-token-77c1" + "\\x1b" + "y" * 196 + "\\n")
if what == "signal":
    os.kill(os.getpid(), 9)
if what in ("hang", "leave"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    (folder / "pids").write_text(f"{os.getpid()} {child.pid}")
if what == "hang":
    time.sleep(1000)
"""


class Command:
    """A notifier whose command is the program above, what that was told, and what became of it."""

    def __init__(self, folder, what, *arguments, **settings):
        self.folder = folder
        (folder / "the_command.py").write_text(PROGRAM)
        line = f"'{sys.executable}' '{folder}/the_command.py' '{folder}' {what} {' '.join(arguments)}"
        self.config = Config().with_changes(notify={"command": line, **settings}, runtime={"run_dir": folder / "run"})
        self.config = self.config.model_copy(update={"access_token": SecretStr(SECRET)})
        self.numbers = count(1)
        self.begin()

    def begin(self, **changes):
        self.config = self.config.model_copy(update=changes)
        self.notifier = Notifier(self.config)

    def gap(self, instruments=1, cause="closed"):
        details = {"instruments": instruments, "from": "a", "to": "b", "cause": cause}
        number = next(self.numbers)
        self.notifier.hear(
            Notice(number=number, timestamp="now", event="gap", source="worker-2", text="", details=details)
        )

    @property
    def told(self):
        path = self.folder / "told"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def pids(self):
        path = self.folder / "pids"
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def children():
    """Return the pids of what this process has started and not reaped."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


_others: set[str] = set()


@pytest.fixture(autouse=True)
def _others_are_known():
    """Know what other tests of this process have left running for good, as multiprocessing does its tracker."""
    _others.clear()
    _others.update(children())


def has_children():
    """Tell whether a process that was started here still runs, or was not reaped."""
    return bool(children() - _others)


@contextlib.asynccontextmanager
async def running(command):
    command.notifier.start()
    try:
        yield
    finally:
        await command.notifier.end()


async def until(condition):
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  files and processes set no asyncio.Event
            await asyncio.sleep(0.005)


def is_gone(pid):
    """Tell whether a process is dead, though perhaps nobody has reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds that a notifier sees, for a test to move."""
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(notify, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


def test_the_command_reads_one_message_and_knows_no_secret(tmp_path, monkeypatch):
    """One line of JSON on its stdin; arguments as a shell splits them, a session of its own, a clean environment."""
    canaries = ("KITE_API_KEY", "KITE_ACCESS_TOKEN", "KITE_API_SECRET", "MDS_CHILD_CONFIG", "MDS_HTTP__TOKEN")
    for name in canaries:
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("KEPT", "as it is")

    async def scenario():
        command = Command(tmp_path, "record", "'two words'", "'$HOME;`ls`'")
        async with running(command):
            command.gap()
            await until((tmp_path / "about").exists)
        return command.told

    assert asyncio.run(scenario()) == [
        {
            "service": {"host": os.uname().nodename, "run_dir": str(tmp_path / "run")},
            "event": "gap_closed",
            "connection_id": 2,
            "instruments": 1,
            "from": "a",
            "to": "b",
            "cause": "closed",
            "timestamp": "now",
            "suppressed": 0,
        }
    ]
    assert (tmp_path / "told").read_bytes().count(b"\n") == 1
    about = json.loads((tmp_path / "about").read_text())
    assert about["is_leader"]
    assert about["argv"] == ["two words", "$HOME;`ls`"]
    assert about["environment"]["KEPT"] == "as it is"
    assert "canary" not in about["environment"].values()


def test_no_secret_is_told(tmp_path):
    """What a server has quoted in its reason is blanked like everywhere."""

    async def scenario():
        command = Command(tmp_path, "record")
        async with running(command):
            command.gap(cause=f"GET /?access_token=other and {SECRET}")
            await until(lambda: command.told)
        return command.told[0]["cause"]

    assert asyncio.run(scenario()) == "GET /?access_token=*** and ***"


FAULTS = {
    "fail": "ended with exit code 1: " + "*** " + "y" * 196,
    "signal": "was ended by signal 9",
    "hang": "was killed, it took longer than 100 s",
}


@pytest.mark.parametrize(("what", "words"), FAULTS.items())
def test_what_went_wrong_is_logged(tmp_path, caplog, clock, what, words):
    """One line with the end of what it wrote to stderr, in which no secret is, nor a part of one; the next one runs."""

    async def scenario():
        command = Command(tmp_path, what, timeout_s=100)
        async with running(command):
            for number in (1, 2):
                command.gap()
                await until(lambda n=number: len(command.told) == n)
                clock.now_s += 100 * (what == "hang")
                await until(lambda n=number: len(caplog.messages) == n)
                clock.now_s += 60

    asyncio.run(scenario())
    assert caplog.messages == [f"notify.command {words}"] * 2


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("/nowhere/at-all 1", "/nowhere/at-all: No such file or directory"),
        ("no-such-program", "no-such-program: No such file or directory"),
        ("/etc", "/etc: Permission denied"),
        ("a\0b", "a\0b: embedded null byte"),
    ],
)
def test_what_cannot_be_run_is_logged(tmp_path, caplog, command, reason):
    """With its name; what comes next is tried all the same."""

    async def scenario():
        failing = Command(tmp_path, "record")
        works = failing.config.notify.command
        failing.begin(notify=failing.config.notify.model_copy(update={"command": command}))
        async with running(failing):
            failing.gap()
            await until(lambda: caplog.messages)
            failing.notifier._argv = shlex.split(works)
            failing.gap()
            await until(lambda: failing.told)

    asyncio.run(scenario())
    assert caplog.messages == [f"notify.command cannot be run: {reason}"]


def test_failures_do_not_fill_the_log(tmp_path, caplog, clock):
    """A line a minute; the others are counted in the next one."""

    async def scenario():
        command = Command(tmp_path, "fail", per_minute=600)
        async with running(command):
            for number in range(1, 4):
                command.gap()
                await until(lambda n=number: len(command.told) == n)
            await until(lambda: command.notifier._unlogged == 2)
            clock.now_s += 60
            command.gap()
            await until(lambda: len(caplog.messages) == 2)

    asyncio.run(scenario())
    assert caplog.messages[1].endswith("; it has failed 2 times more since it was last logged")


@pytest.mark.parametrize("what", ["unread", "noise"])
def test_a_command_may_write_much_and_read_nothing(tmp_path, caplog, what):
    """Neither stops it or us; that is no failure."""

    async def scenario():
        command = Command(tmp_path, what)
        async with running(command):
            command.gap()
            await until(lambda: command.notifier._budget._spent_s)
            await until(lambda: not has_children())

    asyncio.run(scenario())
    assert caplog.messages == []


def test_a_long_message_arrives_whole(tmp_path):
    """Longer than a pipe is."""

    async def scenario():
        command = Command(tmp_path, "record")
        async with running(command):
            command.gap(cause="c" * 300_000)
            await until(lambda: command.told)
        return command.told[0]["cause"]

    assert asyncio.run(scenario()) == "c" * 300_000


@pytest.mark.parametrize("what", ["hang", "leave"])
def test_nothing_is_left_of_a_command(tmp_path, clock, what):
    """What takes too long is killed with all it has started, and what ends goes with what it has left running."""

    async def scenario():
        command = Command(tmp_path, what)
        async with running(command):
            command.gap()
            await until(lambda: len(command.pids) == 2)
            clock.now_s += 10
            await until(lambda: all(map(is_gone, command.pids)))

    asyncio.run(scenario())
    assert not has_children()


def test_the_service_does_not_wait_for_a_command_when_it_ends(tmp_path, caplog, monkeypatch):
    """What still runs is killed after a moment; what waits is left out, and comes to nothing afterwards."""
    monkeypatch.setattr(notify, "END_S", 0.1)

    async def scenario():
        command = Command(tmp_path, "hang", timeout_s=300)
        async with running(command):
            command.gap(1)
            await until(lambda: len(command.pids) == 2)
            command.gap(2)
            command.gap(3)
        command.gap(4)
        await until(lambda: all(map(is_gone, command.pids)))
        return len(command.told)

    assert asyncio.run(scenario()) == 1
    assert caplog.messages == ["notify.command is not told of the last 2 messages: the service ends"]
    assert not has_children()


def test_what_goes_fast_is_told_before_the_end(tmp_path, monkeypatch):
    """Messages that wait while the service ends are not lost for that."""
    monkeypatch.setattr(notify, "END_S", DEADLINE_S)

    async def scenario():
        command = Command(tmp_path, "record")
        async with running(command):
            for number in range(3):
                command.gap(number)
        return [message["instruments"] for message in command.told]

    assert asyncio.run(scenario()) == [0, 1, 2]


def test_a_burst_starts_only_so_many_commands(tmp_path, clock):
    """1,000 events: one run at a time, five in a minute, and it is told how many were left out."""

    async def scenario():
        command = Command(tmp_path, "record", per_minute=5)
        async with running(command):
            for number in range(1000):
                command.gap(number)
            await until(lambda: len(command.told) == 5)
            for number in range(1000, 2000):
                command.gap(number)
            clock.now_s += 59
            command.gap(2000)
            await asyncio.sleep(0)
            assert len(command.notifier._waiting) == len(command.told) == 5
            clock.now_s += 1
            command.gap(2001)
            await until(lambda: len(command.told) == 10)
        return [(message["instruments"], message["suppressed"]) for message in command.told]

    told = asyncio.run(scenario())
    assert told[:5] == [(995, 995), *((number, 0) for number in range(996, 1000))]
    assert told[5:] == [(1997, 997), *((number, 0) for number in range(1998, 2002))]


def test_without_a_command_nothing_is_kept(tmp_path):
    """The setting is empty: nothing runs and nothing waits."""

    async def scenario():
        command = Command(tmp_path, "record")
        command.begin(notify=Config().notify)
        async with running(command):
            for number in range(1000):
                command.gap(number)
            assert len(command.notifier._waiting) == 0

    asyncio.run(scenario())
