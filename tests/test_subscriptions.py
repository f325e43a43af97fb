"""Who is subscribed where: the rules one by one, and all of them at random against a plain model."""

from collections import Counter
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.config import CONNECTIONS, MAX_INSTRUMENTS
from pipeline.errors import AlreadySubscribedError, CapacityError, NotSubscribedError, RequestRefusedError
from pipeline.instruments.roll import Identity
from pipeline.supervisor import subscriptions as module
from pipeline.supervisor.subscriptions import MODES, Changed, Instruments, Refusal, Subscriptions, Wanted

NOW = "2025-10-01T09:15:00.000000+05:30"
LATER = "2025-10-01T10:00:00.000000+05:30"
LIMIT = 6  # instruments on a connection, where Kite's own limit would take too many tokens
FULL = range(1, LIMIT + 1)
ROUNDS = 4 * LIMIT  # of all connections covering what they were told, after which nothing moves any more
WORDS = 800  # characters of the longest refusal


@pytest.fixture
def small(monkeypatch):
    """Connections that hold six instruments."""
    monkeypatch.setattr(module, "MAX_INSTRUMENTS", LIMIT)


def cover(subscriptions, *connections):
    """Let connections cover what they were told, as often as it takes for everything to find its place."""
    for _ in range(ROUNDS):
        for connection_id in connections or CONNECTIONS:
            let_go(subscriptions, connection_id, subscriptions.wanted(connection_id))


def let_go(subscriptions, connection_id, told):
    """Let a connection cover exactly what it was told; return the connections that let something go by it."""

    def covers(new, token):
        return new == connection_id and told.get(token) == subscriptions.all[token].mode

    gone = subscriptions.let_go(covers)
    assert {new for _, new in gone} <= {connection_id}
    return {old for old, _ in gone}


def wanted(subscriptions):
    """Return the tokens that each connection should have on the wire."""
    return [set(subscriptions.wanted(c)) for c in CONNECTIONS]


# Where instruments go.


@pytest.mark.parametrize(
    ("max_connections", "mode", "connection_id"),
    [(3, "ltp", 1), (3, "quote", 1), (3, "full", 2), (2, "full", 2), (1, "full", 1), (1, "quote", 1)],
)
def test_modes_have_their_connections(max_connections, mode, connection_id):
    """Full mode goes to the secondary where there is one, the rest to the primary."""
    subscriptions = Subscriptions(max_connections)
    changed = subscriptions.subscribe([408065], mode, NOW)
    assert changed.connections == {str(connection_id): 1}
    assert subscriptions.of(connection_id) == {408065: mode}
    assert subscriptions.carrier(408065) == connection_id


def test_refusals_name_symbols():
    """Whoever asks by symbol is not answered in tokens alone."""
    subscriptions = Subscriptions(3)
    subscriptions.who_is = {1: Identity("NSE:INFY", None), 2: Identity("NSE:TCS", None)}.get
    subscriptions.subscribe([1], "quote", NOW)
    with pytest.raises(AlreadySubscribedError, match=r"already subscribed: 1 NSE:INFY \(connection 1, quote\)"):
        subscriptions.subscribe([1], "quote", NOW)
    with pytest.raises(NotSubscribedError, match="not subscribed: 2 NSE:TCS, 3;"):
        subscriptions.unsubscribe([2, 3])


def test_the_universe_is_taken_as_far_as_possible():
    """What is named twice or does not fit is refused by itself, with where it is; the rest is subscribed."""
    subscriptions = Subscriptions(3)
    refusals = subscriptions.take_wanted([(1, "quote"), (2, "quote"), (2, "full"), (3, "full")], NOW)
    assert refusals == [Refusal(2, "already on connection 1 in quote mode")]
    assert [subscriptions.of(c) for c in (1, 2, 3)] == [{1: "quote", 2: "quote"}, {3: "full"}, {}]
    refusals = subscriptions.take(range(10, MAX_INSTRUMENTS + 10), "quote", NOW)
    assert len(subscriptions.of(1)) == MAX_INSTRUMENTS
    assert refusals == [Refusal(t, "connection 1 is full") for t in (MAX_INSTRUMENTS + 8, MAX_INSTRUMENTS + 9)]


@pytest.mark.usefixtures("small")
def test_a_universe_spills_over():
    """With `overflow` "spill" what finds no room goes to the other connection, and is refused where both are full."""
    subscriptions = Subscriptions(3, "spill")
    wanted: Wanted = [*((token, "quote") for token in range(1, 9)), *((token, "full") for token in range(11, 16))]
    refusals = subscriptions.take_wanted(wanted, NOW)
    assert subscriptions.of(1) == dict.fromkeys(FULL, "quote")
    assert subscriptions.of(2) == {7: "quote", 8: "quote", 11: "full", 12: "full", 13: "full", 14: "full"}
    assert refusals == [Refusal(15, "connection 2 is full")]
    assert subscriptions.unsubscribe_all().connections == {"1": 6, "2": 6}
    assert subscriptions.take(range(1, 8), "quote", NOW, 3) == [Refusal(7, "connection 3 is full")]


def test_a_connection_that_is_not_in_use_is_replaced():
    """What an earlier run had on a connection that is no longer in use goes where its mode belongs."""
    subscriptions = Subscriptions(2)
    assert subscriptions.take([1], "quote", NOW, 3) == []
    assert subscriptions.take([2], "full", NOW, 3) == []
    assert [subscriptions.of(c) for c in CONNECTIONS] == [{1: "quote"}, {2: "full"}, {}]


