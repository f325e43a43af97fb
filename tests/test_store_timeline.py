"""What an event log tells of the connections."""

from itertools import pairwise

from hypothesis import given

from pipeline.store.completeness.entries import decode
from pipeline.store.completeness.intervals import intervals
from pipeline.store.completeness.timeline import DOUBT_US, follow
from tests.histories import END, T0_US, downs, event, gap, history, lost, request, started, stopped, subscribed


def seconds(at):
    """Return a time as the tests write it."""
    return (at - T0_US) / 1e6


def drawn(lines, connection_id, now=None):
    """Return what a connection did: state, from, to, cause."""
    timeline = follow(decode(lines), now)
    return [(one.state, seconds(one.begin), seconds(one.end), one.cause) for one in intervals(timeline, connection_id)]


def spells(lines, connection_id, now=None):
    """Return what a connection had: from, to, instruments."""
    return [
        (seconds(one.begin), seconds(one.end), sorted(one.tokens))
        for one in follow(decode(lines), now).spells
        if one.connection_id == connection_id
    ]


@given(downs())
def test_intervals_of_a_connection_never_overlap(down):
    """They stand in order, within the recording; each time in which nothing came is `down`."""
    timeline = follow(decode(history(down)))
    for connection_id, some in down.items():
        found = intervals(timeline, connection_id)
        assert all(one.begin < one.end for one in found)
        assert all(one.end <= other.begin for one, other in pairwise(found))
        assert [(seconds(one.begin), seconds(one.end)) for one in found if one.state == "down"] == [
            (since, until) for since, _, until in some
        ]
        assert sum(one.end - one.begin for one in found) == (END - 1) * 1e6


def test_a_failover_is_told_from_what_a_connection_has_by_itself():
    """The spare stands by, carries another's instruments, and stands by again; so does a mirror."""
    lines = [
        started(),
        event("epoch", 1, 3, previous_epoch=None, previous_end="none"),
        request("failover", 10, [1, 2], connections={"3": 2}, by="failover", reason="connection 1: gone"),
        subscribed(11, 3, [1, 2]),
        request("failback", 20, [1, 2], connections={"1": 2}),
        event("idle", 20, 3),
        request("mirror", 30, [1], connections={"3": 1}),
        subscribed(31, 3, [1]),
        request("unmirror", 40, [1], connections={"3": 1}),
        event("idle", 40, 3),
        stopped(50),
    ]
    assert drawn(lines, 3) == [
        ("idle", 1, 11, ""),
        ("failover", 11, 20, "connection 1: gone"),
        ("idle", 20, 31, ""),
        ("mirror", 31, 40, "asked by cli"),
        ("idle", 40, 50, ""),
    ]


def test_instruments_come_and_go_on_one_socket():
    """What is dropped was had until then, what is new from then on; nothing at all is `idle`."""
    lines = [
        started(),
        subscribed(1, 1, [1, 2]),
        event("resubscribed", 5, 1, instruments={"full": [3]}, dropped=[1]),
        event("resubscribed", 8, 1, instruments={}, dropped=[2, 3]),
        stopped(20),
    ]
    assert spells(lines, 1) == [(1, 5, [1]), (1, 8, [2]), (5, 8, [3])]
    assert drawn(lines, 1) == [("live", 1, 8, ""), ("idle", 8, 20, "")]


def test_a_process_that_died_has_lost_its_instruments():
    """From then on, until the gap record says more exactly since when."""
    died = [
        started(),
        subscribed(1, 1, [1]),
        event("process_died", 9, process="worker-1", exit_code=-9, given_up=False),
    ]
    assert drawn([*died, stopped(20)], 1) == [("live", 1, 9, ""), ("down", 9, 20, "killed")]
    recorded = [*died, gap(8, 12, 1, [1], "killed"), subscribed(12, 1, [1]), stopped(20)]
    assert drawn(recorded, 1) == [("live", 1, 8, ""), ("down", 8, 12, "killed"), ("live", 12, 20, "")]


def test_what_seems_alive_is_certain_until_a_moment_ago():
    """At the end of a log that goes on, or that nobody ended; a loss without a record is an open gap."""
    lines = [started(), subscribed(1, 1, [1]), subscribed(2, 2, [2]), lost(50, 2, "silent")]
    assert spells(lines, 1, now=T0_US + 60_000_000) == [(1, 60 - DOUBT_US / 1e6, [1])]
    open_gap = follow(decode(lines), T0_US + 60_000_000).gaps
    assert [(one.cause, seconds(one.since), one.until, list(one.tokens)) for one in open_gap] == [
        ("silent", 50 - DOUBT_US / 1e6, None, [2])
    ]


def test_a_power_loss_is_no_event():
    """Nobody had anything after the last sign of life."""
    lines = [
        started(),
        subscribed(1, 1, [1]),
        event("health", 30, status="healthy", was="starting", reasons=[]),
        started(500),
        event("epoch", 501, 1, previous_epoch=6, previous_end="killed"),
    ]
    assert spells(lines, 1) == [(1, 30, [1])]


def test_lines_that_are_no_events_are_passed_over():
    """Rubbish, foreign types and what a newer version may write."""
    lines = [b"", b"{", b"null", b"[]", b'{"event":"gap"}', b"\xff", started(), event("new", 3, 1, dropped=[1])]
    lines += [event("gap", 4, 1, instruments=["x"]), event("gap", 4, 1, instruments=[-1]), event("gap", 4, 9)]
    lines += [event("process_died", 5, process="worker-x"), event("process_died", 5, process="worker-7")]
    far = b'{"event":"idle","timestamp":"0001-01-01T00:00:00+05:30","connection_id":1,"source":"worker-1"}'
    lines += [far, far.replace(b"0001", b"9999")]
    assert [entry.event for entry in decode(lines)] == ["service_started", "new", "gap", *["process_died"] * 2]
    assert follow(decode(lines)).gaps == []
    assert follow([]).running == []
