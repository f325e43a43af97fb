"""The desk: what it tells the workers, and when it answers. Nothing here depends on how long anything takes."""

import asyncio
from typing import Any, cast

import pytest
from pydantic import BaseModel

from pipeline.config import CONNECTIONS
from pipeline.errors import (
    AlreadySubscribedError,
    CapacityError,
    NotSubscribedError,
    RequestRefusedError,
    UnknownSymbolError,
)
from pipeline.requests import (
    Change,
    FailbackParams,
    FailoverParams,
    HistoryEntry,
    HistoryParams,
    MirrorParams,
    Pending,
    SetModeParams,
    SubscribeParams,
    UnsubscribeAllParams,
    UnsubscribeParams,
)
from pipeline.supervisor import desk as module
from pipeline.supervisor import subscriptions as subscriptions_module
from pipeline.supervisor.desk import Desk
from pipeline.supervisor.history import History
from pipeline.supervisor.subscriptions import Subscriptions

NOW = "2025-10-01T09:15:00.000000+05:30"
LONG_S = 3600  # nothing gives up by itself
TURNS = 50  # of the loop, in which everything has run that can run
LIMIT = 6  # instruments on a connection, where a test is about room
DEADLINE_S = 20
CLOSED = ("down", "the server closed the connection")

METHODS: dict[type[BaseModel], str] = {
    SubscribeParams: "subscribe",
    UnsubscribeParams: "unsubscribe",
    UnsubscribeAllParams: "unsubscribe_all",
    SetModeParams: "set_mode",
    MirrorParams: "mirror",
    FailoverParams: "failover",
    FailbackParams: "failback",
}


class Workers:
    """Stands in for the orders: a worker has carried out, and covers, what the test says."""

    def __init__(self):
        self.told: dict[int, Any] = dict.fromkeys(CONNECTIONS)
        self.versions = dict.fromkeys(CONNECTIONS, 0)
        self.confirmed = dict.fromkeys(CONNECTIONS, 0)
        self.covering = dict.fromkeys(CONNECTIONS, 0)
        self.kept_open = dict.fromkeys(CONNECTIONS, False)
        self.held: dict[int, set[int]] = {c: set() for c in CONNECTIONS}
        self.relieved = []
        self.expected = {}
        self.heard = []

    def tell(self, connection_id, wanted, *, keep_open=False, again=(), held=()):
        """Take what is new."""
        is_same = self.told[connection_id] == wanted and self.kept_open[connection_id] == keep_open
        if is_same and not set(wanted) & set(again):
            return False
        self.held[connection_id] = set(held)
        self.told[connection_id], self.kept_open[connection_id] = wanted, keep_open
        self.versions[connection_id] += 1
        return True

    def hear(self, status, wanted, held):
        """Keep what was handed on."""
        self.heard.append((status, wanted))
        self.held[status["connection_id"]] = set(held)
        return status.get("is_news", False)

    def version(self, connection_id):
        """Return the number of what was told last."""
        return self.versions[connection_id]

    def is_sent(self, connection_id, version, _):
        """Tell whether the test has said so."""
        return self.confirmed[connection_id] >= version

    def covers(self, connection_id, token):
        """Tell whether the test has said that all is covered."""
        return token in self.told[connection_id] and self.covering[connection_id] == self.versions[connection_id]

    def expect(self, connection_id, since):
        """Keep what was handed on."""
        self.expected[connection_id] = since

    def relieve(self, connection_id, tokens, by):
        """Keep what was handed on."""
        self.relieved.append((connection_id, list(tokens), by))


