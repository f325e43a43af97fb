"""Proving from the files alone that every tick that was recorded is there, once and in order.

Of the ticks: each line is one, with its file's date, and in each stream (connection_id, epoch) `seq` is 1, 2, 3, ...
across the files. Of the events the same, by (source, epoch) and `event_seq`. And the chain of epochs holds (`chain`).
Of a day that is Parquet only, its footers tell all this: its ticks were compared with their lines when it was made.
An epoch that began before the first day under check may begin with any number, and a hole between two files may lie in
a file that was left out: such streams are counted as cut, nothing of that is wrong.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal, TypeVar

from pipeline.errors import MdsError
from pipeline.store import chain
from pipeline.store.files import (
    EpochEvent,
    Event,
    Fragment,
    GapEvent,
    Place,
    StoppedEvent,
    decode_event,
    read_blocks,
)
from pipeline.store.parquet.footer import Footer
from pipeline.store.sequence import Sequence
from pipeline.store.snapshot import Part, Snapshot
from pipeline.ticks import decode_line

PROBLEMS_LISTED = 20  # of each kind; all are counted
GAPS_LISTED = 20  # of the gap records, the latest

Kind = Literal["invalid", "torn", "gap", "duplicate", "out of order", "chain"]
_Key = TypeVar("_Key", tuple[int, int], tuple[str, int])  # connection_id or source, and epoch


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, in words, and where."""

    kind: Kind
    message: str
    place: Place | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        path, line, offset = self.place or (None, None, None)
        file = str(path) if path else None
        if not line:  # of a Parquet part no line is known
            line = offset = None
        return {"kind": self.kind, "file": file, "line": line, "offset": offset, "message": self.message}


@dataclass
class Interruptions:
    """Gap records of one cause."""

    count: int = 0
    seconds: float = 0.0  # of those whose beginning is known
    unknown: int = 0  # those of which nobody knows when they began


@dataclass
class Report:
    """What was found. Counts are of lines unless said otherwise."""

    files: int = 0  # tick files, and Parquet parts of days whose JSONL is gone
    event_files: int = 0
    bytes: int = 0
    seconds: float = 0.0  # that the check took
    ticks: int = 0
    events: int = 0
    streams: int = 0
    cut: int = 0  # streams of which a part is not under check
    gaps: int = 0  # holes in the numbers of ticks and events, each of one or more
    gaps_recorded: int = 0  # those of them of which the event log tells
    missing: int = 0  # ticks in these holes and at the ends of epochs
    duplicates: int = 0
    out_of_order: int = 0
    torn: int = 0  # files that end within a line
    invalid: int = 0
    pending: int = 0  # ticks that are spooled and not yet in the files
    days_not_checked: int = 0  # in Parquet, which cannot be read here
    chain: Literal["ok", "broken", "not checked"] = "not checked"
    problems: list[Problem] = field(default_factory=list)
    interruptions: defaultdict[str, Interruptions] = field(default_factory=lambda: defaultdict(Interruptions))
    recorded_gaps: deque[GapEvent] = field(default_factory=lambda: deque(maxlen=GAPS_LISTED))
    ticked: dict[date, set[int]] = field(default_factory=dict)  # the instruments of each day

    @property
    def ok(self) -> bool:
        """There are ticks, and nothing is wrong with them."""
        wrong = self.gaps + self.duplicates + self.out_of_order + self.torn + self.invalid
        return self.files > 0 and not wrong and self.chain != "broken"

    def to_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        counts = {name: value for name, value in vars(self).items() if isinstance(value, int | float | str)}
        return counts | {
            "ok": self.ok,
            "problems": [problem.to_json() for problem in self.problems],
            "interruptions": {cause: vars(found) for cause, found in self.interruptions.items()},
            "recorded_gaps": [_summary(gap) for gap in self.recorded_gaps],
        }


def _summary(gap: GapEvent) -> dict[str, Any]:
    return {
        "connection_id": gap.connection_id,
        "cause": gap.cause,
        "from": gap.since.isoformat() if gap.since else None,
        "to": gap.until.isoformat() if gap.until else None,
        "seconds": gap.seconds,
        "instruments": len(gap.instruments),
        "gap_epoch": gap.gap_epoch,
        "first_seq": gap.first_seq,
        "last_seq": gap.last_seq,
    }


def verify(snapshot: Snapshot, on_read: Callable[[int], None] = lambda _: None) -> Report:
    """Check all of `snapshot`; `on_read` is told the bytes of each block that was read.

    Raises OSError where a file cannot be read.
    """
    began = time.monotonic()
    check = _Check(snapshot, on_read)
    for part in snapshot.ticks:
        if part.is_parquet:
            check.columns_of(part)
        else:
            check.ticks_of(part)
    for part in snapshot.events:
        check.events_of(part)
    report = check.finish()
    report.seconds = time.monotonic() - began
    return report


