"""The installed service on a machine of its own, under the real systemd: installed, killed, upgraded, hung, stopped."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import __version__
from tests.integration.machine import Machine, machine, why_not
from tests.integration.service import CLEAN, until
from tests.integration.wheels import ROOT, copy_source

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is a machine"),
    pytest.mark.timeout(600),
]

NEXT_VERSION = f"{__version__}.post1"
INSTALL = "/root/source/deploy/systemd/install"
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/root/wheels"}
RUN_DIR, DATA_DIR = "var/lib/mds/run", "var/lib/mds/market_data"
CHILDREN = ("writer", "worker-1", "worker-2", "worker-3", "http")
KEY, TOKEN = "key-of-the-drill", "token-of-the-drill"
SETTINGS = """
[universe]
primary = [408065, 5633]
secondary = [738561]
[market]
calendar = ""
[instruments]
sync = false
[failover]
stable_s = 1
[storage]
data_dir = "/var/lib/mds/market_data"
[runtime]
run_dir = "/var/lib/mds/run"
[kite]
ws_url = "ws://127.0.0.1:9000"
api_url = "http://127.0.0.1:9000"
access_token_file = "/var/lib/mds/access_token.json"
"""


class Host:
    """A booted machine on which the service is installed."""

    def __init__(self, booted: Machine) -> None:
        self.machine = booted

    def run(self, *argv: str, code: int = 0, **options: Any) -> str:
        """Run a command as root; return what it prints."""
        done = self.machine.run(*argv, **options)
        assert done.returncode == code, (argv, done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def shown(self, name: str) -> str:
        """Return a property of the unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", "mds").strip()

    def holders(self) -> dict[str, tuple[int, str]]:
        """Return pid and version of each of the others, as their lock files say when all of them do."""
        found: dict[str, tuple[int, str]] = {}

        def read() -> bool:
            for role in CHILDREN:
                try:
                    held = json.loads((self.machine.root / RUN_DIR / f"{role}.lock").read_bytes())
                except (OSError, ValueError):  # it is just being started
                    return False
                found[role] = held["pid"], held["version"]
            return True

        until(read, "all locks are held")
        return found

    def until_all_have(self, version: str) -> dict[str, tuple[int, str]]:
        """Wait until all of them have this version and record; return what they are then."""
        until(lambda: {held for _, held in self.holders().values()} == {version}, f"all have {version}")
        self.until_live()
        return self.holders()

    def left(self) -> list[str]:
        """Return the command lines of all that runs as user mds."""
        line = 'for p in /proc/[0-9]*; do [ "$(stat -c %U $p)" = mds ] && tr "\\0" " " < $p/cmdline && echo; done; true'
        return [command for command in self.run("sh", "-c", line).splitlines() if command.strip()]

    def is_live(self) -> bool:
        """Tell whether all that is subscribed is recorded, by those that the supervisor knows."""
        done = self.machine.run("mds", "status", "--json")
        if done.returncode:
            return False
        status = json.loads(done.stdout)
        connections = [status["connections"][c] for c in "12"]
        return status["health"]["status"] != "down" and all(
            c["state"] == "live" and c["confirmed_instruments"] == c["subscribed_instruments"] for c in connections
        )

    def until_live(self) -> None:
        """Wait for that."""
        until(self.is_live, "it records")

    def until_nothing_is_left(self) -> None:
        """Wait until nothing of it runs any more."""
        until(lambda: not self.left(), "all has ended")

    def stored(self) -> int:
        """Return how many bytes of ticks there are."""
        return sum(path.stat().st_size for path in (self.machine.root / DATA_DIR).glob("market_data_*"))

    def until_more_is_stored(self) -> None:
        """Wait until it has gone on recording."""
        stored = self.stored()
        until(lambda: self.stored() > stored + 10_000, "it goes on recording")

    def signal_main(self, name: str) -> None:
        """Send a signal to the supervisor."""
        self.run("systemctl", "kill", f"--signal={name}", "--kill-who=main", "mds")

    def until_another_supervisor(self, pid: str) -> None:
        """Wait until systemd has replaced that one."""
        until(lambda: self.shown("MainPID") not in ("0", pid) and self.shown("ActiveState") == "active", "a new one")

    def assert_verified(self) -> int:
        """Check that `mds verify` finds nothing wrong; return how many gaps there are."""
        report = json.loads(self.run("mds", "verify", "--json"))
        assert {key: report[key] for key in CLEAN if key != "gaps"} == {key: 0 for key in CLEAN if key != "gaps"}
        assert report["ticks"] > 0
        gaps: int = report["gaps"]
        return gaps


