"""What carries another connection's instruments fails, hangs, is refused or restarted: nothing stays uncovered."""

import json
import signal

from pipeline.client import Client
from tests.integration.conftest import Begin, NewService
from tests.integration.drills import (
    HOMES,
    PRIMARY,
    SECONDARY,
    SOON,
    UNIVERSE,
    done,
    end,
    size,
    until_on_disk,
    wait_until_home,
)
from tests.integration.kite import Kite
from tests.integration.service import Service, until
from tests.integration.test_failover import (
    KEY,
    NEW_TOKEN,
    OLD_TOKEN,
    tries,
    until_moved,
    wait_until_carried,
)
from tests.kite_rest import Rest

NEVER = {"stable_s": 3600}  # no failback but for a reason


def uncovered(kite: Kite) -> list[int]:
    """Return what was on no connection for a moment."""
    tokens: list[int] = kite.tell("report")["uncovered"]
    return tokens


def give_up(service: Service, role: str) -> None:
    """Kill a process until it is given up; `max_deaths` is 1."""
    service.kill(role)
    service.kill(role)
    service.wait_for(lambda s: s["processes"][role]["state"] == "failed", f"{role} is given up")


def test_a_drill_ends_where_the_spare_dies(kite: Kite, new_service: NewService, begin: Begin):
    """Failed over by hand, a connection keeps its socket, and has its instruments back when the spare is gone."""
    service = new_service(universe=UNIVERSE, failover=NEVER)
    kite.load(2000)
    client = begin(service)
    client.failover(1)
    until_moved(service)
    kite.until_on_the_wire({}, HOMES[2], HOMES[1])
    service.kill("worker-3")
    until(lambda: done(service, "failback"), "connection 1 has them back")
    wait_until_home(kite, service)
    assert kite.of(PRIMARY[0])[0]["open"]
    end(kite, service, cut=1)
    assert [(gap["connection_id"], gap["cause"]) for gap in service.events("gap")] == [(3, "killed")]
    changes = service.events("resubscribed", connection_id=1)
    assert sorted(token for e in changes for token in e["dropped"]) == sorted(PRIMARY)
    assert sorted(token for e in changes for token in e["instruments"].get("quote", [])) == sorted(PRIMARY)


def test_without_the_spare_the_other_carries(kite: Kite, new_service: NewService, begin: Begin):
    """The spare is given up, and then worker 1: connection 2 records all; with the spare back it goes on."""
    service = new_service(universe=UNIVERSE, failover=NEVER | {"max_deaths": 1})
    kite.load(2000)
    client = begin(service)
    give_up(service, "worker-3")
    give_up(service, "worker-1")
    kite.until_on_the_wire(HOMES[1] | HOMES[2])
    health = client.health()
    assert health.status == "degraded"
    assert not [reason for reason in health.reasons if "uncovered" in reason]
    refused = service.mds("failover", "2")
    assert (refused.returncode, "no other connection can record for connection 2" in refused.stderr) == (1, True)
    client.restart("worker-3")
    client.restart("worker-1")
    service.wait_for(lambda s: s["connections"]["1"]["state"] == "live", "worker 1 is back")
    client.failback()
    wait_until_home(kite, service)
    end(kite, service, cut=2)


def test_a_spare_that_dies_while_it_carries_is_replaced(kite: Kite, new_service: NewService, begin: Begin):
    """Connection 1 is away, the spare records for it and is killed: connection 2 has room and takes over."""
    service = new_service(universe=UNIVERSE, failover=NEVER)
    kite.load(2000)
    begin(service)
    kite.tell("bar", how=503, but=[service.pid("worker-2"), service.pid("worker-3")])
    service.kill("worker-1")
    wait_until_carried(service, len(PRIMARY))
    until_moved(service)
    service.kill("worker-3")
    kite.until_on_the_wire(HOMES[1] | HOMES[2])
    kite.tell("bar", how=None)
    service.wait_for(lambda s: s["connections"]["1"]["state"] == "live", "connection 1 is back")
    with Client(service.run_dir) as client:
        client.failback()
    wait_until_home(kite, service)
    end(kite, service, cut=2)


def test_a_spare_that_hangs_gets_nothing(kite: Kite, new_service: NewService, begin: Begin):
    """It mirrors connection 1 and is stopped: asked to take over, it must not be taken at its last word."""
    service = new_service(universe=UNIVERSE, failover=NEVER)
    kite.load(2000)
    client = begin(service)
    client.mirror()
    kite.until_on_the_wire(HOMES[1], *HOMES.values())
    until_on_disk(service, 3, size(service))
    stopped = service.send("worker-3", signal.SIGSTOP)
    assert not client.failover(1).confirmed
    assert HOMES[1].keys() <= {int(t) for t in kite.of(PRIMARY[0])[0]["modes"]}
    until(lambda: service.pid("worker-3") != stopped, "it is killed as one that hangs")
    client.failback()
    kite.until_on_the_wire(HOMES[1], *HOMES.values())
    assert uncovered(kite) == []
    end(kite, service, cut=1)


