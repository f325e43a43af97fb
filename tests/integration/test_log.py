"""What a service says: on stderr, in its log file, in the run folder; as text, as JSON, at any level."""

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import zmq

from pipeline.role import endpoint
from pipeline.wire import STATUS_SOCKET
from tests.integration.conftest import NewService
from tests.integration.drills import is_home
from tests.integration.kite import Kite
from tests.integration.service import Service, free_port, until
from tests.kite_rest import Rest

KEY, OLD_TOKEN, NEW_TOKEN = "canary-key-7be1", "canary-old-token-0c3d", "canary-new-token-58fa"
SECRET, REQUEST_TOKEN, HTTP_TOKEN = "canary-secret-90a2", "canary-request-token-e6b4", "canary-http-token-1d77"
SECRETS = (KEY, OLD_TOKEN, NEW_TOKEN, SECRET, REQUEST_TOKEN, HTTP_TOKEN)
UNIVERSE = {"primary": [408065, 0x10009], "secondary": [738561, 0x20009]}
FLOODED = re.compile(r"\S+ \S+ WARNING worker-1: flood (\d+) \.{60}")
FIELDS = ["time", "level", "process", "pid", "logger", "message"]
ROLES = {"supervisor", "writer", "worker-1", "worker-2", "worker-3", "http"}


def objects(text: str) -> list[dict[str, Any]]:
    """Return the lines of a log in JSON, each of which has to be one, with all fields."""
    found: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    for said in found:
        assert list(said) in (FIELDS, [*FIELDS, "exception"]), said
        assert datetime.fromisoformat(said["time"]).utcoffset() is not None
    return found


def abort(kite: Kite, token: int) -> None:
    """Drop the socket that has an instrument."""
    kite.tell("abort", connection=kite.of(token)[-1]["number"])


def test_every_line_is_json_and_has_no_secret(kite: Kite, new_service: NewService):
    """At debug, with tokens refused and quoted, processes killed, a supervisor after the other: one look, no secret.

    The file has what stderr has.
    """
    port = free_port()
    with Rest(KEY, secret=SECRET, request_token=REQUEST_TOKEN, new=NEW_TOKEN) as rest:
        service = new_service(
            universe=UNIVERSE,
            failover={"stable_s": 0.3},
            http={"listen": f"127.0.0.1:{port}"},
            kite={"ws_url": kite.url, "api_url": rest.url, "max_connections": 3},
            log={"format": "json", "level": "DEBUG", "file": "logs/mds.log"},
        )
        service.give(KITE_API_KEY=KEY, KITE_ACCESS_TOKEN=OLD_TOKEN, MDS_HTTP__TOKEN=HTTP_TOKEN)
        kite.load(500)
        service.start()
        service.wait_until_live(1, 2)
        until(lambda: "the status is at" in service.errors(), "HTTP is served")
        service.kill("supervisor")
        kite.tell("bar", how=403, unless=NEW_TOKEN)
        for connection in kite.connections():
            quoted = json.dumps({"type": "error", "data": connection["path"]}).encode().hex()
            kite.tell("text", connection=connection["number"], messages=[quoted])
            kite.tell("abort", connection=connection["number"])
        service.start()
        service.wait_for(lambda s: all(s["connections"][c]["state"] == "unauthorised" for c in "12"), "both refused")
        ask(
            port,
            f"GET /api/status?token={HTTP_TOKEN} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {HTTP_TOKEN}\r\n\r\n",
        )
        ask(port, f"{HTTP_TOKEN}\r\n\r\n")
        service.give(KITE_API_SECRET=SECRET)
        login = service.mds("login", stdin=f"https://my.app/?status=success&request_token={REQUEST_TOKEN}\n")
        assert login.returncode == 0, login
        service.wait_for(is_home, "recording with the new token")
        service.kill("worker-1")
        service.kill("http")
        until(lambda: service.pid("worker-1") and service.pid("http"), "there are others")
        service.wait_for(is_home, "recording again")
        until(lambda: len(list((service.spool_dir / "1").iterdir())) == 1, "what the killed one had spooled is stored")
        assert service.stop() == 0
    runs = [service.errors(run) for run in range(len(service.runs))]
    file = service.folder / "logs" / "mds.log"
    assert file.read_text() == "".join(runs)
    assert file.stat().st_mode & 0o777 == 0o600
    said = [each for text in runs for each in objects(text)]
    assert {each["process"] for each in said} == ROLES
    assert {each["level"] for each in said} == {"debug", "info", "warning", "error"}
    assert {each["logger"].partition(".")[0] for each in said} == {"pipeline"}
    for path in service.run_dir.glob("*.log"):
        assert {each["process"] for each in objects(path.read_text())} <= {path.stem}
    died = [each for each in said if "has ended by SIGKILL" in each["message"]]
    assert {each["process"] for each in died} == {"supervisor"}
    token_file = service.folder / "config" / "mds" / "access_token.json"
    texts = {path: path.read_text(errors="replace") for path in service.folder.rglob("*") if path.is_file()}
    assert {path for path, text in texts.items() for secret in SECRETS if secret in text} == {token_file}
    service.assert_verified()


