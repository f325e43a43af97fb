"""When instruments trade, and when connections should be open. Pure: the time is handed in.

Shares, indices and their derivatives trade in the sessions of the calendar, currencies on its days, and commodities on
weekdays, of which those without a session have an evening alone. Which of these an instrument is follows from the
lowest byte of its token. What the calendar does not know counts as trading on weekdays at the usual hours.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from pipeline.config import Market
from pipeline.rules import parse_session

BACK_DAYS, AHEAD_DAYS = 8, 16  # are looked at: in between there are a session and a night
EXTRA_MARGIN = timedelta(minutes=20)  # around an extra session: connections are open
WARNED_DAYS = 30  # before the end of what the calendar knows: a newer one is due
SATURDAY = 5
USUAL = (time(9, 15), time(15, 30))  # of shares

State = Literal["open", "closed", "unknown"]
Trade = Literal["shares", "currency", "commodity"]
Span = tuple[datetime, datetime]  # in UTC, where differences are what they seem

_TRADES: Mapping[int, Trade] = {3: "currency", 6: "currency", 7: "commodity", 8: "commodity", 12: "commodity"}


class Almanac(NamedTuple):
    """The sessions of a calendar, by day, as far as it is known; a day between without one is a holiday."""

    sessions: Mapping[date, Span]
    known_from: date
    known_until: date

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> "Almanac":
        """Return what `fields` has made JSON of. Raises ValueError, KeyError or TypeError."""
        return cls(
            {
                date.fromisoformat(day): (_utc(datetime.fromisoformat(opens)), _utc(datetime.fromisoformat(closes)))
                for day, opens, closes in fields["sessions"]
            },
            date.fromisoformat(fields["known_from"]),
            date.fromisoformat(fields["known_until"]),
        )

    def fields(self) -> dict[str, Any]:
        """Return this as JSON types."""
        return {
            "sessions": [
                (day.isoformat(), opens.isoformat(), closes.isoformat())
                for day, (opens, closes) in self.sessions.items()
            ],
            "known_from": self.known_from.isoformat(),
            "known_until": self.known_until.isoformat(),
        }


class Outlook(NamedTuple):
    """Whether something trades; since when, and until when, where that is to be seen."""

    state: State
    since: datetime | None = None
    until: datetime | None = None


class Window(NamedTuple):
    """Whether connections should be open; since when, and until when, where that is to be seen."""

    is_open: bool
    since: datetime | None = None
    until: datetime | None = None


class _Stretch(NamedTuple):
    """The time around a moment in which nothing changes, as far as one looks."""

    is_in: bool
    since: datetime
    until: datetime
    seen: Span  # what has been looked at: an end of it is no change

    @property
    def bounds(self) -> tuple[datetime | None, datetime | None]:
        begin, end = self.seen
        return self.since if self.since > begin else None, self.until if self.until < end else None


class Hours:
    """The hours of the market by these settings. Without an almanac nobody knows, unless they name no calendar.

    `segments` are the lowest bytes of tokens; none are shares. Times come back in `zone`.
    """

    def __init__(self, settings: Market, zone: ZoneInfo, almanac: Almanac | None = None) -> None:
        self._settings = settings
        self._zone = zone
        self._almanac = almanac
        self._is_always_open = not settings.calendar
        self._extra = [
            (session.day, span)
            for session in map(parse_session, settings.extra_sessions)
            if (span := self._span(session.day, session.opens, session.closes))
        ]
        self._trading: dict[frozenset[Trade], _Stretch] = {}  # as it was looked up last
        self._connected: dict[frozenset[Trade], _Stretch] = {}

    def state(self, now: datetime, segments: Collection[int] = ()) -> State:
        """Tell whether anything of these segments trades."""
        return self.outlook(now, segments).state

    def outlook(self, now: datetime, segments: Collection[int] = ()) -> Outlook:
        """Return the state with its beginning and end. It may be asked often."""
        if self._is_always_open:
            return Outlook("open")
        if self._almanac is None:
            return Outlook("unknown")
        trades = _trades(segments)
        found = self._trading.get(trades)
        if found is None or not found.since <= now < found.until:
            found = self._trading[trades] = self._around(now, self._sessions(now, trades))
        return Outlook("open" if found.is_in else "closed", *self._shown(found))

    def window(self, now: datetime, segments: Collection[int] = ()) -> Window:
        """Return whether connections should be open for these segments. It may be asked often."""
        if self._settings.connect is None:
            return Window(is_open=True)
        trades = _trades(segments)
        found = self._connected.get(trades)
        if found is None or not found.since <= now < found.until:
            found = self._connected[trades] = self._around(now, self._windows(now, trades))
        return Window(found.is_in, *self._shown(found))

    def rests(self, now: datetime, segments: Collection[int] = ()) -> list[Span]:
        """Return the times of the last days in which connections should be closed; the last one may not be over."""
        if self._settings.connect is None:
            return []
        begin, end = self._horizon(now)
        edges = [begin, *(edge for span in _merged(self._windows(now, _trades(segments))) for edge in span), end]
        return [(opens, closes) for opens, closes in zip(edges[::2], edges[1::2], strict=True) if opens <= now]

    # What they follow from.

    def _trades_on(self, day: date, trades: Iterable[Trade]) -> bool:
        return self._is_always_open or any(self._hours(day, trade) for trade in trades)

    def _sessions(self, now: datetime, trades: Iterable[Trade]) -> Iterator[Span]:
        for day in self._days(now):
            for trade in trades:
                if span := self._hours(day, trade):
                    yield span
        yield from (span for _, span in self._extra)

    def _windows(self, now: datetime, trades: frozenset[Trade]) -> Iterator[Span]:
        settings = self._settings
        for day in self._days(now):
            if settings.connect and settings.disconnect and self._trades_on(day, trades):
                span = self._span(day, settings.connect, settings.disconnect)
                if span:
                    yield span
        begin, end = self._horizon(now)
        for _, (opens, closes) in self._extra:
            if begin < opens - EXTRA_MARGIN and closes + EXTRA_MARGIN < end:
                yield opens - EXTRA_MARGIN, closes + EXTRA_MARGIN

    def _hours(self, day: date, trade: Trade) -> Span | None:
        settings, session = self._settings, self._session(day)
        if trade == "shares":
            return session
        if trade == "currency":
            return self._span(day, settings.currency_open, settings.currency_close) if session else None
        if day.weekday() >= SATURDAY or day in settings.commodity_holidays:
            return None
        opens = settings.commodity_open if session else settings.commodity_evening
        return self._span(day, opens, settings.commodity_close)

    def _session(self, day: date) -> Span | None:
        almanac = self._almanac
        if almanac is not None and almanac.known_from <= day <= almanac.known_until:
            return almanac.sessions.get(day)
        return self._span(day, *USUAL) if day.weekday() < SATURDAY else None

    def _span(self, day: date, opens: time, closes: time) -> Span | None:
        begin, end = (_utc(datetime.combine(day, at, self._zone)) for at in (opens, closes))
        return (begin, end) if begin < end else None

    def _days(self, now: datetime) -> list[date]:
        today = now.astimezone(self._zone).date()
        return [today + timedelta(days=n) for n in range(-BACK_DAYS, AHEAD_DAYS + 1)]

    def _horizon(self, now: datetime) -> Span:
        days = self._days(now)
        begin, end = (_utc(datetime.combine(day, time(), self._zone)) for day in (days[0], days[-1]))
        return begin, end

    def _around(self, now: datetime, spans: Iterable[Span]) -> _Stretch:
        since, end = seen = self._horizon(now)
        for opens, closes in _merged(spans):
            if now < opens:
                return _Stretch(False, since, min(opens, end), seen)
            if now < closes:
                return _Stretch(True, max(opens, since), min(closes, end), seen)
            since = max(closes, since)
        return _Stretch(False, since, end, seen)

    def _shown(self, found: _Stretch) -> tuple[datetime | None, datetime | None]:
        since, until = (edge and edge.astimezone(self._zone) for edge in found.bounds)
        return since, until


def _trades(segments: Iterable[int]) -> frozenset[Trade]:
    return frozenset(_TRADES.get(segment, "shares") for segment in segments) or frozenset({"shares"})


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Return spans in order, those that touch as one."""
    merged: list[Span] = []
    for opens, closes in sorted(spans):
        if merged and opens <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(closes, merged[-1][1]))
        else:
            merged.append((opens, closes))
    return merged


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
