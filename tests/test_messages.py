"""What the command of [notify] is told: views and notices in, messages out; their queue and their budget."""

from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import CONNECTIONS
from pipeline.status import ConnectionStatus, HealthResponse, Notice
from pipeline.supervisor.messages import START_S, TOGETHER_S, Budget, Messages, Waiting
from tests.builders import partly

SUBSCRIBED = 10
LOOK_S = 0.1
STATES = ("healthy", "degraded", "down")

statuses_ = st.sampled_from(STATES)
gaps_ = st.fixed_dictionaries({}, optional={c: st.sampled_from([0, 1, 3]) for c in CONNECTIONS})


class Service:
    """What is handed in, look by look."""

    def __init__(self):
        self.messages = Messages()
        self.now_s = 100.0
        self.numbers = count(1)

    def look(self, status="healthy", gaps=None, *, states=None, subscribed=SUBSCRIBED, after_s=LOOK_S):
        self.now_s += after_s
        health = partly(
            HealthResponse,
            status=status,
            reasons=[] if status == "healthy" else [f"it is {status}"],
            timestamp=self.time,
            total_subscribed_instruments=subscribed,
        )
        connections = {
            str(c): partly(
                ConnectionStatus, connection_id=c, state=(states or {}).get(c, "live"), reason="why" if states else ""
            )
            for c in CONNECTIONS
        }
        return self.messages.look(health, connections, gaps or {}, self.now_s)

    def hear(self, event, source="worker-1", **details):
        notice = Notice(
            number=next(self.numbers), timestamp=self.time, event=event, source=source, text="", details=details
        )
        return self.messages.hear(notice, self.now_s)

    def refuse(self, connection_id, retry_in_s=None):
        fields = {"cause": "refused", "reason": "HTTP 403", "http_status": 403, "retry_in_s": retry_in_s}
        assert self.hear("not_connected", f"worker-{connection_id}", **fields) == []

    @property
    def time(self):
        return f"time {self.now_s:.1f}"


@pytest.fixture
def service():
    return Service()


# Health.


def test_health_is_told_when_it_changes(service):
    """Each change once, with what it was, the reasons and the time."""
    assert service.look() == []
    assert service.look("down") == [
        {"event": "health", "status": "down", "was": "healthy", "reasons": ["it is down"], "timestamp": service.time}
    ]
    assert service.look("down") == []
    (message,) = service.look()
    assert (message["status"], message["was"], message["reasons"]) == ("healthy", "down", [])


@pytest.mark.parametrize("status", ["degraded", "down"])
def test_a_start_that_goes_well_is_nothing_to_tell(service, status):
    """What is not healthy yet is told when it takes too long."""
    assert service.look(status) == []
    assert service.look(status, after_s=START_S - 0.1) == []
    assert service.look() == []
    late = Service()
    late.look(status)
    (message,) = late.look(status, after_s=START_S)
    assert (message["status"], message["was"]) == (status, "starting")
    assert [m["was"] for m in late.look()] == [status]


@given(st.lists(statuses_))
def test_every_change_of_health_is_told_once(statuses):
    """Whatever health does after the start, the messages are its changes, one after the other."""
    service = Service()
    service.look()
    told = [(m["was"], m["status"]) for status in statuses for m in service.look(status)]
    assert told == [pair for pair in pairwise(["healthy", *statuses]) if pair[0] != pair[1]]


# Gaps.


def test_a_gap_is_told_when_it_opens_and_when_it_is_on_record(service):
    """By sight with the state of the connection and its reason, and by its record with its times and cause."""
    service.look()
    assert service.look(gaps={1: 3, 2: 0}, states={1: "down", 2: "live", 3: "standby"}) == [
        {
            "event": "gap_opened",
            "connection_id": 1,
            "instruments": 3,
            "reason": "down: why",
            "timestamp": service.time,
        }
    ]
    assert service.look(gaps={1: 2}) == []
    fields = {"instruments": 3, "from": "a", "to": "b", "cause": "killed"}
    assert service.hear("gap", gap_epoch=7, **fields) == [
        {"event": "gap_closed", "connection_id": 1, **fields, "timestamp": service.time}
    ]
    assert service.look() == []
    assert [m["reason"] for m in service.look(gaps={1: 1})] == ["live"]


