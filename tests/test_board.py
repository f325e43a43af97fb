"""What is known of the service: messages in, models out."""

import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest

from pipeline.config import Config, Market
from pipeline.market import Almanac, Hours
from pipeline.requests import FindParams
from pipeline.status import InstrumentPage, Status
from pipeline.supervisor.board import OPENING_S, Board
from pipeline.supervisor.children import Child
from pipeline.supervisor.health import LAG_TICKS
from pipeline.supervisor.policy import Restarts
from pipeline.supervisor.rates import STALE_S
from pipeline.supervisor.reports import RATE_S
from pipeline.supervisor.subscriptions import Subscriptions
from pipeline.supervisor.view import ROLES_SHOWN, View
from pipeline.wire import Commit, Mark, StreamId

T0 = datetime.fromisoformat("2025-10-01T09:15:00+05:30")
PIDS = {"writer": 10, "worker-1": 11, "worker-2": 12, "worker-3": 13}


class Service:
    """A board with its surroundings: children that run, and a time that a test moves."""

    def __init__(self, primary: Iterable[int] = (1, 2), secondary: Iterable[int] = (3,)) -> None:
        self.now_s = 100.0
        self.offset_s = 0.0  # by which the clock was set
        self.children = {
            name: Child(name, (), Restarts(is_writer=name == "writer"), "running", pid=pid)
            for name, pid in PIDS.items()
        }
        self.subscriptions = Subscriptions(3)
        now = self.clock().isoformat(timespec="microseconds")
        self.subscriptions.take(primary, "quote", now)
        self.subscriptions.take(secondary, "full", now)
        self.board = Board(Config(), self.subscriptions, self.clock, self.now_s)

    def clock(self) -> datetime:
        return T0 + timedelta(seconds=self.now_s - 100.0 + self.offset_s)

    def worker(self, connection_id: Any, **fields: Any) -> None:
        message = {
            "type": "status",
            "role": f"worker-{connection_id}",
            "pid": self.children[f"worker-{connection_id}"].pid,
            "connection_id": connection_id,
            "version": "v",
            "state": "live" if connection_id < 3 else "idle",
            "reason": "",
            "epoch": 1,
            "previous_epoch": None,
            "previous_last_seq": None,
            "wanted": 2,
            "confirmed": 2,
            "ticks_received": 0,
            "spooled": [],
            "spool_bytes": 0,
            "ticks_refused": 0,
            "rejects": 0,
            "reconnects": 0,
            "gaps": 0,
            "lag_ms": 0.0,
            "queue_depth": 0,
            "gap_open": False,
            "last_tick_time": None,
            "tick_age_s": None,
            "live_since": T0.isoformat(),
        }
        self.board.hear(message | fields, self.now_s)

    def digest(self, connection_id: Any, *ticks: Any) -> None:
        name = f"worker-{connection_id}"
        message = {"type": "digest", "role": name, "pid": PIDS[name], "connection_id": connection_id, "ticks": ticks}
        self.board.hear(message, self.now_s)

    def writer(self, **fields: Any) -> None:
        message = {
            "type": "status",
            "role": "writer",
            "pid": self.children["writer"].pid,
            "state": "recording",
            "reason": "",
            "bytes_written": 0,
            "commits": 0,
            "commit_ms": 1.5,
            "commit_ms_max": 2.5,
            "commit_us": 0,
            "commit_bounds_s": [0.01, 0.1],
            "commit_counts": [0, 0, 0],
            "syncing_since_s": None,
            "syncs_failed": 0,
            "batches_refused": 0,
            "free_bytes": 2**40,
        }
        self.board.hear(message | fields, self.now_s)

    def all_is_well(self, **fields: Any) -> None:
        for connection_id in (1, 2, 3):
            self.worker(connection_id, **fields)
        self.writer()

    def status(self) -> Status:
        status = View(self.board, self.children, 9, self.now_s).status
        return Status.model_validate_json(orjson.dumps(status, default=lambda model: model.model_dump()))


