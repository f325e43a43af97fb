"""When to restart what has died. Pure: the time is handed in."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.backoff import exponential

FIRST_S, CAP_S = 0.1, 10.0
WRITER_CAP_S = 1.0  # every worker waits for it
FORGIVEN_S = 60.0  # who ran for so long has its next death counted as the first


@dataclass
class Restarts:
    """The restarts of one process. The first one of the writer comes at once."""

    is_writer: bool
    count: int = 0
    _delays: Iterator[float] = field(default_factory=lambda: iter(()))
    _fresh: bool = True

    def died(self, lived_s: float) -> float:
        """Take note of a death after `lived_s` seconds; return how many seconds to wait before the restart."""
        if lived_s > FORGIVEN_S:
            self._fresh = True
        self.count += 1
        if self._fresh:
            self._fresh = False
            self._delays = exponential(FIRST_S, WRITER_CAP_S if self.is_writer else CAP_S)
            if self.is_writer:
                return 0.0
        return next(self._delays)
