"""The guard: kills what hangs, and lets the spare take over for a connection that fails.

It hears what happens to processes and connections, asks `policy` what to do about it, and has it done.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.config import CONNECTIONS, Config
from pipeline.role import HTTP, WRITER, worker_role
from pipeline.supervisor.children import Child, Children
from pipeline.supervisor.desk import Desk
from pipeline.supervisor.policy import Action, Event, FailBack, FailOver, FailoverPolicy, Heartbeats, Situation
from pipeline.supervisor.subscriptions import TERTIARY, Subscriptions

log = logging.getLogger(__name__)

CHECK_S = 0.1
HUNG_S = 2.0  # without a sign of life
STARTING_S = 10.0  # until a new process gives the first one, and until a connection that was never live counts as lost
HTTP_HUNG_S, HTTP_STARTING_S = 5.0, 30.0  # the same of the HTTP process, which gives way to all others
RELIEVED_S = 5.0  # for others to cover what a worker records that is to be restarted

_EVENTS: Mapping[str, Event] = {  # by the state that a worker reports
    "idle": "idle",
    "connecting": "connecting",
    "live": "live",
    "down": "closed",
    "silent": "silent",
    "unauthorised": "refused",
    "rate_limited": "limited",
}
RESTING = ("idle", "standby")
_WORKERS = {worker_role(c): c for c in CONNECTIONS}


class Guard:
    """`log_event` gets the name and the fields of what is worth an event of its own."""

    def __init__(
        self,
        config: Config,
        subscriptions: Subscriptions,
        desk: Desk,
        children: Children,
        log_event: Callable[[str, dict[str, Any]], str],
    ) -> None:
        self._subscriptions = subscriptions
        self._desk = desk
        self._children = children
        self._log_event = log_event
        self._heartbeats = Heartbeats(HUNG_S, STARTING_S)
        self._http_heartbeats = Heartbeats(HTTP_HUNG_S, HTTP_STARTING_S)
        self._has_spare = config.kite.max_connections >= TERTIARY
        self._policy = FailoverPolicy(
            after_s=config.failover.after_ms / 1000,
            stable_s=config.failover.stable_s,
            starting_s=STARTING_S,
            has_spare=self._has_spare,
        )
        self._relieving: set[int] = set()  # their processes are about to be restarted
        self._uncovered: list[int] = []  # as the event log knows
        self._is_stopped = False

    def hear_child(self, child: Child) -> None:
        """Take note of a process that has started or ended."""
        now_s = time.monotonic()
        if child.role not in _WORKERS and child.role not in (WRITER, HTTP):
            return
        if child.pid is None or child.is_draining:
            self._heartbeats_of(child.role).ended(child.role)
        else:
            self._heartbeats_of(child.role).started(child.role, now_s, is_new=child.process is not None)
        if child.role in _WORKERS:
            self._hear(child.role, _event_of(child), now_s)

    def hear_end(self, role: str) -> None:
        """Take note of a process that is being ended and started again: its socket closes first of all."""
        if role in _WORKERS:
            self._relieving.discard(_WORKERS[role])
            self._hear(role, "died", time.monotonic())

    def hear_status(self, message: Mapping[str, Any]) -> None:
        """Take note of a sign of life, and of what a connection does."""
        now_s = time.monotonic()
        self._heartbeats_of(message["role"]).heard(message["role"], now_s)
        if message["type"] == "status" and message.get("state") in _EVENTS and message["role"] in _WORKERS:
            self._hear(message["role"], _EVENTS[message["state"]], now_s)
            if message["state"] == "unauthorised":
                self._offer_token(self._children.all[message["role"]])

    def check(self) -> None:
        """Look for what hangs and for what is due; to be called every CHECK_S."""
        now_s = time.monotonic()
        for role in (*self._heartbeats.overdue(now_s), *self._http_heartbeats.overdue(now_s)):
            pid = self._children.all[role].pid
            if _waits_for_disk(pid):  # a kill would only cost what waits in its socket
                self._heartbeats_of(role).heard(role, now_s)
                log.warning("%s gives no sign of life, it waits for the disk", role)
                continue
            log.error("%s gives no sign of life, killing it", role)
            self._log_event("process_hung", {"process": role, "pid": pid})
            self._heartbeats_of(role).ended(role)
            self._children.terminate(role, signal.SIGKILL)
        self._act()

    async def relieve(self, role: str) -> None:
        """Let others record what a worker records before it is restarted, as far as there is room, and wait for that.

        It has its instruments back as after any failure; `hear_end` has to follow.
        """
        connection_id = _WORKERS.get(role)
        if connection_id is None or not self._has_spare or not self._is_live(connection_id):
            return
        self._relieving.add(connection_id)
        reason = f"{role} is being restarted"
        for home in [home for home in self._subscriptions.failed_over if self._is_live(home)]:
            if connection_id in self._subscriptions.carriers_of(home):
                self._change(FailBack(home, reason))
        if connection_id in self._subscriptions.homes - self._subscriptions.failed_over:
            self._change(FailOver(connection_id, reason))
        self._act()
        if not await self._desk.until_left(connection_id, RELIEVED_S):
            log.warning("%s: not all that connection %d records is covered by others meanwhile", reason, connection_id)

    async def until_back(self, role: str) -> None:
        """Wait until a worker that was restarted does again what it has to do, for a while at most."""
        connection_id = _WORKERS.get(role)
        if connection_id is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STARTING_S):
                    while not self._does_its_work(connection_id):
                        await self._desk.until_news()

    def stop(self) -> None:
        """Decide nothing any more: what ends from now on is meant to."""
        self._is_stopped = True

    def _offer_token(self, child: Child) -> None:
        """Begin a refused process of an earlier run anew, once: this run may have a better token for it."""
        if child.process is None and child.pid is not None and not child.is_outdated:
            log.info(
                "%s is refused with the access token of an earlier run, restarting it with the present one", child.role
            )
            self._children.begin_anew(child.role)

    def _heartbeats_of(self, role: str) -> Heartbeats:
        return self._http_heartbeats if role == HTTP else self._heartbeats

    def _hear(self, role: str, event: Event, now_s: float) -> None:
        connection_id = _WORKERS[role]
        self._policy.hear(connection_id, event, now_s)
        if event in ("died", "given_up", "ended"):
            self._desk.lose(connection_id)
        self._act()

    def _act(self) -> None:
        """Do what the policy asks for, and what that leads to."""
        if self._is_stopped or self._subscriptions.resting:
            return
        now_s = time.monotonic()
        for action in self._policy.actions(self._situation(), now_s):
            if isinstance(action, FailBack):  # home is better than another place with others
                self._change(action)
        unfit = self._policy.unfit(self._situation(), now_s) | self._relieving
        if unfit != self._subscriptions.unfit:
            states = ", ".join(f"connection {c} is {self._policy.state(c)}" for c in sorted(unfit))
            self._desk.avoid(unfit, states or "all connections are well")
        for action in self._policy.actions(self._situation(), now_s):
            self._change(action)
        self._desk.keep_open(self._policy.to_keep_open(self._situation(), now_s))
        self._tell_uncovered()

    def _tell_uncovered(self) -> None:
        """Name what has failed over and finds no room, when it is different."""
        lost = [home for home in sorted(self._subscriptions.waiting) if not self._is_live(home)]
        uncovered = [token for home in lost for token in self._subscriptions.waiting_of(home)]
        if uncovered != self._uncovered:
            self._uncovered = uncovered
            self._log_event("uncovered", {"instruments": uncovered})
            if uncovered:
                log.error("%d instruments are UNCOVERED: no connection that is well has room for them", len(uncovered))
            else:
                log.warning("all instruments have a place again")  # for those who look at warnings, too

    def _change(self, action: Action) -> None:
        is_over = isinstance(action, FailOver)
        move = self._subscriptions.failover if is_over else self._subscriptions.failback
        self._desk.change(
            "failover" if is_over else "failback",
            "failover",
            partial(move, action.connection_id),
            reason=f"connection {action.connection_id}: {action.reason}",
        )

    def _does_its_work(self, connection_id: int) -> bool:
        is_needed = connection_id in self._subscriptions.homes and not self._subscriptions.resting
        return self._is_live(connection_id) or (not is_needed and self._policy.state(connection_id) in RESTING)

    def _is_live(self, connection_id: int) -> bool:
        return self._policy.state(connection_id) == "live"

    def _situation(self) -> Situation:
        known = self._subscriptions
        failed_over = {home: known.carriers_of(home) for home in known.failed_over}
        return Situation(known.homes, failed_over, known.by_hand | self._relieving, known.waiting)


def _waits_for_disk(pid: int | None) -> bool:
    """Tell whether a process is in uninterruptible sleep."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "D"


def _event_of(child: Child) -> Event:
    """Return what has just become of a worker's process."""
    if child.is_ending:
        return "ended"
    if child.state == "failed":
        return "given_up"
    if child.pid is None:
        return "died"
    return "started" if child.process else "adopted"
