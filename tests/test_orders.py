"""Orders to the workers: one at a time, and at random with workers that die and a road that loses and delays."""

from collections import defaultdict, deque
from typing import Any, cast
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.arrivals import Arrivals
from pipeline.config import Mode
from pipeline.kite.feed import StateChange, next_batch
from pipeline.supervisor.orders import AGAIN_S, Orders
from pipeline.supervisor.subscriptions import Instruments
from pipeline.wire import Order, decode_order
from pipeline.worker import Worker

BATCH = 2  # tokens in one request to Kite
ROUNDS = 5  # of a mended road, in which everybody has to know what is to be known
CONNECTIONS = (1, 2)
TOKENS = range(1, 9)
NOW_NS = 1_759_290_000_000_000_000


class SimulatedWorker(Worker):
    """A worker without sockets and files: what obeys, settles and hears the feed is the real one's."""

    def __init__(self, connection_id, reports):
        self.wire: dict[int, Mode] = {}  # what Kite has been sent on the present socket
        self.is_live = False
        self.is_parting = False
        self.ticking: set[int] = set()  # of these, what has ticked
        self._connection_id = connection_id
        self._reports = reports
        self.first_order: Any = None
        self._service, self._version, self._lost_order = "", 0, False
        self._wanted, self._frames = {}, []
        self._timers: list[Any] = []
        self._arrivals = Arrivals(mock.Mock(), self._report, lambda _, *call: self._timers.append(call))
        self._state = StateChange("idle")
        self._uplink, self._gaps, self._ordered = mock.Mock(), mock.Mock(), mock.Mock()
        self._feed = cast(Any, mock.Mock(confirmed=self.wire))
        self._logbook = mock.Mock()

    def _want(self, wanted, order):
        self.first_order = order if not self._service else self.first_order
        self._wanted = wanted

    def _report(self):
        self._reports.append(
            {
                "connection_id": self._connection_id,
                "service": self._service,
                "version": self._version,
                "lost_order": self._lost_order,
                "state": "live" if self.is_live else "down",
                "unsent": self._unsent() if self.is_live else [],
                "unseen": list(self._arrivals.unseen),
                "covered_ns": NOW_NS,
                "parting": self.is_parting,
            }
        )

    def told(self):
        """Return by whom, and the number."""
        return self._service, self._version

    def receive(self, data):
        """Take an order from the road."""
        self._obey(decode_order(data))

    def send(self):
        """Send Kite the next batch; return whether there was one."""
        if not self.is_live:
            self.is_live = True
            self.on_state(StateChange("live"))
        batch = next_batch(self.wire, self._wanted, BATCH)
        if batch is None:
            return False
        if batch.mode is None:
            for token in batch.tokens:
                del self.wire[token]
        else:
            self.wire.update(dict.fromkeys(batch.tokens, batch.mode))
        self._arrivals.sent(batch)
        if batch.action == "subscribe":
            self.ticking.difference_update(batch.tokens)
        self._report()
        return True

    def tick(self):
        """Let everything tick that is on the wire."""
        self.ticking.update(self.wire)
        self._arrivals.hear()
        with mock.patch("pipeline.arrivals.asyncio"):
            self._arrivals.see(self.ticking)
        timers, self._timers = self._timers, []
        for do, *arguments in timers:
            do(*arguments)
        self._report()

    def lose_socket(self):
        """Be cut off from Kite."""
        self.wire.clear()
        self.ticking.clear()
        self.is_live = False
        self.on_state(StateChange("waiting", "closed"))

    def report(self):
        """Report once more, as every second."""
        self._report()


class House:
    """A supervisor's orders, one worker, and the road between them."""

    def __init__(self):
        self.now_s = 0.0
        self.sent: deque[bytes] = deque()
        self.reports: deque[dict[str, Any]] = deque()
        self.orders = Orders("s1", lambda _, data: self.sent.append(data), clock=lambda: self.now_s)
        self.worker = SimulatedWorker(1, self.reports)

    def deliver(self, wanted):
        """Bring orders to the worker and reports back until there are none; return the orders."""
        delivered = []
        while self.sent or self.reports:
            while self.sent:
                delivered.append(self.sent.popleft())
                self.worker.receive(delivered[-1])
            while self.reports:
                self.orders.hear(self.reports.popleft(), wanted)
        return [decode_order(data) for data in delivered]

    def covered(self):
        """Return what the worker is known to record."""
        return {token for token in TOKENS if self.orders.covers(1, token)}

    def is_sent(self, version):
        """Tell whether Kite is known to have been sent what this order says, of everything."""
        return self.orders.is_sent(1, version, TOKENS)

    def carry_out(self, wanted):
        """Let the worker do what it was told."""
        while self.worker.send():
            pass
        self.worker.tick()
        self.deliver(wanted)


