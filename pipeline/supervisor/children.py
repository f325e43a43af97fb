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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from pipeline import __version__, role
from pipeline.config import Config
from pipeline.supervisor.policy import Restarts

log = logging.getLogger(__name__)

LOG_BYTES = 2**20  # a child's log file is begun anew above this


@dataclass
class Child:
    """One process that should be running."""

    role: str
    arguments: Sequence[str]  # python -m ...
    restarts: Restarts
    state: str = "stopped"  # stopped, running, restarting
    pid: int | None = None
    pidfd: int = -1
    started_s: float = 0.0
    exit_code: int | None = None  # None: not known, it was adopted
    process: subprocess.Popen[bytes] | None = None


class Children:
    """Starts, watches and ends them, on the running loop. `on_change` is called when one starts or ends."""

    def __init__(self, config: Config, on_change: Callable[[Child], None]) -> None:
        self.all: dict[str, Child] = {}
        self._config = config
        self._on_change = on_change
        self._ending = False
        self._gone = asyncio.Event()

    def add(self, name: str, *arguments: str) -> None:
        """Adopt the running process of this role if it is still what is asked for, or start one."""
        child = self.all[name] = Child(name, arguments, Restarts(is_writer=name == role.WRITER))
        holder = role.read_holder(role.lock_path(self._config, name))
        if holder is None:
            self._start(child)
            return
        current = holder.version == __version__ and holder.config_hash == self._config.hash
        if not self._watch(child, holder.pid):
            self._start(child)
        elif current:
            log.info("%s (process %d) is running, adopted", name, holder.pid)
            self._on_change(child)
        else:
            log.info("%s (process %d) has another version or configuration, restarting it", name, holder.pid)
            self.terminate(name)

    def terminate(self, name: str, number: int = signal.SIGTERM) -> None:
        """Send a signal to a child, if it is running."""
        child = self.all[name]
        if child.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child.pidfd, number)

    async def end(self, name: str, timeout_s: float) -> bool:
        """End a child for good, with SIGKILL if it takes too long; True if it went by itself."""
        self._ending = True
        child = self.all.get(name)
        if child is None or child.pidfd < 0:
            return True
        self.terminate(name)
        if await self._wait_gone(child, timeout_s):
            return True
        log.error("%s does not end, killing it", name)
        self.terminate(name, signal.SIGKILL)
        await self._wait_gone(child, timeout_s)
        return False

    async def _wait_gone(self, child: Child, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while child.pidfd >= 0:
                    self._gone.clear()
                    await self._gone.wait()
        except TimeoutError:
            return False
        return True

    def _start(self, child: Child) -> None:
        if self._ending:
            return
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MDS_")} | self._config.to_child()
        lock_fd = self._lock_for(child)
        with _log_file(self._config.runtime.run_dir / f"{child.role}.log") as log_file:
            process = subprocess.Popen(
                [sys.executable, "-m", *child.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env=environment,
                start_new_session=True,
                pass_fds=[lock_fd] if lock_fd >= 0 else [],
            )
        if lock_fd >= 0:
            content = {"pid": process.pid, "version": __version__, "config_hash": self._config.hash}
            os.pwrite(lock_fd, orjson.dumps(content), 0)
            os.close(lock_fd)
        child.process = process
        self._watch(child, process.pid)
        self._on_change(child)

    def _lock_for(self, child: Child) -> int:
        """Take the simulator's lock for it: it knows nothing of the service, but holds what it inherits."""
        if child.role != role.SIMULATOR:
            return -1
        fd = os.open(role.lock_path(self._config, child.role), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd

    def _watch(self, child: Child, pid: int) -> bool:
        try:
            child.pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        child.pid, child.state, child.started_s = pid, "running", time.monotonic()
        asyncio.get_running_loop().add_reader(child.pidfd, self._died, child)
        return True

    def _died(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(child.pidfd)
        os.close(child.pidfd)
        child.exit_code = child.process.wait() if child.process else None
        pid, child.pid, child.pidfd, child.process = child.pid, None, -1, None
        if self._ending:
            child.state = "stopped"
        else:
            delay_s = child.restarts.died(time.monotonic() - child.started_s)
            child.state = "restarting"
            how = _how(child.exit_code)
            log.error("%s (process %d) has ended%s, starting it again in %.1f s", child.role, pid, how, delay_s)
            loop.call_later(delay_s, self._start, child)
        self._on_change(child)
        self._gone.set()


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return ""
    return f" by {signal.Signals(-exit_code).name}" if exit_code < 0 else f" with exit code {exit_code}"


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[int]:
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)
