"""How long what was received waits to be durable, against a model that remembers each tick."""

from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import lag as module
from pipeline.lag import MARKS, STEP_NS, Lag

MS = 1_000_000
T0_NS = 1_759_290_000_000_000_000

steps_ = st.lists(
    st.one_of(
        st.tuples(st.just("received"), st.integers(0, 5), st.integers(0, 15)),  # ticks, ms since the step before
        st.tuples(st.just("durable"), st.integers(0, 12), st.integers(0, 15)),  # further ones, ms
    ),
    max_size=60,
)


def follow(lag, steps):
    """Do what the steps say; yield (when each tick that is not durable was received, now) after each."""
    received: list[int] = []
    durable, now_ns = 0, T0_NS
    for what, number, after_ms in steps:
        now_ns += after_ms * MS
        if what == "received":
            received += [now_ns] * number
            lag.received(len(received), now_ns)
        else:
            durable = min(durable + number, len(received))
            lag.durable(durable)
        yield received[durable:], now_ns


@given(steps_)
def test_the_age_is_that_of_the_oldest_tick(steps):
    """Never less, more by less than a step, and zero where nothing waits."""
    lag = Lag()
    assert lag.age_ms(T0_NS) == 0
    for waiting, now_ns in follow(lag, steps):
        age_ms = lag.age_ms(now_ns)
        if waiting:
            true_ms = (now_ns - waiting[0]) / MS
            assert true_ms <= age_ms < true_ms + STEP_NS / MS
        else:
            assert age_ms == 0


@given(steps_)
def test_with_many_marks_an_age_is_told_less_exactly(steps):
    """Still never less than it is, and never more than the first of the lot would have."""
    lag = Lag()
    with mock.patch.object(module, "MARKS", 3):
        began_ns = None
        for waiting, now_ns in follow(lag, steps):
            age_ms = lag.age_ms(now_ns)
            assert len(lag._marks) <= 3
            began_ns = (began_ns or waiting[0]) if waiting else None
            assert (age_ms > 0) <= bool(waiting)
            if began_ns:
                assert (now_ns - waiting[0]) / MS <= age_ms <= (now_ns - began_ns) / MS


def test_a_writer_that_is_down_for_hours_costs_little_memory():
    """The marks are thinned out, and the age stays that of the oldest tick."""
    lag = Lag()
    for second in range(10 * MARKS):
        lag.received(second + 1, T0_NS + second * 1000 * MS)
    now_ns = T0_NS + 10 * MARKS * 1000 * MS
    assert len(lag._marks) <= MARKS
    assert lag.age_ms(now_ns) == 10 * MARKS * 1000
    lag.durable(5 * MARKS)
    assert lag.age_ms(now_ns) == pytest.approx(5 * MARKS * 1000, rel=0.01)
    lag.durable(10 * MARKS)
    assert lag.age_ms(now_ns) == 0


def test_a_clock_that_is_behind_makes_no_age_negative():
    """The time asked for may be that of another clock."""
    lag = Lag()
    lag.received(1, T0_NS)
    assert lag.age_ms(T0_NS - MS) == 0