class Office:
    """A desk, and all that it deals with."""

    def __init__(self, max_connections=3, overflow="refuse"):
        self.subscriptions = Subscriptions(max_connections, overflow)
        self.workers = Workers()
        self.events: list[dict[str, Any]] = []
        self.states = dict.fromkeys(CONNECTIONS, ("live", ""))
        self.saved = []  # what was subscribed and what was leaving when a write began
        self.names: dict[str, int] = {}
        self.listed = asyncio.Event()
        self.disk = asyncio.Event()
        self.disk.set()
        self.desk = Desk(
            self.subscriptions,
            cast(Any, self.workers),
            History(self.log),
            clock=lambda: NOW,
            state=self.states.__getitem__,
            save=self.save,
            tokens=self.look_up,
            listed=self.listed,
        )
        self.desk.tell_workers()
        for connection_id in CONNECTIONS:
            self.confirm(connection_id)

    def look_up(self, words):
        """Stand in for the list of instruments."""
        if unknown := [word for word in words if isinstance(word, str) and word not in self.names]:
            raise UnknownSymbolError(f"unknown: {unknown[0]}")
        return [word if isinstance(word, int) else self.names[word] for word in words]

    def log(self, _, fields):
        """Stand in for the event log."""
        self.events.append(fields)
        return NOW

    async def save(self):
        """Stand in for the file."""
        leaving = {token for tokens in self.subscriptions.leaving.values() for token in tokens}
        self.saved.append((set(self.subscriptions.all), leaving))
        await self.disk.wait()
        return True

    def confirm(self, connection_id):
        """Let a worker have sent Kite what it was told; new ones have not ticked yet."""
        self.workers.confirmed[connection_id] = self.workers.versions[connection_id]
        self.desk.hear({"connection_id": connection_id})

    def cover(self, connection_id):
        """Let a worker have all on the wire, and ticking."""
        self.workers.covering[connection_id] = self.workers.versions[connection_id]
        self.confirm(connection_id)

    async def ask(self, params):
        """Begin a request; return its task when nothing more happens by itself."""
        task = asyncio.ensure_future(self.desk.methods[METHODS[type(params)]].call(params))
        await turns()
        return task

    async def subscribe(self, tokens, mode="quote", connection_id=None):
        """Subscribe, and let it be carried out."""
        task = await self.ask(SubscribeParams(tokens=tokens, mode=mode, connection_id=connection_id))
        for each in CONNECTIONS:
            self.cover(each)
        await turns()
        return answer(task)

    def history(self):
        """Return what it tells of each change."""
        return [(entry.action, entry.by, entry.instruments, entry.result) for entry in self.latest(100)]

    def latest(self, limit):
        """Return the entries that are asked for."""
        return cast("list[HistoryEntry]", self.desk.methods["history"].call(HistoryParams(limit=limit)))


async def turns():
    """Let everything run that can run."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


def answer(task) -> Change:
    """Return the answer, which must have been given."""
    assert task.done()
    return cast("Change", task.result())


def pending(change):
    """Return connection and reason of what is pending."""
    return [(each.connection_id, each.reason) for each in change.pending]


def run(scene):
    """Play a scene on a loop of its own."""

    async def play():
        async with asyncio.timeout(DEADLINE_S):
            await scene()

    asyncio.run(play())


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Answers wait for as long as it takes."""
    monkeypatch.setattr(module, "CONFIRM_S", LONG_S)


@pytest.fixture
def small(monkeypatch):
    """Connections that hold six instruments."""
    monkeypatch.setattr(subscriptions_module, "MAX_INSTRUMENTS", LIMIT)


# Answers.


def test_symbols_wait_for_the_first_list():
    """Who asks right after the start is not sent away; tokens do not wait, and what is unknown then is refused."""

    async def scene():
        office = Office()
        early = await office.ask(SubscribeParams(tokens=["NSE:INFY", 7]))
        wrong = await office.ask(SubscribeParams(tokens=["NSE:INFI"]))
        assert (await office.subscribe([1])).instruments == [1]
        assert not early.done()
        office.names["NSE:INFY"] = 408065
        office.listed.set()
        await turns()
        for each in CONNECTIONS:
            office.cover(each)
        await turns()
        assert (answer(early).instruments, answer(early).requested) == ([408065, 7], 2)
        with pytest.raises(UnknownSymbolError, match="unknown: NSE:INFI"):
            wrong.result()
        assert office.history()[-1] == ("subscribe", "client", [], "refused")

    run(scene)


def test_an_answer_waits_until_the_worker_has_sent_it():
    """The worker is told at once; the answer comes when Kite has been told, and says all that was changed."""

    async def scene():
        office = Office()
        task = await office.ask(SubscribeParams(tokens=[5, 6, 5], by="cli"))
        assert office.workers.told[1] == {5: "quote", 6: "quote"}
        assert not task.done()
        office.desk.hear({"connection_id": 1})
        await turns()
        assert not task.done()
        office.confirm(1)
        await turns()
        assert answer(task) == Change(
            action="subscribe",
            requested=3,
            instruments=[5, 6],
            mode="quote",
            connections={"1": 2},
            repeats=[5],
            confirmed=True,
        )

    run(scene)


