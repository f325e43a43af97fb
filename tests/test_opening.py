"""Opening and closing by the clock: what is told to workers, and what they make of it after whatever has died."""

import asyncio
import time as time_module
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pipeline.config import CONNECTIONS, Config, Market, Storage
from pipeline.epoch import Predecessor
from pipeline.gaps import Gap, GapTracker
from pipeline.market import Almanac, Hours
from pipeline.supervisor import errand
from pipeline.supervisor.board import Board
from pipeline.supervisor.desk import Desk
from pipeline.supervisor.history import History
from pipeline.supervisor.opening import Opening
from pipeline.supervisor.orders import Orders
from pipeline.supervisor.saved import Saved, due, on_wire, relieved, restore, snapshot
from pipeline.supervisor.subscriptions import Subscriptions
from pipeline.wire import Mark, Order, decode_order

MONDAY = "2026-11-23"
SESSIONS = [
    (day, f"{day}T09:15:00+05:30", f"{day}T15:30:00+05:30") for day in ("2026-11-20", "2026-11-23", "2026-11-25")
]
ANSWER = {"sessions": SESSIONS, "known_from": "2026-11-13", "known_until": "2027-01-22"}
NOTHING = Predecessor("killed", 1, Mark(5, 1), 0)  # that ended without instruments
TOKENS = [0x101, 0x201]


def at(text, day=MONDAY):
    """Return a time of the exchange's clock."""
    return datetime.fromisoformat(f"{day}T{text}+05:30")


def ns(text, day=MONDAY):
    """Return the same as a receive time."""
    return round(at(text, day).timestamp()) * 10**9


