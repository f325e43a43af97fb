"""Ticks summed up in pieces: what bars and the analysis are made of. Pure.

A piece is what the ticks of one instrument and one day at the exchange have in common that also agree in whatever else
is asked for: those of one bar, for instance. Nothing in it depends on the order of the rows, so that a query over any
number of ticks streams: memory is for the pieces and not for the ticks.

The order of ticks is that of receiving; of those received at one moment, that of their numbers in their stream.

What was traded is the growth of the day's counter `volume_traded`. Snapshots that are older than what came before do
not make it fall: what counts is the highest value so far. But a subscription before the opening may bring the counter
of the day before, which must not hide the new one for hours. It comes with another `close`, the previous day's price.
Hence: a counter begins anew where a close appears whose first value is lower than the first values of those before. A
counter's first value counts for nothing, as nobody knows since when it has grown.
"""

from collections.abc import Sequence
from datetime import UTC, timezone
from typing import TYPE_CHECKING, Final

import polars as pl

from pipeline.errors import MdsError
from pipeline.store.schema import KEY, TIMEZONE, schema

if TYPE_CHECKING:
    import pandas as pd

EXCHANGE_ZONE: Final = TIMEZONE  # of all exchanges: it has no summer time, so that a day has 24 hours
ORDER: Final = ("timestamp", *KEY)
NEEDED: Final = ("instrument_token", "last_price", "volume_traded", "oi", "close", *ORDER)

_SCHEMA: Final = schema()


class NotTicksError(MdsError):
    """A frame has not the columns of ticks."""


def in_polars(frame: "pl.DataFrame | pl.LazyFrame | pd.DataFrame", columns: Sequence[str]) -> pl.LazyFrame:
    """Return a frame of ticks in polars, of a pandas frame these columns, with `close` where it stands in `ohlc`.

    Raises NotTicksError.
    """
    if not isinstance(frame, (pl.DataFrame, pl.LazyFrame)):
        return _from_pandas(frame, columns).lazy()
    lazy = frame.lazy()
    found = lazy.collect_schema()
    if "close" not in found and isinstance(found.get("ohlc"), pl.Struct):
        return lazy.with_columns(close=pl.col("ohlc").struct.field("close"))
    return lazy


def _from_pandas(df: "pd.DataFrame", columns: Sequence[str]) -> pl.DataFrame:
    try:
        wanted = df[[name for name in (*columns, "ohlc") if name in df.columns]].copy()
        if "ohlc" in wanted and "close" not in wanted:
            wanted["close"] = wanted["ohlc"].str.get("close")
        zone = getattr(wanted["timestamp"].dtype, "tz", None) if "timestamp" in wanted else None
        if isinstance(zone, timezone) and zone is not UTC:  # polars has no zones without a name
            wanted["timestamp"] = wanted["timestamp"].dt.tz_convert(EXCHANGE_ZONE)
        return pl.from_pandas(wanted.drop(columns="ohlc", errors="ignore"))
    # What pyarrow raises is one of the first two.
    except (TypeError, ValueError, AttributeError, pl.exceptions.PolarsError) as error:
        raise NotTicksError(f"a column of the frame does not hold what it does in ticks: {error}") from None


def prepared(frame: pl.LazyFrame, columns: Sequence[str], required: Sequence[str] = ()) -> pl.LazyFrame:
    """Return these columns as `schema` has them, times with a zone; what is missing and not required is null.

    Times may be ISO 8601 text; without an offset they are in the exchange's zone. Raises NotTicksError.
    """
    found = frame.collect_schema()
    missing = [name for name in required if name not in found]
    if missing:
        raise NotTicksError(f"the frame has no column {', '.join(missing)}; read_ticks returns frames that have it")
    # Not select alone: where none of them is there, it would know no number of rows.
    return frame.with_columns(_column(name, found.get(name)).alias(name) for name in columns).select(columns)


def _column(name: str, found: pl.DataType | None) -> pl.Expr:
    if name == "timestamp":
        return _time(name, found)
    wanted = pl.String() if name in ("mode", "symbol") else _SCHEMA[name]
    if found is None:
        return pl.lit(None, wanted)
    if found.is_nested():
        raise NotTicksError(f"the column {name} is {found}, and not {wanted}")
    return pl.col(name) if found == wanted else pl.col(name).cast(wanted, strict=False)


def _time(name: str, found: pl.DataType | None) -> pl.Expr:
    column = pl.col(name)
    if isinstance(found, pl.Datetime):
        column = column.dt.cast_time_unit("us")
        return column if found.time_zone else column.dt.replace_time_zone(EXCHANGE_ZONE)
    if found == pl.String:
        # `%.f` takes text without a fraction, too.
        aware = column.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", strict=False)
        naive = column.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
        return pl.coalesce(aware.dt.convert_time_zone(EXCHANGE_ZONE), naive.dt.replace_time_zone(EXCHANGE_ZONE))
    if found is None or found == pl.Null:
        return pl.lit(None, pl.Datetime("us", EXCHANGE_ZONE))
    raise NotTicksError(f"the column {name} is {found}, and not a time")


def day() -> pl.Expr:
    """Return the day at the exchange on which a tick was received."""
    return pl.col("timestamp").dt.convert_time_zone(EXCHANGE_ZONE).dt.date()


def pieces(frame: pl.LazyFrame, *by: pl.Expr, **sums: pl.Expr) -> pl.LazyFrame:
    """Return the pieces of ticks, which have all columns NEEDED, by instrument, day and `by`.

    Columns: these, and `ticks`, `low`, `high`, `first` and `last` (structs of ORDER, last_price, volume_traded and oi),
    `volume_max`, and `sums`. Ticks with and without a volume, with and without oi, are in pieces of their own, so that
    the first and last of these values are known.
    """
    order = pl.struct(ORDER)
    tick = pl.struct(*ORDER, "last_price", "volume_traded", "oi")
    return frame.group_by(
        "instrument_token",
        *by,
        day=day(),
        previous_close="close",
        is_traded=pl.col("volume_traded").is_not_null(),
        has_oi=pl.col("oi").is_not_null(),
    ).agg(
        ticks=pl.len().cast(pl.Int64),
        low=pl.min("last_price"),
        high=pl.max("last_price"),
        first=tick.min_by(order),
        last=tick.max_by(order),
        volume_max=pl.max("volume_traded").cast(pl.Int64),
        **sums,
    )


def traded(found: pl.LazyFrame) -> pl.LazyFrame:
    """Return pieces in the order of their first ticks, with `volume`: what was traded in each, null where it has none.

    Pieces that overlap in time share what was traded among them in whatever way; the sum is right.
    """
    a_day = ("instrument_token", "day", "is_traded")
    of_close = (*a_day, "previous_close")
    value = pl.col("first").struct.field("volume_traded").cast(pl.Int64)
    # The lowest of the first values up to then is where a counter has begun. It tells the counters of a day apart.
    begun = (
        found.sort("instrument_token", "day", "first")
        .with_columns(begin=value.first().over(of_close))
        .with_columns(begin=pl.col("begin").cum_min().over(a_day))
        .with_columns(begin=pl.col("begin").first().over(of_close))
    )
    reached = pl.col("volume_max").cum_max()
    before = reached.shift(1).fill_null(pl.col("begin"))
    return begun.with_columns(volume=(reached - before).over(*a_day, "begin")).drop("begin")
