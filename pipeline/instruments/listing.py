"""Kite's list of instruments of a day, in memory: by token, by symbol, by parts of a name.

The list is a file in the data folder, `instruments_YYYY-MM-DD.csv.zst` as it is written here, or `.csv.gz` or `.csv` as
https://api.kite.trade/instruments gives it: a header line, then an instrument a line. `instrument_token`,
`tradingsymbol` and `exchange` must be there. It has about 100,000 lines, of which each becomes an Instrument when it is
asked for.
"""

import csv
import heapq
import logging
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import zstandard

from pipeline.durable import replace_durably
from pipeline.errors import MdsError
from pipeline.files import INSTRUMENTS_FILE, instruments_file_name
from pipeline.instruments.instrument import Instrument
from pipeline.instruments.rows import MAX_BYTES, SYMBOL_CHARS, NoListError, Rows, as_token, packed, parse, unpacked
from pipeline.instruments.spelling import alike, one_off

log = logging.getLogger(__name__)

DERIVATIVES: Final = ("FUT", "CE", "PE")
NEAR_SHOWN: Final = 5
FOUND_SHOWN: Final = 20
_SHOWN_CHARS: Final = 40  # of a word that is wrong


class SymbolError(MdsError):
    """A word names no instrument, or more than one, or there is no list to look it up in."""

    exit_code = 2


