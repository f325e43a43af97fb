"""Tests for `mds verify`: files as the recorder writes them are proved right, and any damage to them is told."""

import fcntl
import json
import os
import pty
import random
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli.verify import verify as command
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.events import encode_event
from pipeline.store import files, sequence, snapshot
from pipeline.store.keeping.closed import FirstOpen
from pipeline.store.keeping.removal import remove
from pipeline.store.verify import Report, verify
from pipeline.ticks import Depth, DepthLevel, FullTick, LtpTick, Ohlc, QuoteTick, StoredTick, encode_lines

DAYS = [date(2025, 10, 1) + timedelta(days=n) for n in range(4)]
ZONE = ZoneInfo("Asia/Kolkata")


def start(day: int, hour: int = 9, millisecond: int = 0) -> int:
    """Return the epoch that begins at this time."""
    begin = datetime(2025, 10, 1, hour, tzinfo=ZONE) + timedelta(days=day, milliseconds=millisecond)
    return int(begin.timestamp() * 1000)


def stamp(day: int) -> str:
    return f"{DAYS[day]}T09:15:23.123456+05:30"


def tick(connection_id: int, epoch: int, seq: int, day: int = 0) -> StoredTick:
    where: dict[str, Any] = {"timestamp": stamp(day), "connection_id": connection_id, "epoch": epoch, "seq": seq}
    return LtpTick(tradable=True, instrument_token=408065, last_price=1512.35, **where)


Known = tuple[int | None, int | None, int | None]  # previous epoch, its last seq and event_seq


@dataclass
class Recording:
    """Day files in the making: lists of lines, to be damaged before they are saved."""

    data_dir: Path
    lines: defaultdict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))

    def ticks(self, connection_id: int, epoch: int, first: int, last: int, day: int = 0) -> None:
        lines = encode_lines([tick(connection_id, epoch, seq, day) for seq in range(first, last + 1)])
        self.lines[f"market_data_{DAYS[day]}.jsonl"] += lines.splitlines(keepends=True)

    def event(
        self, connection_id: int, epoch: int, number: int, event: str = "connected", *, day: int = 0, **fields: Any
    ) -> None:
        source = fields.pop("source", f"worker-{connection_id}")
        fields = {"connection_id": connection_id, **fields}
        line = encode_event(event, stamp(day), fields, source=source, epoch=epoch, event_seq=number)
        self.lines[f"events_{DAYS[day]}.jsonl"].append(line)

    def begin(
        self, connection_id: int, epoch: int, previous: Known = (None, None, None), end: str = "", *, day: int = 0
    ) -> None:
        names = ("previous_epoch", "previous_last_seq", "previous_last_event_seq")
        fields: dict[str, Any] = dict(zip(names, previous, strict=True))
        fields["previous_end"] = end or ("clean" if previous[0] else "none")
        self.event(connection_id, epoch, 1, "epoch", day=day, **fields)

    def gap(self, connection_id: int, epoch: int, number: int, *, cause: str, day: int = 0, **fields: Any) -> None:
        times = {"from": f"{DAYS[day]}T09:15:20+05:30", "to": f"{DAYS[day]}T09:15:22.5+05:30"}
        fields = {"instruments": [408065], **times, "cause": cause, **fields}
        self.event(connection_id, epoch, number, "gap", day=day, **fields)

    def spool(self, connection_id: int, epoch: int) -> None:
        (self.data_dir / "spool" / str(connection_id) / str(epoch)).mkdir(parents=True)

    def save(self) -> None:
        for name, lines in self.lines.items():
            (self.data_dir / name).write_bytes(b"".join(lines))

    def check(self, *names: str) -> Report:
        self.save()
        return check(self.data_dir, *names)


def check(data_dir: Path, *names: str) -> Report:
    config = Config().with_changes(storage={"data_dir": data_dir})
    return verify(snapshot.take(config, [data_dir / name for name in names]))


TICKS, EVENTS = "market_data_2025-10-01.jsonl", "events_2025-10-01.jsonl"
E1, E2, E3 = start(0), start(0, 11), start(0, 13)


@pytest.fixture
def recording(tmp_path):
    """Connection 1 with two epochs, ten ticks each, and connection 2 with one, in one day; all is right."""
    made = Recording(tmp_path)
    made.begin(1, E1)
    made.begin(2, E1)
    made.ticks(1, E1, 1, 4)
    made.ticks(2, E1, 1, 5)
    made.ticks(1, E1, 5, 10)
    made.event(1, E1, 2)
    made.begin(1, E2, (E1, 10, 2))
    made.ticks(1, E2, 1, 10)
    made.event(0, E1, 1, "started", source="supervisor")
    return made


