"""The text of Kite's list of instruments, and its columns in memory: bytes to columns, and rows to bytes. Pure.

The text is a header line, then an instrument a line, as https://api.kite.trade/instruments gives it. There are about
100,000 lines, of which most fields repeat, so each text is in memory once.
"""

import csv
import gzip
import io
from array import array
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import zstandard

COLUMNS: Final = (
    "instrument_token",
    "exchange_token",
    "tradingsymbol",
    "name",
    "last_price",
    "expiry",
    "strike",
    "tick_size",
    "lot_size",
    "instrument_type",
    "segment",
    "exchange",
)
MAX_TOKEN: Final = 2**32 - 1
MAX_BYTES: Final = 64 * 2**20  # unpacked: some six times what Kite has
SYMBOL_CHARS: Final = 64  # Kite's have less than 30

_NEEDED: Final = ("instrument_token", "exchange", "tradingsymbol")
_REPEATING: Final = ("exchange", "name", "expiry", "strike", "tick_size", "lot_size", "instrument_type", "segment")
_LEVEL: Final = 9  # of zstandard, of 100,000 instruments: 0.07 s; 12 takes twice that for 1 % less


class NoListError(Exception):
    """This is no list of instruments."""


class Rows(NamedTuple):
    """The lines of a list, by column: texts as they are, what the list does not have is empty."""

    tokens: "array[int]"
    symbols: list[str]  # tradingsymbol
    exchanges: list[str]  # in capitals
    others: dict[str, list[str]]  # by column: name, expiry, strike, tick_size, lot_size, instrument_type, segment


def unpacked(data: bytes, suffix: str) -> bytes:
    """Return the text of a file that is named `.csv`, `.csv.gz` or `.csv.zst`.

    Raises NoListError where that is more than a list has, before it takes the memory, and EOFError, OSError, zlib.error
    or ZstdError where it is damaged.
    """
    size = len(data)
    if suffix == ".gz":
        data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_BYTES + 1)
        size = len(data)
    elif suffix == ".zst":
        size = max(size, zstandard.frame_content_size(data))  # where it is told, that much memory is taken at once
    if size > MAX_BYTES:
        raise NoListError(f"more than {MAX_BYTES // 2**20} MB, this is no list of instruments of Kite")
    if suffix != ".zst":
        return data
    unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_BYTES)
    return unpacker.decompress(data, max_output_size=MAX_BYTES, allow_extra_data=False)


def parse(text: bytes) -> tuple[Rows, int]:
    """Return the instruments, and how many lines are none. Raises NoListError, csv.Error, UnicodeDecodeError."""
    lines = csv.reader(io.TextIOWrapper(io.BytesIO(text), encoding="utf-8-sig", newline=""))
    header = next(lines, [])
    missing = [column for column in _NEEDED if column not in header]
    if missing:
        raise NoListError(f"not a list of instruments of Kite, it has no column {', '.join(missing)}")
    token_at, exchange_at, symbol_at = map(header.index, _NEEDED)
    texts: dict[str, list[str]] = {name: [] for name in _REPEATING}
    repeating = [(header.index(name), texts[name].append) for name in _REPEATING if name in header]
    width = 1 + max(token_at, symbol_at, *(at for at, _ in repeating))
    once: dict[str, str] = {}
    tokens, symbols, bad = array("I"), [], 0
    for line in lines:
        token = as_token(line[token_at]) if len(line) >= width else 0
        if not token or not _is_name(line[exchange_at], line[symbol_at]):
            bad += 1
            continue
        tokens.append(token)
        symbols.append(line[symbol_at])
        for at, append in repeating:
            text_of = line[at]
            append(once.setdefault(text_of, text_of))
    for name in _REPEATING:
        texts[name] = texts[name] or [""] * len(tokens)
    capitals = {each: each.upper() for each in set(texts["exchange"])}
    exchanges = [capitals[each] for each in texts.pop("exchange")]
    return Rows(tokens, symbols, exchanges, texts), bad


def as_token(text: str) -> int:
    """Return the instrument token that a text is, 0 where it is none."""
    try:
        token = int(text)
    except ValueError:  # thousands of digits are refused so, too
        return 0
    return token if 0 < token <= MAX_TOKEN else 0


def packed(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the file `.csv.zst` of rows as `KiteConnect.instruments` returns them; Kite's columns, and no others."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(row.get(name)) for name in COLUMNS] for row in rows)
    content = text.getvalue().replace(
        "\r", " "
    )  # the writer does not quote it, and readers take it for the end of a line
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(content.encode())


def _is_name(exchange: str, symbol: str) -> bool:
    """Tell whether this may be a name: it goes into messages, and to terminals."""
    return bool(exchange and symbol) and len(symbol) <= SYMBOL_CHARS and (exchange + symbol).isprintable()


def _cell(value: Any) -> Any:
    """Return what the CSV writer makes Kite's text of: 0, and not 0.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
