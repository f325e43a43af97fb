"""Instruments in text and in files, as words with their lines: tokens like 408065, symbols like NSE:NIFTY 50. Pure.

Symbols have blanks in them, so a blank alone separates nothing: it does before what is a word for sure, a token or
EXCHANGE:SYMBOL, and behind a token. Quotes keep a word together.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

TOKEN_COLUMNS: Final = ("instrument_token", "token")
SYMBOL_COLUMNS: Final = ("symbol", "tradingsymbol")
EXCHANGE_COLUMN: Final = "exchange"
NSE_COLUMNS: Final = ("series", "%chng")  # the NSE's own files have one of them, and name no exchange
NSE: Final = "NSE"

_SEPARATORS: Final = ",;\t"
_BRACKETED: Final = re.compile(r"(\s*)\[(.*)\]\s*", re.DOTALL)
_PIECE: Final = re.compile(r'"([^"]*)"|([^\s,"]+)|(,)')
_TOKEN_DIGITS: Final = 4  # fewer may be the end of a name: NIFTY 50, NIFTY 500

Words = Iterator[tuple[int, str]]  # each with its line


class LineError(Exception):
    """A line has no word where there should be one."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def in_file(text: str) -> Words:
    """Return the words of a file: of a CSV with a header that has a column for them, else of text.

    Going through them raises LineError."""
    lines = ["\n" if line.lstrip().startswith("#") else line for line in text.splitlines(keepends=True)]
    for separator in _SEPARATORS:
        rows = csv.reader(lines, delimiter=separator)
        try:
            names = [name.strip().lower() for name in next((row for row in rows if any(row)), [])]
        except csv.Error:
            continue
        for name in (*TOKEN_COLUMNS, *SYMBOL_COLUMNS):
            if name in names:
                return _in_rows(rows, names, names.index(name))
    return in_text(text)


def in_text(text: str) -> Words:
    """Yield the words of a text, line by line; a list's brackets, and what is behind #, are dropped."""
    bracketed = _BRACKETED.fullmatch(text)
    lines = (bracketed[1] + bracketed[2] if bracketed else text).splitlines()
    for number, line in enumerate(lines, start=1):
        for word in _in_line(line.partition("#")[0]):
            yield number, word


def _in_line(line: str) -> Iterator[str]:
    word: list[str] = []
    for quoted, piece, comma in _PIECE.findall(line):
        begins_another = quoted or comma or ":" in piece or (piece.isdecimal() and len(piece) >= _TOKEN_DIGITS)
        if word and (begins_another or (len(word) == 1 and word[0].isdecimal())):
            yield " ".join(word)
            word = []
        if quoted:
            yield quoted.strip()
        elif piece:
            word.append(piece)
    if word:
        yield " ".join(word)


def _in_rows(rows: Any, names: Sequence[str], column: int) -> Words:
    try:
        for row in rows:
            if any(map(str.strip, row)):
                cells = dict(zip(names, map(str.strip, row), strict=False))
                yield rows.line_num, _in_row(cells, names[column], rows.line_num)
    except csv.Error as error:
        raise LineError(rows.line_num, str(error)) from None


def _in_row(row: Mapping[str, str], column: str, line: int) -> str:
    word = row.get(column)
    if not word:
        raise LineError(line, f"its column {column} is empty")
    if column in TOKEN_COLUMNS or ":" in word:
        return word
    exchange = row.get(EXCHANGE_COLUMN, NSE if row.keys() & set(NSE_COLUMNS) else "")
    return f"{exchange}:{word}" if exchange else word
