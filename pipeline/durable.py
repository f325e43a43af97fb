"""Files that are there, whole, after a power loss."""

import errno
import os
from pathlib import Path


def replace_durably(path: Path, data: bytes, mode: int = 0o644, suffix: str = ".new") -> None:
    """Put `data` in place of the file, so that after a power loss the old or the new content is there, whole.

    The new content never has more permissions than `mode`. It is written beside the file first, with `suffix`:
    processes that may replace the same file at once need different ones.
    """
    temporary = path.with_suffix(suffix)
    temporary.unlink(missing_ok=True)  # what a killed process has left may have another mode, or be a link
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
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
