"""Is all of it stored, how soon, and at what cost: `python -m bench.load`.

Starts the simulator and the service as a user would, records for a while at a steady rate, and then compares what the
simulator has sent, message by message, with what is in the files. A tick counts as stored if every field of it is, to
the bit. `mds verify` has its say besides.

Latencies are seen from outside the service, by a process that looks on (`bench.rig.latency`), and are upper bounds.
They are of the ticks that were received after the rate was set. The snapshot of all instruments, which comes in one
piece as they are subscribed, is in `max ever` only. CPU times are those from then until all was stored. Being looked at
costs the service something, which its figures include: about five microseconds for each write of the writer, and four
requests a second to the supervisor, except at rate 0.
"""

import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import polars as pl

from bench.rig import show, usage
from bench.rig.compare import Comparison, compare
from bench.rig.latency import Delay, Latency, Probe, Seen
from bench.rig.recorder import Pipeline, silence, wait_until_subscribed
from bench.rig.room import most_bytes
from bench.rig.simulator import MODES, RATE_MAX, Simulator, plan
from bench.rig.stretch import Stretch, stretch
from bench.rig.workplace import workplace
from pipeline.config import MAX_INSTRUMENTS, Storage
from pipeline.simulator.frames import FRAME_TICKS_MAX
from pipeline.store.files import Chunk, tick_files
from tests.integration import service

READ_BACK_S = 1800.0  # for `mds verify`: it reads gigabytes
WRITTEN_MS, DURABLE_MS = 2, Storage().commit_interval_ms + 20  # to reach by 99 of 100 ticks
MEMORY_MB = 400  # to reach


@dataclass(frozen=True)
class Load:
    """What is recorded."""

    rate: int
    seconds: int
    connections: int
    instruments: int
    mode: str
    frame_ticks: int

    def check(self) -> None:
        """Raise UsageError where it cannot be done."""
        most = self.connections * MAX_INSTRUMENTS
        if not self.connections <= self.instruments <= most:
            raise click.UsageError(f"--connections {self.connections} takes {self.connections} to {most} instruments")
        folder = tempfile.gettempdir()
        needed = most_bytes(self.rate * self.seconds, MODES[self.mode])
        if shutil.disk_usage(folder).free < needed:
            raise click.UsageError(f"about {needed / 1e9:.0f} GB must be free in {folder}; TMPDIR names another folder")


@dataclass(frozen=True)
class Recording:
    """What there was to see while it was recorded, or went wrong."""

    sent_files: list[Path]
    data_dir: Path
    began_ns: int  # when the rate was set
    stretch: Stretch
    seen: Seen
    probe_cpu_s: float
    peak_mb: Mapping[str, float]
    total_peak_mb: float
    problems: int  # that `mds verify` has found
    failures: list[str]


@dataclass(frozen=True)
class Result:
    """What came of it."""

    recording: Recording
    comparison: Comparison
    written: Delay
    durable: Delay

    @property
    def failures(self) -> list[str]:
        """What is not as it should be, in words."""
        wrong = [f"{count:,} {name}" for name, count in differences(self.comparison).items() if count]
        return ([f"ticks: {', '.join(wrong)}"] if wrong else []) + self.recording.failures


