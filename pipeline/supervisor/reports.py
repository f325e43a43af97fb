"""What workers and the writer have reported: the last word of each, counts that go on over their deaths, and rates."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.status import Durations
from pipeline.supervisor.rates import Rate, Tally

RATE_S = 10.0
_TALLIED = ("ticks_refused", "rejects", "reconnects", "gaps")


@dataclass
class WorkerReports:
    """What a worker has said, and the counts of the epochs before the present one."""

    message: Mapping[str, Any] = field(default_factory=dict)
    heard_s: float = 0.0  # monotonic
    counted_before: int = 0
    epoch: int | None = None
    rate: Rate = field(default_factory=Rate)
    tally: Tally = field(default_factory=Tally)
    last_tick_time: str | None = None
    last_tick_s: float | None = None  # monotonic: the wall clock may be set
    subscribed_s: float = 0.0  # when it began to be live with as many instruments as it has; monotonic
    counted_at_first: int = 0  # before the service started, by a process that was adopted
    epochs: set[int] = field(default_factory=set)  # of which tick_count counts all ticks

    @property
    def tick_count(self) -> int:
        """Ticks received, over all epochs that were heard of."""
        received: int = self.message.get("ticks_received", 0)
        return self.counted_before + received

    def counted_until(self, message: Mapping[str, Any]) -> int:
        """Return the ticks before the epoch of `message`, which knows how far a killed predecessor had come."""
        if self.epoch is None:
            return 0
        if message["previous_epoch"] == self.epoch and message["previous_last_seq"] is not None:
            return self.counted_before + int(message["previous_last_seq"])
        return self.tick_count

    def hear(self, message: Mapping[str, Any], now_s: float, started_s: float) -> None:
        """Take in a status; `started_s` is when the service was started."""
        is_first = self.epoch is None
        if message["epoch"] != self.epoch:
            self.counted_before = self.counted_until(message)
            self.epoch = message["epoch"]
        self.epochs.add(message["epoch"])
        if any(message[name] != self.message.get(name) for name in ("epoch", "live_since", "confirmed")):
            self.subscribed_s = now_s
        self.message, self.heard_s = message, now_s
        if is_first or now_s <= started_s:  # what was said while nobody listened comes first
            self.counted_at_first = self.tick_count
        self.last_tick_time = message["last_tick_time"] or self.last_tick_time
        if message["tick_age_s"] is not None:
            self.last_tick_s = now_s - message["tick_age_s"]
        self.rate.hear(now_s, self.tick_count)
        self.tally.hear(message["epoch"], {name: message[name] for name in _TALLIED})


@dataclass
class WriterReports:
    """What the writer has said, and the counts of those before it."""

    message: Mapping[str, Any] = field(default_factory=dict)
    heard_s: float = 0.0
    tally: Tally = field(default_factory=Tally)
    bytes_rate: Rate = field(default_factory=Rate)
    commit_rate: Rate = field(default_factory=Rate)
    longest: deque[tuple[float, float]] = field(default_factory=deque)  # (monotonic s, ms) of the last ten seconds

    def hear(self, message: Mapping[str, Any], now_s: float) -> None:
        """Take in a status."""
        self.message, self.heard_s = message, now_s
        names = ("bytes_written", "commits", "syncs_failed", "batches_refused", "commit_us")
        buckets = {f"<={place}": count for place, count in enumerate(message["commit_counts"])}
        self.tally.hear(message["pid"], {name: message[name] for name in names} | buckets)
        self.bytes_rate.hear(now_s, self.tally["bytes_written"])
        self.commit_rate.hear(now_s, self.tally["commits"])
        self.longest.append((now_s, message["commit_ms_max"]))
        while self.longest[0][0] < now_s - RATE_S:
            self.longest.popleft()

    def longest_ms(self, span_s: float, now_s: float) -> float:
        """Return how long the longest sync of the last seconds took."""
        return max((ms for heard_s, ms in self.longest if heard_s > now_s - span_s), default=0.0)

    @property
    def durations(self) -> Durations:
        """How long syncs took."""
        bounds = self.message.get("commit_bounds_s", [])
        counts = [self.tally[f"<={place}"] for place in range(len(bounds) + 1)]
        return Durations(bounds_s=bounds, counts=counts, sum_s=self.tally["commit_us"] / 1e6)
