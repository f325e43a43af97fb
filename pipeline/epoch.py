"""Beginning and ending the epoch of a connection, and finding out how the one before it ended.

What must be remembered between two epochs stands in `<state_dir>/stream-<connection_id>.json`, apart from the spool:
a spool that is gone must not look like a first start. The file names the open epoch from its first moment, and its
last numbers once it has ended cleanly and its spool is removed.
"""

import errno
import fcntl
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from pipeline.config import Config
from pipeline.days import NS_PER_MS
from pipeline.durable import replace_durably
from pipeline.errors import AlreadyRunningError, EpochError
from pipeline.files import DATA_FILE, claim_format
from pipeline.spool import Spool, drop_ballast
from pipeline.wire import Mark

log = logging.getLogger(__name__)

HEAD_BYTES = 2**20  # of a data file: in it each connection that recorded on that day is named

End = Literal["none", "clean", "killed", "unknown"]


@dataclass(frozen=True)
class Predecessor:
    """The epoch before this one. `unknown`: it existed, but nothing tells how far it had come."""

    end: End
    epoch: int | None = None
    last: Mark | None = None
    last_recv_ns: int = 0  # 0: it had no instruments, or unknown


@dataclass(frozen=True)
class Opening:
    """A new epoch, and what older ones have left to be handed on, oldest first."""

    epoch: int
    spool: Spool
    leftovers: dict[int, Spool]
    predecessor: Predecessor


def claim_spool(config: Config, connection_id: int) -> None:
    """Hold the connection's spool as long as this process lives: two services must not drain each other's.

    The folder itself is locked, since it has to be empty in the end. Raises AlreadyRunningError, EpochError, or
    FormatError where a newer version has written.
    """
    claim_format(config.state_dir)
    root = config.spool_dir / str(connection_id)
    try:
        root.mkdir(parents=True, exist_ok=True)
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyRunningError(f"{root} is the spool of a process that is running; end that one first") from None
    except OSError as error:
        raise EpochError(f"{root}: {error.strerror}") from error


def open_epoch(config: Config, connection_id: int, now_ns: int) -> Opening:
    """Open a new epoch: numbered by its start in milliseconds, above every earlier one.

    The caller has claimed the connection's spool. Raises EpochError where it or the state folder cannot be written.
    """
    try:
        return _open_epoch(config, connection_id, now_ns)
    except OSError as error:
        if error.errno == errno.ENOSPC and _made_room(config, connection_id):
            return open_epoch(config, connection_id, now_ns)
        where = error.filename or config.spool_dir
        raise EpochError(f"cannot begin a spool: {where}: {error.strerror}") from error


def _open_epoch(config: Config, connection_id: int, now_ns: int) -> Opening:
    root = config.spool_dir / str(connection_id)
    root.mkdir(parents=True, exist_ok=True)
    config.state_dir.mkdir(parents=True, exist_ok=True)
    leftovers = {epoch: Spool.open(root / str(epoch)) for epoch in epochs_held(config, connection_id)}
    remembered = _read(config.state_dir, connection_id)
    predecessor = _predecessor(
        remembered, leftovers, recorded_before=_has_recorded(config.storage.data_dir, connection_id)
    )
    earlier = (predecessor.epoch or 0, max(leftovers, default=0), _youngest_file_ms(config.storage.data_dir))
    epoch = max(now_ns // NS_PER_MS, max(earlier) + 1)
    silent_since_ns = now_ns if predecessor.end == "unknown" else predecessor.last_recv_ns
    folder = root / str(epoch)
    try:
        spool = Spool.create(folder, config.storage.spool_max_mb * 2**20, silent_since_ns)
        _remember(config.state_dir, connection_id, {"epoch": epoch, "clean": False})
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)  # nothing is in it yet
        raise
    return Opening(epoch, spool, leftovers, predecessor)


