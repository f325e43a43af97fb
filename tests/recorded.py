"""Stored ticks as a frame, and ticks of a made-up market, for tests of what is computed from them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from pipeline.days import NS_PER_S, Calendar
from pipeline.files import tick_file_name
from pipeline.kite.packets import Decoder, split
from pipeline.simulator.market import Market, tokens
from pipeline.store.schema import LEVELS, SIDES, TIMES, TIMEZONE, schema
from pipeline.ticks import StoredTick, encode_lines
from tests.test_packets import framed

SIZES = {"ltp": (8, 8), "quote": (44, 28), "full": (184, 32)}  # bytes of a packet, of an index


def dicts_of(ticks: Sequence[StoredTick]) -> list[dict[str, Any]]:
    """Return the dicts that a plain reader of JSON lines has."""
    return [msgspec.json.decode(msgspec.json.encode(tick)) for tick in ticks]


def frame_of(ticks: Sequence[StoredTick]) -> pl.LazyFrame:
    """Return the frame that `read_ticks` has of ticks, made in a plain way."""
    return pl.LazyFrame([_row(tick) for tick in dicts_of(ticks)], schema())


def _row(tick: dict[str, Any]) -> dict[str, Any]:
    depth = tick.pop("depth", None)
    row = {**tick, **tick.pop("ohlc", {})}
    for side, field in SIDES.items() if depth else ():
        for level in LEVELS:
            row |= {f"{side}_{name}_{level}": value for name, value in depth[field][level - 1].items()}
    row |= {name: datetime.fromisoformat(row[name]) for name in TIMES if row.get(name)}
    return {name: row.get(name) for name in schema()}


def market_ticks(start: datetime, *, instruments: int, rounds: int, every: timedelta) -> list[StoredTick]:
    """Return what is stored of a made-up market: each instrument trades in each round, in a mode of its own."""
    wanted = tokens(instruments)
    modes = [list(SIZES)[number // 3 % 3] for number in range(instruments)]
    sizes = [SIZES[mode][token & 0xFF == 9] for token, mode in zip(wanted, modes, strict=True)]
    begin_s = int(start.timestamp())
    market = Market(1)
    rows = market.rows(wanted, begin_s)
    decoder = Decoder(Calendar(TIMEZONE), 1, begin_s * 1000)
    ticks: list[StoredTick] = []
    for number in range(rounds):
        recv_ns = begin_s * NS_PER_S + number * (every // timedelta(microseconds=1)) * 1000
        packets = market.advance(rows, 1, recv_ns // NS_PER_S)
        frame = framed(*(packet.tobytes()[:size] for packet, size in zip(packets, sizes, strict=True)))
        ticks += decoder.decode(frame, split(frame), recv_ns, len(ticks) + 1)
    return ticks


def record(data_dir: Path, ticks: Sequence[StoredTick]) -> None:
    """Put ticks of one day into a data folder, and a list with a symbol for every second instrument."""
    data_dir.mkdir(exist_ok=True)
    day = datetime.fromisoformat(ticks[0].timestamp).date()
    (data_dir / tick_file_name(day)).write_bytes(encode_lines(list(ticks)))
    listed = sorted({tick.instrument_token for tick in ticks})[::2]
    lines = ["instrument_token,exchange,tradingsymbol", *(f"{token},NSE,SYM{token}" for token in listed)]
    (data_dir / f"instruments_{day}.csv").write_text("\n".join(lines))


def symbol_of(token: int, ticks: Sequence[StoredTick]) -> str | None:
    """Return the name that the list has."""
    listed = sorted({tick.instrument_token for tick in ticks})[::2]
    return f"NSE:SYM{token}" if token in listed else None