@pytest.fixture
def house():
    """A supervisor's orders, one worker, and the road between them."""
    return House()


def test_the_first_order_is_whole_even_if_it_is_for_nothing(house):
    """A worker that may have instruments from before learns that it is to have none."""
    assert house.orders.tell(1, {})
    assert house.deliver({}) == [Order("s1", 1, 0, {}, [])]
    assert not house.orders.tell(1, {})
    assert house.sent == deque()
    assert house.is_sent(1)
    assert house.covered() == set()


def test_only_differences_are_told(house):
    """A later order names what is new, has another mode, or is to go; where nothing is different, there is none."""
    house.orders.tell(1, {5: "quote", 6: "quote", 7: "ltp"})
    house.deliver({})
    wanted = {8: "full", 6: "ltp", 7: "ltp"}
    assert house.orders.tell(1, wanted)
    (order,) = house.deliver(wanted)
    assert order._replace(relieved={}) == Order("s1", 2, 1, {8: "full", 6: "ltp"}, [5])
    assert order.relieved.keys() == {5}
    assert not house.orders.tell(1, dict(wanted))
    house.carry_out(wanted)
    assert house.worker.wire == wanted


def test_an_order_is_confirmed_once_it_has_been_sent_and_covered_once_it_ticks(house):
    """Each of the two is known as soon as the worker says so, and of this order and those before it."""
    wanted = {5: "quote"}
    house.orders.tell(1, wanted)
    house.deliver(wanted)
    assert not house.is_sent(1)
    assert house.worker.send()
    house.deliver(wanted)
    assert house.is_sent(house.orders.version(1))
    assert house.covered() == set()
    house.worker.tick()
    house.deliver(wanted)
    assert house.covered() == {5}
    house.orders.tell(1, {5: "quote", 6: "quote"})
    assert house.is_sent(1)
    assert not house.is_sent(house.orders.version(1))
    assert house.covered() == {5}
    house.orders.tell(1, {5: "full", 6: "quote"})
    assert house.covered() == set()


def test_one_instrument_does_not_wait_for_another(house):
    """What has been sent and ticks is known, however much else is still to come."""
    wanted = dict.fromkeys(TOKENS, "quote")
    house.orders.tell(1, wanted)
    house.deliver(wanted)
    assert house.worker.send()
    house.worker.tick()
    house.deliver(wanted)
    assert house.covered() == {7, 8}
    assert house.orders.is_sent(1, 1, [7, 8])
    assert not house.orders.is_sent(1, 1, [6, 7])


def test_a_successor_learns_what_its_predecessor_had(house):
    """The last order that was acknowledged counts, and since when others have what went while nobody listened."""
    wanted = {5: "quote", 6: "quote"}
    house.orders.tell(1, wanted)
    house.deliver(wanted)
    house.carry_out(wanted)
    assert house.worker.first_order.before is None
    house.worker = SimulatedWorker(1, house.reports)
    house.orders.relieve(1, [6], by=1)
    house.orders.tell(1, {5: "quote", 7: "quote"})
    house.sent.clear()
    house.worker.report()
    house.deliver({7: "quote"})
    assert sorted(house.worker.first_order.before) == [5, 6]
    assert house.worker.first_order.relieved == {6: NOW_NS}
    assert house.worker.first_order.changed == {7: "quote"}


def test_the_first_worker_of_a_run_learns_what_the_last_run_had(house):
    """The supervisor that begins knows it from its file."""
    house.orders = Orders("s2", lambda _, data: house.sent.append(data), {1: [3, 4]}, clock=lambda: house.now_s)
    house.orders.tell(1, {3: "quote"})
    house.deliver({3: "quote"})
    assert house.worker.first_order.before == [3, 4]
    house.orders = Orders("s3", lambda _, data: house.sent.append(data), {2: [3, 4]}, clock=lambda: house.now_s)
    house.worker = SimulatedWorker(1, house.reports)
    house.orders.tell(1, {3: "quote"})
    house.deliver({3: "quote"})
    assert house.worker.first_order.before == []


