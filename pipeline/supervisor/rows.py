"""The subscribed instruments as they are shown: all, one, or a page of those that somebody looks for.

A row is an `InstrumentSubscription` as JSON types: thousands of models would take too long to make.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from pipeline.requests import FindParams
from pipeline.supervisor.subscriptions import TERTIARY, Subscription, Subscriptions

Row = dict[str, Any]


class Rows:
    """Makes rows of the subscriptions. `clock` is the wall clock: the times of ticks are."""

    def __init__(self, subscriptions: Subscriptions, clock: Callable[[], datetime]) -> None:
        self._subscriptions = subscriptions
        self._clock = clock

    def all(self) -> list[Row]:
        """Return the subscribed instruments."""
        return self._described(self._subscriptions.all.items())

    def one(self, token: int) -> Row | None:
        """Return one subscribed instrument, None if it is not subscribed."""
        known = self._subscriptions.all.get(token)
        return self._described([(token, known)])[0] if known else None

    def find(self, wanted: FindParams) -> dict[str, Any]:
        """Return a page of the instruments that fulfil all that is asked for, in the shape of `InstrumentPage`."""
        ages = _Ages(self._clock())
        found = [
            (token, known)
            for token, known in self._subscriptions.all.items()
            if (wanted.mode is None or known.mode == wanted.mode)
            and (wanted.search is None or _is_like(wanted.search, token, known))
            and (wanted.connection_id is None or wanted.connection_id in self._recorded_on(token))
            and (wanted.stale is None or wanted.stale == ages.is_stale(known.last_tick_time, wanted.stale_s))
        ]
        page = found[wanted.offset : wanted.offset + wanted.limit]
        place = {"total": len(found), "offset": wanted.offset, "limit": wanted.limit}
        return {**place, "instruments": self._described(page)}

    def _recorded_on(self, token: int) -> tuple[int | None, ...]:
        mirror = (TERTIARY,) if self._subscriptions.is_mirrored(token) else ()
        return (self._subscriptions.carrier(token), *mirror)

    def _described(self, found: Iterable[tuple[int, Subscription]]) -> list[Row]:
        ages = _Ages(self._clock())
        return [
            {
                "instrument_token": token,
                "symbol": known.identity.symbol if known.identity else None,
                "connection_id": self._subscriptions.carrier(token),
                "mode": known.mode,
                "mirrored": self._subscriptions.is_mirrored(token),
                "subscribed_at": known.subscribed_at,
                "tick_count": known.tick_count,
                "last_price": known.last_price,
                "last_tick_time": known.last_tick_time,
                "tick_age_s": ages[known.last_tick_time],
            }
            for token, known in found
        ]


def _is_like(search: str, token: int, known: Subscription) -> bool:
    return search in str(token) or (known.identity is not None and search.upper() in known.identity.symbol.upper())


def age_of(time: str | None, now: datetime) -> float | None:
    """Return the seconds since a time, None if there is none."""
    return round(max((now - datetime.fromisoformat(time)).total_seconds(), 0.0), 3) if time else None


class _Ages(dict[str | None, float | None]):
    """Ages by time: instruments that ticked in one frame have the same."""

    def __init__(self, now: datetime) -> None:
        super().__init__()
        self._now = now

    def __missing__(self, time: str | None) -> float | None:
        age_s = self[time] = age_of(time, self._now)
        return age_s

    def is_stale(self, time: str | None, stale_s: float) -> bool:
        age_s = self[time]
        return age_s is None or age_s > stale_s
