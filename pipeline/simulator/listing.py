"""The list of instruments of one day, as Kite's `GET /instruments` has it. Pure: no clock, no random numbers.

On it are indices and shares that people know, under their real tokens; futures and options of some of them, as many
as stand on an exchange at a time; and the market's own `tokens`, under made-up names, so that each of them has one.
Strikes surround what the underlying costs in the market of the same seed. A derivative keeps its token from day to day,
and is on the list up to its expiry, which is the last day on which it trades. Holidays are not known here.

A row is `instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,
instrument_type,segment,exchange` (https://kite.trade/docs/connect/v3/market-quotes/#csv-response-columns).
"""

import math
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import count, islice
from string import ascii_uppercase
from typing import Final
from zlib import crc32

from pipeline.simulator import names
from pipeline.simulator.market import INDEX_CODE, SEGMENTS, Market, is_known, tokens

HEADER: Final = (
    "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,"
    "instrument_type,segment,exchange\n"
)
STRIKES_MIN: Final = 20  # to each side of any price that the underlying may have on the day

_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_MONTH_DIGITS: Final = "123456789OND"  # in the symbol of a weekly option
_EXPIRIES: Final = 3  # months that stand at a time
_STEPS: Final = (0.5, 1, 2.5, 5, 10, 20, 50, 100)
_STEP_SHARE: Final = 0.01  # of the price: a step of strikes is the next of these above it
_EXCHANGES: Final = {name.upper(): segment for name, segment in SEGMENTS.items() if name != "indices"}
_EXCHANGE_OF: Final = {segment.code: exchange for exchange, segment in _EXCHANGES.items()}
_FIRST: Final = 200_000  # exchange tokens of derivatives are above it, those of shares on NSE below
_TUESDAY: Final = 1
_PADDING_PRICES: Final = (900.0, 1100.0)
_UNITS: Final = 100  # of the wire in a rupee, of indices and shares


class Listing:
    """The list of a day: rows by exchange, and tokens by `EXCHANGE:TRADINGSYMBOL`."""

    def __init__(self, day: date) -> None:
        self.day = day
        self.tokens: dict[str, int] = {}
        self._rows: dict[str, list[str]] = {}
        self._taken: set[int] = set()

    def __len__(self) -> int:
        return len(self._taken)

    @property
    def exchanges(self) -> list[str]:
        """The exchanges that there are."""
        return list(self._rows)

    def csv(self, exchange: str | None = None) -> str:
        """Return all rows, or those of one of the exchanges, under a header."""
        exchanges = self._rows if exchange is None else (exchange,)
        return HEADER + "".join("".join(self._rows[name]) for name in exchanges)

    def has(self, token: int) -> bool:
        """Tell whether a token is on the list."""
        return token in self._taken

    def add(self, token: int, exchange: str, symbol: str, name: str, **fields: str) -> None:
        """Put a row on the list. `fields`: expiry, strike, tick, lot, type, segment, where they are not a share's."""
        tick = f"{_EXCHANGES[exchange].tick_size:g}"
        text = {"expiry": "", "strike": "0", "tick": tick, "lot": "1", "type": "EQ", "segment": exchange, **fields}
        self.put(token, exchange, symbol, f"{name},0,{','.join(text.values())},{exchange}\n")

    def put(self, token: int, exchange: str, symbol: str, rest: str) -> None:
        """Put a row on the list whose columns from `name` on are written already."""
        self._taken.add(token)
        self.tokens[f"{exchange}:{symbol}"] = token
        self._rows.setdefault(exchange, []).append(f"{token},{token >> 8},{symbol},{rest}")

    def token_for(self, exchange: str, symbol: str) -> int:
        """Return a token for a derivative, which is the same on any day but for the rare collision."""
        code = _EXCHANGES[exchange].code
        number = _FIRST + crc32(f"{exchange}:{symbol}".encode()) % (2**24 - 2 * _FIRST)
        return next(t for n in count(number) if (t := n << 8 | code) not in self._taken and is_known(t))


def build(seed: int, day: date, number: int, listed: int = 0) -> Listing:
    """Return the list of a day, with `tokens(number)` on it, and padded with options to at least `listed` rows."""
    listing = Listing(day)
    for index in names.INDICES:
        _add_index(listing, index.token, index.exchange, index.symbol)
    for share in names.SHARES:
        listing.add(share.token, "NSE", share.symbol, share.name)
        listing.add(share.scrip << 8 | SEGMENTS["bse"].code, "BSE", share.symbol, share.name)
    _add_made_up(listing, number)  # before others, whose tokens are taken from what is left
    for commodity in names.COMMODITIES:
        for expiry in islice(_days(day, commodity.day, commodity.months), _EXPIRIES):
            _add_future(listing, commodity.exchange, commodity.name, expiry, lot=commodity.lot)
    market = Market(seed)
    for underlying in names.UNDERLYINGS:
        _add_derivatives(listing, underlying, _bounds(market, underlying.token))
    for name in _padding():
        if len(listing) >= listed:
            break
        underlying = names.Underlying(name, "NFO", 0, 500, _TUESDAY)
        _add_derivatives(listing, underlying, _PADDING_PRICES)
    return listing


