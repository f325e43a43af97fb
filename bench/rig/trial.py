"""A recorder that is tried at one rate, and whether it held it."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from bench.rig import usage
from bench.rig.baseline import Baseline
from bench.rig.compare import compare
from bench.rig.recorder import Pipeline, Recorder, silence, tick_bytes
from bench.rig.room import most_bytes
from bench.rig.simulator import Plan, Simulator, plan
from bench.rig.stretch import Stretch, stretch
from pipeline.config import MAX_INSTRUMENTS

MODES: Mapping[str, tuple[str, ...]] = {"quote": ("quote",), "full": ("full",), "both": ("quote", "full")}
RECORDERS: Mapping[str, Callable[[Path, Simulator, Plan], Recorder]] = {"pipeline": Pipeline, "baseline": Baseline}
SENT_SHARE = 0.98  # of what was asked for: with less the rate was not the rate
SENT_LATE_S = 0.03  # what the simulator holds back for its next turn
LAG_SHARE = 0.1  # of the time: who falls behind by more does not hold the rate
LAG_LEAST_S, LAG_MOST_S = 0.3, 0.5  # a disk that is slow for a moment is no lack of speed
WHOLE_CORE = 0.85  # of a core: as good as all of it, on cores that have others to serve as well
ALL_CORES = 0.95
FASTEST = {"quote": 800_000, "full": 300_000}  # ticks a second that were ever taken, whatever was to be sent: the same


@dataclass(frozen=True)
class Feed:
    """What is recorded, except how fast."""

    mode: str
    instruments: int
    connections: int
    frame_ticks: int

    def __post_init__(self) -> None:
        most = self.connections * MAX_INSTRUMENTS
        if not self.connections <= self.instruments <= most:
            raise click.BadParameter(
                f"{self.connections} connections take {self.connections} to {most} instruments, not {self.instruments}"
            )


@dataclass(frozen=True)
class Trial:
    """What a recorder did at one rate."""

    stretch: Stretch
    file_bytes: int  # what the ticks of the stretch are on disk
    busy_cores: float  # of the machine while the ticks were sent, whoever used them

    @property
    def line_bytes(self) -> float:
        """How long a stored tick is."""
        return self.file_bytes / max(self.stretch.stored, 1)

    @property
    def mb_per_s(self) -> float:
        """What goes to disk."""
        return self.file_bytes / self.stretch.seconds / 1e6


def run_trial(folder: Path, name: str, feed: Feed, rate: int, seconds: float, *, compares: bool = False) -> Trial:
    """Start simulator and recorder afresh, record at this rate for so long, end both, and delete what was recorded.

    If the rate was held and `compares` is set, what the pipeline has stored is compared with what was sent, tick for
    tick; of the baseline, whose ticks have no numbers, they are only counted. Raises AssertionError where that finds a
    difference, or a process of the recorder ends meanwhile.
    """
    compares = compares and name == "pipeline"
    market = {"frame_ticks": feed.frame_ticks, "instruments": feed.instruments}
    with (
        tempfile.TemporaryDirectory(dir=folder) as own,
        Simulator(Path(own), **market, keep_record=compares) as simulator,
    ):
        recorder = RECORDERS[name](Path(own), simulator, plan(simulator.tokens(), feed.connections, feed.mode))
        try:
            silence(simulator, recorder, feed.connections)  # each instrument ticks once as it is subscribed
            pids, size, busy = recorder.pids, tick_bytes(recorder.data_dir), _Busy()
            done = stretch(
                simulator, recorder, rate=rate, connections=feed.connections, seconds=seconds, on_look=busy.look
            )
            ended = [role for role, pid in pids.items() if role not in done.cpu_s or recorder.pids.get(role) != pid]
            assert not ended, f"{name}: {' and '.join(ended)} ended while it recorded\n{_last_words(Path(own))}"
            size = tick_bytes(recorder.data_dir) - size
            trial = Trial(done, size, busy.cores)
            recorder.stop()
            if compares and not why_not_held(trial, feed):
                simulator.close()
                found = compare(simulator.sent_files, recorder.data_dir)
                assert found.is_equal, f"what is stored is not what was sent: {found}"
            return trial
        finally:
            recorder.kill()


def why_not_held(trial: Trial, feed: Feed) -> str:
    """Return why a rate was not held, empty if it was."""
    done = trial.stretch
    if done.stored != done.sent:
        return f"{done.sent:,} ticks were sent, {done.stored:,} are stored"
    late = done.rate * SENT_LATE_S + feed.connections * feed.frame_ticks
    if done.sent + late < SENT_SHARE * done.rate * done.seconds:
        return f"only {done.sent_per_s:,.0f} ticks/s could be sent"
    allowed_s = min(max(done.seconds * LAG_SHARE, LAG_LEAST_S), LAG_MOST_S)
    if max(done.behind_s, done.drain_s) > allowed_s:
        return f"up to {done.behind_s:.2f} s behind, {done.drain_s:.2f} s at the end; {allowed_s:.2f} s are allowed"
    return ""


def limit(trial: Trial, cores: int) -> str:
    """Return what kept a recorder from more: a process that uses a whole core, or the machine."""
    shares = dict(sorted(trial.stretch.share.items(), key=lambda item: -item[1]))
    largest = next(iter(shares))
    if shares[largest] >= WHOLE_CORE:
        return f"{largest}: {shares[largest]:.0%} of a core"
    told = ", ".join(f"{role} {share:.0%}" for role, share in shares.items() if share >= 0.1)
    if trial.busy_cores >= ALL_CORES * cores:
        others = max(trial.busy_cores - sum(shares.values()), 0.0)
        return f"the machine: all cores are busy ({told}, others and the kernel {others:.0%})"
    busy = f"{trial.busy_cores:.1f} of {cores} cores"
    return f"no process uses a whole core, and the machine {busy} ({told}): waiting, most likely for the disk"


def require_room(modes: Iterable[str], rate: int, seconds: float) -> None:
    """Raise UsageError where the disk has too little room for what one trial in one of these modes may record.

    To be asked before the first trial: each deletes what it has recorded, and what was found so far would be lost.
    """
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    needed = max(most_bytes(min(rate, FASTEST[mode]) * seconds, (mode,)) for mode in modes)
    if free < needed:
        raise click.UsageError(
            f"{folder} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} are needed; TMPDIR names another folder"
        )


class _Busy:
    """How many cores of the machine were busy between the first and the last look."""

    def __init__(self) -> None:
        self._looks: list[tuple[float, float]] = []

    def look(self, _: float) -> None:
        self._looks.append((time.monotonic(), usage.machine_s()))

    @property
    def cores(self) -> float:
        (began, before), (ended, after) = self._looks[0], self._looks[-1]
        return (after - before) / (ended - began) if ended > began else 0.0


def _last_words(folder: Path) -> str:
    """Return the ends of the logs."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".err", ".log") and path.stat().st_size)
    return "\n".join(f"{path.name}: {path.read_text(errors='replace').splitlines()[-1]}" for path in paths)
