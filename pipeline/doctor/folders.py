"""The folders that are written to: there, writable, on a disk that keeps what it is given, with room for the day."""

import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline import readable
from pipeline.config import CONNECTIONS, Config, Mode
from pipeline.doctor.finding import Check, Finding
from pipeline.epoch import epochs_held
from pipeline.events import SUPERVISOR_ID
from pipeline.forecast import bytes_a_day

AREA = "disk"
DATA_FOLDER = Check(AREA, "data_folder")
DATA_DISK = Check(AREA, "data_file_system")
FREE = Check(AREA, "disk_free")
INODES = Check(AREA, "inodes")
SPOOL_FOLDER = Check(AREA, "spool_folder")
SPOOL_DISK = Check(AREA, "spool_file_system")
SPOOL_LEFT = Check(AREA, "spool_left")
RUN_FOLDER = Check(AREA, "run_folder")

PROBE_BYTES = 4096
SLOW_SYNC_MS = 500.0
FEW_INODES, NO_INODES = 10_000, 100
IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
ON_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "glusterfs", "lustre", "9p", "virtiofs")
_ESCAPED = re.compile(r"\\([0-7]{3})")


class Place(NamedTuple):
    """A folder, or where it will be: sizes and file system are those of the nearest folder that is there."""

    path: Path
    is_there: bool
    fault: str  # why it cannot be used
    sync_ms: float | None  # how long a small write took until it was on disk; None: nothing was written
    file_system: str  # empty: not known
    device: int
    free_bytes: int
    inodes_free: int | None  # None: without a limit
    mode: int  # permission bits
    owner: int


class Left(NamedTuple):
    """What is in the spools of a connection, the one that is written to now left out."""

    connection_id: int
    epochs: int
    bytes: int
    damaged: int  # segments that were set aside


