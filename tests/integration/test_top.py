"""`mds top` and `mds events` as they are used: in a window, in a pipe, while the service dies and comes back."""

import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.integration.conftest import NewService
from tests.integration.kite import Kite
from tests.integration.service import DEADLINE_S, MDS, Service, until
from tests.integration.window import Window

SMALL = {"primary": [408065], "secondary": [738561]}
LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d healthy: 2/3 connections active, 2 instruments, [\d,]+ ticks, [\d,]+ ticks/s, "
    r"lag [\d,]+ ms, last tick \d+\.\d s ago"
)
NOBODY = "the service does not answer: no service is running in "


def environment(**variables: str) -> dict[str, str]:
    """Return what `mds` needs, in an empty folder or in that of a service, which it then may be asked about."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MDS_", "KITE_"))}
    return {**kept, "TERM": "xterm-256color", **variables}


def top(
    folder: Path, *arguments: str, columns: int = 100, lines: int = 30, variables: dict[str, str] | None = None
) -> Window:
    """Open a window with `mds top`."""
    return Window([MDS, "top", *arguments], columns, lines, cwd=folder, env=environment(**(variables or {})))


def in_pipe(folder: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """Start a command whose output is read."""
    return subprocess.Popen(
        [MDS, *arguments],
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: "subprocess.Popen[str]") -> None:
    """End a command that a test has read enough of."""
    process.kill()
    process.communicate()


@pytest.fixture
def service(kite: Kite, new_service: NewService) -> Service:
    """A service that records 1,000 ticks a second."""
    made = new_service(universe=SMALL)
    kite.load(1000)
    made.start()
    made.wait_until_live(1, 2)
    return made


# With a service.


def test_it_shows_the_service_through_death_and_return(service: Service):
    """Figures go on in any window; without the supervisor the last ones stay, with the time; a new one is followed.

    With one that hangs it is the same, and q is heeded at once.
    """
    with top(service.folder) as window:
        window.until_shown("healthy", "1 primary", "2 secondary", "3 tertiary", "2 instruments", "writer recording")
        assert window.is_alternate
        assert not window.shows_cursor
        first = stored(window)
        window.until(lambda: stored(window) > first, "figures go on")
        window.until(lambda: re.search(r"^ticks/s .*[▂-█]+ [\d,]+, at most", window.text, re.MULTILINE), "blocks")

        for columns, lines in ((200, 50), (40, 12), (20, 5), (80, 24)):
            window.resize(columns, lines)
            window.until(lambda: window.text.startswith("healthy  ") and "1 " in window.text, "it is drawn anew")
        window.until_shown("worker-1   connected")

        service.kill("supervisor")
        window.resize(250, 24)
        window.until(lambda: re.search(NOBODY + r".*, as of \d\d:\d\d:\d\d\nhealthy", window.text), "nobody answers")
        last = stored(window)
        assert last > first
        service.start()
        window.until(lambda: NOBODY not in window.text and stored(window) != last, "the new one answers")
        window.until_shown("healthy")

        service.send("supervisor", signal.SIGSTOP)
        try:
            window.until_shown("does not answer, as of")
            began_s = time.monotonic()
            window.type(b"q")  # while an answer is waited for
            assert window.wait() == (0, "")
            print(f"q has ended it within {time.monotonic() - began_s:.3f} s")  # noqa: T201  the figure
            assert window.is_as_found
            assert window.trouble == []
        finally:
            service.send("supervisor", signal.SIGCONT)
    assert service.stop() == 0


def stored(window: Window) -> int:
    """Return the ticks that are told to be stored."""
    found = re.search(r"([\d,]+) stored", window.text)
    return int(found[1].replace(",", "")) if found else -1


def test_lines_of_a_service(service: Service):
    """In a pipe it is a line an interval, or an object; who reads no more ends it quietly, and its end is told."""
    lines = in_pipe(service.folder, "top", "--interval", "0.1", "--for", "1")
    objects = in_pipe(service.folder, "top", "--interval", "0.1", "--json")
    try:
        assert lines.stdout
        assert objects.stdout
        assert all(LINE.match(lines.stdout.readline()) for _ in range(5))
        found = [json.loads(objects.stdout.readline()) for _ in range(5)]
        assert [one["health"]["status"] for one in found] == ["healthy"] * 5
        assert set(found[0]) == {"health", "connections", "storage", "metrics", "processes"}
        received = [one["metrics"]["total_ticks_received"] for one in found]
        assert received == sorted(received)

        objects.stdout.close()
        assert objects.wait(DEADLINE_S) == 0
        assert objects.stderr
        assert objects.stderr.read() == ""

        service.kill("supervisor")
        out, error = lines.communicate(timeout=DEADLINE_S)
        assert f"down: {NOBODY}{service.run_dir}" in out.splitlines()[-1]
        assert lines.returncode == 1
        assert re.fullmatch(rf"mds: down for \d+ s: {NOBODY}.*\n", error)
    finally:
        end(lines)
        end(objects)


def test_events_go_on_over_a_restart(service: Service):
    """`mds events` shows the latest; with --follow each is told once, those of the next run, too."""
    listed = json.loads(service.mds("events", "--json").stdout)
    assert {"connected", "service_started", "subscribed"} <= {notice["event"] for notice in listed}
    shown = service.mds("events", "--limit", "1").stdout
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (supervisor|writer|worker-\d) +\w.*\n", shown)

    following = in_pipe(service.folder, "events", "--follow", "--json", "--limit", "200")
    try:
        assert following.stdout
        assert following.stderr
        told = [json.loads(following.stdout.readline()) for _ in listed]
        service.kill("supervisor")
        assert following.stderr.readline().endswith("; waiting for it\n")
        service.start()
        while sum(notice["event"] == "service_started" for notice in told) < 2:
            told.append(json.loads(following.stdout.readline()))
        service.wait_until_live(1, 2)
        service.kill("worker-3")
        while (told[-1]["event"], told[-1]["details"].get("process")) != ("process_died", "worker-3"):
            told.append(json.loads(following.stdout.readline()))
    finally:
        end(following)
    keys = [(notice["timestamp"], notice["source"], notice["text"]) for notice in told]
    assert len(keys) == len(set(keys))
    assert service.stop() == 0


# Without one.


def test_it_waits_for_a_service(tmp_path: Path):
    """Without a service it says so and waits; without a terminal that counts as down, and --for says how long."""
    with top(tmp_path, lines=5) as window:
        window.until_shown("the service does not answer: no service is", "start one with: mds run", "waiting for it")
        window.type(b"x\x1b[A\x1b[B\x13")  # keys that are not for it; Ctrl-S would keep it from writing
        window.type(b"Q")
        assert window.wait() == (0, "")
        assert window.is_as_found
    process = in_pipe(tmp_path, "top", "--interval", "0.1", "--for", "0.5", "--json")
    out, error = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert re.fullmatch(rf"mds: down for \d+ s: {NOBODY}{tmp_path}/run; .*\n", error)
    health = [json.loads(line)["health"] for line in out.splitlines()]
    assert {one["status"] for one in health} == {"down"}
    assert health[0]["reasons"][0].startswith(NOBODY)
    assert list(tmp_path.iterdir()) == []


def test_for_in_a_window(tmp_path: Path):
    """The window is left as it was, and the reason stands on stderr."""
    with top(tmp_path, "--for", "0.5") as window:
        code, error = window.wait()
        assert (code, error.partition(" for ")[0]) == (1, "mds: down")
        assert window.is_as_found


@pytest.mark.parametrize(
    ("how", "code"),
    [(b"\x03", 0), (signal.SIGTERM, -signal.SIGTERM), (b"\x1c", -signal.SIGQUIT)],
    ids=["Ctrl-C", "SIGTERM", "Ctrl-Backslash"],
)
def test_every_end_leaves_the_terminal_as_it_was(tmp_path: Path, how: bytes | signal.Signals, code: int):
    """Ctrl-C is as good as q; a signal ends it as signals do, when the terminal has been put in order."""
    with top(tmp_path) as window:
        window.until_shown("waiting for it")
        assert not window.is_as_found
        window.type(how) if isinstance(how, bytes) else window.process.send_signal(how)
        assert window.wait() == (code, "")
        assert window.is_as_found


def test_an_error_leaves_the_terminal_as_it_was(tmp_path: Path):
    """Its traceback is there to be read."""
    code = "from pipeline.cli.terminal import Terminal\nwith Terminal(): raise RuntimeError('of ours')"
    with Window([sys.executable, "-c", code], 80, 24, cwd=tmp_path, env=environment()) as window:
        exit_code, error = window.wait()
        assert (exit_code, error.splitlines()[-1]) == (1, "RuntimeError: of ours")
        assert window.is_as_found


def test_suspended_and_brought_back(tmp_path: Path):
    """Ctrl-Z gives the shell its terminal back, `fg` goes on; so it does after SIGSTOP, whatever was changed."""
    shell = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
    variables = environment(PATH=f"{MDS.parent}:{os.environ['PATH']}", PS1="shell> ", HISTFILE="")
    with Window(shell, 80, 24, cwd=tmp_path, env=variables, stderr=subprocess.STDOUT) as window:
        window.type(b"mds top\n")
        window.until_shown("waiting for it")
        window.type(b"\x1a")
        window.until(lambda: not window.is_alternate, "the screen is the shell's again")
        window.until(lambda: window.is_as_found, "the terminal is the shell's again")
        window.type(b"fg\n")
        window.until_shown("waiting for it")
        assert window.is_alternate
        assert not window.shows_cursor

        group = os.tcgetpgrp(window.master)
        os.killpg(group, signal.SIGSTOP)
        window.until_shown("Stopped")
        window.type(b"fg\n")
        window.until(lambda: "Stopped" not in window.text, "it is drawn anew")
        window.until(lambda: not termios.tcgetattr(window.slave)[3] & termios.ECHO, "keys are not shown")
        window.type(b"q")
        window.until(lambda: window.is_as_found, "the terminal is the shell's again")
        window.type(b"echo code $?; exit\n")
        window.until_shown("code 0")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, {"colours", "screen"}), ({"NO_COLOR": "1"}, {"screen"}), ({"TERM": "dumb"}, set())],
    ids=["as usual", "NO_COLOR", "TERM=dumb"],
)
def test_what_a_terminal_can_do(tmp_path: Path, variables: dict[str, str], expected: set[str]):
    """NO_COLOR is without colours; a dumb terminal gets lines, and not one sequence."""
    with top(tmp_path, "--interval", "0.1", variables=variables) as window:
        window.until_shown("no service is running")
        window.type(b"\x03")
        assert window.wait() == (0, "")
        assert window.is_as_found
    written = b"".join(window.written)
    seen = {"screen"} if b"\x1b[?1049h" in written else set()
    assert seen | ({"colours"} if b"31m" in written else set()) == expected
    assert (b"\x1b" in written) == ("screen" in expected)


def test_wrong_settings(tmp_path: Path):
    """They are one line and exit code 2, in a window and in a pipe."""
    with top(tmp_path, variables={"MDS_STORAGE__TIMEZONE": "Nowhere"}) as window:
        code, error = window.wait()
        assert (code, error.count("\n")) == (2, 1)
        assert window.is_as_found
    process = in_pipe(tmp_path, "top", MDS_STORAGE__TIMEZONE="Nowhere")
    out, error = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out, error.count("\n")) == (2, "", 1)


def test_an_output_that_cannot_be_written(tmp_path: Path):
    """A full disk below the output is one line and exit code 1."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [MDS, "top"], cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE, check=False, timeout=20
        )
    assert (done.returncode, done.stderr) == (1, b"mds: standard output: No space left on device\n")


def test_the_terminal_goes_away(tmp_path: Path):
    """A window that is closed ends it."""
    with top(tmp_path) as window:
        window.until_shown("waiting for it")
        master = os.dup(window.master)
        os.close(window.master)
        window.master = os.open(os.devnull, os.O_RDONLY)  # for the window to close
        os.close(master)
        until(lambda: window.process.poll() is not None, "it ends")
