"""What each connection did, interval by interval, to be drawn or listed. Pure.

Intervals of a connection do not overlap. Gap records go before what it seemed to do at the time: a socket is found
silent only after a while.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from operator import attrgetter

from pipeline.store.completeness.spans import merged, overlap, remove
from pipeline.store.completeness.timeline import FOREVER, Interval, Timeline

PARTIAL = ("no room",)  # causes of gaps that other instruments of the same connection do not have


def intervals(timeline: Timeline, connection_id: int) -> list[Interval]:
    """Return what a connection did, in order of time."""
    found: list[Interval] = []
    for claims in _layers(timeline, connection_id):
        taken = merged((one.begin, one.end) for one in found)
        last = -FOREVER
        for one in sorted(claims, key=attrgetter("begin")):
            span = (max(one.begin, last), one.end)
            found += [replace(one, begin=begin, end=end) for begin, end in remove(span, taken)]
            last = max(last, one.end)
    return _joined(sorted(found, key=attrgetter("begin")))


def _layers(timeline: Timeline, connection_id: int) -> Iterator[list[Interval]]:
    """Yield intervals that may overlap: an earlier layer is right, and within a layer what began first."""
    states = timeline.states.get(connection_id, [])
    lives = [one for one in states if one.state == "live"]
    first = min((one.begin for one in states), default=timeline.until)
    yield [
        Interval(
            connection_id,
            "down",
            max(gap.span[0], first) if gap.since is None else gap.span[0],
            min(gap.span[1], timeline.until),
            gap.cause,
        )
        for gap in timeline.gaps
        if gap.connection_id == connection_id and gap.until is not None and gap.cause not in PARTIAL
    ]
    yield [one for one in states if one.state != "live"]
    yield [
        Interval(connection_id, move.action, max(live.begin, move.begin), min(live.end, move.end), move.reason)
        for move in timeline.moves
        if connection_id in move.targets
        for live in lives
        if overlap((live.begin, live.end), (move.begin, move.end))
    ]
    yield lives


def _joined(ordered: Iterable[Interval]) -> list[Interval]:
    joined: list[Interval] = []
    for one in ordered:
        last = joined[-1] if joined else one
        if last is not one and (last.end, last.state, last.cause) == (one.begin, one.state, one.cause):
            joined[-1] = replace(last, end=one.end)
        else:
            joined.append(one)
    return joined
