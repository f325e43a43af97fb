"""What a tick costs the recorder with few and with many instruments, at low and at high rates: `python -m bench.scale`.

A point is a number of instruments and a rate. For each, in each round, simulator and recorder are started anew, in a
folder of their own that is deleted afterwards; connections 1 and 2 share instruments and rate. The rounds go over the
points forwards and backwards in turn, so that a machine that is slower for a while is not taken for a trend. What is
shown of a point is the round whose cost is the middle one, whole, and beside it the least and the most of all rounds.

Cost is the CPU time of all processes of the recorder, without the simulator's, from the first tick until all are
stored. It has in it what the processes use even without ticks, which at low rates is most of it. With `--frame-ticks
0`, as on the exchange, higher rates bring larger frames. It ends with 1 at the first point where not all is stored.
"""

import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import click

from bench.rig import plots, show
from bench.rig.options import listed
from bench.rig.points import PARTS, Cost, Point, Run, cost_of, visits
from bench.rig.recorder import ROLES, Pipeline, silence
from bench.rig.simulator import MODES, RATE_MAX, Simulator, plan
from bench.rig.stretch import stretch
from bench.rig.usage import MemoryWatch
from bench.rig.workplace import workplace
from pipeline.config import MAX_INSTRUMENTS
from pipeline.simulator.frames import FRAME_TICKS_MAX

RATE = 20_000  # ticks a second, at which the numbers of instruments are compared
INSTRUMENTS = 3000  # with which the rates are compared
CONNECTIONS = 2
WARM_UP_S = 1.0  # at RATE: what Python does once only, it has done then
MOST_TO_FEWEST_MAX = 1.2  # to reach, of the cost with 6,000 instruments to that with 90
IDLE_MAX = 0.02  # to reach, of one core
MEMORY_MAX_MB = 400.0  # to reach, with 6,000 instruments
US = "\N{GREEK SMALL LETTER MU}s"
BARS = "bars: least and most of all rounds"


