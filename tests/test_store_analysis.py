"""What is found out about ticks: equal to a plain-Python reference, from frames of polars and pandas alike."""

import json
from collections import Counter as Counts
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pandas as pd
import polars as pl
import pytest
from hypothesis import given

import pipeline
from pipeline.store import analysis
from pipeline.store.analysis import analyze, analyze_tick_data
from pipeline.store.bars import bars
from pipeline.store.pieces import NotTicksError
from pipeline.ticks import StoredTick
from tests.recorded import dicts_of, frame_of, market_ticks
from tests.stored import INDIA, tick_at
from tests.test_store_bars import Counter, at, in_order, streams

MORNING = datetime(2025, 10, 1, 9, 14, tzinfo=INDIA)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Ticks come in many batches."""
    monkeypatch.setattr(analysis, "BATCH_ROWS", 7)


def reference(ticks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures of each instrument of stored dicts."""
    tokens = sorted({tick["instrument_token"] for tick in ticks})
    return [figures([t for t in in_order(ticks) if t["instrument_token"] == token], len(ticks)) for token in tokens]


def figures(ticks: list[dict[str, Any]], total: int) -> dict[str, Any]:
    """Return the figures of one instrument, whose ticks come in order."""
    prices = [tick["last_price"] for tick in ticks]
    spreads = [spread for tick in ticks if (spread := spread_of(tick)) is not None]
    days = [[t for t in ticks if t["timestamp"][:10] == day] for day in sorted({t["timestamp"][:10] for t in ticks})]
    seconds = sum(seconds_between(day[0], day[-1]) for day in days)
    silences = [(seconds_between(*pair), pair[0]["timestamp"]) for day in days for pair in pairwise(day)]
    silence = max((silent for silent, _ in silences), default=None)
    volumes = [Counter() for _ in days]
    traded = [volume.grown(t) for volume, day in zip(volumes, days, strict=True) for t in day if "volume_traded" in t]
    return {
        "instrument_token": ticks[0]["instrument_token"],
        "ticks": len(ticks),
        "share": pytest.approx(len(ticks) / total),
        "seconds": pytest.approx(seconds),
        "rate": pytest.approx(len(ticks) / seconds) if seconds else None,
        "first": ticks[0]["timestamp"],
        "last": ticks[-1]["timestamp"],
        "price_min": min(prices),
        "price_max": max(prices),
        "price_mean": pytest.approx(sum(prices) / len(prices), abs=1e-7),
        "price_last": prices[-1],
        "volume": sum(traded) if traded else None,
        "spread_mean": pytest.approx(sum(spreads) / len(spreads), abs=1e-7) if spreads else None,
        "spread_max": pytest.approx(max(spreads), abs=1e-7) if spreads else None,
        "silence": silence,
        # Of silences that are as long as each other, any.
        "silence_start": AnyOf(since for silent, since in silences if silent == silence) if silences else None,
    }


class AnyOf(frozenset[str]):
    """Equal to each of its members."""

    __hash__ = frozenset.__hash__

    def __eq__(self, other: object) -> bool:
        return other in self


