"""Any process, socket or connection may die: the spare takes over, and all come back by themselves.

Whatever happens, every tick that a socket was sent before it died is stored, and each moment in which an instrument was
on no connection lies within a gap record.
"""

import json
import re
import signal
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import Any

import pytest

from tests.integration.conftest import SCALE, Begin, NewService
from tests.integration.kite import Kite, id_of
from tests.integration.service import Service, Status, until

PRIMARY = [408065, *range(0x200001, 0x202001, 0x100)]
SECONDARY = [738561, *range(0x300001, 0x302001, 0x100)]
UNIVERSE = {"primary": PRIMARY, "secondary": SECONDARY}
HOMES = {1: dict.fromkeys(PRIMARY, "quote"), 2: dict.fromkeys(SECONDARY, "full")}
SOON = {"stable_s": 0.3}  # a failback
CAPACITY = 3000  # of a connection
SOCKET_BITS = 22  # of an id, below the number of its socket

Span = tuple[int, int]  # Unix ns


# What must hold at the end of each drill.


def end(kite: Kite, service: Service, *, cut: int = 0) -> None:
    """End the service: what the sockets were sent is stored, whole but for `cut` of them, and no gap is silent."""
    kite.tell("pause")
    assert service.stop() == 0
    stored: dict[int, list[dict[str, Any]]] = {c["number"]: [] for c in kite.connections()}
    for ticks in service.streams().values():
        for tick in ticks:
            stored[socket_of(tick)].append(tick)
    ids = {number: [id_of(tick) for tick in ticks] for number, ticks in stored.items()}
    sent = {number: kite.ids(number) for number in stored}
    for number in stored:
        assert ids[number] == sent[number][: len(ids[number])], f"socket {number}"
    assert sum(ids[number] != sent[number] for number in stored) <= cut
    service.assert_verified()
    last_ns = {number: ns(ticks[-1]["timestamp"]) for number, ticks in stored.items() if ticks}
    assert_no_gap_is_silent(service, spans_by_token(kite, last_ns))


def assert_no_gap_is_silent(service: Service, spans: dict[int, list[Span]]) -> None:
    """Check that gap records say of each instrument whenever it was on no connection."""
    gaps: dict[int, list[Span]] = defaultdict(list)
    for gap in service.events("gap"):
        for token in gap["instruments"]:
            gaps[token].append((ns(gap["from"]), ns(gap["to"])))
    silent = {token: [h for h in between(some) if not is_within(h, gaps[token])] for token, some in spans.items()}
    silent = {token: holes for token, holes in silent.items() if holes}
    shown = [(token, holes, gaps[token]) for token, holes in silent.items()][:3]
    assert not silent, f"{len(silent)} instruments have gaps without a record: token, gaps, records: {shown}"


def spans_by_token(kite: Kite, last_ns: Mapping[int, int] = MappingProxyType({})) -> dict[int, list[Span]]:
    """Return from when until when each instrument was on a connection, of all connections.

    `last_ns` tells when the last frame of each socket was received: what was still under way when it closed counts.
    """
    now = time.time_ns()
    spans: dict[int, list[Span]] = defaultdict(list)
    for connection in kite.tell("spans")["connections"]:
        ended_ns, heard_ns = connection["ended_ns"], last_ns.get(connection["number"], 0)
        for token, since, until_ns in connection["spans"]:
            is_cut = until_ns is not None and until_ns == ended_ns
            spans[token].append((since, max(until_ns, heard_ns) if is_cut else until_ns or now))
    return spans


def joined(spans: Iterable[Span]) -> list[Span]:
    """Return these spans with those that overlap as one."""
    found: list[Span] = []
    for since, until_ns in sorted(spans):
        if found and since <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], until_ns))
        else:
            found.append((since, until_ns))
    return found


def between(spans: Iterable[Span]) -> list[Span]:
    """Return what no span covers between the first and the last."""
    return [(before[1], after[0]) for before, after in pairwise(joined(spans))]


def is_within(hole: Span, spans: Iterable[Span]) -> bool:
    """Tell whether some of these, joined, cover all of it."""
    return any(since <= hole[0] and hole[1] <= until_ns for since, until_ns in joined(spans))


