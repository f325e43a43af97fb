"""A list of instruments for tests, made of `Instrument`s."""

from collections.abc import Iterable
from datetime import date

from pipeline.instruments.instrument import Instrument
from pipeline.instruments.listing import SymbolError


def a_share(token: int, tradingsymbol: str, exchange: str = "NSE") -> Instrument:
    """Return a share, or an index."""
    return Instrument(token, exchange, tradingsymbol, tradingsymbol, None, 0.0, 0.05, 1, "EQ", exchange)


def a_future(token: int, name: str, expiry: date, exchange: str = "NFO") -> Instrument:
    """Return a future."""
    symbol = f"{name}{expiry:%y%b}FUT".upper()
    return Instrument(token, exchange, symbol, name, expiry, 0.0, 0.05, 25, "FUT", f"{exchange}-FUT")


def options(first: int, name: str, expiry: date, strikes: Iterable[int], exchange: str = "NFO") -> list[Instrument]:
    """Return a call and a put of each strike; their tokens go up from `first`."""
    return [
        Instrument(
            first + 2 * n + m,
            exchange,
            f"{name}{expiry:%y%m%d}{strike}{kind}",
            name,
            expiry,
            strike,
            0.05,
            25,
            kind,
            "NFO-OPT",
        )
        for n, strike in enumerate(strikes)
        for m, kind in enumerate(("CE", "PE"))
    ]


class FakeList:
    """Answers as `listing.Listing` does, of a few instruments."""

    def __init__(self, *instruments: Instrument) -> None:
        self._by_token = {i.token: i for i in instruments}
        self._by_symbol = {i.symbol: i for i in instruments}

    def token(self, word: str, *, near: bool = True) -> int:
        """Return the token of a whole symbol."""
        found = self._by_symbol.get(word.upper())
        if found is None:
            raise SymbolError(f"{word!r} is not on the list" + ("; near it are A, B" if near else ""))
        return found.token

    def by_token(self, token: int) -> Instrument | None:
        """Return the instrument with this token."""
        return self._by_token.get(token)

    def by_symbol(self, symbol: str) -> Instrument | None:
        """Return the instrument of this name."""
        return self._by_symbol.get(symbol.upper())

    def derivatives(self, exchange: str, name: str) -> list[Instrument]:
        """Return those of an underlying."""
        return [i for i in self._by_token.values() if (i.exchange, i.name) == (exchange, name) and i.expiry]
