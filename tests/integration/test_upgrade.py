"""A version installed where nothing was, and another one over it while it records, up and down again."""

import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline import role
from tests.integration import drills
from tests.integration.conftest import NewService
from tests.integration.kite import Kite
from tests.integration.service import Service, until
from tests.integration.wheels import Environment, wheel_of

OLD, NEW = pipeline.__version__, "99.0"
RATE, FRAME = 2000, 5
ROLES = (role.SUPERVISOR, *drills.CHILDREN)
RENEWED_S = 120  # for one process after the other to be started anew, on a busy machine
ROUNDS = 4  # of an installation under which processes die
IMPORT_ALL = """
import importlib, pkgutil, sys, pipeline
failed = {}
for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            failed[module.name] = error.name
print(failed)
"""
ANALYSIS = ("plotly", "polars", "pyarrow")  # of the extra

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """This code under two versions."""
    work = tmp_path_factory.mktemp("wheels")
    return {version: wheel_of(version, work) for version in (OLD, NEW)}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Environment:
    """An environment with the older of them."""
    return Environment(tmp_path_factory.mktemp("installed") / "venv", wheels[OLD])


@pytest.fixture
def service(new_service: NewService, environment: Environment) -> Service:
    """A recorder that runs what is installed there."""
    service = new_service(**drills.SETTINGS)
    service.program = environment.mds
    service.give(PYTHONPATH="")
    return service


@contextmanager
def kept_running(service: Service) -> Iterator[None]:
    """Start `mds run` again whenever it ends with a fault, as systemd does."""
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(0.05):
            if service.runs[-1].poll():
                try:
                    service.start()
                except FileNotFoundError:  # pip is just replacing it
                    continue

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def kill_supervisor(service: Service) -> None:
    """Kill it, and wait for the next one."""
    pid = service.send(role.SUPERVISOR, signal.SIGKILL)
    until(lambda: service.pid(role.SUPERVISOR) not in (None, pid), "there is another supervisor")


def versions(service: Service) -> dict[str, str]:
    """Return of which version each process is."""
    found = {name: role.read_holder(service.run_dir / f"{name}.lock") for name in ROLES}
    return {name: holder.version for name, holder in found.items() if holder}


def until_version(service: Service, version: str) -> None:
    """Wait until all processes are of this version."""
    wanted = dict.fromkeys(ROLES, version)
    until(lambda: versions(service) == wanted, f"all are of version {version}", RENEWED_S)


def pids(service: Service) -> dict[str, int | None]:
    """Return all but the supervisor's."""
    return {name: service.pid(name) for name in drills.CHILDREN}


def test_a_clean_install_works(environment: Environment, service: Service, tmp_path: Path) -> None:
    """Nothing but what setup.cfg names: it records, verifies, and says what is missing for the rest."""
    assert environment.run("pip", "check", cwd=tmp_path).returncode == 0
    assert environment.run("mds", "--version", cwd=tmp_path).stdout.startswith(f"mds, version {OLD} ")
    assert "verify" in environment.run("mds", "--help", cwd=tmp_path).stdout
    service.start("--simulate")
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"], "ticks are stored")
    assert service.stop() == 0
    assert service.assert_verified()["ticks"] > 0
    assert service.mds("compact").stderr.startswith("mds: mds compact needs p")

    done = environment.run("python", "-c", IMPORT_ALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    failed: dict[str, Any] = json.loads(done.stdout.replace("'", '"'))
    assert set(failed.values()) <= set(ANALYSIS), failed
    assert all(name.startswith(("pipeline.store.", "pipeline.cli.")) for name in failed), failed


def test_an_upgrade_in_place_loses_nothing(
    kite: Kite, service: Service, environment: Environment, wheels: dict[str, Path]
) -> None:
    """Killed, upgraded and taken back while it records: every tick is stored, and there is not one gap."""
    kite.load(RATE, frame=FRAME)
    service.start()
    with kept_running(service):
        drills.wait_until_home(kite, service)
        running = pids(service)
        kill_supervisor(service)
        service.wait_for(lambda s: s["processes"]["writer"]["state"] == "running", "all are adopted")
        assert pids(service) == running
        for before, after in ((OLD, NEW), (NEW, OLD)):
            environment.install(wheels[after])
            assert versions(service) == dict.fromkeys(ROLES, before)
            assert service.mds("health").returncode == 0
            kill_supervisor(service)
            until_version(service, after)
            drills.wait_until_home(kite, service)
        recording = drills.end(kite, service)
    assert service.events("gap") == []
    assert recording.stored == sum(len(kite.ids(connection["number"])) for connection in kite.connections())
    assert [e["version"] for e in service.events("service_started")] == [OLD, OLD, NEW, OLD]


def test_what_dies_while_files_are_replaced_comes_back(
    kite: Kite, service: Service, environment: Environment, wheels: dict[str, Path]
) -> None:
    """Workers, writer and supervisor are killed while pip works: each is back by itself, and no gap is silent."""
    chance = random.Random(6)
    kite.load(RATE, frame=FRAME)
    service.start()
    kills = 0
    with kept_running(service):
        drills.wait_until_home(kite, service)
        for round_ in range(ROUNDS):
            installing = environment.pip("install", "--no-deps", wheels[NEW if round_ % 2 == 0 else OLD])
            while installing.poll() is None:
                victim = chance.choice((*drills.WORKERS, *drills.WORKERS, role.WRITER, role.SUPERVISOR))
                pid = service.pid(victim)
                if pid:
                    os.kill(pid, signal.SIGKILL)
                    kills += victim in drills.WORKERS
                drills.pause_at_random(chance, 0.2)
            assert installing.returncode == 0, installing.communicate()[0]
        service.wait_until_settled()
        drills.wait_until_home(kite, service)
        kill_supervisor(service)  # as after any upgrade
        until_version(service, OLD)
        drills.wait_until_home(kite, service)
        drills.end(kite, service, cut=kills)
    print(f"{kills} workers killed under {ROUNDS} installations")  # noqa: T201  a figure