def longest_overlap_s(kite: Kite) -> float:
    """Return for how long an instrument was on two connections at most."""
    overlaps = [
        min(one[1], other[1]) - other[0]
        for spans in spans_by_token(kite).values()
        for one, other in pairwise(sorted(spans))
    ]
    return max(overlaps, default=0) / 1e9


def socket_of(tick: dict[str, Any]) -> int:
    """Return the number of the server's socket that a stored tick came from."""
    return id_of(tick) >> SOCKET_BITS


def ns(timestamp: str) -> int:
    """Return a timestamp as Unix ns, exact to the microsecond."""
    moment = datetime.fromisoformat(timestamp)
    return round(moment.timestamp()) * 10**9 + (moment.microsecond - (moment.microsecond >= 500_000) * 10**6) * 1000


# What is waited for.


def is_home(status: Status) -> bool:
    """Tell whether connections 1 and 2 have their instruments, and the spare stands by."""
    found = status["connections"]
    return found["3"]["state"] == "standby" and all(
        c["state"] == "live" and c["confirmed_instruments"] == c["subscribed_instruments"] > 0
        for c in (found["1"], found["2"])
    )


def wait_until_home(kite: Kite, service: Service) -> None:
    """Wait until that is so, and until the server agrees."""
    service.wait_for(is_home, "all are back, the spare stands by")
    kite.until_on_the_wire(*HOMES.values())


def wait_until_carried(service: Service, number: int) -> Status:
    """Wait until the spare has so many instruments."""
    return service.wait_for(
        lambda s: s["connections"]["3"]["confirmed_instruments"] == number, f"the spare has {number} instruments"
    )


def until_moved(service: Service) -> None:
    """Wait until what has failed over is covered by the spare, and saved as such."""
    path = service.run_dir / "subscriptions.json"
    until(lambda: (saved := json.loads(path.read_bytes()))["failed_over"] and not saved["leaving"], "all has moved")


def done(service: Service, action: str) -> list[str]:
    """Return the reasons of what was done without being asked for."""
    return [e["reason"] for e in service.events("request", action=action, by="failover", result="done")]


def tries(service: Service, connection_id: int) -> int:
    """Return how often a connection has tried to connect in vain."""
    return len(service.events("not_connected", connection_id=connection_id))


def size(service: Service) -> int:
    """Return how long the file of the day is."""
    bytes_: int = max(service.data_dir.glob("market_data_*.jsonl")).stat().st_size
    return bytes_


def until_on_disk(service: Service, connection_id: int, offset: int) -> None:
    """Wait until a tick of this connection stands in the file of the day behind an offset."""
    tick = f'"connection_id":{connection_id},'.encode()
    with max(service.data_dir.glob("market_data_*.jsonl")).open("rb") as file:
        file.seek(offset)
        until(lambda: tick in file.read(), f"a tick of connection {connection_id} is on disk")


def recorded_by(service: Service, connection_id: int) -> list[dict[int, str]]:
    """Return which instruments ticked on each socket of a connection, and in which mode in the end, oldest first."""
    sockets: dict[int, dict[int, str]] = defaultdict(dict)
    for tick in service.ticks():
        if tick["connection_id"] == connection_id:
            sockets[socket_of(tick)][tick["instrument_token"]] = tick["mode"]
    return [modes for _, modes in sorted(sockets.items())]


# A process dies.