class Listing:
    """The instruments of one list. Of two with one token, or one symbol on one exchange, the first counts.

    Case is no matter, unless symbols of an exchange differ in nothing else: then each is found as it is written.
    """

    def __init__(self, path: Path, day: date | None, rows: Rows) -> None:
        self.path = path
        self.day = day
        self._rows = rows
        count = len(rows.tokens)
        self._by_token = dict(zip(reversed(rows.tokens), range(count - 1, -1, -1), strict=True))
        # The same text where it is in capitals, as most are.
        self._capitals = [symbol if symbol.isupper() else symbol.upper() for symbol in rows.symbols]
        self._by_symbol: dict[str, int | tuple[int, ...]] = {}  # in capitals, without exchange
        for row, symbol in enumerate(self._capitals):
            there = self._by_symbol.setdefault(symbol, row)
            if there != row:
                known = (there,) if isinstance(there, int) else there
                if all(self._name(row) != self._name(each) for each in known):
                    self._by_symbol[symbol] = (*known, row)

    def __len__(self) -> int:
        return len(self._rows.tokens)

    @property
    def symbols(self) -> Iterable[str]:
        """EXCHANGE:SYMBOL of each."""
        return map("{}:{}".format, self._rows.exchanges, self._rows.symbols)

    @property
    def names(self) -> Iterable[tuple[int, str]]:
        """Token and EXCHANGE:SYMBOL of each token."""
        symbols, exchanges = self._rows.symbols, self._rows.exchanges
        return ((token, f"{exchanges[row]}:{symbols[row]}") for token, row in self._by_token.items())

    def by_token(self, token: int) -> Instrument | None:
        """Return the instrument with this token."""
        row = self._by_token.get(token)
        return None if row is None else self._instrument(row)

    def by_symbol(self, text: str) -> Instrument | None:
        """Return the instrument that `NSE:INFY` names, or `INFY` where one exchange alone has it; case is no matter."""
        found = self._named(text)
        return self._instrument(found[0]) if len(found) == 1 else None

    def token(self, word: str, *, near: bool = True) -> int:
        """Return the token of a symbol, written as for `by_symbol`.

        Raises SymbolError where it is unknown or on several exchanges, saying what is `near` it unless that is not
        asked for: it takes some milliseconds.
        """
        found = self._named(word)
        if len(found) == 1:
            return self._rows.tokens[found[0]]
        if found:
            raise SymbolError(
                f"{shown(word)} is on several exchanges: {_several(self._call(found))}; name one of these"
            )
        meant = self.near(word) if near else []
        raise SymbolError(
            f"{shown(word)} is not in {self.path}"
            + (f"; near it are {_several(meant)}" if meant else "; a symbol is written NSE:INFY, or give its token")
        )

    def near(self, word: str) -> list[str]:
        """Return names that may have been meant: of another exchange, misspelt, begun, of a company, or alike."""
        exchange, _, symbol = (part.strip() for part in word.upper().rpartition(":"))
        if elsewhere := self._named(symbol):
            return self._call(elsewhere)
        return self._spelt_alike(symbol, exchange) or self._spelt_alike(symbol, "")

    def _spelt_alike(self, symbol: str, exchange: str) -> list[str]:
        """Return names of an exchange, or of all."""
        if not 0 < len(symbol) <= SYMBOL_CHARS:
            return []
        before = f"{exchange}:" if exchange else ""
        names = self._call(row for each in one_off(symbol, self._by_symbol) for row in self._named(before + each))
        names += [instrument.symbol for instrument in self.find(symbol, exchange=exchange or None, limit=NEAR_SHOWN)]
        if len(names) < NEAR_SHOWN:
            found = alike(symbol, self._by_symbol, NEAR_SHOWN)
            names += self._call(row for each in found for row in self._named(before + each))
        return list(dict.fromkeys(names))[:NEAR_SHOWN]

    def find(
        self,
        text: str,
        *,
        exchange: str | None = None,
        instrument_type: str | None = None,
        expiry: date | None = None,
        limit: int = FOUND_SHOWN,
    ) -> list[Instrument]:
        """Return the instruments in whose symbol, name or token all parts of `text` are; case is no matter.

        The best come first: whose symbol or token is the text; whose symbol has all parts, begins with the first, is
        shorter; and what expires sooner. `NSE:` before the text is the exchange.
        """
        place, colon, wanted = text.upper().rpartition(":")
        parts = wanted.split()
        found: Sequence[int] = range(len(self))
        for part in parts:
            found = [row for row in found if part in self._texts[row]]
        filters = {
            "exchange": exchange or (place.strip() if colon else None),
            "instrument_type": instrument_type,
            "expiry": expiry.isoformat() if expiry else None,
        }
        for name, value in filters.items():
            if value is not None:
                column, asked = self._column(name), value.upper()
                found = [row for row in found if column[row].upper() == asked]
        return [self._instrument(row) for row in self._best(found, parts, limit)]

    def derivatives(self, exchange: str, name: str) -> list[Instrument]:
        """Return the futures and options of an underlying, which the column `name` names: NIFTY."""
        return [self._instrument(row) for row in self._derivatives.get((exchange.upper(), name.upper()), ())]

    def _named(self, text: str) -> tuple[int, ...]:
        """Return the rows that a symbol may mean."""
        exchange, colon, symbol = (part.strip() for part in text.rpartition(":"))
        found = self._by_symbol.get(symbol.upper(), ())
        rows = (found,) if isinstance(found, int) else found
        if colon:
            rows = tuple(row for row in rows if self._rows.exchanges[row] == exchange.upper())
        if len(rows) > 1:
            exact = tuple(row for row in rows if self._rows.symbols[row] == symbol)
            rows = exact or tuple({self._rows.exchanges[row]: row for row in reversed(rows)}.values())[::-1]
        return rows

    def _call(self, rows: Iterable[int]) -> list[str]:
        return [f"{exchange}:{symbol}" for exchange, symbol in map(self._name, rows)]

    def _name(self, row: int) -> tuple[str, str]:
        return self._rows.exchanges[row], self._rows.symbols[row]

    def _best(self, rows: Sequence[int], parts: Sequence[str], limit: int) -> list[int]:
        first, whole = parts[0] if parts else "", " ".join(parts)
        symbols, expiries = self._capitals, self._column("expiry")
        exact = {*self._named(whole), self._by_token.get(as_token(whole), -1)}.intersection(rows)
        in_symbol = rows
        for part in parts:
            in_symbol = [row for row in in_symbol if part in symbols[row]]
        begins = [row for row in in_symbol if symbols[row].startswith(first)]
        best: list[int] = []
        for found in (sorted(exact), begins, in_symbol, rows):
            there = set(best)
            left = (row for row in found if row not in there)
            key = lambda row: (len(symbols[row]), expiries[row], symbols[row])  # noqa: E731  of these lists
            best += heapq.nsmallest(limit - len(best), left, key)
            if len(best) >= limit:
                break
        return best

    @cached_property
    def _texts(self) -> list[str]:
        """What is searched: in capitals, with line ends between, which no part of a text has."""
        rows = zip(self._capitals, self._column("name"), self._rows.tokens, strict=True)
        return [f"{symbol}\n{name}\n{token}".upper() for symbol, name, token in rows]

    @cached_property
    def _derivatives(self) -> dict[tuple[str, str], list[int]]:
        """Rows of futures and options by exchange and underlying, in capitals."""
        found: dict[tuple[str, str], list[int]] = {}
        columns = (self._rows.exchanges, self._column("name"), self._column("instrument_type"))
        for row, (exchange, name, kind) in enumerate(zip(*columns, strict=True)):
            if kind.upper() in DERIVATIVES:
                found.setdefault((exchange, name.upper()), []).append(row)
        return found

    def _column(self, name: str) -> list[str]:
        return self._rows.exchanges if name == "exchange" else self._rows.others[name]

    def _instrument(self, row: int) -> Instrument:
        name, expiry, strike, tick_size, lot_size, instrument_type, segment = (
            column[row] for column in self._rows.others.values()
        )
        return Instrument(
            token=self._rows.tokens[row],
            exchange=self._rows.exchanges[row],
            tradingsymbol=self._rows.symbols[row],
            name=name,
            expiry=_date(expiry),
            strike=_number(strike),
            tick_size=_number(tick_size),
            lot_size=int(_number(lot_size)),
            instrument_type=instrument_type,
            segment=segment,
        )