@click.command(context_settings={"show_default": True})
@click.option("--rate", default=1000, type=click.IntRange(0, 2 * RATE_MAX), metavar="N", help="Ticks a second in all.")
@click.option(
    "--seconds", default=60, type=click.IntRange(min=1), metavar="S", help="Seconds for which ticks are sent."
)
@click.option(
    "--connections", default=2, type=click.IntRange(1, 2), metavar="N", help="How many share the instruments."
)
@click.option(
    "--instruments", default=3000, type=click.IntRange(1, 2 * MAX_INSTRUMENTS), metavar="N", help="How many, in all."
)
@click.option(
    "--mode",
    default="mixed",
    type=click.Choice(list(MODES)),
    help="Mode of the ticks; mixed: each for a third of the instruments.",
)
@click.option(
    "--frame-ticks",
    default=0,
    type=click.IntRange(0, FRAME_TICKS_MAX),
    metavar="N",
    help="Ticks in one message. 0: what every ten milliseconds bring.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(*, as_json: bool, **options: Any) -> None:
    """Record a simulator at a steady rate, and compare what it has sent with what is stored.

    Shows what was lost, repeated, altered or out of order, how long ticks took into the file and onto the disk, and
    what each process used of CPU and memory. Exits with 1 if anything is not stored as it was sent, or a process died.
    With --rate 0 there is only what being connected costs.

    Works in a temporary folder, which takes up to two gigabytes for each million ticks; TMPDIR says where.
    """
    load = Load(**options)
    load.check()
    with workplace() as folder:
        result = compared(recorded(folder, load))
    show.show(asdict(load) | figures(result), list(tables(result)), as_json=as_json)
    for failure in result.failures:
        show.note(failure)
    sys.exit(1 if result.failures else 0)


def recorded(folder: Path, load: Load) -> Recording:
    """Run simulator and service in a folder until all that was sent is stored, or nothing more comes."""
    data_dir, run_dir = folder / "market_data", folder / "run"
    failures = []
    with (
        Simulator(folder, frame_ticks=load.frame_ticks, instruments=load.instruments, keep_record=True) as simulator,
        Probe(data_dir, run_dir) as probe,
    ):
        wanted = plan(simulator.tokens(), load.connections, load.mode)
        places = {"storage": {"data_dir": str(data_dir)}, "runtime": {"run_dir": str(run_dir)}}
        recorder = Pipeline(folder, simulator, wanted, **places)
        try:
            wait_until_subscribed(simulator, wanted)
            silence(simulator, recorder, load.connections)
            with usage.MemoryWatch(lambda: recorder.pids) as memory, show.progress(load.seconds, "recording") as bar:
                pids, cpu_s, began_ns = recorder.pids, usage.cpu_s(probe.pid), time.time_ns()
                what = stretch(
                    simulator,
                    recorder,
                    rate=load.rate,
                    connections=load.connections,
                    seconds=load.seconds,
                    on_look=lambda passed: bar.update(round(passed * 10) - bar.pos),
                )
                bar.update(bar.length - bar.pos)
                cpu_s = usage.cpu_s(probe.pid) - cpu_s
            failures += [f"{role} has died" for role, pid in pids.items() if recorder.pids.get(role) != pid]
            try:
                recorder.stop()
            except AssertionError as error:
                failures.append(f"the service has not ended in order {error}".strip())
        finally:
            recorder.kill()
        seen = probe.seen()
    show.note("verifying")
    service.DEADLINE_S = READ_BACK_S
    code, report = recorder.service.verify()
    if code:
        first = report["problems"][0]["message"] if report["problems"] else "nothing is stored"
        failures.append(f"mds verify: {len(report['problems'])} problems; {first}")
    return Recording(
        sent_files=simulator.sent_files,
        data_dir=data_dir,
        began_ns=began_ns,
        stretch=what,
        seen=seen,
        probe_cpu_s=cpu_s,
        peak_mb=memory.peak_mb,
        total_peak_mb=memory.total_peak_mb,
        problems=len(report["problems"]),
        failures=failures,
    )


def compared(recording: Recording) -> Result:
    """Read all of it back."""
    latency = Latency(recording.seen, recording.began_ns)
    size = sum(path.stat().st_size for path in tick_files(recording.data_dir))
    with click.progressbar(length=size, label="comparing", file=sys.stderr, width=30) as bar:

        def on_chunk(chunk: Chunk, ticks: pl.DataFrame) -> None:
            latency.take(chunk, ticks)
            bar.update(len(chunk.data))

        comparison = compare(recording.sent_files, recording.data_dir, on_chunk)
    return Result(recording, comparison, latency.written(), latency.durable())


def figures(result: Result) -> dict[str, Any]:
    """Return what `--json` prints, beside what was asked for."""
    recording, what = result.recording, result.recording.stretch
    roles = recorder_roles(what)
    return {
        **asdict(result.comparison),
        "problems": recording.problems,
        "sent_per_second": round(what.sent_per_s, 1),
        "behind_s": round(what.behind_s, 3) if math.isfinite(what.behind_s) else None,  # nobody has answered
        "written_ms": asdict(result.written),
        "durable_ms": asdict(result.durable),
        "cpu_s": rounded(what.cpu_s),
        "share_of_a_core": rounded(what.share),
        "us_per_tick": rounded({role: what.us_per_tick(role) for role in what.cpu_s}) if what.sent else None,
        "peak_mb": rounded(recording.peak_mb),
        "service_share_of_a_core": round(sum(what.share[role] for role in roles), 3),
        "service_us_per_tick": round(what.us_per_tick(*roles), 3) if what.sent else None,
        "service_peak_mb": round(recording.total_peak_mb, 3),
        "probe_cpu_s": round(recording.probe_cpu_s, 3),
        "failures": result.failures,
    }


def rounded(by_role: Mapping[str, float]) -> dict[str, float]:
    """Return figures without digits that mean nothing."""
    return {role: round(value, 3) for role, value in by_role.items()}


def tables(result: Result) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield the same as tables."""
    recording, what, found = result.recording, result.recording.stretch, result.comparison
    yield (
        "ticks|>|>to reach",
        [
            ["sent", f"{found.sent:,}", ""],
            ["sent a second", f"{what.sent_per_s:,.0f}", f"{what.rate:,}"],
            ["stored", f"{found.stored:,}", f"{found.sent:,}"],
            *([name, f"{count:,}", "0"] for name, count in differences(found).items()),
            ["problems that `mds verify` finds", f"{recording.problems:,}", "0"],
        ],
    )
    yield (
        "at most, in ms|>p50|>p99|>max|>max ever|>ticks|>not seen|>p99 to reach",
        [
            delay_row("receive -> written", result.written, WRITTEN_MS),
            delay_row("receive -> durable", result.durable, DURABLE_MS),
        ],
    )
    together = process_row("the service", what, recorder_roles(what), recording.total_peak_mb)
    yield (
        "process|>CPU s|>us a tick|>of a core|>peak MB|>to reach",
        [
            *([*process_row(role, what, [role], recording.peak_mb.get(role)), ""] for role in recorder_roles(what)),
            [*together, f"< {MEMORY_MB} MB"],
            [*process_row("simulator", what, [Simulator.role], None), ""],
            ["probe of this benchmark", f"{recording.probe_cpu_s:.2f}", "", "", "", ""],
        ],
    )


def differences(found: Comparison) -> dict[str, int]:
    """Return in how many ticks what is stored differs from what was sent, by how."""
    names = ("lost", "repeated", "out_of_order", "foreign")
    return {name.replace("_", " "): getattr(found, name) for name in names}


def recorder_roles(what: Stretch) -> list[str]:
    """Return the roles of the service that lived from beginning to end."""
    return [role for role in what.cpu_s if role != Simulator.role]


def delay_row(name: str, took: Delay, limit_ms: float) -> list[str]:
    """Return a row of latencies."""
    times = ("-" if value is None else f"{value:.2f}" for value in (took.p50, took.p99, took.max, took.max_ever))
    return [name, *times, f"{took.count:,}", f"{took.not_seen:,}", f"< {limit_ms}"]


def process_row(name: str, what: Stretch, roles: list[str], peak_mb: float | None) -> list[str]:
    """Return a row of processes, without what is to be reached."""
    cpu_s, share = (sum(by_role[role] for role in roles) for by_role in (what.cpu_s, what.share))
    cost = f"{what.us_per_tick(*roles):.2f}" if what.sent else "-"
    return [name, f"{cpu_s:.2f}", cost, f"{share:.1%}", "" if peak_mb is None else f"{peak_mb:.0f}"]


if __name__ == "__main__":
    main()
