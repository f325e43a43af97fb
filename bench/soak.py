"""A recorder that runs for hours: does it grow, fall behind, lose anything? `python -m bench.soak --hours 1`.

At a steady rate it is looked at every second for what waits to be stored, and every `--every` seconds for memory, open
files, and what is sent and stored. Each stored line is checked once, soon after it was written: it is a tick, and the
numbers of its stream go on without a hole. At the end the simulator falls silent, the recorder is stopped, what is
stored is compared with what was sent, tick for tick, and `mds verify` reads all of it.

Memory of one process is what is resident, shared pages included; of all together shared pages count once (PSS). Both
and the open files are flat if a line through them, by least squares and without the warm-up, rises over the run by no
more than `bench.rig.soaked` allows. With kills a role is judged by the process that has lived longest. Whether it is
flat is shown; the exit code is about loss only.

With kills what was on its way to a worker when it was killed is lost: of what each socket was sent the beginning is
stored, and there must be gap records. How much is lost is shown.

With `--discard` the blocks of checked lines are given back to the disk, all but the end of each file, while its size
stays. The recorder does not notice: a writer that begins again reads from its checkpoint on. `mds verify` could not
read the files then, and the check of each line stands in for it.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TextIO

import click

from bench.rig import room, show, soaked
from bench.rig.compare import compare
from bench.rig.ending import ENDINGS, heeded
from bench.rig.recorder import Pipeline, silence
from bench.rig.simulator import MODES, Simulator, plan
from bench.rig.soaked import Soak, figures, tables
from bench.rig.soaking import LOOK_S, Csv, Kills, Watch
from bench.rig.stored import KEPT_BYTES, StoredTicks, punch
from bench.rig.workplace import workplace
from pipeline.config import MAX_INSTRUMENTS
from pipeline.errors import MdsError
from tests.integration import service
from tests.integration.service import until

HOME_S = 120.0  # for a worker to begin again, and to be live for failover.stable_s
READ_BACK_S = 3600.0  # for `mds verify` to end


@click.command(context_settings={"max_content_width": 110, "show_default": True})
@click.option("--hours", required=True, type=click.FloatRange(0, min_open=True), metavar="H", help="How long.")
@click.option("--rate", default=10_000, type=click.IntRange(0), metavar="N", help="Ticks a second in all.")
@click.option(
    "--instruments", default=6000, type=click.IntRange(1, 2 * MAX_INSTRUMENTS), metavar="N", help="How many, in all."
)
@click.option(
    "--mode",
    default="mixed",
    type=click.Choice(list(MODES)),
    help="Mode of the ticks; mixed: each for a third of the instruments.",
)
@click.option(
    "--kills-per-hour",
    default=0.0,
    type=click.FloatRange(0),
    metavar="K",
    help="Kill writer, workers or supervisor at random moments, so often on average.",
)
@click.option(
    "--every", "every_s", default=10.0, type=click.FloatRange(0.1), metavar="S", help="Seconds between samples."
)
@click.option("--out", type=click.File("w", lazy=False), metavar="FILE.csv", help="Write all samples there.")
@click.option(
    "--discard",
    is_flag=True,
    help="Free the disk of ticks that were checked, to run for days; then nothing is compared, mds verify is left out.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    *,
    hours: float,
    rate: int,
    instruments: int,
    mode: str,
    kills_per_hour: float,
    every_s: float,
    out: TextIO | None,
    discard: bool,
    as_json: bool,
) -> None:
    """Record the simulator for hours, and watch memory, open files, lag and loss.

    Everything is written into a temporary folder (TMPDIR says where) that is deleted at the end. To compare takes up to
    130 bytes of memory for each tick. Ctrl-C ends the run early, with what there is to tell. Exits with 1 where
    anything was lost or is wrong; whether memory and open files are flat is told, and does not count.
    """
    service.DEADLINE_S = READ_BACK_S
    seconds = hours * 3600
    require_room(seconds, rate, mode, every_s, discard=discard)
    soak = Soak()
    with (
        workplace() as folder,
        asked_to_end() as asked,
        running(folder, instruments, mode, keep_record=not discard) as (simulator, recorder),
    ):
        checked = StoredTicks(recorder.data_dir)
        recorder.lines = checked
        watch = Watch(soak, simulator, recorder, checked, table=Csv(out), discard=discard)
        connections = min(2, instruments)
        show.note(f"recording {instruments:,} instruments at {rate:,} ticks/s into {folder}")
        try:
            simulator.set_rate(rate, connections)
            soak.ended_early = watch.until(seconds, every_s, Kills(kills_per_hour), asked)
            end(soak, simulator, recorder, checked, connections, discard=discard)
            soak.judge()
        except (AssertionError, OSError, MdsError, subprocess.TimeoutExpired) as error:
            soak.problems.append(str(error))
    about = {"rate": rate, "instruments": instruments, "mode": mode, "kills_per_hour": kills_per_hour}
    show.show(about | figures(soak), tables(soak), as_json=as_json)
    for problem in soak.problems:
        show.note(f"FAILED: {problem}")
    sys.exit(1 if soak.problems else 0)


def require_room(seconds: float, rate: int, mode: str, every_s: float, *, discard: bool) -> None:
    """Raise UsageError where what will be written does not fit on the disk, or what is compared not in memory."""
    line, wire = room.bytes_per_tick(MODES[mode])
    needed = rate * (seconds * (line + wire) if not discard else (every_s + LOOK_S) * line)
    needed = needed * room.MARGIN + room.SPARE_BYTES + (2 * KEPT_BYTES if discard else 0)  # of two days around midnight
    free = shutil.disk_usage(tempfile.gettempdir()).free
    show.note(f"about {needed / 1e9:,.1f} GB are needed in {tempfile.gettempdir()}, {free / 1e9:,.1f} GB are free")
    if needed > free:
        way_out = "TMPDIR names another folder" + ("" if discard else ", --discard needs little")
        raise click.UsageError(f"too little room: {needed / 1e9:,.1f} GB are needed, {free / 1e9:,.1f} free; {way_out}")
    if discard:
        with tempfile.NamedTemporaryFile() as probe:
            try:
                punch(Path(probe.name), 0, 4096)
            except OSError as error:
                raise click.UsageError(f"--discard does not work on this file system: {error.strerror}") from None
        return
    compared, memory = seconds * rate * room.COMPARED_BYTES, room.free_memory()
    if compared > memory:
        raise click.UsageError(
            f"too little memory: to compare what is stored with what was sent can take {compared / 1e9:,.1f} GB,"
            f" {memory / 1e9:,.1f} are free; run for a shorter time, or with --discard, which does not compare"
        )


@contextmanager
def running(folder: Path, instruments: int, mode: str, *, keep_record: bool) -> Iterator[tuple[Simulator, Pipeline]]:
    """Start a simulator, and a recorder subscribed to so many of its instruments; afterwards end both."""
    with Simulator(folder, instruments=instruments, keep_record=keep_record) as simulator:
        planned = plan(simulator.tokens(), min(2, instruments), mode)
        recorder = Pipeline(folder, simulator, planned, failover={"max_deaths": 10_000})
        try:
            yield simulator, recorder
        finally:
            recorder.kill()


@contextmanager
def asked_to_end() -> Iterator[Event]:
    """Yield what is set by Ctrl-C, SIGTERM or SIGHUP; the second time is a KeyboardInterrupt.

    Of SIGHUP it is not: a terminal that goes may send it twice, from the shell and from the kernel.
    """
    asked = Event()

    def ask(number: int, _: object) -> None:
        if asked.is_set() and number != signal.SIGHUP:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in heeded((signal.SIGINT, *ENDINGS))}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end(
    soak: Soak,
    simulator: Simulator,
    recorder: Pipeline,
    checked: StoredTicks,
    connections: int,
    *,
    discard: bool,
) -> None:
    """Let all that was sent be stored, stop the recorder, and compare. Raises AssertionError where it cannot."""
    recorded = recorder.service
    recorded.wait_until_settled()
    if soak.kills:
        until(lambda: spare_stands_by(recorder), "all instruments are on their own connections again", HOME_S)
    show.note("waiting until all is stored")
    silence(simulator, recorder, connections)
    recorder.stop()
    soak.sent, soak.stored, soak.is_complete = simulator.sent, checked(), True
    soak.missing, soak.wrong = checked.missing, checked.wrong
    died = Counter(event["process"] for event in recorded.events("process_died"))
    soak.problems += [
        f"{died[role] - soak.kills[role]} deaths of {role} that were not asked for"
        for role in died
        if died[role] > soak.kills[role]
    ]
    gaps = json.loads(recorded.mds("gaps", "--json").stdout)["totals"]
    soak.gaps, soak.gap_instrument_s = gaps["gaps"], gaps["instrument_seconds"]
    if discard:
        show.note("what was checked is discarded: it is not compared, and mds verify left out")
        return
    show.note("comparing what is stored with what was sent")
    simulator.close()
    soak.problems += soaked.differences(compare(simulator.sent_files, recorder.data_dir), is_cut=soak.is_cut)
    show.note("mds verify reads all of it")
    code, verdict = recorded.verify()
    soak.verified = code == 0
    soak.problems += [f"mds verify: {problem['message']}" for problem in verdict["problems"][:5]]
    if code and not verdict["problems"]:
        soak.problems.append("mds verify finds nothing that is recorded")


def spare_stands_by(recorder: Pipeline) -> bool:
    """Tell whether nothing is failed over."""
    status = recorder.service.status()
    return status is not None and status["connections"]["3"]["state"] == "standby"


if __name__ == "__main__":
    main()