def test_an_answer_waits_for_every_connection():
    """What is on two connections is confirmed when both have sent it."""

    async def scene():
        office = Office()
        await office.subscribe([1])
        await office.subscribe([2], "full")
        task = await office.ask(UnsubscribeAllParams())
        office.confirm(2)
        await turns()
        assert not task.done()
        office.confirm(1)
        await turns()
        change = answer(task)
        assert (change.action, change.requested, change.connections) == ("unsubscribe", 2, {"1": 1, "2": 1})
        assert change.confirmed

    run(scene)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (CLOSED, "down: the server closed the connection"),
        (("rate_limited", ""), "rate_limited"),
        (("unauthorised", "403"), "unauthorised: 403"),
        (("stopped", ""), "stopped"),
        (("off", ""), "off"),
    ],
)
def test_a_connection_that_is_down_is_not_waited_for(state, reason):
    """The answer comes at once, and says what is pending where, and why; the change is made all the same."""

    async def scene():
        office = Office()
        office.states[1] = state
        change = answer(await office.ask(SubscribeParams(tokens=[5])))
        assert not change.confirmed
        assert pending(change) == [(1, reason)]
        assert office.workers.told[1] == {5: "quote"}
        assert office.saved == [({5}, set())]

    run(scene)


@pytest.mark.parametrize("state", ["idle", "standby", "starting", "connecting", "live"])
def test_a_connection_that_is_getting_there_is_waited_for(state):
    """A connection opens with its first instrument: the answer waits for that."""

    async def scene():
        office = Office()
        office.states[1] = (state, "")
        task = await office.ask(SubscribeParams(tokens=[5]))
        assert not task.done()
        office.confirm(1)
        await turns()
        assert answer(task).confirmed

    run(scene)


def test_a_connection_that_goes_down_meanwhile_is_waited_for_no_longer():
    """The next news end the wait."""

    async def scene():
        office = Office()
        task = await office.ask(SubscribeParams(tokens=[5]))
        assert not task.done()
        office.states[1] = CLOSED
        office.desk.hear({"connection_id": 2})
        await turns()
        assert pending(answer(task)) == [(1, "down: the server closed the connection")]

    run(scene)


def test_one_connection_is_down_and_the_other_is_not():
    """The answer waits for the one that is getting there, and names the one that is not."""

    async def scene():
        office = Office()
        await office.subscribe([1])
        await office.subscribe([2], "full")
        office.states[1] = CLOSED
        task = await office.ask(UnsubscribeParams(tokens=[1, 2]))
        assert not task.done()
        office.confirm(2)
        await turns()
        assert [each.connection_id for each in answer(task).pending] == [1]

    run(scene)


def test_patience_has_an_end(monkeypatch):
    """Where nothing comes of a connection that should get there, the answer says in which state it is."""

    async def scene():
        office = Office()
        office.states[1] = ("connecting", "")
        monkeypatch.setattr(module, "CONFIRM_S", 0)
        change = await (await office.ask(SubscribeParams(tokens=[5])))
        assert change.pending == [Pending(connection_id=1, reason="connecting")]
        assert not change.confirmed

    run(scene)


def test_what_changes_nothing_is_answered_at_once():
    """There is nobody to wait for."""

    async def scene():
        office = Office()
        await office.subscribe([5])
        change = answer(await office.ask(SetModeParams(tokens=[5], mode="quote")))
        assert (change.instruments, change.unchanged, change.confirmed) == ([], [5], True)
        change = answer(await office.ask(UnsubscribeParams(tokens=[7], ignore_unknown=True)))
        assert (change.instruments, change.unknown, change.confirmed) == ([], [7], True)

    run(scene)


# Make before break.


def test_a_move_is_confirmed_when_the_old_place_has_let_go():
    """First the new connection is told, then the old one, when the new one covers; the answer waits for both."""

    async def scene():
        office = Office()
        await office.subscribe([5, 6])
        task = await office.ask(SetModeParams(tokens=[5], mode="full"))
        assert office.workers.told[2] == {5: "full"}
        assert office.workers.told[1] == {5: "quote", 6: "quote"}
        assert office.workers.held == {1: set(), 2: {5}, 3: set()}
        office.confirm(2)
        await turns()
        assert not task.done()
        assert office.workers.told[1] == {5: "quote", 6: "quote"}
        office.cover(2)
        await turns()
        assert office.workers.told[1] == {6: "quote"}
        assert not task.done()
        office.confirm(1)
        await turns()
        assert answer(task).confirmed

    run(scene)