def test_before_anyone_has_spoken():
    """A service that has just begun is starting, counts nothing, and says what is missing."""
    status = Service().status()
    assert [status.connections[c].state for c in "123"] == ["starting"] * 3
    assert status.health.status == "down"
    assert status.health.reasons == [
        "connection 1 (primary) is starting: 2 instruments uncovered",
        "connection 2 (secondary) is starting: 1 instruments uncovered",
        "the writer is starting",
    ]
    assert status.storage.state == "starting"
    assert status.metrics.total_ticks_received == 0
    assert status.metrics.average_tick_rate == 0
    assert not status.health.data_fresh
    assert tuple(status.processes) == ROLES_SHOWN


def test_all_is_well():
    """With every connection live and the writer recording there is nothing to complain about."""
    service = Service()
    service.all_is_well(last_tick_time=T0.isoformat(), tick_age_s=0.0)
    status = service.status()
    assert status.health.status == "healthy"
    assert status.health.reasons == []
    assert status.health.active_connections == 2
    assert status.health.total_subscribed_instruments == 3
    assert status.health.kite_connected
    assert status.health.data_fresh
    first, second, third = (status.connections[c] for c in "123")
    assert (first.role, first.mode, first.state, first.active) == ("primary", "quote", "live", True)
    assert (second.role, second.mode) == ("secondary", "full")
    assert (third.role, third.state, third.active) == ("tertiary", "standby", False)
    assert (first.subscribed_instruments, first.capacity_remaining, first.pid) == (2, 2998, 11)
    assert first.start_time == T0.isoformat()
    assert third.start_time is None


HISTORIES = {
    "a worker has died": (
        lambda s: setattr(s.children["worker-1"], "state", "restarting"),
        "down",
        [
            "connection 1 (primary) is down, its process is not running: 2 instruments uncovered",
            "worker-1 is restarting",
        ],
    ),
    "a worker is new": (
        lambda s: setattr(s.children["worker-1"], "pid", 99),
        "down",
        ["connection 1 (primary) is starting: 2 instruments uncovered"],
    ),
    "Kite refuses": (
        lambda s: s.worker(2, state="unauthorised", reason="HTTP 403"),
        "down",
        ["connection 2 (secondary) is unauthorised, HTTP 403: 1 instruments uncovered"],
    ),
    "the spare has died": (
        lambda s: setattr(s.children["worker-3"], "state", "restarting"),
        "degraded",
        ["worker-3 is restarting"],
    ),
    "the writer is paused": (
        lambda s: s.writer(state="paused", reason="the disk is full"),
        "down",
        ["the writer is not storing: the disk is full"],
    ),
    "the writer has died": (
        lambda s: setattr(s.children["writer"], "state", "restarting"),
        "down",
        ["the writer is stopped", "writer is restarting"],
    ),
    "the writer is new": (lambda s: setattr(s.children["writer"], "pid", 99), "down", ["the writer is starting"]),
    "the writer is behind": (
        lambda s: s.worker(1, spooled=[(1, LAG_TICKS + 1, LAG_TICKS + 1)]),
        "degraded",
        [f"{LAG_TICKS + 1:,} ticks are received and not yet durable, the oldest for 0.0 s"],
    ),
}


@pytest.mark.parametrize(("what", "word", "reasons"), HISTORIES.values(), ids=HISTORIES.keys())
def test_health_says_why(what, word, reasons):
    """Each trouble is named in words, with the connection or process that has it."""
    service = Service()
    service.all_is_well()
    what(service)
    health = service.status().health
    assert (health.status, health.reasons) == (word, reasons)


def test_health_says_how_much_in_figures():
    """How many instruments nobody records, which connection has failed over, and when the token dies."""
    service = Service()
    service.all_is_well()
    health = service.status().health
    assert (health.uncovered, health.failed_over, health.quiet_s, health.token_expires) == ({}, [], {}, None)
    service.worker(1, state="down", reason="HTTP 503")
    assert service.status().health.uncovered == {"1": 2}
    service.subscriptions.failover(1)
    service.board.token_expires = T0
    health = service.status().health
    assert (health.uncovered, health.failed_over, health.token_expires) == ({"3": 2}, [1], T0.isoformat())


