"""The other processes: started in sessions of their own, watched through pidfds, adopted when they are older than us.

A child writes its log to a file in the run folder, which never blocks, and outlives a supervisor that is killed. The
next supervisor finds it by its lock file.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import __version__, role
from pipeline.config import Config
from pipeline.errors import RequestRefusedError
from pipeline.log import OWN_LOG_BYTES
from pipeline.secret_files import CREDENTIALS_VARIABLE
from pipeline.supervisor.policy import Restarts

log = logging.getLogger(__name__)

WORKER_MODULE = "pipeline.worker"  # python -m ...
DRAIN_AGAIN_S = 5.0
RENEW_S = 10.0  # for an outdated process to end in order
_FOR_THE_SUPERVISOR = ("NOTIFY_SOCKET", CREDENTIALS_VARIABLE)


@dataclass
class Child:
    """One process that should be running."""

    role: str
    arguments: Sequence[str]  # python -m ...
    restarts: Restarts
    state: str = "stopped"  # stopped, running, restarting, failed
    is_draining: bool = False  # given up, it only hands on what it has left
    pid: int | None = None
    pidfd: int = -1
    started_s: float = 0.0
    is_ending: bool = False  # for good: it is not started again
    is_outdated: bool = False  # adopted from another version or configuration
    exit_code: int | None = None  # None: not known, it was adopted
    process: subprocess.Popen[bytes] | None = None


class Children:
    """Starts, watches and ends them, on the running loop. `on_change` is called when one starts or ends."""

    def __init__(self, config: Config, on_change: Callable[[Child], None]) -> None:
        self.all: dict[str, Child] = {}
        self._config = config
        self._on_change = on_change
        self._changed = asyncio.Event()

    def use(self, config: Config) -> None:
        """Start whatever is started from now on with these settings."""
        self._config = config

    def add(self, name: str, *arguments: str) -> None:
        """Adopt the running process of this role if it is still what is asked for, or start one."""
        max_deaths = None if name == role.HTTP else self._config.failover.max_deaths  # nothing depends on that one
        restarts = Restarts(name == role.WRITER, max_deaths)
        child = self.all[name] = Child(name, arguments, restarts)
        self._start(child)

    def end_unwanted(self, modules: Mapping[str, str]) -> None:
        """End those roles that are running from an earlier service and were not added; the values are what they run."""
        for name, module in modules.items():
            if name not in self.all:
                child = Child(name, (module,), Restarts(is_writer=False), is_ending=True)
                if self._adopt(child):
                    log.info("%s is not part of this configuration, ending it", name)
                    self.all[name] = child
                    self.terminate(name)

    def outdated(self) -> list[str]:
        """Return the roles that were adopted from another version or configuration."""
        return [name for name, child in self.all.items() if child.is_outdated and not child.is_ending]

    def begin_anew(self, name: str) -> None:
        """End a child in order; it is started again at once, with the settings of now."""
        self.all[name].is_outdated = True
        self.terminate(name)

    async def restart(self, name: str) -> int | None:
        """End a child in order and start it anew; return the new pid. Raises RequestRefusedError."""
        child = self.all.get(name)
        if child is None or child.is_ending:
            known = ", ".join(name for name, child in self.all.items() if not child.is_ending)
            raise RequestRefusedError(f"no process of this service is called {name!r}, running are {known}")
        child.restarts.forget()
        child.is_draining = False
        if child.pidfd < 0:
            self._start(child)
        else:
            log.info("%s is being restarted, as asked", name)
            await self._replace(child)
        return child.pid

    async def _replace(self, child: Child) -> None:
        old_pid = child.pid
        self.begin_anew(child.role)
        if not await self._wait_gone(child, RENEW_S):
            self.terminate(child.role, signal.SIGKILL)
        while child.pid in (None, old_pid) and not child.is_ending:
            self._changed.clear()
            await self._changed.wait()

    def terminate(self, name: str, number: int = signal.SIGTERM) -> None:
        """Send a signal to a child, if it is running."""
        child = self.all[name]
        if child.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child.pidfd, number)

    def let_go(self) -> None:
        """Watch none of them any more, and start none: they go on, for another supervisor to adopt."""
        for child in self.all.values():
            child.is_ending = True
            if child.pidfd >= 0:
                asyncio.get_running_loop().remove_reader(child.pidfd)
                os.close(child.pidfd)
                child.pidfd = -1

    async def end(self, name: str, timeout_s: float) -> bool:
        """End a child for good, with SIGKILL if it takes too long; True if it went by itself."""
        child = self.all.get(name)
        if child is None:
            return True
        child.is_ending = True
        if child.pidfd < 0 and not self._adopt(child):  # one that an earlier supervisor started may have the lock
            child.state = "stopped"
            return True
        self.terminate(name)
        if await self._wait_gone(child, timeout_s):
            return True
        log.error("%s does not end, killing it", name)
        self.terminate(name, signal.SIGKILL)
        await self._wait_gone(child, timeout_s)
        return False

    async def _wait_gone(self, child: Child, timeout_s: float) -> bool:
        pid = child.pid  # another may follow it at once
        try:
            async with asyncio.timeout(timeout_s):
                while pid is not None and child.pid == pid:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _start(self, child: Child) -> None:
        """Adopt or start it; where the system cannot (no memory, no descriptors, no disk), try again later."""
        if child.is_ending or child.pidfd >= 0 or self._adopt(child):
            return
        try:
            child.process = self._spawn(child)
        except OSError as error:
            outlook = self._start_later(child, lived_s=0.0)
            log.error("%s cannot be started (%s), %s", child.role, error.strerror, outlook)
            if child.state == "failed":
                self._note(child)
            return
        again = child.exit_code is not None
        log.log(logging.INFO if again else logging.DEBUG, "%s is started, as process %d", child.role, child.pid)
        self._note(child)

    def _adopt(self, child: Child) -> bool:
        """Take over the process that holds the role's lock: a supervisor that was killed may have left one."""
        holder = role.read_holder(role.lock_path(self._config, child.role))
        if holder is None or not _runs(holder.pid, child.arguments[0]) or not self._watch(child, holder.pid):
            return False
        child.is_outdated = holder.version != __version__ or holder.config_hash != self._hash(child)
        log.info("%s (process %d) is running, adopted", child.role, holder.pid)
        self._note(child)
        return True

    def _hash(self, child: Child) -> str:
        return self._config.http_hash if child.role == role.HTTP else self._config.hash

    def _note(self, child: Child) -> None:
        self._on_change(child)
        self._changed.set()

    def _start_later(self, child: Child, lived_s: float) -> str:
        """Start a child again when it is time, unless it is given up; return what comes, in words."""
        delay_s = child.restarts.died(lived_s, time.monotonic())
        if delay_s is None:
            child.state = "failed"
            if WORKER_MODULE in child.arguments:
                asyncio.get_running_loop().call_soon(self._drain, child)
            again = f"try again with: mds restart {child.role}"
            return f"GIVEN UP, it has died {child.restarts.recent} times within a minute; {again}"
        child.state = "restarting"
        asyncio.get_running_loop().call_later(delay_s, self._start, child)
        return f"starting it again in {delay_s:.1f} s"

    def _drain(self, child: Child) -> None:
        """Let a worker that is given up hand on what it has spooled; the writer may be slow, so again and again."""
        if child.state != "failed" or child.is_ending or child.pidfd >= 0:
            return
        child.is_draining = True
        try:
            child.process = self._spawn(child, "--drain")
        except OSError as error:
            log.error("%s cannot be started to hand on what it has spooled: %s", child.role, error.strerror)

    def _drained(self, child: Child) -> None:
        child.is_draining = False
        if child.exit_code:
            log.warning("%s: handing on what it had spooled has ended%s, again", child.role, _how(child.exit_code))
            asyncio.get_running_loop().call_later(DRAIN_AGAIN_S, self._drain, child)
        else:
            log.info("%s: what it had spooled is handed on", child.role)

    def _spawn(self, child: Child, *more: str) -> subprocess.Popen[bytes]:
        environment = without_secrets(os.environ) | self._config.to_child()
        with (
            _stop_signals_blocked(child),
            self._lock_for(child) as lock_fd,
            log_file(self._config.runtime.run_dir / f"{child.role}.log") as log_fd,
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", *child.arguments, *more],
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                env=environment,
                start_new_session=True,
                pass_fds=[lock_fd] if lock_fd >= 0 else [],
            )
            try:
                if lock_fd >= 0:
                    os.pwrite(lock_fd, role.lock_content(process.pid, self._hash(child)), 0)
                self._watch(child, process.pid)
            except OSError:  # nobody would see it end
                process.kill()
                process.wait()
                raise
        return process

    @contextlib.contextmanager
    def _lock_for(self, child: Child) -> Iterator[int]:
        """Take the simulator's lock for it: it knows nothing of the service, but holds what it inherits."""
        if child.role != role.SIMULATOR:
            yield -1
            return
        fd = os.open(role.lock_path(self._config, child.role), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            yield fd
        finally:
            os.close(fd)

    def _watch(self, child: Child, pid: int) -> bool:
        try:
            child.pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        child.pid, child.started_s = pid, time.monotonic()
        child.state = "failed" if child.is_draining else "running"
        asyncio.get_running_loop().add_reader(child.pidfd, self._died, child)
        return True

    def _died(self, child: Child) -> None:
        asyncio.get_running_loop().remove_reader(child.pidfd)
        os.close(child.pidfd)
        child.exit_code = child.process.wait() if child.process else None
        pid, child.pid, child.pidfd, child.process = child.pid, None, -1, None
        is_renewed, child.is_outdated = child.is_outdated, False
        if child.is_draining and not is_renewed:
            self._drained(child)
        elif child.is_ending:
            child.state = "stopped"
        elif is_renewed:
            asyncio.get_running_loop().call_soon(self._start, child)
        else:
            outlook = self._start_later(child, time.monotonic() - child.started_s)
            log.error("%s (process %d) has ended%s, %s", child.role, pid, _how(child.exit_code), outlook)
        self._note(child)


@contextlib.contextmanager
def _stop_signals_blocked(child: Child) -> Iterator[None]:
    """Let a worker be born with them blocked: told to end while it still starts, it ends in order when it can."""
    if WORKER_MODULE not in child.arguments:
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, role.STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, role.STOP_SIGNALS)


def _runs(pid: int, module: str) -> bool:
    """Tell whether a process is what it should be: a lock file read at the wrong moment may name a stranger."""
    try:
        return module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return ""
    if exit_code >= 0:
        return f" with exit code {exit_code}"
    try:
        return f" by {signal.Signals(-exit_code).name}"
    except ValueError:  # a real-time signal has no name
        return f" by signal {-exit_code}"


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what is meant for the recorder: credentials, and all of its settings.

    What systemd tells the supervisor is for nobody else, either.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.upper().startswith(("KITE_", "MDS_", "WATCHDOG_")) and name not in _FOR_THE_SUPERVISOR
    }


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[int]:
    """Open the log of a process in the run folder, begun anew if it has grown large; the process keeps it short."""
    if path.exists() and path.stat().st_size > OWN_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)
