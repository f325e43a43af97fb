"""What is in recorded ticks, over all and for each instrument. Pure: frames in, figures out.

Ticks are read once, batch by batch. What stays in memory is a piece for each instrument, day and mode of a batch, and
the receive time of each tick: without all of them nobody knows the largest silence.
"""

from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from pipeline.store.pieces import NEEDED, day, in_polars, pieces, prepared, traded

if TYPE_CHECKING:
    import pandas as pd

BATCH_ROWS: Final = 500_000  # of ticks that are in memory at once
PARTS: Final = 16  # of the instruments, whose times are sorted one part after the other: sorting takes five times them
_BEST: Final = ("bid_price_1", "ask_price_1")
SPREAD: Final = pl.when(pl.min_horizontal(_BEST) > 0).then(pl.col("ask_price_1") - pl.col("bid_price_1"))
_TIME_FORM: Final = "%Y-%m-%dT%H:%M:%S%.6f%:z"
_COLUMNS: Final = (*NEEDED, "mode", *_BEST)
_DIGITS: Final = 7  # the wire's finest price; beyond are errors of adding up, which depend on the order


@dataclass(frozen=True)
class Analysis:
    """What is in ticks. Figures that no tick tells are None or null; times are receive times.

    `instruments` has a row for each, by token. Its columns are instrument_token; ticks and their share of all; seconds
    and rate, as below; first and last tick; price_min, price_max, price_mean, price_last; volume, as below; spread_mean
    and spread_max, between best bid and best offer where there are both; silence, the most seconds between two ticks of
    a day that follow each other, and silence_start.
    """

    total_ticks: int
    unique_instruments: int
    modes: dict[str, int]  # ticks of each
    start: datetime | None
    end: datetime | None
    seconds: float  # from the first to the last tick of each day
    price_min: float | None
    price_max: float | None
    price_mean: float | None
    volume: int | None  # traded while it was recorded: what was traded before a day's first tick is not known
    volume_mean: float | None  # for each tick that tells a volume
    instruments: pl.DataFrame

    @property
    def rate(self) -> float | None:
        """Ticks in each of these seconds."""
        return self.total_ticks / self.seconds if self.seconds else None

    def summary(self) -> dict[str, Any]:
        """Return what holds over all; JSON types only."""
        start, end = (time and time.isoformat(timespec="microseconds") for time in (self.start, self.end))
        return {
            "total_ticks": self.total_ticks,
            "unique_instruments": self.unique_instruments,
            "time_range": {"start": start, "end": end},
            "seconds": self.seconds,
            "rate": self.rate,
            "modes": self.modes,
            "price_stats": {"min": self.price_min, "max": self.price_max, "mean": self.price_mean},
            "volume_stats": {"total": self.volume, "mean": self.volume_mean},
        }

    def to_json(self) -> dict[str, Any]:
        """Return all of it, `instruments` as a list; JSON types only."""
        times = pl.col("first", "last", "silence_start").dt.to_string(_TIME_FORM)
        return {**self.summary(), "instruments": self.instruments.with_columns(times).to_dicts()}


def analyze(frame: pl.LazyFrame | pl.DataFrame) -> Analysis:
    """Return what is in the ticks of a frame, in any order; a column that it lacks is taken for an empty one.

    Raises NotTicksError where a column cannot hold what it does in ticks.
    """
    sums, days = _read(prepared(frame.lazy(), _COLUMNS))
    modes = sums.group_by("mode").agg(pl.sum("ticks")).drop_nulls().sort("ticks", "mode", descending=[True, False])
    overall = sums.select(
        pl.sum("ticks", "prices", "price_sum"),
        low=pl.min("low"),
        high=pl.max("high"),
        volume=_sum_or_null("volume"),
        telling=pl.col("ticks").filter("is_traded").sum(),
    ).row(0, named=True)
    span = days.group_by("day").agg(pl.min("first"), pl.max("last"))
    instruments = _instruments(sums, days)
    return Analysis(
        total_ticks=overall["ticks"],
        unique_instruments=instruments.height,
        modes=dict(modes.iter_rows()),
        start=span.select(pl.min("first")).item(),
        end=span.select(pl.max("last")).item(),
        seconds=span.select(_seconds((pl.col("last") - pl.col("first")).sum())).item(),
        price_min=overall["low"],
        price_max=overall["high"],
        price_mean=_mean(overall["price_sum"], overall["prices"]),
        volume=overall["volume"],
        volume_mean=None if overall["volume"] is None else _mean(overall["volume"], overall["telling"]),
        instruments=instruments,
    )


def busiest(instruments: pl.DataFrame, number: int) -> pl.DataFrame:
    """Return the rows of the instruments with the most ticks, the busiest first."""
    return instruments.sort("ticks", "instrument_token", descending=[True, False]).head(number)


