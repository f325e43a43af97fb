"""Interruptions, told as histories: what happened at which nanosecond, and the gaps that must come of it.

Instruments are named by small numbers; those of the histories want 7 and 8 all the time.
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.epoch import Predecessor
from pipeline.gaps import LATE_NS, Gap, GapTracker
from pipeline.wire import Mark

FIRST = Predecessor("none")
CLEAN = Predecessor("clean", 1, Mark(9, 2), 500)
KILLED = Predecessor("killed", 1, Mark(9, 2), 500)
CLEAN_WITHOUT_INSTRUMENTS = Predecessor("clean", 1, Mark(0, 2), 0)
KILLED_WITHOUT_INSTRUMENTS = Predecessor("killed", 1, Mark(0, 2), 0)
LOST = Predecessor("unknown", 1)

HISTORIES = {
    "a first start has nothing to miss": (FIRST, [("frame", 700)], []),
    "after an orderly end": (CLEAN, [("frame", 700)], [Gap("stopped", 500, 700)]),
    "after a kill": (KILLED, [("frame", 700)], [Gap("killed", 500, 700)]),
    "a clock that was set back meanwhile": (KILLED, [("frame", 300)], [Gap("killed", 500, 500)]),
    "after an end without instruments": (CLEAN_WITHOUT_INSTRUMENTS, [("frame", 700)], []),
    "after a kill without instruments": (KILLED_WITHOUT_INSTRUMENTS, [("frame", 700)], []),
    "after a lost spool nobody knows since when": (LOST, [("frame", 700)], [Gap("spool lost", 0, 700)]),
    "from the last frame before to the first one after": (
        FIRST,
        [("frame", 700), ("frame", 800), ("disconnected", 850), ("frame", 900), ("frame", 950)],
        [Gap("disconnected", 800, 900)],
    ),
    "the first of several causes counts": (
        FIRST,
        [("frame", 700), ("silent", 750), ("refused", 760), ("refused", 770), ("frame", 900)],
        [Gap("silent", 700, 900)],
    ),
    "without a frame before, from when it was wanted": (
        FIRST,
        [("refused", 650), ("frame", 700)],
        [Gap("refused", 600, 700)],
    ),
    "a predecessor's gap stays its own": (
        KILLED,
        [("refused", 650), ("frame", 700)],
        [Gap("killed", 500, 700)],
    ),
    "each interruption has its gap": (
        FIRST,
        [("frame", 1), ("silent", 2), ("frame", 3), ("spool full", 4), ("frame", 5)],
        [Gap("silent", 1, 3), Gap("spool full", 3, 5)],
    ),
}


@pytest.mark.parametrize(("before", "history", "gaps"), HISTORIES.values(), ids=HISTORIES.keys())
def test_history(before, history, gaps):
    """A gap is open from what ended the flow until the next frame, and is told once."""
    tracker = GapTracker(before)
    assert tracker.want((8, 7), 600) == []
    found = []
    for what, now_ns in history:
        if what == "frame":
            found += tracker.closed(now_ns)
            tracker.last_frame_ns = now_ns
            assert not tracker.is_open
        else:
            tracker.interrupted(what, now_ns)
            assert tracker.is_open
    assert found == [gap._replace(instruments=[7, 8]) for gap in gaps]


def running(before: Predecessor = FIRST, **first: Any) -> GapTracker:
    """Return a tracker of a connection that has 7 and 8, and had a frame at 700, unless an epoch was before."""
    tracker = GapTracker(before)
    tracker.want((7, 8), 600, **first)
    if before is FIRST:
        tracker.last_frame_ns = 700
    return tracker


def test_who_is_gone_meanwhile_has_missed_until_then():
    """An instrument that is unsubscribed within an interruption misses no more; the others do, to the end."""
    tracker = running()
    tracker.interrupted("closed", 750)
    assert tracker.want((8,), 800) == [Gap("closed", 700, 800, [7])]
    assert tracker.is_open
    assert tracker.closed(900) == [Gap("closed", 700, 900, [8])]
    assert tracker.closed(950) == []


def test_who_is_new_meanwhile_has_missed_since_then():
    """An instrument that is subscribed within an interruption misses what comes from then on."""
    tracker = running()
    tracker.interrupted("closed", 750)
    assert tracker.want((7, 8, 9), 800) == []
    assert tracker.want((7, 8, 9, 10), 820) == []
    assert tracker.want((7, 8, 10), 850) == [Gap("closed", 800, 850, [9])]
    assert tracker.closed(900) == [Gap("closed", 700, 900, [7, 8]), Gap("closed", 820, 900, [10])]


def test_who_is_covered_elsewhere_has_missed_until_then():
    """What another connection records since some time was missed until that time, whenever this one is told."""
    tracker = running()
    tracker.interrupted("silent", 750)
    assert tracker.want((), 900, relieved={7: 800, 8: 820}) == [
        Gap("silent", 700, 800, [7]),
        Gap("silent", 700, 820, [8]),
    ]
    assert not tracker.is_open


def test_what_another_connection_had_before_is_not_missed():
    """Only what nobody else has counts."""
    tracker = running()
    tracker.interrupted("silent", 750)
    assert tracker.want((), 900, relieved={7: 650}) == [Gap("silent", 700, 900, [8])]


def test_what_another_connection_keeps_is_its_own_to_miss():
    """A connection that is to have it answers for it from when it has recorded it, and not before."""
    tracker = running()
    assert tracker.want((7, 8, 9, 10), 750, held=(9, 10)) == []
    tracker.interrupted("closed", 760)
    tracker.taken((8, 9), 800)
    assert tracker.want((7, 9, 10), 850) == [Gap("closed", 700, 850, [8])]
    assert tracker.closed(900) == [Gap("closed", 700, 900, [7]), Gap("closed", 800, 900, [9])]
    tracker.last_frame_ns = 950
    tracker.interrupted("silent", 960)
    assert tracker.closed(1000) == [Gap("silent", 950, 1000, [7, 9, 10])]


def test_what_nobody_records_any_more_is_missed():
    """Others had to be carried in its place: it is missed since then, whatever the connection is at."""
    tracker = GapTracker(FIRST)
    assert tracker.want((), 600, before=()) == []
    assert tracker.want((7, 8), 750, held=(7, 8)) == []
    assert tracker.want((7, 8), 800, missing={8: 790, 9: 790}) == []
    assert tracker.is_open
    assert tracker.closed(900) == [Gap("no room", 790, 900, [8])]
    killed = GapTracker(KILLED)
    assert killed.want((7,), 900, before=(7,), relieved={7: 560}, missing={7: 700}) == [Gap("killed", 500, 560, [7])]
    assert killed.closed(950) == [Gap("killed", 700, 950, [7])]


def test_what_was_taken_off_a_half_open_socket_has_missed_something_too():
    """Nothing had come since the last frame, though nobody knew; a frame after it shows that all was well."""
    tracker = running()
    assert tracker.want((8, 9), 800) == []
    assert tracker.want((), 820, relieved={9: 810}) == []
    assert tracker.want((8,), 830) == []
    assert tracker.interrupted("silent", 900) == [
        Gap("silent", 700, 800, [7]),
        Gap("silent", 700, 810, [9]),
        Gap("silent", 700, 820, [8]),
    ]
    assert tracker.closed(950) == [Gap("silent", 830, 950, [8])]
    assert tracker.want((), 960) == []
    tracker.last_frame_ns = 970
    assert tracker.interrupted("closed", 980) == []
    assert not tracker.is_open


def test_what_was_kept_elsewhere_and_never_came_is_not_missed_when_it_goes():
    """A failover to a spare that never connects, and back."""
    tracker = GapTracker(FIRST)
    assert tracker.want((7, 8), 700, before=(), held=(7, 8)) == []
    tracker.interrupted("failed", 750)
    assert tracker.want((), 900) == []
    assert not tracker.is_open


def test_the_successor_of_a_killed_worker_speaks_for_what_that_had():
    """What it had and is not wanted any more is told, until another connection had it; what is new is no part of it."""
    tracker = GapTracker(KILLED)
    assert tracker.want((8, 9), 900, before=(6, 7, 8), relieved={7: 560}) == [
        Gap("killed", 500, 560, [7]),
        Gap("killed", 500, 900, [6]),
    ]
    assert tracker.closed(950) == [Gap("killed", 500, 950, [8]), Gap("killed", 900, 950, [9])]


@pytest.mark.parametrize(("held", "later"), [((), [Gap("killed", 900, 950, [7])]), ((7,), [])])
def test_what_comes_back_to_the_successor_was_another_s_meanwhile(held, later):
    """Another connection recorded it and has failed, too: from then on it is that one's to miss, or ours when told."""
    tracker = GapTracker(KILLED)
    relieved = {7: 560}
    assert tracker.want((7, 8), 900, before=(7, 8), relieved=relieved, held=held) == [Gap("killed", 500, 560, [7])]
    assert tracker.closed(950) == [Gap("killed", 500, 950, [8]), *later]


