"""The history of changes: what is kept in memory, and what the event log gives back after a restart."""

from datetime import date, timedelta
from typing import get_args

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.events import SUPERVISOR, encode_event
from pipeline.files import event_file_name, tick_file_name
from pipeline.requests import KEPT_CHANGES, Action, By, HistoryEntry
from pipeline.supervisor.history import FILES_READ, History, logged
from pipeline.supervisor.subscriptions import Changed
from tests.builders import DAY, EPOCH, event_line, tick_lines

THIS_RUN = EPOCH + 1  # has logged nothing yet
FIRST_S = 9 * 3600


def timestamp(second, day=DAY):
    """Return a moment of a day, as events have it."""
    hour, rest = divmod(FIRST_S + second, 3600)
    return f"{day.isoformat()}T{hour:02d}:{rest // 60:02d}:{rest % 60:02d}.000000+05:30"


class Log:
    """An event log and a clock of which each look takes a second."""

    def __init__(self, day=DAY):
        self.day = day
        self.seconds = 0
        self.lines = []
        self.history = History(self.write)

    def write(self, event, fields, epoch=EPOCH):
        """Write an event as the supervisor does; return its time."""
        self.seconds += 1
        number = len(self.lines) + 1
        self.lines.append(
            encode_event(
                event,
                timestamp(self.seconds, self.day),
                {"connection_id": 0, **fields},
                source=SUPERVISOR,
                epoch=epoch,
                event_seq=number,
            )
        )
        return timestamp(self.seconds, self.day)

    def save(self, folder):
        """Write the file of the day."""
        (folder / event_file_name(self.day)).write_bytes(b"".join(self.lines))


@pytest.fixture
def log():
    """An empty event log."""
    return Log()


# In memory.


def test_a_change_is_kept_and_logged(log):
    """Who asked, for what, and what came of it; the event has what is not empty."""
    changed = Changed([5, 6], {"1": 2}, "quote", repeats=[5], unchanged=[7], unknown=[8])
    log.history.done("subscribe", "cli", changed)
    (entry,) = log.history.latest(10)
    assert entry == HistoryEntry(
        timestamp=timestamp(1),
        action="subscribe",
        by="cli",
        instruments=[5, 6],
        mode="quote",
        connections={"1": 2},
        result="done",
    )
    event = orjson.loads(log.lines[0])
    assert event["timestamp"] == entry.timestamp
    told = {name: event[name] for name in ("event", "connection_id", "source")}
    assert told == {"event": "request", "connection_id": 0, "source": "supervisor"}
    assert list(event)[3:-3] == ["action", "by", "instruments", "mode", "connections", "result"]


def test_a_refusal_is_kept_and_logged(log):
    """With its reason, and each token once."""
    log.history.refused("set_mode", "client", iter([5, 6, 5]), "not subscribed: 5", "full")
    (entry,) = log.history.latest(10)
    assert entry == HistoryEntry(
        timestamp=timestamp(1),
        action="set_mode",
        by="client",
        instruments=[5, 6],
        mode="full",
        result="refused",
        reason="not subscribed: 5",
    )
    event = orjson.loads(log.lines[0])
    assert list(event)[3:-3] == ["action", "by", "instruments", "mode", "result", "reason"]


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
def test_the_latest_come_last(log, limit):
    """No more than asked for, oldest first."""
    for token in range(1, 6):
        log.history.done("subscribe", "cli", Changed([token]))
    tokens = [entry.instruments for entry in log.history.latest(limit)]
    assert tokens == [[token] for token in range(1, 6)][-limit:]


def test_memory_is_limited(log):
    """The oldest are forgotten, those of earlier runs first."""
    for token in range(1, KEPT_CHANGES + 1):
        log.history.done("subscribe", "cli", Changed([token]))
    log.history.done("unsubscribe", "cli", Changed([1]))
    earlier = Log(DAY - timedelta(days=1))
    earlier.history.done("subscribe", "cli", Changed([9999]))
    for first in ([2], [3]):
        kept = log.history.latest(KEPT_CHANGES + 10)
        assert len(kept) == KEPT_CHANGES
        assert (kept[0].instruments, kept[-1].action) == (first, "unsubscribe")
        log.history.recall(earlier.history.latest(1))
        assert log.history.latest(KEPT_CHANGES + 10) == kept
        log.history.done("unsubscribe", "cli", Changed([2]))


def test_earlier_runs_come_before_this_one(log):
    """What was asked for before what is recalled was known is the latest nevertheless; nothing is logged again."""
    log.history.done("mirror", "cli", Changed([3]))
    earlier = Log(DAY - timedelta(days=1))
    for token in (1, 2):
        earlier.history.done("subscribe", "universe", Changed([token]))
    log.history.recall(earlier.history.latest(10))
    assert [entry.instruments for entry in log.history.latest(10)] == [[1], [2], [3]]
    assert [entry.instruments for entry in log.history.latest(2)] == [[2], [3]]
    assert len(log.lines) == 1


# Out of the event log.


