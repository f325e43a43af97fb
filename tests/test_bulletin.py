"""The latest notices, numbered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.status import Notice
from pipeline.supervisor.bulletin import KEPT, Bulletin

BEGIN = 1_759_290_000_000


def told(bulletin, count, event="connected"):
    for number in range(count):
        bulletin.tell(event, "worker-1", f"now {number}", ("it is connected", {"number": number}))


def logged(count, event="connected"):
    return [
        {
            "event": event,
            "timestamp": f"then {number}",
            "connection_id": 1,
            "number": number,
            "source": "worker-1",
            "epoch": 7,
            "event_seq": number,
        }
        for number in range(count)
    ]


@given(st.integers(0, 2 * KEPT), st.integers(0, 2 * KEPT), st.integers(0, 2 * KEPT))
def test_numbers_ascend(earlier, before, after):
    """One by one, without a hole, over what earlier runs have logged too, which is read later; the last remain."""
    bulletin = Bulletin(BEGIN)
    told(bulletin, before)
    bulletin.recall(logged(earlier))
    told(bulletin, after)
    found = bulletin.after(0)
    total = earlier + min(before, KEPT) + after
    assert len(found) == min(total, KEPT)
    numbers = [notice.number for notice in found]
    assert numbers == list(range(BEGIN + before + after - len(found) + 1, BEGIN + before + after + 1))
    times = [
        *(f"then {n}" for n in range(earlier)),
        *(f"now {n}" for n in range(before)),
        *(f"now {n}" for n in range(after)),
    ]
    assert [notice.timestamp for notice in found] == times[-len(found) :][: len(found)]


@pytest.mark.parametrize(("after", "expected"), [(0, 3), (BEGIN, 3), (BEGIN + 1, 2), (BEGIN + 3, 0), (BEGIN + 9, 0)])
def test_who_knows_some_gets_the_rest(after, expected):
    """What has a higher number, oldest first."""
    bulletin = Bulletin(BEGIN)
    told(bulletin, 3)
    found = bulletin.after(after)
    assert [notice.number for notice in found] == list(range(BEGIN + 4 - expected, BEGIN + 4))


def test_what_is_recalled_is_told_as_it_would_be_now():
    """With text and details of its own, without what every line has, and without what is not told at all."""
    bulletin = Bulletin(BEGIN)
    gap = {"instruments": [1, 2], "from": None, "to": "2025-10-01T09:15:00+05:30", "cause": "killed"}
    bulletin.recall([*logged(2, "order_update"), logged(1, "gap")[0] | gap])
    (notice,) = bulletin.after(0)
    assert (notice.number, notice.event, notice.source, notice.timestamp) == (BEGIN, "gap", "worker-1", "then 0")
    assert notice.text == "2 instruments were not recorded for an unknown time (killed)"
    assert notice.details == gap | {"instruments": 2, "number": 0}


def test_the_listener_hears_what_happens():
    """Each notice at once, but nothing that is recalled."""
    bulletin = Bulletin(BEGIN)
    heard: list[Notice] = []
    bulletin.listener = heard.append
    told(bulletin, 2)
    bulletin.recall(logged(5))
    assert heard == bulletin.after(BEGIN)
    assert [notice.details for notice in heard] == [{"number": 0}, {"number": 1}]
