"""The tables of a report, as HTML. Pure; text of others is escaped."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from html import escape
from zoneinfo import ZoneInfo

import polars as pl

from pipeline.store.analysis import busiest
from pipeline.store.completeness.completeness import US_PER_S, Day
from pipeline.store.completeness.spans import length
from pipeline.store.completeness.words import Name, causes, clock, duration, named, worst

GAPS_SHOWN = 100  # the most costly
INSTRUMENTS_SHOWN = 50  # the busiest

_END = "</tbody></table></div>"
_INSTRUMENTS = (
    "instrument",
    ">token",
    ">ticks",
    ">last price",
    ">lowest",
    ">highest",
    ">volume",
    ">mean spread",
    ">longest silence",
    ">missed",
)


def missed(days: Sequence[Day], zone: ZoneInfo, name: Name) -> Iterator[str]:
    """Yield the section of what was not received."""
    rows = [(day, part, len(tokens)) for day in days for part, tokens in worst(day.losses)]
    covered = sum(cut.covered == len(cut.gap.tokens) > 0 for day in days for cut in day.cuts)
    yield "<section><h2>What was missed</h2>"
    if covered:
        yield f'<p class="note">{covered:,} interruptions cost nothing: another connection recorded meanwhile.</p>'
    for day in days:
        if day.never_ticked:
            yield f"<p>Subscribed, and never ticked on {day.day}: {escape(named(day.never_ticked, name))}</p>"
        for cause, known in causes(day).items():
            longest = duration(round(known["longest_seconds"] * US_PER_S))
            yield f"<p>{day.day}, {escape(cause)}: {known['instruments']:,} instruments, up to {longest}</p>"
    if rows:
        if len(rows) > GAPS_SHOWN:
            yield f'<p class="note">The first {GAPS_SHOWN:,} of {len(rows):,}; mds gaps lists all.</p>'
        yield _begin("day", "from", "to", ">lasted", "cause", ">connection", ">instruments")
        for day, part, count in rows[:GAPS_SHOWN]:
            since = clock(part.spans[0][0], zone) if part.spans else "?"
            until = clock(part.spans[-1][1] if part.spans else part.until or 0, zone)
            lasted = duration(length(part.spans)) if part.spans else "?"
            over = "" if part.until is not None else " (not over)"
            where = str(part.connection_id or "none")
            yield _row(f"{day.day}", since, f"{until}{over}", f">{lasted}", part.cause, f">{where}", f">{count:,}")
        yield _END
    elif days and all(day.recorded for day in days):
        yield "<p>Nothing is known to be missing.</p>"
    else:
        yield "<p>Nobody knows: the event log does not tell.</p>"
    yield "</section>"


def instruments(found: pl.DataFrame, days: Sequence[Day], label: Callable[[int], str]) -> Iterator[str]:
    """Yield the section of the busiest instruments."""
    some = busiest(found, INSTRUMENTS_SHOWN)
    if not some.height:
        return
    lost: dict[int, int] = defaultdict(int)
    for loss in (loss for day in days for loss in day.losses):
        for token in loss.tokens:
            lost[token] += loss.microseconds or 0
    yield f'<section><h2>Instruments</h2><p class="note">The {some.height:,} busiest of {found.height:,}.</p>'
    yield _begin(*_INSTRUMENTS)
    for row in some.iter_rows(named=True):
        token = row["instrument_token"]
        yield _row(
            label(token),
            f">{token}",
            f">{row['ticks']:,}",
            *(f">{_number(row[name])}" for name in ("price_last", "price_min", "price_max")),
            f">{_number(row['volume'], 0)}",
            f">{_number(row['spread_mean'])}",
            f">{duration(round(row['quiet'] * US_PER_S))}",
            f">{duration(lost[token]) if token in lost else '-'}",
        )
    yield f"{_END}</section>"


def _begin(*columns: str) -> str:
    """Return the beginning of a table."""
    return f'<div class="scroll"><table><thead>{_row(*columns, cell="th")}</thead><tbody>'


def _row(*texts: str, cell: str = "td") -> str:
    """Return a row; a text that begins with `>` is a number."""
    cells = (
        f'<{cell} class="n">{escape(text[1:])}</{cell}>' if text.startswith(">") else f"<{cell}>{escape(text)}</{cell}>"
        for text in texts
    )
    return f"<tr>{''.join(cells)}</tr>"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
