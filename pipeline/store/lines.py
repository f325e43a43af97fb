"""JSON lines of ticks -> columns, in bulk: polars reads a chunk at once, and what it could take wrongly is ruled out.

polars is strict about types. It is lenient about fields that are missing (null), fields that it does not know, empty
lines, and text that is no time. Hence a chunk counts as read only if it has a row for each line, each row has exactly
the fields of its kind (`schema.KINDS`), and there are as many quotation marks as these fields have: with one field
more, or one twice, there are more. Otherwise each line is judged by itself, by `ticks.decode_line`.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import polars as pl
from polars.exceptions import PanicException, PolarsError

from pipeline.config import CONNECTIONS
from pipeline.errors import MdsError
from pipeline.store.bad import BadLine, sort_out
from pipeline.store.files import Chunk, as_block
from pipeline.store.schema import DEPTH, KEY, KINDS, LEVEL, LEVELS, MODE, OHLC, SIDES, TIMES, Kind, is_kind, schema
from pipeline.ticks import encode_lines

CHUNK_BYTES: Final = 32 * 2**20  # smaller ones leave a core idle, larger ones only take memory

_RECEIVE_FORM: Final = "%Y-%m-%dT%H:%M:%S%.6f%:z"
_EXCHANGE_FORM: Final = "%Y-%m-%dT%H:%M:%S%:z"
_RECEIVE_BYTES: Final = len("2025-10-01T09:15:23.123456+05:30")
_EXCHANGE_BYTES: Final = len("2025-10-01T09:15:23+05:30")

_LEVEL = pl.Struct({name: pl.UInt32() if dtype.is_integer() else dtype for name, dtype in LEVEL.items()})
_LINE: Final = pl.Schema(
    {
        **{name: dtype for name, dtype in schema().items() if name not in (*OHLC, *DEPTH)},
        **dict.fromkeys(("mode", *TIMES), pl.String()),
        "ohlc": pl.Struct(dict.fromkeys(OHLC, pl.Float64())),
        "depth": pl.Struct(dict.fromkeys(SIDES.values(), pl.List(_LEVEL))),
        "connection_id": pl.UInt32(),  # polars reads no smaller ones
    }
)
_FIRST_OF: Final = {"ohlc": OHLC[0], "depth": DEPTH[0]}  # a column of those that a field becomes
_KINDS_WITH: Final[dict[str, tuple[Kind, ...]]] = {
    name: tuple(kind for kind, columns in KINDS.items() if _FIRST_OF.get(name, name) in columns) for name in _LINE
}
# Names and text values stand between quotation marks.
_MARKS: Final = {
    kind: 2 * (len(columns) + (OHLC[0] in columns) + 3 * (DEPTH[0] in columns)) + 2 * len(("mode", "timestamp"))
    for kind, columns in KINDS.items()
}


class Read(NamedTuple):
    """What became of a chunk: its ticks in their order, and the lines that are none."""

    frame: pl.DataFrame
    bad: list[BadLine]


def read_chunk(chunk: Chunk, timezone: str, columns: Sequence[str] | None = None) -> Read:
    """Read whole lines into `columns` of `schema.schema(timezone)`, by default all."""
    names = list(schema()) if columns is None else list(columns)
    frame = _at_once(chunk.data, timezone, names)
    if frame is not None:
        return Read(frame, [])
    ticks, bad = sort_out(as_block(chunk))
    frame = _at_once(encode_lines(ticks), timezone, names)
    if frame is None:
        where = f"{chunk.first.path}, from byte {chunk.first.offset} on"
        raise MdsError(f"{where}: these lines are ticks and still cannot be read as columns: please report it")
    return Read(frame, bad)


def _at_once(data: bytes, timezone: str, names: Sequence[str]) -> pl.DataFrame | None:
    """Return the ticks of lines, None if it is not certain that each of them is one."""
    if not data:
        return schema(timezone).to_frame().select(names)
    if b"\\" in data:  # a name could be hidden, or a quotation mark
        return None
    try:
        rows = pl.read_ndjson(data, schema=_LINE).with_columns(pl.col("mode").cast(MODE))
        if rows.height != data.count(b"\n"):
            return None
        rows = rows.with_columns(is_kind(kind).alias(f"is {kind}") for kind in KINDS)
        facts = rows.select(_are_whole(), *_counts()).row(0, named=True)
        if not facts["are_whole"] or data.count(b'"') != _marks(facts):
            return None
        if facts["full"]:
            rows = rows.with_columns(_depth())
            nulls = rows.select(pl.sum_horizontal(pl.col(DEPTH).null_count())).item()
            if nulls != len(DEPTH) * (rows.height - facts["full"]):
                return None
        return rows.select(_columns(names, timezone, has_depth=facts["full"] > 0))
    except (PolarsError, PanicException):
        return None


def _are_whole() -> pl.Expr:
    """Return whether every row has what its kind has, and its numbers are possible."""
    rules = []
    for name, kinds in _KINDS_WITH.items():
        has = pl.lit(True) if len(kinds) == len(KINDS) else pl.any_horizontal(f"is {kind}" for kind in kinds)
        there = pl.col(name).is_not_null()
        may_be_null = name in TIMES and name != "timestamp"
        rules.append((~there | has) if may_be_null else there == has)
    ohlc = pl.col("ohlc")
    rules += [ohlc.struct.field(name).is_not_null() == ohlc.is_not_null() for name in OHLC]
    for side in SIDES.values():
        levels = pl.col("depth").struct.field(side)
        rules.append(pl.col("depth").is_null() | (levels.list.len() == len(LEVELS)).fill_null(value=False))
    rules.append(pl.col("connection_id").is_between(CONNECTIONS[0], CONNECTIONS[-1]))
    rules += [pl.col(name) >= 1 for name in KEY]
    rules.append(pl.col("timestamp").str.len_bytes() == _RECEIVE_BYTES)
    rules += [pl.col(name).str.len_bytes().fill_null(_EXCHANGE_BYTES) == _EXCHANGE_BYTES for name in TIMES[:2]]
    return pl.all_horizontal(rule.all() for rule in rules).alias("are_whole")


def _counts() -> list[pl.Expr]:
    kinds = [pl.col(f"is {kind}").sum().alias(kind) for kind in KINDS]
    return kinds + [pl.col(name).count() for name in TIMES[:2]]


def _marks(counts: dict[str, int]) -> int:
    return sum(counts[kind] * marks for kind, marks in _MARKS.items()) + 2 * sum(counts[name] for name in TIMES[:2])


def _columns(names: Sequence[str], timezone: str, *, has_depth: bool) -> list[pl.Expr]:
    types = schema(timezone)
    made = []
    for name in names:
        if name in OHLC:
            column = pl.col("ohlc").struct.field(name)
        elif name in DEPTH and not has_depth:
            column = pl.lit(None)
        elif name in TIMES:
            form = _RECEIVE_FORM if name == "timestamp" else _EXCHANGE_FORM
            column = pl.col(name).str.to_datetime(form, time_unit="us").dt.convert_time_zone(timezone)
        else:
            column = pl.col(name)
        made.append(column.cast(types[name]).alias(name))
    return made


def _depth() -> list[pl.Expr]:
    made = []
    for name in DEPTH:
        side, field, level = name.split("_")
        levels = pl.col("depth").struct.field(SIDES[side])
        made.append(levels.list.get(int(level) - 1, null_on_oob=True).struct.field(field).alias(name))
    return made