def ask(port: int, request: str) -> None:
    """Send a request over HTTP, and read the answer to its end or for a moment."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request.encode())
        assert connection.recv(4096)


def test_who_prints_decides_how_it_looks(kite: Kite, new_service: NewService):
    """In order nothing is worth a warning; another level and look are no reason to restart what records.

    What a process has said without a supervisor stands in the run folder.
    """
    service = new_service(
        universe=UNIVERSE,
        failover={"stable_s": 0.3},
        kite={"ws_url": kite.url},
        log={"level": "warning", "format": "json"},
    )
    kite.load(200)
    service.start()
    service.wait_until_live(1, 2)
    roles = ("writer", "worker-1", "worker-2", "worker-3")
    pids = {role: service.pid(role) for role in roles}
    service.kill("supervisor")
    assert service.errors() == ""
    abort(kite, 408065)
    own = service.run_dir / "worker-1.log"
    until(lambda: '"level":"warning","process":"worker-1"' in own.read_text(), "its own log has it")

    service.give(MDS_LOG__LEVEL="info", MDS_LOG__FORMAT="text", TZ="America/Lima")
    service.start()
    service.wait_until_live(1, 2)
    abort(kite, 408065)
    until(lambda: " WARNING worker-1: closed: " in service.errors(), "its warning is shown as text")
    service.wait_until_live(1, 2)
    assert {role: service.pid(role) for role in roles} == pids
    assert "worker-1 (process" in service.errors()
    assert " INFO    worker-1: " not in service.errors()
    assert service.mds("restart", "worker-1").returncode == 0
    until(lambda: " INFO    worker-1: subscribed to 2 instruments" in service.errors(), "it says more")
    assert service.stop() == 0
    assert "{" not in service.errors()


@pytest.mark.timeout(180)
def test_the_file_rotates_and_its_faults_stop_nothing(kite: Kite, new_service: NewService):
    """More lines than it may hold, then no folder to write to: recording goes on, and each line is whole.

    It is said once, and once more when it is over.
    """
    service = new_service(
        universe=UNIVERSE, kite={"ws_url": kite.url}, log={"file": "logs/mds.log", "max_mb": 1, "keep": 2}
    )
    kite.load(1000)
    service.start()
    service.wait_until_live(1, 2)
    file = service.folder / "logs" / "mds.log"

    with flooding(service) as flood:

        def is_there(number: int) -> bool:
            texts = (path.read_text() for path in list(file.parent.iterdir()))
            with suppress(FileNotFoundError):  # it rotates now
                return any(f" flood {number} " in text for text in texts)
            return False

        for first in range(0, 30_000, 5000):  # so few at a time that none is dropped
            for number in range(first, first + 5000):
                flood(number)
            until(lambda: is_there(number), "they are written")  # noqa: B023  at once
        files = [file.with_name("mds.log.2"), file.with_name("mds.log.1"), file]
        assert sorted(file.parent.iterdir()) == sorted(files)
        assert all(2**19 < path.stat().st_size <= 2**20 for path in files[:2])
        lines = "".join(path.read_text() for path in files).splitlines()
        numbers = [int(found[1]) for line in lines if (found := FLOODED.fullmatch(line))]
        assert numbers == list(range(numbers[0], 30_000))
        assert len(numbers) == len(lines) > 15_000

        aside = file.parent.rename(file.parent.with_name("aside"))
        file.parent.touch()
        flood(30_000)
        told = f"log.file: {file}: Not a directory; lines are on stderr alone until it can be written again"
        until(lambda: told in service.errors(), "stderr tells of it")
        stored = service.stored()
        until(lambda: service.stored() > stored + 1000, "it is recording")
        file.parent.unlink()
        aside.rename(file.parent)
        until(lambda: flood(30_001) or is_there(30_001), "it is written again")
    assert service.errors().count(told) == 1
    assert service.errors().count("written again, ") == 1
    assert service.stop() == 0
    assert file.read_text().endswith(service.errors().splitlines()[-1] + "\n")
    service.assert_verified()


@contextmanager
def flooding(service: Service) -> Iterator[Callable[[int], None]]:
    """Give a function that lets worker-1 seem to log a line with this number."""
    said = {"type": "log", "role": "worker-1", "pid": os.getpid(), "level": "WARNING", "logger": "pipeline.flood"}
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.connect(endpoint(service.run_dir, STATUS_SOCKET))

        def flood(number: int) -> None:
            fields = {"created_s": time.time(), "message": f"flood {number} {'.' * 60}"}
            push.send(json.dumps(said | fields).encode())

        yield flood


def test_a_file_that_cannot_be_opened(new_service: NewService, tmp_path: Path):
    """One line names the setting, and nothing is started."""
    (tmp_path / "file").touch()
    service = new_service(universe=UNIVERSE, log={"file": str(tmp_path / "file" / "mds.log")})
    done = service.mds("run", "--duration", "1")
    assert done.returncode == 2
    assert done.stderr.startswith(f"mds: log.file: {tmp_path / 'file' / 'mds.log'}: ")
    assert done.stderr.count("\n") == 1
    assert service.processes() == []