def test_repeats_count_once_and_are_told():
    """92 tokens of which some repeat: each is subscribed once, in the order of the request."""
    tokens = [*range(1, 81), *range(70, 82)]
    changed = Subscriptions(3).subscribe(tokens, "quote", NOW)
    assert len(tokens) == 92
    assert changed == Changed(list(range(1, 82)), {"1": 81}, "quote", repeats=list(range(70, 81)))


def test_two_of_five_and_then_all():
    """Some can be unsubscribed, then all; the answer says where they were."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1, 2, 3], "quote", NOW)
    subscriptions.subscribe([4, 5], "full", NOW)
    assert subscriptions.unsubscribe([2, 4]) == Changed([2, 4], {"1": 1, "2": 1})
    assert subscriptions.unsubscribe_all() == Changed([1, 3, 5], {"1": 2, "2": 1})
    assert subscriptions.all == {}
    assert wanted(subscriptions) == [set(), set(), set()]


def test_what_was_taken_at_start_is_described():
    """The history tells of the start as of a request."""
    subscriptions = Subscriptions(3)
    subscriptions.take([5, 6], "full", NOW)
    assert subscriptions.described([5, 6]) == Changed([5, 6], {"2": 2}, "full")
    assert subscriptions.described([]) == Changed([])


# Refusals.


def refused(request, kind=RequestRefusedError):
    """Return the refusal of exactly this kind that a request gets."""
    with pytest.raises(RequestRefusedError) as caught:
        request()
    assert type(caught.value) is kind
    assert len(str(caught.value)) <= WORDS
    return caught.value


def test_one_too_many():
    """At Kite's own limit: 3,000 are taken, the next one is refused with what was requested and what is available."""
    subscriptions = Subscriptions(3)
    everything = range(1, MAX_INSTRUMENTS + 2)
    error = refused(lambda: subscriptions.subscribe(everything, "quote", NOW), CapacityError)
    assert error.details == {"kind": "capacity", "connection_id": 1, "requested": 3001, "available": 3000}
    assert "connection 1 has room for 3000 more instruments, requested are 3001" in str(error)
    assert 'universe.overflow = "spill"' in str(error)
    subscriptions.subscribe(everything[:-1], "quote", NOW)
    error = refused(lambda: subscriptions.subscribe(everything[-1:], "ltp", NOW), CapacityError)
    assert error.details == {"kind": "capacity", "connection_id": 1, "requested": 1, "available": 0}
    assert len(subscriptions.of(1)) == MAX_INSTRUMENTS


def test_refusals_of_thousands_stay_short():
    """The words name the first few and count the rest; the details name all."""
    subscriptions = Subscriptions(3)
    tokens = list(range(2**32 - MAX_INSTRUMENTS, 2**32))
    error = refused(lambda: subscriptions.unsubscribe(tokens), NotSubscribedError)
    assert error.details == {"kind": "not_subscribed", "unknown": tokens}
    assert f"{tokens[0]}, " in str(error)
    assert "and 2990 more" in str(error)
    assert "more" not in str(refused(lambda: subscriptions.unsubscribe(tokens[:10]), NotSubscribedError))
    error = refused(lambda: subscriptions.set_mode(tokens, "ltp", NOW), NotSubscribedError)
    assert error.details["unknown"] == tokens
    assert "mds subscribe --mode ltp" in str(error)
    subscriptions.subscribe(tokens, "full", NOW)
    error = refused(lambda: subscriptions.subscribe([*tokens, 1], "quote", NOW), AlreadySubscribedError)
    places = [{"instrument_token": token, "connection_id": 2, "mode": "full"} for token in tokens]
    assert error.details == {"kind": "already_subscribed", "duplicates": places}
    assert f"{tokens[9]} (connection 2, full) and 2990 more" in str(error)
    assert f"{tokens[10]}" not in str(error)


@pytest.mark.parametrize(
    ("max_connections", "request_of", "words"),
    [
        (1, lambda s: s.subscribe([1], "full", NOW, 2), "connection 2 is not in use, kite.max_connections is 1"),
        (2, lambda s: s.subscribe([1], "quote", NOW, 3), "connection 3 is not in use, kite.max_connections is 2"),
        (2, lambda s: s.mirror(True), "connection 3 is not in use, kite.max_connections is 2"),
        (2, lambda s: s.failover(1), "connection 3 is not in use, kite.max_connections is 2"),
    ],
)
def test_connections_that_are_not_in_use(max_connections, request_of, words):
    """Who asks for one is told which setting forbids it."""
    assert str(refused(lambda: request_of(Subscriptions(max_connections)))) == words


