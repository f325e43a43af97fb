"""The export: what is in recorded ticks, what was missed of them, and how the service does, as one JSON object."""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.config import Storage
from pipeline.durable import replace_durably
from pipeline.store import sources
from pipeline.store.analysis import analyze
from pipeline.store.completeness.completeness import read
from pipeline.store.completeness.words import to_json
from pipeline.store.frames import TickFrame, read_ticks
from pipeline.store.sources import TickFile

SERVICE_KEYS = ("service_metrics", "health_status", "connection_status")


def describe(
    frame: TickFrame,
    files: Sequence[TickFile],
    zone: ZoneInfo,
    data_dir: Path,
    service: Mapping[str, Any],
    *,
    has_all: bool = True,
) -> dict[str, Any]:
    """Return the export; JSON types only.

    `service` has SERVICE_KEYS, null where none runs, and `service_error`, why. `has_all` tells that `frame` has all
    ticks of `files`. Raises OSError where an event log cannot be read.
    """
    analysis = analyze(frame)
    days = days_of(files, analysis.start, analysis.end)
    tokens = set(analysis.instruments["instrument_token"].to_list())
    ticked: dict[date, set[int]] = {days[0]: tokens} if has_all and len(days) == 1 else {}
    paths = [str(file.path) for file in files]
    return {
        "generated_at": datetime.now(zone).isoformat(),
        "data_analysis": analysis.summary(),
        **{key: service[key] for key in (*SERVICE_KEYS, "service_error")},
        "file_analyzed": paths[0] if len(paths) == 1 else paths,
        "total_rows": analysis.total_ticks,
        "completeness": to_json(read(event_folders(files, data_dir), days, zone, ticked), zone),
    }


def of_day(day: date, storage: Storage, service: Mapping[str, Any]) -> dict[str, Any]:
    """Return the export of a day. Raises MdsError where nothing was recorded on it."""
    files = sources.of_day(day, storage.data_dir)
    frame = read_ticks([file.path for file in files], data_dir=storage.data_dir, timezone=storage.timezone)
    return describe(frame, files, ZoneInfo(storage.timezone), storage.data_dir, service)


def days_of(files: Iterable[TickFile], start: datetime | None, end: datetime | None) -> list[date]:
    """Return the days of files: of those whose names tell none, from the first to the last of these ticks."""
    listed = list(files)
    days = {file.day for file in listed if file.day}
    if any(file.day is None for file in listed) and start and end:
        days |= {date.fromordinal(number) for number in range(start.date().toordinal(), end.date().toordinal() + 1)}
    return sorted(days)


def event_folders(files: Iterable[TickFile], data_dir: Path) -> set[Path]:
    """Return the folders in which the event logs of files should be."""
    return {file.path.absolute().parent if file.kind == "jsonl" else _above(file.path, data_dir) for file in files}


def _above(path: Path, data_dir: Path) -> Path:
    """Return the data folder of a Parquet file."""
    return next((folder.parent for folder in path.absolute().parents if folder.name == "parquet"), data_dir)


def write(path: Path, data: bytes) -> None:
    """Put a file there, whole or not at all. What is no regular file, a pipe for instance, is written to as it is.

    Raises OSError.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_bytes(data)
    else:
        replace_durably(target, data, suffix=f"{target.suffix}.{os.getpid()}.new")