def look(path: Path, *, probe: bool = False) -> Place:
    """Look at a folder; with `probe`, write something into it that nobody sees and that goes away by itself."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    found, room = there.stat(), os.statvfs(there)
    fault, sync_ms = "", None
    if not there.is_dir():
        fault = f"{there} is a file and no folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        fault = f"{there} is not writable by this user"
    elif probe and there == path:
        try:
            sync_ms = _write(path)
        except OSError as error:
            fault = f"{path}: {error.strerror}"
    return Place(
        path=path,
        is_there=there == path,
        fault=fault,
        sync_ms=sync_ms,
        file_system=file_system_of(there, Path("/proc/self/mountinfo").read_text()),
        device=found.st_dev,
        free_bytes=room.f_bavail * room.f_frsize,
        inodes_free=room.f_favail if room.f_files else None,
        mode=stat.S_IMODE(found.st_mode),
        owner=found.st_uid,
    )


def file_system_of(folder: Path, mountinfo: str) -> str:
    """Return the type of the file system on which a folder lies (man 5 proc_pid_mountinfo), empty if not known."""
    resolved, known = folder.resolve(), {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), left.split()[4])
        known[Path(point)] = right.split()[0]  # of several on the same point the last one is seen
    return next((known[place] for place in (resolved, *resolved.parents) if place in known), "")


def judge_folder(check: Check, key: str, place: Place) -> Finding:
    """Judge whether a folder can be written to, and how fast."""
    if place.fault:
        why = "nothing can be stored there, and mds run does not begin"
        return check.failure(f"{key}: {place.fault}", why, f"mend it, or let {key} name another folder")
    if not place.is_there:
        return check.ok(f"{place.path} is not there yet, and can be made by mds run")
    if place.sync_ms is None:
        return check.ok(f"{place.path} is writable")
    what = f"{place.path} is writable; a small write is on disk after {place.sync_ms:.0f} ms"
    if place.sync_ms > SLOW_SYNC_MS:
        why = "ticks become durable as fast as the disk syncs: power loss costs what waits for it"
        return check.warning(what, why, f"see what else uses this disk, or let {key} name a folder on another one")
    return check.ok(what)


def judge_file_system(check: Check, key: str, place: Place) -> Finding:
    """Judge whether what is written there stays."""
    kind = place.file_system
    if kind in IN_MEMORY:
        what = f"{place.path} is in memory ({kind})"
        return check.warning(what, "it is gone after a restart of the machine", f"let {key} name a folder on a disk")
    if kind in ON_NETWORK or kind.startswith("fuse."):
        what = f"{place.path} is not on a disk of this machine ({kind})"
        why = "syncs are slow, and stop with the network; locks may not hold there"
        return check.warning(what, why, f"let {key} name a folder on a local disk, and copy what is over")
    return check.ok(f"{kind or 'an unknown file system'}, on this machine")


def judge_free(place: Place, reserve_bytes: int, modes: Iterable[Mode]) -> Finding:
    """Judge whether there is room for a day of instruments in these modes, one tick a second of each."""
    usable = place.free_bytes - reserve_bytes
    what = f"{readable.size(place.free_bytes)} free, {readable.size(reserve_bytes)} of it the reserve"
    todo = "make room: mds files clean --keep-days N, or a larger disk"
    if usable <= 0:
        return FREE.failure(what, "with no more than storage.reserve_mb free the writer stores nothing", todo)
    listed = list(modes)
    if not listed:
        return FREE.ok(f"{what}; what is to be recorded is not known")
    need = bytes_a_day(listed, 1)
    what = f"{what}; a day of {readable.counted(len(listed), 'instrument')} takes about {readable.size(need)}"
    if usable < need:
        return FREE.warning(f"{what} at a tick a second each", "the disk may be full within the day", todo)
    return FREE.ok(what)


def judge_inodes(place: Place) -> Finding:
    """Judge whether further files can be made."""
    if place.inodes_free is None or place.inodes_free >= FEW_INODES:
        return INODES.ok("enough for further files")
    what = f"{place.inodes_free:,} further files can be made"
    verdict = INODES.failure if place.inodes_free < NO_INODES else INODES.warning
    return verdict(what, "without, the disk is full whatever is free: spools are files", "delete small files")


def gather_left(config: Config, running: bool) -> list[Left]:
    """Look what is in the spools beside that which is written to now; with nothing running that is all."""
    found = []
    for connection_id in (SUPERVISOR_ID, *CONNECTIONS):
        epochs = epochs_held(config, connection_id)
        folder = config.spool_dir / str(connection_id)
        older = epochs[:-1] if running else epochs
        size = sum(folder_bytes(folder / str(epoch)) for epoch in older)
        damaged = len(list(folder.glob("*.damaged")))
        if older or damaged:
            found.append(Left(connection_id, len(older), size, damaged))
    return found


def folder_bytes(folder: Path) -> int:
    """Return the sizes of the files in a folder; one that goes away meanwhile has none."""
    total = 0
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def judge_left(left: Sequence[Left], *, running: bool) -> Finding:
    """Judge what runs that ended have left in the spools."""
    size = sum(one.bytes for one in left)
    if damaged := sum(one.damaged for one in left):
        what = f"{readable.counted(damaged, 'damaged segment')} set aside (*.damaged)"
        why = "what could be read of them is stored; the rest is on record as a gap"
        return SPOOL_LEFT.warning(what, why, "look at the disk, see mds gaps, and delete them when all is understood")
    if not left:
        return SPOOL_LEFT.ok("nothing is left in it of earlier runs")
    names = ", ".join("events" if not one.connection_id else f"connection {one.connection_id}" for one in left)
    what = f"{readable.size(size)} in it of earlier runs ({names})"
    if running:
        return SPOOL_LEFT.warning(
            f"{what} is still being handed to the writer", "it is not stored yet", "wait a moment"
        )
    return SPOOL_LEFT.warning(what, "it is received and not stored yet", "the next mds run stores it")


def judge_run_folder(place: Place, user: int) -> Finding:
    """Judge the folder of sockets and locks."""
    if not place.is_there:
        return (
            RUN_FOLDER.ok(f"{place.path} is not there yet, and can be made by mds run")
            if not place.fault
            else (judge_folder(RUN_FOLDER, "runtime.run_dir", place))
        )
    if place.owner != user:
        what = f"{place.path} belongs to user {place.owner}, this is user {user}"
        why = "the service in it can be asked, and another one started there, by its owner only"
        return RUN_FOLDER.failure(what, why, "run mds as that user, or let runtime.run_dir name another folder")
    if place.fault:
        return judge_folder(RUN_FOLDER, "runtime.run_dir", place)
    if place.mode & 0o077:
        what = f"{place.path} is open to other users (mode {place.mode:04o})"
        return RUN_FOLDER.warning(what, "they may read its logs or ask the service to stop", f"chmod 700 {place.path}")
    if place.file_system in ON_NETWORK:
        what = f"{place.path} is not on a disk of this machine ({place.file_system})"
        why = "sockets do not work over a network, and locks may not hold"
        return RUN_FOLDER.failure(what, why, "let runtime.run_dir name a folder on a local disk")
    return RUN_FOLDER.ok(f"{place.path}, for its owner only")


def _write(folder: Path) -> float:
    """Write a little and sync it; return how many milliseconds that took. The file has no name, and so cannot stay."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        began_s = time.monotonic()
        file.write(bytes(PROBE_BYTES))
        os.fsync(file.fileno())
        return (time.monotonic() - began_s) * 1000
