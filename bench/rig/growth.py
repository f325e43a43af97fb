"""Whether what a process uses grows. Pure.

The first part of a run does not count: caches fill, and the machine settles. Through the rest goes a straight line by
least squares. What rises along it by no more than is allowed is flat. Too short a run tells nothing.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WARM_UP_S = 120.0  # or this share of the run, whichever is less:
WARM_UP_SHARE = 0.1
LEAST_S = 600.0  # below this a rise cannot be told from noise
LEAST_POINTS = 10

Point = tuple[float, float]  # seconds since the beginning, and the value then


@dataclass(frozen=True)
class Growth:
    """Of one value, after the warm-up."""

    first: float
    last: float
    largest: float
    per_hour: float  # slope of the line
    rise: float  # of the line, from the first point to the last
    is_flat: bool | None  # None: too short to tell


def growth(points: Sequence[Point], *, allowed: float, allowed_share: float = 0.0) -> Growth | None:
    """Return the growth of a value, None where there are no points.

    It may rise by `allowed`, or by `allowed_share` of its mean, whichever is more.
    """
    if not points:
        return None
    began_s, ended_s = points[0][0], points[-1][0]
    warm_s = began_s + min(WARM_UP_S, WARM_UP_SHARE * (ended_s - began_s))
    times, values = zip(*(point for point in points if point[0] >= warm_s), strict=True)
    lasted_s = times[-1] - times[0]
    slope = statistics.linear_regression(times, values).slope if lasted_s > 0 else 0.0
    rise = slope * lasted_s
    is_flat = None
    if lasted_s >= LEAST_S and len(values) >= LEAST_POINTS:
        is_flat = rise <= max(allowed, allowed_share * statistics.fmean(values))
    return Growth(values[0], values[-1], max(values), slope * 3600, rise, is_flat)