def test_all_of_a_killed_worker_is_covered_elsewhere():
    """The whole connection has been taken over: its gap ends where the other one begins."""
    tracker = GapTracker(KILLED)
    assert tracker.want((), 900, before=(7, 8), relieved={7: 560, 8: 560}) == [Gap("killed", 500, 560, [7, 8])]
    assert not tracker.is_open
    assert tracker.want((7, 8), 2000) == []
    assert tracker.closed(2100) == []


def test_without_anybody_who_knows_the_instruments_the_gap_is_told_all_the_same():
    """A worker that never learns what its predecessor had still says that something was missed."""
    assert GapTracker(KILLED).want((), 900) == [Gap("killed", 500, 900, ())]


def test_who_was_told_nothing_leaves_the_gap_to_its_successor():
    """It ended before anybody said which instruments there are."""
    tracker = GapTracker(KILLED)
    assert tracker.closed(900) == []
    assert tracker.is_open


def test_a_predecessor_that_is_known_to_have_had_nothing_missed_nothing():
    """It may have had a socket all the same; what is wanted now is missed from now on."""
    tracker = GapTracker(KILLED)
    assert tracker.want((), 900, before=()) == []
    assert not tracker.is_open
    tracker = GapTracker(KILLED)
    assert tracker.want((7,), 900, before=()) == []
    assert tracker.closed(950) == [Gap("killed", 900, 950, [7])]


