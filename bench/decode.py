"""What a tick costs from bytes to a JSON line, and what it costs others: `python -m bench.decode`.

All is done in this process, on frames of the simulator's market, each frame by itself as if it had come alone:

    mds      as a worker does it: `split`, `Decoder.decode`, `encode_lines`
    json     the official client's own parser, and `json.JSONEncoder(default=str)`, made once: `json.dumps` with that
             option would make one for each tick, so that this favours the other side
    orjson   the same parser, and `orjson.dumps`
    copy     the lines that mds makes, copied to another place in memory, with one step of Python for each frame:
             nothing that produces them can be faster

What mds makes has besides the receive time, the numbers by which loss is proved, and line ends; the others are not
charged for theirs. They are timed in turn, round after round, by the CPU time of the process; figures are medians of
the rounds. The garbage collector is left as Python sets it; in a worker it runs more rarely. Before that the first
ticks of all three are compared, field for field and to the last bit: exit 1 where one differs.
"""

import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from itertools import chain
from typing import Any, NamedTuple

import click
import orjson
from kiteconnect import KiteTicker

from bench.rig import show
from bench.rig.floor import C_DECODE_ENCODE_US
from bench.rig.options import listed
from pipeline.config import Storage
from pipeline.days import NS_PER_S, Calendar
from pipeline.kite.packets import Decoder, split
from pipeline.records import Kind, Record
from pipeline.simulator.frames import FRAME_TICKS_MAX
from pipeline.simulator.market import INDEX_CODE, Market, tokens
from pipeline.ticks import StoredTick, encode_lines

MODES = ("quote", "full", "ltp")
PACKET_BYTES = {"quote": (44, 28), "full": (184, 32), "ltp": (8, 8)}  # of an instrument, of an index
TARGETS = {("quote", 100): 8.0, ("full", 100): 7.0}  # by mode and frame: times the CPU of KiteTicker + json.dumps
INSTRUMENTS = 3000  # as many as a connection has
CHECKED = 3000  # ticks of each case, so that every instrument is looked at
T0_S = 1_759_290_300  # 2025-10-01 09:15:00 +05:30
FRAME_NS = 50_000  # from one frame to the next
OURS_ONLY = ("timestamp", "connection_id", "epoch", "seq")
TIMES = ("last_trade_time", "exchange_timestamp")


class Side(NamedTuple):
    """Something that is timed: `work` done on each of `items`."""

    work: Callable[[Any], Any]
    items: Sequence[Any]


