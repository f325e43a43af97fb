"""The charts of a report, as plotly's JSON: `data` and `layout`, without colours. Pure.

A colour stands as the name of a CSS variable, `--one`: the page puts in what it is in the reader's scheme, light or
dark.
Times are milliseconds as if the storage time zone were UTC, because plotly knows no other.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, TypeAlias
from zoneinfo import ZoneInfo

import polars as pl

from pipeline.store import analysis
from pipeline.store.completeness.completeness import US_PER_S, Day
from pipeline.store.completeness.spans import Span, overlap
from pipeline.store.completeness.timeline import Interval
from pipeline.store.completeness.words import duration
from pipeline.store.report.figures import LATENCY_STEP_MS, Figures, Price

BARS: Final = 15  # instruments in a bar chart
INTERVALS: Final = 600  # drawn, the longest
SHADES: Final = 100  # behind the lines, of interruptions and failovers, the longest
COLOURS: Final = {1: "--one", 2: "--two", 3: "--three"}

Chart: TypeAlias = dict[str, Any]
Label: TypeAlias = Callable[[int], str]

_TIME: Final = "%{x|%H:%M:%S}"
# What a connection does, by pattern as well as by colour: the two are told apart by whoever sees no colours.
_STATES: Final = {
    "live": ("records its own", "--live", ""),
    "failover": ("carries another's", "--failover", "/"),
    "mirror": ("mirrors another", "--mirror", "."),
    "down": ("interrupted", "--down", "x"),
    "idle": ("nothing to record", "--idle", ""),
}


def rates(figures: Figures, days: Sequence[Day], drawn: Span, zone: ZoneInfo) -> Chart:
    """Return ticks a second of each connection, and below what each was doing, on the same time axis."""
    lines = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"connection {number}",
            "x": _times(of["time"]),
            "y": of["rate"].round(1).to_list(),
            "line": {"width": 1.5, "color": COLOURS[number], "dash": {1: "solid", 2: "dash", 3: "dot"}[number]},
            "hovertemplate": f"{_TIME}<br>%{{y:,.0f}} ticks/s<extra>connection {number}</extra>",
        }
        for (number,), of in figures.rates.partition_by("connection_id", as_dict=True).items()
    ]
    shown = _shown(days, drawn)
    return {
        "data": [*lines, *_bars(shown, zone)],
        "layout": {
            "height": 440,
            "xaxis": _time_axis(drawn, zone) | {"anchor": "y2"},
            "yaxis": {
                "title": {"text": "ticks a second"},
                "domain": [0.36, 1],
                "rangemode": "tozero",
                "tickformat": ",",
            },
            "yaxis2": {
                "domain": [0, 0.26],
                "tickvals": list(COLOURS),
                "ticktext": [f"conn. {number}" for number in COLOURS],
                "range": [max(COLOURS) + 0.6, 0.4],
                "fixedrange": True,
                "showgrid": False,
            },
            "barmode": "overlay",
            "shapes": _shades(shown, zone),
        },
    }


def _shown(days: Sequence[Day], drawn: Span) -> list[Interval]:
    """Return what the connections did meanwhile, without what is too short where there is too much of it."""
    found = [
        replace(one, begin=max(one.begin, drawn[0]), end=min(one.end, drawn[1]))
        for day in days
        for some in day.connections.values()
        for one in some
        if overlap((one.begin, one.end), drawn)
    ]
    longest = sorted(found, key=lambda one: (one.state == "idle", one.begin - one.end))[:INTERVALS]
    return sorted(longest, key=lambda one: (one.connection_id, one.begin))


def _bars(shown: Sequence[Interval], zone: ZoneInfo) -> list[Chart]:
    bars = []
    for state, (name, colour, pattern) in _STATES.items():
        some = [one for one in shown if one.state == state]
        if some:
            bars.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": name,
                    "yaxis": "y2",
                    "y": [one.connection_id for one in some],
                    "base": [_wall_ms(one.begin, zone) for one in some],
                    "x": [(one.end - one.begin) / 1000 for one in some],
                    "width": 0.7,
                    "customdata": [_told(one) for one in some],
                    "marker": {
                        "color": colour,
                        "line": {"color": colour, "width": 1 if state in ("down", "failover") else 0},
                        "pattern": {
                            "shape": pattern,
                            "bgcolor": colour,
                            "fgcolor": "--ground",
                            "size": 6,
                            "solidity": 0.25,
                        },
                    },
                    "hovertemplate": f"%{{base|%H:%M:%S.%L}}, %{{customdata}}<extra>connection %{{y}}: {name}</extra>",
                }
            )
    return bars


def _told(interval: Interval) -> str:
    lasted = duration(interval.end - interval.begin)
    return f"{lasted}: {_plain(interval.cause)}" if interval.cause else lasted


def _shades(shown: Sequence[Interval], zone: ZoneInfo) -> list[Chart]:
    marked = sorted((one for one in shown if one.state in ("down", "failover")), key=lambda one: one.begin - one.end)
    return [
        {
            "type": "rect",
            "xref": "x",
            "yref": "y domain",
            "x0": _wall_ms(one.begin, zone),
            "x1": _wall_ms(one.end, zone),
            "y0": 0,
            "y1": 1,
            "layer": "below",
            "fillcolor": "--down" if one.state == "down" else "--failover",
            "opacity": 0.25,
            "line": {"width": 1, "color": "--down" if one.state == "down" else "--failover"},
        }
        for one in marked[:SHADES]
    ]


def latency(figures: Figures, drawn: Span, zone: ZoneInfo) -> Chart:
    """Return quantiles of the receive latency over time."""
    dashes = {"p50": "solid", "p95": "dash", "p99": "dot"}
    colours = dict(zip(dashes, COLOURS.values(), strict=True))
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": _times(figures.latency["time"]),
                "y": figures.latency[name].to_list(),
                "line": {"width": 1.5, "color": colours[name], "dash": dash},
                "hovertemplate": f"{_TIME}<br>%{{y:,.0f}} ms<extra>{name}</extra>",
            }
            for name, dash in dashes.items()
        ],
        "layout": {
            "height": 300,
            "xaxis": _time_axis(drawn, zone),
            "yaxis": {"title": {"text": "ms"}, "rangemode": "tozero", "tickformat": ","},
        },
    }


def latencies(figures: Figures) -> Chart:
    """Return how many ticks had which receive latency."""
    return {
        "data": [
            {
                "type": "bar",
                "name": "ticks",
                "x": [ms + LATENCY_STEP_MS / 2 for ms in figures.latencies["ms"]],
                "y": figures.latencies["ticks"].to_list(),
                "width": LATENCY_STEP_MS,
                "marker": {"color": "--one"},
                "hovertemplate": "%{x:,.0f} ms<br>%{y:,} ticks<extra></extra>",
            }
        ],
        "layout": {
            "height": 300,
            "bargap": 0,
            "xaxis": {"title": {"text": "ms from the exchange's second to receiving"}, "tickformat": ","},
            "yaxis": {"title": {"text": "ticks"}, "tickformat": ",~s"},
        },
    }


def busiest(instruments: pl.DataFrame, label: Label) -> Chart:
    """Return the instruments with the most ticks."""
    some = analysis.busiest(instruments, BARS)
    return _ranking(map(label, some["instrument_token"]), some["ticks"].to_list(), "ticks", "--one", "%{x:,} ticks")


def most_silent(instruments: pl.DataFrame, label: Label) -> Chart:
    """Return the instruments with the longest time without a tick, by `quiet`."""
    some = instruments.sort("quiet", "instrument_token", descending=[True, False]).head(BARS)
    seconds = some["quiet"].round(3).to_list()
    return _ranking(map(label, some["instrument_token"]), seconds, "seconds", "--two", "%{x:,} s")


def _ranking(names: Iterable[str], values: list[Any], unit: str, colour: str, hover: str) -> Chart:
    labels = [_plain(name) for name in names]
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": unit,
                "x": values,
                "y": labels,
                "marker": {"color": colour},
                "hovertemplate": f"{hover}<extra>%{{y}}</extra>",
            }
        ],
        "layout": {
            "height": 90 + 24 * len(values),
            "showlegend": False,
            "xaxis": {"title": {"text": unit}, "tickformat": ",.6~r", "rangemode": "tozero", "nticks": 5},
            "yaxis": {"type": "category", "autorange": "reversed", "automargin": True, "ticksuffix": " "},
        },
    }


def price(of: Price, drawn: Span, zone: ZoneInfo) -> Chart:
    """Return price and spread of an instrument on one time axis."""
    has_spread = of.spread.height > 0
    lines = [("price", of.price, "y", "--one"), ("spread", of.spread, "y2", "--two")]
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines" if points.height > 1 else "markers",
                "name": name,
                "x": _times(points["timestamp"]),
                "y": points["value"].to_list(),
                "yaxis": axis,
                "line": {"width": 1.5, "color": colour},
                "marker": {"color": colour},
                "hovertemplate": f"{_TIME}<br>%{{y:,.2f}}<extra>{name}</extra>",
            }
            for name, points, axis, colour in lines[: 1 + has_spread]
        ],
        "layout": {
            "height": 380 if has_spread else 280,
            "showlegend": False,
            "xaxis": _time_axis(drawn, zone) | {"anchor": "y2" if has_spread else "y"},
            "yaxis": {"title": {"text": "price"}, "tickformat": ",.2~f", "domain": [0.4, 1] if has_spread else [0, 1]},
            **(
                {"yaxis2": {"title": {"text": "spread"}, "domain": [0, 0.28], "rangemode": "tozero"}}
                if has_spread
                else {}
            ),
        },
    }


def _time_axis(drawn: Span, zone: ZoneInfo) -> Chart:
    margin = max((drawn[1] - drawn[0]) // 100, US_PER_S // 2)
    return {
        "type": "date",
        "range": [_wall_ms(drawn[0] - margin, zone), _wall_ms(drawn[1] + margin, zone)],
        "title": {"text": f"received at ({zone})"},
        "hoverformat": "%H:%M:%S",
        "nticks": 8,
    }


def _times(times: pl.Series) -> list[int]:
    return times.dt.replace_time_zone(None).dt.epoch("ms").to_list()


def _wall_ms(microseconds: int, zone: ZoneInfo) -> float:
    offset = datetime.fromtimestamp(microseconds / US_PER_S, zone).utcoffset()
    return microseconds / 1000 + (offset.total_seconds() * 1000 if offset else 0)


def _plain(text: str) -> str:
    """Return text that plotly, which knows some HTML, shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
