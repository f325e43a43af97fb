"""Stored ticks of every kind, for tests of what reads them back."""

from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
from hypothesis import strategies as st

from pipeline.ticks import (
    Depth,
    DepthLevel,
    FullTick,
    IndexFullTick,
    IndexQuoteTick,
    LtpTick,
    Ohlc,
    QuoteTick,
    StoredTick,
)

ZONE = "Asia/Kolkata"
INDIA = timezone(timedelta(hours=5, minutes=30))
FIRST = datetime(2025, 10, 1, 9, 15, 23, 123456, tzinfo=INDIA)
EPOCH = 1_759_290_000_000

u32 = st.integers(0, 2**32 - 1)
prices = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**9), 10**9).map(lambda paise: paise / 100)
_from, _to = datetime(1970, 1, 2), datetime(2100, 1, 1)  # noqa: DTZ001  the zone comes next
instants = st.datetimes(_from, _to).map(lambda moment: moment.replace(tzinfo=INDIA))
exchange_times = st.none() | instants.map(lambda moment: moment.isoformat(timespec="seconds"))
levels = st.builds(DepthLevel, u32, prices, st.integers(0, 2**16 - 1))
sides = st.tuples(levels, levels, levels, levels, levels)
ohlcs = st.builds(Ohlc, prices, prices, prices, prices)
_head = (st.booleans(), u32, prices)
_trade = (u32, prices, u32, u32, u32, ohlcs, prices)
_tail = (
    instants.map(lambda moment: moment.isoformat(timespec="microseconds")),
    st.integers(1, 3),
    st.integers(1, 2**63 - 1),
    st.integers(1, 2**63 - 1),
)


def stored_ticks() -> st.SearchStrategy[StoredTick]:
    """Return a strategy of ticks of all kinds, with extreme values."""
    depth = st.builds(Depth, sides, sides)
    return st.one_of(
        st.builds(LtpTick, *_head, *_tail),
        st.builds(IndexQuoteTick, *_head, ohlcs, prices, *_tail),
        st.builds(IndexFullTick, *_head, ohlcs, prices, exchange_times, *_tail),
        st.builds(QuoteTick, *_head, *_trade, *_tail),
        st.builds(FullTick, *_head, *_trade, exchange_times, u32, u32, u32, exchange_times, depth, *_tail),
    )


def _make(tick: Any, *fields: Any) -> Any:
    return tick(*fields)


def _kinds() -> dict[str, StoredTick]:
    head = (True, 408065, 571.45)
    trade = (12, 571.4, 3_000_000_000, 120333, 98411)
    prices = (Ohlc(570.0, 572.5, 569.05, 568.1), 0.59)
    at = FIRST.isoformat(timespec="seconds")
    side = tuple(DepthLevel(75 * level, 571.4 - level / 20, level) for level in range(1, 6))
    depth = Depth(side, side)  # type: ignore[arg-type]  # five of them
    tail = (FIRST.isoformat(timespec="microseconds"), 1, EPOCH)
    return {
        "ltp": _make(LtpTick, *head, *tail, 1),
        "index_quote": _make(IndexQuoteTick, *head, *prices, *tail, 2),
        "index_full": _make(IndexFullTick, *head, *prices, at, *tail, 3),
        "quote": _make(QuoteTick, *head, *trade, *prices, *tail, 4),
        "full": _make(FullTick, *head, *trade, *prices, None, 1, 2, 0, at, depth, *tail, 5),
    }


KINDS = _kinds()


def tick_at(moment: datetime, kind: str = "quote", **fields: Any) -> StoredTick:
    """Return a tick of this kind that was received then, with other fields changed."""
    return msgspec.structs.replace(KINDS[kind], timestamp=moment.isoformat(timespec="microseconds"), **fields)