def test_what_is_new_is_not_missed_at_once(service):
    """At the start, and where instruments are added: a connection has some time until it should record them."""
    assert service.look(gaps={1: 6, 2: 4}) == []
    assert service.look(gaps={2: 4}) == []
    assert service.look(gaps={2: 4}, after_s=START_S - 2 * LOOK_S) == []
    assert [m["connection_id"] for m in service.look(gaps={2: 4}, after_s=2 * LOOK_S)] == [2]
    assert service.look() == []
    assert service.look(gaps={3: 5}, subscribed=SUBSCRIBED + 5) == []
    assert service.look(subscribed=SUBSCRIBED + 5) == []


def test_a_gap_that_moves_on_to_the_spare_is_the_same(service):
    """The spare is to record what connection 1 no longer can, and is not live yet; it is told if that takes long."""
    service.look()
    assert [m["connection_id"] for m in service.look(gaps={1: 3})] == [1]
    assert service.look(gaps={1: 0, 3: 3}) == []
    assert [m["connection_id"] for m in service.look(gaps={3: 3}, after_s=START_S)] == [3]
    assert service.look() == []
    assert [m["connection_id"] for m in service.look(gaps={3: 3})] == [3]


@given(st.lists(st.tuples(gaps_, st.sampled_from([LOOK_S, LOOK_S, START_S / 2]))))
def test_gaps_are_told_once_and_in_time(looks):
    """None is told twice while it lasts or where nothing is missed; all are that cost something, or last."""
    service = Service()
    service.look()
    before: dict[int, int] = {}
    since: dict[int, float] = {}
    told: set[int] = set()
    for gaps, after_s in looks:
        found = {m["connection_id"]: m["instruments"] for m in service.look(gaps=gaps, after_s=after_s)}
        missing = {c: n for c, n in gaps.items() if n}
        since = {c: since.get(c, service.now_s) for c in missing}
        told &= missing.keys()
        assert found.items() <= missing.items()
        assert not told & found.keys()
        told |= found.keys()
        grows = sum(missing.values()) > sum(before.values())
        assert not grows or missing.keys() - before.keys() <= told
        assert {c for c, since_s in since.items() if service.now_s - since_s >= START_S} <= told
        before = missing


# Refused tokens.


def together(service):
    """Look when what belongs together has come together."""
    return [m["connection_ids"] for m in service.look(after_s=TOGETHER_S)]


def test_a_refused_token_is_told_once_for_all_connections(service):
    """With the connections that were refused together; a later one has nothing new to tell, until one connects."""
    service.look()
    service.refuse(2)
    time = service.time
    assert service.look(after_s=TOGETHER_S / 2) == []
    service.refuse(1)
    (message,) = service.look(after_s=TOGETHER_S / 2)
    assert message == {
        "event": "token_refused",
        "connection_ids": [1, 2],
        "reason": "HTTP 403",
        "timestamp": time,
    }
    service.refuse(3)
    assert together(service) == []
    for connection_id in CONNECTIONS:
        service.hear("connected", f"worker-{connection_id}")
    service.refuse(3)
    assert together(service) == [[3]]


def test_each_new_token_that_is_refused_is_told(service):
    """Also where it was stored while others were refused: who was not to try again has tried another one."""
    service.look()
    for _ in range(3):
        service.refuse(1)
        service.refuse(1)
        service.refuse(2)
        assert together(service) == [[1, 2]]
    service.refuse(2)
    assert together(service) == [[2]]
    service.refuse(1)  # later than together, and no news either: it is the token that 2 was refused with
    assert together(service) == []


