"""What was removed on purpose: `removed.jsonl` in the state folder, a line for each file, written before it goes.

    {"file": "market_data_2025-10-01.jsonl", "bytes": B, "ticks": N or null, "timestamp": "...", "why": "clean"}

Else the recorder would report the file as lost when it starts, and a check of the files would miss its ticks. A file of
the same name that is there all the same has come later, or its removal failed.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from pipeline.config import STATE_FOLDER
from pipeline.durable import sync_folder, write_all
from pipeline.files import REMOVED

Why = Literal["clean", "compacted"]


class Removed(msgspec.Struct, frozen=True):
    """A file that is gone; of a day in Parquet, its folder. `ticks` is None where nobody had counted them."""

    file: str  # relative to the data folder
    bytes: int
    ticks: int | None
    timestamp: str
    why: Why

    @classmethod
    def now(cls, file: str, size: int, ticks: int | None, why: Why) -> "Removed":
        """Return what is removed at this moment."""
        return cls(file, size, ticks, datetime.now(UTC).isoformat(timespec="microseconds"), why)


def note(state_dir: Path, removed: Removed) -> None:
    """Write a line, durably. Raises OSError."""
    state_dir.mkdir(exist_ok=True)
    fd = os.open(state_dir / REMOVED, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(fd).st_size
        is_torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"  # by a full disk or a power loss
        write_all(fd, b"\n" * is_torn + msgspec.json.encode(removed) + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    if size == 0:
        sync_folder(state_dir)


def read(state_dir: Path) -> Iterator[Removed]:
    """Yield what was removed, oldest first; nothing where nothing can be read."""
    try:
        lines = (state_dir / REMOVED).read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=Removed)
        except ValueError:
            continue  # a line that was not written whole: its file was not removed then


def holds(state_dir: Path, file: str, size: int) -> bool:
    """Tell whether a file of this name was removed when it had as many bytes, at least."""
    return any(gone.file == file and gone.bytes >= size for gone in read(state_dir))


def away(data_dir: Path) -> set[str]:
    """Return the names of what was removed and is not there: gone, or begun again with a little that came late."""
    return {gone.file for gone in read(data_dir / STATE_FOLDER) if not _is_there(data_dir / gone.file, gone.bytes)}


def _is_there(path: Path, size: int) -> bool:
    with contextlib.suppress(OSError):
        return path.is_dir() or path.stat().st_size >= size
    return False
