"""Figures as people read them, and the line that tells how the service does. Pure."""

from datetime import datetime, timedelta

from pipeline.status import HealthResponse, Overview

_WEEK = timedelta(days=6)  # in which the name of a day tells which
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
_SECONDS_MAX, _MINUTES_MAX, _HOURS_MAX = 100, 100, 48  # a larger number is told in the next unit


def span(seconds: float | None) -> str:
    """Return how long something takes or is ago: `0.3 s`, `12 s`, `5 min`, `3.2 h`, `4 d`; `-` where nobody knows."""
    if seconds is None:
        return "-"
    if seconds < _SECONDS_MAX:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < _MINUTES_MAX * MINUTE_S:
        return f"{seconds / MINUTE_S:.0f} min"
    if seconds < _HOURS_MAX * HOUR_S:
        return f"{seconds / HOUR_S:.1f} h"
    return f"{seconds / DAY_S:,.0f} d"


def milliseconds(value: float) -> str:
    """Return a delay: `12 ms`, and from ten seconds on as `span` does."""
    return f"{value:,.0f} ms" if value < 10_000 else span(value / 1000)


def ago(age_s: float | None) -> str:
    """Return how long ago the last tick came."""
    return "no tick yet" if age_s is None else f"last tick {span(age_s)} ago"


def size(count: float) -> str:
    """Return a number of bytes: `1.2 MB`, `52.1 GB`."""
    return f"{count / 2**30:,.1f} GB" if count >= 2**30 else f"{count / 2**20:,.1f} MB"


def counted(number: int, noun: str) -> str:
    """Return `1 gap`, `2 gaps`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Return a text of others without what a terminal would not show, or obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def line(overview: Overview) -> str:
    """Return how the service does, in a line: time, state, connections, instruments, ticks, rate, lag, age, reasons."""
    health, metrics = overview.health, overview.metrics
    figures = (
        f"{health.active_connections}/{health.total_connections} connections active",
        counted(health.total_subscribed_instruments, "instrument"),
        f"{metrics.total_ticks_received:,} ticks",
        f"{metrics.ticks_per_second:,.0f} ticks/s",
        f"lag {milliseconds(metrics.lag_ms)}",
        ago(health.tick_age_s),
        *filter(None, [market(health)]),
    )
    told = "; ".join([", ".join(figures), *health.reasons])
    return printable(f"{moment(health.timestamp)} {health.status}: {told}")


def absence(timestamp: str, why: str) -> str:
    """Return the line where the service does not answer."""
    return printable(f"{moment(timestamp)} down: {why}")


def moment(timestamp: str) -> str:
    """Return date and time to the second."""
    return timestamp[:19].replace("T", " ")


def when(timestamp: str, now: str) -> str:
    """Return a time to come: `15:30`, `Mon 09:15`, `2025-10-20 09:15`."""
    try:
        then = datetime.fromisoformat(timestamp)
        days = then.date() - datetime.fromisoformat(now).date()
    except ValueError:  # who tells it has another version
        return printable(timestamp)
    if not timedelta() <= days <= _WEEK:
        return f"{then:%Y-%m-%d %H:%M}"
    return f"{then:%H:%M}" if not days else f"{then:%a %H:%M}"


def market(health: HealthResponse) -> str:
    """Return whether what is subscribed trades, and until when; empty where that is not known, or for ever."""
    until = f" until {when(health.market_until, health.timestamp)}" if health.market_until else ""
    trades = f"market {health.market}{until}" if health.market == "closed" or until else ""
    return ", ".join(filter(None, (trades, printable(health.resting))))


def clock(timestamp: str | None) -> str:
    """Return the time to the second, `-` where there is none."""
    return timestamp[11:19] if timestamp else "-"
