"""Spans of time as pairs of integers, microseconds since the Unix epoch: the end is not part of one. Pure.

A list of spans is sorted, and its spans neither overlap nor touch; `merged` makes one of any.
"""

from bisect import bisect_right
from collections.abc import Iterable
from operator import itemgetter
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return the same times as a list in order; empty spans are dropped."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if begin >= end:
            continue
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def without(spans: Iterable[Span], cuts: Iterable[Span]) -> list[Span]:
    """Return what of `spans` is in none of `cuts`."""
    removed = merged(cuts)
    return [left for span in merged(spans) for left in remove(span, removed)]


def remove(span: Span, cuts: list[Span]) -> list[Span]:
    """Return what of one span is in none of `cuts`, a list of spans."""
    begin, end = span
    left: list[Span] = []
    for index in range(bisect_right(cuts, begin, key=itemgetter(1)), len(cuts)):
        cut_begin, cut_end = cuts[index]
        if cut_begin >= end:
            break
        if begin < cut_begin:
            left.append((begin, cut_begin))
        begin = cut_end
    if begin < end:
        left.append((begin, end))
    return left


def within(spans: Iterable[Span], window: Span) -> list[Span]:
    """Return what of `spans` lies in `window`."""
    return merged((max(begin, window[0]), min(end, window[1])) for begin, end in spans)


def overlap(one: Span, other: Span) -> bool:
    """Tell whether two spans have a time in common."""
    return one[0] < other[1] and other[0] < one[1]


def length(spans: Iterable[Span]) -> int:
    """Return how long they are together."""
    return sum(end - begin for begin, end in merged(spans))