changes = st.builds(
    Changed,
    st.lists(st.integers(1, 2**32 - 1), max_size=4),
    st.dictionaries(st.sampled_from(["1", "2", "3"]), st.integers(1, 3000)),
    st.none() | st.sampled_from(["ltp", "quote", "full"]),
)
asked = st.tuples(st.sampled_from(get_args(Action)), st.sampled_from(get_args(By)), changes, st.none() | st.text())


@given(st.lists(asked, max_size=6))
@settings(max_examples=150, deadline=None)
def test_what_was_logged_comes_back(tmp_path_factory, requests):
    """Every field of every entry, in order."""
    folder = tmp_path_factory.getbasetemp()
    log = Log()
    for action, by, changed, reason in requests:
        if reason is None:
            log.history.done(action, by, changed)
        else:
            log.history.refused(action, by, changed.instruments, reason, changed.mode)
    log.save(folder)
    entries = logged(folder, THIS_RUN).requests
    assert entries == log.history.latest(KEPT_CHANGES)


def test_only_requests_are_read(tmp_path, log):
    """Other events are passed over, also those whose content looks like a request's."""
    log.history.done("subscribe", "cli", Changed([5], {"1": 1}, "quote"))
    request = orjson.loads(log.lines[0])
    log.write("order_update", {"data": {"event": "request", **request}})
    log.write("kite_message", {"type": "x", "text": log.lines[0].decode()})
    log.write("subscribed", {"instruments": {"quote": [5]}})
    fields = {name: value for name, value in request.items() if name in HistoryEntry.model_fields}
    log.write("request_seen", fields)
    log.lines.append(event_line(9))
    log.history.done("unsubscribe", "cli", Changed([5], {"1": 1}))
    log.save(tmp_path)
    assert [entry.action for entry in logged(tmp_path, THIS_RUN).requests] == ["subscribe", "unsubscribe"]


def test_lines_that_are_none_of_ours_are_passed_over(tmp_path, log):
    """Rubbish, half lines, JSON that is no object, a request of a kind that is not known, and a torn end."""
    mark = b'"event":"request"'
    log.history.done("subscribe", "cli", Changed([5]))
    whole = log.lines[0]
    strange = [
        b"",
        b"\xff\xfe" + mark,
        mark,
        b"[" + mark.replace(b":", b",") + b"]",
        b'"' + mark.replace(b'"', b'\\"') + b'"',
        b"[" * 5000 + mark,
        b"[{" + mark + b"}]",
        b"{" + mark + b"}",
        whole[:-10],
        whole.strip().replace(b'"subscribe"', b'"destroy"'),
        whole.strip().replace(b"[5]", b"[null]"),
        whole.strip().replace(b'"cli"', b"7"),
    ]
    log.lines += [line + b"\n" for line in strange]
    log.history.done("unsubscribe", "cli", Changed([5]))
    log.lines.append(whole.replace(b'"subscribe"', b'"unsubscribe"')[:-5])
    log.save(tmp_path)
    assert [entry.action for entry in logged(tmp_path, THIS_RUN).requests] == ["subscribe", "unsubscribe"]


def test_what_this_run_has_logged_is_left_out(tmp_path, log):
    """It is in memory already, whatever the clock said."""
    log.history.done("subscribe", "cli", Changed([1]))
    fields = {name: value for name, value in orjson.loads(log.lines[0]).items() if name in HistoryEntry.model_fields}
    log.write("request", {**fields, "instruments": [2]}, epoch=THIS_RUN)
    log.save(tmp_path)
    assert [entry.instruments for entry in logged(tmp_path, THIS_RUN).requests] == [[1]]
    assert [entry.instruments for entry in logged(tmp_path, EPOCH).requests] == [[2]]


def test_the_latest_files_are_read(tmp_path):
    """Days follow each other, and old ones are not read; tick files are no event files."""
    days = [date(2025, 9, 30), date(2025, 10, 1), date(2025, 10, 3)]
    for token, day in enumerate(days, start=1):
        log = Log(day)
        log.history.done("subscribe", "cli", Changed([token]))
        log.save(tmp_path)
        (tmp_path / tick_file_name(day)).write_bytes(tick_lines(1, 2) + log.lines[0])
    assert FILES_READ == 2
    assert [entry.instruments for entry in logged(tmp_path, THIS_RUN).requests] == [[2], [3]]


def test_no_more_than_is_kept_comes_back(tmp_path, log):
    """Of a long log the end counts."""
    for token in range(1, KEPT_CHANGES + 6):
        log.history.done("subscribe", "cli", Changed([token]))
    log.save(tmp_path)
    entries = logged(tmp_path, THIS_RUN).requests
    assert len(entries) == KEPT_CHANGES
    assert (entries[0].instruments, entries[-1].instruments) == ([6], [KEPT_CHANGES + 5])


@pytest.mark.parametrize("lines", [None, b""])
def test_without_a_log_there_is_no_history(tmp_path, lines):
    """Neither without a file, nor with an empty one."""
    if lines is not None:
        (tmp_path / event_file_name(DAY)).write_bytes(lines)
    assert logged(tmp_path, THIS_RUN).requests == []