def test_what_others_keep_is_told_as_such(house):
    """Only what is new can be kept by another; a worker that begins anew is told again."""
    house.orders.tell(1, {5: "full"})
    house.deliver({5: "full"})
    wanted = {5: "full", 6: "quote", 7: "quote"}
    house.orders.tell(1, wanted, held={5, 6})
    assert [order.held for order in house.deliver(wanted)] == [(6,)]
    house.worker = SimulatedWorker(1, house.reports)
    house.orders.hear({"connection_id": 1}, wanted, {7})
    assert [order.held for order in house.deliver(wanted)] == [(7,)]


def test_what_is_kept_no_longer_is_told(house):
    """It is nobody's but this worker's now, who has not recorded it yet; what it has covered needs no word."""
    wanted = {6: "quote", 7: "quote"}
    house.orders.tell(1, wanted, held={6, 7})
    house.deliver(wanted)
    house.carry_out(wanted)
    assert not house.orders.tell(1, wanted)
    house.worker.lose_socket()
    house.deliver(wanted)
    house.orders.tell(1, wanted, keep_open=True, held={6, 7})
    house.orders.tell(1, wanted, keep_open=True, held={7})
    assert [(order.changed, order.held) for order in house.deliver(wanted)][1:] == [({6: "quote"}, ())]


def test_who_has_ended_covers_nothing(house):
    """Whatever a process has said: when it is gone, it does not record."""
    wanted = {6: "quote"}
    house.orders.tell(1, wanted)
    house.deliver(wanted)
    house.carry_out(wanted)
    assert house.covered() == {6}
    house.orders.gone(1)
    assert house.covered() == set()


def test_what_is_told_again_is_covered_when_the_worker_has_answered(house):
    """It may have hung since it said that it records it."""
    wanted = {5: "full", 6: "quote"}
    house.orders.tell(1, wanted)
    house.deliver(wanted)
    house.carry_out(wanted)
    assert not house.orders.tell(1, wanted)
    assert house.orders.tell(1, wanted, again=[6, 7])
    assert house.covered() == {5}
    (order,) = house.deliver(wanted)
    assert order.changed == {6: "quote"}
    assert house.covered() == {5, 6}


def test_what_comes_and_goes_while_nobody_listens_is_told_to_the_successor(house):
    """Unsubscribed and subscribed again: it was not missed in between, and is missed since."""
    house.orders.tell(1, {5: "quote", 6: "quote"})
    house.deliver({})
    house.worker = SimulatedWorker(1, house.reports)
    house.orders.tell(1, {6: "quote"})
    house.orders.tell(1, {5: "quote", 6: "quote"})
    house.sent.clear()
    house.worker.report()
    house.deliver({5: "quote", 6: "quote"})
    order = house.worker.first_order
    assert sorted(order.before) == [5, 6]
    assert order.relieved.keys() == order.missing.keys() == {5}
    assert order.relieved[5] <= order.missing[5]


def test_who_may_have_a_dead_socket_is_not_believed_yet(house):
    """What was taken off it counts as had until a frame has come: its successor has to tell what was missed."""
    wanted = {5: "quote", 6: "quote"}
    house.orders.tell(1, wanted)
    house.deliver(wanted)
    house.orders.tell(1, {6: "quote"})
    house.worker.is_parting = True
    house.deliver({6: "quote"})
    assert house.worker.told() == ("s1", 2)
    had, relieved, _ = house.orders.unheard()[1]
    assert (sorted(had), list(relieved)) == ([5, 6], [5])
    house.worker.is_parting = False
    house.worker.report()
    house.deliver({6: "quote"})
    assert house.orders.unheard() == {}


def test_a_connection_may_be_kept_open(house):
    """With nothing to record it is told so all the same, once."""
    house.orders.tell(1, {})
    house.deliver({})
    assert house.orders.tell(1, {}, keep_open=True)
    assert not house.orders.tell(1, {}, keep_open=True)
    (order,) = house.deliver({})
    assert order.keep_open
    assert house.orders.tell(1, {})
    assert not house.deliver({})[0].keep_open