@click.command(context_settings={"max_content_width": 110, "show_default": True})
@click.option(
    "--frames",
    callback=listed(click.IntRange(1, FRAME_TICKS_MAX)),
    default="1,10,100,500",
    metavar="N,...",
    help="Ticks in a frame.",
)
@click.option(
    "--modes",
    callback=listed(click.Choice(MODES)),
    default=",".join(MODES),
    metavar="MODE,...",
    help="Modes of the ticks.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=7, metavar="N", help="How often all are timed.")
@click.option("--packets", type=click.IntRange(min=1), default=20_000, metavar="N", help="Ticks in one timing.")
@click.option("--indices", is_flag=True, help="With index packets among them, 3 or 4 of 100 as on the exchange.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    *, frames: tuple[int, ...], modes: tuple[str, ...], rounds: int, packets: int, indices: bool, as_json: bool
) -> None:
    """Time what makes JSON lines of Kite's packets: this project, and the official client with json and with orjson.

    Microseconds of CPU for a tick, side by side in one process. Exit 1 where the lines do not say the same.
    """
    cases = [(mode, frame_ticks) for mode in modes for frame_ticks in frames]
    found = []
    with click.progressbar(cases, label="decode", file=sys.stderr, width=30) as bar:
        for mode, frame_ticks in bar:
            records = made(mode, frame_ticks, packets, indices=indices)
            differing = difference(records[: -(-CHECKED // frame_ticks)])
            if differing:
                raise click.ClickException(f"{mode}, frames of {frame_ticks}: {differing}")
            found.append(figures(mode, frame_ticks, timed(sides(records), rounds), ticks_in(records)))
    told = {"rounds": rounds, "indices": indices, "kiteconnect": version("kiteconnect"), "cases": found}
    show.show(told, tables(found), as_json=as_json)


def made(mode: str, frame_ticks: int, packets: int, *, indices: bool) -> list[Record]:
    """Return frames of the simulator's market, as a worker spools them; `packets` in all, and at least one frame."""
    chosen = [token for token in tokens(INSTRUMENTS) if indices or token & 0xFF != INDEX_CODE]
    random.Random(1).shuffle(chosen)
    number = max(packets // frame_ticks, 1)
    market = Market(1)
    passes = -(-number * frame_ticks // len(chosen))
    trades = market.advance(market.rows(chosen, T0_S), passes, T0_S)
    sizes = [PACKET_BYTES[mode][token & 0xFF == INDEX_CODE] for token in chosen] * passes
    raw = [trade.tobytes()[:size] for trade, size in zip(trades, sizes, strict=True)]
    return [
        Record(
            Kind.FRAME,
            first_seq=first + 1,
            numbered=frame_ticks,
            recv_ns=T0_S * NS_PER_S + first // frame_ticks * FRAME_NS,
            payload=framed(raw[first : first + frame_ticks]),
        )
        for first in range(0, number * frame_ticks, frame_ticks)
    ]


def framed(packets: Sequence[bytes]) -> bytes:
    """Return Kite's message with these packets."""
    return b"".join([len(packets).to_bytes(2, "big"), *(len(p).to_bytes(2, "big") + p for p in packets)])


def ticks_in(records: Sequence[Record]) -> int:
    """Return how many ticks these frames have."""
    return sum(record.numbered for record in records)


def sides(records: Sequence[Record]) -> dict[str, Side]:
    """Return what is timed, by name; `decode` is the first part of `mds`."""
    decoder = Decoder(Calendar(Storage().timezone), 1, T0_S * 1000)
    parse = KiteTicker("key", "token")._parse_binary  # noqa: SLF001  it has no public one

    def decode(record: Record) -> list[StoredTick]:
        return decoder.decode(record.payload, split(record.payload), record.recv_ns, record.first_seq)

    def mds(record: Record) -> bytes:
        return encode_lines(decode(record))

    encoded = json.JSONEncoder(default=str).encode

    def by_json(record: Record) -> list[str]:
        return [encoded(tick) for tick in parse(record.payload)]

    def by_orjson(record: Record) -> list[bytes]:
        return [orjson.dumps(tick) for tick in parse(record.payload)]

    lines = [mds(record) for record in records]
    buffer = bytearray(max(map(len, lines)))

    def copy(text: bytes) -> None:
        buffer[: len(text)] = text

    timed_sides = {"mds": mds, "json": by_json, "orjson": by_orjson, "decode": decode}
    return {name: Side(work, records) for name, work in timed_sides.items()} | {"copy": Side(copy, lines)}


def difference(records: Sequence[Record]) -> str | None:
    """Return in what the lines of mds, json and orjson do not say the same, None where they do."""
    made_by = sides(records)
    ours: list[bytes] = list(chain.from_iterable(made_by["mds"].work(record).splitlines() for record in records))
    for name in ("json", "orjson"):
        theirs: list[Any] = list(chain.from_iterable(map(made_by[name].work, records)))
        if not len(ours) == len(theirs) == ticks_in(records):
            return f"{ticks_in(records)} packets, {len(ours)} lines of mds, {len(theirs)} of {name}"
        for our_line, their_line in zip(ours, theirs, strict=True):
            field = differing_field(our_line, their_line)
            if field is not None:
                return f"{field} is not the same in mds and {name}:\n{our_line!r}\n{their_line!r}"
    return None


def differing_field(ours: bytes | str, theirs: bytes | str) -> str | None:
    """Return the first field in which the official client's line differs from ours, None where they are one tick.

    Numbers are the same where type and every bit are. Times are where they are the same second; both say them in
    their own form, the client in local time.
    """
    left = {name: value for name, value in said(ours).items() if name not in OURS_ONLY}
    right = said(theirs)
    return next((name for name in sorted(left.keys() | right) if left.get(name) != right.get(name)), None)


def said(line: bytes | str) -> dict[str, str]:
    """Return the fields of a line as text that is the same only for what is equal in every bit; times in seconds."""
    tick = json.loads(line)
    for name in TIMES:
        if name in tick:
            tick[name] = unix_s(tick[name])
    return {name: json.dumps(value, sort_keys=True) for name, value in tick.items()}


def unix_s(text: str | None) -> float:
    """Return Unix seconds of a time with its offset, or of one without, in local time; 0, as on the wire, for none."""
    return 0.0 if text is None else datetime.fromisoformat(text).timestamp()


def timed(sides: Mapping[str, Side], rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds that each side takes in each round, one side after the other in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (work, items) in sides.items():
            gc.collect()  # what the one before has left
            began = time.process_time()
            for item in items:
                work(item)
            seconds[name].append(time.process_time() - began)
    return seconds


def figures(mode: str, frame_ticks: int, seconds: Mapping[str, Sequence[float]], ticks: int) -> dict[str, Any]:
    """Return what one kind of frame costs, as the JSON has it. Ratios and shares are of medians."""
    median = {name: statistics.median(rounds) / ticks * 1e6 for name, rounds in seconds.items()}
    best = {name: min(rounds) / ticks * 1e6 for name, rounds in seconds.items()}
    c_us = C_DECODE_ENCODE_US.get(mode)
    return {
        "mode": mode,
        "frame_ticks": frame_ticks,
        "ticks": ticks,
        "us_per_tick": {name: {"median": median[name], "best": best[name]} for name in seconds},
        "times_json": median["json"] / median["mds"],
        "times_json_target": TARGETS.get((mode, frame_ticks)),
        "times_orjson": median["orjson"] / median["mds"],
        "decode_share": median["decode"] / median["mds"],
        "encode_share": 1 - median["decode"] / median["mds"],
        "above_copy": median["mds"] / median["copy"],
        "c_us_not_of_this_run": c_us,
        "above_c": median["mds"] / c_us if c_us else None,
    }


def tables(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[list[str]]]]:
    """Return what is printed: what a tick costs each of them, and where mds spends it, above which floors."""
    costs, parts = [], []
    for case in found:
        us = {name: f"{figure['median']:.2f}" for name, figure in case["us_per_tick"].items()}
        best = f"{case['us_per_tick']['mds']['best']:.2f}"
        begin = [case["mode"], str(case["frame_ticks"])]
        target = f"{case['times_json_target']:.0f} x" if case["times_json_target"] else ""
        ratios = [f"{case['times_json']:.1f} x", target, f"{case['times_orjson']:.1f} x"]
        costs.append([*begin, us["mds"], best, us["json"], us["orjson"], *ratios])
        c_us, above_c = case["c_us_not_of_this_run"], case["above_c"]
        in_c = [f"{c_us:.2f}", f"{above_c:.1f} x"] if c_us else ["", ""]
        shares = [f"{case['decode_share']:.0%}", f"{case['encode_share']:.0%}"]
        parts.append(
            [*begin, *shares, f"{case['us_per_tick']['copy']['median']:.3f}", f"{case['above_copy']:.0f} x", *in_c]
        )
    us_columns = "mode|>frame|>mds us/tick|>best|>KiteTicker + json|>+ orjson|>json : mds|>to reach|>orjson : mds"
    return [
        (us_columns, costs),
        ("mode|>frame|>decode|>encode|>copy us/tick|>mds : copy|>C, elsewhere|>mds : C", parts),
    ]


if __name__ == "__main__":
    main()