def _add_made_up(listing: Listing, number: int) -> None:
    """Give those of the market's own tokens a name that have none. A derivative of them stands for long."""
    expiry = _last(_TUESDAY, listing.day.year + 1, 12)
    for token in tokens(number):
        if listing.has(token):
            continue
        exchange_token, code = token >> 8, token & 0xFF
        if code == INDEX_CODE:
            _add_index(listing, token, "NSE", f"SIM IDX{exchange_token}")
        elif not SEGMENTS[_EXCHANGE_OF[code].lower()].has_oi:
            listing.add(token, _EXCHANGE_OF[code], f"SIM{exchange_token}", f"SIMULATED {exchange_token}")
        else:
            exchange = _EXCHANGE_OF[code]
            lot = _EXCHANGES[exchange].lot
            _add_future(listing, exchange, f"SIM{exchange_token}", expiry, lot=lot, token=token)


def _add_index(listing: Listing, token: int, exchange: str, symbol: str) -> None:
    listing.add(token, exchange, symbol, symbol, tick="0", lot="0", segment="INDICES")


def _add_future(
    listing: Listing, exchange: str, name: str, expiry: date, *, lot: int, token: int | None = None
) -> None:
    symbol = f"{name}{_month(expiry)}FUT"
    fields = {"expiry": expiry.isoformat(), "lot": str(lot), "type": "FUT", "segment": f"{exchange}-FUT"}
    listing.add(listing.token_for(exchange, symbol) if token is None else token, exchange, symbol, name, **fields)


def _add_derivatives(listing: Listing, underlying: names.Underlying, bounds: tuple[float, float]) -> None:
    """Put futures and options of an underlying on the list, whose price may be anything within the bounds."""
    exchange, name = underlying.exchange, underlying.name
    months = list(islice(_month_ends(listing.day, underlying.weekday), _EXPIRIES))
    for expiry in months:
        _add_future(listing, exchange, name, expiry, lot=underlying.lot)
    to_come = (underlying.weekday - listing.day.weekday()) % 7
    weeks = [listing.day + timedelta(days=to_come + 7 * week) for week in range(underlying.weeks)]
    lower, upper = bounds
    step = underlying.step or next(s for s in _STEPS if s >= lower * _STEP_SHARE or s == _STEPS[-1])
    strikes = range(math.floor(lower / step) - STRIKES_MIN, math.ceil(upper / step) + STRIKES_MIN + 1)
    texts = [f"{number * step:g}" for number in strikes]
    end = f"{_EXCHANGES[exchange].tick_size:g},{underlying.lot}"
    segment = f"{exchange}-OPT,{exchange}\n"
    for expiry in sorted({*weeks, *months}):
        is_monthly = expiry == _last(underlying.weekday, expiry.year, expiry.month)
        prefix = name + (_month(expiry) if is_monthly else _week(expiry))
        for strike in texts:
            for kind in ("CE", "PE"):
                symbol = f"{prefix}{strike}{kind}"
                rest = f"{name},0,{expiry},{strike},{end},{kind},{segment}"
                listing.put(listing.token_for(exchange, symbol), exchange, symbol, rest)


def _bounds(market: Market, token: int) -> tuple[float, float]:
    """Return the lowest and the highest price in rupees that an index or share may have."""
    (row,) = market.rows([token], 0)
    return market.state["lower"][row] / _UNITS, market.state["upper"][row] / _UNITS


def _padding() -> Iterator[str]:
    """Yield names of letters: SIMAAA, SIMAAB, ..."""
    return (f"SIM{one}{two}{three}" for one in ascii_uppercase for two in ascii_uppercase for three in ascii_uppercase)


def _month(expiry: date) -> str:
    return f"{expiry.year % 100:02}{_MONTHS[expiry.month - 1]}"


def _week(expiry: date) -> str:
    return f"{expiry.year % 100:02}{_MONTH_DIGITS[expiry.month - 1]}{expiry.day:02}"


def _last(weekday: int, year: int, month: int) -> date:
    """Return the last such day of the week in a month."""
    end = date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)
    return end - timedelta(days=(end.weekday() - weekday) % 7)


def _months(day: date) -> Iterator[tuple[int, int]]:
    """Yield year and month of `day`, and those that follow."""
    return ((month // 12, month % 12 + 1) for month in count(day.year * 12 + day.month - 1))


def _month_ends(day: date, weekday: int) -> Iterator[date]:
    """Yield the last such day of the week in each month, from `day` on."""
    return (end for year, month in _months(day) if (end := _last(weekday, year, month)) >= day)


def _days(day: date, of_month: int, months: tuple[int, ...]) -> Iterator[date]:
    """Yield a day of some months, or the Friday before where it falls on a weekend, from `day` on."""
    for year, month in _months(day):
        expiry = date(year, month, of_month)
        expiry -= timedelta(days=max(0, expiry.weekday() - 4))
        if month in months and expiry >= day:
            yield expiry
