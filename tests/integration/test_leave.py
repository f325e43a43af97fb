"""SIGUSR1 to `mds run`: the supervisor ends alone, the others go on, and the next one adopts them."""

import os
import signal
import socket
import threading
from functools import partial
from pathlib import Path

from tests.integration.conftest import NewService
from tests.integration.kite import Kite
from tests.integration.service import DEADLINE_S, Service, until

UNIVERSE = {"primary": [408065, 5633], "secondary": [738561]}
ROLES = ("writer", "worker-1", "worker-2", "worker-3")
TOLD = "ended alone: the others go on recording; mds run adopts them, mds stop ends them\n"


def pids(service: Service) -> dict[str, int | None]:
    """Return the pids of those that go on."""
    return {role: service.pid(role) for role in ROLES}


def leave(service: Service) -> None:
    """Let the supervisor end alone."""
    service.runs[-1].send_signal(signal.SIGUSR1)
    assert service.runs[-1].wait(DEADLINE_S) == 0
    assert service.output() == TOLD


def is_more(service: Service, stored: int) -> bool:
    """Tell whether more ticks are stored."""
    return service.stored() > stored


def test_the_others_go_on_and_are_adopted(kite: Kite, new_service: NewService):
    """Twice: each tick that was sent is stored once, no gap is on record, and the event log says who has left."""
    service = new_service(universe=UNIVERSE)
    kite.load(2000)
    service.start()
    service.wait_until_live(1, 2)
    before = pids(service)
    for _ in range(2):
        leave(service)
        assert service.pid("supervisor") is None
        stored = service.stored()
        until(partial(is_more, service, stored + 500), "it goes on recording")
        assert pids(service) == before
        service.start()
        service.wait_until_live(1, 2)
        assert pids(service) == before
    kite.tell("pause")
    assert service.stop() == 0
    service.assert_verified(ticks=kite.sent())
    assert service.events("gap") == []
    assert [e["event"] for e in service.events() if e["event"] in ("supervisor_left", "service_stopped")] == [
        "supervisor_left",
        "supervisor_left",
        "service_stopped",
    ]


def test_a_process_that_is_just_being_restarted_is_started_first(kite: Kite, new_service: NewService):
    """Nobody else would do it: the worker was told to end, and is back when the supervisor has left."""
    service = new_service(universe=UNIVERSE, kite={"ws_url": kite.url, "max_connections": 2})
    kite.load(2000)
    service.start()
    service.wait_until_live(1, 2)
    before = service.pid("worker-1")
    service.send("worker-1", signal.SIGSTOP)
    asking = threading.Thread(target=service.mds, args=("restart", "worker-1"))
    asking.start()
    until(lambda: "worker-1 is being restarted" in service.errors(), "it is told to end")
    service.runs[-1].send_signal(signal.SIGUSR1)
    os.kill(before or 0, signal.SIGCONT)
    assert service.runs[-1].wait(DEADLINE_S) == 0
    asking.join()
    until(lambda: service.pid("worker-1") not in (None, before), "the new worker holds its lock")
    service.start()
    service.wait_until_live(1, 2)
    assert service.stop() == 0
    service.assert_verified()


def test_what_systemd_is_told(kite: Kite, new_service: NewService, tmp_path: Path):
    """It is ready, how it does, and that it lives and ends; those that it starts know nothing of systemd."""
    service = new_service(universe=UNIVERSE)
    address = f"/tmp/mds-notify-{os.getpid()}"  # noqa: S108  a short name: that of a test's folder may be too long
    said: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address)
        listener.setblocking(False)

        def hear() -> list[str]:
            try:
                while True:
                    said.append(listener.recv(4096).decode())
            except BlockingIOError:
                return said

        (tmp_path / "credentials").mkdir()
        told = {"NOTIFY_SOCKET": f"@{address}", "WATCHDOG_USEC": "1000000"}
        service.give(**told, CREDENTIALS_DIRECTORY=str(tmp_path / "credentials"))
        service.start()
        until(lambda: "READY=1" in hear(), "it is ready")
        assert service.status() is not None
        kite.load(200)
        service.wait_until_live(1, 2)
        until(lambda: "STATUS=healthy: 3 instruments on 2 connections" in hear(), "the status")
        fed = said.count("WATCHDOG=1")
        until(lambda: hear().count("WATCHDOG=1") > fed + 1, "it lives")
        names = {
            entry.partition(b"=")[0].decode()
            for role in ROLES
            for entry in Path(f"/proc/{service.pid(role)}/environ").read_bytes().split(b"\0")
        }
        assert names.isdisjoint({*told, "CREDENTIALS_DIRECTORY"})
        assert "STOPPING=1" not in said
        assert service.stop() == 0
        assert hear()[-1] == "STOPPING=1"


def test_a_stop_of_what_does_not_run(new_service: NewService):
    """`mds stop --if-running` has nothing to say to that; without the option it is an error, as ever."""
    service = new_service()
    done = service.mds("stop", "--if-running")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert service.mds("stop").returncode == 1
    service.start("--simulate")
    service.wait_until_live(1, 2)
    service.send("supervisor", signal.SIGSTOP)
    assert service.mds("stop", "--if-running").returncode == 1
    service.send("supervisor", signal.SIGCONT)
    leave(service)
    assert service.mds("stop", "--if-running").returncode == 0
    assert service.processes() == []
