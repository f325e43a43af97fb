"""The highest rate that can be recorded without loss: `python -m bench.capacity`.

The simulator sends faster and faster, until the recorder does not get its ticks to disk in time. A rate counts as held
if for the whole time the simulator could send at it (at least 98 %), every tick was stored, once, no tick was seen to
wait for more than half a second, and the files were complete half a second after the last one was sent. What the
pipeline has stored at the rate that is shown was compared with what was sent, tick for tick; what the baseline has
stored is only counted. Simulator and recorder share the machine: what the simulator takes of it is shown.

How long ticks wait is not measured alike. The pipeline's workers say twice a second how old the oldest tick is that
they have received and that is not durable. Of the baseline what was sent is compared with what stands in its files, so
that what waits in the buffers of the sockets counts as well: it is judged more strictly.

What the baseline is says `bench.rig.baseline_program`; the floor, and what of it is assumed, `bench.rig.floor`.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from bench.rig.floor import Floor, measured_floor
from bench.rig.highest import Highest, highest_rates
from bench.rig.search import ladder
from bench.rig.show import note, show
from bench.rig.simulator import RATE_MAX
from bench.rig.trial import MODES, Feed, require_room
from bench.rig.workplace import workplace

TARGETS = {"quote": 400_000, "full": 150_000}  # ticks a second, on two cores
TARGET_TIMES = 5.0  # the baseline's highest rate
NOTHING = ("nothing", "", "the last rate that was to be tried was held")
RATE = click.IntRange(1, RATE_MAX)

Row = tuple[str, ...]


@click.command(context_settings={"show_default": True})
@click.option(
    "--mode", default="both", type=click.Choice(list(MODES)), help="Mode of the ticks; both: one after the other."
)
@click.option(
    "--hold",
    "hold_s",
    default=20.0,
    type=click.FloatRange(min=1),
    metavar="S",
    help="Seconds for which a rate must be held.",
)
@click.option(
    "--from",
    "lowest",
    default=20_000,
    type=click.IntRange(1, RATE_MAX),
    metavar="N",
    help="First rate, in ticks a second.",
)
@click.option(
    "--to",
    "highest",
    default=RATE_MAX,
    type=click.IntRange(1, RATE_MAX),
    metavar="N",
    help="No rate above that is tried.",
)
@click.option("--frame-ticks", default=100, type=click.IntRange(1, 3000), metavar="N", help="Ticks in one message.")
@click.option("--instruments", default=6000, type=click.IntRange(1), metavar="N", help="How many, in all.")
@click.option(
    "--connections", default=2, type=click.IntRange(1, 2), metavar="N", help="How many share the instruments."
)
@click.option(
    "--baseline/--no-baseline", "has_baseline", default=True, help="Look for the baseline's highest rate, too."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    *,
    mode: str,
    hold_s: float,
    lowest: int,
    highest: int,
    frame_ticks: int,
    instruments: int,
    connections: int,
    has_baseline: bool,
    as_json: bool,
) -> None:
    """Find the highest rate that is recorded without loss, and what is the limit.

    Both modes with the baseline take ten minutes and up to 12 GB in the temporary folder; TMPDIR says where.
    Exits with 1 where not even the first rate was held, or what was stored is not what was sent.
    """
    if lowest > highest:
        raise click.BadParameter(f"--from {lowest} is above --to {highest}")
    feeds = [Feed(each, instruments, connections, frame_ticks) for each in MODES[mode]]
    recorders = ("pipeline", "baseline") if has_baseline else ("pipeline",)
    require_room(MODES[mode], highest, hold_s)
    figures: dict[str, Any] = {}
    tables: list[tuple[str, Sequence[Row]]] = []
    with workplace() as folder:
        for feed in feeds:
            found = highest_rates(folder, recorders, feed, ladder(lowest, highest), hold_s)
            held = found["pipeline"].held
            floor = measured_floor(folder, feed.mode, held.line_bytes, frame_ticks) if held else None
            figures[feed.mode] = figures_of(found, feed, floor)
            tables += tables_of(figures[feed.mode], feed.mode)
    about = {"hold_s": hold_s, "instruments": instruments, "connections": connections, "frame_ticks": frame_ticks}
    show(about | {"modes": figures}, tables, as_json=as_json)
    if any(side["ticks_per_s"] == 0 for each in figures.values() for name, side in each.items() if name in recorders):
        note(f"not even {lowest:,} ticks/s were held for {hold_s:g} s")
        sys.exit(1)


def figures_of(found: Mapping[str, Highest], feed: Feed, floor: Floor | None) -> dict[str, Any]:
    """Return what was found in one mode, for JSON."""
    figures: dict[str, Any] = {name: each.figures(feed, os.cpu_count() or 1) for name, each in found.items()}
    ours = figures["pipeline"]
    ours["target_ticks_per_s"] = TARGETS[feed.mode]
    if all(each.rate for each in found.values()) and "baseline" in found:
        figures["times_the_baseline"] = round(found["pipeline"].rate / found["baseline"].rate, 2)
        figures["target_times"] = TARGET_TIMES
    if floor is not None:
        figures["floor"] = {
            "transport_us_per_tick": round(floor.transport_us, 3),
            "decode_encode_us_per_tick": floor.decode_encode_us,
            "us_per_tick": round(floor.us, 3),
            "pipeline_times_the_floor": round(ours["us_per_tick"] / floor.us, 2),
        }
    return figures


def tables_of(figures: Mapping[str, Any], mode: str) -> list[tuple[str, Sequence[Row]]]:
    """Return the same as tables."""
    names = [name for name in ("pipeline", "baseline") if name in figures]
    columns = "|".join([mode, *(f">{name}" for name in names), ">target"])

    def row(label: str, key: str, form: str, target: str = "") -> Row:
        return (label, *(format(figures[name][key], form) if key in figures[name] else "-" for name in names), target)

    rows = [
        row("highest rate held, ticks/s", "ticks_per_s", ",", f"{TARGETS[mode]:,}"),
        row("to disk, MB/s", "mb_per_s", ",.1f"),
        row("CPU a tick, us", "us_per_tick", ".2f"),
        row("seen to wait at most, s", "behind_s", ".2f"),
        row("complete after, s", "drain_s", ".2f"),
        row("cores of the machine that were busy", "busy_cores", ".2f"),
    ]
    if "times_the_baseline" in figures:
        times = (f"{figures['times_the_baseline']:.1f} x", "1.0 x", f"{TARGET_TIMES} x")
        rows.insert(1, ("the baseline's highest rate", *times))
    if "floor" in figures:
        floor = figures["floor"]
        blank = ("",) * (len(names) - 1)
        transport, decode = floor["transport_us_per_tick"], floor["decode_encode_us_per_tick"]
        rows += [
            ("floor, us a tick: ZeroMQ and write, measured", f"{transport:.2f}", *blank, ""),
            ("  decoding and encoding in C, assumed", f"{decode:.2f}", *blank, ""),
            ("CPU a tick, of the floor", f"{floor['pipeline_times_the_floor']:.1f} x", *blank, ""),
        ]
    roles = [
        (name, role, f"{each['us_per_tick']:.2f}", f"{each['share_of_a_core']:.0%}")
        for name in names
        for role, each in figures[name].get("roles", {}).items()
    ]
    limits: list[Row] = []
    for name in names:
        if "not_held" in (side := figures[name]):
            limits += [
                (name, f"{side['not_held']['ticks_per_s']:,}", side["not_held"]["why"]),
                ("", "", f"limit: {side['limit']}"),
            ]
    return [
        (columns, rows),
        ("at that rate|process|>CPU a tick, us|>of a core", roles),
        ("not held|>ticks/s|why", limits or [NOTHING]),
    ]


if __name__ == "__main__":
    main()
