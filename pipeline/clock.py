"""Receive times: wall-clock nanoseconds that never step back within an epoch.

A reading of the wall clock anchors the boot-time clock, which goes on through suspension and cannot be set. When the
wall clock is set forward, the anchor follows; when it is set back, receive times stay where they are until the next
epoch: they may then be ahead of the wall clock, but the order of ticks and the day they belong to hold.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.days import NS_PER_S

STEP_NS = NS_PER_S // 10  # a difference below this is drift: daemons slew it away
SUSPENDED_NS = 2 * NS_PER_S  # a pause of the machine worth a gap record


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class ClockStep:
    """The wall clock was found `offset_ns` ahead of receive time (negative: behind); `followed` if they agree again."""

    offset_ns: int
    followed: bool


class ReceiveClock:
    """Receive time for one epoch, see above. `now_ns` is called for every frame; `check` about once a second."""

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        boot_ns: Callable[[], int] = _boot_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall_ns = wall_ns
        self._boot_ns = boot_ns
        self._monotonic_ns = monotonic_ns
        self._anchor_ns = wall_ns() - boot_ns()
        self._awake_ns = boot_ns() - monotonic_ns()  # grows by each suspension
        self._reported_ns = 0  # the offset that was last not followed

    def now_ns(self) -> int:
        """Return the receive time of what arrives now, in nanoseconds since the Unix epoch."""
        return self._anchor_ns + self._boot_ns()

    def check(self) -> ClockStep | None:
        """Compare with the wall clock and follow it forward; a difference is reported once."""
        offset_ns = self._wall_ns() - self.now_ns()
        if offset_ns >= STEP_NS:
            self._anchor_ns += offset_ns
            self._reported_ns = 0
            return ClockStep(offset_ns, followed=True)
        if offset_ns <= -STEP_NS and abs(offset_ns - self._reported_ns) >= STEP_NS:
            self._reported_ns = offset_ns
            return ClockStep(offset_ns, followed=False)
        if abs(offset_ns) < STEP_NS:
            self._reported_ns = 0
        return None

    def suspended_ns(self) -> int:
        """Return for how long the machine was suspended since this was last asked, 0 if it was not."""
        asleep_ns = self._boot_ns() - self._monotonic_ns() - self._awake_ns
        if asleep_ns < SUSPENDED_NS:
            return 0
        self._awake_ns += asleep_ns
        return asleep_ns
