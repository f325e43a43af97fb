"""The log file, `log.file`: it rotates, and what cannot be written there disturbs nobody.

`mds.log` is the present one; at `log.max_mb` it becomes `mds.log.1`, that one `mds.log.2`, and `log.keep` of them stay.
A line is whole or not there. Where somebody moves the file away, or removes it, another is begun.
"""

import contextlib
import errno
import logging
import os
import stat
import time
from pathlib import Path

from pipeline.config import Config
from pipeline.errors import ConfigError

AGAIN_S = 5.0  # after a line that could not be written, until the next is tried

log = logging.getLogger(__name__)


def log_files(config: Config) -> list["LogFile"]:
    """Open the file of the settings, if they name one. Raises ConfigError where that cannot be."""
    path = config.log.file
    if path is None:
        return []
    if path.parent == config.runtime.run_dir:
        raise ConfigError(
            f"log.file: {path}: is in the run folder, where each process has its own log; name another file"
        )
    try:
        return [LogFile(path, config.log.max_mb * 2**20, config.log.keep)]
    except OSError as error:
        raise ConfigError(f"log.file: {path}: {error.strerror}; name another file, or none") from None


class LogFile(logging.Handler):
    """Appends lines to the file. Raises OSError when it is made, never afterwards: a fault is logged, once."""

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        super().__init__()
        self._path, self._max_bytes, self._keep = path, max_bytes, keep
        self._fault = ""
        self._again_s = 0.0  # monotonic
        self._missing = 0  # lines, since it has this fault
        self._fd = -1
        self._open()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            data = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001  a log call with the wrong arguments: logging's own way to deal with it
            self.handleError(record)
            return
        if self._fault and time.monotonic() < self._again_s:
            self._missing += 1
            return
        try:
            self._write(data)
        except OSError as error:
            self._fail(error.strerror or str(error))
        else:
            self._recover()

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()

    def _fail(self, fault: str) -> None:
        """Tell of it, on stderr in effect, unless that is done."""
        is_new, self._fault = not self._fault, fault
        self._missing += 1
        self._again_s = time.monotonic() + AGAIN_S
        if is_new:
            log.error("log.file: %s: %s; lines are on stderr alone until it can be written again", self._path, fault)

    def _recover(self) -> None:
        if self._fault:
            missing, self._fault, self._missing = self._missing, "", 0
            log.warning("log.file: %s: written again, %d lines are missing in it", self._path, missing)

    def _write(self, data: bytes) -> None:
        if not self._is_in_place():
            self._open()
        size = os.fstat(self._fd).st_size
        if size and size + len(data) > self._max_bytes:
            self._rotate()
            size = 0
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, size)  # no half of a line
            raise

    def _is_in_place(self) -> bool:
        try:
            return self._fd >= 0 and os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._numbered(number).replace(self._numbered(number + 1))
        self._path.replace(self._numbered(1))
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Not blocking, for it may be a pipe that nobody reads.
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file")
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
