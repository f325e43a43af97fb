"""How measured values are spread. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

BAR = 40  # characters of the longest bar


@dataclass(frozen=True)
class Spread:
    """Of values of one kind; between two neighbours linearly. Of fewer than 100 values p99 is next to the largest."""

    count: int
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        cuts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else [*values] * 99
        return cls(len(values), cuts[49], cuts[89], cuts[98], max(values))


def histogram(values: Sequence[float], classes: int = 8) -> list[tuple[float, float, int]]:
    """Return classes of equal width, each from, to and how many values it has; the last one has its end, too."""
    if not values:
        return []
    low, high = min(values), max(values)
    if low == high:
        return [(low, high, len(values))]
    edges = [low + (high - low) * n / classes for n in range(classes)] + [high]
    found = [sum(since <= value < to for value in values) for since, to in pairwise(edges)]
    found[-1] += sum(value == high for value in values)
    return [(since, to, count) for (since, to), count in zip(pairwise(edges), found, strict=True)]


def bar(count: int, most: int) -> str:
    """Return a count as a bar, the longest for `most`; whatever there is shows."""
    return "#" * -(-count * BAR // most) if count else ""