def seconds_between(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the seconds from one tick to the other."""
    lasted = datetime.fromisoformat(other["timestamp"]) - datetime.fromisoformat(one["timestamp"])
    return lasted.total_seconds()


def spread_of(tick: dict[str, Any]) -> float | None:
    """Return the best offer minus the best bid, where there are both."""
    depth = tick.get("depth")
    bid, ask = (depth[side][0]["price"] for side in ("buy", "sell")) if depth else (0, 0)
    return ask - bid if bid > 0 and ask > 0 else None


def found_in(ticks: Sequence[StoredTick]) -> dict[str, Any]:
    """Return what is found, as JSON has it."""
    found: dict[str, Any] = json.loads(json.dumps(analyze(frame_of(ticks)).to_json()))
    return found


@given(streams())
def test_figures_are_those_of_the_reference(ticks):
    """Whatever comes in whatever order, over two days, in all modes."""
    found, dicts = found_in(ticks), dicts_of(ticks)
    assert found["instruments"] == reference(dicts)
    times = [tick["timestamp"] for tick in dicts]
    assert found["time_range"] == {"start": min(times, default=None), "end": max(times, default=None)}
    assert found["modes"] == dict(Counts(tick["mode"] for tick in dicts))
    assert found["volume_stats"]["total"] == total(volume["volume"] for volume in found["instruments"])


def total(volumes):
    """Return the sum of those that there are."""
    known = [volume for volume in volumes if volume is not None]
    return sum(known) if known else None


def test_figures_of_a_market():
    """The same of ticks of all segments and modes, depth among them."""
    ticks = market_ticks(MORNING, instruments=80, rounds=20, every=timedelta(seconds=7.5))
    found, dicts = found_in(ticks), dicts_of(ticks)
    assert found["instruments"] == reference(dicts)
    assert any(each["spread_mean"] for each in found["instruments"])
    prices = [tick["last_price"] for tick in dicts]
    mean = pytest.approx(sum(prices) / len(prices))
    assert found["price_stats"] == {"min": min(prices), "max": max(prices), "mean": mean}
    assert (found["total_ticks"], found["unique_instruments"], found["seconds"]) == (1600, 80, 142.5)
    assert found["rate"] == pytest.approx(1600 / 142.5)


def test_no_ticks():
    """Nothing is told, nothing fails."""
    assert found_in([]) == {
        "total_ticks": 0,
        "unique_instruments": 0,
        "time_range": {"start": None, "end": None},
        "seconds": 0,
        "rate": None,
        "modes": {},
        "price_stats": {"min": None, "max": None, "mean": None},
        "volume_stats": {"total": None, "mean": None},
        "instruments": [],
    }


def test_one_tick():
    """It lasts no time, so that it has no rate and there is no silence."""
    found = found_in([at("09:15:00", volume=10)])
    (each,) = found["instruments"]
    assert (found["seconds"], found["rate"], found["volume_stats"]) == (0, None, {"total": 0, "mean": 0})
    assert (each["rate"], each["silence"], each["silence_start"], each["volume"]) == (None, None, None, 0)


def test_the_night_is_no_silence():
    """Silences and seconds are those within the days."""
    days = [MORNING + timedelta(days=day, seconds=second) for day in (0, 1) for second in (0, 3, 5)]
    found = found_in([tick_at(time, seq=n) for n, time in enumerate(days, start=1)])
    (each,) = found["instruments"]
    assert (each["silence"], each["seconds"], found["seconds"]) == (3, 10, 10)


def test_a_side_without_offers_has_no_spread():
    """A price of 0 is none."""
    full = frame_of([tick_at(MORNING, "full"), tick_at(MORNING, "full", seq=6)])
    (each,) = analyze(full.with_columns(ask_price_1=pl.lit(0.0))).instruments.to_dicts()
    assert (each["spread_mean"], each["spread_max"]) == (None, None)


MARKET = market_ticks(MORNING, instruments=40, rounds=5, every=timedelta(seconds=1))
RAW = dicts_of(MARKET)
TIMES = pd.to_datetime(pd.Series([tick["timestamp"] for tick in RAW]))
FRAMES = {
    "columns": frame_of(MARKET),
    "columns in pandas": frame_of(MARKET).collect().to_pandas(),
    "dicts in polars": pl.DataFrame(RAW, infer_schema_length=None),
    "dicts in pandas": pd.DataFrame(RAW),
    "times parsed": pd.DataFrame(RAW).assign(timestamp=TIMES),
    "times in UTC": pd.DataFrame(RAW).assign(timestamp=TIMES.dt.tz_convert("UTC")),
    "times without an offset": pd.DataFrame(RAW).assign(timestamp=TIMES.dt.tz_localize(None)),
    "nanoseconds": pd.DataFrame(RAW).assign(timestamp=TIMES.astype("datetime64[ns, Asia/Kolkata]")),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_any_frame_of_ticks(kind):
    """The dict has the same figures, whatever the ticks came in."""
    prices = [tick["last_price"] for tick in RAW]
    found = json.loads(json.dumps(analyze_tick_data(FRAMES[kind])))
    if kind == "times in UTC":
        assert found["time_range"].pop("start") == "2025-10-01T03:44:00.000000+00:00"
        found["time_range"]["start"] = RAW[0]["timestamp"]
        found["time_range"]["end"] = RAW[-1]["timestamp"]
    volume = total(each["volume"] for each in reference(RAW))
    telling = sum("volume_traded" in tick for tick in RAW)
    assert found == {
        "total_ticks": 200,
        "unique_instruments": 40,
        "time_range": {"start": RAW[0]["timestamp"], "end": RAW[-1]["timestamp"]},
        "modes": dict(Counts(tick["mode"] for tick in RAW)),
        "price_stats": {
            "min": min(prices),
            "max": max(prices),
            "mean": pytest.approx(sum(prices) / len(prices), abs=1e-7),
        },
        "volume_stats": {"total": volume, "mean": pytest.approx(volume / telling, abs=1e-7)},
    }


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_columns_that_are_missing(make):
    """Figures are told of what there is."""
    nothing = {"unique_instruments": 0, "time_range": {"start": None, "end": None}, "modes": {}}
    assert analyze_tick_data(make()) == {"total_ticks": 0, **nothing}
    assert analyze_tick_data(make({"other": [1, 2]})) == {"total_ticks": 2, **nothing}
    told = analyze_tick_data(make({"last_price": [1.0, 2.0], "volume_traded": [5, 5]}))
    assert told["price_stats"] == {"min": 1, "max": 2, "mean": 1.5}
    assert told["volume_stats"] == {"total": 0, "mean": 0}


@pytest.mark.parametrize(
    "columns",
    [
        {"timestamp": [1, 2]},
        {"last_price": [[1], [2]]},
        {"last_price": ["a", 1]},
        {"ohlc": [1, 2], "last_price": [{}, 1]},
    ],
)
def test_columns_of_something_else(columns):
    """What holds no ticks is refused in words."""
    with pytest.raises(NotTicksError, match=r"and not a time|and not Float64|does not hold what it does in ticks"):
        analyze_tick_data(pd.DataFrame(columns))


def test_old_files_without_offsets():
    """Times in text without an offset, with and without a fraction, are the exchange's."""
    frame = pl.DataFrame({"timestamp": ["2025-10-01T09:15:00", "2025-10-01T09:15:01.5"], "instrument_token": [1, 1]})
    start, end = "2025-10-01T09:15:00.000000+05:30", "2025-10-01T09:15:01.500000+05:30"
    assert analyze_tick_data(frame)["time_range"] == {"start": start, "end": end}


def test_at_hand():
    """From Python it is one import."""
    assert pipeline.analyze_tick_data is analyze_tick_data
    assert pipeline.bars is bars
