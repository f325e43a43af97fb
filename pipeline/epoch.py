"""Beginning and ending the epoch of a connection, and finding out how the one before it ended.

What must be remembered between two epochs stands in `<state_dir>/stream-<connection_id>.json`, apart from the spool:
a spool that is gone must not look like a first start. The file names the open epoch from its first moment, and its
last numbers once it has ended cleanly and its spool is removed.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from pipeline.config import Config
from pipeline.spool import Spool
from pipeline.wire import Mark

NS_PER_MS = 1_000_000

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


def open_epoch(config: Config, connection_id: int, now_ns: int) -> Opening:
    """Open a new epoch: numbered by its start in milliseconds, above every earlier one.

    Raises OSError where the spool or the state folder cannot be written.
    """
    root = config.spool_dir / str(connection_id)
    root.mkdir(parents=True, exist_ok=True)
    config.state_dir.mkdir(parents=True, exist_ok=True)
    leftovers = {epoch: Spool.open(root / str(epoch)) for epoch in _epochs_in(root)}
    remembered = _read(config.state_dir, connection_id)
    predecessor = _predecessor(remembered, leftovers, recorded_before=_has_files(config.storage.data_dir))
    epoch = max(now_ns // NS_PER_MS, (predecessor.epoch or 0) + 1)
    spool = Spool.create(root / str(epoch), config.storage.spool_max_mb * 2**20)
    _write(config.state_dir, connection_id, {"epoch": epoch, "clean": False})
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
    _write(config.state_dir, connection_id, remembered)
    spool.remove()
    for folder in (spool.folder.parent, spool.folder.parent.parent):
        if folder != config.spool_dir and not any(folder.iterdir()):
            folder.rmdir()


def _predecessor(
    remembered: dict[str, int] | None, leftovers: dict[int, Spool], *, recorded_before: bool
) -> Predecessor:
    newest = max(leftovers, default=0)
    if newest and newest >= (remembered or {}).get("epoch", 0):
        spool = leftovers[newest]
        return Predecessor("killed", newest, spool.last, spool.last_recv_ns)
    if remembered is None:
        return Predecessor("unknown" if recorded_before else "none")
    if remembered["clean"]:
        last = Mark(remembered["seq"], remembered["event_seq"])
        return Predecessor("clean", remembered["epoch"], last, remembered["last_recv_ns"])
    return Predecessor("unknown", remembered["epoch"])


def _epochs_in(root: Path) -> list[int]:
    return sorted(int(folder.name) for folder in root.iterdir() if folder.name.isdigit() and folder.is_dir())


def _has_files(data_dir: Path) -> bool:
    return next(data_dir.glob("market_data_*.jsonl"), None) is not None


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


def _write(state_dir: Path, connection_id: int, remembered: dict[str, int | bool]) -> None:
    replace_durably(_path(state_dir, connection_id), orjson.dumps(remembered))


def replace_durably(path: Path, data: bytes) -> None:
    """Put `data` in place of the file, so that after a power loss the old or the new content is there, whole."""
    temporary = path.with_suffix(".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