def counts(report: Report, *names: str) -> dict[str, int]:
    """Return the counts of `names`, and of everything else that is not zero and should be."""
    wrong = ("gaps", "duplicates", "out_of_order", "torn", "invalid", "missing", "pending", "cut")
    return {name: getattr(report, name) for name in wrong if name in names or getattr(report, name)}


def test_a_clean_recording_is_right(recording):
    """Everything is counted and nothing is wrong."""
    report = recording.check()
    assert (report.ok, report.chain, report.problems, counts(report)) == (True, "ok", [], {})
    assert (report.files, report.event_files, report.ticks, report.events, report.streams) == (1, 1, 25, 5, 3)
    assert report.bytes == sum(path.stat().st_size for path in recording.data_dir.glob("*.jsonl"))


def test_a_hole_is_told_with_its_place(recording):
    """Ticks that are missing in the middle: which, and the line before which they should stand."""
    del recording.lines[TICKS][1:3]
    report = recording.check()
    assert not report.ok
    assert counts(report) == {"gaps": 1, "missing": 2}
    [problem] = report.problems
    assert problem.message == f"ticks 2 to 3 of connection 1, epoch {E1} are missing before this line"
    assert (problem.place.path.name, problem.place.line) == (TICKS, 2)
    assert problem.place.offset == len(recording.lines[TICKS][0])


def test_ticks_missing_at_the_beginning_are_a_hole(recording):
    """An epoch begins with 1."""
    del recording.lines[TICKS][0]
    assert counts(recording.check()) == {"gaps": 1, "missing": 1}


def test_a_repeat_is_told(recording):
    """The same number twice."""
    recording.lines[TICKS].append(recording.lines[TICKS][7])
    report = recording.check()
    assert not report.ok
    assert counts(report) == {"duplicates": 1}
    assert report.problems[0].place.line == 26


def test_a_late_line_is_out_of_order_and_not_missing(recording):
    """Nothing is lost, but a reader would meet the ticks in the wrong order."""
    lines = recording.lines[TICKS]
    lines.append(lines.pop(1))
    report = recording.check()
    assert not report.ok
    assert counts(report) == {"out_of_order": 1}


@pytest.mark.parametrize("cut", [1, 2, 100])
def test_a_torn_end_is_told(recording, cut):
    """A file ends with a newline, also where only that is missing."""
    recording.lines[TICKS][-1] = recording.lines[TICKS][-1][:-cut]
    report = recording.check()
    assert not report.ok
    assert counts(report) == {"torn": 1}
    assert report.ticks == 24


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"hello\n",
        b"{}\n",
        b"\0" * 100 + b"\n",
        b"[" * 200_000 + b"\n",
        b"x" * (files.MAX_LINE_BYTES + 1) + b"\n",
        b'"\xff\xfe"\n',
    ],
    ids=["empty", "text", "object", "zeros", "nested", "endless", "not utf-8"],
)
@pytest.mark.parametrize("name", [TICKS, EVENTS])
def test_a_foreign_line_is_told_and_passed_over(recording, name, line):
    """What is not a record is counted, and the records around it are still checked."""
    recording.lines[name].insert(3, line)
    report = recording.check()
    assert not report.ok
    assert counts(report) == {"invalid": 1}
    assert (report.ticks, report.events, report.chain) == (25, 5, "ok")
    assert (report.problems[0].place.path.name, report.problems[0].place.line) == (name, 4)
    assert report.problems[0].message


def test_a_record_of_another_day_is_invalid(recording):
    """A tick and an event belong into the files of their days."""
    recording.ticks(1, E2, 11, 11, day=1)
    recording.event(1, E2, 2, day=1)
    for kind in ("market_data", "events"):
        recording.lines[f"{kind}_{DAYS[0]}.jsonl"] += recording.lines.pop(f"{kind}_{DAYS[1]}.jsonl")
    report = recording.check()
    assert counts(report) == {"invalid": 2}
    assert {problem.message for problem in report.problems} == {"a tick of 2025-10-02", "an event of 2025-10-02"}


def test_a_hole_in_the_events_is_a_gap(recording):
    """Events are numbered like ticks."""
    recording.event(1, E2, 3)
    report = recording.check()
    assert counts(report) == {"gaps": 1}
    assert report.problems[0].message == f"events 2 to 2 of worker-1, epoch {E2} are missing before this line"


