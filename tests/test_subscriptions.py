"""Who is subscribed where."""

import pytest

from pipeline.config import MAX_INSTRUMENTS, Universe
from pipeline.supervisor.subscriptions import Refusal, Subscriptions

NOW = "2025-10-01T09:15:00.000000+05:30"


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


def test_the_universe_is_taken_as_far_as_possible():
    """What is named twice or does not fit is refused by itself, with where it is; the rest is subscribed."""
    subscriptions = Subscriptions(3)
    refusals = subscriptions.take_universe(Universe(primary=(1, 2), secondary=(2, 3)), NOW)
    assert refusals == [Refusal(2, "already on connection 1 in quote mode")]
    assert [subscriptions.of(c) for c in (1, 2, 3)] == [{1: "quote", 2: "quote"}, {3: "full"}, {}]
    refusals = subscriptions.take(range(10, MAX_INSTRUMENTS + 10), "quote", NOW)
    assert len(subscriptions.of(1)) == MAX_INSTRUMENTS
    assert refusals == [Refusal(t, "connection 1 is full") for t in (MAX_INSTRUMENTS + 8, MAX_INSTRUMENTS + 9)]
