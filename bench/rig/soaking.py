"""Looking at a recorder for hours, and killing some of it now and then."""

import csv
import itertools
import random
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from threading import Event
from typing import Any, TextIO

from bench.rig import show, usage
from bench.rig.recorder import ROLES, Pipeline
from bench.rig.room import SPARE_BYTES
from bench.rig.simulator import Simulator
from bench.rig.soaked import Sample, Soak, Use, progress
from bench.rig.stored import StoredTicks
from tests.integration import drills

LOOK_S = 1.0  # between looks at what waits
LINES = 60  # of progress, in all
LAST_WORDS = 5  # lines of a log
VICTIMS = {"writer": 5, "supervisor": 1, **drills.WORKERS}  # how often they are killed, in proportion


class Kills:
    """When who is killed: as independent events, so many an hour on average."""

    def __init__(self, per_hour: float) -> None:
        self._chance = random.Random()
        self._mean_s = 3600 / per_hour if per_hour else float("inf")
        self._due_s = self._pause_s()

    def due(self, now_s: float) -> str | None:
        """Return the role to be killed now, if one is."""
        if now_s < self._due_s:
            return None
        self._due_s = now_s + self._pause_s()
        (role,) = self._chance.choices(list(VICTIMS), list(VICTIMS.values()))
        return role

    def _pause_s(self) -> float:
        return self._mean_s * self._chance.expovariate(1.0)


class Csv:
    """All samples, as lines of a file if there is one."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file
        self._writer = csv.writer(file) if file else None
        columns = ("time", "seconds", "sent", "stored", "wrong", "behind_s", "kills", "free_gb", "pss_mb", "files")
        self._write([*columns, *(f"{role}_{name}" for role in ROLES for name in ("pid", "rss_mb", "pss_mb", "files"))])

    def add(self, sample: Sample) -> None:
        """Write one."""
        row: list[Any] = [datetime.now(UTC).isoformat(timespec="milliseconds"), round(sample.seconds, 3)]
        row += [sample.sent, sample.stored, sample.wrong, round(sample.behind_s, 3), sample.kills]
        row += [round(sample.free_gb, 2), round(sample.proportional_mb, 2), sample.files]
        for role in ROLES:
            use = sample.uses.get(role)
            row += [use.pid, round(use.resident_mb, 2), round(use.proportional_mb, 2), use.files] if use else [""] * 4
        self._write(row)

    def _write(self, row: Sequence[Any]) -> None:
        if self._writer and self._file:
            self._writer.writerow(row)
            self._file.flush()


class Watch:
    """Looks at a recorder, and kills some of it now and then."""

    def __init__(
        self,
        soak: Soak,
        simulator: Simulator,
        recorder: Pipeline,
        checked: StoredTicks,
        *,
        table: Csv,
        discard: bool,
    ) -> None:
        self._soak = soak
        self._simulator = simulator
        self._recorder = recorder
        self._checked = checked
        self._table = table
        self._discard = discard
        self._began_s = time.monotonic()
        self._most_behind_s = 0.0

    def until(self, seconds: float, every_s: float, kills: Kills, asked: Event) -> str:
        """Look until so much time has passed; return why it was less, if it was.

        Raises AssertionError where it is the fault of the recorder or the simulator.
        """
        looks = (self._began_s + number * min(LOOK_S, every_s) for number in itertools.count(1))
        sample_due_s, note_due_s = 0.0, 0.0
        why = ""
        while not why and (passed_s := time.monotonic() - self._began_s) < seconds:
            self._look()
            if role := kills.due(passed_s):
                self._kill(role)
            if passed_s >= sample_due_s:
                sample_due_s = passed_s - passed_s % every_s + every_s
                sample = self._sample()
                if passed_s >= note_due_s:
                    note_due_s = passed_s + max(seconds / LINES, every_s)
                    show.note(progress(sample))
                if sample.free_gb * 1e9 < SPARE_BYTES / 2:
                    why = f"the disk is nearly full: {sample.free_gb:.1f} GB are free"
            next_s = next(moment for moment in looks if moment > time.monotonic())
            if asked.wait(max(min(next_s, self._began_s + seconds) - time.monotonic(), 0)):
                why = "asked for"
        self._sample()
        return why

    def _look(self) -> None:
        code = self._recorder.service.runs[-1].poll()
        if code is not None:
            last_words = "\n".join(self._recorder.service.errors().splitlines()[-LAST_WORDS:])
            raise AssertionError(f"mds run has ended by itself with {code}; its last words:\n{last_words}")
        assert self._simulator.process.poll() is None, "the simulator has ended by itself"
        behind_s = self._recorder.behind()
        if behind_s == float("inf"):
            self._soak.unanswered += 1
        else:
            self._soak.behind_s.append(behind_s)
            self._most_behind_s = max(self._most_behind_s, behind_s)

    def _sample(self) -> Sample:
        stored, sent = self._checked(), self._simulator.sent
        if self._discard:
            self._checked.discard()
        uses = {role: use for role, pid in self._recorder.pids.items() if (use := use_of(pid))}
        sample = Sample(
            seconds=time.monotonic() - self._began_s,
            sent=sent,
            stored=stored,
            wrong=self._checked.missing + self._checked.wrong.total(),
            behind_s=self._most_behind_s,
            kills=self._soak.kills.total(),
            free_gb=shutil.disk_usage(self._recorder.data_dir).free / 1e9,
            uses=uses,
        )
        self._most_behind_s = 0.0
        self._soak.samples.append(sample)
        self._soak.lasted_s, self._soak.sent, self._soak.stored = sample.seconds, sent, stored
        self._table.add(sample)
        return sample

    def _kill(self, role: str) -> None:
        recorded = self._recorder.service
        recorded.kill(role)
        self._soak.kills[role] += 1
        if role == "supervisor":
            drills.follow_supervisor(recorded)


def use_of(pid: int) -> Use | None:
    """Return what a process uses, None where it has ended."""
    try:
        return Use(pid, usage.resident_mb(pid), usage.proportional_mb(pid), usage.open_files(pid))
    except OSError:
        return None
