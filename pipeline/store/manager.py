"""Questions about the tick files of a data folder: which there are, how large, how many ticks, and the ticks as dicts.

Nothing here writes, and only `cleanup_old_files` removes. The recorder may be running: only whole lines count, and a
count begins where the recorder's own ends, or where this one did the last time.
"""

import logging
from collections.abc import Iterator
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from pipeline.config import Config, Storage
from pipeline.days import Calendar
from pipeline.files import parquet_folder, tick_file_name
from pipeline.store.bad import BadLine, Judge
from pipeline.store.files import Fragment, date_of, read_blocks, tick_files
from pipeline.store.keeping.cleaning import clean
from pipeline.store.keeping.counting import Counter
from pipeline.store.parquet import files as parquet_files

log = logging.getLogger(__name__)

MIB = 2**20


class StorageManager:
    """The tick files of one data folder, JSONL. "Today" is the day in `timezone`, as the recorder has it.

    Days that are Parquet only are not among them: `mds files` lists these too, and `pipeline.read_ticks` reads them.
    A folder or file that is not there is one without ticks. May be shared between threads.
    """

    def __init__(
        self,
        data_dir: Path | str = "./market_data",
        timezone: str = "Asia/Kolkata",
        spool_dir: Path | None = None,  # the recorder's, where it is not in the data folder
    ) -> None:
        self.data_dir = Path(data_dir)
        self._calendar = Calendar(timezone)
        # Not from the environment: what is given here is all there is to it.
        storage = Storage(data_dir=self.data_dir, timezone=timezone, spool_dir=spool_dir)
        self._config = Config.model_construct(storage=storage)
        self._counter = Counter(self.data_dir)

    # Which files there are.

    def get_filename_for_date(self, date_obj: date) -> str:
        """Return the name of the file with the ticks received on a day."""
        return tick_file_name(date_obj)

    def get_filepath_for_date(self, date_obj: date) -> Path:
        """Return the path of the file with the ticks received on a day."""
        return self.data_dir / self.get_filename_for_date(date_obj)

    def get_current_filename(self) -> str:
        """Return the name of today's file."""
        return self.get_filename_for_date(self._calendar.now().date())

    def get_current_filepath(self) -> Path:
        """Return the path of today's file."""
        return self.data_dir / self.get_current_filename()

    def list_all_files(self) -> list[Path]:
        """Return the tick files, oldest first."""
        return tick_files(self.data_dir)

    def count_files(self) -> int:
        """Return how many tick files there are."""
        return len(self.list_all_files())

    # How large they are.

    def get_file_size(self, filepath: Path | str) -> int:
        """Return the size of a file in bytes."""
        try:
            return Path(filepath).stat().st_size
        except FileNotFoundError:
            return 0

    def get_file_size_mb(self, filepath: Path | str) -> float:
        """Return the size of a file in megabytes of 2^20 bytes."""
        return self.get_file_size(filepath) / MIB

    def count_ticks_today(self) -> int:
        """Return how many ticks today's file has."""
        return self.count_ticks_in_file(self.get_current_filepath())

    def count_ticks_in_file(self, filepath: Path | str) -> int:
        """Return how many whole lines a file has by now."""
        try:
            return self._counter.count(Path(filepath))
        except FileNotFoundError:
            return 0

    def get_file_info(self, filepath: Path | str) -> dict[str, Any]:
        """Return exists, filename, path, size_bytes, size_mb, created, modified and tick_count of a file.

        `created` is when its first tick was received: Linux does not say when a file was made. Of a file that is not
        there: `{"exists": False}`.
        """
        path = Path(filepath)
        try:
            stat = path.stat()
        except FileNotFoundError:
            return {"exists": False}
        first = next(_ticks(path), {})
        return {
            "exists": True,
            "filename": path.name,
            "path": str(path),
            "size_bytes": stat.st_size,
            "size_mb": stat.st_size / MIB,
            "created": first.get("timestamp"),
            "modified": datetime.fromtimestamp(stat.st_mtime, self._calendar.zone).isoformat(),
            "tick_count": self.count_ticks_in_file(path),
        }

    def get_storage_summary(self) -> dict[str, Any]:
        """Return sizes and counts over all files, and of today's."""
        files = self.list_all_files()
        size = sum(map(self.get_file_size, files))
        return {
            "data_directory": str(self.data_dir),
            "total_files": len(files),
            "total_size_bytes": size,
            "total_size_mb": round(size / MIB, 2),
            "total_ticks": sum(map(self.count_ticks_in_file, files)),
            "files": [path.name for path in files],
            "current_file": self.get_current_filename(),
            "current_file_ticks": self.count_ticks_today(),
        }

    # What is in them.

    def read_ticks_from_file(self, filepath: Path | str, max_ticks: int | None = None) -> list[dict[str, Any]]:
        """Return the ticks of a file, at most the first `max_ticks`; lines that are none are named in the log."""
        path = Path(filepath)
        if not path.exists():
            log.warning("%s: no such file, so there are no ticks here%s", path, _instead(path))
            return []
        return list(islice(_ticks(path), max_ticks))

    def read_ticks_today(self, max_ticks: int | None = None) -> list[dict[str, Any]]:
        """Return the ticks of today's file, at most the first `max_ticks`."""
        return self.read_ticks_from_file(self.get_current_filepath(), max_ticks)

    # Which of them to keep.

    def cleanup_old_files(self, days_to_keep: int = 30) -> int:
        """Remove tick files of more than so many days ago, as `mds files clean` does; return how many files are gone.

        Event files of days without ticks go with them. What cannot be removed is named in the log.
        """
        if days_to_keep < 0:
            raise ValueError("days_to_keep must not be negative")
        removed = 0
        for outcome in clean(self._config, days_to_keep) if self.data_dir.is_dir() else ():
            removed += outcome.what == "removed"
            if outcome.why:
                log.log(logging.ERROR if outcome.what == "failed" else logging.WARNING, "%s", outcome.why)
            else:
                log.info("%s: removed, more than %d days old", outcome.path, days_to_keep)
        return removed


def _instead(path: Path) -> str:
    """Return where the ticks of a file are that is gone, as the end of a sentence; nothing where they are not."""
    day = date_of(path)
    if day is None or not parquet_files.parts(parquet_folder(path.parent, day)):
        return ""
    return f'; the day is there as Parquet, pipeline.read_ticks("{day}") reads it'


def _ticks(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the ticks of a file as far as it goes now, passing over what is none."""
    judge = Judge(path, "skip")
    for block in read_blocks(path, path.stat().st_size):
        if isinstance(block, Fragment):
            if block.kind == "too long":
                judge.hear_fragment(block)
            continue  # a torn end is a line that is being written, or that the next writer cuts
        for index, line in enumerate(block.lines):
            try:
                tick = _tick(line)
            except ValueError as error:
                judge.hear(BadLine(block.place(index), str(error)))
            else:
                yield tick
    judge.end()


def _tick(line: bytes) -> dict[str, Any]:
    tick = orjson.loads(line)
    if not isinstance(tick, dict):
        raise ValueError("not a JSON object")
    return tick
