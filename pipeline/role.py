"""What every process of the service has: a role, a lock file that says so, a log, and a line to the supervisor.

A lock file `<run_dir>/<role>.lock` is held with flock as long as its process lives, and names its pid, the version and
the hash of the configuration that it was started with: a supervisor that comes later can tell what is running, and
whether it is still what the configuration asks for.
"""

import ctypes
import fcntl
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import zmq

from pipeline import __version__, events, log
from pipeline.config import Config
from pipeline.errors import AlreadyRunningError, ConfigError
from pipeline.notices import describe
from pipeline.wire import STATUS_SOCKET

WRITER, SUPERVISOR = events.WRITER, events.SUPERVISOR  # a process is called as the source of its events
SIMULATOR = "simulator"
HTTP = "http"
PARENT_VARIABLE = "MDS_PARENT"  # of an errand: the pid of who has started it
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LEAVE_SIGNAL = signal.SIGUSR1  # to the supervisor: end alone, and leave the others recording
EXIT_SPOOLED = 3  # a worker's exit code: ended in order, but not everything that it had spooled was stored in time

_LOCK_TRIES, _LOCK_PAUSE_S = 10, 0.02  # whoever asks who holds a lock holds it for a moment
_SOCKET_PATH_MAX = 107  # bytes of sun_path, less the end mark
STARTING_S = 120.0  # a disk may hang for a while, and come back
START_SIGN_S = 0.5
_PR_SET_PDEATHSIG = 1  # prctl(2)
_COLLECT_AFTER = 20_000  # objects more than have been freed
_STATUS_BACKLOG = 1000  # messages kept for a supervisor that is busy; with none running they are dropped


def worker_role(connection_id: int) -> str:
    """Return the name of the process that owns this connection."""
    return events.source_of(connection_id)


@dataclass(frozen=True)
class Holder:
    """Who holds a lock file."""

    pid: int
    version: str
    config_hash: str


class Lock:
    """An flock on a file, held until the process ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def acquire(self, config_hash: str) -> None:
        """Take the lock. Raises AlreadyRunningError naming the process that has it."""
        fd = _open_private(self.path)
        for attempt in range(_LOCK_TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if attempt == _LOCK_TRIES - 1:
                    os.close(fd)
                    holder = read_holder(self.path)
                    who = f"process {holder.pid}" if holder else "another process"
                    raise AlreadyRunningError(f"{self.path} is held by {who}; end that one first") from None
                time.sleep(_LOCK_PAUSE_S)
        self._fd = fd
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, lock_content(os.getpid(), config_hash), 0)
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}") from None

    def release(self) -> None:
        """Give the lock back; the file stays, so that nobody locks one that another has just removed."""
        os.close(self._fd)


def lock_content(pid: int, config_hash: str) -> bytes:
    """Return what a lock file says of its holder, as `read_holder` reads it."""
    return orjson.dumps({"pid": pid, "version": __version__, "config_hash": config_hash})


def read_holder(path: Path) -> Holder | None:
    """Return who holds the lock file now, None if nobody does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            content = orjson.loads(os.pread(fd, 4096, 0))
            return Holder(int(content["pid"]), content["version"], content["config_hash"])
        except (ValueError, KeyError, TypeError):
            return None
    finally:
        os.close(fd)
    return None


def lock_path(config: Config, role: str) -> Path:
    """Return the lock file of a role in this run folder."""
    return config.runtime.run_dir / f"{role}.lock"


def prepare_run_dir(config: Config) -> None:
    """Make the run folder, for this user only. Raises ConfigError."""
    run_dir = config.runtime.run_dir
    is_shared = run_dir.is_dir() and any(run_dir.iterdir()) and not lock_path(config, SUPERVISOR).exists()
    if is_shared and run_dir.stat().st_mode & 0o077:
        raise ConfigError(f"runtime.run_dir: {run_dir}: is used by others; name a folder for this service alone")
    make_folder("runtime.run_dir", run_dir)
    try:
        run_dir.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"runtime.run_dir: {run_dir}: {error.strerror}") from None


