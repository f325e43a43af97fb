"""What was received whole and what was not, in words and as JSON."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.store.completeness.completeness import US_PER_S, Day, Loss, Missed, Recorded
from pipeline.store.completeness.entries import EPOCH
from pipeline.store.completeness.spans import length
from pipeline.store.completeness.timeline import FOREVER, Gap

SHOWN = 3  # gaps of a day, the most costly
NAMED = 5  # instruments
DAYS_SHOWN = 7

Name = Callable[[int], str | None]


def to_json(days: Sequence[Day], zone: ZoneInfo) -> dict[str, Any]:
    """Return it for `--json`: by day, and over all."""
    instruments = {token for day in days for token in day.instruments}
    missed = {token for day in days for loss in day.losses for token in loss.tokens}
    unknown = [day.day.isoformat() for day in days if day.recorded is None]
    return {
        "days": [_day(day, zone) for day in days],
        "total": {
            "instruments": len(instruments),
            "whole": len(instruments - missed) if not unknown else None,
            "missed": len(missed),
            "days_not_known": unknown,
        },
    }


def _day(day: Day, zone: ZoneInfo) -> dict[str, Any]:
    return {
        "date": day.day.isoformat(),
        "recorded": _recorded(day.recorded, zone),
        "instruments": len(day.instruments),
        "whole": day.whole if day.recorded else None,
        "missed": day.missed,
        "instrument_seconds": instrument_seconds(day.losses),
        "causes": causes(day),
        "losses": [_loss(loss, zone) for loss in day.losses],
        "gaps": [_gap(cut.gap, cut.covered, zone) for cut in day.cuts],
        "never_ticked": day.never_ticked,
        "connections": {
            str(number): [
                {"state": one.state, "from": stamp(one.begin, zone), "to": stamp(one.end, zone), "cause": one.cause}
                for one in intervals
            ]
            for number, intervals in day.connections.items()
        },
    }


def _recorded(recorded: Recorded | None, zone: ZoneInfo) -> dict[str, Any] | None:
    if recorded is None:
        return None
    return {"from": stamp(recorded.begin, zone), "to": stamp(recorded.end, zone), "ended": recorded.ended}


def _loss(loss: Loss, zone: ZoneInfo) -> dict[str, Any]:
    return {
        "instruments": loss.tokens,
        "seconds": seconds(loss.microseconds),
        "missed": [
            {
                "connection_id": part.connection_id or None,
                "cause": part.cause,
                "from": stamp(begin, zone) if part.since is not None else None,
                "to": stamp(end, zone),
                "over": part.until is not None,
            }
            for part in loss.parts
            for begin, end in part.spans or ((part.until or 0, part.until or 0),)
        ],
    }


def _gap(gap: Gap, covered: int, zone: ZoneInfo) -> dict[str, Any]:
    known = gap.since is not None and gap.until is not None
    return {
        "connection_id": gap.connection_id or None,
        "cause": gap.cause,
        "from": stamp(gap.since, zone) if gap.since is not None else None,
        "to": stamp(gap.until, zone) if gap.until is not None else None,
        "seconds": seconds(max((gap.until or 0) - (gap.since or 0), 0)) if known else None,
        "instruments": len(gap.tokens),
        "covered": covered,
    }


def causes(day: Day) -> dict[str, dict[str, Any]]:
    """Return of each cause how many instruments missed something by it, and the longest time."""
    instruments: dict[str, set[int]] = defaultdict(set)
    longest: dict[str, int] = defaultdict(int)
    for loss in day.losses:
        for part in loss.parts:
            instruments[part.cause].update(loss.tokens)
            longest[part.cause] = max(longest[part.cause], length(part.spans))
    return {
        cause: {"instruments": len(instruments[cause]), "longest_seconds": seconds(longest[cause])}
        for cause in sorted(instruments)
    }


def instrument_seconds(losses: Iterable[Loss]) -> float:
    """Return what was missed, as the sum over instruments; what nobody knows is not in it."""
    return seconds(sum((loss.microseconds or 0) * len(loss.tokens) for loss in losses)) or 0.0


def summary(days: Sequence[Day], zone: ZoneInfo, name: Name = lambda _: None) -> Iterator[str]:
    """Yield it in words; of many days those of which something is missing, the latest of them."""
    if len(days) <= DAYS_SHOWN:
        yield from lines(days, zone, name)
        return
    lacking = [day for day in days if day.recorded is None or day.missed]
    yield f"received whole: all instruments on {len(days) - len(lacking):,} of {len(days):,} days"
    if len(lacking) > DAYS_SHOWN:
        yield f"something was missed on {len(lacking):,} days, the latest:"
    yield from lines(lacking[-DAYS_SHOWN:], zone, name)


def lines(days: Sequence[Day], zone: ZoneInfo, name: Name) -> Iterator[str]:
    """Yield it in words, few of them: a line for a day of which nothing is missing."""
    for day in days:
        if day.recorded is None:
            yield f"{day.day}: the event log does not tell what was recorded, so nobody knows what was missed."
            continue
        yield f"{day.day}, recorded {span_of(day.recorded, zone)}: {verdict(day)}"
        for part, tokens in worst(day.losses)[:SHOWN]:
            yield f"  {_part(part, len(tokens), zone)}"
        more = len(worst(day.losses)) - SHOWN
        if more > 0:
            yield f"  and {more:,} more; mds gaps --date {day.day} lists them"
        if day.never_ticked:
            yield f"  subscribed, and never ticked: {named(day.never_ticked, name)}"


def verdict(day: Day) -> str:
    """Return the day in a few words."""
    if not day.instruments:
        return "no instruments were subscribed."
    if not day.missed:
        return f"received whole: {_count(day.whole)}."
    times = [loss.microseconds for loss in day.losses]
    longest = f"up to {duration(max(time for time in times if time is not None))}" if any(times) else ""
    unknown = "for a time that nobody knows" if None in times else ""
    return (
        f"received whole: {_count(day.whole)}; {day.missed:,} missed something, "
        f"{' or '.join(filter(None, [longest, unknown])) or 'no more than a moment'}."
    )


def worst(losses: Iterable[Loss]) -> list[tuple[Missed, set[int]]]:
    """Return the gaps by which something was missed, the most costly first, and the instruments of each."""
    tokens: dict[tuple[Any, ...], set[int]] = defaultdict(set)
    parts: dict[tuple[Any, ...], Missed] = {}
    for loss in losses:
        for part in loss.parts:
            key = (part.connection_id, part.cause, part.since, part.until, part.spans)
            parts[key] = part
            tokens[key].update(loss.tokens)

    def cost(key: tuple[Any, ...]) -> tuple[int, int]:
        return (FOREVER if parts[key].since is None else length(parts[key].spans) * len(tokens[key])), len(tokens[key])

    return [(parts[key], tokens[key]) for key in sorted(parts, key=cost, reverse=True)]


def _part(part: Missed, instruments: int, zone: ZoneInfo) -> str:
    where = f"connection {part.connection_id}" if part.connection_id else "on no connection"
    if part.since is None or not part.spans:
        when = f"until {clock(part.until or 0, zone)}, nobody knows since when"
    else:
        begin, end = part.spans[0][0], part.spans[-1][1]
        still = "" if part.until is not None else ", and it is not over"
        when = f"{clock(begin, zone)} to {clock(end, zone)} ({duration(length(part.spans))}{still})"
    return f"{where}, {when}: {part.cause}, {_count(instruments)}"


def span_of(recorded: Recorded, zone: ZoneInfo) -> str:
    """Return from when to when in words."""
    begin, end = clock(recorded.begin, zone, "seconds"), clock(recorded.end, zone, "seconds")
    words = {
        "in order": f"{begin} to {end}",
        "running": f"since {begin}, until now, {end}",
        "next day": f"{begin} to midnight",
        "not in order": f"{begin} to {end} or later (it did not end in order)",
    }
    return words[recorded.ended]


def named(tokens: Collection[int], name: Name) -> str:
    """Return instruments by symbol or token, not too many of them."""
    shown = ", ".join(name(token) or str(token) for token in list(tokens)[:NAMED])
    more = len(tokens) - NAMED
    return f"{_count(len(tokens))} ({shown}{f', and {more:,} more' if more > 0 else ''})"


def duration(microseconds: int) -> str:
    """Return how long something lasted, for people."""
    total = microseconds / US_PER_S
    if total < 60:
        return f"{total:.3f} s"
    minutes, rest = divmod(round(total), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def seconds(microseconds: int | None) -> float | None:
    """Return seconds for `--json`."""
    return None if microseconds is None else microseconds / US_PER_S


def moment(microseconds: int, zone: ZoneInfo) -> datetime:
    """Return a time in a time zone."""
    return (EPOCH + timedelta(microseconds=microseconds)).astimezone(zone)


def stamp(microseconds: int, zone: ZoneInfo) -> str:
    """Return a time as it stands in the event log."""
    return moment(microseconds, zone).isoformat(timespec="microseconds")


def clock(microseconds: int, zone: ZoneInfo, precision: str = "milliseconds") -> str:
    """Return the time of day."""
    return moment(microseconds, zone).time().isoformat(precision)


def _count(number: int) -> str:
    return f"{number:,} instrument{'' if number == 1 else 's'}"
