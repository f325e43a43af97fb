"""What is under check: the files, how far each is read, and what lies beside them. Taken once, at one moment.

The recorder may be running, so the order of looking matters. It is: sizes of the event files, spools, sizes of the
tick files, sizes of the event files again.

- An event that says how far an epoch had come, and stands within the first size, is older than the look at the spools.
  Had that epoch still a spool then, its end is pending. Had it none, all of it was in the files, and the later sizes
  have it.
- A tick within its size is younger than its epoch's event, so the second size of the event file has that one.

Hence what lies between the two sizes of an event file may excuse and never accuses: no order of writing, sending or
removing can raise a false alarm.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from zoneinfo import ZoneInfo

from pipeline import removed
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.store.files import Block, date_of, event_files, is_event_file, read_blocks, require_folder, tick_files
from pipeline.store.format import require_known
from pipeline.store.parquet.files import day_folders, parts
from pipeline.ticks import decode_line


@dataclass(frozen=True)
class Part:
    """A file under check: the first `size` bytes of it. What stands beyond `accusing_size` may only excuse.

    A Parquet part of a day stands for the JSONL that it was made of, which is gone; nothing but its footer is read.
    """

    path: Path
    day: date
    size: int
    accusing_size: int

    @property
    def is_parquet(self) -> bool:
        """It is a Parquet part."""
        return self.path.suffix == ".parquet"


@dataclass(frozen=True)
class Snapshot:
    """All that is under check, oldest day first, and what lies beside it and is not."""

    ticks: tuple[Part, ...]
    events: tuple[Part, ...]
    spooled: frozenset[tuple[int, int]]  # (connection_id, epoch) that still have a spool
    tick_days_left_out: frozenset[date]  # with a file in the same folder and none under check, or removed on purpose
    event_days_left_out: frozenset[date]
    unreadable_days: frozenset[date]  # in Parquet, which cannot be read here
    zone: ZoneInfo

    @property
    def bytes(self) -> int:
        """What there is to read."""
        return sum(part.size for part in (*self.ticks, *self.events))

    @cached_property
    def oldest(self) -> date:
        """The first day under check."""
        return min((part.day for part in (*self.ticks, *self.events)), default=date.max)

    def begun_on(self, epoch: int) -> date:
        """Return the day on which an epoch began: its number is its start in Unix milliseconds."""
        try:
            return datetime.fromtimestamp(epoch / 1000, self.zone).date()
        except (ValueError, OverflowError, OSError):
            return date.max

    def hides_ticks(self, first: date, last: date) -> bool:
        """Tell whether ticks of these days may stand where nobody looks: before `oldest`, or in a file left out."""
        return first < self.oldest or any(first <= day <= last for day in self.tick_days_left_out)

    def hides_events(self, first: date, last: date) -> bool:
        """Tell the same for events."""
        return first < self.oldest or any(first <= day <= last for day in self.event_days_left_out)


def take(config: Config, files: Sequence[Path] = ()) -> Snapshot:
    """Take all files of the data folder, or `files` and the event files of the same days beside them.

    A file of another name is taken for ticks of the day of its first line. Raises ConfigError where there is no
    such folder or file, FormatError where a newer version has recorded.
    """
    given = sorted({path.absolute() for path in files})
    for path in given:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
    data_dir = config.storage.data_dir
    if not given:
        require_folder(data_dir)

    folders = {path.parent for path in given}
    event_paths = _event_paths(given) if given else event_files(data_dir)
    require_known(folders or {data_dir}, event_paths)
    first_sizes = _sizes(event_paths)
    spooled = _spooled(config.spool_dir)
    tick_sizes = _sizes([path for path in given if not is_event_file(path)] if given else tick_files(data_dir))
    event_sizes = _sizes(_event_paths(given) if given else event_files(data_dir))

    ticks = [Part(path, date_of(path) or _day_within(path), size, size) for path, size in tick_sizes.items()]
    events = [
        Part(path, day, size, first_sizes.get(path, 0)) for path, size in event_sizes.items() if (day := date_of(path))
    ]
    columns, unreadable_days = _columns(data_dir, tick_sizes) if not given else ([], frozenset[date]())
    ticks = columns + ticks  # in this order on a day that has both: what came late is in the JSONL
    away = [name for folder in folders or {data_dir} for name in map(Path, removed.away(folder))]
    return Snapshot(
        ticks=tuple(sorted(ticks, key=lambda part: part.day)),
        events=tuple(sorted(events, key=lambda part: part.day)),
        spooled=spooled,
        tick_days_left_out=_days_left_out((path for folder in folders for path in tick_files(folder)), ticks)
        | (_days(name for name in away if not is_event_file(name)) - {part.day for part in columns})
        | unreadable_days
        | (frozenset(day for folder in folders for day in day_folders(folder)) - {part.day for part in ticks}),
        event_days_left_out=_days_left_out((path for folder in folders for path in event_files(folder)), events)
        | _days(name for name in away if is_event_file(name)),
        unreadable_days=unreadable_days,
        zone=ZoneInfo(config.storage.timezone),
    )


def _columns(data_dir: Path, there: Iterable[Path]) -> tuple[list[Part], frozenset[date]]:
    """Return the Parquet parts of what no JSONL has any more, and the days of which this cannot be told."""
    lines = {date_of(path): path for path in there}
    found: list[Part] = []
    unreadable = set()
    for day, folder in day_folders(data_dir).items():
        try:
            from pipeline.store.parquet.io import others  # noqa: PLC0415  where all is JSONL its packages are not needed
        except ImportError:
            unreadable.add(day)
            continue
        paths = others(folder, lines[day]) if day in lines else parts(folder)
        found += [Part(path, day, 0, 0) for path in paths]
    return found, frozenset(unreadable)


def _event_paths(given: Sequence[Path]) -> list[Path]:
    days = {(path.parent, date_of(path) or _day_within(path)) for path in given}
    beside = {path for folder in {path.parent for path in given} for path in event_files(folder)}
    return sorted(path for path in beside if (path.parent, date_of(path)) in days)


def _sizes(paths: Iterable[Path]) -> dict[Path, int]:
    return {path: path.stat().st_size for path in paths}


def _spooled(spool_dir: Path) -> frozenset[tuple[int, int]]:
    return frozenset(
        (int(folder.parent.name), int(folder.name))
        for folder in spool_dir.glob("*/*")
        if folder.parent.name.isdecimal() and folder.name.isdecimal()
    )


def _day_within(path: Path) -> date:
    """Return the day of the first line that is a tick."""
    for block in read_blocks(path, path.stat().st_size):
        for line in block.lines if isinstance(block, Block) else ():
            try:
                return date.fromisoformat(decode_line(line).timestamp[:10])
            except (ValueError, RecursionError):
                continue
    return date.max


def _days_left_out(there: Iterable[Path], parts: Iterable[Part]) -> frozenset[date]:
    return _days(there) - {part.day for part in parts}


def _days(paths: Iterable[Path]) -> frozenset[date]:
    return frozenset(day for path in paths if (day := date_of(path)))
