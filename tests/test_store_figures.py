"""What is drawn of ticks: counts, extremes and quantiles of small frames, against plain Python."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store.frames import TickFrame
from pipeline.store.report import figures
from pipeline.store.report.figures import POINTS, STEPS_S, measure, step_for
from pipeline.store.schema import schema
from tests.builders import ZONE

T0 = datetime(2025, 10, 1, 9, 15, tzinfo=ZoneInfo(ZONE))


def ticks(*rows):
    """Return ticks of (second, connection, token, price) and, in full mode, (bid, ask, s since the exchange's time)."""
    made = []
    for second, connection_id, token, price, *full in rows:
        tick = {
            "mode": "full" if full else "quote",
            "timestamp": T0 + timedelta(seconds=second),
            "connection_id": connection_id,
            "instrument_token": token,
            "last_price": float(price),
        }
        if full:
            bid, ask, delay = full
            sent = None if delay is None else T0 + timedelta(seconds=second - delay)
            tick |= {"bid_price_1": float(bid), "ask_price_1": float(ask), "exchange_timestamp": sent}
        made.append(tick)
    return pl.DataFrame(made, schema=schema()).lazy()


def points(frame):
    """Return times, as seconds from T0, and values."""
    return [((time - T0).total_seconds(), value) for time, value in frame.select("timestamp", "value").iter_rows()]


@given(st.floats(0, 400 * 86400))
def test_no_line_has_too_many_points(seconds):
    """Whatever the span; steps are round where they can be."""
    step = step_for(timedelta(seconds=seconds))
    assert seconds // step + 2 <= POINTS + 1
    assert step in STEPS_S or step > STEPS_S[-1]


def test_rates_have_every_step_of_each_connection():
    """Also those without ticks."""
    found = measure(ticks((0.1, 1, 5, 1), (0.2, 1, 5, 1), (3.5, 1, 5, 1), (2, 2, 6, 1)), None, 3)
    by_connection = {key[0]: list(of["rate"]) for key, of in found.rates.group_by("connection_id", maintain_order=True)}
    assert by_connection == {1: [2, 0, 0, 1], 2: [0, 0, 1, 0]}
    assert found.peak == (T0, 2)
    assert found.ticked == {T0.date(): {5, 6}}


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4000), st.sampled_from([5, 6, 7]), st.integers(1, 50)), min_size=1))
def test_extremes_of_each_step_are_drawn(rows):
    """Of a step the lowest and the highest price, and no point that was no tick; in whatever batches they come."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "BATCH_ROWS", 3)
        found = measure(ticks(*((s / 10, 1, token, price) for s, token, price in rows)), [5, 9], 3)
    assert [of.token for of in found.prices] == [5, 9]
    assert found.prices[1].price.height == found.prices[0].spread.height == 0
    expected: dict[int, list[int]] = {}
    for tenth, token, price in rows:
        if token == 5:
            expected.setdefault(tenth // 10, []).append(price)
    drawn: dict[int, list[float]] = {}
    for second, price in points(found.prices[0].price):
        drawn.setdefault(int(second), []).append(price)
    assert {step: (min(some), max(some)) for step, some in drawn.items()} == {
        step: (min(some), max(some)) for step, some in expected.items()
    }
    assert {(round(s * 10), p) for s, p in points(found.prices[0].price)} <= {(s, p) for s, t, p in rows if t == 5}


def test_spread_is_of_a_book_with_both_sides():
    """A side without offers has the price 0."""
    found = measure(ticks((0, 1, 5, 10, 9, 11, 0), (1, 1, 5, 10, 0, 11, 0), (2, 1, 5, 10, 9, 9.5, 0)), None, 1)
    assert points(found.prices[0].spread) == [(0, 2), (2, 0.5)]


def test_latency_is_that_of_the_clocks():
    """Quantiles in steps of 20 ms; ticks without an exchange time are left out, far ones are drawn at the edge."""
    rows = [(i / 1000, 1, 5, 1, 1, 1, 0.1 if i < 97 else 0.5) for i in range(100)]
    found = measure(ticks(*rows, (0.5, 1, 5, 1, 1, 1, None), (0.6, 1, 5, 1)), None, 1)
    assert found.latency.select("p50", "p95", "p99").rows() == [(120, 120, 520)]
    assert found.latencies.rows() == [(100, 97), (500, 3)]
    far = measure(ticks((0, 1, 5, 1, 1, 1, 86400), (0, 1, 5, 1, 1, 1, -86400)), None, 1)
    assert far.latencies["ms"].to_list() == [-1000, 10000]


@pytest.mark.parametrize("rows", [[], [(0, 1, 5, 1)], [(0, 1, 5, 1, 0, 0, None)]])
def test_no_tick_or_one(rows):
    """Is no error."""
    found = measure(ticks(*rows), None, 3)
    assert found.analysis.total_ticks == len(rows)
    assert found.rates.height == len(rows)
    assert found.latency.height == 0


def test_the_busiest_are_taken_where_none_are_named():
    """The most ticks first."""
    rows = [(i, 1, token, 1) for token in (4, 5, 6, 7) for i in range(token)]
    assert [of.token for of in measure(ticks(*rows), None, 3).prices] == [7, 6, 5]


def test_a_frame_of_the_reader_will_do():
    """It is a LazyFrame."""
    assert issubclass(TickFrame, pl.LazyFrame)