def test_tries_with_the_same_token_are_no_news(service):
    """A refusal that may pass is tried again now and then: told at first, and when it turns out to be for good."""
    service.look()
    service.refuse(1, retry_in_s=60.0)
    assert together(service) == [[1]]
    for _ in range(3):
        service.refuse(1, retry_in_s=60.0)
        assert together(service) == []
    service.refuse(2)
    assert together(service) == [[2]]
    service.refuse(1)
    assert together(service) == []


def test_who_needs_no_token_any_more_is_forgotten(service):
    """A connection that has gone idle says nothing about the token that the others try later."""
    service.look()
    service.refuse(1)
    assert together(service) == [[1]]
    service.look(states={1: "idle"})
    service.refuse(2)
    assert together(service) == [[2]]


# Notices as such.

values_ = st.sampled_from([None, 0, 7, "", "text"])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["gap", "not_connected", "disconnected", "connected", "health", "unheard of"]),
            st.sampled_from(["worker-1", "worker-3", "supervisor", "writer", "?"]),
            st.dictionaries(st.sampled_from(["instruments", "from", "http_status", "retry_in_s"]), values_),
            st.booleans(),
        )
    )
)
def test_no_notice_is_too_strange(notices):
    """Each gap is told, whatever it lacks, and nothing raises."""
    service = Service()
    for event, source, details, is_403 in notices:
        told = service.hear(event, source, **details | ({"http_status": 403} if is_403 else {}))
        assert [m["event"] for m in told] == (["gap_closed"] if event == "gap" else [])
        service.look()


# The queue.

kinds_ = st.sampled_from(["health", "gap_opened", "gap_closed", "gap_closed", "token_refused"])


@given(st.integers(1, 4), st.lists(kinds_ | st.none()))
def test_what_waits(limit, steps):
    """In order, in bounds, nothing uncounted, and of health both ends; None: the first one is taken."""
    waiting = Waiting(limit)
    added, taken = [], []
    for number, kind in enumerate(steps):
        if kind:
            added.append({"event": kind, "number": number})
            waiting.add(added[-1])
        elif waiting:
            taken.append(waiting.take())
        kept = [m["event"] for m in waiting._messages]
        assert sum(event.startswith("gap_") for event in kept) <= limit
        assert max(kept.count("health"), kept.count("token_refused")) <= 2
    while waiting:
        taken.append(waiting.take())
    numbers = [m["number"] for m in taken]
    assert numbers == sorted(numbers)
    assert sum(m["suppressed"] for m in taken) + len(taken) == len(added)
    for kind in ("health", "token_refused"):
        told, happened = ([m["number"] for m in them if m["event"] == kind] for them in (taken, added))
        assert (told[:1], told[-1:]) == (happened[:1], happened[-1:])


def test_a_burst_is_thinned_out():
    """The latest gaps stay, health is told as it was at first and at last."""
    waiting = Waiting(3)
    for number in range(1000):
        waiting.add({"event": "gap_closed", "number": number})
        waiting.add({"event": "health", "number": number})
    taken = [waiting.take() for _ in range(len(waiting))]
    assert [(m["event"], m["number"], m["suppressed"]) for m in taken] == [
        ("health", 0, 1995),
        ("gap_closed", 997, 0),
        ("gap_closed", 998, 0),
        ("gap_closed", 999, 0),
        ("health", 999, 0),
    ]


# The budget.


@given(st.integers(1, 5), st.lists(st.integers(0, 40)))
def test_a_budget_is_kept_and_used(per_minute, pauses_s):
    """Never more within a minute, and never a wait where there were fewer; who waits as told may."""
    budget = Budget(per_minute)
    spent: list[int] = []
    now_s = 1000
    for pause_s in pauses_s:
        now_s += pause_s
        wait_s = budget.wait_s(now_s)
        assert (wait_s == 0) == (sum(s > now_s - 60 for s in spent) < per_minute)
        assert 0 <= wait_s <= 60
        assert budget.wait_s(now_s + wait_s) == 0
        if wait_s == 0:
            spent.append(now_s)
            budget.spend(now_s)
    assert all(sum(start <= s < start + 60 for s in spent) <= per_minute for start in spent)
