"""A market: instruments whose prices walk at random, as packets in Kite's layout.

Everything is a numpy array over all instruments: what the walk needs in native integers (`Market.state`), what a
client would be sent now in big-endian packets (`Market.packets`). Prices are in the wire's units, which depend on the
segment. An instrument is made when it is asked for first, from the seed and its token alone. No socket and no clock
here: `now_s` is an argument.

The shorter packets are the beginning of the longer ones (ltp 8 bytes, quote 44, full 184; an index 8, 28, 32), so one
record of 184 bytes holds them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Packets = NDArray[np.void]  # records of PACKET_BYTES; `.view(TRADED)` or `.view(INDEX)` reads them
Longs = NDArray[np.int64]
Rows = NDArray[np.intp]  # places of instruments in the arrays of the market

U32_MAX: Final = 2**32 - 1
DEAD: Final = (97, 13)  # an exchange token that leaves 13 when divided by 97 never ticks

_ENTRY = np.dtype([("quantity", ">u4"), ("price", ">i4"), ("orders", ">u2"), ("padding", ">u2")])

TRADED = np.dtype(
    [
        ("instrument_token", ">u4"),
        ("last_price", ">i4"),  # ltp ends here
        ("last_traded_quantity", ">u4"),
        ("average_traded_price", ">i4"),
        ("volume_traded", ">u4"),
        ("total_buy_quantity", ">u4"),
        ("total_sell_quantity", ">u4"),
        ("open", ">i4"),
        ("high", ">i4"),
        ("low", ">i4"),
        ("close", ">i4"),  # quote ends here
        ("last_trade_time", ">u4"),
        ("oi", ">u4"),
        ("oi_day_high", ">u4"),
        ("oi_day_low", ">u4"),
        ("exchange_timestamp", ">u4"),
        ("depth", _ENTRY, (10,)),  # five buy, five sell, best first
    ]
)
PACKET_BYTES: Final = TRADED.itemsize

INDEX = np.dtype(
    {
        "names": ["instrument_token", "last_price", "high", "low", "open", "close", "change", "exchange_timestamp"],
        "formats": [">u4", ">i4", ">i4", ">i4", ">i4", ">i4", ">i4", ">u4"],
        "offsets": [0, 4, 8, 12, 16, 20, 24, 28],
        "itemsize": PACKET_BYTES,
    }
)

_STATE = np.dtype(
    [(name, "i8") for name in ("last", "open", "high", "low", "close", "lower", "upper", "tick", "stride", "lot")]
    + [("volume", "i8"), ("turnover", "f8"), ("oi", "i8"), ("oi_high", "i8"), ("oi_low", "i8")]
    + [("is_index", "?"), ("has_oi", "?")]
)
# Records without their fields: numpy moves these with memcpy, ten times as fast, and leaves their byte order alone,
# which np.concatenate of structured arrays does not.
_PACKET_BLOCK = np.dtype(("V", PACKET_BYTES))
_STATE_BLOCK = np.dtype(("V", _STATE.itemsize))


@dataclass(frozen=True)
class Segment:
    """What the instruments of one segment have in common; prices in rupees, `first` and `step` number its tokens."""

    code: int  # the lowest byte of the token
    divisor: int  # wire units in a rupee
    tick_size: float
    cheapest: float
    dearest: float
    lot: int = 1
    has_oi: bool = True
    first: int = 35_000
    step: int = 11


SEGMENTS: Final = {
    "nse": Segment(1, 100, 0.05, 50, 5_000, has_oi=False, first=1594, step=5),
    "nfo": Segment(2, 100, 0.05, 20, 30_000, lot=25),
    "cds": Segment(3, 10_000_000, 0.0025, 60, 110, first=1_000, step=3),
    "bse": Segment(4, 100, 0.05, 50, 5_000, has_oi=False, first=500_000, step=3),
    "bfo": Segment(5, 100, 0.05, 20, 30_000, lot=10, first=820_000),
    "bcd": Segment(6, 10_000, 0.0025, 60, 110, first=1_000, step=3),
    "mcx": Segment(7, 100, 1, 100, 90_000, first=220_000),
    "mcxsx": Segment(8, 100, 0.05, 50, 5_000),
    "indices": Segment(9, 100, 0.05, 5_000, 60_000, has_oi=False, first=1_001, step=1),
    "nco": Segment(12, 10_000, 1, 100, 60_000, first=5_000, step=3),
}
INDEX_CODE: Final = SEGMENTS["indices"].code
_BY_CODE = {segment.code: segment for segment in SEGMENTS.values()}
# How often each segment comes up in `tokens`.
_MIX = [name for rare in ("indices", "cds", "bse", "mcx", "bfo", "bcd", "nco") for name in ("nse", "nfo", "nse", rare)]

_LADDER = np.array([-1, -2, -3, -4, -5, 1, 2, 3, 4, 5])  # the ten depth prices, in ticks from the last price
_DAY_RANGE = 0.10  # a price stays within this share of yesterday's close
_LOTS_MAX = 20  # in one trade
_CALM = 20_000  # a price of so many ticks moves by single ticks, a dearer one by proportionally more
_UNTRADED = 1 / 16  # share of instruments whose first snapshot has no times, as on Kite
_HUGE = 1 / 64  # share of instruments whose volume is above 2**31


def is_known(token: int) -> bool:
    """Tell whether `token` can be subscribed: of a known segment, and not one of the dead.

    Dead are the tokens with `(token >> 8) % 97 == 13`. They let people see what becomes of instruments that never tick.
    """
    return 0 < token <= U32_MAX and (token & 0xFF) in _BY_CODE and (token >> 8) % DEAD[0] != DEAD[1]


def tokens(number: int) -> list[int]:
    """Return `number` plausible tokens across the segments: always the same ones, none of them dead."""
    exchange_tokens = {name: count(SEGMENTS[name].first, SEGMENTS[name].step) for name in _MIX}
    found: list[int] = []
    for name in cycle(_MIX):
        if len(found) >= number:
            break
        found.append(next(t for e in exchange_tokens[name] if is_known(t := e << 8 | SEGMENTS[name].code)))
    return found


class Market:
    """All instruments that were asked for so far. The same seed and the same calls give the same bytes."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._row_of: dict[int, int] = {}
        self.state: NDArray[Any] = np.zeros(0, _STATE)
        self._packets: Packets = np.zeros(0, _PACKET_BLOCK)

    def rows(self, wanted: Sequence[int], now_s: int) -> Rows:
        """Return the rows of tokens, each of which `is_known`; instruments that are new are made."""
        new = [token for token in dict.fromkeys(wanted) if token not in self._row_of]
        if new:
            self._add(np.array(new, dtype=np.uint64), now_s)
        return np.array([self._row_of[token] for token in wanted], dtype=np.intp)

    def packets(self, rows: Rows) -> Packets:
        """Return the current packets of `rows`, a copy."""
        return self._packets[rows]

    def advance(self, rows: Rows, passes: int, now_s: int) -> Packets:
        """Let each of `rows`, which are distinct, trade `passes` times; return the packets of all trades.

        They come pass by pass, in the order of `rows`. The volume of a traded instrument grows with each of them, up to
        2**32 - 1.
        """
        state = self.state.view(_STATE_BLOCK)[rows].view(_STATE)
        shape = (passes, len(rows))
        moves = self._rng.integers(-2, 3, shape, np.int8) * state["stride"]
        last = np.clip(state["last"] + np.cumsum(moves, axis=0), state["lower"], state["upper"])
        high = np.maximum(state["high"], np.maximum.accumulate(last, axis=0))
        low = np.minimum(state["low"], np.minimum.accumulate(last, axis=0))
        quantity = self._rng.integers(1, _LOTS_MAX, shape, np.int8, endpoint=True) * state["lot"]
        volume = np.minimum(state["volume"] + np.cumsum(quantity, axis=0), U32_MAX)
        turnover = state["turnover"] + np.cumsum(quantity * last, axis=0)
        drift = np.cumsum(self._rng.integers(-3, 3, shape, np.int8, endpoint=True) * state["lot"], axis=0)
        oi = np.clip(state["oi"] + drift, 0, U32_MAX) * state["has_oi"]
        oi_high = np.maximum(state["oi_high"], np.maximum.accumulate(oi, axis=0))
        oi_low = np.minimum(state["oi_low"], np.minimum.accumulate(oi, axis=0))

        packets = self._packets[np.tile(rows, passes)]
        trades = packets.view(TRADED)
        trades["last_price"] = last.ravel()
        trades["last_traded_quantity"] = quantity.ravel()
        trades["average_traded_price"] = np.clip(turnover / volume, low, high).ravel()
        trades["volume_traded"] = volume.ravel()
        trades["high"] = high.ravel()
        trades["low"] = low.ravel()
        trades["oi"] = oi.ravel()
        trades["oi_day_high"] = oi_high.ravel()
        trades["oi_day_low"] = oi_low.ravel()
        trades["last_trade_time"] = trades["exchange_timestamp"] = now_s
        self._fill_depth(trades, last.ravel(), np.tile(state["tick"], passes), np.tile(state["lot"], passes))
        indices = np.flatnonzero(np.tile(state["is_index"], passes))
        if len(indices):
            fields = {"high": high.ravel(), "low": low.ravel(), "open": np.tile(state["open"], passes)}
            fields["close"] = np.tile(state["close"], passes)
            fields["change"] = last.ravel() - fields["close"]
            for name, values in fields.items():
                packets.view(INDEX)[name][indices] = values[indices]
            packets.view(INDEX)["exchange_timestamp"][indices] = now_s

        for name, values in (("last", last), ("high", high), ("low", low), ("volume", volume), ("turnover", turnover)):
            state[name] = values[-1]
        state["oi"], state["oi_high"], state["oi_low"] = oi[-1], oi_high[-1], oi_low[-1]
        self.state.view(_STATE_BLOCK)[rows] = state.view(_STATE_BLOCK)
        self._packets[rows] = packets[-len(rows) :]
        return packets

    def _fill_depth(self, trades: NDArray[Any], last: Longs, tick: Longs, lot: Longs) -> None:
        noise = self._rng.integers(0, 2**32, (len(trades), 10), np.uint32)
        quantity = ((noise & 0x3FF) + 1) * lot[:, None]
        trades["depth"]["quantity"] = quantity
        trades["depth"]["price"] = last[:, None] + tick[:, None] * _LADDER
        trades["depth"]["orders"] = (noise >> 16 & 0x1F) + 1
        trades["total_buy_quantity"] = quantity[:, :5].sum(axis=1) * 3
        trades["total_sell_quantity"] = quantity[:, 5:].sum(axis=1) * 3

    def _add(self, new: NDArray[np.uint64], now_s: int) -> None:
        segments = [_BY_CODE[int(token) & 0xFF] for token in new]
        state = np.zeros(len(new), _STATE)
        tick = np.array([round(s.tick_size * s.divisor) for s in segments])
        cheapest = np.array([s.cheapest for s in segments])
        dearest = np.array([s.dearest for s in segments])
        price = cheapest * (dearest / cheapest) ** self._uniform(new, 1)
        ticks = np.round(price / np.array([s.tick_size for s in segments])).astype(np.int64)
        reach = (ticks * _DAY_RANGE).astype(np.int64)
        state["tick"], state["close"] = tick, ticks * tick
        state["stride"] = np.maximum(1, ticks // _CALM) * tick
        state["lower"], state["upper"] = (ticks - reach) * tick, (ticks + reach) * tick
        gap = np.round((self._uniform(new, 2) - 0.5) * reach / 5).astype(np.int64)
        state["open"] = state["last"] = state["high"] = state["low"] = (ticks + gap) * tick
        state["lot"] = [s.lot for s in segments]
        state["has_oi"] = [s.has_oi for s in segments]
        state["is_index"] = [s.code == INDEX_CODE for s in segments]
        state["volume"] = 1_000 + self._uniform(new, 3) * 1e6 + (self._uniform(new, 4) < _HUGE) * 2.0**31
        state["turnover"] = state["volume"] * state["open"].astype(np.float64)
        state["oi"] = (self._uniform(new, 5) * 1e6 + 1e4) * state["has_oi"]
        state["oi_high"] = state["oi_low"] = state["oi"]

        packets = np.zeros(len(new), TRADED)  # what never changes
        packets["instrument_token"] = new
        packets["open"], packets["close"] = state["open"], state["close"]
        first = len(self.state)
        self.state = np.concatenate([self.state, state])
        self._packets = np.concatenate([self._packets, packets.view(_PACKET_BLOCK)])
        self._row_of.update((int(token), first + place) for place, token in enumerate(new))
        rows = np.arange(first, first + len(new))
        self.advance(rows, 1, now_s)
        untraded = rows[self._uniform(new, 6) < _UNTRADED]
        packets = self._packets.view(TRADED)  # of an index this is behind what is sent
        packets["last_trade_time"][untraded] = packets["exchange_timestamp"][untraded] = 0
        self._packets.view(INDEX)["exchange_timestamp"][untraded[self.state["is_index"][untraded]]] = 0

    def _uniform(self, new: NDArray[np.uint64], salt: int) -> NDArray[np.float64]:
        """Return a number in [0, 1) for each token that depends on seed, token and `salt` alone (splitmix64)."""
        start = (self._seed * 0x9E3779B97F4A7C15 + salt * 0xD1342543DE82EF95) % 2**64
        bits = new * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
        return (bits >> np.uint64(11)).astype(np.float64) / 2**53