def make_folder(key: str, folder: Path) -> None:
    """Make the folder that the setting `key` names, unless it is there. Raises ConfigError if it cannot be used."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{key}: {folder}: not a folder, a file is in the way") from None
    except OSError as error:
        raise ConfigError(f"{key}: {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}: {folder}: not writable by this user")


def endpoint(run_dir: Path, name: str) -> str:
    """Return the ZeroMQ address of a socket in the run folder.

    A path that is too long for a Unix socket is reached through an open descriptor of its folder.
    """
    path = run_dir / name
    if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
        folder = _folder_fds.get(run_dir)
        if folder is None:
            folder = _folder_fds[run_dir] = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        path = Path(f"/proc/self/fd/{folder}/{name}")
    return f"ipc://{path}"


_folder_fds: dict[Path, int] = {}


class StatusLine:
    """Tells the supervisor what goes on; never waits, and drops what cannot be sent. One for each thread."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", run_dir: Path, role: str) -> None:
        self._role = role
        self._socket: zmq.Socket[bytes] = context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, _STATUS_BACKLOG)
        self._socket.setsockopt(zmq.LINGER, 200)  # ms: the last words of a process that ends
        self._socket.connect(endpoint(run_dir, STATUS_SOCKET))

    def send(self, kind: str, **fields: Any) -> None:
        """Send one message: `kind` is status, digest, log, event or starting."""
        message = {"type": kind, "role": self._role, "pid": os.getpid(), "sent_s": time.monotonic(), **fields}
        try:
            self._socket.send(orjson.dumps(message), zmq.NOBLOCK)
        except zmq.Again:
            return

    def send_event(self, event: str, timestamp: str, fields: Mapping[str, Any]) -> None:
        """Tell of an event that is on its way to the event log, as far as people are to be told of it."""
        told = describe(event, fields)
        if told is not None:
            text, details = told
            self.send("event", event=event, timestamp=timestamp, text=text, details=details)

    def close(self) -> None:
        """Send what is still queued, for a moment, and end."""
        self._socket.close()


class StartSigns:
    """Signs of life from a thread while a process starts: a long file, or a disk that hangs, is no reason to kill it.

    A context manager; it ends with the start, or after STARTING_S, for then something else may be wrong.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", run_dir: Path, role: str) -> None:
        self._line = StatusLine(context, run_dir, role)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="start", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        give_up_s = time.monotonic() + STARTING_S
        while time.monotonic() < give_up_s:
            self._line.send("starting")
            if self._ended.wait(START_SIGN_S):
                break
        self._line.close()


class RelayHandler(logging.Handler):
    """Hands log records to the supervisor, which shows them where `mds run` was started."""

    def __init__(self, line: StatusLine, secrets: Sequence[str]) -> None:
        super().__init__()
        self._line = line
        self._secrets = secrets

    def emit(self, record: logging.LogRecord) -> None:
        """Send what it says."""
        try:
            said = log.fields(record, self._secrets)
        except Exception:  # noqa: BLE001  a log call with the wrong arguments: logging's own way to deal with it
            self.handleError(record)
        else:
            self._line.send("log", **said)


def set_up_log(config: Config, role: str, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    """Log to this process's stderr, which is a file in the run folder, and to the supervisor.

    The handler has a socket of its own, which its lock hands from thread to thread.
    """
    log.setup(config, role, RelayHandler(StatusLine(context, config.runtime.run_dir, role), config.secrets))


def spare_collector() -> None:
    """Keep Python's collector of cycles out of the way of ticks; to be called when a process has started.

    It need not look again at what is there for good, which takes some milliseconds, and not after every few hundred
    objects: those of a tick are in no cycle, and are freed without it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def end_with_parent() -> None:
    """Let an errand end with the supervisor that has started it, however that ends: it does it for nobody else."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if parent != str(os.getppid()):  # it has ended before
            sys.exit(1)


def _open_private(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
