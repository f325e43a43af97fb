"""A report of recorded days: one page, to be looked at after the close and kept, and the same in a few lines.

The page holds all that it shows, plotly's code included (4.8 MB of it), and needs no network.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from html import escape
from zoneinfo import ZoneInfo

import orjson
import polars as pl
from plotly.offline import get_plotlyjs

from pipeline.readable import counted
from pipeline.store.analysis import busiest
from pipeline.store.completeness.completeness import Day
from pipeline.store.completeness.entries import microseconds
from pipeline.store.completeness.spans import Span
from pipeline.store.completeness.words import Name, clock, summary, verdict
from pipeline.store.report import charts, tables
from pipeline.store.report.figures import Figures
from pipeline.store.report.page import PAGE, POLICY, SCRIPT, STYLE

TOP_SHOWN = 5  # on the terminal
ENDED = {
    "in order": "ended in order",
    "running": "still running",
    "not in order": "did not end in order",
    "next day": "went on after midnight",
}

_NO_TIMES = "the exchange's time is known of ticks in full mode only, and there are none"


@dataclass(frozen=True)
class Report:
    """All that a report is made of; `about` says what was left out of the ticks, if anything."""

    figures: Figures
    days: Sequence[Day]
    zone: ZoneInfo
    name: Name
    about: str = ""

    def label(self, token: int) -> str:
        """Return an instrument by its symbol, or its token."""
        return self.name(token) or str(token)

    @cached_property
    def instruments(self) -> pl.DataFrame:
        """Those that ticked, with `quiet`: the longest time without a tick, up to the last tick of all, in seconds."""
        found = self.figures.analysis.instruments
        until_end = pl.col("last").max() - pl.col("last")
        same_day = pl.col("last").max().dt.date() == pl.col("last").dt.date()
        rest = pl.when(same_day).then(until_end.dt.total_microseconds() / 1e6)
        return found.with_columns(quiet=pl.max_horizontal("silence", rest).fill_null(0.0))

    @cached_property
    def drawn(self) -> Span:
        """From when to when charts go."""
        analysis = self.figures.analysis
        if analysis.start is None or analysis.end is None:
            return 0, 0
        begin, end = microseconds(analysis.start), microseconds(analysis.end)
        if self.about:  # what happened outside of what was selected is another matter
            return begin, end
        busy = [one for day in self.days for some in day.connections.values() for one in some if one.state != "idle"]
        return min([begin, *(one.begin for one in busy)]), max([end, *(one.end for one in busy)])

    @property
    def is_whole(self) -> bool:
        """Whether it is known that nothing was missed."""
        return bool(self.days) and all(day.recorded and not day.missed for day in self.days)


def headline(report: Report) -> list[tuple[str, str, str]]:
    """Return the most important figures: what it is, the figure, and more in small print."""
    analysis, peak = report.figures.analysis, report.figures.peak
    recorded = [day.recorded for day in report.days if day.recorded]
    first, last = (_local(analysis.start, report.zone), _local(analysis.end, report.zone))
    found = [("ticks", f"{analysis.total_ticks:,}", ", ".join(f"{n:,} {mode}" for mode, n in analysis.modes.items()))]
    if first and last:
        found.append(("first and last tick", f"{first:%H:%M:%S} to {last:%H:%M:%S}", _dates(first, last)))
    if len(report.days) == 1 and recorded:
        begin, end = (clock(at, report.zone, "seconds") for at in (recorded[0].begin, recorded[0].end))
        end = "midnight" if recorded[0].ended == "next day" else end
        found.append(("service recorded", f"{begin} to {end}", ENDED[recorded[0].ended]))
    found.append(("instruments that ticked", f"{report.instruments.height:,}", _never(report)))
    if recorded:
        missed = {token for day in report.days for loss in day.losses for token in loss.tokens}
        whole = {token for day in report.days if day.recorded for token in day.instruments} - missed
        unknown = len(report.days) - len(recorded)
        more = f", of {counted(unknown, 'day')} nobody knows" if unknown else ""
        found.append(("received whole", f"{len(whole):,}", f"{len(missed):,} missed something{more}"))
    if peak:
        found.append(("busiest second", f"{peak[1]:,} ticks", f"{_local(peak[0], report.zone):%H:%M:%S}"))
    return found


def lines(report: Report) -> Iterator[str]:
    """Yield the report in a few lines for a terminal."""
    for what, figure, more in headline(report):
        yield f"{what:24} {figure}{f' ({more})' if more else ''}"
    yield from summary(report.days, report.zone, report.name)
    if not report.days:
        yield "There is no event log, so nobody knows what was missed."
    top = busiest(report.instruments, TOP_SHOWN)
    if top.height:
        yield "busiest instruments:"
    for row in top.iter_rows(named=True):
        yield f"  {report.label(row['instrument_token']):24} {row['ticks']:>12,} ticks"


def page(report: Report) -> bytes:
    """Return the report as an HTML page."""
    drawn = _charts(report)
    plotly = get_plotlyjs()
    days = [day.day.isoformat() for day in report.days] or ["recorded ticks"]
    title = f"Recording of {days[0]}{f' to {days[-1]}' if len(days) > 1 else ''}"
    return PAGE.substitute(
        title=escape(title),
        style=STYLE,
        policy=POLICY + " ".join(_hash(script) for script in (plotly, SCRIPT)),
        body="\n".join(_body(report, title, drawn)),
        # Within a script element nothing is HTML but what ends it.
        charts=orjson.dumps(drawn).decode().replace("<", "\\u003c"),
        plotly=plotly,
        script=SCRIPT,
    ).encode()


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _charts(report: Report) -> dict[str, charts.Chart]:
    figures, drawn, zone = report.figures, report.drawn, report.zone
    if not figures.analysis.total_ticks:
        return {}
    found = {"rates": charts.rates(figures, report.days, drawn, zone)}
    if figures.latency.height:
        found |= {"latency": charts.latency(figures, drawn, zone), "latencies": charts.latencies(figures)}
    found["busiest"] = charts.busiest(report.instruments, report.label)
    found["silent"] = charts.most_silent(report.instruments, report.label)
    return found | {f"price-{of.token}": charts.price(of, drawn, zone) for of in figures.prices if of.price.height}


def _body(report: Report, title: str, drawn: Iterable[str]) -> Iterator[str]:
    drawn = set(drawn)
    yield f"<h1>{escape(title)}</h1>"
    yield f'<p class="verdict {"good" if report.is_whole else "bad"}">{escape(_verdict(report))}</p>'
    if report.about:
        yield f'<p class="note">Of the ticks only: {escape(report.about)}.</p>'
    yield "<dl>"
    for what, figure, more in headline(report):
        yield f"<div><dt>{escape(what)}</dt><dd>{escape(figure)}<small>{escape(more)}</small></dd></div>"
    yield "</dl><noscript><p>The charts need JavaScript; the tables do not.</p></noscript>"
    if "rates" not in drawn:
        yield "<section><p>There are no ticks to draw.</p></section>"
    else:
        yield _section(
            "Ticks a second on each connection",
            f"Each point is the mean of {report.figures.step.total_seconds():,.0f} s. Shaded: interruptions and "
            "failovers; the bars below say what each connection was doing, and why.",
            _plot("rates"),
        )
        yield _latency(drawn)
        yield '<div class="pair">'
        yield _section("Busiest instruments", "The most ticks.", _plot("busiest"))
        yield _section(
            "Most silent instruments", "Longest time without a tick, up to the last of all.", _plot("silent")
        )
        yield "</div>"
    yield from _prices(report, drawn)
    yield from tables.missed(report.days, report.zone, report.name)
    yield from tables.instruments(report.instruments, report.days, report.label)
    yield (
        '<footer class="note">Whether all that was received is in the files, once and in order, is proved by '
        "<code>mds verify</code>, not by this page.</footer>"
    )


def _verdict(report: Report) -> str:
    if not report.days:
        return "There is no event log beside these ticks: nobody knows what was missed."
    if len(report.days) == 1:
        words = verdict(report.days[0]) if report.days[0].recorded else "nobody knows what was missed."
        return f"{words[0].upper()}{words[1:]}"
    missed = [day for day in report.days if day.missed or not day.recorded]
    if not missed:
        return f"Received whole on all {len(report.days):,} days."
    return f"On {len(missed):,} of {len(report.days):,} days something was missed, or nobody knows."


def _section(title: str, note: str, content: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="note">{escape(note)}</p>{content}</section>'


def _plot(name: str) -> str:
    return f'<div class="plot" id="{escape(name)}"></div>'


def _latency(drawn: set[str]) -> str:
    title = "Receive latency against exchange time"
    if "latency" not in drawn:
        return _section(title, f"Not drawn: {_NO_TIMES}.", "")
    note = (
        "Time of receiving less the exchange's own time. That one is in whole seconds, cut off: up to 1,000 ms, on "
        "average half of it, are rounding and no delay. Both clocks are taken to be right."
    )
    return (
        '<div class="pair">'
        + _section(f"{title}, through the day", note, _plot("latency"))
        + _section(f"{title}, over all", "How many ticks had which latency.", _plot("latencies"))
        + "</div>"
    )


def _prices(report: Report, drawn: set[str]) -> Iterator[str]:
    shown = [of for of in report.figures.prices if f"price-{of.token}" in drawn]
    if not shown:
        return
    yield "<section><h2>Price and spread</h2>"
    yield '<p class="note">Lowest and highest of each step are drawn. Spread: best offer less best bid.</p>'
    for of in shown:
        yield f"<h3>{escape(report.label(of.token))}</h3>{_plot(f'price-{of.token}')}"
        if not of.spread.height:
            yield '<p class="note">No spread: depth is recorded in full mode only.</p>'
    yield "</section>"


def _local(time: datetime | None, zone: ZoneInfo) -> datetime | None:
    return time and time.astimezone(zone)


def _dates(first: datetime, last: datetime) -> str:
    return f"{first.date()}" if first.date() == last.date() else f"{first.date()} to {last.date()}"


def _never(report: Report) -> str:
    ticked = set(report.instruments["instrument_token"])
    never = {token for day in report.days for token in day.never_ticked or ()} - ticked
    return f"{counted(len(never), 'subscribed one')} never did" if never else ""
