"""What a tick costs against what was varied, as PNG files."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

INCHES, DPI = (10.0, 5.6), 200  # shown 1,000 pixels wide the text is as large as on a page
FRAME = (0.09, 0.125, 0.77, 0.70)  # left, bottom, width and height of the axes in the picture
TITLE_LEFT = 0.02
LABEL_STEP = 0.048  # of the axes' height: the names of lines do not come closer to each other
HEADROOM = 1.15  # times the highest point
INK, GREY, PALE = "#222222", "#666666", "#e4e4e4"
COLOURS = (INK, "#0072b2", "#d55e00", "#009e73", "#8a8a8a")  # the colour-blind can tell them (Okabe and Ito)


def draw(
    file: Path,
    *,
    title: str,
    subtitle: str,
    x: tuple[str, Sequence[float]],
    lines: Mapping[str, Sequence[float]],
    spread: Sequence[tuple[float, float]],
    is_log: bool = False,
) -> None:
    """Draw microseconds of a tick against `x`, its name and values.

    There are up to five lines, each named at its end; the first one stands out, and `spread` is its least and most at
    each value.
    """
    what, values = x
    lowest = min((height for heights in lines.values() for height in heights if height > 0), default=1.0)
    top = max(most for _, most in spread) * HEADROOM
    figure = Figure(figsize=INCHES, dpi=DPI)
    axes = figure.add_axes(FRAME)
    if is_log:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.set_ylim(lowest / HEADROOM if is_log else 0, top)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(values, [short(value) for value in values])
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(colors=GREY, length=0, labelsize=10)
    axes.set_xlabel(what, color=GREY, fontsize=10)
    axes.set_ylabel("CPU for a tick, \N{GREEK SMALL LETTER MU}s", color=GREY, fontsize=10)

    ends = [
        axes.transAxes.inverted().transform(axes.transData.transform((values[-1], heights[-1])))[1]
        for heights in lines.values()
    ]
    for (name, heights), colour, place in zip(lines.items(), COLOURS, spread_out(ends, LABEL_STEP), strict=False):
        is_first = colour == INK
        axes.plot(values, heights, color=colour, linewidth=2.4 if is_first else 1.5, marker="o", markersize=4)
        axes.annotate(
            f"{name}  {short(heights[-1])}",
            (1, place),
            xycoords="axes fraction",
            xytext=(-8, 0),
            textcoords="offset points",
            color=colour,
            fontsize=11,
            fontweight="bold" if is_first else "normal",
            verticalalignment="center",
        )
    axes.vlines(values, *zip(*spread, strict=True), color=INK, linewidth=1.2)
    figure.text(TITLE_LEFT, 0.945, title, fontsize=15, fontweight="bold", color=INK, verticalalignment="center")
    figure.text(TITLE_LEFT, 0.885, subtitle, fontsize=11, color=GREY, verticalalignment="center")
    figure.savefig(file)


def spread_out(places: Sequence[float], step: float) -> list[float]:
    """Return the places moved up as little as makes any two of them at least `step` apart; their order stays."""
    moved = list(places)
    below = -math.inf
    for number in sorted(range(len(places)), key=lambda number: places[number]):
        moved[number] = below = max(places[number], below + step)
    return moved


def short(value: float) -> str:
    """Return a number as it is said: below 10 with two digits, else with its first three."""
    if value < 10:
        return f"{value:.2g}"
    return f"{round(value, min(2 - math.floor(math.log10(value)), 0)):,.0f}"
