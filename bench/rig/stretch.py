"""A stretch of recording at one rate, and what it cost."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.rig import usage
from bench.rig.recorder import Recorder, drain
from bench.rig.simulator import Simulator

LOOK_S = 0.25


@dataclass(frozen=True)
class Stretch:
    """What happened from the first tick until all was stored, or nothing more came."""

    rate: int  # ticks a second, that were asked for
    seconds: float  # in which the simulator was to send them
    drain_s: float  # and until all was stored after that
    sent: int
    stored: int
    behind_s: float  # for how long a tick waited at most that was received and not stored, meanwhile; 0: nobody asked
    cpu_s: Mapping[str, float]  # by role; of the recorder, and the simulator
    share: Mapping[str, float]  # of one core, by role, while ticks were sent

    @property
    def lost(self) -> int:
        """How many ticks are not stored."""
        return max(self.sent - self.stored, 0)

    @property
    def sent_per_s(self) -> float:
        """At which rate the simulator could send; less than was asked for where the recorder does not read in time."""
        return self.sent / self.seconds

    def us_per_tick(self, *roles: str) -> float:
        """Return the CPU time of these roles for one tick, in microseconds; without roles that of the recorder."""
        chosen = roles or [role for role in self.cpu_s if role != Simulator.role]
        return sum(self.cpu_s[role] for role in chosen) / max(self.sent, 1) * 1e6


def stretch(
    simulator: Simulator,
    recorder: Recorder,
    *,
    rate: int,
    connections: int,
    seconds: float,
    on_look: Callable[[float], object] = lambda _: None,
    asks_lag: bool = True,
) -> Stretch:
    """Send so many ticks a second over these connections, for so long, then none, and wait until they are stored.

    `on_look` is told a few times a second how many seconds have passed. Without `asks_lag` the recorder is not asked
    how far it is behind: to answer costs it a fifth of a per cent of a core, which counts where little else is done.
    """
    pids = recorder.pids | simulator.pids
    before, sent, stored = usage.cpu_by_role(pids), simulator.sent, recorder.lines()
    behind_s = 0.0
    began = time.monotonic()
    simulator.set_rate(rate, connections)
    while (passed := time.monotonic() - began) < seconds:
        on_look(passed)
        time.sleep(min(LOOK_S, seconds - passed))
        if asks_lag and rate:
            behind_s = max(behind_s, recorder.behind())
    lasted, busy = time.monotonic() - began, usage.cpu_by_role(pids)
    total, drained_s = drain(simulator, recorder, connections)
    cpu = _used(before, usage.cpu_by_role(pids))
    share = {role: seconds / lasted for role, seconds in _used(before, busy).items()}
    return Stretch(rate, lasted, drained_s, total - sent, recorder.lines() - stored, behind_s, cpu, share)


def _used(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """Return how much CPU time each role has used between these, those that are gone left out."""
    return {role: now[role] - used for role, used in before.items() if role in now}