def test_a_restart_as_asked_leaves_no_gap(kite: Kite, new_service: NewService, begin: Begin):
    """Others record meanwhile, for each of the workers in turn, and for the spare while it carries."""
    service = new_service(universe=UNIVERSE, failover=SOON)
    kite.load(10_000, frame=5)
    client = begin(service)
    for role in ("worker-1", "worker-2", "worker-3"):
        before = service.pid(role)
        assert service.mds("restart", role).returncode == 0
        assert service.pid(role) != before
        wait_until_home(kite, service)
    client.failover(1)
    until_moved(service)
    client.restart("worker-3")
    wait_until_home(kite, service)
    assert uncovered(kite) == []
    end(kite, service)
    assert service.events("gap") == []


def test_a_restart_while_little_comes_leaves_no_gap(kite: Kite, new_service: NewService, begin: Begin):
    """The worker is stopped before a frame has shown that its socket was well: that it was closed in order shows it."""
    service = new_service(universe=UNIVERSE, failover=SOON)
    kite.load(2000)
    client = begin(service)
    kite.tell("pause")
    client.restart("worker-1")
    kite.load(2000)
    wait_until_home(kite, service)
    assert uncovered(kite) == []
    end(kite, service)
    assert service.events("gap") == []


def test_a_new_run_renews_what_is_outdated_without_a_gap(kite: Kite, new_service: NewService, begin: Begin):
    """The configuration has changed between two runs: one after the other is restarted, and covered meanwhile."""
    service = new_service(universe=UNIVERSE, failover=SOON)
    kite.load(2000)
    begin(service)
    pids = {role: service.pid(role) for role in ("writer", "worker-1", "worker-2", "worker-3")}
    service.kill("supervisor")
    service.give(MDS_STORAGE__COMMIT_INTERVAL_MS="20")
    service.start()
    until(lambda: all(service.pid(role) not in (None, pid) for role, pid in pids.items()), "all are replaced")
    wait_until_home(kite, service)
    assert uncovered(kite) == []
    end(kite, service)
    assert service.events("gap") == []


def test_a_new_run_does_not_hurry_a_failback(kite: Kite, new_service: NewService, begin: Begin):
    """Connection 1 is live again, but not for long enough: the next supervisor leaves its instruments to the spare."""
    service = new_service(universe=UNIVERSE, failover=NEVER)
    kite.load(2000)
    begin(service)
    service.kill("worker-1")
    until_moved(service)
    service.wait_for(lambda s: s["connections"]["1"]["state"] == "live", "connection 1 is back")
    service.kill("supervisor")
    service.start()
    wait_until_carried(service, len(PRIMARY))
    service.wait_until_live(1, 2, 3)
    assert done(service, "failback") == []
    with Client(service.run_dir) as client:
        client.failback()
    wait_until_home(kite, service)
    end(kite, service, cut=1)


def test_old_tokens_do_not_come_back(kite: Kite, new_service: NewService, begin: Begin):
    """The next run has yesterday's token in its environment: who records goes on, who is refused finds the new one."""
    with Rest(KEY, OLD_TOKEN, NEW_TOKEN) as rest:
        service = new_service(universe=UNIVERSE, failover=SOON, kite={"ws_url": kite.url, "api_url": rest.url})
        service.give(KITE_API_KEY=KEY, KITE_ACCESS_TOKEN=OLD_TOKEN)
        kite.load(2000)
        begin(service)
        assert service.mds("token", "set", stdin=NEW_TOKEN).returncode == 0
        until(lambda: service.errors().count("there is a new access token") == 3, "all workers have it")
        rest.tokens = [NEW_TOKEN]
        kite.tell("bar", how=403, unless=NEW_TOKEN)
        service.kill("supervisor")
        pids = {role: service.pid(role) for role in ("writer", "worker-1", "worker-2", "worker-3")}
        service.start()
        wait_until_home(kite, service)
        assert {role: service.pid(role) for role in pids} == pids
        assert kite.tell("report")["refused"] == 0
        service.kill("worker-1")
        until(lambda: done(service, "failback"), "worker 1 is back")
        wait_until_home(kite, service)
        assert (kite.tell("report")["refused"], rest.asked) == (1, 1)
        end(kite, service, cut=1)


def test_a_new_run_with_a_new_token_frees_those_that_were_refused(kite: Kite, new_service: NewService, begin: Begin):
    """The supervisor ended at night, its workers wait with a dead token: the morning's run brings them the new one."""
    with Rest(KEY, NEW_TOKEN) as rest:
        service = new_service(universe=UNIVERSE, failover=SOON, kite={"ws_url": kite.url, "api_url": rest.url})
        service.give(KITE_API_KEY=KEY, KITE_ACCESS_TOKEN=OLD_TOKEN)
        kite.load(2000)
        begin(service)
        kite.tell("bar", how=403, unless=NEW_TOKEN)
        for connection in kite.connections():
            kite.tell("abort", connection=connection["number"])
        service.wait_for(lambda s: all(s["connections"][c]["state"] == "unauthorised" for c in "12"), "both wait")
        service.kill("supervisor")
        service.give(KITE_ACCESS_TOKEN=NEW_TOKEN)
        service.start()
        wait_until_home(kite, service)
        end(kite, service, cut=2)