def newest(data_dir: Path, day: date | None = None) -> Path | None:
    """Return the newest list of a data folder that is not later than `day`, else the oldest; without a day the newest.

    What somebody has put there, unpacked or as .gz, goes before what was fetched on that day.
    """
    lists: dict[date, Path] = {}
    for path in sorted(data_dir.glob("instruments_*"), reverse=True):  # .zst, .gz, .csv
        if (of := day_of(path)) and path.is_file():
            lists[of] = path
    if not lists:
        return None
    until_then = [of for of in lists if day is None or of <= day]
    return lists[max(until_then) if until_then else min(lists)]


def day_of(path: Path) -> date | None:
    """Return the day of a list by its name, None where it is none."""
    match = INSTRUMENTS_FILE.fullmatch(path.name)
    return _date(match[1]) if match else None


def read(path: Path) -> Listing:
    """Return a list; lines that are no instruments are counted in the log. Raises SymbolError where it is none."""
    try:
        with path.open("rb") as file:
            rows, bad = parse(unpacked(file.read(MAX_BYTES + 1), path.suffix))
    except NoListError as error:
        raise SymbolError(f"{path}: {error}") from None
    except OSError as error:
        raise SymbolError(f"{path}: {error.strerror or error}") from None
    except (csv.Error, EOFError, UnicodeDecodeError, zlib.error, zstandard.ZstdError) as error:
        raise SymbolError(f"{path}: damaged, fetch it again with mds instruments sync: {error}") from None
    if bad:
        log.warning("%s: %d lines passed over that are no instruments", path, bad)
    return Listing(path, day_of(path), rows)


def write(data_dir: Path, day: date, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Put the list of a day into the data folder, whole or not at all. Raises OSError.

    `rows` are as `KiteConnect.instruments` returns them.
    """
    path = data_dir / instruments_file_name(day)
    replace_durably(path, packed(rows))
    return path


def shown(word: str) -> str:
    """Return a word of somebody's in quotes, as far as it takes to recognise it."""
    return repr(word if len(word) <= _SHOWN_CHARS else f"{word[:_SHOWN_CHARS]}...")


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _several(names: list[str]) -> str:
    return ", ".join(names[:NEAR_SHOWN])