def test_an_epoch_goes_on_over_midnight(recording):
    """The next day's file continues the numbers; days without a file in between are no hole."""
    recording.ticks(1, E2, 11, 20, day=1)
    recording.ticks(1, E2, 21, 30, day=3)
    report = recording.check()
    assert report.ok
    assert report.ticks == 45
    del recording.lines[f"market_data_{DAYS[3]}.jsonl"][0]
    assert counts(recording.check()) == {"gaps": 1, "missing": 1}


def test_problems_are_listed_up_to_a_limit_and_counted_beyond(recording):
    """A ruined file does not fill the memory or the screen, and does not hide what else is wrong."""
    recording.lines[TICKS] += [b"garbage\n"] * 1000
    recording.ticks(1, E2, 12, 12)
    report = recording.check()
    assert counts(report) == {"invalid": 1000, "gaps": 1, "missing": 1}
    assert [problem.kind for problem in report.problems] == ["invalid"] * 20 + ["gap"]


def test_holes_are_counted_beyond_those_that_are_kept(recording, monkeypatch):
    """Holes by the thousand cost no memory by the thousand."""
    monkeypatch.setattr(sequence, "OPEN_HOLES", 5)
    del recording.lines[TICKS][-9::2]
    for n in range(12, 52, 2):
        recording.ticks(1, E2, n, n)
    assert counts(recording.check()) == {"gaps": 24, "missing": 25}