def a_config(**market):
    """Return settings with a window."""
    usual = {"connect": time(8, 55), "disconnect": time(15, 35)}
    return Config(storage=Storage(timezone="Asia/Kolkata"), market=Market(**usual | market))


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    """Have a run folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()


class Run:
    """One run of a supervisor, as far as the clock concerns it, begun at this time."""

    def __init__(self, now, last: Saved | None = None, config=None, tokens=TOKENS):
        self.now = now
        self.config = config or a_config()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.orders: dict[int, list[Order]] = {c: [] for c in CONNECTIONS}
        self.subscriptions = Subscriptions(3)
        if last is not None:
            restore(self.subscriptions, last, {}, now.isoformat())
        else:
            self.subscriptions.take(tokens, "quote", now.isoformat())
        self.board = Board(self.config, self.subscriptions, lambda: self.now, 0.0)
        self._told = Orders(
            str(now),
            lambda c, data: self.orders[c].append(decode_order(data)),
            on_wire(last) if last else None,
            relieved(last) if last else None,
            due(last) if last else None,
        )
        self.desk = Desk(
            self.subscriptions,
            self._told,
            History(self.log),
            clock=now.isoformat,
            state=lambda _: ("idle", ""),
            save=self._save,
            tokens=lambda words: [word for word in words if isinstance(word, int)],
            listed=asyncio.Event(),
        )
        self.opening = Opening(
            self.config, self.subscriptions, self.board, self.desk, clock=lambda: self.now, log_event=self.log
        )
        self.opening.begin(last)
        self.desk.tell_workers()

    def log(self, event, fields):
        """Stand in for the event log."""
        self.events.append((event, fields))
        return ""

    async def _save(self):
        return True

    def saved(self) -> Saved:
        """Return what is in the file now."""
        unheard = self._told.unheard()
        return Saved.model_validate_json(
            snapshot(
                self.subscriptions,
                self.config,
                simulated=False,
                wanted={},
                unheard=unheard,
                opens=self.opening.opens,
            )
        )

    def pass_to(self, now):
        """Let the time be this."""
        self.now = now
        self.opening.check()

    def obeyed(self, connection_id=1):
        """Let a worker have carried out what it was told last."""
        order = self.orders[connection_id][-1]
        report = {"service": order.service, "version": order.version, "unsent": [], "unseen": [], "lost_order": False}
        report |= {"connection_id": connection_id, "state": "live", "covered_ns": 0}
        self._told.hear(report, self.subscriptions.wanted(connection_id))

    def changes(self):
        """Return the events that tell of the clock."""
        return [event for event, _ in self.events if event.startswith("market_")]

    def gaps(self, before: Predecessor, until):
        """Return what a fresh worker 1 says was missed, with its first frame at this time."""
        tracker = GapTracker(before)
        order = self.orders[1][-1]
        assert order.after == 0
        now_ns = ns("00:00:00") + round((self.now - at("00:00:00")).total_seconds()) * 10**9
        gaps = tracker.want(
            order.changed,
            now_ns,
            before=order.before,
            relieved=order.relieved,
            missing=order.missing,
            due=order.due,
            rests=order.rests,
        )
        return gaps + (tracker.closed(until) if order.changed else [])


def play(scene):
    """Play a scene on a loop, which the tasks that save need."""

    async def run():
        scene()
        await asyncio.sleep(0)

    asyncio.run(run())


def killed_at(text, day=MONDAY):
    """Return an epoch that ended at this time, with instruments."""
    return Predecessor("killed", 1, Mark(9, 2), ns(text, day))


def test_a_day():
    """Connections are closed and opened at their times, with one event each; between them nothing is told."""

    def scene():
        run = Run(at("09:00:00"))
        assert run.orders[1][-1].changed.keys() == set(TOKENS)
        run.pass_to(at("15:34:59"))
        assert (len(run.orders[1]), run.changes()) == (1, [])
        run.pass_to(at("15:35:00"))
        run.pass_to(at("15:35:01"))
        assert [sorted(order.dropped) for order in run.orders[1]] == [[], TOKENS]
        assert run.board.resting == "connections are closed until Tue 08:55"
        run.pass_to(at("08:55:00", "2026-11-24"))
        run.pass_to(at("08:55:01", "2026-11-24"))
        assert [order.changed.keys() for order in run.orders[1]] == [set(TOKENS), set(), set(TOKENS)]
        assert run.board.resting == ""
        assert run.events[-2:] == [
            ("market_closed", {"until": "2026-11-24T08:55:00+05:30"}),
            ("market_opened", {"until": "2026-11-24T15:35:00+05:30"}),
        ]

    play(scene)


def test_without_a_window_nothing_is_decided():
    """Connections are always open."""

    def scene():
        run = Run(at("03:00:00"), config=a_config(connect=None, disconnect=None))
        run.pass_to(at("16:00:00"))
        assert ([len(orders) for orders in run.orders.values()], run.events) == ([1, 1, 1], [])

    play(scene)


def test_who_begins_in_a_rest_connects_nothing():
    """Workers are told to want nothing from the first order on; the next run, in the same rest, has no news."""

    def scene():
        run = Run(at("20:00:00"))
        assert [order.changed for order in run.orders[1]] == [{}]
        assert run.changes() == ["market_closed"]
        again = Run(at("21:00:00"), run.saved())
        assert ([order.changed for order in again.orders[1]], again.changes()) == ([{}], [])
        assert again.gaps(NOTHING, ns("21:00:01")) == []

    play(scene)


def test_all_killed_while_resting_and_up_in_time():
    """Nothing was missed."""

    def scene():
        run = Run(at("12:00:00"))
        run.pass_to(at("15:35:00"))
        run.obeyed()
        again = Run(at("20:00:00"), run.saved())
        again.pass_to(at("08:55:00", "2026-11-24"))
        again.orders[1][-1] = again.orders[1][-1]._replace(after=0)
        assert again.gaps(NOTHING, ns("08:55:01", "2026-11-24")) == []

    play(scene)


def test_all_killed_while_resting_and_up_late():
    """What was missed since connections should have been opened is a gap, of what was subscribed by then."""

    def scene():
        run = Run(at("12:00:00"))
        run.pass_to(at("15:35:00"))
        run.obeyed()
        late = Run(at("10:00:00", "2026-11-24"), run.saved())
        assert late.changes() == ["market_opened"]
        opened, up = ns("08:55:00", "2026-11-24"), ns("10:00:01", "2026-11-24")
        assert late.gaps(NOTHING, up) == [Gap("opened late", opened, up, TOKENS)]

    play(scene)


def test_what_is_new_since_then_was_not_due():
    """It was subscribed after connections should have been opened, and nobody had told a worker."""

    def scene():
        run = Run(at("10:00:00"))
        again = Run(at("10:01:00"), run.saved())
        assert again.gaps(NOTHING, ns("10:01:01")) == []

    play(scene)


def test_all_killed_in_the_window_and_up_in_the_rest():
    """It is a gap until connections would have been closed."""

    def scene():
        run = Run(at("12:00:00"))
        run.obeyed()
        again = Run(at("20:00:00"), run.saved())
        assert again.gaps(killed_at("15:00:00"), 0) == [Gap("killed", ns("15:00:00"), ns("15:35:00"), TOKENS)]

    play(scene)


def test_all_killed_in_the_window_and_up_in_the_next():
    """The gap goes around the rest."""

    def scene():
        run = Run(at("12:00:00"))
        run.obeyed()
        again = Run(at("10:00:00", "2026-11-24"), run.saved())
        up = ns("10:00:01", "2026-11-24")
        assert again.gaps(killed_at("15:00:00"), up) == [
            Gap("killed", ns("15:00:00"), ns("15:35:00"), TOKENS),
            Gap("killed", ns("08:55:00", "2026-11-24"), up, TOKENS),
        ]

    play(scene)


def test_killed_when_connections_were_just_closing(monkeypatch):
    """A worker that has not heard of it has missed what came until then; one that has, nothing."""
    monkeypatch.setattr(time_module, "time_ns", lambda: ns("15:35:00"))

    def scene():
        run = Run(at("12:00:00"))
        run.obeyed()
        run.pass_to(at("15:35:00"))
        for saved in (run.saved(), run.saved().model_copy(update={"resting": False})):  # in time, and not
            again = Run(at("15:36:00"), saved)
            gap = Gap("killed", ns("15:34:59"), ns("15:35:00"), TOKENS)
            assert again.gaps(killed_at("15:34:59"), 0) == [gap]
            assert again.gaps(killed_at("15:35:00"), 0) == []
            assert again.gaps(NOTHING, 0) == []

    play(scene)


def test_killed_when_connections_were_just_opening():
    """Whether that was saved or not: what was missed since then is a gap, from the last frame if there was one."""

    def scene():
        run = Run(at("20:00:00"))
        run.obeyed()
        before = run.saved()
        run.pass_to(at("08:55:00", "2026-11-24"))
        opened, up = ns("08:55:00", "2026-11-24"), ns("09:00:01", "2026-11-24")
        for saved in (before, run.saved()):
            again = Run(at("09:00:00", "2026-11-24"), saved)
            assert again.gaps(NOTHING, up) == [Gap("opened late", opened, up, TOKENS)]
            assert again.gaps(killed_at("08:56:00", "2026-11-24"), up) == [
                Gap("killed", ns("08:56:00", "2026-11-24"), up, TOKENS)
            ]

    play(scene)


def test_asleep_when_connections_should_have_been_opened():
    """A machine that wakes up late has missed what came since then; one whose worker is dead then, likewise."""

    def scene():
        run = Run(at("20:00:00"))
        run.obeyed()
        run.pass_to(at("09:20:00", "2026-11-24"))
        order = run.orders[1][-1]
        tracker = GapTracker(NOTHING)
        tracker.want((), 0)
        tracker.want(order.changed, ns("09:20:00", "2026-11-24"), due=order.due, rests=order.rests)
        assert tracker.is_open
        assert tracker.since_ns == ns("08:55:00", "2026-11-24")

    play(scene)


@pytest.mark.parametrize("is_asleep", [False, True])
def test_nobody_was_up_for_all_of_a_window(is_asleep):
    """It is a gap: told in the rest after it, once, or with what is missed of the next window."""
    missed = Gap("opened late", ns("08:55:00", "2026-11-24"), ns("15:35:00", "2026-11-24"), TOKENS)

    def scene():
        run = Run(at("20:00:00"))
        run.obeyed()
        saved = run.saved()
        if is_asleep:
            run.pass_to(at("20:00:00", "2026-11-24"))
            run.orders[1][-1] = run.orders[1][-1]._replace(after=0)
        else:
            run = Run(at("20:00:00", "2026-11-24"), saved)
        assert run.gaps(NOTHING, 0) == [missed]
        unheard = Run(at("21:00:00", "2026-11-24"), run.saved())
        assert unheard.gaps(NOTHING, 0) == [missed]
        unheard.obeyed()
        assert Run(at("22:00:00", "2026-11-24"), unheard.saved()).gaps(NOTHING, 0) == []
        up = ns("10:00:01", "2026-11-25")
        later = Run(at("10:00:00", "2026-11-25"), saved)
        assert later.gaps(NOTHING, up) == [missed, Gap("opened late", ns("08:55:00", "2026-11-25"), up, TOKENS)]

    play(scene)


def test_a_worker_that_was_dead_for_all_of_a_window():
    """Its next one says what was missed, though it is to record nothing, but for what others had meanwhile."""

    def scene():
        run = Run(at("20:00:00"))
        run.obeyed()
        run.pass_to(at("08:55:00", "2026-11-24"))
        run.pass_to(at("15:35:00", "2026-11-24"))
        run.now = at("20:00:00", "2026-11-24")
        last = run.orders[1][-1]
        order = last._replace(
            after=0, before=(), changed={}, dropped=(), relieved={TOKENS[0]: ns("09:00:00", "2026-11-24")}
        )
        run.orders[1].append(order)
        opened = ns("08:55:00", "2026-11-24")
        assert run.gaps(NOTHING, 0) == [
            Gap("opened late", opened, ns("09:00:00", "2026-11-24"), TOKENS[:1]),
            Gap("opened late", opened, ns("15:35:00", "2026-11-24"), TOKENS[1:]),
        ]

    play(scene)


def test_what_was_overdue_is_told_once():
    """An order may come twice."""
    tracker = GapTracker(NOTHING)
    assert len(tracker.want((), ns("20:00:00"), before=(), due={7: ns("08:55:00")})) == 1
    assert tracker.want((), ns("20:00:01"), due={7: ns("08:55:00")}) == []


def test_with_another_window_nothing_is_known_of_before():
    """What was planned then nobody knows: all of it is a gap, as for who has no window."""

    def scene():
        run = Run(at("12:00:00"), config=a_config(disconnect=time(23, 59)))
        run.obeyed()
        again = Run(at("20:00:00"), run.saved())
        assert again.gaps(killed_at("19:00:00"), 0) == [Gap("killed", ns("19:00:00"), ns("20:00:00"), TOKENS)]

    play(scene)


def test_what_trades_at_other_times_opens_connections():
    """On a holiday only commodities trade; that others have missed something by then is not said."""

    def scene():
        run = Run(at("11:00:00", "2026-11-24"))
        run.board.hours = Hours(run.config.market, ZoneInfo("Asia/Kolkata"), Almanac.read(ANSWER))
        run.pass_to(at("11:00:01", "2026-11-24"))
        assert run.board.resting == "connections are closed until Wed 08:55"
        run.subscriptions.subscribe([0x107], "quote", run.now.isoformat())
        run.pass_to(at("11:00:02", "2026-11-24"))
        assert run.board.resting == ""
        assert run.orders[1][-1].due == {}

    play(scene)


# The errand.


def ask(run, monkeypatch, *told, code=0):
    """Let the errand tell this once; return when it has been heard."""
    asked = []

    async def errand_run(_, module_name, *, name, hear):
        asked.append((module_name, name))
        for line in told:
            hear(dict(line))
        return code

    async def once():
        looking = asyncio.create_task(run.opening.run())
        for _ in range(20):
            await asyncio.sleep(0)
        looking.cancel()

    monkeypatch.setattr(errand, "run", errand_run)
    asyncio.run(once())
    return asked


def a_run(**market):
    """Return a run with these settings."""
    made: list[Run] = []
    play(lambda: made.append(Run(at("12:00:00"), config=a_config(**market))))
    return made[0]


def test_the_calendar_is_asked(monkeypatch, caplog):
    """Until it has answered nobody knows."""
    run = a_run()
    assert run.board.hours.state(run.now) == "unknown"
    assert ask(run, monkeypatch, ANSWER) == [("pipeline.almanac", "almanac")]
    assert run.board.hours.state(run.now) == "open"
    assert run.board.hours.state(run.now + timedelta(days=1)) == "closed"
    assert ask(run, monkeypatch, ANSWER) == []  # once a day
    run.now += timedelta(days=1)
    assert ask(run, monkeypatch, ANSWER) == [("pipeline.almanac", "almanac")]
    assert caplog.text == ""


def test_the_next_run_knows_holidays_at_once(monkeypatch):
    """What it has missed since the last one is told without them, and on one of them it connects nothing."""
    runs = [a_run()]
    ask(runs[0], monkeypatch, ANSWER)

    def scene():
        runs[0].obeyed()
        saved = runs[0].saved()
        assert Run(at("10:00:00", "2026-11-24"), saved).board.resting == "connections are closed until Wed 08:55"
        up = ns("10:00:01", "2026-11-25")
        assert Run(at("10:00:00", "2026-11-25"), saved).gaps(killed_at("15:00:00"), up) == [
            Gap("killed", ns("15:00:00"), ns("15:35:00"), TOKENS),
            Gap("killed", ns("08:55:00", "2026-11-25"), up, TOKENS),
        ]

    play(scene)


@pytest.mark.parametrize("kept", [b"", b"[]", b'{"calendar": "XNYS"}', b'{"calendar": "XBOM", "sessions": 3}'])
def test_what_was_kept_may_be_of_another_calendar_or_damaged(tmp_path, kept):
    """Then nobody knows, until it is asked for."""
    (tmp_path / "run" / "almanac.json").write_bytes(kept)
    run = a_run()
    assert run.board.hours.state(run.now) == "unknown"


def test_a_calendar_that_ends_is_told_once(monkeypatch, caplog):
    """With what to do about it."""
    run = a_run()
    for _ in range(2):
        ask(run, monkeypatch, ANSWER | {"known_until": "2026-11-30"})
        run.now += timedelta(days=1)
    assert caplog.text.count("only until 2026-11-30") == 1
    assert "upgrade exchange_calendars" in caplog.text


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ([{"error": "market.calendar: no such one"}], "no such one"),
        ([], "exit code 1"),
        ([{"sessions": 3, "known_from": "2026-11-13", "known_until": "2026-11-13"}], "exit code 1"),
        ([{"sessions": [["x"]], "known_from": "", "known_until": ""}], "exit code 1"),
    ],
)
def test_an_errand_that_fails(monkeypatch, caplog, told, words):
    """The reason is told, nothing is judged, and it is not asked again at once."""
    run = a_run()
    ask(run, monkeypatch, *told, code=1)
    assert words in caplog.text
    assert run.board.hours.state(run.now) == "unknown"
    assert ask(run, monkeypatch, ANSWER) == []


def test_without_a_calendar_nobody_is_asked(monkeypatch):
    """The market is always open."""
    run = a_run(calendar="")
    assert ask(run, monkeypatch, ANSWER) == []
    assert run.board.hours.state(run.now) == "open"