def analyze_tick_data(df: "pl.DataFrame | pl.LazyFrame | pd.DataFrame") -> dict[str, Any]:
    """Return what is in the ticks of a polars or pandas frame, as a dict of JSON types.

    The frame may be one of `read_ticks`, or made of stored dicts, with `ohlc` as it stands in them; columns may be
    missing. Keys are total_ticks, unique_instruments, time_range (start, end), modes, and, where the frame has the
    column, price_stats (min, max, mean of last_price) and volume_stats (total, mean).

    `volume_traded` of a tick is all that was traded of its instrument since the morning. So the total of volume_stats
    is not its sum, which would count a trade again in each tick that follows, but its growth since the first tick of
    each instrument and day: what was traded while it was recorded. The mean is this for each tick that tells a volume.

    Raises NotTicksError where the columns do not hold what they do in ticks.
    """
    frame = in_polars(df, _COLUMNS)
    found = frame.collect_schema()
    summary = analyze(frame).summary()
    told = {
        "price_stats": "last_price" in found,
        "volume_stats": "volume_traded" in found,
        "seconds": False,
        "rate": False,
    }
    return {key: value for key, value in summary.items() if told.get(key, True)}


def _read(ticks: pl.LazyFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the pieces of ticks with their volumes, and the days of each instrument."""
    sums = {
        "prices": pl.count("last_price"),
        "price_sum": pl.sum("last_price"),
        "spreads": SPREAD.count(),
        "spread_sum": SPREAD.sum(),
        "spread_max": SPREAD.max(),
    }
    found, times = [], []
    nothing = pl.DataFrame(schema=ticks.collect_schema())  # for the columns, where there are no ticks
    for batch in chain([nothing], ticks.collect_batches(chunk_size=BATCH_ROWS, maintain_order=False)):
        found.append(pieces(batch.lazy(), pl.col("mode"), **sums).collect())
        times.append(batch.select("instrument_token", "timestamp").drop_nulls("timestamp"))
    return traded(pl.concat(found).lazy()).collect(), _days(pl.concat(times))


def _days(times: pl.DataFrame) -> pl.DataFrame:
    """Return for each instrument and day its first and last tick, and the largest silence, since when."""
    in_order = pl.col("timestamp").sort()
    silences = in_order.diff()
    exchange_token = pl.col("instrument_token") // 256
    parts = (times.filter(exchange_token % PARTS == part) for part in range(PARTS))
    return pl.concat(
        part.group_by("instrument_token", day=day()).agg(
            first=pl.min("timestamp"),
            last=pl.max("timestamp"),
            silence=silences.max(),
            silence_start=in_order.get(silences.arg_max() - 1, null_on_oob=True),
        )
        for part in parts
    )


def _instruments(sums: pl.DataFrame, days: pl.DataFrame) -> pl.DataFrame:
    """Return the row of each instrument."""
    last = pl.col("last")
    seen = (
        sums.drop_nulls("instrument_token")
        .group_by("instrument_token")
        .agg(
            pl.sum("ticks", "prices", "price_sum", "spreads", "spread_sum"),
            price_min=pl.min("low"),
            price_max=pl.max("high"),
            price_last=last.struct.field("last_price").max_by(last),
            volume=_sum_or_null("volume"),
            spread_max=pl.max("spread_max"),
        )
    )
    lasted = days.group_by("instrument_token").agg(
        seconds=_seconds((last - pl.col("first")).sum()),
        first=pl.min("first"),
        last=pl.max("last"),
        silence=_seconds(pl.max("silence")),
        silence_start=pl.col("silence_start").max_by("silence"),
    )
    return (
        seen.join(lasted, on="instrument_token", how="left")
        .sort("instrument_token")
        .select(
            "instrument_token",
            "ticks",
            (pl.col("ticks") / sums["ticks"].sum()).alias("share"),
            "seconds",
            _quotient("ticks", "seconds").alias("rate"),
            "first",
            "last",
            "price_min",
            "price_max",
            _quotient("price_sum", "prices").round(_DIGITS).alias("price_mean"),
            "price_last",
            "volume",
            _quotient("spread_sum", "spreads").round(_DIGITS).alias("spread_mean"),
            pl.col("spread_max").round(_DIGITS),
            "silence",
            "silence_start",
        )
    )


def _seconds(duration: pl.Expr) -> pl.Expr:
    # Rounded, as polars multiplies where it should divide: 1.9999989999999999 for 1.999999.
    return (duration.dt.total_microseconds() / 1_000_000).round(6)


def _sum_or_null(column: str) -> pl.Expr:
    return pl.when(pl.count(column) > 0).then(pl.sum(column))


def _quotient(total: str, count: str) -> pl.Expr:
    return pl.when(pl.col(count) > 0).then(pl.col(total) / pl.col(count))


def _mean(total: float, count: int) -> float | None:
    return round(total / count, _DIGITS) if count else None
