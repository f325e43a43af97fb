"""Bars of ticks: what was paid and traded in each minute, or whatever interval. Pure.

Bars lie on a grid that is anchored at the opening of the instrument's exchange: those of an hour at NSE run from 09:15
to 10:15. What comes before the opening falls into bars of the same grid. No bar goes beyond its day at the exchange, so
the first and the last of a day may be shorter.
"""

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import polars as pl

from pipeline.errors import MdsError
from pipeline.store.names import SYMBOL
from pipeline.store.pieces import EXCHANGE_ZONE, NEEDED, in_polars, pieces, prepared, traded

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: Final = ("instrument_token", "start", "open", "high", "low", "close", "volume", "ticks", "oi")
DAY: Final = timedelta(days=1)

OPENING: Final = timedelta(hours=9, minutes=15)
# Of cds, bcd, mcx, mcxsx, nco; the token's low byte is the segment.
EARLY_OPENING: Final = timedelta(hours=9)
EARLY_SEGMENTS: Final = (3, 6, 7, 8, 12)

_INTERVAL = re.compile("([1-9][0-9]{0,5})(s|m|min|h|d)")
_MINUTE = timedelta(minutes=1)
_UNITS: Final = {"s": timedelta(seconds=1), "m": _MINUTE, "min": _MINUTE, "h": timedelta(hours=1), "d": DAY}
_US = timedelta(microseconds=1)


class IntervalError(MdsError):
    """A text is no interval that bars can have."""

    exit_code = 2


def parse_interval(given: str | timedelta) -> timedelta:
    """Return the interval that a text like 30s, 5m or 5min, 1h or 1d means, or the one that is given, in whole seconds.

    Raises IntervalError: a bar is within one day.
    """
    text = str(given)
    if isinstance(given, timedelta):
        interval = timedelta() if given < timedelta() or given % _UNITS["s"] else given
    else:
        match = _INTERVAL.fullmatch(text)
        interval = int(match[1]) * _UNITS[match[2]] if match else timedelta()
    if not interval:
        raise IntervalError(f"{text[:40]!r} is not an interval like 1s, 30s, 1m, 5m, 15m, 1h or 1d")
    if interval > DAY or (interval == DAY and isinstance(given, str) and not text.endswith("d")):
        raise IntervalError(f"{text}: a bar is within one day, the longest interval is 1d")
    return interval


def bars(frame: "pl.LazyFrame | pl.DataFrame | pd.DataFrame", interval: str | timedelta = "1m") -> pl.LazyFrame:
    """Return the bars of ticks that `read_ticks` has returned, in polars or pandas, by instrument, then by time.

    Columns are instrument_token, start (included, in the frame's time zone), open, high, low, close, volume, ticks, oi;
    behind the first comes symbol where the ticks have it.
    `interval` is a timedelta, or a number of seconds, minutes or hours, as in 1s, 5m or 1h, or 1d: then a bar starts at
    midnight.

    Times are receive times. Where there was no tick there is no bar. `volume` is what was traded since the tick before
    the bar, so that after a gap the first bar has what was traded meanwhile. Nothing is known of what was traded before
    a day's first tick: it is in no bar. `volume` is null where no tick told it, as of an index or in ltp mode; `oi` is
    the last open interest, null outside of full mode. Ticks may come in any order.

    Raises IntervalError, and NotTicksError where the frame has not the columns that it takes.
    """
    step = parse_interval(interval)
    given = in_polars(frame, (*NEEDED, SYMBOL))
    symbol = {SYMBOL: pl.max(SYMBOL)} if SYMBOL in given.collect_schema() else {}  # an instrument has one on a day
    ticks = prepared(given, (*NEEDED, *symbol), required=("instrument_token", "timestamp", "last_price"))
    start = _start(step, ticks.collect_schema()["timestamp"])
    oi = pl.col("last").struct.field("oi").filter(pl.col("has_oi"))
    first, last = pl.col("first"), pl.col("last")
    return (
        traded(pieces(ticks.filter(pl.col("timestamp").is_not_null()), start.alias("start"), **symbol))
        .group_by("instrument_token", "start")
        .agg(
            open=first.struct.field("last_price").min_by(first),
            high=pl.max("high"),
            low=pl.min("low"),
            close=last.struct.field("last_price").max_by(last),
            volume=pl.when(pl.col("is_traded").any()).then(pl.sum("volume")),
            ticks=pl.sum("ticks"),
            oi=oi.max_by(last.filter(pl.col("has_oi"))),
            **symbol,
        )
        .sort("instrument_token", "start")
        .select(COLUMNS[0], *symbol, *COLUMNS[1:])
    )


def _start(step: timedelta, time: pl.DataType) -> pl.Expr:
    """Return when the bar of a tick begins."""
    assert isinstance(time, pl.Datetime)  # noqa: S101  `prepared` has made it one
    clock = pl.col("timestamp").dt.convert_time_zone(EXCHANGE_ZONE)
    midnight = clock.dt.truncate("1d")
    if step == DAY:
        start = midnight
    else:
        # In microseconds since midnight, as integers: they divide towards the earlier bar also before the opening.
        segment = pl.col("instrument_token") & 0xFF
        opening = pl.when(segment.is_in(EARLY_SEGMENTS)).then(EARLY_OPENING // _US).otherwise(OPENING // _US)
        since = (clock - midnight).dt.total_microseconds() - opening
        begin = since // (step // _US) * (step // _US) + opening
        start = midnight + pl.duration(microseconds=begin.clip(lower_bound=0))
    return start.dt.convert_time_zone(time.time_zone or EXCHANGE_ZONE)
