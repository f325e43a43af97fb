"""Counts and how fast they grow, against models that keep everything."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.supervisor.rates import SLACK_S, SPAN_S, STALE_S, STEP_S, Rate, Tally

SPANS_S = (1.0, 10.0, 60.0)
TINY_S = 1e-9  # sums of floats

reports_ = st.lists(
    st.tuples(st.sampled_from([0, 10, 50, 150, 250, 500, 500, 700, 2500, 30_000]), st.integers(0, 1000)), max_size=80
)


def followed(reports):
    """Return a rate that has heard these (ms since the one before, growth), and all (s, count)."""
    rate, heard, now_ms, count = Rate(), [], 1_000_000, 0
    for after_ms, growth in reports:
        now_ms += after_ms
        count += growth
        rate.hear(now_ms / 1000, count)
        heard.append((now_ms / 1000, count))
    return rate, heard


@given(reports_, st.sampled_from(SPANS_S))
def test_a_rate_is_the_growth_since_about_so_long_ago(reports, span_s):
    """Between the last report and one that is about `span_s` older: no other is nearer by more than a step."""
    rate, heard = followed(reports)
    assert len(rate._samples) <= 2 * (SPAN_S + SLACK_S) / STEP_S + 2
    found = rate.over(span_s, heard[-1][0] if heard else 0.0)
    if len(heard) < 2:
        assert found == 0
        return
    last_s, last = heard[-1]
    known = [(s, count) for s, count in heard if last_s > s >= last_s - SPAN_S - SLACK_S]
    off_s = {s: abs(last_s - span_s - s) for s, _ in known}
    good = [(s, count) for s, count in known if off_s[s] <= min(off_s.values()) + STEP_S + TINY_S]
    expected = {round((last - count) / (last_s - s), 1) for s, count in good}
    assert found in (expected or {0})


@pytest.mark.parametrize("span_s", SPANS_S)
def test_a_steady_stream_has_its_rate(span_s):
    """Reported twice a second, and at odd moments in between; at first over as much as is known."""
    rate = Rate()
    for step in range(1000):
        now_s = step * 0.1
        if step % 5 == 0 or step % 7 == 0:
            rate.hear(now_s, step * 50)
            assert rate.over(span_s, now_s) == (500.0 if step else 0.0)


@pytest.mark.parametrize(("span_s", "expected"), [(1.0, 800.0), (10.0, 800.0), (60.0, 400.0)])
def test_a_rate_is_over_its_span_only(span_s, expected):
    """What was before does not count: 40 s of silence, then 30 s of 800 a second."""
    rate = Rate()
    for step in range(140):
        rate.hear(step * 0.5, max(step - 80, 0) * 400)
    assert rate.over(span_s, 69.5) == pytest.approx(expected, abs=10)


def test_who_says_nothing_counts_nothing():
    """A rate ends with the reports, after a while."""
    rate = Rate()
    rate.hear(0.0, 0)
    rate.hear(1.0, 100)
    assert rate.over(10.0, 1.0 + STALE_S) == 100.0
    assert rate.over(10.0, 1.1 + STALE_S) == 0.0


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4).map(
            lambda steps: [(sum(a for a, _ in steps[:n]), sum(b for _, b in steps[:n])) for n in range(len(steps) + 1)]
        ),
        max_size=5,
    )
)
def test_a_tally_goes_on_over_generations(generations):
    """Each begins at zero: what the earlier ones had come to at last is added to it."""
    tally = Tally()
    before: Counter[str] = Counter()
    assert tally["a"] == tally["unheard of"] == 0
    for generation, reports in enumerate(generations):
        for a, b in reports:
            tally.hear(generation, {"a": a, "b": b})
            assert (tally["a"], tally["b"]) == (before["a"] + a, before["b"] + b)
        before.update({"a": reports[-1][0], "b": reports[-1][1]})
    assert tally["unheard of"] == 0


def test_a_count_that_only_some_have_is_kept():
    """An older version did not count it, or a newer one no longer does."""
    tally = Tally()
    tally.hear(1, {"old": 3, "both": 1})
    tally.hear(2, {"new": 5, "both": 2})
    tally.hear(3, {"both": 4})
    assert (tally["old"], tally["new"], tally["both"]) == (3, 5, 7)