class TestChain:
    """Each epoch names the one before it, or a gap record tells why not."""

    def test_a_missing_end_breaks_it(self, recording):
        """The next epoch knows how far the one before had come."""
        del recording.lines[TICKS][14]
        report = recording.check()
        assert (report.ok, report.chain, counts(report)) == (False, "broken", {"missing": 1})
        assert report.problems[0].message == (
            f"connection 1, epoch {E2} says that {E1} had 10 ticks; 10 to 10 are missing at its end"
        )

    def test_an_end_beyond_what_the_next_epoch_knew_is_fine(self, recording):
        """After a power loss the recorder may know less than is stored."""
        recording.ticks(1, E1, 11, 12)
        assert recording.check().ok

    def test_a_missing_end_that_is_still_spooled_is_pending(self, recording):
        """It will be handed on."""
        del recording.lines[TICKS][13:15]
        recording.spool(1, E1)
        report = recording.check()
        assert (report.ok, report.chain, counts(report)) == (True, "ok", {"pending": 2})

    @pytest.mark.parametrize(
        ("record", "explains"),
        [
            ({"cause": "spool damaged", "gap_epoch": E1, "first_seq": 9, "last_seq": 10}, True),
            ({"cause": "spool damaged", "gap_epoch": E1, "first_seq": 10, "last_seq": 10}, False),
            ({"cause": "spool damaged", "gap_epoch": E2, "first_seq": 9, "last_seq": 10}, False),
            ({"cause": "spool lost", "gap_epoch": E1}, True),
            ({"cause": "spool lost"}, True),
            ({"cause": "killed"}, False),
        ],
    )
    def test_a_gap_record_explains_the_ticks_that_it_names(self, recording, record, explains):
        """Being killed is no reason for ticks to be missing: what was spooled is handed on."""
        del recording.lines[TICKS][13:15]
        recording.gap(1, E2, 2, **record)
        report = recording.check()
        assert report.missing == 2
        assert (report.ok, report.chain) == (explains, "ok" if explains else "broken")

    def test_the_writer_may_explain_it(self, recording):
        """It logs a gap when a worker no longer holds what comes next."""
        del recording.lines[TICKS][13:15]
        recording.gap(1, E3, 1, cause="missing", source="writer", gap_epoch=E1, first_seq=9, last_seq=10)
        assert recording.check().ok

    def test_a_hole_stays_wrong_with_a_gap_record(self, recording):
        """The record tells what happened, and the ticks are still not there."""
        del recording.lines[TICKS][1:3]
        recording.gap(1, E2, 2, cause="spool damaged", gap_epoch=E1, first_seq=2, last_seq=3)
        report = recording.check()
        assert (report.ok, report.gaps, report.gaps_recorded) == (False, 1, 1)

    def test_missing_events_at_the_end_break_it(self, recording):
        """Events are as safe as ticks."""
        del recording.lines[EVENTS][2]
        report = recording.check()
        assert (report.chain, counts(report)) == ("broken", {})
        assert "2 to 2 are missing at its end" in report.problems[0].message

    @pytest.mark.parametrize(("last_seq", "chain"), [(10, "ok"), (9, "ok"), (11, "broken")])
    def test_the_newest_epoch_says_itself_how_far_it_came(self, recording, last_seq, chain):
        """If it was stopped in order: nobody else could tell yet."""
        recording.event(1, E2, 2, "stopped", last_seq=last_seq)
        assert recording.check().chain == chain
        recording.spool(1, E2)
        assert recording.check().chain == "ok"

    def test_a_spool_that_was_lost_explains_nothing_that_came_after(self, recording):
        """The epoch that tells of it has its own ticks still to show."""
        recording.gap(1, E2, 2, cause="spool lost")
        recording.event(1, E2, 3, "stopped", last_seq=10)
        assert recording.check().ok
        del recording.lines[TICKS][-1]
        report = recording.check()
        assert (report.ok, report.chain, report.missing) == (False, "broken", 1)

    def test_an_epoch_without_its_event_breaks_it(self, recording):
        """Nobody could tell what came before."""
        recording.ticks(2, E3, 1, 5)
        report = recording.check()
        assert (report.ok, report.chain) == (False, "broken")
        assert "no event" in report.problems[0].message

    def test_an_epoch_whose_event_is_still_spooled_is_pending(self, recording):
        """Ticks and events come by the same road, and may be seen at different times."""
        recording.ticks(2, E3, 1, 5)
        recording.spool(2, E3)
        assert recording.check().ok

    @pytest.mark.parametrize(
        ("previous", "end"), [(None, "unknown"), (None, "none"), (E1, "unknown"), (E1 - 1000, "clean")]
    )
    @pytest.mark.parametrize("explained", [False, True])
    def test_a_start_that_does_not_know_the_one_before_needs_a_gap_record(self, recording, previous, end, explained):
        """Where the recorder's state is gone, the log has to say so."""
        last = 10 if end == "clean" else None
        recording.begin(2, E3, (previous, last, last), end)
        if explained:
            recording.gap(2, E3, 2, cause="spool lost")
        report = recording.check()
        assert (report.ok, report.chain) == ((True, "ok") if explained else (False, "broken"))

    def test_an_epoch_that_is_gone_as_a_whole_breaks_it(self, recording):
        """The next one names it."""
        recording.begin(1, E3, (E3 - 5, 100, 3))
        recording.gap(1, E3, 2, cause="killed")
        report = recording.check()
        assert (report.ok, report.chain, report.missing) == (False, "broken", 100)

    def test_an_epoch_that_never_recorded_anything_leaves_nothing(self, recording):
        """Killed before its first record."""
        recording.begin(1, E3, (E3 - 5, 0, 0), "killed")
        assert recording.check().ok

    def test_it_is_not_checked_without_an_event_log(self, recording):
        """That is said and is not wrong."""
        del recording.lines[EVENTS]
        report = recording.check()
        assert (report.ok, report.chain) == (True, "not checked")

    def test_a_lost_event_file_of_a_day_breaks_it(self, recording):
        """The first day has ticks, so it should have events."""
        recording.begin(1, start(1), (E2, 10, 1), day=1)
        recording.ticks(1, start(1), 1, 3, day=1)
        assert recording.check().ok
        (recording.data_dir / EVENTS).unlink()
        del recording.lines[EVENTS]
        report = recording.check()
        assert (report.ok, report.chain) == (False, "broken")


