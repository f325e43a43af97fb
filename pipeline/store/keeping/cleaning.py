"""Removing old days: which files go, which stay and why."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pipeline.config import Config
from pipeline.errors import MdsError
from pipeline.files import DATA_FILE, parquet_folder
from pipeline.store.files import date_of, is_event_file
from pipeline.store.keeping import closed, removal
from pipeline.store.keeping.counting import Counter
from pipeline.store.keeping.removal import StaysError
from pipeline.store.parquet import files as parquet_files


@dataclass(frozen=True)
class Outcome:
    """What became of a file, or would; of a day in Parquet, of its folder. `why` it is still there, None where gone."""

    what: Literal["removed", "kept", "failed"]
    day: date
    path: Path
    bytes: int = 0
    ticks: int | None = None  # None: it has no ticks, or nobody had counted them
    why: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        found = {"date": self.day.isoformat(), "file": str(self.path), "bytes": self.bytes, "ticks": self.ticks}
        return found if self.why is None else found | {"why": self.why}


def clean(config: Config, keep_days: int, *, parquet: bool = False, dry_run: bool = False) -> Iterator[Outcome]:
    """Remove the days that are more than `keep_days` days ago, oldest first; yield what became of each file.

    Removed are tick files; with `parquet` days in Parquet as well; and the event file of a day of which no ticks are
    left in any form. Only of closed days, hence never today's. `dry_run` only tells. Raises OSError where the folder
    cannot be read.
    """
    return _Cleaning(config, parquet=parquet, dry_run=dry_run).run(keep_days)


class _Cleaning:
    def __init__(self, config: Config, *, parquet: bool, dry_run: bool) -> None:
        self._config = config
        self._data_dir = config.storage.data_dir
        self._parquet = parquet
        self._dry_run = dry_run
        self._first_open = closed.first_open(config)
        self._counter = Counter(self._data_dir)

    def run(self, keep_days: int) -> Iterator[Outcome]:
        today = datetime.now(ZoneInfo(self._config.storage.timezone)).date()
        end = date.fromordinal(max(today.toordinal() - keep_days, 1))
        names = [path for path in sorted(self._data_dir.iterdir()) if DATA_FILE.fullmatch(path.name)]
        ticks = {day: path for path in names if (day := date_of(path)) and not is_event_file(path)}
        events = {day: path for path in names if (day := date_of(path)) and is_event_file(path)}
        folders = parquet_files.day_folders(self._data_dir)
        for day in sorted(day for day in {*ticks, *events, *folders} if day < end):
            left = False
            if day in ticks:
                yield (found := self._remove(day, ticks[day]))
                left |= found.what != "removed"
            if day in folders and self._parquet:
                yield (found := self._remove_parquet(day))
                left |= found.what != "removed"
            left |= day in folders and not self._parquet
            if day in events and not left:
                yield self._remove(day, events[day])

    def _remove(self, day: date, path: Path) -> Outcome:
        ticks = None
        with suppress(OSError):
            ticks = None if is_event_file(path) else self._counter.known(path)
        try:
            if self._dry_run:
                return Outcome("removed", day, path, removal.check(path, self._first_open), ticks)
            return Outcome("removed", day, path, removal.remove(path, self._first_open, "clean", ticks), ticks)
        except MdsError as error:
            return self._stays(day, path, error)

    def _remove_parquet(self, day: date) -> Outcome:
        folder = parquet_folder(self._data_dir, day)
        try:
            ticks = parquet_files.summary(parquet_files.parts(folder)).ticks
            if self._dry_run:
                return Outcome("removed", day, folder, removal.check_parquet(folder, self._first_open), ticks)
            return Outcome("removed", day, folder, removal.remove_parquet(folder, self._first_open, ticks), ticks)
        except MdsError as error:
            return self._stays(day, folder, error)

    @staticmethod
    def _stays(day: date, path: Path, error: MdsError) -> Outcome:
        return Outcome("kept" if isinstance(error, StaysError) else "failed", day, path, why=str(error))