@pytest.fixture(scope="module")
def host(room_for_a_machine: Callable[[], Path]) -> Iterator[Host]:
    """The service is installed from its source folder, with a simulator as Kite; it is not started yet."""
    folder = room_for_a_machine()
    with machine(folder / "machine") as fresh:
        copy_source(fresh.root / "root/source")
        wheels = fresh.root / "root/wheels"
        booted = Host(fresh)
        needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
        booted.run("python3", "-m", "venv", "pip")
        booted.run(
            "pip/bin/pip", "download", "--quiet", "--dest", "wheels", "./source", *needs
        )  # there is a network yet
        module = copy_source(folder / "next") / "pipeline/__init__.py"
        module.write_text(
            module.read_text().replace(f'__version__ = "{__version__}"', f'__version__ = "{NEXT_VERSION}"')
        )
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels)]
        subprocess.run([*build, str(folder / "next")], check=True, capture_output=True)
        fresh.boot()
        booted.run("sh", INSTALL, env=OFFLINE)
        (fresh.root / "etc/mds/mds.toml").write_text(SETTINGS)
        for name, secret in (("KITE_API_KEY", KEY), ("KITE_ACCESS_TOKEN", TOKEN), ("another", "")):
            (fresh.root / "etc/mds/credentials" / name).write_text(f"{secret}\n")
        simulator = ["/opt/mds/current/bin/mds", "simulate", "--port", "9000", "--rate", "200"]
        booted.run("systemd-run", "--unit=kite", *simulator)
        yield booted
        log = fresh.run("journalctl", "--no-pager", "--output=cat", "--unit=mds", "--unit=mds-sweep").stdout
        print(log[-8000:])  # noqa: T201  shown with a failure


@pytest.fixture
def stopped(host: Host) -> Iterator[Host]:
    """The service is not running, before and after."""
    yield host
    host.machine.run("systemctl", "stop", "mds")
    host.until_nothing_is_left()


def wheel_of_the_next(host: Host) -> str:
    """Return where the wheel of the next version is."""
    (path,) = (host.machine.root / "root/wheels").glob(f"market_data_service-{NEXT_VERSION}-*.whl")
    return f"/root/wheels/{path.name}"


def hang(host: Host) -> None:
    """Let the supervisor hang until the watchdog has it replaced."""
    drop_in = host.machine.root / "etc/systemd/system/mds.service.d/watchdog.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nWatchdogSec=4\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "mds")
    host.until_live()
    main = host.shown("MainPID")
    host.signal_main("STOP")
    host.until_another_supervisor(main)
    host.until_live()
    shutil.rmtree(drop_in.parent)
    host.run("systemctl", "daemon-reload")
    assert "Watchdog timeout" in host.run("journalctl", "--no-pager", "--unit=mds")


def test_what_is_installed(host: Host) -> None:
    """The units are clean on the machine itself, the settings are for the service alone; what is wrong is refused."""
    assert host.run("sh", "-c", "systemd-analyze verify /etc/systemd/system/mds*") == ""
    assert host.run("stat", "-c", "%U:%G %a", "/etc/mds/mds.toml", "/etc/mds/credentials", "/var/lib/mds").split("\n")[
        :3
    ] == ["root:mds 640", "root:root 700", "mds:mds 750"]
    assert host.run("readlink", "/opt/mds/current") == f"releases/{__version__}\n"
    assert host.run("mds", "--version").startswith(f"mds, version {__version__}")
    before = (host.machine.root / "etc/mds/mds.toml").read_text()
    assert "nothing.whl: no such file" in host.run("sh", INSTALL, "nothing.whl", code=1)
    told = host.run("sh", INSTALL, wheel_of_the_next(host), code=1, env={"PYTHON": "/bin/false"})
    assert "/bin/false is no Python 3.11 or newer with venv; name one: PYTHON=" in told
    assert (host.machine.root / "etc/mds/mds.toml").read_text() == before
    assert not (host.machine.root / f"opt/mds/releases/{NEXT_VERSION}").exists()


def test_secrets_need_no_folder(stopped: Host) -> None:
    """A backup may not have brought an empty one back: what is missing is named, and nothing is tried in vain."""
    host = stopped
    folder = host.machine.root / "etc/mds/credentials"
    aside = folder.rename(folder.with_name("aside"))
    told = host.machine.run("systemctl", "start", "mds")
    aside.rename(folder)
    assert (told.returncode, host.shown("ActiveState"), host.shown("ExecMainStatus")) == (1, "failed", "2")
    assert "mds: KITE_API_KEY is not set" in host.run("systemctl", "status", "mds", code=3)