def test_without_instruments_nothing_is_missed():
    """Neither an interruption of an idle connection, nor the time before its first instrument."""
    tracker = running()
    assert tracker.want((), 800) == []
    tracker.interrupted("closed", 850)
    assert not tracker.is_open
    assert tracker.want((9,), 5000) == []
    tracker.interrupted("refused", 5100)
    assert tracker.closed(5200) == [Gap("refused", 5000, 5200, [9])]


def test_a_connection_that_is_down_misses_what_is_wanted_from_now_on():
    """The first instrument of a connection that waits for its next try is missed from the start."""
    tracker = running()
    tracker.want((), 800)
    assert tracker.want((9,), 5000, down_by="refused") == []
    assert tracker.closed(5200) == [Gap("refused", 5000, 5200, [9])]


# Times in which nothing was to be recorded.

REST = (1_000, 2_000)
LATE = LATE_NS + 1


def killed_at(last_recv_ns: int) -> Predecessor:
    return Predecessor("killed", 1, Mark(5, 1), last_recv_ns)


def test_a_rest_is_no_gap():
    """What ended before a rest and goes on after it is missed before and after, and not within."""
    tracker = GapTracker(killed_at(500))
    tracker.want((7, 8), 2_500, before=(7, 8), rests=[(0, 100), REST])
    assert tracker.closed(2_600) == [Gap("killed", 500, 1_000, [7, 8]), Gap("killed", 2_000, 2_600, [7, 8])]


def test_what_lies_within_a_rest_is_no_gap():
    """Who begins within it, and is told to want nothing, has missed what came before, if that was outside."""
    within = GapTracker(killed_at(1_100))
    assert within.want((), 1_500, before=(7,), rests=[REST]) == []
    before = GapTracker(killed_at(900))
    assert before.want((), 1_500, before=(7,), rests=[REST]) == [Gap("killed", 900, 1_000, [7])]


def test_who_is_up_late_has_missed_since_it_was_due():
    """Instruments that should be recorded since a rest was over were missed since, by who had nothing until then."""
    fresh, idle = GapTracker(FIRST), GapTracker(FIRST)
    idle.want((), 0)
    for tracker in (fresh, idle):
        tracker.want((7, 8), 2_000 + LATE, due={7: 2_000, 9: 2_000}, rests=[REST])
        assert tracker.closed(3_000 + LATE) == [
            Gap("opened late", 2_000, 3_000 + LATE, [7]),
            Gap("opened late", 2_000 + LATE, 3_000 + LATE, [8]),
        ]


def test_who_died_after_the_rest_and_is_wanted_no_more():
    """Nobody has said that it had been up: it was, and has missed what came since it died."""
    tracker = GapTracker(killed_at(2_100))
    assert tracker.want((), 3_100, before=(), due={7: 2_000}, rests=[REST, (3_000, 9_000)]) == [
        Gap("killed", 2_100, 3_000, [7])
    ]


def test_who_was_due_and_is_carried_by_another_has_missed_until_then():
    """A moment is none."""
    tracker = GapTracker(FIRST)
    late, soon = 2_000 + LATE, 2_000 + LATE_NS
    gaps = tracker.want((), 9 * LATE, before=(), due={7: 2_000, 8: 2_000}, relieved={7: late, 8: soon}, rests=[REST])
    assert gaps == [Gap("opened late", 2_000, late, [7])]


def test_who_is_up_in_time_has_missed_nothing():
    """Orders take a moment; and who has instruments already knows better what it missed."""
    tracker = GapTracker(FIRST)
    tracker.want((7,), 2_000 + LATE_NS, due={7: 2_000}, rests=[REST])
    assert not tracker.is_open
    recording = running()
    recording.want((7, 8), 2_000 + LATE, due={7: 2_000, 8: 2_000}, rests=[REST])
    assert not recording.is_open


def test_who_died_after_the_rest_has_missed_since_it_died():
    """It had been up in time, whatever is known of that."""
    tracker = GapTracker(killed_at(2_100))
    tracker.want((7,), 2_000 + LATE, before=(), due={7: 2_000}, rests=[REST])
    assert tracker.closed(3_000 + LATE) == [Gap("killed", 2_100, 3_000 + LATE, [7])]


@given(
    st.lists(st.integers(0, 40), max_size=8, unique=True).map(sorted),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_what_is_missed_is_what_lies_in_no_rest(edges, begin, length):
    """Moment by moment."""
    rests = list(zip(edges[::2], edges[1::2], strict=False))
    tracker = GapTracker(killed_at(begin + 1))
    tracker.want((7,), begin + 1, before=(7,), rests=rests)
    gaps = tracker.closed(begin + 1 + length)
    missed = {moment for gap in gaps for moment in range(gap.from_ns, gap.to_ns)}
    assert missed == {
        moment
        for moment in range(begin + 1, begin + 1 + length)
        if not any(opens <= moment < closes for opens, closes in rests)
    }
