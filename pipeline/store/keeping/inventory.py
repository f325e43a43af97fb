"""What there is of each day: ticks as JSONL, as Parquet or both, and events; how many, how large, from when to when.

Whole files are not read: see `counting`. The first and the last tick of a JSONL file are its first and its last whole
line. The recorder may be running.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal
from zoneinfo import ZoneInfo

import orjson

from pipeline import removed
from pipeline.store.files import MAX_LINE_BYTES, date_of, event_files, tick_files
from pipeline.store.keeping.counting import Counter
from pipeline.store.parquet import files as parquet_files

TAIL_BYTES = 4096  # read from the end of a file to find its last line; more if that is longer

StoredAs = Literal["jsonl", "parquet", "both", "none"]


@dataclass(frozen=True)
class Form:
    """What there is of a day in one form; None: unknown. `file` is relative to the data folder."""

    file: str
    bytes: int
    lines: int | None  # ticks or events
    first: str | None = None  # receive times as they are stored
    last: str | None = None


@dataclass(frozen=True)
class Day:
    """One day."""

    day: date
    jsonl: Form | None = None
    parquet: Form | None = None
    events: Form | None = None
    came_late: bool = False  # the JSONL is no copy of what is in Parquet, but came after it

    @property
    def forms(self) -> list[Form]:
        """The forms in which there are ticks."""
        return [form for form in (self.parquet, self.jsonl) if form]

    @property
    def stored_as(self) -> StoredAs:
        """In which forms there are ticks."""
        if self.jsonl and self.parquet:
            return "both"
        return "jsonl" if self.jsonl else "parquet" if self.parquet else "none"

    @property
    def ticks(self) -> int | None:
        """How many ticks there are, None where nobody knows."""
        counts = [form.lines for form in self.forms]
        if self.came_late:
            return None if None in counts else sum(count or 0 for count in counts)
        return counts[-1] if counts else 0

    @property
    def bytes(self) -> int:
        """How much room the ticks take in all forms."""
        return sum(form.bytes for form in self.forms)

    @property
    def first(self) -> str | None:
        """When the first tick was received."""
        return min((form.first for form in self.forms if form.first), default=None)

    @property
    def last(self) -> str | None:
        """When the last tick was received."""
        return max((form.last for form in self.forms if form.last), default=None)

    def to_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {
            "date": self.day.isoformat(),
            "stored_as": self.stored_as,
            "ticks": self.ticks,
            "bytes": self.bytes,
            "first": self.first,
            "last": self.last,
            "jsonl": _form(self.jsonl, "ticks"),
            "parquet": _form(self.parquet, "ticks"),
            "events": _form(self.events, "events"),
        }


@dataclass
class Total:
    """Several days."""

    days: int = 0
    ticks: int = 0
    bytes: int = 0
    unknown: int = 0  # days of which nobody knows how many ticks they have, and not in the sum

    @classmethod
    def of(cls, days: Iterable[Day]) -> "Total":
        """Return the sums."""
        total = cls()
        for day in days:
            total.days += 1
            total.ticks += day.ticks or 0
            total.bytes += day.bytes
            total.unknown += day.ticks is None
        return total


def days(data_dir: Path, counter: Counter, timezone: str) -> list[Day]:
    """Return all days of a data folder, oldest first. Raises OSError where a file cannot be read.

    A day that is being removed is left out.
    """
    ticks, events = _by_day(tick_files(data_dir)), _by_day(event_files(data_dir))
    folders = parquet_files.day_folders(data_dir)
    away = removed.away(data_dir)
    found = []
    for day in sorted({*ticks, *events, *folders}):
        with suppress(FileNotFoundError):
            found.append(
                Day(
                    day,
                    jsonl=lines_in(ticks[day], counter) if day in ticks else None,
                    parquet=columns_in(folders[day], timezone) if day in folders else None,
                    events=lines_in(events[day], counter) if day in events else None,
                    came_late=day in folders and day in ticks and ticks[day].name in away,
                )
            )
    return found


def to_json(found: Iterable[Day]) -> dict[str, Any]:
    """Return days and sums for `--json`."""
    listed = list(found)
    return {"days": [day.to_json() for day in listed], "total": asdict(Total.of(listed))}


def lines_in(path: Path, counter: Counter) -> Form:
    """Return what there is in a tick or event file. Raises OSError."""
    count = counter.count(path)
    with path.open("rb") as file:
        return Form(path.name, path.stat().st_size, count, _time(_first_line(file)), _time(_last_line(file)))


def columns_in(folder: Path, timezone: str) -> Form:
    """Return what there is in a day's folder of Parquet files. Raises OSError."""
    paths = parquet_files.parts(folder)
    found = parquet_files.summary(paths)
    size = sum(path.stat().st_size for path in paths)
    zone = ZoneInfo(timezone)
    first, last = _text(found.first, zone), _text(found.last, zone)
    return Form(f"{folder.parent.name}/{folder.name}", size, found.ticks, first, last)


def _by_day(paths: Iterable[Path]) -> dict[date, Path]:
    return {day: path for path in paths if (day := date_of(path))}


def _first_line(file: BinaryIO) -> bytes:
    line = file.readline(MAX_LINE_BYTES)
    return line if line.endswith(b"\n") else b""


def _last_line(file: BinaryIO) -> bytes:
    """Return the last line that has its newline, empty where there is none."""
    size = file.seek(0, 2)
    reach = TAIL_BYTES
    while True:
        start = max(size - reach, 0)
        file.seek(start)
        data = file.read(size - start)
        end = data.rfind(b"\n")
        begin = data.rfind(b"\n", 0, max(end, 0))
        if end > 0 and (begin >= 0 or start == 0):
            return data[begin + 1 : end]
        if start == 0 or reach > MAX_LINE_BYTES:
            return b""
        reach *= 8


def _time(line: bytes) -> str | None:
    """Return the receive time of a line; None where it is not the recorder's."""
    try:
        found = orjson.loads(line)
    except ValueError:
        return None
    time = found.get("timestamp") if isinstance(found, dict) else None
    return time if isinstance(time, str) else None


def _text(moment: datetime | None, zone: ZoneInfo) -> str | None:
    """Return a time in the form of stored lines."""
    return moment.astimezone(zone).isoformat(timespec="microseconds") if moment else None


def _form(form: Form | None, what: str) -> dict[str, Any] | None:
    if form is None:
        return None
    return {"file": form.file, "bytes": form.bytes, what: form.lines, "first": form.first, "last": form.last}
