"""Files that are there, whole, after a power loss."""

import errno
import os
from pathlib import Path


def replace_durably(path: Path, data: bytes) -> None:
    """Put `data` in place of the file, so that after a power loss the old or the new content is there, whole."""
    temporary = path.with_suffix(".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    sync_folder(path.parent)


def write_all(fd: int, data: bytes) -> None:
    """Write `data` with one `write`. Raises OSError, ENOSPC where only a part found room: the caller cuts that off."""
    if os.write(fd, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sync_folder(path: Path) -> None:
    """Make the folder's entries durable: a new file is else not found again, whatever of it is synced."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