def test_the_spare_either_mirrors_or_has_its_own():
    """Each is refused while there is the other, with the way out."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1], "quote", NOW, 3)
    assert "connection 3 has 1 instruments of its own" in str(refused(lambda: subscriptions.mirror(True)))
    subscriptions.unsubscribe([1])
    subscriptions.mirror(True)
    assert "mds mirror off" in str(refused(lambda: subscriptions.subscribe([1], "quote", NOW, 3)))
    assert subscriptions.available(3) == 0
    subscriptions.mirror(False)
    subscriptions.subscribe([1], "quote", NOW, 3)


@pytest.mark.usefixtures("small")
def test_with_spill_both_connections_count():
    """The last refusal that is left says how many both have room for; a named connection does not spill."""
    subscriptions = Subscriptions(3, "spill")
    assert subscriptions.subscribe(range(1, 9), "quote", NOW).connections == {"1": 6, "2": 2}
    error = refused(lambda: subscriptions.subscribe(range(11, 16), "quote", NOW), CapacityError)
    assert error.details == {"kind": "capacity", "connection_id": 1, "requested": 5, "available": 4}
    assert "overflow" not in str(error)
    error = refused(lambda: subscriptions.subscribe([11], "quote", NOW, 1), CapacityError)
    assert error.details == {"kind": "capacity", "connection_id": 1, "requested": 1, "available": 0}


@pytest.mark.usefixtures("small")
def test_a_mode_that_finds_no_room_at_home():
    """Refused as a whole, or with "spill" given to all while only those that fit move; it can be asked for again."""
    for overflow in ("refuse", "spill"):
        subscriptions = Subscriptions(3, overflow)
        subscriptions.subscribe([1, 2, 3], "quote", NOW)
        subscriptions.subscribe([11, 12, 13, 14, 15], "full", NOW)
        if overflow == "refuse":
            error = refused(lambda s=subscriptions: s.set_mode([1, 2], "full", LATER), CapacityError)
            assert error.details == {"kind": "capacity", "connection_id": 2, "requested": 2, "available": 1}
            assert {known.mode for token, known in subscriptions.all.items() if token < 11} == {"quote"}
            continue
        assert subscriptions.set_mode([1, 2], "full", LATER) == Changed([1, 2], {"1": 1, "2": 1}, "full")
        assert subscriptions.set_mode([1, 2], "full", LATER) == Changed([], {}, "full", unchanged=[1, 2])
        subscriptions.unsubscribe([11])
        assert subscriptions.set_mode([1, 2], "full", LATER) == Changed([2], {"2": 1}, "full", unchanged=[1])


# What is known of an instrument.


def test_ticks_are_counted_from_the_subscription_on():
    """Counts add up, price and time are the latest, a change of mode keeps them; what was unsubscribed begins anew."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1, 2], "quote", NOW)
    subscriptions.hear([(1, 3, 10.5, "a"), (7, 1, 1.0, "a")])
    subscriptions.set_mode([1], "full", LATER)
    subscriptions.hear([(1, 2, 11.5, "b")])
    known = subscriptions.all[1]
    assert (known.tick_count, known.last_price, known.last_tick_time, known.subscribed_at) == (5, 11.5, "b", NOW)
    assert subscriptions.all[2].tick_count == 0
    assert 7 not in subscriptions.all
    subscriptions.unsubscribe([1])
    subscriptions.subscribe([1], "quote", LATER)
    known = subscriptions.all[1]
    assert (known.tick_count, known.last_price, known.last_tick_time, known.subscribed_at) == (0, None, None, LATER)


# Make before break.


def test_an_instrument_stays_until_its_new_place_covers_it():
    """Neither another connection nor an outdated order counts; the old place keeps it in its old mode."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1, 2], "quote", NOW)
    subscriptions.set_mode([1], "full", LATER)
    assert [subscriptions.wanted(c) for c in (1, 2)] == [{1: "quote", 2: "quote"}, {1: "full"}]
    assert subscriptions.of(1) == {2: "quote"}
    assert let_go(subscriptions, 1, subscriptions.wanted(1)) == set()
    assert let_go(subscriptions, 2, {}) == set()
    assert let_go(subscriptions, 2, {1: "ltp"}) == set()
    assert subscriptions.holders(1) == {1, 2}
    assert subscriptions.wanted(1) == {1: "quote", 2: "quote"}
    assert let_go(subscriptions, 2, {1: "full"}) == {1}
    assert subscriptions.holders(1) == {2}
    assert subscriptions.wanted(1) == {2: "quote"}


def test_there_and_back_again():
    """Who comes back before it has left was never away, and is no longer wanted where it went."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1], "quote", NOW)
    subscriptions.set_mode([1], "full", LATER)
    subscriptions.set_mode([1], "quote", LATER)
    assert [subscriptions.wanted(c) for c in (1, 2)] == [{1: "quote"}, {}]
    assert subscriptions.leaving == {1: {}, 2: {}, 3: {}}


@pytest.mark.usefixtures("small")
def test_new_ones_wait_for_those_that_leave():
    """A connection takes what has a home on it only when others have left: never more than the limit at once."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe(FULL, "quote", NOW)
    subscriptions.set_mode([1, 2], "full", NOW)
    subscriptions.subscribe([7, 8], "quote", NOW)
    assert wanted(subscriptions) == [set(FULL), {1, 2}, set()]
    assert [subscriptions.held_back(c) for c in CONNECTIONS] == [{7, 8}, set(), set()]
    cover(subscriptions)
    assert wanted(subscriptions) == [{3, 4, 5, 6, 7, 8}, {1, 2}, set()]
    assert subscriptions.held_back(1) == set()


@pytest.mark.usefixtures("small")
def test_what_never_reached_the_wire_leaves_nothing_behind():
    """Instruments that move on while they wait for room do not count against it where they were not."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe(FULL, "quote", NOW)
    subscriptions.set_mode(FULL, "full", NOW)
    subscriptions.subscribe(range(11, 17), "quote", NOW)
    subscriptions.failover(1)
    assert wanted(subscriptions) == [set(FULL), set(FULL), set(range(11, 17))]


