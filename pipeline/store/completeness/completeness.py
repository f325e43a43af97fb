"""Which instruments were received whole, and which were not: when, why and on which connection.

Gap records tell what a connection has not received. What another connection had meanwhile, all the time, was received
all the same; where the event log does not show that it had, it was missed. A day is judged from the start of its
recording to the end: while the service did not run, and nobody wanted it to, nothing is missed, and `recorded` says so.
A service that did not end in order is taken to have been wanted.

All but `read` is pure; it needs the event files alone.
"""

from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias
from zoneinfo import ZoneInfo

from pipeline.store.completeness.entries import Tokens, decode, microseconds
from pipeline.store.completeness.intervals import intervals
from pipeline.store.completeness.spans import Span, length, overlap, within, without
from pipeline.store.completeness.timeline import FOREVER, Gap, Interval, Move, Timeline, follow
from pipeline.store.files import Block, date_of, event_files, is_being_written, read_blocks

CONTEXT_DAYS = 7  # before and after a day: its log may begin in the middle of a recording, and its last gap end later
US_PER_S = 1_000_000

Ended: TypeAlias = Literal["in order", "running", "not in order", "next day"]


@dataclass(frozen=True)
class Missed:
    """These instruments missed the same by the same gap."""

    connection_id: int  # 0: none had them
    cause: str
    since: int | None  # None: nobody knows
    until: int | None  # None: it is not over, or nobody knows
    spans: tuple[Span, ...]  # what no connection received of that, as far as it is known
    tokens: Tokens


@dataclass(frozen=True)
class Cut:
    """A gap record, and of how many instruments another connection received all of it."""

    gap: Gap
    covered: int


@dataclass(frozen=True)
class Loss:
    """Instruments that missed the same."""

    tokens: list[int]
    parts: list[Missed]

    @cached_property
    def microseconds(self) -> int | None:
        """How long each missed something; None where nobody knows."""
        if any(part.since is None for part in self.parts):
            return None
        return length(span for part in self.parts for span in part.spans)


@dataclass(frozen=True)
class Recorded:
    """From when to when a day was recorded."""

    begin: int
    end: int
    ended: Ended


@dataclass(frozen=True)
class Day:
    """What a day has of what was subscribed."""

    day: date
    recorded: Recorded | None  # None: nothing tells
    instruments: frozenset[int]
    losses: list[Loss]  # the longest first
    cuts: list[Cut]  # the gaps of the day
    connections: dict[int, list[Interval]]
    moves: list[Move]
    never_ticked: list[int] | None  # None: nobody has said what ticked

    @property
    def missed(self) -> int:
        """How many instruments missed something."""
        return sum(len(loss.tokens) for loss in self.losses)

    @property
    def whole(self) -> int:
        """How many instruments were received whole."""
        return len(self.instruments) - self.missed


def read(
    folders: Collection[Path], days: Iterable[date], zone: ZoneInfo, ticked: Mapping[date, Collection[int]]
) -> list[Day]:
    """Return what the event logs of data folders tell of `days`.

    `ticked` has the instruments of which there are ticks, by day, where that is known. Raises OSError where a file
    cannot be read.
    """
    wanted = sorted(day for day in days if day < date.max)
    if not wanted:
        return []
    paths = sorted({path for folder in folders for path in event_files(folder)})
    first, last = wanted[0].toordinal() - CONTEXT_DAYS, wanted[-1].toordinal() + CONTEXT_DAYS
    near = [path for path in paths if (day := date_of(path)) and first <= day.toordinal() <= last]
    now = microseconds(datetime.now(UTC)) if any(map(is_being_written, folders)) else None
    timeline = follow(decode(line for path in near for line in _lines(path)), now)
    return judge(timeline, wanted, zone, ticked)


def _lines(path: Path) -> Iterator[bytes]:
    for block in read_blocks(path, path.stat().st_size):
        if isinstance(block, Block):
            yield from block.lines


def judge(
    timeline: Timeline, days: Iterable[date], zone: ZoneInfo, ticked: Mapping[date, Collection[int]] | None = None
) -> list[Day]:
    """Return what was received whole on these days, and what was not."""
    found = [_uncovered(gap, timeline) for gap in timeline.gaps]
    return [_judge(timeline, found, day, zone, (ticked or {}).get(day)) for day in days]


# What no connection received.


def _uncovered(gap: Gap, timeline: Timeline) -> tuple[Cut, list[Missed]]:
    """Return a gap, and what was missed by it: less where other connections had its instruments."""
    tokens = gap.tokens if len(gap.tokens) else _all_of(gap.connection_id, timeline)
    span = gap.span
    covered = {} if gap.since is None else _covered(gap, tokens, timeline)
    by_rest: dict[tuple[Span, ...], Tokens] = defaultdict(lambda: array("I"))
    for token, spans in covered.items():
        by_rest[tuple(without([span], spans))].append(token)
    by_rest[span,].extend(array("I", [token for token in tokens if token not in covered]) if covered else tokens)
    whole = by_rest.pop((), array("I"))
    missed = [Missed(gap.connection_id, gap.cause, gap.since, gap.until, rest, some) for rest, some in by_rest.items()]
    return Cut(gap, len(whole)), missed


def _all_of(connection_id: int, timeline: Timeline) -> Tokens:
    """Return all that a connection may have had, for a gap of which nobody knows what it cost."""
    own = (spell.tokens for spell in timeline.spells if spell.connection_id == connection_id)
    return array("I", sorted(set().union(*own) or set().union(*(spell.tokens for spell in timeline.spells))))


