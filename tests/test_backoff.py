"""How long to wait before the next try."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from pipeline.backoff import exponential


def test_delays_double_up_to_the_cap():
    """Without the spread, a delay is twice the one before, and never above the cap."""
    delays = exponential(0.5, 3.0, uniform=max)
    assert list(islice(delays, 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]


@given(st.floats(0.01, 10), st.floats(1, 100))
def test_each_delay_lies_in_the_upper_half_of_its_step(first_s, factor):
    """A delay is spread over the upper half of its step, so that it is neither zero nor beyond the cap."""
    cap_s = first_s * factor
    step_s = first_s
    for delay_s in islice(exponential(first_s, cap_s), 12):
        assert step_s / 2 <= delay_s <= step_s <= cap_s
        step_s = min(step_s * 2, cap_s)