def test_what_is_subscribed_anew_while_kite_refuses_is_missed_too(kite: Kite, new_service: NewService, begin: Begin):
    """All is unsubscribed while the connection waits, and some subscribed again: that gap is told as well."""
    service = new_service(universe={"primary": PRIMARY}, kite={"ws_url": kite.url, "max_connections": 2})
    kite.load(2000)
    client = begin(service)
    kite.tell("bar", how=429)
    kite.tell("abort", connection=1)
    until(lambda: tries(service, 1), "it is refused")
    client.unsubscribe_all()
    service.wait_for(lambda s: s["connections"]["1"]["state"] == "idle", "there is nothing to wait for")
    client.subscribe(PRIMARY[:2])
    status = service.wait_for(lambda s: s["connections"]["1"]["state"] in ("rate_limited", "connecting"), "it waits on")
    assert status["connections"]["1"]["gap_open"]
    refused = kite.tell("report")["refused"]
    until(lambda: kite.tell("report")["refused"] > refused, "it has tried again")
    kite.tell("bar", how=None)
    kite.until_on_the_wire(dict.fromkeys(PRIMARY[:2], "quote"))
    service.wait_for(lambda s: not s["connections"]["1"]["gap_open"], "the gap is over")
    assert service.stop() == 0
    service.assert_verified()
    assert [(g["cause"], g["instruments"]) for g in service.events("gap")][-1] == ("refused", sorted(PRIMARY[:2]))


def test_a_kill_does_not_hide_what_was_missing_before(kite: Kite, new_service: NewService, begin: Begin):
    """One instrument of two ticks again, the other has not come back yet, and the worker is killed."""
    tokens = [PRIMARY[0], SECONDARY[0]]
    service = new_service(
        universe={"primary": tokens, "batch_size": 1}, kite={"ws_url": kite.url, "max_connections": 2}
    )
    kite.load(200)
    begin(service)
    until_on_disk(service, 1, size(service))
    kite.tell("bar", how=503)
    kite.tell("load", rate=100, limit=1)
    kite.tell("abort", connection=1)
    until(lambda: tries(service, 1), "it is refused")
    kite.tell("bar", how=None)
    until(lambda: len(kite.connections()) == 2 and kite.connections()[1]["ticks"] == 1, "one ticks again")
    until(
        lambda: len(service.streams()[min(service.streams())]) == sum(c["ticks"] for c in kite.connections()), "stored"
    )
    is_open = service.wait_for(lambda s: s["connections"]["1"]["confirmed_instruments"] == len(tokens), "all are sent")
    service.kill("worker-1")
    kite.tell("load", rate=100)
    service.wait_until_live(1)
    offset = size(service)
    until_on_disk(service, 1, offset)
    end(kite, service, cut=1)
    gaps = service.events("gap")
    assert [(gap["cause"], gap["instruments"]) for gap in gaps] == [("killed", sorted(tokens))], is_open
    first = service.streams()[min(service.streams())]
    assert json.dumps(first[-2]["timestamp"]) == json.dumps(gaps[0]["from"])


def test_what_is_taken_off_a_half_open_socket_has_a_gap(kite: Kite, new_service: NewService, begin: Begin):
    """Nobody has noticed it yet when the instruments move away: what they missed until then is told when it is."""
    service = new_service(universe=UNIVERSE, failover=NEVER)
    kite.load(2000)
    client = begin(service)
    until_on_disk(service, 1, size(service))
    kite.tell("mute", connection=kite.of(PRIMARY[0])[-1]["number"])
    client.failover(1)
    until_moved(service)
    until(lambda: len(kite.connections()) == 4, "the half-open socket is replaced")
    client.failback()
    wait_until_home(kite, service)
    end(kite, service)
    assert [(g["connection_id"], g["cause"], g["instruments"]) for g in service.events("gap")] == [
        (1, "silent", sorted(PRIMARY))
    ]


def test_nothing_moves_onto_a_half_open_socket(kite: Kite, new_service: NewService, begin: Begin):
    """An instrument that does not tick there stays where it was until something comes at all."""
    service = new_service(universe=UNIVERSE, failover=NEVER)
    kite.load(2000)
    client = begin(service)
    until_on_disk(service, 2, size(service))
    kite.tell("mute", connection=kite.of(SECONDARY[0])[-1]["number"])
    moved = PRIMARY[1:6]
    assert not client.set_mode(moved, "full").confirmed
    full = HOMES[2] | dict.fromkeys(moved, "full")
    kite.until_on_the_wire({token: mode for token, mode in HOMES[1].items() if token not in moved}, full)
    assert not set(moved) & set(uncovered(kite))
    end(kite, service)
    assert [(g["connection_id"], g["cause"], g["instruments"]) for g in service.events("gap")] == [
        (2, "silent", sorted(SECONDARY))
    ]
