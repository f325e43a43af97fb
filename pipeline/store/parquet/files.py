"""The Parquet files of closed days: which there are, and what their footers tell.

    <data_dir>/parquet/date=YYYY-MM-DD/part-NNNNN.parquet

Only `summary` needs pyarrow, and imports it itself: where it is not installed the rest goes on without counts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from pipeline.files import parquet_folder

_DAY = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
_PART = re.compile(r"part-\d{5}\.parquet")
_TIME = "timestamp"  # the column with the receive time


@dataclass(frozen=True)
class Summary:
    """What the footers of a day's files tell; None: they cannot be read, or pyarrow is not installed."""

    ticks: int | None = None
    first: datetime | None = None  # receive time of the first tick
    last: datetime | None = None


def day_of(folder: Path) -> date | None:
    """Return the day of a folder by its name; None where the name is not the recorder's."""
    match = _DAY.fullmatch(folder.name)
    try:
        return date.fromisoformat(match[1]) if match else None
    except ValueError:
        return None


def is_part(path: Path) -> bool:
    """Tell whether this is one of a day's files."""
    return _PART.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def day_folders(data_dir: Path) -> dict[date, Path]:
    """Return the folders of all days of a data folder that have files, oldest first."""
    return folders_in(parquet_folder(data_dir, date.min).parent)


def folders_in(parent: Path) -> dict[date, Path]:
    """Return the folders of days that have files, oldest first; none where there is no such folder."""
    folders = ((day_of(folder), folder) for folder in sorted(parent.glob("date=*")))
    return {day: folder for day, folder in folders if day and parts(folder)}


def parts(folder: Path) -> list[Path]:
    """Return the files of a day."""
    return sorted(path for path in folder.glob("part-*.parquet") if is_part(path))


def summary(paths: Iterable[Path]) -> Summary:
    """Return what the footers of these files tell, of all of them together."""
    try:
        from pyarrow import parquet  # noqa: PLC0415  see above
    except ImportError:
        return Summary()
    ticks, times = 0, []
    try:
        for path in paths:
            footer = parquet.read_metadata(path)
            ticks += footer.num_rows
            column = footer.schema.names.index(_TIME)
            groups = [footer.row_group(n).column(column).statistics for n in range(footer.num_row_groups)]
            times += [time for found in groups for time in _bounds(found)]
    except (OSError, ValueError):  # ArrowInvalid is a ValueError; so is that there is no such column
        return Summary()
    return Summary(ticks, min(times, default=None), max(times, default=None))


def _bounds(statistics: Any) -> list[datetime]:
    """Return the least and the greatest time of a row group, none where the file does not tell."""
    known = statistics is not None and statistics.has_min_max
    return [time for time in (statistics.min, statistics.max) if isinstance(time, datetime)] if known else []