@pytest.mark.timeout(60 + 60 * SCALE)
def test_the_spare_takes_over_from_a_killed_worker_and_gives_back(kite: Kite, new_service: NewService, begin: Begin):
    """5,000 ticks/s, workers 1 and 2 killed in turn: each kill is one gap, exact to the frame, and all come home."""
    kills = round(4 * SCALE)
    service = new_service(universe=UNIVERSE, failover=SOON | {"max_deaths": 1000})
    kite.load(10_000, frame=50)
    begin(service)
    takeovers_ms = []
    for kill in range(kills):
        home = 1 + kill % 2
        offset = size(service)
        until_on_disk(service, home, offset)
        offset, began_s = size(service), time.monotonic()
        service.send(f"worker-{home}", signal.SIGKILL)
        until_on_disk(service, 3, offset)
        takeovers_ms.append((time.monotonic() - began_s) * 1000)
        wait_until_home(kite, service)
    report = kite.tell("report")
    overlap_s = longest_overlap_s(kite)
    end(kite, service, cut=kills)

    killed = [HOMES[1 + kill % 2] for kill in range(kills)]
    assert sorted(report["uncovered"]) == sorted(token for instruments in killed for token in instruments)
    assert recorded_by(service, 3) == killed
    assert len(done(service, "failover")) == len(done(service, "failback")) == kills
    streams = service.streams()
    spare = [tick["timestamp"] for (c, _), ticks in streams.items() if c == 3 for tick in ticks]
    for home in (1, 2):
        died = [ticks[-1]["timestamp"] for (c, _), ticks in streams.items() if c == home][:-1]
        gaps = service.events("gap", connection_id=home)
        assert [(gap["cause"], gap["instruments"]) for gap in gaps] == [("killed", sorted(HOMES[home]))] * len(died)
        assert [gap["from"] for gap in gaps] == died
        assert [gap["to"] for gap in gaps] == [min(t for t in spare if t > moment) for moment in died]
    assert len(service.events("gap")) == kills
    median, slow = statistics.median(takeovers_ms), statistics.quantiles(takeovers_ms, n=100, method="inclusive")[-1]
    print(  # noqa: T201  the figures
        f"{kills} kills: {median:.0f} ms median, {slow:.0f} ms 99 % from the kill to the first tick of connection 3 "
        f"on disk; on two connections for {overlap_s:.3f} s at most"
    )


def test_what_hangs_is_killed_and_replaced(kite: Kite, new_service: NewService, begin: Begin):
    """Worker 1 and the writer are stopped: both are killed, the spare takes over, nothing that was spooled is lost."""
    service = new_service(universe=UNIVERSE, failover=SOON)
    kite.load(2000)
    begin(service)
    until_on_disk(service, 1, size(service))
    hung = {role: service.send(role, signal.SIGSTOP) for role in ("worker-1", "writer")}
    began_s = time.monotonic()
    until(lambda: all(service.pid(role) != pid for role, pid in hung.items()), "both are killed")
    noticed_s = time.monotonic() - began_s
    service.wait_for(lambda s: s["connections"]["3"]["state"] == "live", "the spare takes over")
    wait_until_home(kite, service)
    end(kite, service, cut=1)
    assert {e["process"]: e["pid"] for e in service.events("process_hung")} == hung
    assert done(service, "failover") == ["connection 1: its process is gone"]
    died = next(ticks for (c, _), ticks in service.streams().items() if c == 1)[-1]["timestamp"]
    assert [(gap["cause"], gap["from"], gap["instruments"]) for gap in service.events("gap")] == [
        ("killed", died, sorted(PRIMARY))
    ]
    print(f"noticed after {noticed_s:.1f} s")  # noqa: T201  the figure


def test_who_dies_too_often_is_given_up_until_asked_for(kite: Kite, new_service: NewService, begin: Begin):
    """State failed, in words; what it had spooled is stored, the spare goes on, and a restart begins anew."""
    service = new_service(universe=UNIVERSE, failover=SOON | {"max_deaths": 2})
    kite.load(2000)
    client = begin(service)
    service.kill("worker-1")
    service.kill("worker-1")
    wait_until_carried(service, len(PRIMARY))
    wait_until_home(kite, service)
    service.send("writer", signal.SIGSTOP)
    service.wait_for(lambda s: s["connections"]["1"]["ticks_pending"] > 100, "something is in the spool")
    service.kill("worker-1")
    service.send("writer", signal.SIGCONT)
    status = service.wait_for(lambda s: s["processes"]["worker-1"]["state"] == "failed", "it is given up")
    assert status["connections"]["1"]["state"] == "failed"
    assert "mds restart worker-1" in status["connections"]["1"]["reason"]
    wait_until_carried(service, len(PRIMARY))
    assert "worker-1 is failed" in client.health().reasons
    assert "GIVEN UP" in service.errors()
    until(lambda: not any((service.spool_dir / "1").glob("*")), "what it had spooled is stored")
    assert client.status().processes["worker-1"].state == "failed"
    asked = service.mds("restart", "worker-1")
    assert asked.returncode == 0, asked
    wait_until_home(kite, service)
    assert client.status().processes["worker-1"].state == "running"
    end(kite, service, cut=3)


