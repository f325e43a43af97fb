"""Bars: equal to a plain-Python reference, on random streams of ticks and on those of a made-up market."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.bars import COLUMNS, IntervalError, bars, parse_interval
from pipeline.store.pieces import NotTicksError
from pipeline.ticks import Ohlc, StoredTick
from tests.recorded import dicts_of, frame_of, market_ticks
from tests.stored import INDIA, tick_at

NSE, CDS, MCX, INDEX = 257, 515, 775, 521
MIDNIGHT = datetime(2025, 10, 1, tzinfo=INDIA)


def in_order(ticks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return stored dicts in the order of receiving."""
    return sorted(ticks, key=lambda t: (t["timestamp"], t["connection_id"], t["epoch"], t["seq"]))


class Counter:
    """What was traded of one instrument on one day, tick by tick."""

    def __init__(self) -> None:
        self.begin: dict[float, int] = {}  # of the counter that a previous close belongs to
        self.reached: dict[int, int] = {}  # of the counter that began there

    def grown(self, tick: dict[str, Any]) -> int:
        """Return by how much this tick has raised it."""
        volume, close = tick["volume_traded"], tick["ohlc"]["close"]
        if close not in self.begin:
            self.begin[close] = min([volume, *self.begin.values()])
        begin = self.begin[close]
        before = self.reached.get(begin, begin)
        self.reached[begin] = max(before, volume)
        return self.reached[begin] - before


def reference(ticks: Iterable[dict[str, Any]], interval: timedelta) -> list[dict[str, Any]]:
    """Return the bars of stored dicts."""
    made: dict[tuple[int, datetime], dict[str, Any]] = {}
    counters: dict[tuple[int, datetime], Counter] = {}
    for tick in in_order(ticks):
        token, price = tick["instrument_token"], tick["last_price"]
        start, day = start_of(datetime.fromisoformat(tick["timestamp"]), token, interval)
        new = {"instrument_token": token, "start": start, "open": price, "high": price, "low": price, "close": price}
        bar = made.setdefault((token, start), {**new, "volume": None, "ticks": 0, "oi": None})
        bar |= {"high": max(bar["high"], price), "low": min(bar["low"], price), "close": price}
        bar["ticks"] += 1
        if "volume_traded" in tick:
            grown = counters.setdefault((token, day), Counter()).grown(tick)
            bar["volume"] = (bar["volume"] or 0) + grown
        bar["oi"] = tick.get("oi", bar["oi"])
    return [made[key] for key in sorted(made)]


