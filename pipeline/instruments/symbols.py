"""Symbols to instrument tokens and back, by Kite's own list of instruments.

The list lies in the data folder, see `listing`. It is read when a symbol is asked for, not before: tokens work without
any list.
"""

import logging
from collections.abc import Iterable
from datetime import date
from functools import cached_property
from pathlib import Path

from pipeline.instruments.listing import Listing, SymbolError, newest, read, shown
from pipeline.instruments.rows import MAX_TOKEN, as_token

log = logging.getLogger(__name__)


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
        found = self._for_the_eye.by_token(token) if self._for_the_eye else None
        return found.symbol if found else None

    def _token(self, word: int | str) -> int:
        text = str(word).strip()
        if text.isascii() and text.isdecimal():
            if token := as_token(text):
                return token
        elif not isinstance(word, int):
            return self._listing.token(text)
        raise SymbolError(f"{shown(text)} is not an instrument token, a whole number from 1 to {MAX_TOKEN}")

    @cached_property
    def _listing(self) -> Listing:
        path = newest(self._data_dir, self._day)
        if path is None:
            raise SymbolError(
                f"{self._data_dir}: no list of instruments, instruments_YYYY-MM-DD.csv.zst, to look symbols up in; "
                "fetch it with: mds instruments sync; instrument tokens work without one"
            )
        return read(path)

    @cached_property
    def _for_the_eye(self) -> Listing | None:
        if newest(self._data_dir, self._day) is None:
            return None
        try:
            return self._listing
        except SymbolError as error:  # a name is for the eye only
            log.warning("%s", error)
            return None
