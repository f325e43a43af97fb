"""All that is to be told about one file, by path, name or day."""

from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.config import Config
from pipeline.errors import MdsError
from pipeline.files import event_file_name, parquet_folder, tick_file_name
from pipeline.store.files import date_of, is_event_file
from pipeline.store.keeping import closed, inventory
from pipeline.store.keeping.counting import Counter
from pipeline.store.parquet import files as parquet_files

MIB = 2**20


def file(config: Config, name: str) -> dict[str, Any]:
    """Return the facts: those of `StorageManager.get_file_info` first, with the same names.

    `name` is a path, a name in the data folder, or a day: then its JSONL, else its Parquet, else its events. Raises
    MdsError where there is no such file, OSError where it cannot be read.
    """
    path = _find(config.storage.data_dir, name)
    is_folder = path.is_dir()
    day = parquet_files.day_of(path) if is_folder else date_of(path)
    counter = Counter(config.storage.data_dir)
    form = inventory.columns_in(path, config.storage.timezone) if is_folder else inventory.lines_in(path, counter)
    counter.save()
    modified = datetime.fromtimestamp(path.stat().st_mtime, ZoneInfo(config.storage.timezone))
    count = {"event_count" if is_event_file(path) else "tick_count": form.lines}
    why_open = closed.why_open(config, day) if day else None
    return {
        "exists": True,
        "filename": path.name,
        "path": str(path),
        "size_bytes": form.bytes,
        "size_mb": form.bytes / MIB,
        "created": form.first,
        "modified": modified.isoformat(),
        **count,
        "date": day.isoformat() if day else None,
        "first": form.first,
        "last": form.last,
        "stored_as": "parquet" if is_folder else "jsonl",
        "also_stored_as": _other_form(config.storage.data_dir, path, day),
        "closed": why_open is None if day else None,
        "open_because": why_open,
    }


def _find(data_dir: Path, name: str) -> Path:
    """Return the file, or the folder of a day in Parquet."""
    candidates = [Path(name), data_dir / name]
    try:
        day = date.fromisoformat(name)
    except ValueError:
        pass
    else:
        candidates = [data_dir / tick_file_name(day), parquet_folder(data_dir, day), data_dir / event_file_name(day)]
    for path in candidates:
        if path.is_file() or (path.is_dir() and parquet_files.day_of(path)):
            return path
    raise MdsError(f"{name}: no such file, neither here nor in {data_dir}; mds files lists them")


def _other_form(data_dir: Path, path: Path, day: date | None) -> str | None:
    """Return in which other form the same day is there."""
    if day is None or is_event_file(path):
        return None
    if path.is_dir():
        return "jsonl" if (data_dir / tick_file_name(day)).is_file() else None
    return "parquet" if parquet_files.parts(parquet_folder(data_dir, day)) else None