@pytest.mark.parametrize(("number", "orders"), [(1500, [(1, 2)]), (2500, [(1, 2), (2, 1)])])
def test_both_may_die(kite: Kite, new_service: NewService, begin: Begin, number: int, orders: list[tuple[int, int]]):
    """The spare takes 3,000, the primary's first; health names the rest, and in the end all are back."""
    first, second = ([start + 0x100 * n for n in range(number)] for start in (0x1000001, 0x2000001))
    homes = {1: dict.fromkeys(first, "quote"), 2: dict.fromkeys(second, "full")}
    left = max(2 * number - CAPACITY, 0)
    service = new_service(universe={"primary": first, "secondary": second}, failover=SOON)
    kite.load(2000, frame=5)
    client = begin(service)
    for before, after in orders:
        kite.tell("bar", how=503, but=[service.pid(f"worker-{c}") for c in (after, 3)])
        service.kill(f"worker-{before}")
        until_moved(service)
        kite.tell("bar", how=503, but=[service.pid("worker-3")])
        service.kill(f"worker-{after}")
        kite.until_on_the_wire(dict(list((homes[1] | homes[2]).items())[:CAPACITY]))
        service.wait_for(lambda s: all("503" in s["connections"][c]["reason"] for c in "12"), "both are refused")
        found = client.status()
        assert Counter(i.connection_id for i in found.instruments) == Counter({3: 2 * number - left, 2: left})
        uncovered = [reason for reason in found.health.reasons if "uncovered" in reason]
        assert len(uncovered) == bool(left)
        expected = rf"connection 2 .* is down, .*503.*: {left} instruments uncovered"
        assert all(re.fullmatch(expected, reason) for reason in uncovered)
        assert found.health.status == ("down" if left else "degraded")
        kite.tell("bar", how=None)
        service.wait_for(is_home, "all are back")
        kite.until_on_the_wire(*homes.values())
    end(kite, service, cut=2 * len(orders))
    assert {gap["cause"] for gap in service.events("gap")} <= {"killed", "refused"}  # what had to make room


# A socket dies.


def test_a_socket_that_closes_comes_back_by_itself_or_is_replaced(kite: Kite, new_service: NewService, begin: Begin):
    """The first try comes at once, and nobody takes over; only if the connection stays away the spare does."""
    service = new_service(universe=UNIVERSE, failover=SOON)
    kite.load(2000)
    begin(service)
    kite.tell("abort", connection=kite.of(PRIMARY[0])[-1]["number"])
    until(lambda: len(kite.of(PRIMARY[0])) == 2, "it has come back")
    kite.until_on_the_wire(*HOMES.values())
    assert len(kite.connections()) == 3
    assert done(service, "failover") == []

    kite.tell("bar", how=503, only=[service.pid("worker-1")])
    kite.tell("abort", connection=kite.of(PRIMARY[0])[-1]["number"])
    wait_until_carried(service, len(PRIMARY))
    status = service.wait_for(lambda s: s["connections"]["1"]["state"] == "down", "it is refused")
    assert "503" in status["connections"]["1"]["reason"]
    kite.tell("bar", how=None)
    wait_until_home(kite, service)
    refused = kite.tell("report")["refused"]
    end(kite, service, cut=2)
    ends = [(e["event"], e["cause"]) for e in service.events(connection_id=1) if "retry_in_s" in e]
    assert ends == [("disconnected", "closed")] * 2 + [("not_connected", "refused")] * refused
    assert service.events("disconnected")[0]["retry_in_s"] == 0
    assert len(done(service, "failover")) == len(done(service, "failback")) == 1
    assert {(gap["connection_id"], gap["cause"]) for gap in service.events("gap")} == {(1, "closed")}