class TestSubset:
    """Days that are gone, or were not asked for, hide what they had and nothing else."""

    @pytest.fixture
    def three_days(self, recording):
        """The second epoch of connection 1 goes on for two days more, a third one ends the last."""
        recording.ticks(1, E2, 11, 20, day=1)
        recording.ticks(1, E2, 21, 30, day=2)
        recording.event(1, E2, 2, day=1)
        recording.begin(1, start(2), (E2, 30, 2), day=2)
        recording.ticks(1, start(2), 1, 5, day=2)
        recording.save()
        return recording

    def names(self, *days: int) -> list[str]:
        return [f"market_data_{DAYS[day]}.jsonl" for day in days]

    def test_every_choice_of_days_is_right(self, three_days):
        """A stream that begins or goes on where nobody looks is cut, not wrong."""
        assert three_days.check().ok
        for days, cut in [([0], 0), ([1], 1), ([2], 1), ([0, 1], 0), ([1, 2], 1), ([0, 2], 1)]:
            report = check(three_days.data_dir, *self.names(*days))
            assert (report.ok, report.chain, report.files, report.cut) == (True, "ok", len(days), cut)

    def test_older_days_may_be_gone(self, three_days):
        """Retention removes whole days."""
        for name in (TICKS, EVENTS):
            (three_days.data_dir / name).unlink()
            del three_days.lines[name]
        report = three_days.check()
        assert (report.ok, report.cut) == (True, 1)

    def test_a_day_in_the_middle_may_not(self, three_days):
        """That is a hole."""
        name = self.names(1)[0]
        (three_days.data_dir / name).unlink()
        del three_days.lines[name]
        assert counts(three_days.check()) == {"gaps": 1, "missing": 10}

    def test_a_day_in_the_middle_that_was_removed_on_purpose_may(self, three_days):
        """What lies in it is cut; a hole in the days that are left is none the less wrong."""
        self.remove(three_days, 1)
        report = three_days.check()
        assert (report.ok, report.chain, report.cut, report.files) == (True, "ok", 1, 2)
        for days in ([0], [2], [0, 2]):
            assert check(three_days.data_dir, *self.names(*days)).ok
        del three_days.lines[self.names(2)[0]][3]
        assert counts(three_days.check()) == {"gaps": 1, "missing": 1, "cut": 1}

    def test_what_came_late_for_a_day_that_was_removed_is_checked(self, three_days):
        """The rest of that day is away."""
        self.remove(three_days, 1)
        three_days.ticks(1, E2, 19, 20, day=1)
        report = three_days.check()
        assert (report.ok, report.cut, report.ticks) == (True, 1, 25 + 2 + 15)
        three_days.lines[self.names(1)[0]].append(b"nonsense\n")
        assert counts(three_days.check()) == {"invalid": 1, "cut": 1}

    def test_an_epoch_of_which_all_was_removed_may_be_gone(self, three_days):
        """With its events; whoever came after it names what is away."""
        three_days.lines[self.names(2)[0]].clear()
        three_days.lines[f"events_{DAYS[2]}.jsonl"].clear()
        three_days.begin(1, start(3), (E2, 30, 2), day=3)
        three_days.ticks(1, start(3), 1, 5, day=3)
        three_days.save()
        self.remove(three_days, 2)
        report = three_days.check()
        assert (report.ok, report.problems) == (True, [])

    def test_a_file_that_is_there_was_not_removed(self, three_days):
        """A line that says so came before a death: a hole in that file is one."""
        path = three_days.data_dir / self.names(1)[0]
        data = path.read_bytes()
        remove(path, FirstOpen(date.max, ""), "clean")
        path.write_bytes(data)
        assert check(three_days.data_dir).ok
        del three_days.lines[self.names(0)[0]][-1]
        three_days.lines[self.names(1)[0]] += [b"\n"] * 2  # no smaller than it was
        assert three_days.check().missing == 1

    def remove(self, recording: Recording, day: int) -> None:
        """Remove a day as `mds files clean` does."""
        for name in (self.names(day)[0], f"events_{DAYS[day]}.jsonl"):
            remove(recording.data_dir / name, FirstOpen(date.max, ""), "clean")
            del recording.lines[name]

    def test_a_hole_within_the_days_under_check_is_wrong(self, three_days):
        """Being cut excuses only the edges."""
        del three_days.lines[self.names(1)[0]][3]
        three_days.save()
        assert counts(check(three_days.data_dir, *self.names(1))) == {"gaps": 1, "missing": 1, "cut": 1}
        assert check(three_days.data_dir, *self.names(0)).ok

    def test_an_epoch_that_began_within_has_to_begin_with_1(self, three_days):
        """Its beginning is under check."""
        lines = three_days.lines[self.names(2)[0]]
        del lines[10]
        three_days.save()
        assert counts(check(three_days.data_dir, *self.names(2))) == {"gaps": 1, "missing": 1, "cut": 1}

    def test_a_file_of_another_name_is_taken_by_its_first_line(self, three_days, tmp_path):
        """A copy can be checked."""
        copy = tmp_path / "copy.jsonl"
        copy.write_bytes((three_days.data_dir / self.names(1)[0]).read_bytes())
        report = check(tmp_path, "copy.jsonl")
        assert (report.ok, report.ticks, report.cut) == (True, 10, 1)
        lines = three_days.lines[self.names(0)[0]]
        copy.write_bytes(b"".join(lines[1:]))
        assert counts(check(tmp_path, "copy.jsonl")) == {"gaps": 1, "missing": 1}
        copy.write_bytes(b"nonsense\n")
        assert counts(check(tmp_path, "copy.jsonl")) == {"invalid": 1}


