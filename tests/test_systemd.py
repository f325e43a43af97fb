"""The notify socket, with a socket in systemd's place."""

import os
import socket
import time

import pytest

from pipeline.supervisor.systemd import STATUS_S, Systemd

TWO_SECONDS = {"WATCHDOG_USEC": "2000000"}


@pytest.fixture(params=["path", "abstract"])
def listener(request, tmp_path):
    """A socket that listens, and the environment that names it."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(name if request.param == "path" else "\0" + name[1:])
        bound.setblocking(False)
        yield bound, {"NOTIFY_SOCKET": name if request.param == "path" else "@" + name[1:]}


def said(bound):
    """Return what has come."""
    messages = []
    while True:
        try:
            messages.append(bound.recv(4096).decode())
        except BlockingIOError:
            return messages


def no_fault():
    """Find nothing wrong."""
    return ""


def test_it_tells_that_it_is_ready_and_that_it_ends(listener):
    """Both are one message each."""
    bound, environment = listener
    systemd = Systemd(environment)
    systemd.ready()
    systemd.stopping()
    assert said(bound) == ["READY=1", "STOPPING=1"]


def test_the_end_has_the_watchdogs_whole_time(listener):
    """Nobody feeds it meanwhile, and systemd goes on watching; whatever was wrong, it is ending in order now."""
    bound, environment = listener
    systemd = Systemd(environment | TWO_SECONDS)
    systemd.look("", lambda: "worker-1 is given up", 10.0)
    systemd.stopping()
    assert said(bound) == ["WATCHDOG=1", "STOPPING=1"]


def test_how_it_does_is_told_when_it_is_different_and_not_too_often(listener):
    """A reason that counts seconds is told once a second; a line break in it is no message of its own."""
    bound, environment = listener
    systemd = Systemd(environment)
    for now_s, line in ((10.0, "well"), (10.1, "well"), (10.2, "ill\nREADY=1"), (10 + STATUS_S, "ill\nREADY=1")):
        systemd.look(line, no_fault, now_s)
    assert said(bound) == ["STATUS=well", "STATUS=ill READY=1"]


def test_the_watchdog_is_fed_twice_in_its_time(listener):
    """Not more often, and what is asked for that is not asked otherwise."""
    bound, environment = listener
    asked: list[float] = []
    now_s = 0.0

    def fault() -> str:
        asked.append(now_s)
        return ""

    systemd = Systemd(environment | TWO_SECONDS | {"WATCHDOG_PID": str(os.getpid())})
    for tenth in range(31):
        now_s = 10 + tenth / 10
        systemd.look("", fault, now_s)
    assert said(bound) == ["WATCHDOG=1"] * 4
    assert asked == [10, 11, 12, 13]


def test_a_fault_starves_it_until_it_is_gone(listener, caplog):
    """It is logged once, and looked at again each time."""
    bound, environment = listener
    systemd = Systemd(environment | TWO_SECONDS)
    systemd.look("", no_fault, 10.0)
    assert said(bound) == ["WATCHDOG=1"]
    for now_s in (11.1, 11.2, 11.3):
        systemd.look("", lambda: "worker-1 is given up", now_s)
    assert said(bound) == []
    assert [record.message for record in caplog.records] == [
        "worker-1 is given up: if that lasts, systemd's watchdog restarts the supervisor; the others go on"
    ]
    systemd.look("", no_fault, 11.4)
    assert said(bound) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "watchdog",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "soon"},
        TWO_SECONDS | {"WATCHDOG_PID": "1"},
    ],
)
def test_nobody_who_watches_is_fed(listener, watchdog):
    """Nor is a watchdog of another process."""
    bound, environment = listener
    Systemd(environment | watchdog).look("", lambda: pytest.fail("asked"), 10.0)
    assert said(bound) == []


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@nobody", "vsock:2:9999", "x" * 300])
def test_without_anybody_who_listens_nothing_happens(address):
    """It is told all the same, and nothing is raised."""
    systemd = Systemd({"NOTIFY_SOCKET": address} | TWO_SECONDS if address else {})
    systemd.ready()
    systemd.look("well", no_fault, 10.0)
    systemd.stopping()


def test_a_listener_that_does_not_listen_is_not_waited_for(listener):
    """What finds no room is dropped."""
    _, environment = listener
    systemd = Systemd(environment)
    began_s = time.thread_time()
    for _ in range(2000):
        systemd.ready()
    assert time.thread_time() - began_s < 5
