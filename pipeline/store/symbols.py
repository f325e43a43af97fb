"""Symbols to instrument tokens and back, by Kite's own list of instruments.

The list is a file `instruments_YYYY-MM-DD.csv` or `.csv.gz` in the data folder, as https://api.kite.trade/instruments
gives it: a header line, then an instrument a line, of which `instrument_token`, `tradingsymbol` and `exchange` are
used. It has about 100,000 lines and is read when a symbol is asked for, not before: tokens work without any list.
"""

import csv
import difflib
import gzip
import io
import logging
import re
import zlib
from collections.abc import Iterable
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import MdsError

log = logging.getLogger(__name__)

MAX_TOKEN = 2**32 - 1
NEAR_SHOWN = 5
SHOWN_CHARS = 40  # of a word that is wrong
_FILE = re.compile(r"instruments_([0-9]{4}-[0-9]{2}-[0-9]{2})(\.csv|\.csv\.gz)")
_COLUMNS = ("instrument_token", "exchange", "tradingsymbol")


class SymbolError(MdsError):
    """A word names no instrument, or more than one, or there is no list to look it up in."""

    exit_code = 2


class Symbols:
    """The instruments of a data folder on a day: by its newest list not later than that, else the oldest there is.

    Without a day it is the newest list of all. What was read once is kept. Not thread-safe.
    """

    def __init__(self, data_dir: Path | str, day: date | None = None) -> None:
        self._data_dir = Path(data_dir)
        self._day = day

    def resolve(self, words: Iterable[int | str] | int | str) -> list[int]:
        """Return the tokens of words, each once, in their order.

        A word is a token, as a number or its digits, a symbol with its exchange (`NSE:INFY`), or a symbol that only
        one exchange has (`INFY`); case does not matter. Raises SymbolError naming the word that is none.
        """
        # What is not iterable is a number, of whatever library.
        words = [words] if isinstance(words, str) or not isinstance(words, Iterable) else words
        return list(dict.fromkeys(self._token(word) for word in words))

    def name(self, token: int) -> str | None:
        """Return `EXCHANGE:SYMBOL` of a token, None where it is not on the list or there is no list to be read."""
        return self._names.get(token)

    def _token(self, word: int | str) -> int:
        text = str(word).strip()
        if text.isascii() and text.isdecimal():
            # Longer digits are out of range whatever they are, and Python refuses to read thousands of them.
            number = int(text) if len(text) <= len(str(MAX_TOKEN)) else 0
            if 0 < number <= MAX_TOKEN:
                return number
        elif not isinstance(word, int):
            return self._listed.token(text)
        raise SymbolError(f"{_shown(text)} is not an instrument token, a whole number from 1 to {MAX_TOKEN}")

    @cached_property
    def _listed(self) -> "_List":
        path = _newest(self._data_dir, self._day)
        if path is None:
            raise SymbolError(
                f"{self._data_dir}: no list of instruments, instruments_YYYY-MM-DD.csv or .csv.gz, to look symbols up "
                "in; instrument tokens work without one"
            )
        return _read(path)

    @cached_property
    def _names(self) -> dict[int, str]:
        if _newest(self._data_dir, self._day) is None:
            return {}
        try:
            return self._listed.names
        except SymbolError as error:  # a name is for the eye only
            log.warning("%s", error)
            return {}


class _List(NamedTuple):
    path: Path
    names: dict[int, str]  # EXCHANGE:SYMBOL of each token
    tokens: dict[str, int]  # by these names in capitals
    exchanges: dict[str, str]  # of each symbol in capitals, a blank between them

    def token(self, word: str) -> int:
        wanted = word.upper()
        token = self.tokens.get(wanted)
        if token is not None:
            return token
        names = self._on_any_exchange(wanted)
        if len(names) == 1:
            return self.tokens[names[0]]
        if names:
            raise SymbolError(f"{_shown(word)} is on several exchanges: {_several(names)}; name one of these")
        near = self._near(wanted)
        raise SymbolError(
            f"{_shown(word)} is not in {self.path}"
            + (f"; near it are {_several(near)}" if near else "; a symbol is written NSE:INFY, or give its token")
        )

    def _on_any_exchange(self, symbol: str) -> list[str]:
        return [f"{exchange}:{symbol}" for exchange in self.exchanges.get(symbol, "").split()]

    def _near(self, word: str) -> list[str]:
        """Return names that may have been meant: of another exchange, that go on so, or are spelt alike."""
        exchange, _, symbol = word.rpartition(":")
        if elsewhere := self._on_any_exchange(symbol):
            return elsewhere
        # Who mistypes has the first letter right, and most letters; to compare with all would take seconds.
        alike = [s for s in self.exchanges if s[:1] == symbol[:1] and abs(len(s) - len(symbol)) <= 2]
        longer = sorted((s for s in self.exchanges if symbol and s.startswith(symbol)), key=lambda s: (len(s), s))
        found = [*difflib.get_close_matches(symbol, alike, NEAR_SHOWN), *longer[:NEAR_SHOWN]]
        names = [name for s in dict.fromkeys(found) for name in self._on_any_exchange(s)]
        return [name for name in names if name.startswith(f"{exchange}:")] or names


def _newest(data_dir: Path, day: date | None) -> Path | None:
    """Return the list that holds on a day."""
    lists: dict[date, Path] = {}
    for path in sorted(data_dir.glob("instruments_*"), reverse=True):  # .csv goes before .csv.gz
        match = _FILE.fullmatch(path.name)
        try:
            if match and path.is_file():
                lists[date.fromisoformat(match[1])] = path
        except ValueError:
            continue  # there is no such day
    if not lists:
        return None
    until_then = [of for of in lists if day is None or of <= day]
    return lists[max(until_then) if until_then else min(lists)]


def _read(path: Path) -> _List:
    """Read a list; lines that are none are counted in the log. Raises SymbolError where it is no list at all."""
    names: dict[int, str] = {}
    tokens: dict[str, int] = {}
    exchanges: dict[str, str] = {}
    bad = 0
    try:
        rows = csv.reader(io.StringIO(_text(path), newline=""))
        header = next(rows, [])
        missing = [column for column in _COLUMNS if column not in header]
        if missing:
            raise SymbolError(f"{path}: not a list of instruments of Kite, it has no column {', '.join(missing)}")
        token_at, exchange_at, symbol_at = map(header.index, _COLUMNS)
        for row in rows:
            try:
                token, exchange, symbol = int(row[token_at]), row[exchange_at].upper(), row[symbol_at]
            except (ValueError, IndexError):
                bad += 1
                continue
            capitals = symbol.upper()
            name = f"{exchange}:{capitals}"
            if name in tokens:
                continue
            names[token] = f"{exchange}:{symbol}"
            tokens[name] = token
            exchanges[capitals] = f"{exchanges[capitals]} {exchange}" if capitals in exchanges else exchange
    except OSError as error:
        raise SymbolError(f"{path}: {error.strerror or error}") from None
    except (csv.Error, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise SymbolError(f"{path}: damaged, fetch it again: {error}") from None
    if bad:
        log.warning("%s: %d lines passed over that are no instruments", path, bad)
    return _List(path, names, tokens, exchanges)


def _text(path: Path) -> str:
    """Return what a list holds, unpacked as its suffix says."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    return data.decode("utf-8-sig")


def _several(names: list[str]) -> str:
    return ", ".join(names[:NEAR_SHOWN])


def _shown(word: str) -> str:
    return repr(word if len(word) <= SHOWN_CHARS else f"{word[:SHOWN_CHARS]}...")