class _Check:
    def __init__(self, snapshot: Snapshot, on_read: Callable[[int], None]) -> None:
        self._snapshot = snapshot
        self._on_read = on_read
        self._report = Report(len(snapshot.ticks), len(snapshot.events), snapshot.bytes)
        self._listed: defaultdict[Kind, int] = defaultdict(int)
        self._ticks: dict[tuple[int, int], Sequence] = {}
        self._events: dict[tuple[str, int], Sequence] = {}
        self._epochs: defaultdict[tuple[int, int], chain.Epoch] = defaultdict(chain.Epoch)
        self._gaps: defaultdict[int, list[chain.Gap]] = defaultdict(list)
        self._latest_parts: dict[tuple[date, str], tuple[Path, Footer]] = {}  # of each JSONL that has become Parquet
        self._report.days_not_checked = len(snapshot.unreadable_days)

    def ticks_of(self, part: Part) -> None:
        """Check the ticks of a file."""
        day = part.day.isoformat()
        expected: dict[tuple[int, int], int] = {}  # what comes next in each stream that this file has
        ticked = self._report.ticked.setdefault(part.day, set())
        for block in read_blocks(part.path, part.size):
            if isinstance(block, Fragment):
                self._fragment(block)
                continue
            ticks = len(block.lines)
            for index, line in enumerate(block.lines):
                try:
                    tick = decode_line(line)
                except (ValueError, RecursionError) as error:
                    self._invalid(str(error), block.place(index))
                    ticks -= 1
                    continue
                if tick.timestamp[:10] != day:
                    self._invalid(f"a tick of {tick.timestamp[:10]}", block.place(index))
                ticked.add(tick.instrument_token)
                key = (tick.connection_id, tick.epoch)
                seq = tick.seq
                if expected.get(key) == seq:
                    expected[key] = seq + 1
                else:
                    expected[key] = self._unexpected(key, seq, expected.get(key), part.day, block.place(index))
            self._report.ticks += ticks
            self._on_read(block.length)
        for key, following in expected.items():
            self._ticks[key].next = following

    def _unexpected(self, key: tuple[int, int], seq: int, expected: int | None, day: date, place: Place) -> int:
        """Take the first tick of a stream in a file, or one that is not `expected`; return what comes next."""
        sequence = self._sequence(self._ticks, key)
        hidden = False
        if expected is None:
            hidden = self._snapshot.hides_ticks(sequence.day, day)
            sequence.day = day
        else:
            sequence.next = expected
        self._take(sequence, seq, place, hidden=hidden, name=f"tick {seq} of connection {key[0]}, epoch {key[1]}")
        return sequence.next

    def columns_of(self, part: Part) -> None:
        """Check the ticks of a Parquet part by what its footer tells of them."""
        from pipeline.store.parquet.io import read_footer  # noqa: PLC0415  it was there when the snapshot was taken

        place = Place(part.path, 0, 0)
        try:
            footer = read_footer(part.path)
        except MdsError as error:
            self._invalid(str(error), place)
            return
        self._report.ticks += footer.ticks
        self._report.ticked.setdefault(part.day, set()).update(footer.instruments)
        for _ in range(footer.strays):
            self._invalid("a tick of another day", place)
        _, before = self._latest_parts.get((part.day, footer.head), (None, None))
        if footer.first != (before.end if before else 0):
            self._gap("the part before this one is not there", place)
        self._latest_parts[part.day, footer.head] = part.path, footer
        for stream in footer.streams:
            key = (stream.connection_id, stream.epoch)
            sequence = self._sequence(self._ticks, key)
            hidden = sequence.day != part.day and self._snapshot.hides_ticks(sequence.day, part.day)
            sequence.day = part.day
            for first, last in stream.runs:
                self._take_run(sequence, key, range(first, last + 1), place, hidden=hidden)
                hidden = False

    def _take_run(self, sequence: Sequence, key: tuple[int, int], run: range, place: Place, *, hidden: bool) -> None:
        """Take numbers that follow each other: each by itself up to where nothing is missing any more."""
        for number in run:
            name = f"tick {number} of connection {key[0]}, epoch {key[1]}"
            self._take(sequence, number, place, hidden=hidden, name=name)
            if sequence.next == number + 1:
                sequence.next = run.stop
                return

    def events_of(self, part: Part) -> None:
        """Check the events of a file, and keep what the chain needs of them."""
        for block in read_blocks(part.path, part.size):
            if isinstance(block, Fragment):
                self._fragment(block)
                continue
            for index, line in enumerate(block.lines):
                place = block.place(index)
                try:
                    event = decode_event(line)
                except (ValueError, RecursionError) as error:
                    self._invalid(str(error), place)
                    continue
                self._report.events += 1
                if event.timestamp.date() != part.day:
                    self._invalid(f"an event of {event.timestamp.date()}", place)
                sequence = self._sequence(self._events, (event.source, event.epoch))
                hidden = sequence.day != part.day and self._snapshot.hides_events(sequence.day, part.day)
                sequence.day = part.day
                name = f"event {event.event_seq} of {event.source}, epoch {event.epoch}"
                self._take(sequence, event.event_seq, place, hidden=hidden, name=name)
                self._note(event, accuses=place.offset < part.accusing_size)
            self._on_read(block.length)

    def _sequence(self, sequences: dict[_Key, Sequence], key: _Key) -> Sequence:
        if key not in sequences:
            sequences[key] = Sequence(day=self._snapshot.begun_on(key[1]))
        return sequences[key]

    def _take(self, sequence: Sequence, number: int, place: Place, *, hidden: bool, name: str) -> None:
        wrong = sequence.take(number, place, hidden=hidden)
        if wrong == "duplicate":
            self._report.duplicates += 1
            self._problem("duplicate", f"{name}, was there before", place)
        elif wrong:
            self._report.out_of_order += 1
            self._problem("out of order", f"{name}, comes after later ones", place)

    def _note(self, event: Event, *, accuses: bool) -> None:
        if event.worker is not None:
            epoch = self._epochs[event.worker, event.epoch]
            epoch.last_event_seq = max(epoch.last_event_seq, event.event_seq)
            if isinstance(event, EpochEvent):
                epoch.begin, epoch.accuses = event, accuses
            if isinstance(event, StoppedEvent) and accuses:
                epoch.stopped = event
        if isinstance(event, GapEvent):
            self._gaps[event.connection_id].append(chain.Gap.of(event))
            found = self._report.interruptions[event.cause]
            found.count += 1
            found.seconds += event.seconds
            found.unknown += event.since is None
            self._report.recorded_gaps.append(event)

    def finish(self) -> Report:
        """Count what is still missing after all was read, and check the chain."""
        report = self._report
        report.streams = len(self._ticks)
        sequences = (*self._ticks.values(), *self._events.values())
        report.cut = sum(sequence.is_cut for sequence in self._ticks.values())
        report.gaps += sum(sequence.forgotten for sequence in sequences)
        for path, footer in self._latest_parts.values():
            if not footer.is_last:
                self._gap("the part behind this one is not there", Place(path, 0, 0))
        for key, sequence in self._ticks.items():
            self._epochs[key].last_seq = sequence.next - 1
            report.missing += sequence.forgotten_numbers
            for hole in sequence.gaps():
                recorded = not chain.unexplained(hole.first, hole.last, key[1], self._gaps[key[0]])
                report.gaps_recorded += recorded
                report.missing += hole.last - hole.first + 1
                name = f"ticks {hole.first} to {hole.last} of connection {key[0]}, epoch {key[1]}"
                name = f"{name}, on record as lost," if recorded else name
                self._gap(f"{name} are missing {_before(hole.place)}", hole.place)
        for (source, epoch), sequence in self._events.items():
            for hole in sequence.gaps():
                name = f"events {hole.first} to {hole.last} of {source}, epoch {epoch}"
                self._gap(f"{name} are missing {_before(hole.place)}", hole.place)
        if report.event_files:
            verdict = chain.check(self._epochs, self._gaps, self._snapshot)
            report.chain = "broken" if verdict.breaks else "ok"
            report.pending = verdict.pending
            report.missing += verdict.missing + verdict.recorded
            for words in verdict.breaks:
                self._problem("chain", words)
        return report

    def _gap(self, message: str, place: Place) -> None:
        self._report.gaps += 1
        self._problem("gap", message, place)

    def _fragment(self, fragment: Fragment) -> None:
        if fragment.kind == "torn":
            self._report.torn += 1
            self._problem("torn", fragment.why, fragment.place)
        else:
            self._invalid(fragment.why, fragment.place)

    def _invalid(self, why: str, place: Place) -> None:
        self._report.invalid += 1
        self._problem("invalid", why, place)

    def _problem(self, kind: Kind, message: str, place: Place | None = None) -> None:
        if self._listed[kind] < PROBLEMS_LISTED:
            self._listed[kind] += 1
            self._report.problems.append(Problem(kind, message, place))


def _before(place: Place) -> str:
    return "before this line" if place.line else "in this part or before it"
