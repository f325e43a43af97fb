"""The judgement: facts in, state and reasons out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.status import ConnectionStatus, Process, Storage
from pipeline.supervisor.health import LAG_MS, LAG_TICKS, NEARLY_FULL_H, NO_SPARE, STUCK_S, Facts, judge
from tests.builders import partly

GIB = 2**30
ROLES = {1: "primary", 2: "secondary", 3: "tertiary"}
STATES = ("off", "starting", "idle", "standby", "connecting", "live", "down", "silent", "unauthorised", "failed")
WELL = {
    "state": "recording",
    "reason": "",
    "data_dir": "data",
    "syncing_since_s": None,
    "free_bytes": 100 * GIB,
    "reserve_bytes": GIB,
    "hours_until_full": 50.0,
}


def facts(connections=None, storage=None, processes=None, **others):
    """Return facts of a service that is well but for these."""
    said = {1: {}, 2: {}, 3: {"state": "standby", "active": False}}
    usual = {"state": "live", "reason": "", "active": True, "gap_open": False, "ticks_pending": 0, "lag_ms": 0.0}
    states = {"writer": "running", **{f"worker-{c}": "running" for c in ROLES}, "http": "running", "simulator": "off"}
    known: dict[str, Any] = {
        "uncovered": {},
        "failed_over": frozenset(),
        "writer_answers": True,
        "uncommitted_s": 0.0,
        "quiet": {},
        "unsaved": "",
        "unresolved": [],
    }
    return Facts(
        connections={
            str(c): partly(
                ConnectionStatus, connection_id=c, role=role, **usual | said[c] | (connections or {}).get(c, {})
            )
            for c, role in ROLES.items()
        },
        storage=partly(Storage, **WELL | (storage or {})),
        processes={
            name: Process(pid=1, state=state, restarts=0) for name, state in (states | (processes or {})).items()
        },
        **known | others,
    )


DOWN = {"state": "down", "active": False, "reason": "HTTP 503"}
TABLE = {
    "all is well": ({}, "healthy", []),
    "nothing is subscribed": ({"connections": {c: {"state": "idle", "active": False} for c in (1, 2)}}, "healthy", []),
    "a connection is lost": (
        {"connections": {1: DOWN}, "uncovered": {1: 7}},
        "down",
        ["connection 1 (primary) is down, HTTP 503: 7 instruments uncovered"],
    ),
    "a connection is being opened": (
        {"connections": {2: {"state": "connecting", "active": False}}, "uncovered": {2: 7}},
        "down",
        ["connection 2 (secondary) is connecting: 7 instruments uncovered"],
    ),
    "a connection has heard of no instruments yet": (
        {"connections": {1: {"state": "idle", "active": False}}, "uncovered": {1: 7}},
        "down",
        ["connection 1 (primary) is about to connect: 7 instruments uncovered"],
    ),
    "the spare is about to take over": (
        {"uncovered": {3: 7}, "failed_over": frozenset({1})},
        "down",
        [
            "connection 3 (tertiary) is about to connect: 7 instruments uncovered",
            "connection 1 has failed over, others are to record its instruments",
        ],
    ),
    "the spare has taken over": (
        {"connections": {1: DOWN, 3: {"state": "live", "active": True}}, "failed_over": frozenset({1})},
        "degraded",
        ["connection 1 has failed over, others record its instruments"],
    ),
    "the spool is full": (
        {"connections": {2: {"gap_open": True}}},
        "down",
        ["connection 2 (secondary) is live, and a gap is open: ticks are being missed"],
    ),
    "a gap of what is down is told once": (
        {"connections": {2: DOWN | {"gap_open": True}}, "uncovered": {2: 7}},
        "down",
        ["connection 2 (secondary) is down, HTTP 503: 7 instruments uncovered"],
    ),
    "a connection is quiet though the market is open": (
        {"quiet": {2: 65.4, 1: 3700.0}},
        "degraded",
        [
            "connection 1 is live and has had no tick for 62 min, though the market is open",
            "connection 2 is live and has had no tick for 65 s, though the market is open",
        ],
    ),
    "the writer pauses": (
        {"storage": {"state": "paused", "reason": "the disk is full"}},
        "down",
        ["the writer is not storing: the disk is full"],
    ),
    "the writer is stopped": ({"storage": {"state": "stopped"}}, "down", ["the writer is stopped"]),
    "the writer says nothing": ({"writer_answers": False}, "down", ["the writer does not answer"]),
    "a sync takes long": ({"storage": {"syncing_since_s": STUCK_S}}, "healthy", []),
    "a sync takes too long": (
        {"storage": {"syncing_since_s": 7.2}, "uncommitted_s": 8.0},
        "down",
        ["the disk of data has not answered for 7 s: nothing is committed"],
    ),
    "a commit takes long": ({"uncommitted_s": STUCK_S}, "healthy", []),
    "nothing is committed": ({"uncommitted_s": 7.2}, "down", ["nothing has been committed for 7 s"]),
    "many wait": ({"connections": {1: {"ticks_pending": LAG_TICKS - 5}, 2: {"ticks_pending": 5}}}, "healthy", []),
    "too many wait": (
        {"connections": {1: {"ticks_pending": LAG_TICKS - 5, "lag_ms": 40.0}, 2: {"ticks_pending": 6}}},
        "degraded",
        [f"{LAG_TICKS + 1:,} ticks are received and not yet durable, the oldest for 0.0 s"],
    ),
    "some wait for long": ({"connections": {1: {"ticks_pending": 1, "lag_ms": LAG_MS}}}, "healthy", []),
    "some wait for too long": (
        {"connections": {1: {"ticks_pending": 1}, 3: {"ticks_pending": 2, "lag_ms": 4200.0}}},
        "degraded",
        ["3 ticks are received and not yet durable, the oldest for 4.2 s"],
    ),
    "the disk fills soon": (
        {"storage": {"hours_until_full": 0.5}},
        "degraded",
        ["the disk of data is nearly full: 102,400 MB are free, at the present rate enough for 30 min"],
    ),
    "the disk is full in an hour": ({"storage": {"hours_until_full": NEARLY_FULL_H}}, "healthy", []),
    "the reserve is near": (
        {"storage": {"free_bytes": 1.2 * GIB, "hours_until_full": None}},
        "degraded",
        ["the disk of data is nearly full: 1,229 MB are free"],
    ),
    "the writer has paused, so the disk is full": (
        {"storage": {"state": "paused", "reason": "the disk is full", "free_bytes": 0}},
        "down",
        ["the writer is not storing: the disk is full"],
    ),
    "the spare is refused": (
        {"connections": {3: {"state": "unauthorised", "active": False, "reason": "HTTP 403"}}},
        "degraded",
        ["there is no spare: connection 3 (tertiary) is unauthorised, HTTP 403"],
    ),
    "the spare has died": (
        {"connections": {3: DOWN}, "processes": {"worker-3": "restarting"}},
        "degraded",
        ["worker-3 is restarting"],
    ),
    "the spare has failed with what it carried": (
        {"connections": {3: DOWN}, "uncovered": {3: 7}, "failed_over": frozenset({2, 1})},
        "down",
        [
            "connection 3 (tertiary) is down, HTTP 503: 7 instruments uncovered",
            "connection 1 has failed over, others are to record its instruments",
            "connection 2 has failed over, others are to record its instruments",
        ],
    ),
    "there is no third connection": (
        {"connections": {3: {"state": "off", "active": False}}, "processes": {"worker-3": "off"}},
        "healthy",
        [],
    ),
    "a process is given up": (
        {"processes": {"worker-1": "failed"}},
        "degraded",
        ["worker-1 has died too often and is given up; try again with: mds restart worker-1"],
    ),
    "nobody can look on": ({"processes": {"http": "failed"}}, "healthy", []),
    "the port is taken": ({"processes": {"http": "waiting"}}, "healthy", []),
    "the subscriptions are not saved": (
        {"unsaved": "no space"},
        "degraded",
        ["the subscriptions are not saved (no space): the next start would go on with older ones"],
    ),
    "a word of the settings means nothing": (
        {"unresolved": ["universe: NSE:INFI is not on the list"]},
        "degraded",
        ["universe: NSE:INFI is not on the list"],
    ),
}


@pytest.mark.parametrize(("what", "status", "reasons"), TABLE.values(), ids=TABLE.keys())
def test_judgement(what, status, reasons):
    """Each trouble has a state and its words; what is no trouble has neither."""
    assert judge(facts(**what)) == (status, reasons)


def test_the_worst_comes_first():
    """What is missed, then what is not stored, then what endangers the rest."""
    status, reasons = judge(
        facts(
            {1: DOWN, 2: {"gap_open": True}, 3: DOWN},
            {"state": "paused", "reason": "the disk is full"},
            {"writer": "restarting"},
            uncovered={1: 7},
            unsaved="no space",
            unresolved=["universe: X is not on the list"],
        )
    )
    assert status == "down"
    assert [reason.split(" ")[:2] for reason in reasons] == [
        ["connection", "1"],
        ["connection", "2"],
        ["the", "writer"],
        ["writer", "is"],
        ["the", "subscriptions"],
        ["universe:", "X"],
        ["there", "is"],
    ]


connections_ = st.fixed_dictionaries(
    {
        "state": st.sampled_from(STATES),
        "reason": st.sampled_from(["", "why"]),
        "gap_open": st.booleans(),
        "ticks_pending": st.sampled_from([0, 5, LAG_TICKS]),
        "lag_ms": st.sampled_from([0.0, 5.0, 3000.0]),
    }
).map(lambda fields: fields | {"active": fields["state"] == "live"})
storages_ = st.fixed_dictionaries(
    {
        "state": st.sampled_from(["starting", "recording", "paused", "stopped"]),
        "syncing_since_s": st.sampled_from([None, 0.5, 5.0]),
        "free_bytes": st.sampled_from([0, 100 * GIB]),
        "hours_until_full": st.sampled_from([None, 0.0, 5.0]),
    }
)
processes_ = st.dictionaries(
    st.sampled_from(["writer", "worker-1", "worker-2", "worker-3", "http"]),
    st.sampled_from(["running", "restarting", "stopped", "failed", "off"]),
)


others_ = st.fixed_dictionaries(
    {
        "failed_over": st.frozensets(st.sampled_from([1, 2])),
        "writer_answers": st.booleans(),
        "uncommitted_s": st.sampled_from([0.0, 5.0]),
        "unsaved": st.sampled_from(["", "why"]),
        "unresolved": st.sampled_from([[], ["why"]]),
    }
)


@given(
    st.fixed_dictionaries(dict.fromkeys(ROLES, connections_)),
    storages_,
    processes_,
    st.sets(st.sampled_from([1, 2, 3])),
    others_,
)
def test_it_is_healthy_only_without_a_reason(connections, storage, processes, lost, others):
    """Down means that something is missed or not stored, and each connection that misses something is named."""
    uncovered = {c: 7 for c in lost if not connections[c]["active"]}
    status, reasons = judge(facts(connections, storage, processes, uncovered=uncovered, **others))
    assert (status == "healthy") == (not reasons)
    assert len(set(reasons)) == len(reasons)
    missing = {c for c in ROLES if c in uncovered or (connections[c]["active"] and connections[c]["gap_open"])}
    stuck = (storage["syncing_since_s"] or 0) > STUCK_S or others["uncommitted_s"] > STUCK_S
    assert (status == "down") == bool(
        missing or storage["state"] != "recording" or not others["writer_answers"] or stuck
    )
    for connection_id in missing:
        assert any(reason.startswith(f"connection {connection_id} (") for reason in reasons)
    no_spare = connections[3]["state"] in NO_SPARE and 3 not in uncovered
    assert any("no spare" in reason for reason in reasons) == (
        no_spare and processes.get("worker-3", "running") == "running"
    )