def test_a_disk_that_does_not_answer_is_told():
    """While the writer waits for it nothing is committed; a sync that takes a moment is nothing to tell."""
    service = Service()
    service.all_is_well()
    service.writer(syncing_since_s=STALE_S - 0.1)
    assert service.status().health.status == "healthy"
    service.writer(syncing_since_s=12.4)
    health = service.status().health
    assert (health.status, len(health.reasons)) == ("down", 1)
    assert health.reasons[0].endswith("has not answered for 12 s: nothing is committed")


def test_silence_is_noticed():
    """A process that runs and says nothing is not taken at its last word."""
    service = Service()
    service.all_is_well()
    service.now_s += STALE_S + 0.1
    service.worker(2)
    status = service.status()
    assert not status.connections["1"].active
    assert status.health.reasons == [
        "connection 1 (primary) is down, its process does not answer: 2 instruments uncovered",
        "the writer does not answer",
        "there is no spare: connection 3 (tertiary) is down, its process does not answer",
    ]


def test_an_empty_connection_is_no_trouble():
    """Nothing subscribed, nothing uncovered."""
    service = Service(primary=(), secondary=())
    service.all_is_well(state="idle")
    status = service.status()
    assert status.health.status == "healthy"
    assert not status.health.kite_connected
    assert status.connections["1"].state == "idle"


def test_fewer_connections_are_off():
    """A connection without a process is off, and nobody waits for it."""
    service = Service()
    service.all_is_well()
    del service.children["worker-3"]
    status = service.status()
    assert status.connections["3"].state == "off"
    assert status.connections["3"].pid is None
    assert status.processes["worker-3"].state == "off"
    assert status.health.status == "healthy"


def test_counts_go_on_over_new_epochs():
    """Each start of a worker counts from zero; the service's count does not."""
    service = Service()
    for epoch, pid, counts in ((1, 11, (0, 40, 100)), (2, 21, (0, 5)), (3, 31, (7,))):
        service.children["worker-1"].pid = pid
        for count in counts:
            service.worker(1, epoch=epoch, ticks_received=count)
    assert service.status().connections["1"].tick_count == 112
    assert service.status().connections["1"].epoch == 3
    assert service.status().metrics.ticks_by_connection == {"1": 112, "2": 0, "3": 0}


def test_a_new_epoch_tells_how_far_the_killed_one_had_come():
    """Ticks that a worker spooled after its last words are counted too: its successor found them in the spool."""
    service = Service()
    service.worker(1, epoch=1, ticks_received=100)
    service.worker(1, epoch=2, ticks_received=5, previous_epoch=1, previous_last_seq=130)
    assert service.status().connections["1"].tick_count == 135


def test_stored_is_what_has_become_durable_since_the_start():
    """Counted from commits, whichever writer they are of: all of the epochs heard of, of older ones what was left."""
    service = Service()
    old, new, events = StreamId(1, 5), StreamId(1, 7), StreamId(0, 6)
    for boot, reached in (("a", {old: 40, events: 9}), ("a", {old: 43, new: 10}), ("b", {new: 64})):
        marks = {stream: Mark(seq, seq) for stream, seq in reached.items()}
        service.board.hear_commit(Commit(boot, durable=marks, accepted=marks), service.now_s)
    service.worker(1, epoch=new.epoch, ticks_received=70, spooled=[(new.epoch, 70, 6)])
    assert service.status().storage.ticks_stored == 67
    assert service.status().metrics.total_ticks_stored == 67
    assert service.board.totals() == (70, 67, 6)
    assert not service.board.all_stored
    service.board.hear_commit(Commit("b", durable={new: Mark(70, 1)}, accepted={}), service.now_s)
    assert service.board.all_stored


