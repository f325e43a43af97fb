"""What processes use of the machine, from /proc and their CPU clocks."""

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

SAMPLE_S = 0.5
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")  # in /proc/stat

Pids = Mapping[str, int]  # by role


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, all its threads, to the nanosecond. Raises OSError if it is gone."""
    return time.clock_gettime((~pid << 3) | 2)  # its CPUCLOCK_SCHED, as clock_getcpuclockid(3) has it


def cpu_by_role(pids: Pids) -> dict[str, float]:
    """Return the CPU seconds of each of these that lives."""
    return {role: seconds for role, pid in pids.items() if (seconds := _or_none(cpu_s, pid)) is not None}


def machine_s() -> float:
    """Return the CPU seconds that this machine's cores have been busy since it started, or taken away from it."""
    words = Path("/proc/stat").read_text().partition("\n")[0].split()
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_guest = map(int, words[1:])
    return (user + nice + system + irq + softirq + steal) / CLOCK_TICKS_PER_S


def peak_mb(pid: int) -> float:
    """Return the most that has been resident of a process so far, shared pages included."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def resident_mb(pid: int) -> float:
    """Return what is resident of a process now, shared pages included."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def proportional_mb(pid: int) -> float:
    """Return what is resident of a process now, of pages that it shares its share."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def open_files(pid: int) -> int:
    """Return how many file descriptors a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


class MemoryWatch(threading.Thread):
    """Looks every half second at what the processes have in memory. A context manager.

    `pids` is asked each time, as processes may be replaced. `peak_mb` is by role, shared pages counted in each;
    `total_peak_mb` is the most of all together at one time, shared pages counted once.
    """

    def __init__(self, pids: Callable[[], Pids]) -> None:
        super().__init__(name="memory", daemon=True)
        self.peak_mb: dict[str, float] = {}
        self.total_peak_mb = 0.0
        self._pids = pids
        self._ended = threading.Event()

    def __enter__(self) -> "MemoryWatch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()
        self._look()

    def run(self) -> None:
        """Look until the end."""
        while not self._ended.wait(SAMPLE_S):
            self._look()

    def _look(self) -> None:
        pids = self._pids()
        for role, pid in pids.items():
            self.peak_mb[role] = max(self.peak_mb.get(role, 0.0), _or_none(peak_mb, pid) or 0.0)
        total = sum(_or_none(proportional_mb, pid) or 0.0 for pid in pids.values())
        self.total_peak_mb = max(self.total_peak_mb, total)


def _or_none(look: Callable[[int], float], pid: int) -> float | None:
    try:
        return look(pid)
    except OSError:  # it has ended
        return None
