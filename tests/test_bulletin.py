"""The latest notices, numbered."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.status import Notice
from pipeline.supervisor.bulletin import KEPT, Bulletin

T0 = datetime.fromisoformat("2025-10-01T09:15:00.123456+05:30")
FIRST = round(T0.timestamp() * 1e6)


def at(microseconds: int) -> str:
    return (T0 + timedelta(microseconds=microseconds)).isoformat(timespec="microseconds")


def tell(bulletin, *times):
    for time in times:
        bulletin.tell("connected", "worker-1", at(time), ("connected", {"time": time}))


def logged(*times, event="connected", **fields):
    common = {"event": event, "connection_id": 1, "source": "worker-1", "epoch": 7}
    return [
        {**common, "timestamp": at(time), "time": time, **fields, "event_seq": number}
        for number, time in enumerate(times)
    ]


times_ = st.lists(st.integers(0, 300), max_size=2 * KEPT)


@given(times_, times_, times_)
def test_numbers_ascend(earlier, before, after):
    """Over what earlier runs have logged too, which is read later; the last remain; nothing is there twice."""
    bulletin = Bulletin()
    heard: list[Notice] = []
    bulletin.listener = heard.append
    tell(bulletin, *before)
    bulletin.recall(logged(*earlier))
    tell(bulletin, *after)
    found = bulletin.after(0)
    numbers = [notice.number for notice in found]
    assert numbers == sorted(set(numbers))
    assert all(notice.number >= FIRST + notice.details["time"] for notice in found)
    told = [notice.details["time"] for notice in found]
    new = [time for time in earlier if time not in before[-KEPT:]]
    assert len(found) == min(len(new) + min(len(before), KEPT) + len(after), KEPT)
    assert told[len(told) - min(len(after), KEPT) :] == after[-KEPT:]
    assert [notice.details["time"] for notice in heard] == before + after  # nothing that is recalled


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50, unique=True))
def test_an_event_keeps_its_number_over_a_restart(times):
    """Who followed the run before is told nothing again by the next one."""
    first = Bulletin()
    tell(first, *sorted(times))
    second = Bulletin()
    second.recall(logged(*times))
    assert [notice.number for notice in second.after(0)] == [notice.number for notice in first.after(0)]
    assert second.after(first.after(0)[-1].number) == []
    tell(second, max(times))  # in the same microsecond
    assert len(second.after(first.after(0)[-1].number)) == 1


@pytest.mark.parametrize(("after", "expected"), [(0, 3), (FIRST, 2), (FIRST + 2, 1), (FIRST + 5, 0), (FIRST + 9, 0)])
def test_who_knows_some_gets_the_rest(after, expected):
    """What has a higher number, oldest first."""
    bulletin = Bulletin()
    tell(bulletin, 0, 2, 5)
    assert [notice.details["time"] for notice in bulletin.after(after)] == [0, 2, 5][3 - expected :]


def test_what_is_recalled_is_told_as_it_would_be_now():
    """With text and details of its own, without what every line has, and without what is not told at all."""
    bulletin = Bulletin()
    gap = {"instruments": [1, 2], "from": None, "to": "2025-10-01T09:15:00+05:30", "cause": "killed"}
    bulletin.recall([*logged(1, 2, event="order_update"), *logged(3, event="gap", **gap)])
    (notice,) = bulletin.after(0)
    assert (notice.number, notice.event, notice.source, notice.timestamp) == (FIRST + 3, "gap", "worker-1", at(3))
    assert notice.text == "2 instruments were not recorded for an unknown time (killed)"
    assert notice.details == gap | {"instruments": 2, "time": 3}