@pytest.mark.parametrize("mode", ["quote", "ltp"])
@pytest.mark.usefixtures("small")
def test_a_mode_costs_nobody_its_place(mode):
    """An instrument that is on the wire stays there when it gets a mode while others wait for room."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe(FULL, "quote", NOW)
    subscriptions.set_mode([1, 2, 3], "full", NOW)
    subscriptions.subscribe([7, 8, 9], "quote", NOW)
    subscriptions.set_mode([4], mode, NOW)
    assert subscriptions.wanted(1)[4] == mode
    assert wanted(subscriptions)[0] == set(FULL)


@pytest.mark.usefixtures("small")
def test_what_the_spare_carries_leaves_no_room_for_others():
    """Nothing pushes carried instruments off the wire: the spare is as full as with its own."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1, 2, 3, 4], "quote", NOW)
    subscriptions.failover(1)
    assert subscriptions.available(3) == LIMIT - 4
    error = refused(lambda: subscriptions.subscribe([7, 8, 9], "quote", NOW, 3), CapacityError)
    assert error.details["available"] == LIMIT - 4
    subscriptions.subscribe([7, 8], "quote", NOW, 3)
    cover(subscriptions)
    assert wanted(subscriptions) == [set(), set(), {1, 2, 3, 4, 7, 8}]


@pytest.mark.usefixtures("small")
def test_full_connections_do_not_wait_for_each_other():
    """A change of mode while everything is full is carried out in the end."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe(FULL, "quote", NOW)
    subscriptions.subscribe(range(11, 16), "full", NOW)
    subscriptions.subscribe([7], "quote", NOW, 3)
    subscriptions.failover(1)
    cover(subscriptions)
    subscriptions.set_mode([1], "ltp", NOW)
    cover(subscriptions)
    assert [subscriptions.wanted(c) for c in CONNECTIONS] == [subscriptions.of(c) for c in CONNECTIONS]
    assert [subscriptions.wanted(c)[1] for c in CONNECTIONS if 1 in subscriptions.wanted(c)] == ["ltp"]


# Mirror and failover.


@pytest.mark.usefixtures("small")
def test_a_mirror_follows_the_primary():
    """The spare records what connection 1 is home to, until that ends; asking twice changes nothing."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1, 2], "quote", NOW)
    assert subscriptions.mirror(True) == Changed([1, 2], {"3": 2})
    assert subscriptions.mirror(True) == Changed([])
    subscriptions.subscribe([3], "ltp", NOW)
    subscriptions.unsubscribe([1])
    assert subscriptions.of(3) == subscriptions.of(1) == {2: "quote", 3: "ltp"}
    assert subscriptions.wanted(3) == subscriptions.of(3)
    assert [subscriptions.is_mirrored(t) for t in (1, 2)] == [False, True]
    assert subscriptions.carrier(2) == 1
    assert subscriptions.mirror(False) == Changed([2, 3], {"3": 2})
    assert subscriptions.of(3) == {}


@pytest.mark.usefixtures("small")
def test_failing_over_and_back():
    """The spare carries all of a home that it has room for, the other connection the rest, and gives it back."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe(FULL, "quote", NOW)
    subscriptions.subscribe([11, 12, 13, 14, 15], "full", NOW)
    subscriptions.subscribe([21, 22], "quote", NOW, 3)
    assert subscriptions.failover(1) == Changed([1, 2, 3, 4, 5], {"2": 1, "3": 4})
    assert [subscriptions.carrier(t) for t in FULL] == [3, 3, 3, 3, 2, 1]
    assert wanted(subscriptions)[0] == set(FULL)
    cover(subscriptions)
    assert wanted(subscriptions)[0] == {6}
    assert subscriptions.failover(1) == Changed([])
    assert subscriptions.failback(2) == Changed([])
    assert subscriptions.failback(1) == Changed([1, 2, 3, 4, 5], {"1": 5})
    assert wanted(subscriptions)[2] == {21, 22, 1, 2, 3, 4}
    cover(subscriptions)
    assert wanted(subscriptions) == [set(FULL), {11, 12, 13, 14, 15}, {21, 22}]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_of_both_homes_the_primary_finds_room_first(order):
    """Whoever fails first: what has to make room for the primary's goes, as its home is dead too."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1, 2, 3, 4, 5], "quote", NOW)
    subscriptions.subscribe([11, 12, 13, 14, 15], "full", NOW)
    cover(subscriptions)
    unfit: set[int] = set()
    for home in order:
        unfit = {*unfit, home}
        subscriptions.avoid(unfit)
        subscriptions.failover(home)
        cover(subscriptions, 3)
    assert wanted(subscriptions)[2] == {1, 2, 3, 4, 5, 11}
    assert subscriptions.waiting == {2}
    assert [subscriptions.carriers_of(home) for home in (1, 2)] == [{3}, {3}]


@pytest.mark.usefixtures("small")
def test_who_has_a_home_that_is_well_is_not_dropped_for_others():
    """A drill by hand: what has to make room goes home first."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1, 2, 3, 4, 5], "quote", NOW)
    subscriptions.subscribe([11, 12, 13, 14, 15], "full", NOW)
    subscriptions.failover(2, by_hand=True)
    cover(subscriptions)
    subscriptions.avoid({1})
    subscriptions.failover(1)
    assert wanted(subscriptions)[2] == {1, 11, 12, 13, 14, 15}
    cover(subscriptions, 2, 3)
    assert wanted(subscriptions)[1:] == [{12, 13, 14, 15}, {1, 2, 3, 4, 5, 11}]


@pytest.mark.usefixtures("small")
def test_a_spare_that_is_no_good_carries_only_what_nobody_else_can():
    """The others come first; where the spare is all there is, it may be back before the home is."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1, 2, 3, 4], "quote", NOW)
    subscriptions.subscribe([11, 12, 13], "full", NOW)
    subscriptions.failover(1)
    cover(subscriptions)
    assert [subscriptions.carrier(t) for t in (1, 2, 3, 4)] == [3, 3, 3, 3]
    assert subscriptions.avoid({1, 3}) == Changed([1, 2, 3], {"2": 3})
    assert [subscriptions.carrier(t) for t in (1, 2, 3, 4)] == [2, 2, 2, 3]
    cover(subscriptions)
    assert subscriptions.avoid({1}) == Changed([])
    subscriptions.failback()
    assert subscriptions.avoid({1, 2, 3}) == Changed([])
    assert "no other connection can record" in str(refused(lambda: subscriptions.failover(1, by_hand=True)))
    assert subscriptions.failed_over == set()