def test_a_move_to_a_connection_that_is_down():
    """Both are pending: the one that does not have it yet, and the one that keeps it so long."""

    async def scene():
        office = Office()
        await office.subscribe([5])
        office.states[2] = CLOSED
        change = answer(await office.ask(SetModeParams(tokens=[5], mode="full")))
        assert pending(change) == [(1, "live"), (2, "down: the server closed the connection")]
        assert office.workers.told[1] == {5: "quote"}
        office.states[2] = ("live", "")
        office.cover(2)
        assert office.workers.told[1] == {}

    run(scene)


@pytest.mark.usefixtures("small")
def test_who_waits_for_room_is_not_confirmed_before_there_is_room():
    """What finds room only when others have left is confirmed when it has been sent."""

    async def scene():
        office = Office()
        await office.subscribe(list(range(1, LIMIT + 1)))
        move = await office.ask(SetModeParams(tokens=[1, 2], mode="full"))
        task = await office.ask(SubscribeParams(tokens=[7, 8]))
        office.confirm(1)
        await turns()
        assert not task.done()
        office.cover(2)
        await turns()
        assert set(office.workers.told[1]) == {3, 4, 5, 6, 7, 8}
        assert not task.done()
        office.confirm(1)
        await turns()
        assert answer(task).confirmed
        assert answer(move).confirmed

    run(scene)


@pytest.mark.usefixtures("small")
def test_who_waits_for_room_keeps_nobody_else_waiting():
    """A request is confirmed when its own instruments have been sent, whatever is pending elsewhere."""

    async def scene():
        office = Office()
        await office.subscribe(list(range(1, LIMIT + 1)))
        office.states[2] = CLOSED
        assert not answer(await office.ask(SetModeParams(tokens=[1, 2], mode="full"))).confirmed
        waiting = await office.ask(SubscribeParams(tokens=[7]))
        task = await office.ask(SubscribeParams(tokens=[21], connection_id=3))
        office.confirm(3)
        await turns()
        assert not waiting.done()
        assert pending(answer(task)) == []
        assert answer(task).confirmed
        waiting.cancel()

    run(scene)


def test_what_has_been_let_go_is_saved():
    """The next start does not bring back what has left: it could take the room of others."""

    async def scene():
        office = Office()
        await office.subscribe([5])
        await office.ask(SetModeParams(tokens=[5], mode="full"))
        assert office.saved[-1] == ({5}, {5})
        office.cover(2)
        await turns()
        assert office.saved[-1] == ({5}, set())

    run(scene)


def test_what_is_unsubscribed_while_it_moves_is_waited_for_nowhere():
    """Both answers come when the workers have dropped it."""

    async def scene():
        office = Office()
        await office.subscribe([5])
        move = await office.ask(SetModeParams(tokens=[5], mode="full"))
        end = await office.ask(UnsubscribeParams(tokens=[5]))
        assert [office.workers.told[c] for c in (1, 2)] == [{}, {}]
        office.confirm(1)
        await turns()
        assert not move.done()
        assert not end.done()
        office.confirm(2)
        await turns()
        assert answer(move).confirmed
        assert answer(end).confirmed

    run(scene)


@pytest.mark.parametrize(
    ("params", "action", "told"),
    [
        (MirrorParams(), "mirror", [{5: "quote"}, {6: "full"}, {5: "quote"}]),
        (FailoverParams(connection_id=1), "failover", [{5: "quote"}, {6: "full"}, {5: "quote"}]),
        (FailoverParams(connection_id=2), "failover", [{5: "quote"}, {6: "full"}, {6: "full"}]),
    ],
)
def test_the_spare_is_told(params, action, told):
    """Mirror and failover are changes like the others: told, saved, logged, and confirmed when they are carried out."""

    async def scene():
        office = Office()
        await office.subscribe([5])
        await office.subscribe([6], "full")
        task = await office.ask(params)
        assert [office.workers.told[c] for c in CONNECTIONS] == told
        assert not task.done()
        office.cover(3)
        for connection_id in (1, 2):
            office.confirm(connection_id)
        await turns()
        change = answer(task)
        assert (change.action, change.connections, change.confirmed) == (action, {"3": 1}, True)
        assert change.requested == len(change.instruments) == 1
        assert office.events[-1]["action"] == action

    run(scene)