def test_rates():
    """A rate is that of the last ten seconds, over restarts too, and zero when nobody speaks."""
    service = Service()
    service.worker(1, ticks_received=0)
    assert service.status().connections["1"].tick_rate == 0.0
    for second in range(1, 21):
        service.now_s += 1
        service.worker(1, ticks_received=1000 * second if second <= 10 else 10_000 + 500 * (second - 10))
    assert service.status().connections["1"].tick_rate == 500.0
    assert service.status().health.ticks_per_second == 500.0
    service.now_s += 1
    service.worker(1, epoch=2, ticks_received=500)
    assert service.status().connections["1"].tick_rate == 500.0
    service.now_s += RATE_S + 1
    assert service.status().connections["1"].tick_rate == 0.0


def test_instruments():
    """Each subscribed instrument has its count, price and time, those that never ticked have none."""
    service = Service()
    service.digest(1, (1, 3, 100.5, "2025-10-01T09:15:01+05:30"), (2, 1, 7.0, "2025-10-01T09:15:01+05:30"))
    service.digest(1, (1, 2, 101.5, "2025-10-01T09:15:02+05:30"))
    found = {i.instrument_token: i for i in service.status().instruments}
    assert list(found) == [1, 2, 3]
    assert (found[1].tick_count, found[1].last_price, found[1].last_tick_time) == (
        5,
        101.5,
        "2025-10-01T09:15:02+05:30",
    )
    assert (found[3].tick_count, found[3].last_price, found[3].last_tick_time) == (0, None, None)
    assert (found[3].connection_id, found[3].mode) == (2, "full")


def test_instruments_are_found():
    """By connection, mode, staleness and a part of the token, all at once; what is mirrored is on two connections."""
    service = Service()
    service.digest(1, (1, 3, 100.5, T0.isoformat()))
    service.now_s += 61
    service.digest(2, (3, 1, 7.0, service.clock().isoformat()))
    service.subscriptions.mirror(True)
    service.subscriptions._on_wire[3] = {2: "quote"}
    for wanted, tokens in (
        ({}, [1, 2, 3]),
        ({"mode": "full"}, [3]),
        ({"connection_id": 1}, [1, 2]),
        ({"connection_id": 3}, [2]),
        ({"connection_id": 3, "mode": "full"}, []),
        ({"stale": True}, [1, 2]),
        ({"stale": True, "stale_s": 62}, [2]),
        ({"stale": False}, [3]),
        ({"search": "1"}, [1]),
        ({"offset": 1, "limit": 1}, [2]),
    ):
        page = InstrumentPage.model_validate(service.board.rows.find(FindParams.model_validate(wanted)))
        assert [instrument.instrument_token for instrument in page.instruments] == tokens
        assert page.total == (3 if "offset" in wanted else len(tokens))


def test_the_latest_tick_outlives_its_worker():
    """A new epoch without a tick yet does not make the last tick's time unknown."""
    service = Service()
    service.worker(1, last_tick_time=T0.isoformat(), tick_age_s=0.0)
    service.worker(1, epoch=2, last_tick_time=None)
    assert service.status().connections["1"].last_tick_time == T0.isoformat()
    assert service.status().health.data_fresh
    service.now_s += 6
    assert not service.status().health.data_fresh


def test_a_full_universe_is_answered(record_property):
    """6,000 instruments are one answer; how long it takes is on record, in milliseconds."""
    service = Service(primary=range(1, 3001), secondary=range(3001, 6001))
    service.all_is_well()
    for connection_id, first in ((1, 1), (2, 3001)):
        service.digest(connection_id, *((t, 1, 1.5, T0.isoformat()) for t in range(first, first + 3000)))
    began_s = time.perf_counter()
    answer = service.status().model_dump()
    record_property("status_ms", round((time.perf_counter() - began_s) * 1000, 2))
    assert len(answer["instruments"]) == 6000
    assert answer["health"]["total_subscribed_instruments"] == 6000