@pytest.mark.usefixtures("small")
def test_what_goes_home_and_finds_room_elsewhere_at_once_keeps_its_old_place():
    """In one and the same move: who is not yet covered at the new place stays on the wire at home."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([11, 12], "full", NOW)
    subscriptions.subscribe([1, 2, 3, 4, 5], "quote", NOW, 3)
    subscriptions.failover(2)
    cover(subscriptions, 1)
    subscriptions.failback()
    subscriptions.failover(3)
    subscriptions.failover(2)
    assert set().union(*wanted(subscriptions)) == {1, 2, 3, 4, 5, 11, 12}
    assert wanted(subscriptions)[2] == {1, 2, 3, 4, 5}


@pytest.mark.usefixtures("small")
def test_nobody_stays_on_an_unfit_connection_for_want_of_room_that_was_only_counted_twice():
    """What is on its way from a connection, and stays there after all, takes its room once."""
    subscriptions = Subscriptions(3)
    subscriptions.subscribe([1], "ltp", NOW)
    subscriptions.failover(3)
    subscriptions.avoid({2})
    subscriptions.subscribe([2], "ltp", NOW)
    subscriptions.set_mode([1], "full", NOW)
    subscriptions.subscribe([3, 4, 5, 6], "ltp", NOW, 3)
    subscriptions.subscribe([7], "ltp", NOW)
    cover(subscriptions)
    assert [subscriptions.carrier(token) for token in (3, 4, 5, 6)] == [1, 1, 1, 1]


def test_new_instruments_of_a_home_that_has_failed_over_go_to_the_spare():
    """They are carried from the start, and come home with the others."""
    subscriptions = Subscriptions(3)
    subscriptions.failover(2)
    assert subscriptions.subscribe([1], "full", NOW).connections == {"2": 1}
    assert wanted(subscriptions) == [set(), set(), {1}]
    assert subscriptions.failback() == Changed([1], {"2": 1})
    cover(subscriptions)
    assert wanted(subscriptions) == [set(), {1}, set()]


# All of it at random.


class Rules:
    """The rules of requests in their plainest form. Each method checks, and only then changes anything."""

    def __init__(self, max_connections, overflow, carried):
        self.carried = carried  # how many instruments a connection has for others
        self.known = {}  # token -> (home, mode)
        self.since = {}
        self.ticks: Counter[int] = Counter()
        self.mirroring = False
        self.failed_over = set()
        self.unfit = set()
        self.max_connections = max_connections
        self.overflow = overflow

    def home_of(self, mode):
        return 2 if mode == "full" and self.max_connections > 1 else 1

    def on(self, connection_id):
        return [token for token, (home, _) in self.known.items() if home == connection_id]

    def room(self, connection_id):
        if connection_id > self.max_connections or (connection_id == 3 and self.mirroring):
            return 0
        return LIMIT - len(self.on(connection_id)) - self.carried(connection_id)

    def count(self, tokens):
        homes = [self.known[token][0] for token in tokens]
        return {str(c): homes.count(c) for c in CONNECTIONS if c in homes}

    def unknown(self, tokens):
        return [token for token in dict.fromkeys(tokens) if token not in self.known]

    def homes_for(self, tokens, mode, connection_id=None):
        """Return a home for each of these, which are new."""
        target = connection_id or self.home_of(mode)
        if target > self.max_connections or (target == 3 and self.mirroring):
            raise RequestRefusedError("")
        spills = self.overflow == "spill" and connection_id is None and self.max_connections > 1
        rooms = {target: self.room(target)}
        if spills:
            rooms[3 - target] = self.room(3 - target)
        self._check(target, len(tokens), sum(rooms.values()))
        places = [place for place, room in rooms.items() for _ in range(room)]
        return dict(zip(tokens, places, strict=False))

    def _check(self, connection_id, requested, available):
        if requested > available:
            details = {"connection_id": connection_id, "requested": requested, "available": available}
            raise CapacityError("", details)

    def _begin(self, places, mode, now):
        for token, place in places.items():
            self.known[token] = (place, mode)
            self.since[token] = now
            self.ticks[token] = 0

    def subscribe(self, tokens, mode, now, connection_id):
        unique = list(dict.fromkeys(tokens))
        names = ("instrument_token", "connection_id", "mode")
        duplicates = [dict(zip(names, (t, *self.known[t]), strict=True)) for t in unique if t in self.known]
        if duplicates:
            raise AlreadySubscribedError("", {"duplicates": duplicates})
        self._begin(self.homes_for(unique, mode, connection_id), mode, now)
        return Changed(unique, self.count(unique), mode, repeats(tokens))

    def unsubscribe(self, tokens, ignore_unknown):
        unknown = self.unknown(tokens)
        if unknown and not ignore_unknown:
            raise NotSubscribedError("", {"unknown": unknown})
        known = [token for token in dict.fromkeys(tokens) if token in self.known]
        connections = self.count(known)
        for token in known:
            del self.known[token]
        return Changed(known, connections, None, repeats(tokens), unknown=unknown)

    def set_mode(self, tokens, mode, now, subscribe_unknown):
        unknown = self.unknown(tokens)
        if unknown and not subscribe_unknown:
            raise NotSubscribedError("", {"unknown": unknown})
        target = self.home_of(mode)
        known = [token for token in dict.fromkeys(tokens) if token in self.known]
        arriving = [token for token in known if self.known[token][0] != target]
        if self.overflow == "refuse" and arriving:
            self._check(target, len(arriving) + len(unknown), self.room(target))
        places = self.homes_for(unknown, mode)
        arriving = arriving[: max(self.room(target) - len(unknown), 0)]
        before = dict(self.known)
        for token in known:
            self.known[token] = (target if token in arriving else self.known[token][0], mode)
        self._begin(places, mode, now)
        changed = [token for token in dict.fromkeys(tokens) if self.known[token] != before.get(token)]
        unchanged = [token for token in known if token not in changed]
        return Changed(changed, self.count(changed), mode, repeats(tokens), unchanged)

    def mirror(self, on):
        if on and (self.max_connections < 3 or self.on(3)):
            raise RequestRefusedError("")
        changed = self.on(1) if on != self.mirroring else []
        self.mirroring = on
        return Changed(changed, {"3": len(changed)} if changed else {})


def outcome(request):
    """Return the refusal of a request, or what it has changed."""
    try:
        return None, request()
    except RequestRefusedError as refusal:
        return refusal, None


def repeats(tokens):
    """Return what is there more often than once."""
    return [token for token in dict.fromkeys(tokens) if tokens.count(token) > 1]


def in_order(changed):
    """Return what was changed by no request for tokens, which has no order of its own."""
    return replace(changed, instruments=sorted(changed.instruments))


tokens_ = st.lists(st.integers(1, 24), min_size=1, max_size=8)
modes = st.sampled_from(["ltp", "quote", "full"])
connections_ = st.sampled_from(CONNECTIONS)
SOME_LIVE = [set(), {1}, {2}, {3}, {1, 2}, {1, 3}, {2, 3}]


class Requests(RuleBasedStateMachine):
    """Requests and workers that carry them out at any later time; connections hold six instruments.

    A connection has been told what it should have on the wire. What it was told to drop is gone from there at once;
    what is new to it is there when it covers.
    """

    @initialize(
        max_connections=st.sampled_from([3, 3, 3, 2, 1]),
        overflow=st.sampled_from(["refuse", "spill"]),
        crowd=st.lists(st.sampled_from([0, 2, LIMIT - 1, LIMIT]), min_size=3, max_size=3),
    )
    def begin(self, max_connections, overflow, crowd):
        """Start with some instruments on each connection."""
        self.limit = mock.patch.object(module, "MAX_INSTRUMENTS", LIMIT)
        self.limit.start()
        self.real = Subscriptions(max_connections, overflow)
        self.model = Rules(max_connections, overflow, self._carried_for_others)
        self.max_connections = max_connections
        self.mirrored = False  # ever
        self.told: dict[int, Instruments] = {c: {} for c in CONNECTIONS}
        self.live: dict[int, set[int]] = {c: set() for c in CONNECTIONS}  # known to be on the wire
        self.covered: set[int] = set()  # instruments whose connection has covered them once
        self.now = 0
        for connection_id, count in zip(CONNECTIONS[:max_connections], crowd, strict=False):
            if count:
                self.subscribe_new(count, MODES[connection_id], connection_id)
        self.settle()

    def teardown(self):
        """Let everything find its place."""
        if hasattr(self, "limit"):
            try:
                self.settle()
            finally:
                self.limit.stop()

    # What is asked for.

    @rule(tokens=tokens_, mode=modes, connection_id=st.none() | connections_)
    def subscribe(self, tokens, mode, connection_id):
        """Any tokens."""
        now = self._time()
        self._request(
            lambda: self.real.subscribe(tokens, mode, now, connection_id),
            lambda: self.model.subscribe(tokens, mode, now, connection_id),
        )

    @rule(count=st.integers(1, LIMIT), mode=modes, connection_id=st.none() | connections_)
    def subscribe_new(self, count, mode, connection_id):
        """Tokens that are not subscribed, so that it often works."""
        tokens = self.model.unknown(range(1, 25))[:count]
        if tokens:
            self.subscribe(tokens, mode, connection_id)

    @rule(tokens=tokens_, ignore_unknown=st.booleans())
    def unsubscribe(self, tokens, ignore_unknown):
        """Any tokens."""
        self._request(
            lambda: self.real.unsubscribe(tokens, ignore_unknown=ignore_unknown),
            lambda: self.model.unsubscribe(tokens, ignore_unknown),
        )

    @precondition(lambda self: len(self.model.known) > 2 * LIMIT)
    @rule()
    def unsubscribe_all(self):
        """Everything, seldom."""
        everything = list(self.model.known)
        self._request(self.real.unsubscribe_all, lambda: self.model.unsubscribe(everything, False))

    @rule(tokens=tokens_, mode=modes, subscribe_unknown=st.booleans())
    def set_mode(self, tokens, mode, subscribe_unknown):
        """Any tokens."""
        now = self._time()
        self._request(
            lambda: self.real.set_mode(tokens, mode, now, subscribe_unknown=subscribe_unknown),
            lambda: self.model.set_mode(tokens, mode, now, subscribe_unknown),
        )

    @precondition(lambda self: self.model.known)
    @rule(data=st.data(), mode=modes)
    def set_mode_of_known(self, data, mode):
        """Tokens that are subscribed, so that it often works."""
        known = st.sampled_from(list(self.model.known))
        self.set_mode(data.draw(st.lists(known, min_size=1, max_size=LIMIT)), mode, False)

    @rule(on=st.booleans())
    def mirror(self, on):
        """On and off."""
        self.mirrored |= on
        self._request(lambda: in_order(self.real.mirror(on)), lambda: in_order(self.model.mirror(on)))

    @rule(connection_id=connections_)
    def failover(self, connection_id):
        """Only where there is a spare."""
        if self.max_connections < 3:
            self._request(lambda: self.real.failover(connection_id), lambda: self.model.mirror(True))
            return
        self.model.failed_over.add(connection_id)
        self._move(lambda: self.real.failover(connection_id))

    @rule(connection_id=st.none() | connections_)
    def failback(self, connection_id):
        """Of one home or both."""
        self.model.failed_over -= {connection_id} if connection_id else set(CONNECTIONS)
        self._move(lambda: self.real.failback(connection_id))

    # What happens meanwhile.

    @rule(unfit=st.sets(connections_))
    def avoid(self, unfit):
        """Connections fail, and come back."""
        self.model.unfit = unfit
        self._move(lambda: self.real.avoid(unfit))

    @rule(connection_id=connections_)
    def cover(self, connection_id):
        """A connection has everything on the wire that it was told."""
        told = self.told[connection_id]
        self.live[connection_id] = set(told)
        self.covered |= {token for token in told if self.real.carrier(token) == connection_id}
        before = {c: dict(leaving) for c, leaving in self.real.leaving.items()}
        left = let_go(self.real, connection_id, told)
        shrunk = {c for c in CONNECTIONS if before[c].keys() - self.real.leaving[c].keys()}
        assert left <= shrunk  # and what found room at last where it comes from need not leave any more
        self._tell()

    @rule(ticks=st.lists(st.tuples(st.integers(1, 24), st.integers(1, 9)), max_size=3))
    def hear(self, ticks):
        """Instruments tick, subscribed or not any more."""
        self.real.hear([(token, count, 1.0, "now") for token, count in ticks])
        for token, count in ticks:
            self.model.ticks[token] += count

    @rule()
    def settle(self):
        """When every connection covers what it is told, each instrument ends up where it belongs, and only there."""
        for _ in range(ROUNDS):
            for connection_id in CONNECTIONS:
                self.cover(connection_id)
                self.make_before_break()
            if not any(self.real.leaving.values()):
                break
        assert self.real.leaving == {c: {} for c in CONNECTIONS}
        for connection_id in CONNECTIONS:
            assert self.real.wanted(connection_id) == self.real.of(connection_id)
            assert self.real.held_back(connection_id) == set()
        self._nobody_stays_behind()

    # What always holds.

    @invariant()
    def homes(self):
        """Each instrument is known with its home, its mode, since when, and how often it ticked."""
        known = {token: (k.connection_id, k.mode) for token, k in self.real.all.items()}
        assert known == self.model.known
        for token, k in self.real.all.items():
            assert (k.subscribed_at, k.tick_count) == (self.model.since[token], self.model.ticks[token])
        for connection_id in CONNECTIONS:
            assert len(self.model.on(connection_id)) <= LIMIT
            assert self.real.available(connection_id) == self.model.room(connection_id)
        assert self.real.mirroring == self.model.mirroring
        assert self.real.failed_over == self.model.failed_over

    @invariant()
    def places(self):
        """Each instrument has one carrier, its home unless that has failed over; the spare mirrors what fits."""
        for token, (home, _) in self.model.known.items():
            carrier = self.real.carrier(token)
            others = set(CONNECTIONS) - self.model.failed_over if home in self.model.failed_over else set()
            assert carrier in {home, *others}
            is_copied = self.model.mirroring and home == 1 and carrier != 3
            assert self.real.is_mirrored(token) == (is_copied and token in self.real.wanted(3))
        for connection_id in CONNECTIONS:
            own = self._carried_by(connection_id)
            of = self.real.of(connection_id)
            assert self.real.number_of(connection_id) == len(of)
            mirrored = self.model.on(1) if self.model.mirroring and connection_id == 3 else []
            assert len(own) <= LIMIT
            assert set(own) <= set(of) <= {*own, *mirrored}
            assert len(of) == min(LIMIT, len({*own, *mirrored}))
            assert all(mode == self.model.known[token][1] for token, mode in of.items())
        assert self.real.carrier(25) is None

    @invariant()
    def wires(self):
        """No connection is told more than it holds, or what is not subscribed; it is told all that finds room."""
        for connection_id in CONNECTIONS:
            now, of = self.real.wanted(connection_id), self.real.of(connection_id)
            assert len(now) <= LIMIT
            assert set(now) <= set(self.model.known)
            assert set(now) <= {*of, *self.real.leaving[connection_id]}
            assert all(now[token] == mode for token, mode in of.items() if token in now)
            assert set(of) <= set(now) or len(now) == LIMIT
            assert self.real.held_back(connection_id) == set(of) - set(now)
            assert connection_id <= self.max_connections or not now

    @invariant()
    def make_before_break(self):
        """What has been on the wire is on the wire somewhere, until it is unsubscribed.

        Not so what had to make room for others, and has a home that can do nothing for it.
        """
        lost = self.model.failed_over & self.model.unfit
        self.covered -= {
            t
            for t in self.covered
            if self.model.known[t][0] in lost and self.real.carrier(t) in {*lost, *self.model.unfit}
        }
        assert self.covered <= set().union(*self.live.values())

    @invariant()
    def counts(self):
        """What is kept up to date for those who ask often is what counting would find."""
        assert list(self.real.never_ticked) == [token for token, k in self.real.all.items() if not k.tick_count]
        assert self.real.segments == {token & 0xFF for token in self.real.all}
        for connection_id in CONNECTIONS:
            of = self.real.of(connection_id)
            assert set(self.real.segments_of(connection_id)) == {token & 0xFF for token in of}
            assert self.real.number_of(connection_id) == len(of)

    @invariant()
    def uncovered(self):
        """Counted set by set it is what it is instrument by instrument, whichever connections are live."""
        holders = {c: [self.real.holders(token) for token in self.real.of(c)] for c in CONNECTIONS}
        for live in SOME_LIVE:
            lost = {c: sum(map(live.isdisjoint, holders[c])) for c in CONNECTIONS if c not in live}
            assert self.real.uncovered(live) == {c: number for c, number in lost.items() if number}

    # How it is done.

    def _time(self):
        self.now += 1
        return str(self.now)

    def _carried_by(self, connection_id):
        return [token for token in self.model.known if self.real.carrier(token) == connection_id]

    def _carried_for_others(self, connection_id):
        return len([t for t in self._carried_by(connection_id) if self.model.known[t][0] != connection_id])

    def _nobody_stays_behind(self):
        """Where a home has failed over, what stays on it found no room anywhere else; the primary's found it first."""
        places = {1, 2, 3} - self.model.failed_over
        staying = {home for home in self.model.failed_over if self._carried_by(home)}
        assert self.real.waiting == staying
        assert not staying or all(len(self._carried_by(place)) == LIMIT for place in places)
        fit = places - self.model.unfit
        room = sum(LIMIT - len(self.model.on(place)) for place in fit)
        for home in sorted(self.model.failed_over):
            found = [self.real.carrier(token) for token in self.model.on(home)]
            assert set(self.real.carriers_of(home)) == {*found} - {home}
            assert sum(place in fit for place in found) == min(len(found), room)
            room = max(room - len(found), 0)

    def _observed(self):
        real = self.real
        return {
            "all": {token: repr(known) for token, known in real.all.items()},
            "flags": (real.mirroring, set(real.failed_over)),
            "carriers": [real.carrier(token) for token in range(1, 25)],
            **{str(c): (real.of(c), real.wanted(c), dict(real.leaving[c]), real.available(c)) for c in CONNECTIONS},
        }

    def _request(self, real, model):
        """Ask both the same; a refusal has to be of the same kind, with the same details, and to change nothing."""
        before = self._observed()
        refusal, expected = outcome(model)
        if refusal is None:
            assert real() == expected
            self._tell()
        else:
            error = refused(real, type(refusal))
            assert error.details == refusal.details
            assert self._observed() == before

    def _move(self, real):
        before = {token: self.real.carrier(token) for token in self.model.known}
        changed = real()
        moved = [token for token, was in before.items() if self.real.carrier(token) != was]
        now = [self.real.carrier(token) for token in moved]
        assert changed == Changed(moved, {str(c): now.count(c) for c in CONNECTIONS if c in now})
        self._tell()

    def _tell(self):
        """Tell the workers: what they are to drop is off the wire at once, what they are to keep keeps its mode."""
        self.covered &= set(self.model.known)
        for connection_id in CONNECTIONS:
            before, now = self.told[connection_id], self.real.wanted(connection_id)
            for token, mode in self.real.leaving[connection_id].items():
                if connection_id != 3 or not self.mirrored:  # a mirror follows the mode
                    assert now[token] == before[token] == mode
            self.told[connection_id] = now
            self.live[connection_id] &= set(now)


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=300, stateful_step_count=40, deadline=None, report_multiple_bugs=False)


