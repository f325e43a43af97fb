"""What to do when something fails: histories of deaths and of connections, in seconds."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.supervisor.policy import (
    CAP_S,
    FIRST_S,
    FORGIVEN_S,
    WRITER_CAP_S,
    Event,
    FailOver,
    FailoverPolicy,
    Heartbeats,
    Restarts,
    Situation,
)


def test_the_writer_is_restarted_at_once_and_then_within_its_cap():
    """Every worker waits for the writer: its first restart has no delay, and none is above a second."""
    restarts = Restarts(is_writer=True)
    delays = [restarts.died(0.0) for _ in range(20)]
    assert delays[0] == 0.0
    assert all(delay_s is not None and 0 < delay_s <= WRITER_CAP_S for delay_s in delays[1:])
    assert restarts.count == 20


def test_a_worker_backs_off_to_its_cap():
    """A worker that dies again and again waits longer each time, up to the cap."""
    restarts = Restarts(is_writer=False)
    delays = [restarts.died(1.0) for _ in range(20)]
    assert all(delays)
    assert FIRST_S / 2 <= (delays[0] or 0) <= FIRST_S
    assert CAP_S / 2 <= (delays[-1] or 0) <= CAP_S


@pytest.mark.parametrize(("is_writer", "longest_s"), [(True, 0.0), (False, FIRST_S)])
def test_who_ran_long_begins_anew(is_writer, longest_s):
    """After a long life a death counts as the first one, while the count goes on."""
    restarts = Restarts(is_writer=is_writer)
    for _ in range(10):
        restarts.died(0.0)
    assert restarts.died(FORGIVEN_S + 1) <= longest_s
    assert restarts.count == 11


def test_who_dies_too_often_is_given_up():
    """More deaths than allowed within a minute end it; spread over longer they do not, and a wish begins anew."""
    restarts = Restarts(is_writer=False, max_deaths=3)
    assert all(restarts.died(1.0, now_s) is not None for now_s in (0.0, 1.0, 2.0))
    assert restarts.died(1.0, 3.0) is None
    restarts.forget()
    assert restarts.died(1.0, 4.0) is not None
    slowly = Restarts(is_writer=False, max_deaths=3)
    assert all(slowly.died(1.0, 21.0 * n) is not None for n in range(20))
    writer = Restarts(is_writer=True, max_deaths=3)
    assert all(writer.died(0.0, 0.0) is not None for _ in range(20))


def test_who_is_silent_for_too_long_hangs():
    """The first heartbeat may take longer; who has ended is not waited for."""
    heartbeats = Heartbeats(limit_s=2.0, starting_s=10.0)
    heartbeats.started("writer", 0.0)
    heartbeats.started("worker-1", 0.0)
    for tenth in range(100):
        assert heartbeats.overdue(tenth / 10) == []
        heartbeats.heard("worker-1", tenth / 10)
    heartbeats.heard("writer", 9.9)
    assert [role for tenth in range(100, 119) for role in heartbeats.overdue(tenth / 10)] == []
    heartbeats.heard("worker-1", 11.8)
    assert heartbeats.overdue(12.0) == ["writer"]
    heartbeats.ended("writer")
    heartbeats.heard("writer", 12.0)  # its last words
    assert [role for tenth in range(121, 160) for role in heartbeats.overdue(tenth / 10)] == ["worker-1"] * 21


def test_a_checker_that_hung_itself_accuses_nobody():
    """After a pause of its own (a suspended machine, a stopped process) everybody has the whole time again."""
    heartbeats = Heartbeats(limit_s=2.0, starting_s=10.0)
    heartbeats.started("writer", 0.0, is_new=False)
    assert heartbeats.overdue(0.5) == []
    assert heartbeats.overdue(100.0) == []
    assert heartbeats.overdue(100.9) == []
    assert [heartbeats.overdue(100.9 + n * 0.5) for n in range(1, 4)] == [[], [], ["writer"]]


AFTER_S, STABLE_S, STARTING_S = 1.0, 30.0, 5.0


class Service:
    """The policy with the subscriptions that follow it; what it does is in `done`, with the time."""

    def __init__(self, *, has_spare: bool = True, homes: tuple[int, ...] = (1, 2), all_live: bool = True) -> None:
        self.policy = FailoverPolicy(after_s=AFTER_S, stable_s=STABLE_S, starting_s=STARTING_S, has_spare=has_spare)
        self.homes = set(homes)
        self.failed_over: dict[int, set[int]] = {}
        self.by_hand: set[int] = set()
        self.waiting: set[int] = set()
        self.done: list[tuple[float, str, int]] = []
        self.now_s = 0.0
        if all_live:
            for connection_id in (1, 2, 3):
                self.hear(connection_id, "started")
                if connection_id in homes:
                    self.hear(connection_id, "connecting", "live")
                else:
                    self.hear(connection_id, "idle")

    def hear(self, connection_id: int, *events: Event) -> None:
        for event in events:
            self.policy.hear(connection_id, event, self.now_s)

    @property
    def situation(self) -> Situation:
        return Situation(self.homes, self.failed_over, self.by_hand, self.waiting)

    @property
    def unfit(self) -> set[int]:
        return self.policy.unfit(self.situation, self.now_s)

    @property
    def kept_open(self) -> set[int]:
        return self.policy.to_keep_open(self.situation, self.now_s)

    def until(self, end_s: float) -> list[tuple[float, str, int]]:
        """Let time pass, in steps that add up exactly; return what was done."""
        before = len(self.done)
        while True:
            for action in self.policy.actions(self.situation, self.now_s):
                self.done.append((self.now_s, type(action).__name__, action.connection_id))
                if isinstance(action, FailOver):
                    self.failed_over[action.connection_id] = {3}
                else:
                    del self.failed_over[action.connection_id]
            if self.now_s >= end_s:
                return self.done[before:]
            self.now_s += 0.125


def test_a_dead_process_is_covered_at_once_and_gets_its_instruments_back_when_it_is_stable():
    """The spare takes over without waiting; thirty seconds after the connection is live again it gives back."""
    service = Service()
    service.hear(1, "died")
    assert service.until(0.5) == [(0.0, "FailOver", 1)]
    service.hear(3, "connecting", "live")
    service.hear(1, "started", "connecting")
    assert service.kept_open == {1}
    service.hear(1, "live")
    assert service.until(30.25) == []
    assert service.until(31.0) == [(30.5, "FailBack", 1)]
    service.hear(3, "idle")
    assert service.kept_open == set()
    assert service.policy.state(3) == "standby"


@pytest.mark.parametrize("event", ["closed", "silent"])
def test_a_socket_has_a_moment_to_come_back_by_itself(event):
    """A closed socket that is open again within the time is no failover; one that stays away is."""
    service = Service()
    service.hear(2, event)
    assert service.until(0.75) == []
    service.hear(2, "connecting", "live")
    assert service.until(5.0) == []
    service.hear(2, event, "connecting")
    assert service.until(7.0) == [(6.0, "FailOver", 2)]


def test_a_network_outage_is_no_failover():
    """With all connections gone the spare only tries; when the network is back everybody is where they were."""
    service = Service()
    service.hear(1, "silent", "connecting")
    service.hear(2, "silent", "connecting")
    assert service.kept_open == {3}
    service.hear(3, "connecting", "closed", "connecting")
    assert service.until(60.0) == []
    service.hear(1, "live")
    service.hear(2, "live")
    assert service.kept_open == set()
    assert service.until(120.0) == []


def test_both_sockets_gone_and_the_spare_connects():
    """It is not the network when the spare finds its way: it takes over for both."""
    service = Service()
    service.hear(1, "closed", "connecting")
    service.hear(2, "closed", "connecting")
    service.hear(3, "connecting", "live")
    assert service.until(2.0) == [(1.0, "FailOver", 1), (1.0, "FailOver", 2)]


def test_who_gets_the_slot_first_covers():
    """A connection that is back before the spare is live keeps its instruments."""
    service = Service()
    service.hear(1, "silent")
    assert service.until(1.25) == [(1.0, "FailOver", 1)]
    service.hear(3, "connecting", "limited")
    service.hear(1, "connecting", "live")
    assert service.until(1.5) == [(1.25, "FailBack", 1)]


def test_the_spare_that_fails_gives_back_at_once():
    """A connection that is live again but not yet stable is better than none."""
    service = Service()
    service.hear(1, "died")
    service.until(0.25)
    service.hear(3, "connecting", "live")
    service.hear(1, "started", "connecting", "live")
    assert service.until(10.0) == []
    service.hear(3, "died")
    assert service.until(10.25) == [(10.0, "FailBack", 1)]


@pytest.mark.parametrize("event", ["refused", "limited"])
def test_what_kite_refuses_the_spare_would_not_be_given_either(event):
    """403 and 429 are waited out, while it is tried again too."""
    service = Service()
    service.hear(1, event, "connecting")
    assert service.until(20.0) == []
    assert service.kept_open == set()
    service.hear(1, event)
    assert service.until(100.0) == []
    service.hear(1, "connecting", "closed")
    assert service.until(101.0) == [(100.0, "FailOver", 1)]


def test_a_slow_start_is_no_failure():
    """A connection that was never live has longer; after that it is covered like another."""
    service = Service(all_live=False)
    for connection_id in (1, 2, 3):
        service.hear(connection_id, "started")
    service.hear(2, "connecting", "live")
    service.hear(1, "connecting")
    assert service.until(4.5) == []
    assert service.kept_open == set()
    assert service.until(6.0) == [(5.0, "FailOver", 1)]


def test_a_connection_that_was_idle_has_not_been_lost_meanwhile():
    """Its time counts from when it has something to record."""
    service = Service(homes=(2,))
    assert service.until(100.0) == []
    service.homes.add(1)
    service.hear(1, "connecting")
    assert service.until(104.0) == []


def test_a_connection_without_instruments_needs_no_spare():
    """When all that was taken over is unsubscribed, the spare is free again."""
    service = Service()
    service.hear(1, "died")
    assert service.until(0.25) == [(0.0, "FailOver", 1)]
    service.homes.discard(1)
    assert service.until(0.5) == [(0.25, "FailBack", 1)]


def test_what_is_done_by_hand_is_undone_by_hand():
    """A drill lasts until it is ended."""
    service = Service()
    service.failed_over[1] = {3}
    service.by_hand.add(1)
    service.hear(3, "connecting", "live")
    assert service.kept_open == {1}
    assert service.until(100.0) == []


def test_what_is_done_by_hand_is_undone_where_the_spare_fails():
    """A drill must not cost anything: the connection is live, and takes its instruments back."""
    service = Service()
    service.failed_over[1] = {3}
    service.by_hand.add(1)
    service.hear(3, "connecting")
    assert service.until(STARTING_S) == []
    service.hear(3, "live", "closed", "connecting")
    assert service.until(5.75) == []
    assert service.until(6.25) == [(6.0, "FailBack", 1)]
    service.failed_over[2] = {3}
    service.by_hand.add(2)
    service.hear(3, "live")
    assert service.until(7.0) == []
    service.hear(3, "died")
    assert service.until(7.25) == [(7.0, "FailBack", 2)]


@pytest.mark.parametrize("by_hand", [False, True])
def test_who_is_live_makes_room_for_others(by_hand):
    """Where something of another home finds no place, a live connection does not wait to be stable."""
    service = Service()
    service.failed_over[1] = {3}
    service.by_hand |= {1} if by_hand else set()
    service.hear(3, "connecting", "live")
    service.hear(2, "died")
    assert service.until(0.25) == [(0.0, "FailOver", 2)]
    service.waiting.add(2)
    assert service.until(0.5) == [(0.25, "FailBack", 1)]


def test_without_the_spare_another_takes_over():
    """The spare has been given up: who else can record does, and nobody moves where nobody can."""
    service = Service()
    service.hear(3, "given_up")
    service.hear(1, "given_up")
    assert service.until(0.25) == [(0.0, "FailOver", 1)]
    service.hear(2, "died")
    assert service.until(1.0) == []


def test_the_spare_s_own_instruments_are_taken_over_too():
    """What was subscribed on connection 3 is carried by the others."""
    service = Service(homes=(1, 2, 3))
    service.hear(3, "connecting", "live", "died")
    assert service.until(0.25) == [(0.0, "FailOver", 3)]
    service.failed_over[3] = {1}
    service.hear(3, "started", "connecting", "live")
    assert service.until(30.5) == [(30.25, "FailBack", 3)]


def test_after_an_outage_nobody_is_in_a_hurry():
    """The first connection that is live again does not take the other for lost: that one has its moment as well."""
    service = Service()
    for connection_id in (1, 2):
        service.hear(connection_id, "closed", "connecting")
    assert service.until(20.0) == []
    service.hear(1, "live")
    assert service.until(20.875) == []
    service.hear(2, "live")
    assert service.until(60.0) == []


def test_who_cannot_record_is_unfit():
    """Gone, refused, or away for more than a moment; at first a connection has longer."""
    service = Service()
    assert service.unfit == set()
    service.hear(1, "closed", "connecting")
    service.hear(2, "limited")
    service.hear(3, "connecting")
    assert service.unfit == {2}
    service.until(AFTER_S)
    assert service.unfit == {1, 2}
    service.hear(1, "live")
    service.hear(2, "connecting", "live")
    service.until(STARTING_S + AFTER_S)
    assert service.unfit == {3}
    service.hear(3, "died", "started")
    assert service.unfit == {3}
    service.hear(3, "idle")
    assert service.unfit == set()
    service.hear(3, "connecting", "closed", "connecting")
    assert service.unfit == {3}
    service.hear(2, "died", "started", "idle", "connecting")
    assert service.unfit == {2, 3}
    service.hear(2, "live")
    service.hear(3, "idle")
    assert service.unfit == set()


def test_nothing_is_decided_before_all_that_was_adopted_has_spoken():
    """A new run must not undo a failover only because it has not heard of the spare yet."""
    service = Service(all_live=False)
    service.failed_over[1] = {3}
    for connection_id in (1, 2, 3):
        service.hear(connection_id, "adopted")
    service.hear(1, "live")
    service.hear(2, "died")
    assert service.until(1.0) == []
    assert service.unfit == set()
    service.hear(3, "live")
    assert service.until(2.0) == [(1.0, "FailOver", 2)]


def test_without_a_spare_a_connection_only_reconnects():
    """With fewer connections to use there is nothing to fail over to."""
    service = Service(has_spare=False)
    service.hear(1, "died")
    assert service.until(10.0) == []
    assert service.kept_open == set()


def test_last_words_change_nothing():
    """A message of a process that is gone does not make its connection live; a failed one waits for a new start."""
    service = Service()
    service.hear(1, "died", "live")
    assert service.policy.state(1) == "down"
    service.hear(1, "given_up", "live", "connecting")
    assert service.policy.state(1) == "failed"
    service.hear(1, "started")
    assert service.policy.state(1) == "starting"


histories = st.lists(
    st.tuples(
        st.integers(0, 160).map(lambda eighths: eighths / 8), st.integers(1, 3), st.sampled_from(get_args(Event))
    ),
    max_size=40,
)


@given(histories)
def test_any_history(history):
    """Whatever happens: only homes fail over, nobody twice, and in the end all is where it belongs if all are live."""
    service = Service(all_live=False)
    for pause_s, connection_id, event in history:
        service.until(service.now_s + pause_s)
        service.hear(connection_id, event)
    for connection_id in (1, 2):
        service.hear(connection_id, "started", "connecting", "live")
    service.hear(3, "started", "idle")
    service.until(service.now_s + STABLE_S + 2)
    assert service.failed_over == {}
    for connection_id in (1, 2):
        kinds = [kind for _, kind, c in service.done if c == connection_id]
        assert kinds == ["FailOver", "FailBack"] * (len(kinds) // 2)