def _covered(gap: Gap, tokens: Tokens, timeline: Timeline) -> dict[int, list[Span]]:
    """Return when other connections received instruments of a gap."""
    span = gap.span
    wanted = frozenset(tokens)
    covered: dict[int, list[Span]] = defaultdict(list)
    near = [s for s in timeline.spells if s.connection_id != gap.connection_id and overlap(s.span, span)]
    for other in {spell.connection_id for spell in near}:
        had: dict[int, list[Span]] = defaultdict(list)
        for spell in near:
            if spell.connection_id == other:
                for token in wanted.intersection(spell.tokens):
                    had[token].append(spell.span)
        cuts: dict[int, list[Span]] = defaultdict(list)
        for cut in timeline.gaps:
            if cut.connection_id == other and had and overlap(cut.span, span):
                for token in had.keys() & set(cut.tokens) if len(cut.tokens) else had.keys():
                    cuts[token].append(cut.span)
        for token, spans in had.items():
            covered[token] += without(spans, cuts[token]) if token in cuts else spans
    return covered


# A day.


def _judge(
    timeline: Timeline,
    found: Sequence[tuple[Cut, list[Missed]]],
    day: date,
    zone: ZoneInfo,
    ticked: Collection[int] | None,
) -> Day:
    window = _window(day, zone)
    bounds = _bounds(timeline, window)
    had = set[int]().union(*(spell.tokens for spell in timeline.spells if _touches(spell.span, window)))
    asked = {token for token, at in timeline.requested.items() if window[0] <= at < window[1]}
    of_day = []
    for _, missed in found:
        for one in missed:
            spans = within(_counted(one, window, bounds, timeline), bounds)
            if spans or _ends_unknown(one, window):
                of_day.append(replace(one, spans=tuple(spans)))
    losses = _losses(of_day)
    instruments = had | asked | {token for loss in losses for token in loss.tokens} | set(ticked or ())
    ended = _recorded(timeline, window, bounds)
    return Day(
        day=day,
        recorded=ended,
        instruments=frozenset(instruments),
        losses=losses,
        cuts=[cut for cut, _ in found if overlap(cut.gap.span, bounds)],
        connections={number: _clipped(intervals(timeline, number), window) for number in timeline.states},
        moves=[move for move in timeline.moves if overlap((move.begin, move.end), window)],
        never_ticked=None if ticked is None else sorted((had | asked) - set(ticked)),
    )


def _window(day: date, zone: ZoneInfo) -> Span:
    midnight = datetime.combine(day, time(), zone)
    following = datetime.combine(day + timedelta(days=1), time(), zone)
    return microseconds(midnight), microseconds(following)


def _touches(span: Span, window: Span) -> bool:
    return overlap(span, window) or window[0] <= span[0] < window[1]


def _bounds(timeline: Timeline, window: Span) -> Span:
    """Return from when to when a day should have been recorded."""
    spans = within(timeline.running, window)
    if not spans:
        return window[0], window[0]
    signs = [at for at in timeline.signs if window[0] <= at < window[1]]
    begin, end = spans[0][0], spans[-1][1]
    if signs and signs[0] in timeline.starts:  # not since midnight: the one before had died on another day
        begin = max(begin, signs[0])
    return begin, max(begin, min(end, window[1], timeline.until))


def _recorded(timeline: Timeline, window: Span, bounds: Span) -> Recorded | None:
    """Return from when to when it was recorded, as far as that is known."""
    begin, end = bounds
    if begin == end:
        return None
    if any(span[1] == end for span in timeline.running):
        return Recorded(begin, end, "in order")
    signs = [at for at in timeline.signs if at < window[1]]
    later = next((at for at in timeline.signs if at >= window[1]), None)
    if later is None and timeline.until > max(signs, default=0):
        return Recorded(begin, end, "running" if timeline.until < window[1] else "next day")
    if later is None or later in timeline.starts:
        return Recorded(begin, max(begin, signs[-1]), "not in order")
    return Recorded(begin, end, "next day")


def _ends_unknown(missed: Missed, window: Span) -> bool:
    return missed.since is None and missed.until is not None and window[0] <= missed.until < window[1]


def _counted(missed: Missed, window: Span, bounds: Span, timeline: Timeline) -> tuple[Span, ...]:
    """Return what counts of it: ending in order, and beginning without a failure, miss nothing."""
    if missed.since is None:
        return ()
    if missed.until is None or missed.cause not in ("stopped", "killed"):
        return missed.spans
    if missed.cause == "stopped" and bounds[1] < window[1] and missed.until > bounds[1]:
        return ()
    failures = timeline.failures.get(missed.connection_id, [])
    if (
        missed.since < bounds[0]
        and bounds[0] in timeline.starts
        and not any(bounds[0] <= at < missed.until for at in failures)
    ):
        return ()
    return missed.spans


def _clipped(intervals: Iterable[Interval], window: Span) -> list[Interval]:
    return [
        Interval(one.connection_id, one.state, max(one.begin, window[0]), min(one.end, window[1]), one.cause)
        for one in intervals
        if overlap((one.begin, one.end), window)
    ]


def _losses(missed: Sequence[Missed]) -> list[Loss]:
    """Return the instruments that missed something, those together that missed the same."""
    by_token: dict[int, list[int]] = defaultdict(list)
    for index, one in enumerate(missed):
        for token in one.tokens:
            by_token[token].append(index)
    by_parts: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for token, indexes in by_token.items():
        by_parts[tuple(indexes)].append(token)
    losses = [Loss(sorted(tokens), [missed[index] for index in key]) for key, tokens in by_parts.items()]
    # What nobody knows the length of may be the longest.
    return sorted(losses, key=lambda loss: (-_or_forever(loss.microseconds), loss.tokens[:1]))


def _or_forever(known: int | None) -> int:
    return FOREVER if known is None else known
