"""The command of [notify] with the real service: it is told what happens, and costs the recording nothing."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.conftest import Begin, NewService
from tests.integration.drills import PRIMARY, SECONDARY, SOON, UNIVERSE, end, wait_until_home
from tests.integration.kite import Kite
from tests.integration.service import Service, until
from tests.integration.test_failover import KEY, NEW_TOKEN, OLD_TOKEN
from tests.kite_rest import Rest

HTTP_TOKEN = "canary-http-token-31b2"  # noqa: S105  made up
WRONG_TOKEN = "canary-wrong-token-4d1f"  # noqa: S105  made up
PROGRAM = """
import json, os, subprocess, sys, time

told = json.loads(sys.stdin.read())
with open(sys.argv[1], "a") as file:
    file.write(json.dumps(told | {"environment": dict(os.environ)}) + "\\n")
if "hang" in sys.argv:
    child = subprocess.Popen(["sleep", "1000"])
    with open(sys.argv[1] + ".pids", "a") as file:
        file.write(f"{os.getpid()} {child.pid}\\n")
    time.sleep(1000)
"""


class Told:
    """What a command has been told, in the order of its runs."""

    def __init__(self, folder: Path, how: str = "") -> None:
        folder.mkdir()
        self.path = folder / "told"
        (folder / "the_command.py").write_text(PROGRAM)
        self.command = f"'{sys.executable}' '{folder}/the_command.py' '{self.path}' {how}"

    def all(self, event: str = "", **fields: Any) -> list[dict[str, Any]]:
        """Return the messages of this event with these fields."""
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("\n")]
        return [m for m in told if event in ("", m["event"]) and all(m[key] == value for key, value in fields.items())]

    def until(self, event: str, **fields: Any) -> dict[str, Any]:
        """Wait for such a message, and return the first one."""
        until(lambda: self.all(event, **fields), f"told of {event} with {fields}")
        return self.all(event, **fields)[0]

    @property
    def pids(self) -> list[list[int]]:
        """Those of each run that hangs, and of its child."""
        path = Path(f"{self.path}.pids")
        return [[int(pid) for pid in line.split()] for line in path.read_text().splitlines()] if path.exists() else []


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, though perhaps nobody has reaped it yet."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


def goes_on(service: Service) -> Callable[[], bool]:
    """Return whether more is stored than now."""
    stored = service.stored()
    return lambda: service.stored() > stored + 100


def until_well(service: Service) -> None:
    """Wait until the start is over for who follows health."""
    until(lambda: service.events("health", status="healthy"), "all is well")


def test_an_outage_is_told_from_end_to_end(kite: Kite, new_service: NewService, begin: Begin, tmp_path: Path):
    """Worker 1 is killed, and nobody can take over: gap and health are told as they come and go, without a secret."""
    told = Told(tmp_path / "command")
    service = new_service(
        universe=UNIVERSE, kite={"ws_url": kite.url, "max_connections": 2}, notify={"command": told.command}
    )
    service.give(KITE_API_KEY=KEY, KITE_ACCESS_TOKEN=OLD_TOKEN, MDS_HTTP__TOKEN=HTTP_TOKEN)
    kite.load(2000)
    begin(service)
    until_well(service)
    assert told.all() == []
    kite.tell("bar", how=503, but=[service.pid("worker-2")])
    service.kill("worker-1")
    opened, down = told.until("gap_opened"), told.until("health", status="down")
    kite.tell("bar", how=None)
    closed, healthy = told.until("gap_closed"), told.until("health", status="healthy")
    service.wait_until_live(1, 2)
    end(kite, service, cut=1)

    assert (opened["connection_id"], opened["instruments"]) == (1, len(PRIMARY))
    assert opened["reason"] in ("down: its process is not running", "starting")
    assert down["was"] == "healthy"
    assert f"{len(PRIMARY)} instruments uncovered" in down["reasons"][0]
    (gap,) = service.events("gap")
    assert {name: closed[name] for name in ("connection_id", "from", "to", "cause", "timestamp")} == {
        name: gap[name] for name in ("connection_id", "from", "to", "cause", "timestamp")
    }
    assert (closed["instruments"], gap["cause"]) == (len(gap["instruments"]), "killed")
    assert healthy["reasons"] == []
    changes = [(e["was"], e["status"]) for e in service.events("health")]
    start = [status for _, status in changes].index("healthy") + 1
    assert [(m["was"], m["status"]) for m in told.all("health")] == changes[start:]
    assert len(told.all("gap_opened")) == len(told.all("gap_closed")) == 1
    assert {(m["service"]["run_dir"], m["suppressed"]) for m in told.all()} == {(str(service.run_dir), 0)}
    names = {name for m in told.all() for name in m["environment"]}
    assert "PATH" in names
    assert [name for name in names if name.startswith(("MDS_", "KITE_"))] == []
    assert [secret for secret in (KEY, OLD_TOKEN, HTTP_TOKEN) if secret in told.path.read_text()] == []


def test_a_refused_token_is_told_once_for_each_token(kite: Kite, new_service: NewService, begin: Begin, tmp_path: Path):
    """Of two connections, and again when the next token is no better; without showing it."""
    told = Told(tmp_path / "command")
    with Rest(KEY, NEW_TOKEN) as rest:
        service = new_service(
            universe=UNIVERSE,
            failover=SOON,
            kite={"ws_url": kite.url, "api_url": rest.url},
            notify={"command": told.command},
        )
        service.give(KITE_API_KEY=KEY, KITE_ACCESS_TOKEN=OLD_TOKEN)
        kite.load(2000)
        begin(service)
        until_well(service)
        kite.tell("bar", how=403, unless=NEW_TOKEN)
        for connection in kite.connections():
            kite.tell("abort", connection=connection["number"])
        first = told.until("token_refused")
        assert service.mds("token", "set", stdin=f"{WRONG_TOKEN}\n").returncode == 0
        until(lambda: len(told.all("token_refused")) == 2, "the next one is refused")
        assert service.mds("token", "set", stdin=f"{NEW_TOKEN}\n").returncode == 0
        wait_until_home(kite, service)
        told.until("health", status="healthy")
        end(kite, service, cut=2)
    refusals = told.all("token_refused")
    assert [m["connection_ids"] for m in refusals] == [[1, 2]] * 2
    assert all("mds login" in m["reason"] for m in refusals)
    assert first["timestamp"] == min(e["timestamp"] for e in service.events("not_connected"))
    assert {m["instruments"] for m in told.all("gap_closed")} == {len(PRIMARY), len(SECONDARY)}
    secrets = (KEY, OLD_TOKEN, WRONG_TOKEN, NEW_TOKEN)
    assert [secret for secret in secrets if secret in told.path.read_text()] == []


def test_a_command_that_hangs_holds_nothing_up(kite: Kite, new_service: NewService, begin: Begin, tmp_path: Path):
    """It is killed with its child, and told of the next message; at the end of the service nobody waits for it."""
    told = Told(tmp_path / "command", "hang")
    service = new_service(universe=UNIVERSE, failover=SOON, notify={"command": told.command, "timeout_s": 1.5})
    kite.load(2000)
    begin(service)
    until_well(service)
    for connection in kite.connections():
        kite.tell("abort", connection=connection["number"])
    until(lambda: len(told.pids) == 2, "the first is killed, the second runs")
    until(lambda: all(map(is_gone, told.pids[0])), "with its child")
    until(goes_on(service), "recording goes on")
    wait_until_home(kite, service)
    end(kite, service, cut=2)
    until(lambda: all(is_gone(pid) for pids in told.pids for pid in pids), "the last one is gone, too")
    assert "notify.command was killed, it took longer than 1.5 s" in service.errors()


def test_a_command_that_is_missing_is_logged(kite: Kite, new_service: NewService, begin: Begin):
    """Once in a while, and that is all."""
    service = new_service(universe=UNIVERSE, failover=SOON, notify={"command": "/nowhere/at-all"})
    kite.load(2000)
    begin(service)
    for connection in kite.connections():
        kite.tell("abort", connection=connection["number"])
    until(lambda: "notify.command cannot be run" in service.errors(), "it is logged")
    until(goes_on(service), "recording goes on")
    wait_until_home(kite, service)
    end(kite, service, cut=2)
    assert service.errors().count("notify.command") == 1
    assert len(service.events("gap")) > 1