def test_the_command_reads_secrets_as_the_service_does(host: Host) -> None:
    """A line end of another system is none of them."""
    folder = host.machine.root / "etc/mds/credentials"
    kept = {name: (folder / name).read_text() for name in ("KITE_API_KEY", "KITE_ACCESS_TOKEN")}
    for name, text in kept.items():
        (folder / name).write_bytes(text.strip().encode() + b"\r\n")
    assert "Kite     takes it" in host.run("mds", "token", "status")
    for name, text in kept.items():
        (folder / name).write_text(text)


def test_a_year_in_a_minute(stopped: Host) -> None:
    """Killed, restarted, upgraded, rolled back, hung: not one gap. Stopped: nothing runs. No secret is anywhere."""
    host = stopped
    host.run("systemctl", "enable", "--now", "mds")
    first = host.until_all_have(__version__)
    until(lambda: host.shown("StatusText") == "healthy: 3 instruments on 2 connections", "the status line")

    main = host.shown("MainPID")
    host.signal_main("KILL")
    host.until_another_supervisor(main)
    host.until_live()
    host.run("systemctl", "restart", "mds")
    host.until_live()
    host.until_more_is_stored()
    assert host.holders() == first
    assert host.shown("NRestarts") == "0"  # counted since it was last started by hand
    assert host.assert_verified() == 0

    # An install was interrupted before: there is an environment, and no pip in it yet.
    host.run("python3", "-m", "venv", "--without-pip", f"/opt/mds/releases/{NEXT_VERSION}")
    host.run("sh", INSTALL, wheel_of_the_next(host), env=OFFLINE)
    assert host.holders() == first
    host.run("systemctl", "restart", "mds")
    second = host.until_all_have(NEXT_VERSION)
    assert {first[role][0] for role in CHILDREN}.isdisjoint(second[role][0] for role in CHILDREN)
    host.until_more_is_stored()
    assert host.assert_verified() == 0

    host.run("sh", "-c", f"ln -sfn releases/{__version__} /opt/mds/current && systemctl restart mds")
    third = host.until_all_have(__version__)

    hang(host)
    assert host.holders() == third
    host.until_more_is_stored()

    host.run("systemctl", "stop", "mds")
    host.until_nothing_is_left()
    assert host.assert_verified() == 0
    assert host.shown("Result") == "success"
    found = host.run("sh", "-c", f"grep -rlE '{KEY}|{TOKEN}' /var/lib/mds /var/log /etc /opt/mds/current/bin; true")
    assert sorted(found.split()) == [f"/etc/mds/credentials/{name}" for name in ("KITE_ACCESS_TOKEN", "KITE_API_KEY")]
    said = host.run("journalctl", "--no-pager")
    assert re.findall(f"{KEY}|{TOKEN}", said) == []


def test_a_stop_ends_what_has_no_supervisor(stopped: Host) -> None:
    """Stopped while it begins; killed, and stopped before it is started again; hung; failed, with wrong settings."""
    host = stopped
    settings = host.machine.root / "etc/mds/mds.toml"
    host.run("systemctl", "start", "--no-block", "mds")
    until(lambda: host.shown("MainPID") != "0", "it begins")
    host.run("systemctl", "stop", "mds")
    until(lambda: host.shown("ActiveState") in ("inactive", "failed"), "it has ended")
    assert host.shown("Result") == "success"  # also where it could not yet hear of it
    host.until_nothing_is_left()

    host.run("systemctl", "start", "mds")
    host.until_live()
    host.run("sh", "-c", "systemctl kill --signal=KILL --kill-who=main mds; systemctl stop mds")
    host.until_nothing_is_left()

    host.run("systemctl", "start", "mds")
    host.until_live()
    host.signal_main("STOP")
    host.run("systemctl", "stop", "mds")
    host.until_nothing_is_left()

    host.run("systemctl", "start", "mds")
    host.until_live()
    before = host.holders()
    settings.write_text(SETTINGS + "[nonsense]\n")
    host.machine.run("systemctl", "restart", "mds")
    until(lambda: host.shown("ActiveState") == "failed", "the settings are refused")
    host.until_more_is_stored()
    assert "mds: /etc/mds/mds.toml: nonsense: unknown section" in host.run("systemctl", "status", "mds", code=3)
    settings.write_text(SETTINGS)
    host.run("systemctl", "start", "mds")
    host.until_live()
    assert host.holders() == before

    settings.write_text(SETTINGS + "[nonsense]\n")
    host.machine.run("systemctl", "stop", "mds")
    host.until_nothing_is_left()
    settings.write_text(SETTINGS)
    host.assert_verified()
    events = host.run("sh", "-c", f"cat /{DATA_DIR}/events_*")
    assert {json.loads(line)["cause"] for line in events.splitlines() if '"event":"gap"' in line} <= {"stopped"}
