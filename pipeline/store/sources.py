"""What a reader asks for, in its words: which files hold it (by path, by day, or all of a folder), and what of them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Literal, TypeAlias
from zoneinfo import ZoneInfo

from pipeline import config
from pipeline.errors import ConfigError, MdsError
from pipeline.files import event_file_name, parquet_folder, tick_file_name
from pipeline.instruments.symbols import Symbols
from pipeline.store.files import date_of, require_folder, tick_files
from pipeline.store.format import require_known
from pipeline.store.parquet.files import day_folders, day_of, folders_in
from pipeline.store.selection import Selection

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")

Source: TypeAlias = str | Path | date
Sources: TypeAlias = Source | Iterable[Source] | None
Moment: TypeAlias = datetime | date | str | None


@dataclass(frozen=True)
class TickFile:
    """Ticks of a day, or of no known day: a JSONL file, or a Parquet file or folder of parts."""

    path: Path
    kind: Literal["jsonl", "parquet"]
    day: date | None


def place(source: Sources, data_dir: Path | str | None, timezone: str | None) -> tuple[Path, str]:
    """Return the data folder, of days and of the list of symbols, and the time zone of days and times.

    What is not given, the settings say; but the folder of a path is that path, or where the file is.
    """
    if data_dir is None and isinstance(source, (str, Path)) and not _DAY.fullmatch(str(source)):
        path = Path(source)
        data_dir = path if path.is_dir() else path.parent
    if data_dir is not None and timezone is not None:
        return Path(data_dir), timezone
    storage = config.load().storage
    return Path(data_dir or storage.data_dir), timezone or storage.timezone


def select(
    data_dir: Path,
    timezone: str,
    *,
    tokens: Iterable[int | str] | int | str | None = None,
    modes: Iterable[str] | str | None = None,
    start: Moment = None,
    end: Moment = None,
) -> Selection:
    """Return what these words of a reader mean; symbols are looked up in the data folder.

    Times without an offset are in `timezone`; a date is its midnight. Raises ConfigError naming what is none.
    """
    return Selection(
        None if tokens is None else Symbols(data_dir).resolve(tokens),
        modes,
        _moment(start, timezone),
        _moment(end, timezone),
    )


def days(data_dir: Path) -> list[date]:
    """Return the days of which a data folder has ticks, in whatever form, oldest first."""
    of_lines = {day for path in tick_files(data_dir) if (day := date_of(path))}
    return sorted(of_lines | day_folders(data_dir).keys())


def find(sources: Sources, data_dir: Path) -> list[TickFile]:
    """Return the files of days and paths, in their order; None: of all days of the data folder.

    A path is a file, another data folder, or a folder of Parquet, of one day or of all. Raises ConfigError where it is
    not there, MdsError where nothing was recorded, FormatError where a newer version has.
    """
    if isinstance(sources, (str, Path, date)):
        sources = [sources]
    found = _all(data_dir) if sources is None else [file for source in sources for file in _find(source, data_dir)]
    homes = [(file.path.parent if file.kind == "jsonl" else data_dir, file.day) for file in found]
    events = {folder / event_file_name(day) for folder, day in homes if day}
    require_known({folder for folder, _ in homes}, sorted(path for path in events if path.exists()))
    return found


def of_day(day: date, data_dir: Path) -> list[TickFile]:
    """Return where the ticks of a day are: the Parquet if it has all of them, else the JSONL.

    Ticks that came late, when the JSONL had been removed, have begun another: then the parts before it count too.
    Raises MdsError where there are none.
    """
    lines, columns = data_dir / tick_file_name(day), parquet_folder(data_dir, day)
    has_columns = columns.is_dir()
    try:
        size = lines.stat().st_size
    except FileNotFoundError:
        if not has_columns:
            raise MdsError(f"{data_dir}: nothing was recorded on {day}, there is no {lines.name}") from None
        return [TickFile(columns, "parquet", day)]
    if not has_columns:
        return [TickFile(lines, "jsonl", day)]
    try:
        from pipeline.store.parquet.io import covered, others  # noqa: PLC0415  reading JSONL does not need its packages
    except ImportError:
        return [TickFile(lines, "jsonl", day)]
    if covered(columns, lines) == size:
        return [TickFile(columns, "parquet", day)]
    return [*(TickFile(path, "parquet", day) for path in others(columns, lines)), TickFile(lines, "jsonl", day)]


def _find(source: Source, data_dir: Path) -> list[TickFile]:
    if isinstance(source, datetime):
        return of_day(source.date(), data_dir)
    if isinstance(source, date):
        return of_day(source, data_dir)
    if isinstance(source, str) and _DAY.fullmatch(source):
        return of_day(_day(source), data_dir)
    path = Path(source)
    if path.suffix == ".parquet" and path.exists():
        return [TickFile(path, "parquet", day_of(path.parent))]
    if day := day_of(path):
        return [TickFile(path, "parquet", day)]
    if of_days := folders_in(path):
        return [TickFile(folder, "parquet", day) for day, folder in of_days.items()]
    if path.is_dir():
        return _all(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file or folder")
    return [TickFile(path, "jsonl", date_of(path))]


def _all(data_dir: Path) -> list[TickFile]:
    require_folder(data_dir)
    found = [file for day in days(data_dir) for file in of_day(day, data_dir)]
    if not found:
        raise MdsError(f"{data_dir}: nothing was recorded, there is no market_data_YYYY-MM-DD.jsonl")
    return found


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text}: no such day") from None


def _moment(given: Moment, timezone: str) -> datetime | None:
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given) if isinstance(given, str) else given
    except ValueError:
        raise ConfigError(f"{given!r} is not a time like 2025-10-01T09:15:00") from None
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)  # noqa: DTZ001  its zone comes next
    zone = ZoneInfo(timezone)  # polars compares within a zone only
    return moment.astimezone(zone) if moment.tzinfo else moment.replace(tzinfo=zone)
