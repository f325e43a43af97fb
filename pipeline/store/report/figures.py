"""The figures behind a report: what can be drawn of recorded ticks. Frames in, small frames out; nothing is drawn here.

Ticks are read twice, batch by batch: once for the figures of each instrument, and once, when it is known from when to
when they go and which instruments are wanted, for what is drawn over time. Of that stay a few thousand points,
however many ticks there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import polars as pl

from pipeline.store.analysis import BATCH_ROWS, SPREAD, Analysis, analyze, busiest
from pipeline.store.frames import TickFrame
from pipeline.store.schema import TIMEZONE

POINTS: Final = 1000  # of a line, at most
BATCHES_KEPT: Final = 16  # before their points are thinned out together
LATENCY_STEP_MS: Final = 20
LATENCY_MS: Final = (-1000, 10_000)  # what is earlier or later counts as that
QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
# Not less than a second: of exchange times, which are whole seconds, shorter steps would show nothing but the rounding.
STEPS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)

_FULL_ONLY: Final = {
    "exchange_timestamp": pl.lit(None, pl.Datetime("us", TIMEZONE)),
    "bid_price_1": pl.lit(None, pl.Float64),
    "ask_price_1": pl.lit(None, pl.Float64),
}
_COLUMNS: Final = ("timestamp", "connection_id", "instrument_token", "last_price", *_FULL_ONLY)


@dataclass(frozen=True)
class Price:
    """Price and spread of an instrument, each as time and value: of each step the lowest and the highest."""

    token: int
    price: pl.DataFrame
    spread: pl.DataFrame  # empty without depth


@dataclass(frozen=True)
class Figures:
    """All that is drawn. Times are receive times; those that are a step of a line are its beginning."""

    analysis: Analysis
    step: timedelta  # of `rates` and `latency`
    rates: pl.DataFrame  # connection_id, time, rate: ticks a second; of each connection all steps, 0 without ticks
    peak: tuple[datetime, int] | None  # the second with the most ticks
    latency: pl.DataFrame  # time, p50, p95, p99: receive time less exchange time in ms; none without exchange times
    latencies: pl.DataFrame  # ms, ticks: the same over all, in steps of LATENCY_STEP_MS
    prices: list[Price]
    ticked: dict[date, set[int]]  # the instruments of each day


def measure(frame: TickFrame, tokens: Sequence[int] | None, number: int) -> Figures:
    """Return the figures of ticks, with the prices of `tokens`, or of `number` instruments, the busiest."""
    analysis = analyze(frame)
    if tokens is None:
        tokens = busiest(analysis.instruments, number)["instrument_token"].to_list()
    start, end = analysis.start, analysis.end
    if start is None or end is None:
        return _nothing(analysis)
    drawn = _Drawn(list(tokens), step_for(end - start))
    needed = _COLUMNS if "full" in analysis.modes else _COLUMNS[: -len(_FULL_ONLY)]
    for batch in frame.select(needed).collect_batches(chunk_size=BATCH_ROWS, maintain_order=True):
        drawn.add(batch if needed is _COLUMNS else batch.with_columns(**_FULL_ONLY))
    return drawn.finish(analysis, start, end)


def step_for(span: timedelta) -> int:
    """Return the step in seconds, a round one, that gives a line of this length no more than POINTS points."""
    needed = span.total_seconds() / (POINTS - 1)  # a span may begin within a step
    return next((step for step in STEPS_S if step >= needed), int(needed) + 1)


def _nothing(analysis: Analysis) -> Figures:
    time = pl.Datetime("us")
    rates = pl.DataFrame(schema={"connection_id": pl.UInt8, "time": time, "rate": pl.Float64})
    latency = pl.DataFrame(schema={"time": time, **dict.fromkeys(QUANTILES, pl.Float64)})
    latencies = pl.DataFrame(schema={"ms": pl.Int64, "ticks": pl.Int64})
    return Figures(analysis, timedelta(seconds=1), rates, None, latency, latencies, [], {})


class _Drawn:
    """What is drawn over time, as batches come."""

    def __init__(self, tokens: list[int], step_s: int) -> None:
        self._tokens = tokens
        self._step_s = step_s
        self._time = pl.col("timestamp").dt.truncate(f"{step_s}s").alias("time")
        self._counts: list[pl.DataFrame] = []
        self._seconds: list[pl.DataFrame] = []
        self._delays: list[pl.DataFrame] = []
        self._prices: list[pl.DataFrame] = []
        self._spreads: list[pl.DataFrame] = []
        self._ticked: list[pl.DataFrame] = []

    def add(self, batch: pl.DataFrame) -> None:
        """Take ticks."""
        self._counts.append(batch.group_by("connection_id", self._time).len("ticks"))
        self._seconds.append(batch.group_by(pl.col("timestamp").dt.truncate("1s").alias("time")).len("ticks"))
        self._ticked.append(batch.select(pl.col("timestamp").dt.date().alias("day"), "instrument_token").unique())
        ms = (pl.col("timestamp") - pl.col("exchange_timestamp")).dt.total_milliseconds().clip(*LATENCY_MS)
        timed = batch.filter(pl.col("exchange_timestamp").is_not_null())
        self._delays.append(timed.group_by(self._time, (ms // LATENCY_STEP_MS).alias("bucket")).len("ticks"))
        chosen = batch.filter(pl.col("instrument_token").is_in(self._tokens))
        self._prices.append(self._extremes(_points(chosen, pl.col("last_price"))))
        self._spreads.append(self._extremes(_points(chosen, SPREAD)))
        if len(self._counts) > BATCHES_KEPT:
            self._thin_out()

    def _extremes(self, points: pl.DataFrame) -> pl.DataFrame:
        """Return of each instrument and step the points with the lowest and the highest value."""
        keys = ("instrument_token", pl.col("timestamp").dt.truncate(f"{self._step_s}s").alias("step"))
        lowest, highest = (
            points.group_by(keys).agg(pl.col("timestamp", "value").get(at)).drop("step")
            for at in (pl.col("value").arg_min(), pl.col("value").arg_max())
        )
        return pl.concat([lowest, highest]).unique()

    def _thin_out(self) -> None:
        self._counts = [_summed(self._counts, "connection_id", "time")]
        self._seconds = [_summed(self._seconds, "time")]
        self._delays = [_summed(self._delays, "time", "bucket")]
        self._prices = [self._extremes(pl.concat(self._prices))]
        self._spreads = [self._extremes(pl.concat(self._spreads))]
        self._ticked = [pl.concat(self._ticked).unique()]

    def finish(self, analysis: Analysis, start: datetime, end: datetime) -> Figures:
        """Return all of it."""
        self._thin_out()
        peak = self._seconds[0].sort("ticks", "time", descending=[True, False]).row(0)
        delays = self._delays[0].sort("time", "bucket")
        prices, spreads = (some[0].sort("timestamp") for some in (self._prices, self._spreads))
        return Figures(
            analysis=analysis,
            step=timedelta(seconds=self._step_s),
            rates=self._rates(start, end),
            peak=(peak[0], peak[1]),
            latency=_quantiles(delays),
            latencies=delays.group_by(ms=pl.col("bucket") * LATENCY_STEP_MS).agg(pl.sum("ticks")).sort("ms"),
            prices=[Price(token, _of(prices, token), _of(spreads, token)) for token in self._tokens],
            ticked={
                day: set(of["instrument_token"])
                for (day,), of in self._ticked[0].partition_by("day", as_dict=True).items()
            },
        )

    def _rates(self, start: datetime, end: datetime) -> pl.DataFrame:
        counts = self._counts[0]
        step = f"{self._step_s}s"
        edges = pl.Series([start, end], dtype=counts.schema["time"]).dt.truncate(step)
        times = pl.datetime_range(edges[0], edges[1], step, eager=True).alias("time").to_frame()
        every = counts.select(pl.col("connection_id").unique().sort()).join(times, how="cross")
        rate = pl.col("ticks").fill_null(0) / self._step_s
        found = every.join(counts, on=["connection_id", "time"], how="left", maintain_order="left")
        return found.select("connection_id", "time", rate=rate)


def _points(chosen: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    return chosen.select("instrument_token", "timestamp", value=value).drop_nulls()


def _summed(frames: list[pl.DataFrame], *keys: str) -> pl.DataFrame:
    return pl.concat(frames).group_by(keys).agg(pl.sum("ticks"))


def _quantiles(delays: pl.DataFrame) -> pl.DataFrame:
    """Return quantiles of counted buckets, sorted, for each time: the upper end of the bucket that has the one."""
    upper = (pl.col("bucket") + 1) * LATENCY_STEP_MS
    reached = pl.col("ticks").cum_sum()
    quantile = {
        name: upper.filter(reached >= part * pl.col("ticks").sum()).first().cast(pl.Float64)
        for name, part in QUANTILES.items()
    }
    return delays.group_by("time", maintain_order=True).agg(**quantile)


def _of(points: pl.DataFrame, token: int) -> pl.DataFrame:
    return points.filter(pl.col("instrument_token") == token).select("timestamp", "value")
