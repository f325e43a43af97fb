"""What stands in the event log of a connection about its subscriptions."""

from typing import Any, cast
from unittest import mock

import pytest

from pipeline.logbook import Logbook
from pipeline.uplink import Uplink


@pytest.fixture
def events():
    """The events that were written: name, instruments and dropped."""
    return []


@pytest.fixture
def logbook(events):
    """A logbook of a socket on which 1 and 2 are subscribed, as is on record."""
    uplink: Any = mock.Mock()
    uplink.log_event = lambda event, fields: events.append((event, fields.get("instruments"), fields.get("dropped")))
    logbook = Logbook(cast(Uplink, uplink), 1)
    logbook.connected()
    logbook.returning([1, 2])
    logbook.subscribed({1: "quote", 2: "full"})
    assert events == [("connected", None, None), ("subscribed", {"quote": [1], "full": [2]}, None)]
    events.clear()
    return logbook


def test_an_empty_socket_is_told_once(logbook, events):
    """Each heartbeat on it says the same."""
    for _ in range(3):
        logbook.unsubscribed()
    assert events == [("resubscribed", {}, [1, 2])]
    logbook.returning([1])
    logbook.subscribed({1: "quote"})
    assert events[1:] == [("resubscribed", {"quote": [1]}, [])]


def test_what_returns_before_anybody_noticed_has_left_all_the_same(logbook, events):
    """No frame came in between: it is a second subscription, to which Kite answers with snapshots."""
    logbook.returning([2, 3])
    logbook.subscribed({1: "quote", 2: "full", 3: "ltp"})
    assert events == [("resubscribed", {}, [2]), ("resubscribed", {"full": [2], "ltp": [3]}, [])]


def test_what_is_subscribed_on_another_socket_does_not_return(logbook, events):
    """What was on record of the last one counts no more, and nothing is told of a socket that never had anything."""
    logbook.connected()
    logbook.unsubscribed()
    logbook.returning([1, 2])
    assert events == [("connected", None, None)]