def test_the_last_minutes_of_workers_that_are_adopted():
    """What they have counted before this supervisor began is no tick of its first second."""
    service = Service()
    service.board.sample(service.now_s)
    for count in (50_000, 51_000):
        service.now_s += 1
        service.worker(1, ticks_received=count)
        service.board.sample(service.now_s)
    assert service.board.series().ticks_per_second == {"1": [0.0, 1000.0], "2": [0.0, 0.0], "3": [0.0, 0.0]}


def test_what_the_writer_has_waits_no_more():
    """A worker that has died says nothing of it any more, and its successor does not know before it hears a commit."""
    service = Service()
    service.all_is_well()
    service.worker(1, ticks_received=100, lag_ms=50.0, spooled=[(1, 100, 20)])
    service.board.hear_commit(Commit("a", durable={StreamId(1, 1): Mark(100, 0)}, accepted={}), service.now_s + 0.4)
    assert service.status().connections["1"].ticks_pending == 20, "others may have come since"
    assert service.status().connections["1"].lag_ms == 50.0
    service.children["worker-1"].state = "restarting"
    service.now_s += 20
    service.board.hear_commit(Commit("a", durable={StreamId(1, 1): Mark(90, 0)}, accepted={}), service.now_s)
    assert service.status().connections["1"].ticks_pending == 10
    assert service.status().connections["1"].lag_ms > 10_000
    service.board.hear_commit(Commit("a", durable={StreamId(1, 1): Mark(100, 0)}, accepted={}), service.now_s)
    assert (service.status().connections["1"].ticks_pending, service.status().metrics.lag_ms) == (0, 0.0)
    service.children["worker-1"].state = "running"
    service.children["worker-1"].pid = 21
    service.worker(1, epoch=2, spooled=[(2, 5, 5), (1, 100, 100)])
    assert service.status().metrics.total_ticks_pending == 5
    assert not any("not yet durable" in reason for reason in service.status().health.reasons)


def test_what_adopted_workers_have_counted_before_is_no_rate():
    """The average is over what came since this supervisor began, as the time is."""
    service = Service()
    service.now_s -= 2  # said while nobody listened
    for count in (998_000, 999_000, 1_000_000, 1_001_000, 1_002_000):
        service.worker(1, ticks_received=count)
        service.now_s += 1
    assert service.status().metrics.total_ticks_received == 1_002_000
    assert service.status().metrics.average_tick_rate == pytest.approx(2000 / 3, abs=0.1)


def test_the_clock_of_the_machine_does_not_matter():
    """Set back or forward, it changes no age and no uptime: a feed that has stopped does not look fresh."""
    service = Service()
    for offset_s in (-3600, 3600):
        service.worker(1, last_tick_time=service.clock().isoformat(), tick_age_s=0.5)
        before = service.status().health
        service.offset_s = offset_s
        service.now_s += 7
        after = service.status().health
        assert after.tick_age_s == 7.5
        assert not after.data_fresh
        assert after.uptime_seconds == before.uptime_seconds + 7
        assert service.status().connections["1"].tick_age_s == 7.5


def test_what_a_dead_worker_should_record_is_being_missed():
    """Nothing comes from it any more, and unless others have its instruments a gap is open."""
    service = Service()
    for count in range(0, 5000, 500):
        service.worker(1, ticks_received=count)
        service.now_s += 0.5
    assert not service.status().connections["1"].gap_open
    assert service.status().connections["1"].tick_rate_1s == 1000.0
    service.children["worker-1"].state = "restarting"
    service.now_s += 1.5
    connection = service.status().connections["1"]
    assert connection.gap_open
    assert connection.tick_rate_1s == 0.0
    assert 0 < connection.tick_rate < 1000


# Market hours.


def with_hours(service: Service, **settings: Any) -> Service:
    """Let the service know its hours: trading from 09:15 to 15:30 on each weekday."""
    almanac = Almanac({}, T0.date(), T0.date() - timedelta(days=1))
    service.board.hours = Hours(Market(**settings), ZoneInfo("Asia/Kolkata"), almanac)
    return service


