"""What `mds top` shows, as lines for a window of any size. Pure.

Every line has an importance. Where the window is low the least important lines are left out, where it is narrow the
least important columns of the table; figures that stand beside each other go on in a line below, which is less
important than the first one.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from rich.cells import cell_len, chop_cells
from rich.text import Text

from pipeline import readable
from pipeline.cli import tables
from pipeline.cli.tables import coloured
from pipeline.status import ConnectionStatus, HealthResponse, Metrics, Notice, Overview, Process, Series, Storage

GAP = "  "
GAP_MAX = 3  # blanks between the columns of the table
LABEL = 8  # columns before a line of blocks
BLOCKS_MIN = 6
SHOWN_HANGING_S = 1.0  # a sync that takes so long is told while it goes on
# Nothing stands out from something, however little that is.
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.:-=+*#"
# Of the connections' table, the one that is missed least first.
LEAST = (
    *(">restarts", "mode", ">reconnects", ">rate 60s", ">rate 1s", ">gaps", ">lag", "role"),
    *(">instruments", ">age", ">rate 10s"),
)


class Rank(IntEnum):
    """What has to go first where the window is low: the last of these."""

    HEALTH = 0
    FIRST_REASON = 1
    CONNECTION = 2
    REASONS = 3
    HEADER = 4
    STORAGE = 5
    TICKS = 6
    FIGURES = 7
    COMMITS = 8
    PROCESSES = 9
    BLANK = 10
    NOTICE = 11  # and those before the last one still earlier


class Line(NamedTuple):
    """A line, and how much it matters."""

    rank: int
    text: Text


def render(
    overview: Overview | None,
    series: Series | None,
    problem: str,
    columns: int,
    lines: int,
    *,
    only_ascii: bool = False,
) -> list[Text]:
    """Return at most `lines` lines, none wider than `columns`, of what the service has said last.

    `problem` is why it does not say anything now, if it does not.
    """
    made = list(_problem(overview, problem, columns))
    if overview is not None:
        said = _said(overview, series, columns, lines, BLOCKS if not only_ascii else ASCII_BLOCKS)
        made += [Line(line.rank + 1, Text(line.text.plain, "dim")) for line in said] if problem else list(said)
    kept = sorted(sorted(range(len(made)), key=lambda place: made[place].rank)[:lines])
    shown = [made[place].text for place in kept]
    for text in shown:
        text.plain = readable.printable(text.plain)
        text.truncate(columns, overflow="crop" if only_ascii else "ellipsis")
    return shown


def _problem(overview: Overview | None, problem: str, columns: int) -> Iterator[Line]:
    if not problem and overview is None:
        yield Line(Rank.HEALTH, Text("asking the service"))
    if not problem:
        return
    as_of = f"as of {readable.clock(overview.health.timestamp)}" if overview else "waiting for it"
    whole = f"{problem}, {as_of}"
    rows = [whole] if cell_len(whole) <= columns else [*_wrapped(problem, columns), as_of]
    for place, row in enumerate(rows):
        is_first_or_last = place in (0, len(rows) - 1)
        yield Line(Rank.HEALTH if is_first_or_last else Rank.REASONS, Text(row, "bold red"))


def _said(overview: Overview, series: Series | None, columns: int, lines: int, blocks: str) -> Iterator[Line]:
    blank = Line(Rank.BLANK, Text())
    yield from _health(overview.health, overview.metrics, columns)
    yield blank
    yield from _connections(overview.connections.values(), columns)
    yield blank
    if series is not None:
        rates = [sum(each) for each in zip(*series.ticks_per_second.values(), strict=True)]
        yield Line(Rank.TICKS, _blocks("ticks/s", rates, "{:,.0f}", columns, blocks))
        yield Line(Rank.COMMITS, _blocks("sync ms", series.commit_ms, "{:,.1f}", columns, blocks))
        yield blank
    yield from _flowing(_storage(overview.storage, overview.metrics), columns, Rank.STORAGE, Rank.FIGURES)
    yield from _flowing(_processes(overview.processes), columns, Rank.PROCESSES, Rank.PROCESSES)
    yield blank
    today = overview.health.timestamp[:10]
    latest = overview.notices[-lines:]
    for place, notice in enumerate(latest, start=1):
        yield Line(Rank.NOTICE + len(latest) - place, _notice(notice, today))


def _health(health: HealthResponse, metrics: Metrics, columns: int) -> Iterator[Line]:
    never = [f"{health.never_ticked:,} never ticked"] if health.never_ticked else []
    counts = ((metrics.gaps, "gap"), (metrics.reconnects, "reconnect"), (metrics.restarts, "restart"))
    figures = (
        readable.clock(health.timestamp),
        f"{metrics.ticks_per_second:,.0f} ticks/s",
        readable.ago(health.tick_age_s),
        *filter(None, [readable.market(health)]),
        readable.counted(health.total_subscribed_instruments, "instrument"),
        *never,
        f"lag {metrics.total_ticks_pending:,} ticks, {readable.milliseconds(metrics.lag_ms)}",
        *(readable.counted(count, noun) for count, noun in counts),
        f"up {readable.span(health.uptime_seconds)}",
    )
    status = coloured(health.status)
    status.stylize("bold")
    yield from _flowing([status, *map(Text, figures)], columns, Rank.HEALTH, Rank.REASONS)
    rank = Rank.FIRST_REASON
    for reason in health.reasons:
        for place, row in enumerate(_wrapped(reason, max(columns - 2, 1))):
            yield Line(rank, Text(f"{'  ' if place else '- '}{row}"))
            rank = Rank.REASONS


def _connections(connections: Iterable[ConnectionStatus], columns: int) -> Iterator[Line]:
    rows: list[tables.Row] = [
        {
            "": str(c.connection_id),
            "role": c.role,
            "state": coloured(c.state),
            "mode": c.mode,
            ">instruments": f"{c.subscribed_instruments:,}",
            ">rate 1s": f"{c.tick_rate_1s:,.0f}",
            ">rate 10s": f"{c.tick_rate:,.0f}",
            ">rate 60s": f"{c.tick_rate_60s:,.0f}",
            ">age": readable.span(c.tick_age_s),
            ">lag": readable.milliseconds(c.lag_ms),
            ">gaps": f"{c.gaps:,}{' open' if c.gap_open else ''}",
            ">reconnects": f"{c.reconnects:,}",
            ">restarts": f"{c.restarts:,}",
        }
        for c in connections
    ]
    names = tables.fitting(rows, LEAST, columns)
    widths = tables.widths(rows, names)
    spare = (columns - sum(widths)) // max(len(names) - 1, 1)
    gap = " " * min(max(spare, 1), GAP_MAX)
    headers = {name: Text(name.removeprefix(">"), "bold") for name in names}
    for rank, row in ((Rank.HEADER, headers), *((Rank.CONNECTION, row) for row in rows)):
        yield Line(
            rank, Text(gap).join(_cell(name, row[name], width) for name, width in zip(names, widths, strict=True))
        )


def _cell(name: str, value: Text | str, width: int) -> Text:
    text = value.copy() if isinstance(value, Text) else Text(value)
    text.align("right" if name.startswith(">") else "left", width)
    return text


def _storage(storage: Storage, metrics: Metrics) -> Iterator[Text]:
    reason = Text(f": {storage.reason}" if storage.reason else "")
    yield Text("writer ") + coloured(storage.state) + reason
    if (storage.syncing_since_s or 0) >= SHOWN_HANGING_S:
        yield Text(f"syncing since {readable.span(storage.syncing_since_s)}")
    hours = storage.hours_until_full
    lost = ((metrics.ticks_refused, "tick refused"), (storage.syncs_failed, "sync failed"))
    for figure in (
        *(f"{count:,} {what}" for count, what in lost if count),
        f"{storage.ticks_stored:,} stored",
        f"{storage.bytes_per_second / 2**20:,.2f} MB/s",
        f"{storage.commits_per_second:,.0f} commits/s",
        f"sync {storage.commit_ms:.1f} ms, longest {storage.commit_ms_max:.1f} ms",
        f"spool {readable.size(storage.spool_bytes)}",
        f"{readable.size(storage.free_bytes)} free",
        *([f"full in {readable.span(hours * readable.HOUR_S)}"] if hours is not None else []),
        storage.current_file,
    ):
        yield Text(figure)


def _processes(processes: dict[str, Process]) -> Iterator[Text]:
    for name, process in processes.items():
        if process.state != "off":
            again = f" ({readable.counted(process.restarts, 'restart')})" if process.restarts else ""
            yield Text(f"{name} ") + coloured(process.state) + Text(again)


def _notice(notice: Notice, today: str) -> Text:
    time = notice.timestamp
    when = readable.clock(time) if time.startswith(today) else time[5:16].replace("T", " ")
    return Text(f"{when} {notice.source:10} {notice.text}")


def _blocks(label: str, values: Sequence[float], form: str, columns: int, blocks: str) -> Text:
    """Return the latest figures as a line of blocks, one each, in proportion to the highest of all."""
    now, most = (values[-1], max(values)) if values else (0.0, 0.0)
    figures = f" {form.format(now)}, at most {form.format(most)}"
    if columns - LABEL - len(figures) < BLOCKS_MIN:
        figures = f" {form.format(now)}"
    room = max(columns - LABEL - len(figures), BLOCKS_MIN)
    highest = len(blocks) - 1
    drawn = "".join(blocks[math.ceil(value / most * highest) if most else 0] for value in values[-room:])
    return Text(f"{label:{LABEL}}") + Text(drawn.rjust(room), "cyan") + Text(figures)


def _flowing(items: Iterable[Text], columns: int, first: Rank, others: Rank) -> Iterator[Line]:
    """Yield lines of items beside each other; one that is too long for a line goes on below."""
    parts = (part for item in items for part in _parts(item, columns))
    for place, row in enumerate(_flow(parts, columns, GAP)):
        yield Line(others if place else first, row)


def _parts(item: Text, columns: int) -> list[Text]:
    return [item] if item.cell_len <= columns else _flow(item.split(" "), columns, " ")


def _flow(items: Iterable[Text], columns: int, gap: str) -> list[Text]:
    rows: list[Text] = []
    for item in items:
        if rows and rows[-1].cell_len + len(gap) + item.cell_len <= columns:
            rows[-1] += Text(gap) + item
        else:
            rows.append(item.copy())
    return rows


def _wrapped(text: str, columns: int) -> list[str]:
    """Return a text in lines, broken between words, and within one that is too long for a line."""
    words = (part for word in readable.printable(text).split() for part in chop_cells(word, columns))
    return [row.plain for row in _flow(map(Text, words), columns, " ")]
