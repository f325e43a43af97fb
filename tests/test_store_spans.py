"""Spans of time, against sets of integers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.completeness.spans import length, merged, overlap, remove, within, without

times = st.integers(0, 30)
some = st.lists(st.tuples(times, times), max_size=6)


def points(spans):
    """Return all integers in spans."""
    return {at for begin, end in spans for at in range(begin, end)}


def is_in_order(spans):
    """Tell whether spans neither overlap nor touch, and none is empty."""
    return all(begin < end for begin, end in spans) and all(a[1] < b[0] for a, b in pairwise(spans))


@given(some, some, st.tuples(times, times))
def test_spans_are_sets_of_times(spans, cuts, window):
    """Joining, cutting and clipping are union, difference and intersection."""
    assert is_in_order(merged(spans))
    assert points(merged(spans)) == points(spans)
    assert points(without(spans, cuts)) == points(spans) - points(cuts)
    assert points(remove(window, merged(cuts))) == points([window]) - points(cuts)
    assert points(within(spans, window)) == points(spans) & points([window])
    assert length(spans) == len(points(spans))
    for one in merged(spans):
        for other in merged(cuts):
            assert overlap(one, other) == bool(points([one]) & points([other]))
