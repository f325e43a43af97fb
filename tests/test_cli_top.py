"""What `mds top` shows in a window, whatever its size and whatever the service says."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from rich.cells import cell_len

from pipeline import readable
from pipeline.cli import screen
from pipeline.cli.events import News
from pipeline.status import (
    ConnectionStatus,
    Durations,
    HealthResponse,
    Metrics,
    Notice,
    Overview,
    Process,
    Series,
    Storage,
)

TIME = "2025-10-01T09:15:23.123456+05:30"
EARLIER = "2025-09-30T15:29:59.000000+05:30"
GONE = "the service does not answer: no service is running in /var/lib/mds/run; start one with: mds run"

TEXTS = st.text(max_size=200)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(0, 10**13),
    float: st.floats(0, 1e13),
    str: TEXTS,
}


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Return what a field of a model may hold."""
    if annotation in PLAIN:
        return PLAIN[annotation]
    if annotation is NoneType:
        return st.none()
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return st.sampled_from(arguments)
    if get_origin(annotation) in (Union, UnionType):
        return st.one_of(*map(values, arguments))
    if get_origin(annotation) is list:
        return st.lists(values(arguments[0]), max_size=8)
    return st.just({})


def a(model: type[BaseModel], **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return any model of a kind."""
    fields = {name: values(field.annotation) for name, field in model.model_fields.items()}
    return st.builds(model, **(fields | fixed))


TIMES = st.sampled_from((TIME, EARLIER))
OVERVIEWS = st.builds(
    Overview,
    health=a(HealthResponse, timestamp=st.just(TIME)),
    connections=st.tuples(*(a(ConnectionStatus, connection_id=st.just(c)) for c in (1, 2, 3))).map(
        lambda three: {str(c.connection_id): c for c in three}
    ),
    storage=a(Storage, commit_durations=a(Durations)),
    metrics=a(Metrics),
    processes=st.dictionaries(st.sampled_from(("supervisor", "writer", "worker-1", "http")), a(Process)),
    notices=st.lists(a(Notice, timestamp=TIMES), max_size=30),
)
SERIES = st.lists(st.lists(st.floats(0, 1e9), min_size=5, max_size=5), max_size=300).map(
    lambda rows: Series(
        timestamp=TIME,
        ticks_per_second={str(c): [row[c] for row in rows] for c in (1, 2, 3)},
        commit_ms=[row[0] for row in rows],
        lag_ms=[row[4] for row in rows],
    )
)


def a_connection(number: int, **fields: Any) -> ConnectionStatus:
    usual = ConnectionStatus(
        connection_id=number,
        role=("primary", "secondary", "tertiary")[number - 1],
        mode="quote",
        state="live",
        reason="",
        active=True,
        subscribed_instruments=3000,
        confirmed_instruments=3000,
        tick_count=1_000_000,
        tick_rate=1234.0,
        tick_rate_1s=1111.0,
        tick_rate_60s=1333.0,
        last_tick_time=TIME,
        tick_age_s=0.1,
        start_time=TIME,
        capacity_remaining=0,
        pid=11,
        epoch=1,
        ticks_pending=40,
        lag_ms=12.0,
        queue_depth=0,
        ticks_refused=0,
        rejects=0,
        reconnects=7,
        restarts=8,
        gaps=9,
        gap_open=False,
        spool_bytes=0,
    )
    return usual.model_copy(update=fields)


def a_notice(number: int, text: str, timestamp: str = TIME) -> Notice:
    return Notice(number=number, timestamp=timestamp, event="gap", source="worker-1", text=text, details={})


def an_overview(*reasons: str, status: str = "healthy", notices: tuple[Notice, ...] = (), **first: Any) -> Overview:
    """Return what a service says that does well, but for these reasons and these fields of connection 1."""
    return Overview(
        health=HealthResponse(
            status=status,
            reasons=list(reasons),
            timestamp=TIME,
            service_start_time=EARLIER,
            uptime_seconds=7200.0,
            active_connections=2,
            total_connections=3,
            total_subscribed_instruments=6000,
            never_ticked=0,
            never_ticked_instruments=[],
            kite_connected=True,
            last_tick_time=TIME,
            tick_age_s=0.1,
            data_fresh=True,
            market="unknown",
            market_until=None,
            resting="",
            ticks_per_second=2468.0,
        ),
        connections={
            "1": a_connection(1, **first),
            "2": a_connection(2, mode="full"),
            "3": a_connection(3, state="standby", active=False, tick_rate=0.0),
        },
        storage=Storage(
            state="recording",
            reason="",
            data_dir="market_data",
            current_file="market_data_2025-10-01.jsonl",
            ticks_stored=2_000_000,
            bytes_written=2**30,
            bytes_per_second=2.0**20,
            spool_bytes=2**20,
            commits=1000,
            commits_per_second=19.9,
            commit_ms=3.1,
            commit_ms_max=12.5,
            commit_ms_max_1s=3.1,
            commit_durations=Durations(bounds_s=[0.1], counts=[1, 1], sum_s=0.1),
            syncing_since_s=None,
            syncs_failed=0,
            batches_refused=0,
            free_bytes=2**36,
            reserve_bytes=2**28,
            hours_until_full=17.9,
        ),
        metrics=Metrics(
            timestamp=TIME,
            uptime_seconds=7200.0,
            total_ticks_received=2_000_080,
            total_ticks_stored=2_000_000,
            total_ticks_pending=80,
            lag_ms=12.0,
            queue_depth=0,
            spool_bytes=2**20,
            average_tick_rate=277.8,
            ticks_per_second=2468.0,
            ticks_per_second_1s=2222.0,
            ticks_per_second_60s=2666.0,
            ticks_by_connection={"1": 1_000_000, "2": 1_000_080, "3": 0},
            commits_per_second=19.9,
            ticks_refused=0,
            rejects=0,
            reconnects=14,
            restarts=16,
            gaps=18,
            subscription_requests=2,
        ),
        processes={
            "supervisor": Process(pid=9, state="running", restarts=0),
            "worker-1": Process(pid=11, state="restarting", restarts=8),
            "http": Process(pid=None, state="off", restarts=0),
        },
        notices=list(notices),
    )


def a_series(*rates: float) -> Series:
    none = [0.0] * len(rates)
    by_connection = {"1": list(rates), "2": none, "3": none}
    return Series(timestamp=TIME, ticks_per_second=by_connection, commit_ms=list(rates), lag_ms=none)


def shown(
    overview: Overview | None, columns: int = 80, lines: int = 24, problem: str = "", series: Series | None = None
) -> list[str]:
    return [line.plain.rstrip() for line in screen.render(overview, series, problem, columns, lines)]


# Any size.


@settings(max_examples=150, deadline=None)
@given(
    overview=st.none() | OVERVIEWS,
    series=st.none() | SERIES,
    problem=st.just("") | TEXTS,
    columns=st.integers(1, 250),
    lines=st.integers(1, 80),
    only_ascii=st.booleans(),
)
def test_it_fits_any_window(*, overview, series, problem, columns, lines, only_ascii):
    """No line is wider than the window, there are no more than it has, and nothing in them moves a cursor."""
    made = screen.render(overview, series, problem, columns, lines, only_ascii=only_ascii)
    assert 1 <= len(made) <= lines
    for line in made:
        assert cell_len(line.plain) <= columns
        assert line.plain.isprintable()
        assert "\n" not in line.plain


def test_figures_are_not_cut():
    """From 20 columns on no figure is cut: what finds no room is left out, or goes on below. A file's name may be."""
    overview = an_overview("worker-1 is restarting", status="degraded")
    made = {columns: shown(overview, columns, 60) for columns in range(20, 181)}
    cut = {columns: [line for line in made[columns] if "…" in line] for columns in made}
    assert {columns: lines for columns, lines in cut.items() if lines} == {
        columns: ["market_data_2025-10-01.jsonl"[: columns - 1] + "…"] for columns in range(20, 28)
    }


def test_columns_go_by_importance():
    """A wide window has all of the table, a narrow one state and rate."""
    header = shown(an_overview(), 160)[2].split()
    rates = [word for span in ("1s", "10s", "60s") for word in ("rate", span)]
    assert header == ["role", "state", "mode", "instruments", *rates, "age", "lag", "gaps", "reconnects", "restarts"]
    rows = [line for line in shown(an_overview(), 20, 5) if line.startswith(("1 ", "2 ", "3 "))]
    assert [row.split() for row in rows] == [["1", "live", "1,234"], ["2", "live", "1,234"], ["3", "standby", "0"]]


def test_a_low_window_has_what_matters_most():
    """Five lines: the health, the first reason, and the connections."""
    reason = "connection 1 (primary) is down, its process is not running: 3000 instruments uncovered"
    made = shown(an_overview(reason, status="down", state="down"), 100, 5)
    assert made[0].startswith("down  09:15:23")
    assert made[1] == f"- {reason}"
    assert [line.split()[:2] for line in made[2:]] == [["1", "primary"], ["2", "secondary"], ["3", "tertiary"]]


def test_a_usual_window_has_all():
    """80 by 24: rates, age, gaps, what is stored and how fast, how long the disk lasts, processes, and notices."""
    notices = tuple(a_notice(n, f"notice {n}") for n in range(1, 31))
    made = "\n".join(shown(an_overview(notices=notices), series=a_series(*range(100))))
    for words in (
        *("healthy", "2,468 ticks/s", "last tick 0.1 s ago", "6,000 instruments", "lag 80 ticks, 12 ms", "18 gaps"),
        *("14 reconnects", "16 restarts", "up 2.0 h", "1,111", "1,234", "1,333", "99, at most 99"),
        *("2,000,000 stored", "1.00 MB/s", "20 commits/s", "sync 3.1 ms, longest 12.5 ms", "spool 1.0 MB"),
        *("64.0 GB free", "full in 17.9 h", "market_data_2025-10-01.jsonl", "supervisor running"),
        *("worker-1 restarting (8 restarts)", "09:15:23 worker-1   notice 30"),
    ):
        assert words in made
    assert "http" not in made  # it is off
    assert made.splitlines()[-1].endswith("notice 30")
    assert "notice 1\n" not in made


def test_long_reasons_are_told_in_full():
    """A reason that is wider than the window goes on below."""
    reason = " ".join(f"word{n}" for n in range(60))
    made = shown(an_overview(reason, status="degraded"), 40, 60)
    assert " ".join(" ".join(made).removeprefix("-").split()).count(reason) == 1


def test_the_latest_notices_stay():
    """A notice of another day has its date; of too many the latest are shown, the last at the end."""
    notices = (a_notice(1, "old", EARLIER), a_notice(2, "one\x1b[2J\ntwo"))
    assert shown(an_overview(notices=notices), 80, 60)[-2:] == [
        "09-30 15:29 worker-1   old",
        "09:15:23 worker-1   one [2J two",
    ]


@pytest.mark.parametrize(("only_ascii", "blocks"), [(False, "▁▂▅█"), (True, "_.=#")])
def test_blocks(only_ascii, blocks):
    """Each second is a block in proportion to the highest; a single tick is more than none."""
    made = screen.render(an_overview(), a_series(0, 1, 500, 1000), "", 80, 24, only_ascii=only_ascii)
    (line,) = (line.plain for line in made if line.plain.startswith("ticks/s"))
    assert line.endswith(f"{blocks} 1,000, at most 1,000")


def test_blocks_of_nothing():
    """A service without ticks, or without a second of its life, has a flat line."""
    assert "ticks/s" in "\n".join(shown(an_overview(), series=a_series()))
    (line,) = (line for line in shown(an_overview(), series=a_series(0, 0, 0)) if line.startswith("ticks/s"))
    assert line.endswith("▁▁▁ 0, at most 0")


# Without an answer.


def test_the_last_figures_stay():
    """Without an answer the last figures are shown below, pale, with why and as of when."""
    made = screen.render(an_overview(), None, GONE, 160, 24)
    assert made[0].plain == f"{GONE}, as of 09:15:23"
    assert made[1].plain.startswith("healthy  09:15:23  2,468 ticks/s")
    assert {str(line.style) for line in made[1:]} == {"dim"}
    assert not any(line.spans for line in made[1:])


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_as_of_stays_where_there_is_little_room(columns):
    """The time of the figures is told in any window."""
    made = shown(an_overview(), columns, 5, GONE)
    assert made[0].startswith("the service does not")
    assert any(line.endswith("as of 09:15:23") for line in made)


def test_before_the_first_answer():
    """It says what it waits for."""
    assert shown(None) == ["asking the service"]
    assert shown(None, 160, problem=GONE) == [f"{GONE}, waiting for it"]


# Lines.


def test_the_line():
    """Time, state, connections, instruments, ticks, rate, lag, age; then the reasons. It is one line."""
    assert readable.line(an_overview("one", "two\nlines", status="degraded")) == (
        "2025-10-01 09:15:23 degraded: 2/3 connections active, 6,000 instruments, 2,000,080 ticks, 2,468 ticks/s, "
        "lag 12 ms, last tick 0.1 s ago; one; two lines"
    )
    assert readable.absence(TIME, GONE) == f"2025-10-01 09:15:23 down: {GONE}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0.0 s"),
        (9.94, "9.9 s"),
        (99.4, "99 s"),
        (120, "2 min"),
        (5999, "100 min"),
        (6000, "1.7 h"),
        (172_800, "2 d"),
    ],
)
def test_spans(seconds, text):
    """How long, in the unit that people would use."""
    assert readable.span(seconds) == text


def test_sizes_and_delays():
    """Bytes as MB or GB, delays in ms as long as that is read at a glance."""
    assert [readable.size(count) for count in (0, 2**20, 3 * 2**29)] == ["0.0 MB", "1.0 MB", "1.5 GB"]
    assert [readable.milliseconds(value) for value in (0.4, 9999, 10_000)] == ["0 ms", "9,999 ms", "10 s"]
    assert [readable.counted(number, "gap") for number in (0, 1, 1000)] == ["0 gaps", "1 gap", "1,000 gaps"]


# Events.


def test_news_are_told_once():
    """A new run of the service numbers earlier notices anew, and tells of older ones late: each is told once."""
    news = News()
    one, two, three = (a_notice(n, text) for n, text in ((5, "one"), (6, "two"), (7, "three")))
    assert news.of([one, two]) == [one, two]
    assert news.of([one, two, three]) == [three]
    again = [notice.model_copy(update={"number": notice.number + 1000}) for notice in (one, two, three)]
    late = a_notice(1004, "late")
    assert news.of([*again, late]) == [late]