def test_a_half_open_socket_is_noticed_and_replaced(kite: Kite, new_service: NewService, begin: Begin):
    """Nothing comes on either: one is replaced by itself; for the other, which nobody answers, the spare takes over."""
    service = new_service(universe=UNIVERSE, failover=SOON)
    kite.load(2000)
    begin(service)
    kite.tell("bar", how="hang", only=[service.pid("worker-1")])
    began_s = time.monotonic()
    for connection in kite.connections():
        kite.tell("mute", connection=connection["number"])
    until(lambda: len(kite.of(SECONDARY[0])) == 2, "connection 2 is replaced")
    noticed_s = time.monotonic() - began_s
    wait_until_carried(service, len(PRIMARY))
    covered_s = time.monotonic() - began_s
    kite.tell("bar", how=None)
    wait_until_home(kite, service)
    end(kite, service)
    assert {(gap["connection_id"], gap["cause"]) for gap in service.events("gap")} == {(1, "silent"), (2, "silent")}
    assert len(done(service, "failover")) == len(done(service, "failback")) == 1
    print(f"replaced after {noticed_s:.1f} s, taken over after {covered_s:.1f} s")  # noqa: T201  the figures


def test_when_all_sockets_die_at_once_nobody_takes_over(kite: Kite, new_service: NewService, begin: Begin):
    """The server is down for a while: each connection tries again by itself, and all are back when the server is."""
    service = new_service(universe=UNIVERSE, failover=SOON)
    kite.load(2000)
    begin(service)
    kite.tell("bar", how="reset")
    for connection in kite.connections():
        kite.tell("abort", connection=connection["number"])
    until(lambda: min(tries(service, c) for c in (1, 2, 3)) > 1, "each has tried in vain, twice")
    assert done(service, "failover") == []
    kite.tell("bar", how=None)
    began_s = time.monotonic()
    wait_until_home(kite, service)
    back_s = time.monotonic() - began_s
    end(kite, service, cut=2)
    waits = [e["retry_in_s"] for e in service.events("not_connected")]
    assert len({*waits}) == len(waits)  # nobody comes with another
    assert {gap["cause"] for gap in service.events("gap")} <= {"closed", "failed"}  # failed: the spare, in the end
    print(f"{len(waits)} tries in vain; all were back {back_s:.1f} s after the server")  # noqa: T201  the figures


# Kite refuses.

KEY, OLD_TOKEN, NEW_TOKEN = "canary-key-5f0e", "canary-old-token-77c1", "canary-new-token-a9d3"