def start_of(time: datetime, token: int, interval: timedelta) -> tuple[datetime, datetime]:
    """Return when the bar of a tick begins, and its day."""
    midnight = time.replace(hour=0, minute=0, second=0, microsecond=0)
    if interval == timedelta(days=1):
        return midnight, midnight
    opening = midnight + (timedelta(hours=9) if token & 0xFF in (3, 6, 7, 8, 12) else timedelta(hours=9, minutes=15))
    return max(midnight, opening + (time - opening) // interval * interval), midnight


def made_of(ticks: list[StoredTick], interval: str = "1m") -> list[dict[str, Any]]:
    """Return the bars of ticks."""
    return bars(frame_of(ticks), interval).collect().to_dicts()


moments = st.builds(
    lambda day, clock, us: MIDNIGHT + timedelta(days=day, seconds=clock, microseconds=us),
    st.integers(0, 1),
    st.sampled_from([0, 1, 8 * 3600, 9 * 3600, 9 * 3600 + 59, 33_299, 33_300, 33_359, 33_360, 86_399])
    | st.integers(0, 86_399),
    st.sampled_from([0, 0, 1, 999_999]),
)
FIELDS = {
    "instrument_token": st.sampled_from([NSE, NSE, MCX, CDS]),
    "last_price": st.integers(1, 9).map(float),
    "connection_id": st.integers(1, 2),
    "epoch": st.integers(1, 2),
}
TRADED = {"volume_traded": st.integers(0, 20), "ohlc": st.sampled_from([Ohlc(1, 2, 0, close) for close in (5, 6, 7)])}
kinds = st.one_of(
    st.tuples(st.just("ltp"), st.fixed_dictionaries(FIELDS)),
    st.tuples(st.just("index_full"), st.fixed_dictionaries({**FIELDS, "instrument_token": st.just(INDEX)})),
    st.tuples(st.just("quote"), st.fixed_dictionaries({**FIELDS, **TRADED})),
    st.tuples(st.just("full"), st.fixed_dictionaries({**FIELDS, **TRADED, "oi": st.integers(0, 3)})),
)
intervals = st.sampled_from(["1s", "5s", "1m", "3m", "7m", "15m", "1h", "5h", "1d"])


@st.composite
def streams(draw: st.DrawFn) -> list[StoredTick]:
    """Draw ticks in any order, no two with the same number in a stream."""
    drawn = draw(st.lists(st.tuples(moments, kinds), max_size=30))
    numbers = draw(st.permutations(range(1, len(drawn) + 1)))
    return [tick_at(time, kind, **fields, seq=n) for (time, (kind, fields)), n in zip(drawn, numbers, strict=True)]


@given(streams(), intervals)
def test_bars_are_those_of_the_reference(ticks, interval):
    """Whatever comes in whatever order: every field of every bar is as plain Python has it, none is dropped."""
    made = made_of(ticks, interval)
    assert made == reference(dicts_of(ticks), parse_interval(interval))
    assert sum(bar["ticks"] for bar in made) == len(ticks)


@pytest.mark.parametrize("interval", ["5s", "1m", "15m", "1h", "1d"])
def test_bars_of_a_market(interval):
    """The same of ticks of all segments and modes, as the recorder makes them of packets."""
    ticks = market_ticks(MIDNIGHT.replace(hour=8, minute=58), instruments=80, rounds=60, every=timedelta(seconds=41))
    made = made_of(ticks, interval)
    assert {tick["mode"] for tick in dicts_of(ticks)} == {"ltp", "quote", "full"}
    assert made == reference(dicts_of(ticks), parse_interval(interval))


def at(clock: str, token: int = NSE, volume: int | None = None, *, close: float = 5, seq: int = 1) -> StoredTick:
    """Return a tick at this time of day, in quote mode if it has a volume."""
    time = datetime.fromisoformat(f"2025-10-01T{clock}+05:30")
    if volume is None:
        return tick_at(time, "ltp", instrument_token=token, seq=seq)
    ohlc = Ohlc(1, 2, 0, close)
    return tick_at(time, "quote", instrument_token=token, volume_traded=volume, ohlc=ohlc, seq=seq)


def volumes(*ticks: StoredTick, interval: str = "1m") -> list[int | None]:
    """Return the volumes of their bars."""
    return [bar["volume"] for bar in made_of(list(ticks), interval)]


def test_no_ticks():
    """Of nothing there are no bars, in the same columns."""
    made = bars(frame_of([])).collect()
    assert made.height == 0
    assert tuple(made.columns) == COLUMNS


def test_the_first_tick_tells_no_volume():
    """What was traded before the first tick is not known; an instrument without a counter has no volume."""
    assert volumes(at("09:15:01", volume=1000)) == [0]
    assert volumes(at("09:15:01")) == [None]


def test_a_counter_that_falls_and_comes_back():
    """An older snapshot neither takes volume away nor gives it twice."""
    ticks = [at("09:15:01", volume=100), at("09:15:40", volume=150), at("09:16:00", volume=120)]
    assert volumes(*ticks, at("09:16:01", volume=150), at("09:17:00", volume=151)) == [50, 0, 1]


def test_the_counter_of_the_day_before():
    """What a subscription before the opening still brings hides no volume, though it comes once more later."""
    yesterday = [at("08:50:00", volume=900_000, close=4), at("09:16:30", volume=900_000, close=4)]
    assert volumes(*yesterday, at("09:15:00", volume=10), at("09:15:59", volume=30), at("09:16:59", volume=60)) == [
        0,
        20,
        30,
    ]


def test_a_close_that_is_corrected():
    """Another previous close alone makes no new counter."""
    assert volumes(at("09:15:00", volume=10), at("09:15:30", volume=30, close=6), at("09:16:00", volume=35)) == [20, 5]


def test_what_a_gap_has_hidden_is_in_the_bar_after_it():
    """Nothing that was traded is lost; ticks without a counter in between change nothing."""
    assert volumes(at("09:15:00", volume=10), at("09:18:00"), at("10:00:00", volume=500)) == [0, None, 490]


@pytest.mark.parametrize(
    ("token", "interval", "clock", "start"),
    [
        (NSE, "1h", "09:15:00", "09:15"),
        (NSE, "1h", "10:14:59.999999", "09:15"),
        (NSE, "1h", "09:14:59.999999", "08:15"),
        (NSE, "1h", "00:00:00", "00:00"),
        (NSE, "1h", "23:59:59", "23:15"),
        (INDEX, "30m", "09:44:59", "09:15"),
        (MCX, "1h", "10:14:59", "10:00"),
        (MCX, "1h", "23:54:59", "23:00"),
        (CDS, "1h", "09:00:00", "09:00"),
        (MCX, "1d", "23:54:59", "00:00"),
    ],
)
def test_the_grid_begins_at_the_opening(token, interval, clock, start):
    """NSE and the indices open at 09:15, currencies and commodities at 09:00; a bar of a day starts at midnight."""
    (bar,) = made_of([at(clock, token)], interval)
    assert bar["start"] == datetime.fromisoformat(f"2025-10-01T{start}+05:30")


def test_a_start_is_in_the_zone_of_the_frame():
    """The grid is that of the exchange, wherever the recorder is."""
    abroad = frame_of([at("09:20:00")]).with_columns(pl.col("timestamp").dt.convert_time_zone("UTC"))
    (bar,) = bars(abroad, "1h").collect().to_dicts()
    assert bar["start"] == datetime(2025, 10, 1, 3, 45, tzinfo=UTC)
    assert bar["start"].utcoffset() == timedelta(0)


def test_fewer_columns():
    """What is not there is not needed: prices alone make bars without volume."""
    frame = frame_of([at("09:15:00", volume=10)]).select("timestamp", "instrument_token", "last_price")
    (bar,) = bars(frame.collect()).collect().to_dicts()
    assert (bar["open"], bar["volume"], bar["ticks"], bar["oi"]) == (571.45, None, 1, None)


def test_a_frame_of_pandas():
    """Bars are those of the same ticks in polars, whether `read_ticks` has made the frame or stored dicts."""
    ticks = market_ticks(
        MIDNIGHT + timedelta(hours=9, minutes=15), instruments=9, rounds=40, every=timedelta(seconds=5)
    )
    expected = bars(frame_of(ticks), timedelta(minutes=1)).collect()
    assert expected.height > 9
    for frame in (frame_of(ticks).collect().to_pandas(), pd.DataFrame(dicts_of(ticks)), pl.DataFrame(dicts_of(ticks))):
        assert bars(frame, "1min").collect().equals(expected)


def test_a_frame_of_something_else():
    """What is missing is named."""
    with pytest.raises(NotTicksError, match="no column timestamp, last_price; read_ticks returns"):
        bars(pl.DataFrame({"instrument_token": [1]}))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("90s", 90), ("1m", 60), ("5min", 300), ("30m", 1800), ("12h", 43_200), ("1d", 86_400)],
)
def test_intervals(text, seconds):
    """A number and its unit, or the interval itself."""
    assert parse_interval(text) == parse_interval(timedelta(seconds=seconds)) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("", "m", "1", "0m", "-1m", "01m", "1.5m", "1M", "1 m", "1w", "1ms", "\u0661m", "1m\n"),
        *(timedelta(), timedelta(minutes=-1), timedelta(seconds=1.5)),
    ],
)
def test_what_is_no_interval(text):
    """It is named, with what would be one."""
    with pytest.raises(IntervalError, match="is not an interval like 1s"):
        parse_interval(text)


@pytest.mark.parametrize("text", ["2d", "24h", "25h", "1440m", "86400s", "999999d", timedelta(days=2)])
def test_intervals_that_are_too_long(text):
    """A bar lies within a day."""
    with pytest.raises(IntervalError, match="the longest interval is 1d"):
        parse_interval(text)
