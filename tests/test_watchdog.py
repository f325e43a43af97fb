"""What feeds the watchdog and what does not, and the line for `systemctl status`."""

import pytest

from pipeline.supervisor.health import NO_SPARE, STUCK_S, judge
from pipeline.supervisor.watchdog import fault, status_line
from tests.overviews import an_overview
from tests.test_health import DOWN, facts

WITH_INSTRUMENTS = {
    1: {"subscribed_instruments": 5},
    2: {"subscribed_instruments": 3},
    3: {"subscribed_instruments": 0},
}
NOTHING_COMMITTED = {"uncommitted_s": STUCK_S + 1}


def some_facts(connections=None, **others):
    """Return facts of a service that records on two connections, and is well but for these."""
    known = {c: fields | (connections or {}).get(c, {}) for c, fields in WITH_INSTRUMENTS.items()}
    known[3] = {"state": "standby", "active": False} | known[3]
    return facts(known, **others)


OURS = {
    "the writer is given up": ({"processes": {"writer": "failed"}}, "writer is given up"),
    "the writer is away": ({"processes": {"writer": "restarting"}}, "writer is restarting"),
    "the writer never began": (
        {"processes": {"writer": "stopped"}, "storage": {"state": "stopped"}},
        "writer is stopped",
    ),
    "a worker in use is given up": (
        {"processes": {"worker-2": "failed"}, "connections": {2: {"state": "failed", "active": False}}},
        "worker-2 is given up",
    ),
    "a worker in use is away": ({"processes": {"worker-1": "restarting"}}, "worker-1 is restarting"),
    "the spare carries and is given up": (
        {"processes": {"worker-3": "failed"}, "connections": {3: {"subscribed_instruments": 5}}},
        "worker-3 is given up",
    ),
    "nothing is committed": (NOTHING_COMMITTED, "nothing becomes durable, and it is not the disk"),
}
ELSEWHERE = {
    "all is well": {},
    "a connection is lost": {"connections": {1: DOWN}, "uncovered": {1: 5}},
    **{
        f"a connection is {state}": {"connections": {1: {"state": state, "active": False}}, "uncovered": {1: 5}}
        for state in NO_SPARE
    },
    "an open market brings nothing": {"quiet": {1: 100.0}},
    "the market is closed": {"connections": {c: {"state": "idle", "active": False} for c in (1, 2)}},
    "the disk is full": {"storage": {"state": "paused", "reason": "the disk is full"}, **NOTHING_COMMITTED},
    "the disk fails": {"storage": {"state": "paused", "reason": "the disk has failed"}, **NOTHING_COMMITTED},
    "the disk hangs": {"storage": {"syncing_since_s": STUCK_S + 1}, **NOTHING_COMMITTED},
    "the disk holds up the writer's start": {"storage": {"state": "starting"}, **NOTHING_COMMITTED},
    "the writer is silent, and about to be killed": {"writer_answers": False, **NOTHING_COMMITTED},
    "commits are late for a moment": {"uncommitted_s": STUCK_S / 2},
    "the spare is given up": {"processes": {"worker-3": "failed"}},
    "who is given up is carried": {
        "processes": {"worker-1": "failed"},
        "connections": {1: {"subscribed_instruments": 0}, 3: {"subscribed_instruments": 5}},
    },
    "who serves HTTP is away": {"processes": {"http": "restarting"}},
}


@pytest.mark.parametrize(("wrong", "reason"), OURS.values(), ids=OURS.keys())
def test_what_a_restart_may_mend_is_a_fault(wrong, reason):
    """It is named, and health does not call it healthy either."""
    known = some_facts(**wrong)
    assert fault(known) == reason
    assert judge(known)[0] != "healthy"


@pytest.mark.parametrize("wrong", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_what_no_restart_mends_is_none(wrong):
    """The watchdog is fed: Kite, the network, the market and the disk are as they were after a restart."""
    assert fault(some_facts(**wrong)) == ""


@pytest.mark.parametrize(
    ("health", "line"),
    [
        ({"active_connections": 2}, "healthy: 2 instruments on 2 connections"),
        (
            {"resting": "connections are closed until 08:55"},
            "healthy: 2 instruments, connections are closed until 08:55",
        ),
        ({"status": "down", "reasons": ["the writer is stopped"]}, "down: the writer is stopped"),
        ({"status": "down", "reasons": ["one", "two", "three"]}, "down: one (and 2 more: mds health)"),
    ],
)
def test_the_line_is_about_the_worst(health, line):
    """One reason is enough to begin with, and mds health has the others."""
    assert status_line(an_overview(**health).health) == line