class Rest:
    """Kite's REST API, which takes these tokens."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = tokens
        self.asked = 0
        rest = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                rest.asked += 1
                takes = self.path == "/user/profile" and self.headers["Authorization"] in [
                    f"token {KEY}:{token}" for token in rest.tokens
                ]
                refusal = {"status": "error", "error_type": "TokenException", "message": self.headers["Authorization"]}
                profile = {"status": "success", "data": {"user_id": "AB1234"}}
                body = json.dumps(profile if takes else refusal).encode()
                self.send_response(200 if takes else 403)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Rest":
        Thread(target=self._server.serve_forever, args=(0.05,)).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_a_dead_token_is_tried_once_and_a_new_one_taken_up(kite: Kite, new_service: NewService, begin: Begin):
    """Both connections say what to do and wait; with a new token all record, the spare and successors included.

    Neither key nor token is to be seen anywhere but in the token file.
    """
    with Rest(NEW_TOKEN) as rest:
        service = new_service(
            universe=UNIVERSE, failover=SOON, kite={"ws_url": kite.url, "api_url": rest.url, "max_connections": 3}
        )
        service.give(KITE_API_KEY=KEY, KITE_ACCESS_TOKEN=OLD_TOKEN)
        kite.load(2000)
        client = begin(service)
        kite.tell("bar", how=403, unless=NEW_TOKEN)
        for connection in kite.connections():
            quoted = json.dumps({"type": "error", "data": connection["path"]}).encode().hex()
            kite.tell("text", connection=connection["number"], messages=[quoted])
            kite.tell("abort", connection=connection["number"])
        status = service.wait_for(
            lambda s: all(s["connections"][c]["state"] == "unauthorised" for c in "12"), "both are unauthorised"
        )
        assert all("mds token set" in status["connections"][c]["reason"] for c in "12")
        seen = [service.mds("status").stdout, json.dumps(client.call("status")), json.dumps(client.call("history"))]
        stored = service.mds("token", "set", stdin=f"{NEW_TOKEN}\n")
        began_s = time.monotonic()
        wait_until_home(kite, service)
        back_s = time.monotonic() - began_s
        assert (kite.tell("report")["refused"], rest.asked) == (2, 2)
        until(lambda: service.errors().count("there is a new access token") == 3, "all workers have it")
        offset = size(service)
        service.kill("worker-1")
        until_on_disk(service, 3, offset)
        wait_until_home(kite, service)
        seen += [Path(f"/proc/{pid}/cmdline").read_text() for pid in service.processes()]
        end(kite, service, cut=3)
    assert all(NEW_TOKEN in c["path"] for c in kite.connections()[2:])
    refusals = service.events("not_connected")
    assert [(e["http_status"], e["retry_in_s"]) for e in refusals] == [(403, None)] * 2
    assert done(service, "failover") == ["connection 1: its process is gone"]
    token_file = service.folder / "config" / "mds" / "access_token.json"
    assert (NEW_TOKEN in token_file.read_text(), token_file.stat().st_mode & 0o777) == (True, 0o600)
    files = [path for path in service.folder.rglob("*") if path.is_file() and path != token_file]
    seen += [stored.stdout + stored.stderr, *(path.read_text(errors="replace") for path in files)]
    assert [secret for secret in (KEY, OLD_TOKEN, NEW_TOKEN) if any(secret in text for text in seen)] == []
    print(f"recording again {back_s:.2f} s after the new token")  # noqa: T201  the figure


def test_other_refusals_are_no_reason_to_take_over(kite: Kite, new_service: NewService, begin: Begin):
    """403 with a token that REST takes is tried again later, 429 every second: the spare would fare no better."""
    with Rest(OLD_TOKEN, NEW_TOKEN) as rest:
        service = new_service(
            universe=UNIVERSE, failover=SOON | {"after_ms": 100}, kite={"ws_url": kite.url, "api_url": rest.url}
        )
        service.give(KITE_API_KEY=KEY, KITE_ACCESS_TOKEN=OLD_TOKEN)
        kite.load(2000)
        client = begin(service)
        kite.tell("bar", how=429, only=[service.pid("worker-1")])
        kite.tell("abort", connection=kite.of(PRIMARY[0])[-1]["number"])
        until(lambda: tries(service, 1) > 1, "it has tried again")
        assert client.connections()["1"].state in ("rate_limited", "connecting")
        assert [r for r in client.health().reasons if f"{len(PRIMARY)} instruments uncovered" in r]
        kite.tell("bar", how=None)
        wait_until_home(kite, service)

        kite.tell("bar", how=403, only=[service.pid("worker-2")])
        kite.tell("abort", connection=kite.of(SECONDARY[0])[-1]["number"])
        status = service.wait_for(lambda s: s["connections"]["2"]["state"] == "unauthorised", "it is refused")
        assert "mds token set" not in status["connections"]["2"]["reason"]
        kite.tell("bar", how=None)
        assert service.mds("token", "set", stdin=NEW_TOKEN).returncode == 0
        wait_until_home(kite, service)
        refused = kite.tell("report")["refused"]
        end(kite, service, cut=2)
    refusals = service.events("not_connected")
    assert len(refusals) == refused
    assert all(e["retry_in_s"] >= 1 for e in refusals if e["http_status"] == 429)
    assert [(e["http_status"], e["retry_in_s"]) for e in refusals if e["connection_id"] == 2] == [(403, 60.0)]
    assert done(service, "failover") == []


# The supervisor dies, drills, and no spare.


def test_the_next_supervisor_goes_on_with_a_failover(kite: Kite, new_service: NewService, begin: Begin):
    """It adopts everybody, keeps what has failed over where it is, and gives it back when its home is stable."""
    service = new_service(universe=UNIVERSE, failover=SOON)
    kite.load(2000)
    begin(service)
    kite.tell("bar", how=503, but=[service.pid("worker-2"), service.pid("worker-3")])
    service.kill("worker-1")
    wait_until_carried(service, len(PRIMARY))
    service.wait_for(lambda s: "503" in s["connections"]["1"]["reason"], "worker 1 is back and refused")
    service.kill("supervisor")
    offset = size(service)
    until_on_disk(service, 3, offset)
    pids = {role: service.pid(role) for role in ("writer", "worker-1", "worker-2", "worker-3")}
    service.start()
    wait_until_carried(service, len(PRIMARY))
    kite.until_on_the_wire(*HOMES.values())
    assert {role: service.pid(role) for role in pids} == pids
    kite.tell("bar", how=None)
    wait_until_home(kite, service)
    assert {role: service.pid(role) for role in pids} == pids
    assert sorted(kite.tell("report")["uncovered"]) == sorted(PRIMARY)
    end(kite, service, cut=1)
    assert len(done(service, "failover")) == len(done(service, "failback")) == 1


def test_a_supervisor_that_dies_with_a_worker_leaves_no_silent_gap(kite: Kite, new_service: NewService, begin: Begin):
    """Worker 1 is killed, the spare takes over, and the supervisor is killed before there is another worker 1."""
    service = new_service(universe=UNIVERSE, failover=SOON)
    kite.load(2000)
    begin(service)
    until_on_disk(service, 1, size(service))
    service.send("worker-1", signal.SIGKILL)
    until_moved(service)
    service.kill("supervisor")
    service.start()
    wait_until_home(kite, service)
    end(kite, service, cut=1)
    assert [(gap["cause"], gap["instruments"]) for gap in service.events("gap")] == [("killed", sorted(PRIMARY))]


def test_drills_by_hand_and_a_mirror_leave_no_gap(kite: Kite, new_service: NewService, begin: Begin):
    """Each connection in turn, both together, and a kill of what connection 3 mirrors: never is anything uncovered."""
    service = new_service(universe=UNIVERSE, failover=SOON)
    kite.load(10_000, frame=5)
    client = begin(service)
    for drill in ([1], [2], [1, 2]):
        for home in drill:
            client.failover(home)
        carried = {token: mode for home in drill for token, mode in HOMES[home].items()}
        kite.until_on_the_wire(carried, *({} if c in drill else instruments for c, instruments in HOMES.items()))
        client.failback()
        wait_until_home(kite, service)
    for command in (["failover", "1"], ["failback"]):
        asked = service.mds(*command)
        assert (asked.returncode, asked.stderr) == (0, ""), asked
    wait_until_home(kite, service)
    assert done(service, "failover") == []
    assert service.events("gap") == []

    client.mirror()
    mirrored = [HOMES[1], *HOMES.values()]
    kite.until_on_the_wire(*mirrored)
    service.kill("worker-1")
    until(lambda: done(service, "failback"), "worker 1 is back")
    kite.until_on_the_wire(*mirrored)
    client.mirror(False)
    wait_until_home(kite, service)
    assert kite.tell("report")["uncovered"] == []
    overlap_s = longest_overlap_s(kite)
    end(kite, service, cut=1)
    print(f"on two connections for {overlap_s:.3f} s at most")  # noqa: T201  the figure


def test_without_a_spare_a_connection_only_reconnects(kite: Kite, new_service: NewService, begin: Begin):
    """With two connections to use: after a kill and a close each comes back by itself."""
    service = new_service(
        universe=UNIVERSE, failover={"after_ms": 0, "stable_s": 0}, kite={"ws_url": kite.url, "max_connections": 2}
    )
    kite.load(2000)
    begin(service)
    service.kill("worker-1")
    kite.tell("abort", connection=kite.of(SECONDARY[0])[-1]["number"])
    until(lambda: len(kite.of(PRIMARY[0])) == len(kite.of(SECONDARY[0])) == 2, "both are back")
    service.wait_until_live(1, 2)
    end(kite, service, cut=2)
    assert service.events("request", by="failover") == []
    assert {gap["cause"] for gap in service.events("gap")} == {"killed", "closed"}