def test_a_lost_order_is_told_again_after_a_while(house):
    """A report that was under way with the order changes nothing; a later one brings all of it again."""
    wanted = {5: "quote", 6: "full"}
    house.orders.tell(1, {5: "quote"})
    house.deliver({})
    house.orders.tell(1, wanted)
    house.sent.clear()
    house.worker.report()
    assert house.deliver(wanted) == []
    house.now_s += AGAIN_S + 0.01
    house.worker.report()
    (order,) = house.deliver(wanted)
    assert (order.version, order.after, order.changed) == (3, 0, wanted)
    house.carry_out(wanted)
    assert house.covered() == wanted.keys()


def test_a_lost_order_is_told_again_however_many_follow(house):
    """Later orders do not put it off: the worker asks as soon as one does not follow."""
    house.orders.tell(1, {5: "quote"})
    house.deliver({})
    house.orders.tell(1, {6: "quote"})
    house.sent.clear()
    wanted = {6: "quote", 7: "quote"}
    house.orders.tell(1, wanted)
    house.deliver(wanted)
    assert house.worker.told() == ("s1", 4)
    house.carry_out(wanted)
    assert house.worker.wire == wanted


def test_an_order_that_follows_a_lost_one_is_not_carried_out(house):
    """What it leaves out is not known, so the worker keeps what it had until it gets a whole one."""
    house.orders.tell(1, {5: "quote"})
    house.deliver({})
    house.orders.tell(1, {6: "quote"})
    house.sent.clear()
    house.orders.tell(1, {6: "quote", 7: "quote"})
    house.worker.receive(house.sent.popleft())
    assert house.worker.told() == ("s1", 1)
    while house.worker.send():
        pass
    assert house.worker.wire == {5: "quote"}


def test_an_old_order_that_comes_late_changes_nothing(house):
    """An order that a whole one has overtaken is passed over, and nothing is asked for."""
    house.orders.tell(1, {5: "quote"})
    house.deliver({})
    house.orders.tell(1, {6: "quote"})
    late = house.sent.popleft()
    house.worker._lost_order = True
    house.worker.report()
    house.deliver({6: "quote"})
    assert house.worker.told() == ("s1", 3)
    house.worker.receive(late)
    assert house.worker.told() == ("s1", 3)
    assert not house.reports


def test_a_new_worker_is_told_everything_at_once(house):
    """It knows of nobody; what its predecessor covered does not count for it."""
    wanted = {5: "quote"}
    house.orders.tell(1, wanted)
    house.deliver(wanted)
    house.carry_out(wanted)
    assert house.covered() == {5}
    house.worker = SimulatedWorker(1, house.reports)
    house.worker.report()
    (order,) = house.deliver(wanted)
    assert (order.version, order.after, order.changed) == (house.orders.version(1), 0, wanted)
    assert house.covered() == set()
    house.carry_out(wanted)
    assert house.covered() == {5}


def test_a_new_supervisor_tells_everything(house):
    """Numbers of an earlier supervisor's orders mean nothing to it, however high they are."""
    for token in range(1, 9):
        house.orders.tell(1, {token: "quote"})
        house.deliver({})
    house.carry_out({8: "quote"})
    house.worker.report()
    house.orders = Orders("s2", lambda _, data: house.sent.append(data), clock=lambda: house.now_s)
    house.orders.tell(1, {1: "full"})
    assert house.covered() == set()
    assert not house.is_sent(1)
    orders = house.deliver({1: "full"})
    assert not house.is_sent(1)
    assert house.covered() == set()
    assert {(order.service, order.after) for order in orders} == {("s2", 0)}
    house.carry_out({1: "full"})
    assert house.worker.wire == {1: "full"}
    assert house.covered() == {1}


def test_an_order_does_not_follow_that_of_another_supervisor(house):
    """Though the numbers fit: what a new supervisor's lost order said is not known."""
    house.orders.tell(1, {5: "quote"})
    house.deliver({5: "quote"})
    house.orders = Orders("s2", lambda _, data: house.sent.append(data), clock=lambda: house.now_s)
    house.orders.tell(1, {6: "quote"})
    house.sent.clear()
    house.orders.tell(1, {6: "quote", 7: "quote"})
    house.worker.receive(house.sent.popleft())
    assert house.worker.told() == ("s1", 1)
    wanted = {6: "quote", 7: "quote"}
    house.deliver(wanted)
    house.carry_out(wanted)
    assert house.worker.wire == wanted


