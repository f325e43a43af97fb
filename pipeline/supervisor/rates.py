"""Counts that go on when who counts them begins anew, and how fast they grow. Pure; times in seconds, monotonic."""

from collections import deque
from collections.abc import Mapping

SPAN_S = 60.0  # the longest that a rate is asked for
STEP_S = 0.2  # between samples, at least
SLACK_S = 0.6  # reports come twice a second: the sample that is nearest to a second ago is up to half of one away
STALE_S = 3.0  # who has said nothing for so long counts nothing


class Rate:
    """How fast a count grows, from samples of it."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def hear(self, now_s: float, count: int) -> None:
        """Take in what has been counted until now."""
        samples = self._samples
        if len(samples) > 1 and now_s - samples[-2][0] < STEP_S:
            samples.pop()
        samples.append((now_s, count))
        while samples[0][0] < now_s - SPAN_S - SLACK_S:
            samples.popleft()

    def over(self, span_s: float, now_s: float, *, has_ended: bool = False) -> float:
        """Return the growth a second over the last `span_s` seconds, or over as much of them as is known.

        `has_ended`: who counted is no more, so nothing has come since.
        """
        if len(self._samples) < 2 or (now_s - self._samples[-1][0] > STALE_S and not has_ended):
            return 0.0
        last_s, last = self._samples[-1]
        if has_ended:
            last_s = now_s
        first_s, first = min(
            ((s, count) for s, count in self._samples if s < last_s),
            key=lambda sample: abs(last_s - span_s - sample[0]),
            default=(last_s, last),
        )
        return round((last - first) / (last_s - first_s), 1) if last_s > first_s else 0.0


class Tally:
    """The sums of counts that begin at zero with each `generation` of who counts."""

    def __init__(self) -> None:
        self._generation: int | None = None
        self._before: dict[str, int] = {}
        self._now: dict[str, int] = {}

    def hear(self, generation: int, counts: Mapping[str, int]) -> None:
        """Take in the counts of now."""
        if generation != self._generation:
            self._before = {name: self[name] for name in self._before.keys() | self._now.keys()}
            self._generation = generation
        self._now = dict(counts)

    def __getitem__(self, name: str) -> int:
        return self._before.get(name, 0) + self._now.get(name, 0)
