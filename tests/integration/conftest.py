"""A Kite server and a recorder for each test. What fails shows all logs; nothing that was started survives."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.client import Client
from tests.integration.kite import Kite
from tests.integration.service import Service

SCALE = float(os.environ.get("MDS_TEST_SCALE", "1"))  # how much longer than usual the drills under load are

ROOM_BYTES = 4 * 2**30  # several times what the machines of a test have

NewService = Callable[..., Service]
Begin = Callable[..., Client]


@pytest.fixture
def kite(tmp_path: Path) -> Iterator[Kite]:
    """A Kite server."""
    server = Kite(tmp_path / "kite")
    yield server
    server.close()


@pytest.fixture
def new_service(tmp_path: Path, kite: Kite) -> Iterator[NewService]:
    """Makes a recorder that is pointed at the Kite server, in a folder of its own; it is not started yet."""
    services: list[Service] = []

    def make(folder: Path | None = None, **settings: dict[str, Any]) -> Service:
        settings = {"kite": {"ws_url": kite.url}, **settings}
        service = Service(folder or tmp_path / f"service-{len(services) + 1}", **settings)
        services.append(service)
        return service

    yield make
    for service in services:
        service.kill_all()
        print(service.logs())  # noqa: T201  pytest shows it with a failure


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts a recorder, with arguments for `mds run`; returns a client when all that is subscribed is sent to Kite."""
    with ExitStack() as clients:

        def start(service: Service, *arguments: str) -> Client:
            service.start(*arguments)
            service.wait_until_settled()
            return clients.enter_context(Client(service.run_dir))

        yield start


@pytest.fixture(scope="session")
def room_for_a_machine(in_memory: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes a folder for machines; in memory where there is room, for they have tens of thousands of files."""

    def make() -> Path:
        folder = in_memory()
        return folder if shutil.disk_usage(folder).free >= ROOM_BYTES else tmp_path_factory.mktemp("machine")

    return make