def test_a_closed_market_has_no_ticks():
    """Nothing is stale then, and it is said until when."""
    service = with_hours(Service(primary=[1 << 8 | 1], secondary=[]))
    service.offset_s = 8 * 3600.0
    service.all_is_well()
    service.now_s += 3600
    service.all_is_well()
    health = service.status().health
    assert (health.status, health.data_fresh, health.market) == ("healthy", True, "closed")
    assert health.market_until == "2025-10-02T09:15:00+05:30"


def test_what_is_subscribed_decides():
    """A commodity trades in the evening."""
    service = with_hours(Service(primary=[1 << 8 | 1, 1 << 8 | 7]))
    service.offset_s = 8 * 3600.0
    assert (service.status().health.market, service.status().health.data_fresh) == ("open", False)


def test_a_live_connection_without_ticks():
    """In an open market it is named, when it has been so for long enough; the other one is not to blame."""
    service = with_hours(Service(primary=[1 << 8 | 1], secondary=[2 << 8 | 1]))
    service.all_is_well()
    for _ in range(6):
        service.now_s += 10
        service.all_is_well()
        service.worker(2, tick_age_s=0.0, last_tick_time=T0.isoformat())
        before = service.status().health.status if service.now_s < 160 else "healthy"
        assert before == "healthy"
    health = service.status().health
    assert (health.status, health.reasons) == (
        "degraded",
        ["connection 1 is live and has had no tick for 60 s, though the market is open"],
    )
    assert health.quiet_s == {"1": 60.0}


@pytest.mark.parametrize(
    ("settings", "offset_s", "changes"),
    [
        ({"stale_s": 0}, 0, {}),
        ({}, 8 * 3600, {}),  # in the evening
        ({}, -120, {}),  # it opens within this time
        ({}, 0, {"tick_age_s": 5.0}),
        ({}, 0, {"live_since": "lately"}),
        ({}, 0, {"confirmed": 1}),
        ({}, 0, {"epoch": 2}),
        ({}, 0, {"state": "connecting"}),
    ],
)
def test_no_reason_to_miss_ticks(settings, offset_s, changes):
    """Nobody asks, the market is closed or has just opened, or the connection is live, or has these, only since."""
    service = with_hours(Service(primary=[1 << 8 | 1], secondary=[]), **settings)
    service.board._config = Config(market=Market(**settings))
    service.offset_s = float(offset_s)
    service.all_is_well()
    service.now_s += 150
    service.all_is_well()
    service.worker(1, **changes)
    assert "no tick" not in str(service.status().health.reasons)


def test_while_the_clock_has_connections_closed():
    """That they are is no fault, even of one whose process is gone; it is said until when."""
    service = with_hours(Service())
    service.all_is_well(state="idle")
    service.subscriptions.rest(on=True)
    service.board.resting = "connections are closed until Thu 08:55"
    service.children["worker-2"].state, service.children["worker-2"].pid = "restarting", None
    status = service.status()
    assert status.health.reasons == ["worker-2 is restarting"]
    assert (status.health.resting, status.connections["1"].reason) == (service.board.resting,) * 2
    assert [c.gap_open for c in status.connections.values()] == [False, False, False]
    assert status.connections["1"].subscribed_instruments == 2


def test_connections_that_have_just_been_opened():
    """They have a moment to be live; one that cannot connect is uncovered at once, and so are they after that."""
    service = with_hours(Service())
    service.all_is_well(state="connecting")
    service.board.opened_s = service.now_s
    assert service.status().health.status == "healthy"
    service.worker(1, state="down", reason="HTTP 503")
    assert service.status().health.reasons == ["connection 1 (primary) is down, HTTP 503: 2 instruments uncovered"]
    service.now_s += OPENING_S
    service.all_is_well(state="connecting")
    assert service.status().health.status == "down"
