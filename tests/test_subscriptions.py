"""Who is subscribed where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import MAX_INSTRUMENTS, Universe
from pipeline.supervisor.subscriptions import PRIMARY, SECONDARY, TERTIARY, Refusal, Subscriptions, bytes_a_day


@pytest.mark.parametrize(
    ("max_connections", "mode", "connection_id"),
    [(3, "ltp", 1), (3, "quote", 1), (3, "full", 2), (2, "full", 2), (1, "full", 1), (1, "quote", 1)],
)
def test_modes_have_their_connections(max_connections, mode, connection_id):
    """Full mode goes to the secondary where there is one, the rest to the primary."""
    subscriptions = Subscriptions(max_connections)
    assert subscriptions.add([408065], mode) == []
    assert subscriptions.of(connection_id) == {408065: mode}
    assert subscriptions.find(408065) == connection_id


def test_a_token_twice_in_one_request_is_one():
    """Repeats within a request are the same wish, not an error."""
    subscriptions = Subscriptions(3)
    assert subscriptions.add([1, 2, 1, 1], "quote") == []
    assert subscriptions.total == 2


def test_a_token_that_is_elsewhere_is_refused():
    """An instrument is on one connection in one mode: the second wish is refused with where it is."""
    subscriptions = Subscriptions(3)
    refusals = subscriptions.add_universe(Universe(primary=(1, 2), secondary=(2, 3)))
    assert refusals == [Refusal(2, "already on connection 1 in quote mode")]
    assert subscriptions.of(PRIMARY) == {1: "quote", 2: "quote"}
    assert subscriptions.of(SECONDARY) == {3: "full"}
    assert subscriptions.of(TERTIARY) == {}


def test_a_full_connection_refuses_the_rest():
    """What fits is subscribed, each of the others is named."""
    subscriptions = Subscriptions(3)
    refusals = subscriptions.add(range(1, MAX_INSTRUMENTS + 3), "quote")
    assert len(subscriptions.of(PRIMARY)) == MAX_INSTRUMENTS
    assert refusals == [Refusal(t, "connection 1 is full") for t in (MAX_INSTRUMENTS + 1, MAX_INSTRUMENTS + 2)]


@given(st.integers(1, 3), st.lists(st.tuples(st.lists(st.integers(1, 50)), st.sampled_from(["ltp", "quote", "full"]))))
def test_every_token_is_somewhere_once(max_connections, requests):
    """Whatever is asked, each wanted token is on exactly one connection that may be used."""
    subscriptions = Subscriptions(max_connections)
    for tokens, mode in requests:
        subscriptions.add(tokens, mode)
    placed = [token for connection_id in (1, 2, 3) for token in subscriptions.of(connection_id)]
    assert sorted(placed) == sorted({token for tokens, _ in requests for token in tokens})
    assert all(connection_id <= max_connections for connection_id in subscriptions.by_connection)


def test_the_cost_of_a_day_grows_with_ticks():
    """Twice the ticks take twice the disk, and nothing subscribed takes nothing."""
    subscriptions = Subscriptions(3)
    assert bytes_a_day(subscriptions, 1) == 0
    subscriptions.add([1], "quote")
    assert bytes_a_day(subscriptions, 2) == 2 * bytes_a_day(subscriptions, 1) > 0