def close_epoch(config: Config, connection_id: int, epoch: int, spool: Spool) -> None:
    """End an epoch of which everything is durable: remember where it stood and remove its spool."""
    remembered = {
        "epoch": epoch,
        "clean": True,
        "seq": spool.last.seq,
        "event_seq": spool.last.event_seq,
        "last_recv_ns": spool.last_recv_ns,
    }
    if not _remember(config.state_dir, connection_id, remembered):
        spool.close()  # it tells the next epoch what could not be remembered
        return
    spool.remove()
    root = spool.folder.parent
    if root.exists() and not any(root.iterdir()):  # somebody may have removed it with all that was in it
        root.rmdir()


def _made_room(config: Config, connection_id: int) -> bool:
    """Give up the ballast of older epochs: without a new epoch nobody would hand them on, and it would stay full."""
    given_up = False
    for epoch in epochs_held(config, connection_id):
        given_up |= drop_ballast(config.spool_dir / str(connection_id) / str(epoch))
    return given_up


def _predecessor(
    remembered: dict[str, int] | None, leftovers: dict[int, Spool], *, recorded_before: bool
) -> Predecessor:
    newest = max((epoch for epoch, spool in leftovers.items() if spool.begun), default=0)
    known = remembered["epoch"] if remembered else 0
    if remembered and remembered["clean"] and known >= newest:  # a spool of it was about to be removed
        last = Mark(remembered["seq"], remembered["event_seq"])
        return Predecessor("clean", known, last, remembered["last_recv_ns"])
    if newest and newest >= known:
        spool = leftovers[newest]
        return Predecessor("killed", newest, spool.last, spool.last_recv_ns)
    if remembered is None:
        return Predecessor("unknown" if recorded_before else "none")
    return Predecessor("unknown", known)


def epochs_held(config: Config, connection_id: int) -> list[int]:
    """Return the epochs of which a connection's spool still holds something, oldest first."""
    root = config.spool_dir / str(connection_id)
    if not root.is_dir():
        return []
    return sorted(int(folder.name) for folder in root.iterdir() if _is_number(folder.name) and folder.is_dir())


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _youngest_file_ms(data_dir: Path) -> int:
    """Return when the data files were last written: after every epoch in them began, whatever the clock says now."""
    times_ns = [path.stat().st_mtime_ns for path in data_dir.iterdir() if DATA_FILE.fullmatch(path.name)]
    return max(times_ns, default=0) // NS_PER_MS


def _has_recorded(data_dir: Path, connection_id: int) -> bool:
    """Tell whether the data files have anything of this connection: it may be the others that have just begun."""
    mark = b'"connection_id":%d,' % connection_id
    for path in data_dir.iterdir():
        if DATA_FILE.fullmatch(path.name):
            with path.open("rb") as file:
                if mark in file.read(HEAD_BYTES):
                    return True
    return False


def _path(state_dir: Path, connection_id: int) -> Path:
    return state_dir / f"stream-{connection_id}.json"


def _read(state_dir: Path, connection_id: int) -> dict[str, int] | None:
    """Return what is remembered; None where there is nothing, or nothing readable."""
    try:
        remembered = orjson.loads(_path(state_dir, connection_id).read_bytes())
    except (OSError, ValueError):
        return None
    keys = ("epoch", "clean", "seq", "event_seq", "last_recv_ns")
    usable = isinstance(remembered, dict) and all(type(remembered.get(key, 0)) in (int, bool) for key in keys)
    complete = usable and "epoch" in remembered and all(key in remembered for key in keys if remembered.get("clean"))
    return remembered if complete and "clean" in remembered else None


def _remember(state_dir: Path, connection_id: int, remembered: dict[str, int | bool]) -> bool:
    """Write down what the next epoch should know. False if it cannot be: the spool tells as much, while it is there."""
    path = _path(state_dir, connection_id)
    try:
        replace_durably(path, orjson.dumps(remembered))
    except OSError as error:
        log.warning("%s: %s; a spool that is lost would not be noticed", path, error.strerror)
        return False
    return True
