"""Removing what the recorder has stored, on purpose: so that a start of the recorder and `mds verify` know of it.

A durable line in `removed.jsonl` comes first, then the file goes. Only files of closed days are removed: a writer may
append to any other. Where the disk is too full for the line the file goes first, since this is what makes room.
"""

import contextlib
import errno
import stat
from collections.abc import Callable
from datetime import date
from pathlib import Path

from pipeline import removed
from pipeline.config import STATE_FOLDER
from pipeline.durable import sync_folder
from pipeline.errors import MdsError
from pipeline.removed import Removed, Why
from pipeline.store.files import date_of
from pipeline.store.keeping.closed import FirstOpen
from pipeline.store.parquet.files import day_of, is_part

_DOOMED = ".removed"  # suffix of a folder of Parquet files that is being removed


class StaysError(MdsError):
    """It must not be removed."""


def remove(path: Path, first_open: FirstOpen, why: Why, ticks: int | None = None) -> int:
    """Remove a tick or event file and return its bytes. `first_open` is what `closed` says of the data folder.

    `ticks` is for the record. Raises StaysError as `check` does, MdsError where the disk says no.
    """
    size = check(path, first_open)
    try:
        _remove(path.parent, Removed.now(path.name, size, ticks, why), path.unlink)
    except OSError as error:
        raise MdsError(f"{path}: cannot be removed: {error.strerror}") from None
    return size


def remove_parquet(folder: Path, first_open: FirstOpen, ticks: int | None = None) -> int:
    """Remove a day's folder of Parquet files as `remove` does; it goes whole or stays whole."""
    size = check_parquet(folder, first_open)
    data_dir = folder.parent.parent
    name = str(folder.relative_to(data_dir))
    try:
        _remove(data_dir, Removed.now(name, size, ticks, "clean"), lambda: _drop(folder))
    except OSError as error:
        raise MdsError(f"{folder}: cannot be removed: {error.strerror}") from None
    return size


def check(path: Path, first_open: FirstOpen) -> int:
    """Return the bytes of a file that may be removed.

    Raises StaysError for any other: it has not the recorder's name, is no regular file, or its day is open.
    """
    _check_day(path, date_of(path), first_open)
    try:
        found = path.lstat()
    except OSError as error:
        raise MdsError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise StaysError(f"{path}: no regular file; see what it is, and remove it by hand")
    return found.st_size


def check_parquet(folder: Path, first_open: FirstOpen) -> int:
    """Do the same as `check` for a day's folder of Parquet files."""
    _check_day(folder, day_of(folder), first_open)
    try:
        if folder.is_symlink() or not folder.is_dir():
            raise StaysError(f"{folder}: no folder; see what it is, and remove it by hand")
        if foreign := next((path.name for path in folder.iterdir() if not is_part(path)), None):
            raise StaysError(f"{folder}: {foreign} in it is not the recorder's; see what it is, and remove it by hand")
        return sum(path.stat().st_size for path in folder.iterdir())
    except OSError as error:
        raise MdsError(f"{folder}: {error.strerror}") from None


def _check_day(path: Path, day: date | None, first_open: FirstOpen) -> None:
    if day is None:
        raise StaysError(f"{path}: not a name that the recorder gives")
    if day >= first_open.day:
        raise StaysError(f"{path}: {first_open.why}")


def _remove(data_dir: Path, record: Removed, do: Callable[[], None]) -> None:
    """Note it, then do it; the other way round where there is no room for a line."""
    noted = True
    try:
        removed.note(data_dir / STATE_FOLDER, record)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        noted = False
    do()
    sync_folder(data_dir)
    if not noted:
        with contextlib.suppress(OSError):  # still full: the next start of the recorder will call the file missing
            removed.note(data_dir / STATE_FOLDER, record)


def _drop(folder: Path) -> None:
    """Remove a folder with its files. It gets another name first: nobody must take a part of a day for the whole."""
    doomed = folder.with_name(f".{folder.name}{_DOOMED}")
    if doomed.exists():
        _empty(doomed)  # an empty folder may be replaced
    folder.replace(doomed)
    sync_folder(folder.parent)
    for one in folder.parent.glob(f".*{_DOOMED}"):  # and what one that was killed has left
        _empty(one)
        one.rmdir()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
