"""Interruptions, told as histories: what happened at which nanosecond, and the gaps that must come of it."""

import pytest

from pipeline.epoch import Predecessor
from pipeline.gaps import Gap, GapTracker
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
    "without a frame before, from the interruption": (
        FIRST,
        [("refused", 650), ("frame", 700)],
        [Gap("refused", 650, 700)],
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
    found = []
    for what, now_ns in history:
        if what == "frame":
            found.append(tracker.closed(now_ns))
            tracker.last_frame_ns = now_ns
            assert not tracker.is_open
        else:
            tracker.interrupted(what, now_ns)
            assert tracker.is_open
    assert [gap for gap in found if gap] == gaps
