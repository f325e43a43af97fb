"""Ticks as columns: one schema for all modes. Pure.

A column has the name of the stored field. `ohlc` and `depth` are flattened: `open high low close`, and for each of the
five levels of a side `bid_price_1 bid_quantity_1 bid_orders_1 ... ask_orders_5`, best first. What a mode does not have
is null; so is a time that the exchange did not give. No two different ticks have the same row, so `to_ticks` gives
back what was stored.

Times are instants in the storage time zone, to the microsecond.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias

import polars as pl

from pipeline.ticks import (
    Depth,
    DepthLevel,
    FullTick,
    IndexFullTick,
    IndexQuoteTick,
    Levels,
    LtpTick,
    Ohlc,
    QuoteTick,
    StoredTick,
)

TIMEZONE: Final = "Asia/Kolkata"  # where nothing else is said
MODE: Final = pl.Enum(["ltp", "quote", "full"])
SIDES: Final = {"bid": "buy", "ask": "sell"}  # column prefix, stored field
LEVELS: Final = range(1, 6)
LEVEL: Final[dict[str, pl.DataType]] = {"price": pl.Float64(), "quantity": pl.UInt32(), "orders": pl.UInt16()}
OHLC: Final = ("open", "high", "low", "close")
TIMES: Final = ("last_trade_time", "exchange_timestamp", "timestamp")
KEY: Final = ("connection_id", "epoch", "seq")  # which tick it is
DEPTH: Final = tuple(f"{side}_{name}_{level}" for side in SIDES for level in LEVELS for name in LEVEL)

Kind: TypeAlias = Literal["ltp", "index_quote", "index_full", "quote", "full"]

_TRADE: Final = (
    "last_traded_quantity",
    "average_traded_price",
    "volume_traded",
    "total_buy_quantity",
    "total_sell_quantity",
)


def schema(timezone: str = TIMEZONE) -> pl.Schema:
    """Return the columns of a tick, in their order."""
    time = pl.Datetime("us", timezone)
    return pl.Schema(
        {
            "mode": MODE,
            "tradable": pl.Boolean(),
            "instrument_token": pl.UInt32(),
            "last_price": pl.Float64(),
            "last_traded_quantity": pl.UInt32(),
            "average_traded_price": pl.Float64(),
            "volume_traded": pl.UInt32(),
            "total_buy_quantity": pl.UInt32(),
            "total_sell_quantity": pl.UInt32(),
            **dict.fromkeys(OHLC, pl.Float64()),
            "change": pl.Float64(),
            "last_trade_time": time,
            "oi": pl.UInt32(),
            "oi_day_high": pl.UInt32(),
            "oi_day_low": pl.UInt32(),
            "exchange_timestamp": time,
            **{name: LEVEL[name.split("_")[1]] for name in DEPTH},
            "timestamp": time,
            "connection_id": pl.UInt8(),
            "epoch": pl.Int64(),
            "seq": pl.Int64(),
        }
    )


COLUMNS: Final = tuple(schema())

# What each kind of packet has: these columns are not null in it, the others are. Times may be null everywhere.
KINDS: Final[dict[Kind, frozenset[str]]] = {
    "ltp": frozenset(COLUMNS[:4]) | {"timestamp", *KEY},
    "index_quote": frozenset(COLUMNS[:4]) | {*OHLC, "change", "timestamp", *KEY},
    "index_full": frozenset(COLUMNS[:4]) | {*OHLC, "change", "timestamp", *KEY, "exchange_timestamp"},
    "quote": frozenset(COLUMNS[:4]) | {*_TRADE, *OHLC, "change", "timestamp", *KEY},
    "full": frozenset(COLUMNS),
}


def is_kind(kind: Kind) -> pl.Expr:
    """Return what is true of the rows of a kind."""
    mode = pl.col("mode") == kind.removeprefix("index_")
    if kind == "ltp":
        return mode
    has_no_trades = pl.col("volume_traded").is_null()
    return mode & (has_no_trades if kind.startswith("index_") else ~has_no_trades)


def to_ticks(frame: pl.DataFrame) -> list[StoredTick]:
    """Return the rows of a frame that has all columns as the ticks that they were, in their order."""
    found: list[StoredTick | None] = [None] * frame.height
    numbered = frame.with_row_index("row")
    for kind, make in _MAKE.items():
        part = numbered.filter(is_kind(kind))
        for row, tick in zip(part["row"], make(part), strict=True):
            found[row] = tick
    missing = found.count(None)
    if missing:
        raise ValueError(f"{missing} rows are no ticks")
    return found  # type: ignore[return-value]  # none of it is None


def _lists(frame: pl.DataFrame, names: Sequence[str]) -> Iterator[list[Any]]:
    for name in names:
        column = frame[name]
        if name in TIMES:
            column = column.dt.to_string("%Y-%m-%dT%H:%M:%S%.6f%:z" if name == "timestamp" else "%Y-%m-%dT%H:%M:%S%:z")
        yield column.to_list()


def _ohlc(frame: pl.DataFrame) -> Iterator[Ohlc]:
    return map(Ohlc, *_lists(frame, OHLC))


def _depth(frame: pl.DataFrame) -> Iterator[Depth]:
    return map(Depth, _levels(frame, "bid"), _levels(frame, "ask"))


def _levels(frame: pl.DataFrame, side: str) -> Iterator[Levels]:
    names = [[f"{side}_{name}_{level}" for name in ("quantity", "price", "orders")] for level in LEVELS]
    one, two, three, four, five = (map(DepthLevel, *_lists(frame, level)) for level in names)
    return zip(one, two, three, four, five, strict=True)


_HEAD: Final = ("tradable", "instrument_token", "last_price")
_TAIL: Final = ("timestamp", *KEY)


def _make(tick: type[Any], *fields: str | Callable[[pl.DataFrame], Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Return what makes ticks of a frame's rows; `fields` are all of the struct, in its order."""

    def make(frame: pl.DataFrame) -> Iterator[Any]:
        values = (next(_lists(frame, [field])) if isinstance(field, str) else field(frame) for field in fields)
        return map(tick, *values)

    return make


_MAKE: Final[dict[Kind, Callable[[pl.DataFrame], Iterator[Any]]]] = {
    "ltp": _make(LtpTick, *_HEAD, *_TAIL),
    "index_quote": _make(IndexQuoteTick, *_HEAD, _ohlc, "change", *_TAIL),
    "index_full": _make(IndexFullTick, *_HEAD, _ohlc, "change", "exchange_timestamp", *_TAIL),
    "quote": _make(QuoteTick, *_HEAD, *_TRADE, _ohlc, "change", *_TAIL),
    "full": _make(
        FullTick,
        *_HEAD,
        *_TRADE,
        _ohlc,
        "change",
        "last_trade_time",
        "oi",
        "oi_day_high",
        "oi_day_low",
        "exchange_timestamp",
        _depth,
        *_TAIL,
    ),
}