def test_a_connection_that_has_lost_its_socket_covers_nothing(house):
    """What was on the wire of a socket that is gone is not on the wire; it is again once it has been sent and ticks."""
    wanted = {5: "quote"}
    house.orders.tell(1, wanted)
    house.deliver(wanted)
    house.carry_out(wanted)
    assert house.covered() == {5}
    house.worker.lose_socket()
    house.deliver(wanted)
    assert house.covered() == set()
    assert not house.is_sent(1)
    house.carry_out(wanted)
    assert house.covered() == {5}


tokens = st.dictionaries(st.sampled_from(TOKENS), st.sampled_from(["ltp", "quote", "full"]), max_size=5)
each_connection = st.sampled_from(CONNECTIONS)


class Road(RuleBasedStateMachine):
    """A supervisor that changes its mind, and workers; either may be started anew, and all between them may be lost."""

    @initialize()
    def begin(self):
        """Start all of them."""
        self.now_s = 0.0
        self.services = 0
        self.wanted: dict[int, Instruments] = {c: {} for c in CONNECTIONS}
        self.sent: dict[int, deque[bytes]] = {c: deque() for c in CONNECTIONS}
        self.reports: dict[int, deque[dict[str, Any]]] = {c: deque() for c in CONNECTIONS}
        self.workers = {c: SimulatedWorker(c, self.reports[c]) for c in CONNECTIONS}
        self.new_supervisor()

    # What is wished for, and what becomes of it.

    @rule(connection_id=each_connection, wanted=tokens)
    def want(self, connection_id, wanted):
        """Other instruments, or the same in other modes."""
        is_new = wanted != self.wanted[connection_id]
        self.wanted[connection_id] = wanted
        before = len(self.contents[connection_id])
        assert self.orders.tell(connection_id, dict(wanted)) == is_new
        assert len(self.contents[connection_id]) == before + is_new

    @rule(connection_id=each_connection)
    def deliver(self, connection_id):
        """An order arrives."""
        if self.sent[connection_id]:
            self.workers[connection_id].receive(self.sent[connection_id].popleft())
            self._watch()

    @rule(connection_id=each_connection, batches=st.integers(1, 3))
    def send(self, connection_id, batches):
        """A worker sends Kite something."""
        for _ in range(batches):
            self.workers[connection_id].send()
            self._watch()

    @rule(connection_id=each_connection)
    def tick(self, connection_id):
        """What is on the wire ticks."""
        self.workers[connection_id].tick()
        self._watch()

    @rule(connection_id=each_connection)
    def report(self, connection_id):
        """A worker reports, as every second."""
        self.workers[connection_id].report()

    @rule(connection_id=each_connection, number=st.integers(1, 3))
    def hear(self, connection_id, number):
        """Reports arrive, in order."""
        for _ in range(min(number, len(self.reports[connection_id]))):
            report = self.reports[connection_id].popleft()
            self.orders.hear(report, dict(self.wanted[connection_id]))

    @rule(seconds=st.sampled_from([0.1, 1.0]))
    def wait(self, seconds):
        """Time passes."""
        self.now_s += seconds

    # Disasters.

    @precondition(lambda self: any(self.sent.values()))
    @rule(connection_id=each_connection)
    def lose(self, connection_id):
        """An order is lost."""
        if self.sent[connection_id]:
            self.sent[connection_id].popleft()

    @rule(connection_id=each_connection)
    def lose_socket(self, connection_id):
        """A connection closes."""
        self.workers[connection_id].lose_socket()

    @rule(connection_id=each_connection, orders_are_lost=st.booleans())
    def new_worker(self, connection_id, orders_are_lost):
        """A worker dies, and the last words of the old one are not heard; its successor may get its orders."""
        self.reports[connection_id].clear()
        if orders_are_lost:
            self.sent[connection_id].clear()
        self.workers[connection_id] = SimulatedWorker(connection_id, self.reports[connection_id])

    @rule()
    def new_supervisor(self):
        """The supervisor dies; what was under way to the workers still arrives, and reports for it as well."""
        self.services += 1
        self.contents: dict[int, list[Instruments]] = defaultdict(list)  # of this supervisor's orders
        self.carried_out = dict.fromkeys(CONNECTIONS, 0)  # the latest of them that was sent to Kite as a whole
        self.ticked: dict[int, dict[tuple[int, Mode], int]] = defaultdict(dict)  # and under which order at last
        self.orders = Orders(f"s{self.services}", self._send, clock=lambda: self.now_s)
        for connection_id in CONNECTIONS:
            assert self.orders.tell(connection_id, dict(self.wanted[connection_id]))

    @rule()
    def mend(self):
        """When nothing is lost any more, all workers have on the wire what is wanted, and the supervisor knows it."""
        for _ in range(ROUNDS):
            self.now_s += 1.0
            for connection_id, worker in self.workers.items():
                worker.report()
                while self.reports[connection_id] or self.sent[connection_id]:
                    self.hear(connection_id, 3)
                    self.deliver(connection_id)
                while worker.send():
                    self._watch()
                self.tick(connection_id)
        for connection_id, worker in self.workers.items():
            assert worker.wire == self.wanted[connection_id]
            assert self.orders.is_sent(connection_id, self.orders.version(connection_id), TOKENS)
            assert all(self.orders.covers(connection_id, token) for token in self.wanted[connection_id])

    def teardown(self):
        """Mend the road."""
        if hasattr(self, "orders"):
            self.mend()

    # What always holds.

    @invariant()
    def nothing_is_believed_too_early(self):
        """What is confirmed has been sent to Kite, what is covered has ticked."""
        for connection_id in CONNECTIONS:
            contents = self.contents[connection_id]
            version = self.orders.version(connection_id)
            assert version == len(contents)
            for number in range(1, version + 1):
                if self.orders.is_sent(connection_id, number, TOKENS):
                    assert number <= self.carried_out[connection_id]
            for token in TOKENS:
                if self.orders.covers(connection_id, token):
                    told = version  # when this instrument was told in its present mode
                    while told > 1 and contents[told - 2].get(token) == contents[-1][token]:
                        told -= 1
                    assert self.ticked[connection_id].get((token, contents[-1][token]), 0) >= told

    @invariant()
    def workers_have_what_they_were_told(self):
        """A worker never follows an order whose predecessor it does not know."""
        for connection_id, worker in self.workers.items():
            service, version = worker.told()
            if service == f"s{self.services}":
                assert worker._wanted == self.contents[connection_id][version - 1]

    def _send(self, connection_id, data):
        assert decode_order(data).version == len(self.contents[connection_id]) + 1
        self.contents[connection_id].append(dict(self.wanted[connection_id]))
        self.sent[connection_id].append(data)

    def _watch(self):
        """Take note of which orders have been carried out by now."""
        for connection_id, worker in self.workers.items():
            service, version = worker.told()
            if service != f"s{self.services}":
                continue
            if worker.wire == self.contents[connection_id][version - 1]:
                self.carried_out[connection_id] = max(self.carried_out[connection_id], version)
            seen = {(token, worker.wire[token]): version for token in worker.ticking & worker.wire.keys()}
            self.ticked[connection_id].update(seen)


