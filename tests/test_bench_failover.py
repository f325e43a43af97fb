"""`bench.failover`: what it does to whom, and the steps as the event log has them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import failover
from bench.failover import (
    CAUSES,
    HOWS,
    NOTICED,
    Failure,
    Phases,
    gaps_of,
    phases,
    planned,
    require_gaps,
    spreads,
    tables,
)
from tests.integration.drills import HOMES, ns

BEGAN = datetime(2025, 10, 1, 9, 15, tzinfo=UTC)
MS = 1_000_000


def at(ms: float) -> str:
    """Return the time so many ms after the beginning."""
    return (BEGAN + timedelta(milliseconds=ms)).isoformat(timespec="microseconds")


def at_ns(ms: float) -> int:
    """Return the same as Unix ns."""
    return ns(at(ms))


def failure(how: str = "kill", home: int = 1, carrier: int = 3, *, since: float = 0.0, to: float = 1000.0) -> Failure:
    """Return a failure at `since`, whose first tick came 20 ms later and was found after 25 ms."""
    return Failure(how, home, at_ns(since), carrier, at_ns(since + 20), at_ns(since + 25), at_ns(to))


def events(how: str = "kill", home: int = 1, carrier: int = 3, *, since: float = 0.0) -> list[dict[str, Any]]:
    """Return what is logged of it: noticed after 5 ms, decided after 7, connected after 10."""
    told = {"process": f"worker-{home}"} if how in ("kill", "hang") else {"connection_id": home}
    found: list[dict[str, Any]] = [{"event": NOTICED[how], "timestamp": at(since + 5), **told}]
    if carrier != home:
        request = {"action": "failover", "by": "failover", "result": "done"}
        found.append({"event": "request", "timestamp": at(since + 7), **request})
    found.append({"event": "connected", "timestamp": at(since + 10), "connection_id": carrier})
    gap = {"from": at(since - 2), "to": at(since + 20), "cause": CAUSES[how], "instruments": list(HOMES[home])}
    found.append({"event": "gap", "timestamp": at(since + 21), "connection_id": home, **gap})
    return found


@pytest.mark.parametrize("home", [1, 2])
@pytest.mark.parametrize("how", HOWS)
def test_each_step_is_from_the_one_before(how: str, home: int):
    """Where a connection comes back by itself nobody decides."""
    carrier = 3 if how in ("kill", "hang") else home
    found = phases(failure(how, home, carrier), events(how, home, carrier))
    decided = 2.0 if carrier == 3 else 0.0
    assert found == Phases(5.0, decided, 5.0 - decided, 10.0, 5.0, 25.0, 22.0, 1000.0)


@given(st.lists(st.floats(0, 10_000), min_size=5, max_size=5).map(sorted))
def test_the_steps_add_up(moments: list[float]):
    """To the whole time from the failure until the tick was in the file."""
    logged = events()
    for event, moment in zip(logged, moments, strict=False):
        event["timestamp"] = at(moment)
    seen = Failure("kill", 1, at_ns(0), 3, at_ns(moments[3]), at_ns(moments[4]), at_ns(20_000))
    found = phases(seen, logged)
    steps = found.noticed_ms + found.decided_ms + found.connected_ms + found.received_ms + found.written_ms
    assert steps == pytest.approx(found.total_ms, abs=1e-6)


def test_events_of_other_failures_do_not_count():
    """Neither what was before, nor what came when all were well again, nor what others did."""
    noise: list[dict[str, Any]] = [
        {"event": "process_died", "timestamp": at(-1), "process": "worker-1"},
        {"event": "process_died", "timestamp": at(1), "process": "writer"},
        {"event": "connected", "timestamp": at(2), "connection_id": 1},
        {"event": "request", "timestamp": at(3), "action": "failback", "by": "failover", "result": "done"},
    ]
    later = events(since=2000)
    assert phases(failure(), [*noise, *events(), *later]) == phases(failure(), events())


@pytest.mark.parametrize("left_out", ["process_died", "request", "connected"])
def test_a_step_without_its_event_is_no_figure(left_out: str):
    """It says which one is missing, of which failure."""
    logged = [event for event in events() if event["event"] != left_out]
    with pytest.raises(AssertionError, match=f"the kill of connection 1 the event log has no .*{left_out}"):
        phases(failure(), logged)


def test_each_failure_needs_its_gap_record_and_no_other_may_be():
    """Of its connection, with its cause, and all its instruments, be it in one record or in several."""
    failures = [failure("kill", 1), failure("abort", 2, 2, since=2000, to=3000)]
    first, second = events("kill", 1), events("abort", 2, 2, since=2000)
    require_gaps(failures, first + second)
    with pytest.raises(AssertionError, match=r"failure 2, abort of connection 2: gap records with the causes \[\]"):
        require_gaps(failures, first + second[:-1])
    with pytest.raises(AssertionError, match="1 gaps are on record that no failure explains"):
        require_gaps(failures[:1], first + second)

    gap = first.pop()
    with pytest.raises(AssertionError, match=r"failure 1, .* causes \['silent'\]"):
        require_gaps(failures, [*first, gap | {"cause": "silent"}, *second])
    with pytest.raises(AssertionError, match="a gap record of 3 instruments"):
        require_gaps(failures, [*first, gap | {"instruments": gap["instruments"][:3]}, *second])
    halves = [gap | {"instruments": gap["instruments"][start::2]} for start in (0, 1)]
    require_gaps(failures, [*first, *halves, *second])
    assert len(gaps_of(failures[0], [*first, *halves, *second])) == 2


@given(
    kills=st.integers(1, failover.KILLS_MAX),
    how=st.sampled_from([*HOWS, "mixed"]),
    connection=st.sampled_from(["1", "2", "both"]),
)
def test_what_is_planned_is_what_was_asked_for(kills: int, how: str, connection: str):
    """So many failures, of both connections and of all kinds about as often."""
    found = planned(kills, how, connection)
    assert len(found) == kills
    assert {each for each, _ in found} <= ({*HOWS} if how == "mixed" else {how})
    assert {home for _, home in found} <= ({1, 2} if connection == "both" else {int(connection)})
    times = [found.count(each) for each in set(planned(100, how, connection))]
    assert max(times) - min(times) <= 1


def test_what_is_shown_has_all_steps():
    """As tables and as JSON; one failure is enough."""
    some = [phases(failure(), events())]
    shown = spreads(some)
    assert shown["total_ms"] == {"count": 1, "p50": 25.0, "p90": 25.0, "p99": 25.0, "max": 25.0, "values": [25.0]}
    (_, rows), (_, drawn) = tables("kill", some)
    assert len(rows) == len(shown) == 8
    assert [(row[0], row[1]) for row in drawn] == [("25 to 25", "1")]