@click.command(context_settings={"max_content_width": 110, "show_default": True})
@click.option(
    "--instruments",
    callback=listed(click.IntRange(1, CONNECTIONS * MAX_INSTRUMENTS)),
    default="90,900,3000,6000",
    metavar="N,...",
    help=f"How many, at {RATE:,} ticks/s.",
)
@click.option(
    "--rates",
    callback=listed(click.IntRange(1, CONNECTIONS * RATE_MAX)),
    default="1000,10000,50000,100000,200000",
    metavar="N,...",
    help=f"Ticks a second in all, with {INSTRUMENTS:,} instruments.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.5), default=10.0, metavar="S", help="Seconds of a point in each round."
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, metavar="N", help="How often each is measured.")
@click.option("--mode", type=click.Choice(list(MODES)), default="quote", help="Mode of the ticks.")
@click.option(
    "--frame-ticks",
    type=click.IntRange(0, FRAME_TICKS_MAX),
    default=0,
    metavar="N",
    help="Ticks in a frame; 0: what ten milliseconds bring.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="bench/plots",
    metavar="FOLDER",
    help="For the pictures; made if it is not there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    *,
    instruments: tuple[int, ...],
    rates: tuple[int, ...],
    seconds: float,
    rounds: int,
    mode: str,
    frame_ticks: int,
    out: Path,
    as_json: bool,
) -> None:
    """Measure what a tick costs with few and with many instruments, at low and at high rates, and without any ticks.

    Prints tables, and draws the cost against instruments and against the rate. With the defaults it takes about seven
    minutes, and up to 2 GB in the temporary folder (TMPDIR). Exit 1 at the first point where a tick is not stored.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(f"{out}: {error.strerror}", param_hint="--out") from None
    idle = Point(max(instruments), 0)
    runs: dict[Point, list[Run]] = defaultdict(list)
    points = [*(Point(n, RATE) for n in instruments), *(Point(INSTRUMENTS, rate) for rate in rates), idle]
    with (
        workplace() as folder,
        click.progressbar(
            visits(points, rounds), label="scale", file=sys.stderr, width=30, show_pos=True, item_show_func=named
        ) as bar,
    ):
        for point in bar:
            runs[point].append(measured(point, mode, frame_ticks, seconds, folder))
    costs = {point: cost_of(point, found) for point, found in runs.items()}
    by_instruments = [costs[Point(n, RATE)] for n in sorted(instruments)]
    by_rate = [costs[Point(INSTRUMENTS, rate)] for rate in sorted(rates)]
    pictures = drawn(out, by_instruments, by_rate, mode)
    told = {
        "mode": mode,
        "frame_ticks": frame_ticks,
        "seconds": seconds,
        "rounds": rounds,
        "points": [cost.as_dict() for cost in costs.values()],
        "most_to_fewest": by_instruments[-1].total_us / by_instruments[0].total_us,
        "idle_share": costs[idle].total_share,
        "pictures": [str(picture) for picture in pictures],
    }
    show.show(told, tables(by_instruments, by_rate, costs[idle]), as_json=as_json)
    for picture in pictures:
        show.note(f"drawn: {picture}")


def named(point: Point | None) -> str | None:
    """Return what the progress bar says of a point; there is none at its end."""
    return None if point is None else str(point)


def measured(point: Point, mode: str, frame_ticks: int, seconds: float, folder: Path) -> Run:
    """Record a point once. Raises AssertionError where the recorder loses something, or does not live as long."""
    connections = min(CONNECTIONS, point.instruments)
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        Simulator(Path(name), frame_ticks=frame_ticks, instruments=point.instruments) as simulator,
    ):
        recorder = Pipeline(Path(name), simulator, plan(simulator.tokens(), connections, mode))
        try:
            silence(simulator, recorder, connections)  # what comes with the subscription
            stretch(simulator, recorder, rate=RATE, connections=connections, seconds=WARM_UP_S, asks_lag=False)
            check_stored(point, simulator.sent, recorder)
            pids = recorder.pids
            with MemoryWatch(lambda: pids) as memory:
                found = stretch(
                    simulator, recorder, rate=point.rate, connections=connections, seconds=seconds, asks_lag=False
                )
            gone = [role for role in ROLES if role not in found.cpu_s or recorder.pids.get(role) != pids[role]]
            assert not gone, f"{', '.join(gone)} died with {point}: its cost is not known"
            check_stored(point, simulator.sent, recorder)
            assert found.sent or not point.rate, f"{point}: nothing was sent in {seconds} s; try more --seconds"
            recorder.stop()
        finally:
            recorder.kill()
    return Run(found, memory.total_peak_mb)


def check_stored(point: Point, sent: int, recorder: Pipeline) -> None:
    """Raise AssertionError where more or less is stored than was sent: its cost would say nothing."""
    stored = recorder.lines()
    if stored != sent:
        state = recorder.status()["storage"]["state"]
        raise AssertionError(f"{point}: {sent:,} ticks were sent, {stored:,} are stored; storage is {state}")


def tables(by_instruments: Sequence[Cost], by_rate: Sequence[Cost], idle: Cost) -> list[tuple[str, list[list[str]]]]:
    """Return what is printed."""
    parts = "|".join(f">{part}" for part in PARTS)
    return [
        (
            f">instruments, {RATE:,}/s|>us/tick|>least|>most|{parts}|>memory MB",
            [[f"{c.point.instruments:,}", *us_cells(c), f"{c.memory_mb:.0f}"] for c in by_instruments],
        ),
        (
            f">ticks/s, {INSTRUMENTS:,} instruments|>us/tick|>least|>most|{parts}|>of a core",
            [[f"{c.rate:,.0f}", *us_cells(c), f"{c.total_share:.1%}"] for c in by_rate],
        ),
        ("|>measured|>to reach", reached(by_instruments, idle)),
    ]


def us_cells(cost: Cost) -> list[str]:
    """Return what a tick costs, as cells of a table."""
    return [f"{us:.2f}" for us in (cost.total_us, cost.least_us, cost.most_us, *cost.us.values())]


def reached(by_instruments: Sequence[Cost], idle: Cost) -> list[list[str]]:
    """Return the rows of what was to be reached."""
    fewest, most = by_instruments[0], by_instruments[-1]
    ratio = f"{most.total_us / fewest.total_us:.2f} x"
    rows = [
        [
            f"a tick with {most.point.instruments:,} instruments, to {fewest.point.instruments:,}",
            ratio,
            f"{MOST_TO_FEWEST_MAX} x",
        ],
        [f"idle with {idle.point.instruments:,} instruments, of a core", f"{idle.total_share:.2%}", f"{IDLE_MAX:.0%}"],
        [f"memory with {most.point.instruments:,} instruments", f"{most.memory_mb:.0f} MB", f"{MEMORY_MAX_MB:.0f} MB"],
    ]
    return rows[fewest is most :]


def drawn(out: Path, by_instruments: Sequence[Cost], by_rate: Sequence[Cost], mode: str) -> list[Path]:
    """Draw the cost against instruments and against the rate; return the files."""
    fewest, most, slowest, fastest = by_instruments[0], by_instruments[-1], by_rate[0], by_rate[-1]
    instruments, rate = out / "scale-instruments.png", out / "scale-rate.png"
    plots.draw(
        instruments,
        title=f"A tick costs {plots.short(most.total_us)} {US} with {most.point.instruments:,} instruments,"
        f" {plots.short(fewest.total_us)} {US} with {fewest.point.instruments:,}",
        subtitle=f"{mode} ticks, {RATE:,} a second over two connections; {BARS}",
        x=("instruments", [c.point.instruments for c in by_instruments]),
        lines=lines_of(by_instruments),
        spread=[(c.least_us, c.most_us) for c in by_instruments],
    )
    plots.draw(
        rate,
        title=f"A tick costs {plots.short(fastest.total_us)} {US} at {plots.short(fastest.rate)} a second,"
        f" {plots.short(slowest.total_us)} {US} at {plots.short(slowest.rate)}",
        subtitle=f"{mode} ticks of {INSTRUMENTS:,} instruments over two connections, logarithmic scales; {BARS}",
        x=("ticks a second", [c.rate for c in by_rate]),
        lines=lines_of(by_rate),
        spread=[(c.least_us, c.most_us) for c in by_rate],
        is_log=True,
    )
    return [instruments, rate]


def lines_of(costs: Sequence[Cost]) -> dict[str, list[float]]:
    """Return what is drawn: the whole, and its parts."""
    return {"all": [c.total_us for c in costs], **{part: [c.us[part] for c in costs] for part in PARTS}}


if __name__ == "__main__":
    main()