TestRoad = Road.TestCase
TestRoad.settings = settings(max_examples=120, stateful_step_count=40, deadline=None, report_multiple_bugs=False)


def test_what_is_due_is_told_until_it_is_heard(house):
    """A worker that is not there learns later since when it should have recorded; once it knows, it is told no more."""
    house.orders.tell(1, {})
    house.orders.rests = ((1, 2),)
    house.orders.expect(1, {5: 2, 6: 2})
    house.orders.tell(1, {5: "quote"})
    house.sent.clear()
    house.worker = SimulatedWorker(1, house.reports)
    house.worker._report()
    order = house.deliver({5: "quote"})[-1]
    assert (order.due, order.rests) == ({5: 2, 6: 2}, ((1, 2),))
    house.orders.tell(1, {5: "quote", 7: "quote"})
    assert [order.due for order in house.deliver({5: "quote", 7: "quote"})] == [{}]


def test_it_tells_when_a_worker_has_done_what_it_was_told(house):
    """Once for each order: then its successor need not be told any more what it had before."""
    house.orders.tell(1, {5: "quote"})
    status = {"connection_id": 1, "service": "s1", "state": "live", "unsent": [], "unseen": [], "covered_ns": 0}
    status |= {"lost_order": False}
    told = [house.orders.hear(status | {"version": version}, {5: "quote"}) for version in (0, 1, 1)]
    assert told == [False, True, False]
    house.orders.tell(1, {})
    told = [house.orders.hear(status | {"version": 2, "parting": parting}, {}) for parting in (True, False)]
    assert told == [False, True]
