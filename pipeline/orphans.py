"""What outlives a supervisor that was killed: finding it, and ending it in order.

Workers, writer, simulator and HTTP process go on without a supervisor. The next `mds run` adopts them; where none is to
come, they are ended here. Each is known by its command line and by the run folder in the settings that it was started
with: one that was only just started does not hold its lock file yet, and is to end all the same.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import orjson

from pipeline import role
from pipeline.config import CHILD_VARIABLE, CONNECTIONS, Config
from pipeline.epoch import epochs_held
from pipeline.errors import MdsError

WORKERS_END_S = 10.0  # a worker drains for at most worker.DRAIN_S and closes its socket before
WRITER_END_S = 10.0  # it waits for the disk
UNASKED_END_S = 2.0  # simulator and HTTP process have nothing to lose, and are killed then

_WORKERS = tuple(map(role.worker_role, CONNECTIONS))
_ROLES: dict[tuple[str, ...], str] = {  # by what is run, in the order in which they end
    **{("-m", "pipeline.worker", str(c)): role.worker_role(c) for c in CONNECTIONS},
    ("-m", "pipeline.writer"): role.WRITER,
    ("-m", "pipeline.simulator"): role.SIMULATOR,
    ("-m", "pipeline.web"): role.HTTP,
}


class Orphan(NamedTuple):
    """A process without a supervisor."""

    role: str
    pid: int
    spool_dir: Path

    def __str__(self) -> str:
        return f"{self.role} (process {self.pid})"


def find(config: Config) -> list[Orphan]:
    """Return what runs in this run folder without a supervisor, in the order of `end`; nothing where there is one."""
    if is_supervised(config):
        return []
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    found = [orphan for pid in pids if (orphan := _identify(pid, config.runtime.run_dir))]
    order = list(_ROLES.values())
    return sorted(found, key=lambda orphan: order.index(orphan.role))


def end(config: Config, tell: Callable[[str], None]) -> bool:
    """End what `find` finds: the workers hand on what they have, the writer makes it durable, then the rest.

    `tell` is given a line for each thing done. False if something had to stay in a spool. Raises MdsError where a
    worker or the writer does not end: these are not killed.
    """
    found = find(config)
    if not found:
        return True
    tell(f"the supervisor is gone; ending what it has left: {_names(found)}")
    _end_all(config, _WORKERS, WORKERS_END_S)
    _end_all(config, (role.WRITER,), WRITER_END_S)
    rest = [orphan for orphan in find(config) if orphan.role in (role.SIMULATOR, role.HTTP)]
    if going_on := _send(config, rest, signal.SIGTERM, UNASKED_END_S):
        tell(f"{_names(going_on)} does not end, killing it")
        _send(config, going_on, signal.SIGKILL, UNASKED_END_S)
    if is_supervised(config) or find(config):
        raise MdsError(f"something was started in {config.runtime.run_dir} meanwhile; to end that too: mds stop")
    if held := _connections_held(config, {orphan.spool_dir for orphan in found}):
        tell(f"connections with something left in the spool: {held}; the next mds run stores it")
    return not held


def is_supervised(config: Config) -> bool:
    """Tell whether there is a supervisor, also one that hangs."""
    return role.read_holder(role.lock_path(config, role.SUPERVISOR)) is not None


def _identify(pid: int, run_dir: Path) -> Orphan | None:
    """Return a process by what it runs and in which run folder; None if it is none of ours."""
    process = Path(f"/proc/{pid}")
    try:
        name = _role_of((process / "cmdline").read_bytes().decode().split("\0"))
        if name is None:
            return None
        environment = dict(entry.partition(b"=")[::2] for entry in (process / "environ").read_bytes().split(b"\0"))
        settings = orjson.loads(environment[CHILD_VARIABLE.encode()])
        # As that process sees it: one in a container may have a folder of the same name.
        if not run_dir.samefile(f"{process}/root{settings['runtime']['run_dir']}"):
            return None
        return Orphan(name, pid, Path(settings["storage"]["spool_dir"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _role_of(arguments: list[str]) -> str | None:
    """Return the role of a process by its command line."""
    return next((name for run, name in _ROLES.items() if tuple(arguments[1 : 1 + len(run)]) == run), None)


def _end_all(config: Config, roles: Iterable[str], timeout_s: float) -> None:
    """End these roles. Raises MdsError where one goes on: what depends on it is not ended then."""
    going_on = _send(config, [orphan for orphan in find(config) if orphan.role in roles], signal.SIGTERM, timeout_s)
    if going_on:
        pids = " ".join(str(orphan.pid) for orphan in going_on)
        raise MdsError(
            f"{_names(going_on)} does not end, so the rest goes on; the logs are in {config.runtime.run_dir}. "
            f"To end it all the same: kill -KILL {pids} (what is spooled is kept), then: mds stop"
        )


def _send(config: Config, orphans: Iterable[Orphan], number: int, timeout_s: float) -> list[Orphan]:
    """Send a signal to all and wait until they are gone; return those that are not after `timeout_s`."""
    give_up_s = time.monotonic() + timeout_s
    watched: dict[Orphan, select.poll] = {}
    with contextlib.ExitStack() as opened:
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(orphan.pid)
                opened.callback(os.close, pidfd)
                if _identify(orphan.pid, config.runtime.run_dir) == orphan:  # another may have its pid by now
                    signal.pidfd_send_signal(pidfd, number)
                    watched[orphan] = select.poll()
                    watched[orphan].register(pidfd, select.POLLIN)
        return [
            orphan for orphan, poll in watched.items() if not poll.poll(max(give_up_s - time.monotonic(), 0) * 1000)
        ]


def _connections_held(config: Config, spool_dirs: Iterable[Path]) -> str:
    """Return the connections of which a spool still holds something."""
    held = {
        connection_id
        for folder in spool_dirs
        for connection_id in CONNECTIONS
        if epochs_held(config.with_changes(storage={"spool_dir": folder}), connection_id)
    }
    return ", ".join(map(str, sorted(held)))


def _names(orphans: Iterable[Orphan]) -> str:
    return ", ".join(map(str, orphans))
