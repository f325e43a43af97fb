"""Any process, socket or connection may die: the spare takes over, and all come back by themselves.

Whatever happens, every tick that a socket was sent before it died is stored, and each moment in which an instrument was
on no connection lies within a gap record.
"""

import json
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.conftest import SCALE, Begin, NewService
from tests.integration.drills import (
    HOMES,
    PRIMARY,
    SECONDARY,
    SETTINGS,
    SOON,
    UNIVERSE,
    done,
    end,
    is_home,
    longest_overlap_s,
    size,
    takeovers,
    until_on_disk,
    wait_until_home,
)
from tests.integration.kite import Kite
from tests.integration.service import Service, Status, until
from tests.kite_rest import Rest

CAPACITY = 3000  # of a connection


# What is waited for.


def wait_until_carried(service: Service, number: int) -> Status:
    """Wait until the spare has so many instruments."""
    return service.wait_for(
        lambda s: s["connections"]["3"]["confirmed_instruments"] == number, f"the spare has {number} instruments"
    )


def until_moved(service: Service) -> None:
    """Wait until what has failed over is covered by the spare, and saved as such."""
    path = service.run_dir / "subscriptions.json"
    until(lambda: (saved := json.loads(path.read_bytes()))["failed_over"] and not saved["leaving"], "all has moved")


def tries(service: Service, connection_id: int) -> int:
    """Return how often a connection has tried to connect in vain."""
    return len(service.events("not_connected", connection_id=connection_id))


# A process dies.


@pytest.mark.timeout(60 + 60 * SCALE)
@pytest.mark.parametrize("frame", [5, 50])
def test_the_spare_takes_over_from_a_killed_worker_and_gives_back(kite: Kite, new_service: NewService, frame: int):
    """5,000 ticks/s, workers 1 and 2 killed in turn: each kill is one gap, exact to the frame, and all come home."""
    homes = [1 + kill % 2 for kill in range(round(2 * SCALE))]
    seen = takeovers(kite, new_service(**SETTINGS), homes, frame=frame)
    print(seen)  # noqa: T201  the figures


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
    assert any("worker-1 has died too often" in reason for reason in client.health().reasons)
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
    begin(service)
    for before, after in orders:
        kite.tell("bar", how=503, but=[service.pid(f"worker-{c}") for c in (after, 3)])
        service.kill(f"worker-{before}")
        until_moved(service)
        kite.tell("bar", how=503, but=[service.pid("worker-3")])
        service.kill(f"worker-{after}")
        kite.until_on_the_wire(dict(list((homes[1] | homes[2]).items())[:CAPACITY]))
        # Asked again, one may be at its next try.
        found = service.wait_for(
            lambda s: all("503" in s["connections"][c]["reason"] for c in "12"), "both are refused"
        )
        assert Counter(i["connection_id"] for i in found["instruments"]) == Counter({3: 2 * number - left, 2: left})
        uncovered = [reason for reason in found["health"]["reasons"] if "uncovered" in reason]
        assert len(uncovered) == bool(left)
        expected = rf"connection 2 .* is down, .*503.*: {left} instruments uncovered"
        assert all(re.fullmatch(expected, reason) for reason in uncovered)
        assert found["health"]["status"] == ("down" if left else "degraded")
        named = [event["instruments"] for event in service.events("uncovered")]
        assert named[-1:] == ([second[number - left :]] if left else [])
        kite.tell("bar", how=None)
        service.wait_for(is_home, "all are back")
        kite.until_on_the_wire(*homes.values())
    end(kite, service, cut=2 * len(orders))
    assert [event["instruments"] for event in service.events("uncovered")][-1:] == ([[]] if left else [])
    assert {gap["cause"] for gap in service.events("gap")} <= {"killed", "refused", "no room"}


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
NEW_KEY, SECRET, REQUEST_TOKEN = "canary-new-key-93c5", "canary-secret-41b8", "canary-request-token-d20c"


def test_a_dead_token_is_tried_once_and_a_new_one_taken_up(kite: Kite, new_service: NewService, begin: Begin):
    """Both connections say what to do and wait; after a login, as another app, all record, with successors.

    Neither key nor token is to be seen anywhere but in the token file, and in the URL to log in at; no process but the
    first is given the API secret.
    """
    with Rest(NEW_KEY, secret=SECRET, request_token=REQUEST_TOKEN, new=NEW_TOKEN) as rest:
        service = new_service(
            universe=UNIVERSE, failover=SOON, kite={"ws_url": kite.url, "api_url": rest.url, "max_connections": 3}
        )
        service.give(KITE_API_KEY=KEY, KITE_ACCESS_TOKEN=OLD_TOKEN, KITE_API_SECRET=SECRET)
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
        assert all("mds login" in status["connections"][c]["reason"] for c in "12")
        seen = [service.mds("status").stdout, json.dumps(client.call("status")), json.dumps(client.call("history"))]
        service.give(KITE_API_KEY=NEW_KEY)
        login = service.mds("login", stdin=f"https://my.app/?status=success&request_token={REQUEST_TOKEN}\n")
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
        children = [pid for pid in service.processes() if pid != service.pid("supervisor")]
        assert not any(SECRET in Path(f"/proc/{pid}/environ").read_text() for pid in children)
        end(kite, service, cut=3)
    new = f"api_key={NEW_KEY}&access_token={NEW_TOKEN}"
    assert all(new in c["path"] for c in kite.connections()[2:])
    refusals = service.events("not_connected")
    assert [(e["http_status"], e["retry_in_s"]) for e in refusals] == [(403, None)] * 2
    assert done(service, "failover") == ["connection 1: its process is gone"]
    token_file = service.folder / "config" / "mds" / "access_token.json"
    assert (NEW_TOKEN in token_file.read_text(), token_file.stat().st_mode & 0o777) == (True, 0o600)
    files = [path for path in service.folder.rglob("*") if path.is_file() and path != token_file]
    told = (login.stdout + login.stderr).replace(f"connect/login?v=3&api_key={NEW_KEY}", "")
    seen += [told, *(path.read_text(errors="replace") for path in files)]
    secrets = (KEY, NEW_KEY, OLD_TOKEN, NEW_TOKEN, SECRET, REQUEST_TOKEN)
    assert [secret for secret in secrets if any(secret in text for text in seen)] == []
    print(f"recording again {back_s:.2f} s after the new token")  # noqa: T201  the figure


def test_other_refusals_are_no_reason_to_take_over(kite: Kite, new_service: NewService, begin: Begin):
    """403 with a token that REST takes is tried again later, 429 every second: the spare would fare no better."""
    with Rest(KEY, OLD_TOKEN, NEW_TOKEN) as rest:
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
        assert "mds login" not in status["connections"]["2"]["reason"]
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


def test_all_that_was_refused_and_killed_records_again(kite: Kite, new_service: NewService, begin: Begin):
    """What comes back first carries for the others until they are back, and no gap stays open after that."""

    def are_refused(status: Status) -> bool:
        return all(status["connections"][c]["state"] == "unauthorised" for c in "12")

    service = new_service(**SETTINGS)
    kite.load(1000)
    client = begin(service)
    for _ in range(round(3 * SCALE)):
        kite.tell("bar", how=403)
        for connection in kite.connections():
            if connection["open"]:
                kite.tell("abort", connection=connection["number"])
        service.wait_for(are_refused, "both are refused")
        kite.tell("bar", how=None)
        for role in ("worker-1", "worker-2", "worker-3"):
            service.kill(role)
        until(lambda: client.health().status == "healthy", "all is well")
    wait_until_home(kite, service)


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
