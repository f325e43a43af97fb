"""The guard: kills what hangs, and lets the spare take over for a connection that fails.

It hears what happens to processes and connections, asks `policy` what to do about it, and has it done.
"""

import logging
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pipeline.config import CONNECTIONS, Config
from pipeline.role import WRITER, worker_role
from pipeline.supervisor.children import Child, Children
from pipeline.supervisor.desk import Desk
from pipeline.supervisor.policy import Event, FailOver, FailoverPolicy, Heartbeats, Situation
from pipeline.supervisor.subscriptions import TERTIARY, Subscriptions

log = logging.getLogger(__name__)

CHECK_S = 0.1
HUNG_S = 2.0  # without a sign of life
STARTING_S = 10.0  # until a new process gives the first one, and until a connection that was never live counts as lost

_EVENTS: Mapping[str, Event] = {  # by the state that a worker reports
    "idle": "idle",
    "connecting": "connecting",
    "live": "live",
    "down": "closed",
    "silent": "silent",
    "unauthorised": "refused",
    "rate_limited": "limited",
}
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
        self._policy = FailoverPolicy(
            after_s=config.failover.after_ms / 1000,
            stable_s=config.failover.stable_s,
            starting_s=STARTING_S,
            has_spare=config.kite.max_connections >= TERTIARY,
        )

    def hear_child(self, child: Child) -> None:
        """Take note of a process that has started or ended."""
        now_s = time.monotonic()
        if child.role not in _WORKERS and child.role != WRITER:
            return
        if child.pid is None or child.is_draining:
            self._heartbeats.ended(child.role)
        else:
            self._heartbeats.started(child.role, now_s)
        if child.role in _WORKERS:
            event: Event = "given_up" if child.state == "failed" else "started" if child.pid is not None else "died"
            self._policy.hear(_WORKERS[child.role], "ended" if child.is_ending else event, now_s)
            self.act()

    def hear_end(self, role: str) -> None:
        """Take note of a process that is being ended and started again: its socket closes first of all."""
        if role in _WORKERS:
            self._policy.hear(_WORKERS[role], "died", time.monotonic())
            self.act()

    def hear_status(self, message: Mapping[str, Any]) -> None:
        """Take note of a sign of life, and of what a connection does."""
        now_s = time.monotonic()
        self._heartbeats.heard(message["role"], now_s)
        if message["type"] == "status" and message.get("state") in _EVENTS and message["role"] in _WORKERS:
            self._policy.hear(_WORKERS[message["role"]], _EVENTS[message["state"]], now_s)
            self.act()

    def check(self) -> None:
        """Look for what hangs and for what is due; to be called every CHECK_S."""
        for role in self._heartbeats.overdue(time.monotonic()):
            log.error("%s has given no sign of life for %g s, killing it", role, HUNG_S)
            self._log_event("process_hung", {"process": role, "pid": self._children.all[role].pid})
            self._heartbeats.ended(role)
            self._children.terminate(role, signal.SIGKILL)
        self.act()

    def act(self) -> None:
        """Do what the policy asks for."""
        subscriptions = self._subscriptions
        now_s = time.monotonic()
        for action in self._policy.actions(self._situation(), now_s):
            if isinstance(action, FailOver):
                change = partial(subscriptions.failover, action.connection_id)
            else:
                change = partial(subscriptions.failback, action.connection_id)
            reason = f"connection {action.connection_id}: {action.reason}"
            self._desk.change(
                "failover" if isinstance(action, FailOver) else "failback", "failover", change, reason=reason
            )
        self._desk.keep_open(self._policy.to_keep_open(self._situation(), now_s))

    def _situation(self) -> Situation:
        return Situation(self._subscriptions.homes, self._subscriptions.failed_over, self._subscriptions.by_hand)
