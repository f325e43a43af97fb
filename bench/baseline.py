"""This project against today's recorder, on the same feed in one run: `python -m bench.baseline`.

The baseline is the design that people use before they have this project, see `bench.rig.baseline_program`. Both are
flooded in turn, several times over: the simulator sends as much as they take, and the CPU time of all their processes,
until everything is on disk, is divided by the ticks. For the pipeline that has spool and fdatasync in it, which the
baseline does without. Of what is stored in a flood the ticks are counted, and not looked at. Then the highest rate that
each holds is looked for, as `bench.capacity` does.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bench.rig.highest import Highest, costs, highest_rates
from bench.rig.search import ladder
from bench.rig.show import note, show
from bench.rig.simulator import RATE_MAX, Simulator
from bench.rig.trial import MODES, RECORDERS, Feed, Trial, require_room, run_trial
from bench.rig.workplace import workplace

CONNECTIONS = 2
FLOOD = CONNECTIONS * RATE_MAX  # ticks a second: more than anybody takes
LOWEST = 20_000  # ticks a second, from where the highest rate is looked for
TARGET_TIMES = 3.5  # less CPU

Row = tuple[str, ...]


@click.command(context_settings={"show_default": True})
@click.option(
    "--mode", default="both", type=click.Choice(list(MODES)), help="Mode of the ticks; both: one after the other."
)
@click.option("--frame-ticks", default=100, type=click.IntRange(1, 3000), metavar="N", help="Ticks in one message.")
@click.option(
    "--instruments", default=3000, type=click.IntRange(1), metavar="N", help="How many, in all, on two connections."
)
@click.option(
    "--seconds",
    default=10.0,
    type=click.FloatRange(1),
    metavar="S",
    help="Seconds of each flood, and for which a rate must be held.",
)
@click.option("--rounds", default=3, type=click.IntRange(1), metavar="N", help="How often each is flooded.")
@click.option("--to", "highest", default=RATE_MAX, type=click.IntRange(LOWEST), metavar="N", help="Last rate tried.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    *, mode: str, frame_ticks: int, instruments: int, seconds: float, rounds: int, highest: int, as_json: bool
) -> None:
    """Compare what a tick costs the pipeline and the baseline, and how many ticks a second each holds.

    Takes ten minutes and up to 7 GB in the temporary folder; TMPDIR says where that is. Exits with 1 where a tick was
    lost, or not even 20,000 ticks/s were held.
    """
    feeds = [Feed(each, instruments, CONNECTIONS, frame_ticks) for each in MODES[mode]]
    require_room(MODES[mode], FLOOD, seconds)
    figures: dict[str, Any] = {}
    with workplace() as folder:
        for feed in feeds:
            floods = flooded(folder, feed, seconds, rounds)
            found = highest_rates(folder, list(RECORDERS), feed, ladder(LOWEST, highest), seconds)
            figures[feed.mode] = compared(floods, found, feed)
    about = {"seconds": seconds, "rounds": rounds, "instruments": instruments, "frame_ticks": frame_ticks}
    tables = [table for each, found in figures.items() for table in tables_of(found, each)]
    show(about | {"connections": CONNECTIONS, "modes": figures}, tables, as_json=as_json)
    if wrong := list(complaints(figures, seconds)):
        note("\n".join(wrong))
        sys.exit(1)


def flooded(folder: Path, feed: Feed, seconds: float, rounds: int) -> dict[str, list[Trial]]:
    """Let both record as much as they take, in turn."""
    trials: dict[str, list[Trial]] = {name: [] for name in RECORDERS}
    for number in range(1, rounds + 1):
        for name, done in trials.items():
            done.append(run_trial(folder, name, feed, FLOOD, seconds))
            cost = done[-1].stretch.us_per_tick()
            note(f"{feed.mode}, {name}, flood {number} of {rounds}: {cost:.2f} us a tick")
    return trials


def compared(floods: Mapping[str, Sequence[Trial]], found: Mapping[str, Highest], feed: Feed) -> dict[str, Any]:
    """Return what was found in one mode, for JSON. Of the floods that is the middle one, by CPU a tick."""
    costly = {name: sorted(trials, key=lambda trial: trial.stretch.us_per_tick()) for name, trials in floods.items()}
    middle = {name: trials[(len(trials) - 1) // 2] for name, trials in costly.items()}
    figures = {
        "flooded": {
            name: costs(trial)
            | {
                "ticks_per_s": round(trial.stretch.sent_per_s),
                "us_per_tick_of_rounds": [round(each.stretch.us_per_tick(), 3) for each in floods[name]],
                "lost": sum(each.stretch.lost for each in floods[name]),
                "repeated": sum(max(each.stretch.stored - each.stretch.sent, 0) for each in floods[name]),
            }
            for name, trial in middle.items()
        },
        "highest": {name: each.figures(feed, os.cpu_count() or 1) for name, each in found.items()},
        "times_less_cpu": round(middle["baseline"].stretch.us_per_tick() / middle["pipeline"].stretch.us_per_tick(), 2),
        "target_times_less_cpu": TARGET_TIMES,
    }
    if all(each.rate for each in found.values()):
        figures["times_the_rate"] = round(found["pipeline"].rate / found["baseline"].rate, 2)
    return figures


def complaints(figures: Mapping[str, Any], seconds: float) -> Iterator[str]:
    """Yield what went wrong, a line each."""
    for mode, sides in figures.items():
        for name in RECORDERS:
            for what in ("lost", "repeated"):
                if ticks := sides["flooded"][name][what]:
                    yield f"{mode}, {name}: {ticks:,} ticks {what} in the floods"
            if not sides["highest"][name]["ticks_per_s"]:
                yield f"{mode}, {name}: not even {LOWEST:,} ticks/s were held for {seconds:g} s"


def tables_of(figures: Mapping[str, Any], mode: str) -> list[tuple[str, Sequence[Row]]]:
    """Return the same as tables."""
    flood, highest = figures["flooded"], figures["highest"]
    names = ("baseline", "pipeline")
    parts = [
        (f"  {role}", "", f"{cost['us_per_tick']:.2f}", "", "")
        for role, cost in flood["pipeline"]["roles"].items()
        if role != Simulator.role
    ]
    rows = [
        (
            "CPU a tick when flooded, us",
            *(f"{flood[name]['us_per_tick']:.2f}" for name in names),
            f"{figures['times_less_cpu']:.1f} x less",
            f"{TARGET_TIMES} x",
        ),
        *parts,
        (
            "highest rate held, ticks/s",
            *(f"{highest[name]['ticks_per_s']:,}" for name in names),
            f"{figures['times_the_rate']:.1f} x" if "times_the_rate" in figures else "",
            "",
        ),
    ]
    limits = [(name, side.get("limit", "nothing that was tried")) for name, side in highest.items()]
    return [(f"{mode}|>baseline|>pipeline|>ratio|>target", rows), ("recorder|what keeps it from more", limits)]


if __name__ == "__main__":
    main()
