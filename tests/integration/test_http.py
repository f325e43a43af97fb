"""The HTTP process beside a real recorder: what it tells, who may ask it, and that recording does not need it."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pytest

from pipeline.status import (
    ConnectionStatus,
    HealthResponse,
    InstrumentPage,
    InstrumentSubscription,
    Metrics,
    Overview,
    Process,
    Series,
    Storage,
)
from tests.integration.conftest import Begin, NewService
from tests.integration.drills import PRIMARY, SECONDARY, UNIVERSE, until_on_disk
from tests.integration.kite import Kite
from tests.integration.service import DEADLINE_S, Service, free_port, until

ST = Path(sys.executable).with_name("st")
TOKEN = "canary-http-token-4b1d"  # noqa: S105  made up
RATE_S = 10.0  # counts are up to half a second old, which is a part of 5 % of this
TOLERANCE = 0.05


# A client, and servers.


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class Web:
    """Asks a service over HTTP."""

    def __init__(self, port: int, **headers: str) -> None:
        self.port = port
        self._headers = headers

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, self._headers | headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def get(self, path: str) -> Any:
        """Return the JSON of a path that is there."""
        answer = self.ask(path)
        assert answer.status == 200, answer
        assert answer.headers["content-type"] == "application/json"
        return answer.json

    def status(self, path: str = "/health") -> int | None:
        """Return the status code, None where nobody listens."""
        try:
            return self.ask(path).status
        except OSError:
            return None

    def until(self, status: int | None, path: str = "/health") -> None:
        """Wait until a path has this status code."""
        until(lambda: self.status(path) == status, f"{path} is {status}")

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples; the name may have labels."""
        lines = self.ask("/metrics").body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    @contextlib.contextmanager
    def events(self, **headers: str) -> Iterator[Iterator[tuple[str, Any]]]:
        """Open the stream; yield its events as kind and data."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            connection.request("GET", "/events", headers=self._headers | headers)
            response = connection.getresponse()
            assert (response.status, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
            yield _events(response)


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    kind = ""
    while line := response.readline().decode():
        field, _, value = line.rstrip("\n").partition(": ")
        if field == "event":
            kind = value
        elif field == "data":
            yield kind, json.loads(value)


def listening(port: int) -> dict[str, Any]:
    """Return the settings for this port."""
    return {"listen": f"127.0.0.1:{port}"}


@pytest.fixture
def web(new_service: NewService, begin: Begin, kite: Kite) -> tuple[Service, Web]:
    """A recorder under way at 1,000 ticks/s, and who asks it."""
    port = free_port()
    service = new_service(universe=UNIVERSE, http=listening(port), failover={"stable_s": 0.3})
    kite.load(1000)
    begin(service)
    client = Web(port)
    client.until(200)
    until(lambda: client.ask("/health").json["status"] == "healthy", "all is well")
    return service, client


def end(service: Service, kite: Kite) -> None:
    """End the recorder; everything that was sent must be there."""
    sockets = {c["number"] for c in kite.connections()}
    kite.tell("pause")
    sent = kite.sent()
    service.wait_for(lambda s: s["metrics"]["total_ticks_stored"] >= sent, "all is stored")
    assert service.stop() == 0
    service.assert_verified(ticks=sent)
    assert {c["number"] for c in kite.connections()} == sockets


# What it tells.


def test_each_path(web: tuple[Service, Web], kite: Kite) -> None:
    """Each path answers in the shape of its model, with figures that are those of the recorder."""
    service, client = web
    health = HealthResponse.model_validate(client.get("/health"))
    assert (health.status, health.reasons, health.total_subscribed_instruments) == (
        "healthy",
        [],
        len(PRIMARY) + len(SECONDARY),
    )
    assert client.get("/live") == {"status": "live"}
    connections = {name: ConnectionStatus.model_validate(c) for name, c in client.get("/connections").items()}
    assert {name: c.state for name, c in connections.items()} == {"1": "live", "2": "live", "3": "standby"}
    assert Storage.model_validate(client.get("/storage")).state == "recording"
    processes = {name: Process.model_validate(p) for name, p in client.get("/processes").items()}
    assert processes["http"] == Process(pid=service.pid("http"), state="running", restarts=0)
    until(lambda: client.get("/instruments?stale=true")["total"] == 0, "all have ticked")
    page = InstrumentPage.model_validate(client.get("/instruments?connection=2&mode=full&limit=2&offset=1"))
    assert (page.total, [i.instrument_token for i in page.instruments]) == (len(SECONDARY), SECONDARY[1:3])
    instrument = InstrumentSubscription.model_validate(client.get(f"/instruments/{PRIMARY[0]}"))
    assert (instrument.connection_id, instrument.mode, instrument.tick_count > 0) == (1, "quote", True)
    assert client.ask("/instruments/7").status == 404
    assert client.ask("/instruments/x").status == 422
    figures = client.ask("/metrics", accept="application/json").json
    Metrics.model_validate({name: figures[name] for name in Metrics.model_fields})
    assert figures["target_tick_rate"] == 1000
    text = client.ask("/metrics")
    assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lint = subprocess.run(["promtool", "check", "metrics"], input=text.body, capture_output=True, check=False)
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, b"", b"")
    assert client.metric('mds_connection_up{connection="1",role="primary"}') == 1
    for path in ("/", "/docs"):
        answer = client.ask(path)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        named = re.findall(rb"""(?:src|href)=["']?([^"'\s>]+)""", answer.body)
        assert [name for name in named if b"//" in name] == []
    assert client.ask("/health", "HEAD").status == 200
    end(service, kite)


@pytest.mark.timeout(90)
def test_prometheus_scrapes_while_others_misbehave(web: tuple[Service, Web], kite: Kite, tmp_path: Path) -> None:
    """A real Prometheus finds it up, with the rates as they were; the others get clear answers; nothing is lost."""
    service, client = web
    with prometheus(tmp_path, client.port) as monitor:
        until(lambda: monitor.value("up") == 1 and monitor.value("mds_up") == 1, "it is scraped")
        until(lambda: (monitor.value('mds_ticks_received_total{connection="2"}') or 0) > 0, "ticks are counted")
        began_s, sent = time.time(), kite.sent()
        until(lambda: monitor.latest() >= began_s, "the first count is not one that is shared with others")
        misbehave(client)
        fuzz(client.port, tmp_path)
        until(lambda: time.time() >= began_s + RATE_S, "the time is over which rates are taken")
        ended_s, sent = time.time(), kite.sent() - sent
        until(lambda: monitor.latest() >= ended_s, "it has been scraped once more")
        took_s = ended_s - began_s
        for name in ("mds_ticks_received_total", "mds_ticks_stored_total"):
            rate = monitor.value(f"sum(rate({name}[{round(took_s * 1000)}ms]))", ended_s)
            assert rate == pytest.approx(sent / took_s, rel=TOLERANCE), name
        assert monitor.value(f"min_over_time(up[{round(took_s)}s])", ended_s) == 1
        assert monitor.value(f"rate(mds_commit_duration_seconds_count[{round(took_s)}s])", ended_s)
    end(service, kite)


def misbehave(client: Web) -> None:
    """Call it by names of others, with other methods, huge bodies, and no HTTP at all: each has a clear answer."""
    answers = {
        400: client.ask("/", host="evil.example"),
        404: client.ask("/../../etc/passwd"),
        405: client.ask("/health", "POST", b"x" * 2**24),
        413: client.ask("/health", body=b"x" * 2**24),
        422: client.ask("/instruments?limit=" + "9" * 5000),
        431: client.ask("/health", cookie="x" * 60_000),
    }
    assert {status: answer.status for status, answer in answers.items()} == {status: status for status in answers}
    assert all(list(answer.json) == ["detail"] for answer in answers.values())
    with socket.create_connection(("127.0.0.1", client.port), DEADLINE_S) as rude:
        rude.sendall(b"\x16\x03\x01 is this TLS?\r\n\r\n")
        assert rude.recv(1000).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    with contextlib.ExitStack() as held:
        for _ in range(150):
            slow = held.enter_context(socket.create_connection(("127.0.0.1", client.port), DEADLINE_S))
            slow.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert client.get("/health")["status"] == "healthy"


def fuzz(port: int, folder: Path) -> None:
    """Let schemathesis try what the document allows and what it does not; `/events` has no end, and is left out."""
    url = f"http://127.0.0.1:{port}/openapi.json"
    options = "--seed 1 --checks all --phases coverage,fuzzing --max-examples 20 --exclude-path /events --no-color"
    command = [str(ST), "run", url, *options.split(), "--generation-database", "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=folder)
    assert done.returncode == 0, done.stdout


class Prometheus:
    """A running one."""

    def __init__(self, port: int) -> None:
        self._port = port

    def value(self, query: str, at_s: float | None = None) -> float | None:
        """Return the one value of a query, None where there is none."""
        when = {"time": f"{at_s:.3f}"} if at_s is not None else {}
        answer = Web(self._port).ask("/api/v1/query?" + urllib.parse.urlencode({"query": query, **when}))
        result = answer.json["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def latest(self) -> float:
        """Return the time of the latest scrape."""
        return self.value("timestamp(up)") or 0.0


@contextlib.contextmanager
def prometheus(folder: Path, target: int) -> Iterator[Prometheus]:
    """Run one that scrapes this port each second."""
    port = free_port()
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "mds", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    options = ("--config.file=prometheus.yml", "--storage.tsdb.path=tsdb", f"--web.listen-address=127.0.0.1:{port}")
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *options], cwd=folder, stdout=log, stderr=log)
        try:
            Web(port).until(200, "/-/ready")
            yield Prometheus(port)
        finally:
            process.kill()
            process.wait()


def test_what_happens_is_told(web: tuple[Service, Web], kite: Kite) -> None:
    """Degraded while the spare stands in, down within two seconds when all are refused, and back; listeners see it."""
    service, client = web
    with client.events() as events:
        kind, series = next(events)
        assert (kind, set(Series.model_validate(series).ticks_per_second)) == ("series", {"1", "2", "3"})
        kind, status = next(events)
        Overview.model_validate(status | {"notices": []})
        assert kind == "status"
        # A connection is live before its first frame: which of the two comes first is not said.
        told = read_until(events, lambda told: "healthy" in healths(told) and since("subscribed", told))
        assert since("subscribed", told)[0]["text"] == f"recording {len(PRIMARY)} instruments"

        kite.tell("bar", how=503, but=[service.pid("worker-2"), service.pid("worker-3")])
        service.kill("worker-1")
        failed_over = "connection 1 has failed over, others record its instruments"
        until(lambda: failed_over in client.ask("/health").json["reasons"], "the spare has taken over")
        until(lambda: client.ask("/health").json["status"] == "degraded", "nothing is missed")
        assert client.status() == 200
        kite.tell("bar", how=None)
        until(lambda: client.ask("/health").json["reasons"] == [], "all is well")
        # A machine that is busy may have made it degraded before.
        told = read_until(events, lambda told: healths(since("process_died", told))[-1:] == ["healthy"])
        assert "degraded" in healths(told)

        kite.tell("bar", how=503)
        began_s = time.monotonic()
        for connection in kite.connections():
            if connection["open"]:
                kite.tell("abort", connection=connection["number"])
        client.until(503)
        took_s = time.monotonic() - began_s
        health = HealthResponse.model_validate(client.ask("/health").json)
        assert health.status == "down"
        assert any("instruments uncovered" in reason for reason in health.reasons)
        assert client.metric('mds_health_status{status="down"}') == 1
        kite.tell("bar", how=None)
        client.until(200)
        kite.tell("pause")
        assert service.stop() == 0
        assert {kind for kind, _ in events} <= {"status", "notice", "gone"}  # it ends
    print(f"503 after {took_s:.2f} s")  # noqa: T201  the figure


def read_until(events: Iterator[tuple[str, Any]], is_enough: Callable[[list[Any]], Any]) -> list[Any]:
    """Read on until the notices that were read are enough, and return them."""
    notices: list[Any] = []
    while not is_enough(notices):
        kind, data = next(events)
        notices += [data] if kind == "notice" else []
    return notices


def since(event: str, notices: list[Any]) -> list[Any]:
    """Return the notices from the first one of this event on."""
    return list(dropwhile(lambda notice: notice["event"] != event, notices))


def healths(notices: list[Any]) -> list[str]:
    """Return in which health they say that the recorder is, one after the other."""
    return [notice["details"]["status"] for notice in notices if notice["event"] == "health"]


# That recording does not need it.


def test_http_dies_and_hangs(web: tuple[Service, Web], kite: Kite) -> None:
    """Killed or stopped, it is replaced; no tick is lost, and nobody calls the recorder unhealthy for it."""
    service, client = web
    for _ in range(2):
        service.kill("http")
        client.until(200)
    hung = service.send("http", signal.SIGSTOP)
    service.wait_for(lambda s: s["processes"]["http"]["pid"] not in (hung, None), "it is replaced")
    client.until(200)
    status = service.status()
    assert status
    assert (status["health"]["status"], status["processes"]["http"]["restarts"]) == ("healthy", 3)
    end(service, kite)
    assert [e["pid"] for e in service.events("process_hung")] == [hung]


def test_supervisor_dies(web: tuple[Service, Web]) -> None:
    """Without a supervisor it lives and says that nobody answers; the next one adopts it, and `mds stop` ends it."""
    service, client = web
    pid = service.pid("http")
    with client.events() as events:
        assert next(data for kind, data in events if kind == "status")
        service.kill("supervisor")
        assert "no service is running" in next(data for kind, data in events if kind == "gone")["reason"]
        assert client.status("/live") == 200
        health = client.ask("/health")
        assert (health.status, health.json["status"]) == (503, "down")
        assert "no service is running" in health.json["reasons"][0]
        assert client.ask("/storage").status == 503
        assert client.metric("mds_up") == 0
        service.start()
        assert next(data for kind, data in events if kind == "status")
    client.until(200)
    assert client.get("/processes")["http"] == {"pid": pid, "state": "running", "restarts": 0}
    service.kill("supervisor")
    assert service.pid("http") == pid
    done = service.mds("stop")
    assert (done.returncode, service.processes()) == (0, []), done


def test_port_that_is_taken(new_service: NewService, begin: Begin, kite: Kite) -> None:
    """It is named once, with what to do; recording goes on, and when the port is free it is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = new_service(universe=UNIVERSE, http=listening(port))
        kite.load(1000)
        begin(service)
        service.wait_for(lambda s: s["processes"]["http"]["state"] == "waiting", "it waits")
        until_on_disk(service, 1, 0)
        status = service.status()
        assert status
        assert status["health"]["status"] == "healthy"
    client = Web(port)
    client.until(200)
    service.wait_for(lambda s: s["processes"]["http"]["state"] == "running", "it runs")
    end(service, kite)
    complaints = [line for line in service.errors().splitlines() if "cannot listen" in line]
    assert len(complaints) == 1
    assert f"http: cannot listen on 127.0.0.1:{port}: Address already in use; end what has it, or" in complaints[0]
    assert f"http: the status is at http://127.0.0.1:{port}" in service.errors()


# Who may ask.


def test_others_need_a_token(new_service: NewService, begin: Begin, kite: Kite) -> None:
    """Where others can reach it, nothing starts without a token, and nothing is told without it; it is in no log."""
    port = free_port()
    address = {"listen": f"0.0.0.0:{port}"}
    refused = new_service(universe=UNIVERSE, http=address).mds("run")
    assert refused.returncode == 2
    assert "http.token" in refused.stderr
    service = new_service(universe=UNIVERSE, http=address)
    service.give(MDS_HTTP__TOKEN=TOKEN)
    kite.load(1000)
    begin(service)
    stranger, friend = Web(port), Web(port, Authorization=f"Bearer {TOKEN}")
    friend.until(200)
    for path in ("/health", "/metrics", "/events", "/openapi.json", "/docs", "/nothing"):
        answer = stranger.ask(path)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert stranger.ask(path, authorization="Bearer wrong").status == 401
    page = stranger.ask("/")
    assert (page.status, page.body) == (401, friend.ask("/").body)
    with friend.events() as events:
        assert next(events)[0] == "series"
    assert friend.ask("/health", host="evil.example").status == 400
    assert friend.ask(f"/health?token={TOKEN}").status == 200
    assert stranger.ask("/live", host="evil.example").json == {"status": "live"}
    assert service.stop() == 0
    assert TOKEN not in service.logs()
