"""Files that are written to, and have lost their place in the folder: removed, moved away, or replaced by others.

As long as they are open nothing of them is lost; with the process that has them open, all of it.
"""

import contextlib
import os
from pathlib import Path

from pipeline.durable import sync_folder

COPY_BYTES = 2**22  # at a time
RESTORED = ".restored"  # suffix of a copy that is being made


def is_in_place(fd: int, path: Path) -> bool:
    """Tell whether this open file is what stands at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def put_back(fd: int, path: Path, aside: Path) -> int:
    """Let the open file stand at `path` again, durably; what stands there now is kept as `aside`, if anything.

    Return the descriptor to go on with, in place of `fd`: a file without any name cannot get one again, and is copied.
    Raises OSError, with which `fd` is as it was.
    """
    for folder in (path.parent, aside.parent):
        folder.mkdir(parents=True, exist_ok=True)
    copy = aside.with_name(f"{path.name}{RESTORED}")
    copy.unlink(missing_ok=True)  # of one that was killed
    try:
        new_fd = _link(fd, copy) if os.fstat(fd).st_nlink else _copy(fd, copy)
        with contextlib.suppress(FileNotFoundError):
            os.link(path, aside)  # first, so that at each moment one of them stands there
        copy.replace(path)
        sync_folder(path.parent)
    except OSError:
        copy.unlink(missing_ok=True)
        raise
    return new_fd


def _link(fd: int, path: Path) -> int:
    """Give a file that was moved away another name. Raises OSError where that is on another file system."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # With a folder it is linkat(2), which goes through the link in /proc; link(2) does not.
        os.link(f"/proc/self/fd/{fd}", path.name, dst_dir_fd=folder)
    finally:
        os.close(folder)
    return fd


def _copy(fd: int, path: Path) -> int:
    new_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        for part in iter(lambda: os.pread(fd, COPY_BYTES, os.fstat(new_fd).st_size), b""):
            os.write(new_fd, part)
        os.fsync(new_fd)
    except OSError:
        os.close(new_fd)
        raise
    return new_fd