def test_while_it_rests_nothing_is_wanted():
    """Who is subscribed where stays, and can be changed; nobody waits for another place, and nothing is uncovered."""
    real = Subscriptions(3)
    real.subscribe([1, 2, 3], "quote", NOW)
    for connection_id in CONNECTIONS:
        real.wanted(connection_id)
    real.set_mode([1], "full", NOW)
    assert real.wanted(1).keys() == {1, 2, 3}
    real.rest(on=True)
    real.subscribe([4], "quote", NOW)
    real.set_mode([2], "full", NOW)
    real.unsubscribe([3])
    assert [real.wanted(c) for c in CONNECTIONS] == [{}, {}, {}]
    assert [real.held_for(c) | real.held_back(c) for c in CONNECTIONS] == [set(), set(), set()]
    assert real.uncovered(()) == {}
    assert [real.number_of(c) for c in CONNECTIONS] == [1, 2, 0]
    real.rest(on=False)
    assert [real.wanted(c) for c in CONNECTIONS] == [{4: "quote"}, {1: "full", 2: "full"}, {}]
    assert real.uncovered(()) == {1: 1, 2: 2}


def test_a_failover_outlasts_a_rest():
    """Others go on to record for a connection that had failed over before."""
    real = Subscriptions(3)
    real.subscribe([1, 2], "quote", NOW)
    real.failover(1)
    real.rest(on=True)
    assert [real.wanted(c) for c in CONNECTIONS] == [{}, {}, {}]
    real.rest(on=False)
    assert [real.wanted(c) for c in CONNECTIONS] == [{}, {}, {1: "quote", 2: "quote"}]
