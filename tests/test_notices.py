"""What people are told of an event."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import events
from pipeline.notices import KEPT_TEXT, describe

UNTOLD = {"order_update", "kite_message", "epoch"}  # a user's own business, and what is no news of the recording
NAMES = re.findall(r"^ {6}(\w+) ", events.__doc__ or "", re.MULTILINE)
TIME, LATER = "2025-10-01T09:15:23.000000+05:30", "2025-10-01T09:15:24.250000+05:30"
FIELDS: dict[str, dict[str, Any]] = {  # as the event log has them
    "subscribed": {"instruments": {"quote": [1, 2], "full": [3]}},
    "resubscribed": {"instruments": {"ltp": [1]}, "dropped": [2, 3]},
    "disconnected": {"cause": "closed", "reason": "HTTP 503", "retry_in_s": 0.5, "close_code": 1006},
    "not_connected": {"cause": "refused", "reason": "HTTP 403", "retry_in_s": None, "http_status": 403},
    "gap": {"instruments": [1, 2], "from": TIME, "to": LATER, "cause": "killed", "gap_epoch": 7},
    "reject": {"received": TIME, "offset": 4, "reason": "too short", "raw": "00ff"},
    "kite_error": {"data": "anything"},
    "clock_step": {"offset_s": 1.5, "followed": True},
    "stopped": {"last_seq": 7},
    "service_started": {"version": "1.2", "simulated": False},
    "service_stopped": {"drained": True},
    "process_started": {"process": "writer", "pid": 7},
    "process_died": {"process": "worker-1", "exit_code": None, "given_up": False},
    "process_hung": {"process": "worker-1", "pid": 7},
    "uncovered": {"instruments": [1, 2, 3]},
    "request": {
        "action": "set_mode",
        "by": "cli",
        "instruments": [1, 2],
        "mode": "full",
        "connections": {"2": 2},
        "result": "refused",
        "reason": "no room",
    },
    "health": {"status": "down", "was": "healthy", "reasons": ["one", "two"]},
    "compacted": {"date": "2025-10-01", "ticks": 7, "bytes": 2800, "parquet_bytes": 70, "bad_lines": 0},
    "compact_failed": {"date": "2025-10-01", "reason": "no room"},
    "market_closed": {"until": "2025-10-06T08:55:00+05:30"},
    "market_opened": {"until": None},
    "subscriptions_damaged": {"file": "f", "error": "no JSON", "kept_in": "g"},
    "instruments_synced": {"date": "2025-10-01", "instruments": 100_000, "bytes": 7, "file": "f"},
    "instruments_failed": {"reason": "no network", "refused": False},
    "expired": {"instruments": [1, 2], "symbols": ["NFO:A", "NFO:B"]},
    "token_changed": {"symbol": "NSE:INFY", "from_token": 1, "to_token": 2},
    "file_missing": {"file": "f", "bytes": 7},
    "file_restored": {"file": "f", "bytes": 7, "kept_in": "g"},
    "file_shortened": {"file": "f", "bytes": 7, "bytes_stored": 9},
    "foreign_lines": {"file": "f", "lines": 2},
    "torn_end": {"file": "f", "offset": 7, "bytes": 2},
    "sync_failed": {"error": "EIO", "syncs_failed": 2},
    "storing_paused": {"cause": "the disk is full"},
}
TEXTS = {
    "subscribed": "recording 3 instruments",
    "resubscribed": "subscription changed: 1 instruments new or in another mode, 2 dropped",
    "disconnected": "connection lost (closed): HTTP 503",
    "not_connected": "could not connect (refused): HTTP 403",
    "gap": "2 instruments were not recorded for 1.250 s (killed)",
    "reject": "a part of a frame was no packet: too short",
    "process_died": "worker-1 has died",
    "market_closed": "connections are closed by the clock until 2025-10-06 08:55",
    "market_opened": "connections are opened by the clock",
    "uncovered": "3 instruments are uncovered: no connection that is well has room for them",
    "request": "set mode, 2 instruments in full mode, asked by cli, refused: no room",
    "health": "down, was healthy: one; two",
    "storing_paused": "not storing: the disk is full",
    "expired": "expired, and unsubscribed: NFO:A, NFO:B",
}


def test_the_list_of_events_was_read():
    """The names in these tests are those of the list, and there is more in it than they know fields of."""
    assert NAMES.count("gap") == 1
    assert set(NAMES) >= FIELDS.keys() | UNTOLD


@pytest.mark.parametrize("event", NAMES)
def test_each_event_has_words_of_its_own(event):
    """With what matters of it, and nothing that is missing; or it is not told at all."""
    told = describe(event, {"connection_id": 1, **FIELDS.get(event, {})})
    assert (told is None) == (event in UNTOLD)
    if told:
        text, details = told
        assert text == TEXTS.get(event, text)
        assert text != event or event == "connected"
        assert not set("?{}[]").intersection(text)
        assert details.keys() == FIELDS.get(event, {}).keys() - {"raw", "data"}


@pytest.mark.parametrize(
    ("event", "fields", "text"),
    [
        ("health", {"status": "healthy", "was": "down", "reasons": []}, "healthy, was down"),
        ("uncovered", {"instruments": []}, "all instruments have a place again"),
        ("gap", {"from": None}, "2 instruments were not recorded for an unknown time (killed)"),
        ("request", {"result": "done", "reason": "", "mode": None}, "set mode, 2 instruments, asked by cli"),
    ],
)
def test_what_is_not_there_is_not_talked_about(event, fields, text):
    """No reasons, no instruments, no time, no mode."""
    told = describe(event, FIELDS[event] | fields)
    assert told
    assert told[0] == text


@given(st.sampled_from(sorted(FIELDS)), st.data())
def test_a_field_may_be_missing(event, data):
    """An older version did not write it: there is a question mark in its place."""
    kept = data.draw(st.sets(st.sampled_from(sorted(FIELDS[event]))))
    told = describe(event, {name: FIELDS[event][name] for name in kept})
    assert told
    assert told[0]
    assert told[1].keys() == kept - {"raw", "data"}


def test_an_event_of_another_version_is_told_by_its_name():
    """With its fields."""
    assert describe("unheard_of", {"connection_id": 1, "one": 1}) == ("unheard_of", {"one": 1})


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (list(range(3000)), 3000),
        ([], 0),
        ({"quote": [1, 2], "full": []}, 2),
        ({"1": 20, "2": 3}, 23),
        ({}, 0),
        ("short", "short"),
        ("x" * KEPT_TEXT, "x" * KEPT_TEXT),
        ("x" * (KEPT_TEXT + 1), "x" * KEPT_TEXT + "..."),
        (1.5, 1.5),
        (None, None),
        (True, True),
    ],
)
def test_details_are_few_and_short(value, told):
    """Instruments are told as their number, and what others have written is cut."""
    assert describe("sync_failed", {"error": value}) == (f"syncing to disk has failed: {told}", {"error": told})


def test_what_a_user_trades_is_not_told():
    """Nor what Kite sends in its messages: it stays in the event log."""
    assert describe("order_update", {"connection_id": 1, "data": {"order_id": "1"}}) is None
    assert describe("kite_error", {"connection_id": 1, "data": "secret"}) == ("Kite reports an error", {})


def test_a_process_that_was_adopted_has_not_been_started():
    """It has been recording all the time."""
    for adopted, text in ((True, "writer was running already, and is adopted"), (False, "writer started")):
        told = describe("process_started", {"process": "writer", "pid": 7, "adopted": adopted})
        assert told
        assert told[0] == text


def test_a_process_that_is_given_up_is_told_of_with_what_to_do():
    """Nobody starts it again by itself."""
    told = describe("process_died", {"process": "worker-1", "exit_code": -9, "given_up": True})
    assert told
    assert told[0] == "worker-1 has died too often, and is given up: mds restart worker-1"