class TestLive:
    """The recorder may be running."""

    def test_what_comes_between_the_looks_accuses_nobody(self, recording, monkeypatch):
        """An epoch that begins after the first look at the events is there with its event, and is not yet a witness."""
        recording.save()
        look = snapshot._spooled

        def look_while_recording(spool_dir):
            found = look(spool_dir)
            recording.begin(1, E3, (E2, 1000, 500))
            recording.ticks(1, E3, 1, 3)
            recording.save()
            return found

        monkeypatch.setattr(snapshot, "_spooled", look_while_recording)
        report = check(recording.data_dir)
        assert (report.ok, report.ticks, report.events) == (True, 28, 6)
        monkeypatch.undo()
        assert check(recording.data_dir).chain == "broken"

    def test_a_file_that_grows_is_right_at_any_moment(self, recording):
        """Lines arrive in pieces, as writes are seen by a reader; whenever it looks, there is no torn line."""
        recording.save()
        (recording.data_dir / ".mds").mkdir()
        data = encode_lines([tick(1, E2, seq) for seq in range(11, 20_000)])
        stop = threading.Event()

        def record():
            rng = random.Random(1)
            position = 0
            with (recording.data_dir / TICKS).open("ab", buffering=0) as file:
                while position < len(data):
                    size = len(data) - position if stop.is_set() else rng.randrange(1, 5000)
                    file.write(data[position : position + size])
                    position += size

        with (recording.data_dir / ".mds" / "writer.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            thread = threading.Thread(target=record)
            thread.start()
            reports = [check(recording.data_dir) for _ in range(20)]
            stop.set()
            thread.join()
        assert [report.problems for report in reports if not report.ok] == []
        report = check(recording.data_dir)
        assert (report.ok, report.ticks) == (True, 25 + 19_989)


@dataclass
class Life:
    """An epoch of a random recording."""

    connection_id: int
    days: list[int]
    ticks: list[int]  # for each day
    events: int
    killed: bool


lives = st.builds(
    lambda connection_id, day, ticks, events, killed: Life(
        connection_id, [day + n for n in range(len(ticks))], ticks, events, killed
    ),
    st.integers(1, 3),
    st.integers(0, 1),
    st.lists(st.integers(0, 6), min_size=1, max_size=3),
    st.integers(0, 2),
    st.booleans(),
)


def record(data_dir: Path, plan: list[Life], rng: random.Random) -> tuple[Recording, list[tuple[str, int]]]:
    """Record `plan`, streams interleaved, and tell which lines (file, index) a later one proves to have been there."""
    streams = Recording(data_dir)
    previous: dict[int, Known] = {}
    lines: defaultdict[str, list[list[tuple[bytes, str]]]] = defaultdict(list)  # file -> streams -> (line, stream)
    last_line: dict[str, bytes] = {}  # of the newest epoch of each stream, which nobody proves
    for number, life in enumerate(sorted(plan, key=lambda life: life.days[0])):
        epoch = start(life.days[0], millisecond=number)
        before: Known = previous.get(life.connection_id, (None, None, None))
        streams.begin(
            life.connection_id, epoch, before, "killed" if before[0] and life.killed else "", day=life.days[0]
        )
        event_seq = 1
        if before[0] and life.killed:
            event_seq += 1
            streams.gap(life.connection_id, epoch, event_seq, cause="killed", day=life.days[0])
        for _ in range(life.events):
            event_seq += 1
            streams.event(life.connection_id, epoch, event_seq, day=life.days[-1])
        seq = 0
        for day, count in zip(life.days, life.ticks, strict=True):
            streams.ticks(life.connection_id, epoch, seq + 1, seq + count, day)
            seq += count
        previous[life.connection_id] = (epoch, seq, event_seq)
        for name, written in streams.lines.items():
            stream = f"{name.split('_')[0]} {life.connection_id}"
            if written:
                last_line[stream] = written[-1]
                lines[name].append([(line, stream) for line in written])
        streams.lines.clear()
    recording, proved = Recording(data_dir), []
    for name, parts in lines.items():
        while parts:
            part = rng.choice(parts)
            line, stream = part.pop(0)
            if line != last_line[stream]:
                proved.append((name, len(recording.lines[name])))
            recording.lines[name].append(line)
            parts[:] = [part for part in parts if part]
    return recording, proved


@settings(max_examples=150, deadline=None)
@given(
    plan=st.lists(lives, min_size=1, max_size=6),
    rng=st.randoms(use_true_random=False),
    damage=st.sampled_from(["none", "delete", "repeat", "swap", "cut", "garble", "other day"]),
)
def test_a_recording_is_right_exactly_if_it_is_undamaged(plan, rng, damage):
    """Whatever is deleted, repeated, swapped, cut or garbled, it is told; and nothing else ever is."""
    with tempfile.TemporaryDirectory() as folder:
        recording, proved = record(Path(folder), plan, rng)
        wholly = recording.check()
        assert wholly.problems == []
        assert wholly.chain == "ok"
        assert wholly.ticks == sum(sum(life.ticks) for life in plan)
        if damage == "none" or not wholly.files or not proved:
            return
        name, index = rng.choice(proved)
        lines = recording.lines[name]
        if damage == "delete":
            del lines[index]
        elif damage == "repeat":
            lines.insert(rng.randrange(index, len(lines)) + 1, lines[index])
        elif damage == "swap":
            same = [i for i, line in enumerate(lines) if _stream(line) == _stream(lines[index]) and i != index]
            if not same:
                return
            other = rng.choice(same)
            lines[index], lines[other] = lines[other], lines[index]
        elif damage == "cut":
            lines[-1] = lines[-1][: -rng.randrange(1, len(lines[-1]))]
        elif damage == "garble":
            at = rng.randrange(len(lines[index]))
            lines[index] = lines[index][:at] + b"\xff" + lines[index][at + 1 :]
        else:
            kind, day = name[:-16], date.fromisoformat(name[-16:-6])
            recording.lines[f"{kind}_{day + timedelta(days=1)}.jsonl"].append(lines.pop(index))
        report = recording.check()
        assert not report.ok
        assert report.problems


def _stream(line: bytes) -> tuple[object, ...]:
    record = json.loads(line)
    return record.get("source"), record["connection_id"], record["epoch"]


def test_a_big_file_takes_little_memory(tmp_path, capsys):
    """Memory does not grow with the file; the speed is shown, not judged."""
    trade: dict[str, Any] = {
        "last_traded_quantity": 12,
        "average_traded_price": 1508.22,
        "volume_traded": 1234567,
        "total_buy_quantity": 345678,
        "total_sell_quantity": 456789,
        "ohlc": Ohlc(1500.1, 1520.5, 1490.05, 1505.0),
        "change": 0.4883720930232558,
    }
    head: dict[str, Any] = {"tradable": True, "instrument_token": 408065, "last_price": 1512.35, **trade}
    levels = (DepthLevel(100, 1512.3, 4),) * 5
    full: dict[str, Any] = {
        "last_trade_time": None,
        "oi": 0,
        "oi_day_high": 0,
        "oi_day_low": 0,
        "depth": Depth(levels, levels),
    }
    path = tmp_path / TICKS
    size = 52_000_000
    with path.open("wb") as file:
        for seq in range(1, 10**9, 500):
            numbers: list[dict[str, Any]] = [
                {"timestamp": stamp(0), "epoch": E1, "seq": n} for n in range(seq, seq + 500)
            ]
            file.write(encode_lines([QuoteTick(**head, **number, connection_id=1) for number in numbers]))
            file.write(
                encode_lines(
                    [FullTick(**head, **full, exchange_timestamp=None, **number, connection_id=2) for number in numbers]
                )
            )
            if file.tell() >= size:
                break
    began = time.process_time()
    report = check(tmp_path)
    took = time.process_time() - began
    with capsys.disabled():
        print(f" [verify: {report.bytes / took / 1e6:.0f} MB/s] ", end="")  # noqa: T201  for whoever runs the tests
    assert report.ok
    tracemalloc.start()
    try:
        assert check(tmp_path).ticks == report.ticks == seq + 499 + seq + 499
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


class TestCommand:
    """`mds verify` as a user meets it."""

    @pytest.fixture
    def run(self, tmp_path, monkeypatch):
        """Run it in a folder of its own, where the data folder is `data`."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "my.toml").write_text('[storage]\ndata_dir = "data"\n')
        return lambda *arguments: CliRunner().invoke(command, ["--config", "my.toml", *arguments])

    @pytest.fixture
    def data(self, recording, tmp_path):
        """Save the clean recording in the data folder."""
        recording.data_dir = tmp_path / "data"
        recording.data_dir.mkdir()
        recording.gap(1, E2, 2, cause="silent")
        recording.save()
        return recording

    @pytest.mark.usefixtures("data")
    def test_it_says_that_all_is_there(self, run):
        """In words, with the interruptions that are on record."""
        result = run()
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.splitlines()[-1] == "All 25 ticks are there, each once, in order."
        assert "connection 1, 2025-10-01 09:15:20 to 09:15:22 (2.5 s): silent, 1 instrument" in result.stdout
        assert "\x1b" not in result.stdout

    def test_what_nobody_knows_the_length_of_is_not_told_as_short(self, run, data):
        """Of some interruptions the beginning is not known."""
        data.gap(2, E1, 3, cause="spool lost", **{"from": None})
        data.save()
        told = run().stdout
        assert "0.0 s in all, and 1 time nobody knows how long" in told
        assert "connection 2, ? to 09:15:22 (nobody knows how long): spool lost" in told

    def test_it_says_what_is_wrong_and_where(self, run, data):
        """The verdict comes last, exit 1."""
        del data.lines[TICKS][1]
        data.lines[TICKS][-1] = data.lines[TICKS][-1][:-1]
        data.save()
        result = run()
        assert result.exit_code == 1
        assert f"{TICKS}:2 (byte " in result.stdout
        assert result.stdout.splitlines()[-1] == (
            "Not all is right: 1 tick missing, 1 gap in the numbers (0 on record), 1 file torn at the end."
        )

    def test_json_has_the_counts(self, run, data):
        """One object with everything."""
        data.lines[TICKS].append(data.lines[TICKS][0])
        data.save()
        result = run("--json")
        assert result.exit_code == 1
        answer = json.loads(result.stdout)
        expected: dict[str, Any] = {
            "files": 1,
            "ticks": 26,
            "gaps": 0,
            "duplicates": 1,
            "torn": 0,
            "invalid": 0,
            "out_of_order": 0,
        }
        expected |= {"events": 6, "pending": 0, "chain": "ok", "ok": False}
        assert {key: answer[key] for key in expected} == expected
        assert answer["interruptions"] == {"silent": {"count": 1, "seconds": 2.5, "unknown": 0}}
        assert answer["recorded_gaps"][0]["to"] == "2025-10-01T09:15:22.500000+05:30"
        [problem] = answer["problems"]
        assert (problem["kind"], Path(problem["file"]).name, problem["line"]) == ("duplicate", TICKS, 26)

    @pytest.mark.usefixtures("data")
    def test_files_can_be_named(self, run):
        """Relative to where one is."""
        result = run("--json", f"data/{TICKS}")
        assert (result.exit_code, json.loads(result.stdout)["files"]) == (0, 1)

    @pytest.mark.usefixtures("data", "run")
    def test_progress_is_shown_on_a_terminal(self):
        """On stderr, so that stdout stays what was asked for."""
        ours, theirs = pty.openpty()
        code = "from pipeline.cli.verify import verify; verify()"
        arguments = [sys.executable, "-c", code, "--config", "my.toml", "--json"]
        done = subprocess.run(
            arguments,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm"},
            check=True,
            timeout=60,
        )
        os.close(theirs)
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            assert b"verifying" in terminal.read(65536)
        assert json.loads(done.stdout)["ok"] is True

    def test_nothing_recorded_is_a_no(self, run, tmp_path):
        """An empty folder proves nothing."""
        (tmp_path / "data").mkdir()
        result = run()
        assert result.exit_code == 1
        assert "Nothing is recorded yet" in result.stdout
        assert json.loads(run("--json").stdout)["ok"] is False

    @pytest.mark.usefixtures("data")
    def test_wrong_usage(self, run):
        """A file that is not there, and a folder that is not there, end with 2."""
        result = run("data/market_data_2025-10-09.jsonl")
        assert result.exit_code == 2
        assert "does not exist" in result.stderr

    def test_without_a_data_folder_there_is_nothing_to_ask(self, run):
        """The error names the folder and the key, exit 2."""
        result = run()
        assert isinstance(result.exception, ConfigError)
        assert result.exception.exit_code == 2
        assert str(result.exception).startswith("data: no such folder; storage.data_dir")
