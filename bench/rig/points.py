"""Points at which the cost of a tick is measured, and what several rounds say of one. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.rig.stretch import Stretch

REACHED = 0.98  # of a rate: less is another rate
PARTS = {
    "workers": ("worker-1", "worker-2"),
    "writer": ("writer",),
    "supervisor": ("supervisor",),
    "spare": ("worker-3",),  # connected to nothing, ready to take over
}


class Point(NamedTuple):
    """Where the cost is measured. Without a rate the connections have their instruments, and nothing but heartbeats."""

    instruments: int
    rate: int  # ticks a second, of all connections

    def __str__(self) -> str:
        return f"{self.instruments:,} instruments, " + (f"{self.rate:,} ticks/s" if self.rate else "idle")


class Run(NamedTuple):
    """One round of a point."""

    stretch: Stretch
    memory_mb: float  # at most, of all processes of the recorder together, shared pages counted once

    @property
    def cost(self) -> float:
        """By which the rounds of a point are compared: CPU for a tick, without ticks the share of a core."""
        return self.stretch.us_per_tick() if self.stretch.sent else sum(parts_of(self.stretch.share).values())


@dataclass(frozen=True)
class Cost:
    """What a point costs: the whole round whose cost is the middle one, and the least and the most of all rounds."""

    point: Point
    sent_per_s: float
    us: Mapping[str, float]  # CPU for a tick, by part; empty without ticks
    least_us: float  # of all parts
    most_us: float
    share: Mapping[str, float]  # of one core, by part
    memory_mb: float  # of the round in the middle of these

    @property
    def rate(self) -> float:
        """Ticks a second: what was asked for, or what could be sent where that was less."""
        return self.sent_per_s if self.sent_per_s < self.point.rate * REACHED else self.point.rate

    @property
    def total_us(self) -> float:
        """CPU for a tick, of all parts."""
        return sum(self.us.values())

    @property
    def total_share(self) -> float:
        """How much of one core all parts use."""
        return sum(self.share.values())

    def as_dict(self) -> dict[str, Any]:
        """Return it as the JSON has it; without ticks there is no cost of one."""
        is_idle = not self.us
        return {
            "instruments": self.point.instruments,
            "ticks_per_second": self.point.rate,
            "sent_per_s": self.sent_per_s,
            "us_per_tick": None if is_idle else self.total_us,
            "us_per_tick_least": None if is_idle else self.least_us,
            "us_per_tick_most": None if is_idle else self.most_us,
            "us_per_tick_by_part": dict(self.us),
            "share_of_a_core": self.total_share,
            "share_by_part": dict(self.share),
            "memory_mb": self.memory_mb,
        }


def visits(points: Sequence[Point], rounds: int) -> list[Point]:
    """Return in which order points are measured: each once in a round, every other round backwards."""
    each = list(dict.fromkeys(points))
    return [point for number in range(rounds) for point in (reversed(each) if number % 2 else each)]


def cost_of(point: Point, runs: Sequence[Run]) -> Cost:
    """Return what all rounds of a point say; of an even number of rounds the lower middle one is shown."""
    in_order = sorted(runs, key=lambda run: run.cost)
    least, middle, most = in_order[0], in_order[(len(runs) - 1) // 2].stretch, in_order[-1]
    return Cost(
        point=point,
        sent_per_s=middle.sent_per_s,
        us={part: middle.us_per_tick(*roles) for part, roles in PARTS.items()} if middle.sent else {},
        least_us=least.cost if middle.sent else 0.0,
        most_us=most.cost if middle.sent else 0.0,
        share=parts_of(middle.share),
        memory_mb=statistics.median_low(run.memory_mb for run in runs),
    )


def parts_of(by_role: Mapping[str, float]) -> dict[str, float]:
    """Return the sums of the recorder's parts."""
    return {part: sum(by_role[role] for role in roles) for part, roles in PARTS.items()}