def test_the_spare_gives_back():
    """Ending a mirror, and failing back, are answered when the connections have followed."""

    async def scene():
        office = Office()
        await office.subscribe([5])
        for begin, end, action in (
            (MirrorParams(), MirrorParams(on=False), "unmirror"),
            (FailoverParams(connection_id=1), FailbackParams(), "failback"),
        ):
            await office.ask(begin)
            office.cover(3)
            task = await office.ask(end)
            for connection_id in CONNECTIONS * 2:
                office.cover(connection_id)
            await turns()
            assert (answer(task).action, answer(task).confirmed) == (action, True)
            assert [office.workers.told[c] for c in CONNECTIONS] == [{5: "quote"}, {}, {}]

    run(scene)


# Beside each other.


def test_requests_go_on_while_one_waits():
    """A slow connection delays only the answers of those who asked for it; all take effect in the order asked."""

    async def scene():
        office = Office()
        slow = await office.ask(SubscribeParams(tokens=[5]))
        quick = await office.ask(SubscribeParams(tokens=[6], mode="full"))
        office.confirm(2)
        await turns()
        assert answer(quick).confirmed
        assert not slow.done()
        assert [entry[2] for entry in office.history()] == [[5], [6]]
        refused = await office.ask(SubscribeParams(tokens=[5]))
        assert isinstance(refused.exception(), AlreadySubscribedError)
        office.confirm(1)
        await turns()
        assert answer(slow).confirmed

    run(scene)


def test_a_later_order_confirms_an_earlier_one():
    """Orders follow each other: who has carried out the second has carried out the first."""

    async def scene():
        office = Office()
        tasks = [await office.ask(SubscribeParams(tokens=[token])) for token in (5, 6)]
        office.workers.confirmed[1] = office.workers.versions[1] - 1
        office.desk.hear({"connection_id": 1})
        await turns()
        assert [task.done() for task in tasks] == [True, False]
        office.confirm(1)
        await turns()
        assert all(answer(task).confirmed for task in tasks)

    run(scene)


def test_an_answer_waits_until_it_is_saved():
    """The file is written while the workers carry it out; without it there is no answer."""

    async def scene():
        office = Office()
        office.disk.clear()
        task = await office.ask(SubscribeParams(tokens=[5]))
        assert office.saved == [({5}, set())]
        office.confirm(1)
        await turns()
        assert not task.done()
        office.disk.set()
        await turns()
        assert answer(task).confirmed

    run(scene)


# What the workers say.


def test_what_a_worker_says_is_handed_on():
    """With what it should have, what is still to leave it included, so that it can be told again."""

    async def scene():
        office = Office()
        await office.subscribe([5])
        await office.ask(SetModeParams(tokens=[5, 6], mode="full", subscribe_unknown=True))
        for connection_id, wanted in ((1, {5: "quote"}), (2, {5: "full", 6: "full"})):
            status = {"connection_id": connection_id, "version": 7}
            office.desk.hear(status)
            assert office.workers.heard[-1] == (status, wanted)

    run(scene)


def test_only_who_has_news_is_told():
    """At the start that is everybody."""

    async def scene():
        office = Office()
        assert office.workers.versions == {1: 1, 2: 1, 3: 1}
        office.subscriptions.subscribe([5], "full", NOW)
        assert office.desk.tell_workers() == [2]
        assert office.desk.tell_workers() == []

    run(scene)


# Refusals and the history.


@pytest.mark.parametrize(
    ("params", "kind", "entry"),
    [
        (SubscribeParams(tokens=[7, 5, 7], by="cli"), AlreadySubscribedError, ("subscribe", "cli", [7, 5], "refused")),
        (UnsubscribeParams(tokens=[5, 7]), NotSubscribedError, ("unsubscribe", "client", [5, 7], "refused")),
        (SetModeParams(tokens=[7], mode="ltp"), NotSubscribedError, ("set_mode", "client", [7], "refused")),
        (SubscribeParams(tokens=[*range(10, 16)]), CapacityError, ("subscribe", "client", [*range(10, 16)], "refused")),
        (SubscribeParams(tokens=[7], connection_id=3), RequestRefusedError, ("subscribe", "client", [7], "refused")),
        (MirrorParams(by="cli"), RequestRefusedError, ("mirror", "cli", [], "refused")),
        (FailoverParams(connection_id=1), RequestRefusedError, ("failover", "client", [], "refused")),
    ],
)
@pytest.mark.usefixtures("small")
def test_a_refusal_changes_nothing_and_is_remembered(params, kind, entry):
    """It is raised to whoever asked; no worker is told, nothing is saved, and the history has it with its reason."""

    async def scene():
        office = Office(max_connections=2)
        await office.subscribe([5])
        versions, saved = dict(office.workers.versions), list(office.saved)
        task = await office.ask(params)
        assert type(task.exception()) is kind
        assert (office.workers.versions, office.saved) == (versions, saved)
        assert set(office.subscriptions.all) == {5}
        assert office.history() == [("subscribe", "client", [5], "done"), entry]
        assert office.events[-1]["reason"] == str(task.exception())
        assert office.events[-1].get("mode") == getattr(params, "mode", None)

    run(scene)


def test_the_history_tells_who_asked_for_what():
    """Each change with its action, as many as are asked for."""

    async def scene():
        office = Office()
        for params in (
            SubscribeParams(tokens=[5, 6], by="cli"),
            SetModeParams(tokens=[5], mode="full"),
            UnsubscribeParams(tokens=[6], by="cli"),
            UnsubscribeAllParams(),
        ):
            await office.ask(params)
        assert office.history() == [
            ("subscribe", "cli", [5, 6], "done"),
            ("set_mode", "client", [5], "done"),
            ("unsubscribe", "cli", [6], "done"),
            ("unsubscribe", "client", [5], "done"),
        ]
        (latest,) = office.latest(1)
        assert (latest.timestamp, latest.connections) == (NOW, {"2": 1})

    run(scene)


# While the clock has connections closed.

UNTIL = "connections are closed until Mon 08:55"


def test_a_rest_closes_all_and_keeps_all():
    """Workers are told to want nothing and to keep nothing open; afterwards they are told all again."""

    async def scene():
        office = Office()
        await office.subscribe([1, 2])
        office.desk.keep_open({3})
        office.desk.rest(UNTIL, ((1, 2),), {})
        assert office.workers.told == {1: {}, 2: {}, 3: {}}
        assert not any(office.workers.kept_open.values())
        await turns()
        assert office.saved[-1] == ({1, 2}, set())
        office.desk.open(((1, 2),), {1: {1: 2, 2: 2}})
        assert office.workers.told[1].keys() == {1, 2}
        assert office.workers.kept_open[3]
        assert office.workers.expected == {1: {1: 2, 2: 2}}

    run(scene)


def test_requests_meanwhile_are_answered_at_once():
    """What is subscribed waits for the clock, which is said; what is unsubscribed waits for nothing."""

    async def scene():
        office = Office()
        await office.subscribe([1, 2])
        office.desk.rest(UNTIL, (), {})
        office.states = dict.fromkeys(CONNECTIONS, ("idle", UNTIL))
        subscribed = answer(await office.ask(SubscribeParams(tokens=[3], mode="full")))
        assert (subscribed.confirmed, subscribed.saved, pending(subscribed)) == (False, True, [(2, UNTIL)])
        moved = answer(await office.ask(SetModeParams(tokens=[1], mode="full")))
        assert pending(moved) == [(2, UNTIL)]
        assert pending(answer(await office.ask(MirrorParams(on=True)))) == [(3, UNTIL)]
        gone = answer(await office.ask(UnsubscribeParams(tokens=[1, 2])))
        assert (gone.confirmed, gone.pending) == (True, [])
        assert office.workers.told == {1: {}, 2: {}, 3: {}}
        office.desk.open((), {})
        assert office.workers.told == {1: {}, 2: {3: "full"}, 3: {}}

    run(scene)


def test_there_is_nothing_to_fail_over_meanwhile():
    """It is refused, with the reason."""

    async def scene():
        office = Office()
        await office.subscribe([1, 2])
        office.desk.rest(UNTIL, (), {})
        task = await office.ask(FailoverParams(connection_id=1))
        with pytest.raises(RequestRefusedError, match=UNTIL):
            answer(task)
        assert answer(await office.ask(FailbackParams())).instruments == []

    run(scene)


def test_what_a_worker_answers_for_is_saved():
    """It is written down as soon as that is heard: until then the file says that its successor has to be told."""

    async def scene():
        office = Office()
        office.desk.hear({"connection_id": 1})
        await turns()
        assert office.saved == []
        office.desk.hear({"connection_id": 1, "is_news": True})
        await turns()
        assert len(office.saved) == 1

    run(scene)
