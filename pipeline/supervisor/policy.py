"""What to do when a process or a connection fails. Pure: the time is handed in, in seconds that never step back.

`Restarts` says when to restart a process, `Heartbeats` which process hangs, and `FailoverPolicy` when the spare takes
over a connection's instruments and when it gives them back.

A connection's state follows from what is reported of it, by the one table below. What it does about it:

  - The process is gone: the spare takes over at once.
  - The socket is gone: the connection tries again at once, by itself; after `after_s` the spare takes over. Where no
    other connection is live this may be the network: the spare then only tries to connect, and takes over if it can.
  - The token is refused, or Kite counts too many connections: the spare would fare no better.
  - Who has been taken over keeps its socket, or keeps trying. It has its instruments back when it has been live for
    `stable_s`; at once if who records them fails, or if others find no room for their sake. What was failed over by
    hand does not wait for `stable_s`, but for a hand.
  - Nothing is decided while a process that was adopted has not said what it does.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pipeline.backoff import exponential
from pipeline.config import CONNECTIONS
from pipeline.supervisor.subscriptions import PRIMARY, SECONDARY, TERTIARY

FIRST_S, CAP_S = 0.1, 10.0
WRITER_CAP_S = 1.0  # every worker waits for it
FORGIVEN_S = 60.0  # who ran for so long has its next death counted as the first; deaths are counted over so long, too


@dataclass
class Restarts:
    """The restarts of one process. The first one of the writer comes at once, and the writer is never given up."""

    is_writer: bool
    max_deaths: int | None = None  # more within FORGIVEN_S: it is given up
    count: int = 0
    _delays: Iterator[float] = field(default_factory=lambda: iter(()))
    _fresh: bool = True
    _deaths_s: deque[float] = field(default_factory=deque)

    def died(self, lived_s: float, now_s: float = 0.0) -> float | None:
        """Take note of a death after `lived_s` seconds.

        Returns how many seconds to wait before the restart, None where it is given up.
        """
        self._deaths_s.append(now_s)
        while self._deaths_s[0] < now_s - FORGIVEN_S:
            self._deaths_s.popleft()
        if self.max_deaths is not None and not self.is_writer and len(self._deaths_s) > self.max_deaths:
            return None
        if lived_s > FORGIVEN_S:
            self._fresh = True
        self.count += 1
        if self._fresh:
            self._fresh = False
            self._delays = exponential(FIRST_S, WRITER_CAP_S if self.is_writer else CAP_S)
            if self.is_writer:
                return 0.0
        return next(self._delays)

    @property
    def recent(self) -> int:
        """How many deaths there were of late."""
        return len(self._deaths_s)

    def forget(self) -> None:
        """Begin anew, as somebody asked for it."""
        self._deaths_s.clear()
        self._fresh = True


class Heartbeats:
    """Which process has been silent for too long. Who checks too seldom to know accuses nobody."""

    def __init__(self, limit_s: float, starting_s: float) -> None:
        self._limit_s = limit_s
        self._starting_s = starting_s  # for the first one of a new process
        self._due_s: dict[str, float] = {}
        self._checked_s: float | None = None

    def started(self, role: str, now_s: float, *, is_new: bool = True) -> None:
        """Expect the first heartbeat of a process, soon if it is one that has been running."""
        self._due_s[role] = now_s + (self._starting_s if is_new else self._limit_s)

    def heard(self, role: str, now_s: float) -> None:
        """Take note of a heartbeat, if one is expected: a process that has ended may have last words."""
        if role in self._due_s:
            self._due_s[role] = now_s + self._limit_s

    def ended(self, role: str) -> None:
        """Expect no more of them."""
        self._due_s.pop(role, None)

    def overdue(self, now_s: float) -> list[str]:
        """Return who hangs. To be asked more often than twice in the limit."""
        before, self._checked_s = self._checked_s, now_s
        if before is None or now_s - before > self._limit_s / 2:  # it is the asker who hung: what came is still unread
            self._due_s = {role: max(due_s, now_s + self._limit_s) for role, due_s in self._due_s.items()}
        return [role for role, due_s in self._due_s.items() if now_s > due_s]


State = Literal[
    "starting",  # its process begins
    "idle",  # it has nothing to record, and no socket
    "standby",  # the same of the spare
    "connecting",
    "live",
    "silent",  # nothing came for too long, it tries again
    "down",  # its process or its socket is gone, or it could not connect
    "unauthorised",
    "rate_limited",
    "failed",  # its process has died too often
    "stopped",
]
Event = Literal[
    "started",  # its process
    "adopted",  # the same, but it has been running
    "died",
    "given_up",
    "ended",  # as asked
    "idle",
    "connecting",
    "live",
    "closed",  # the socket
    "silent",
    "refused",  # 403
    "limited",  # 429
]

TRANSITIONS: Mapping[tuple[State | None, Event], State] = {  # None: from any other state
    (None, "started"): "starting",
    (None, "adopted"): "starting",
    (None, "died"): "down",
    (None, "given_up"): "failed",
    (None, "ended"): "stopped",
    (None, "idle"): "idle",
    (None, "connecting"): "connecting",
    (None, "live"): "live",
    (None, "closed"): "down",
    (None, "silent"): "silent",
    (None, "refused"): "unauthorised",
    (None, "limited"): "rate_limited",
    # Last words of a process that is gone.
    **{
        (state, event): state
        for state in ("failed", "stopped")
        for event in ("died", "idle", "connecting", "live", "closed", "silent", "refused", "limited")
    },
}


class FailOver(NamedTuple):
    """Let the spare take over this connection's instruments."""

    connection_id: int
    reason: str


class FailBack(NamedTuple):
    """Let this connection have its instruments back."""

    connection_id: int
    reason: str


Action = FailOver | FailBack


class Situation(NamedTuple):
    """What the subscriptions say."""

    homes: Collection[int]  # connections that are home to instruments
    failed_over: Mapping[int, Collection[int]]  # of these: those that others record for, and who does
    by_hand: Collection[int]  # of these: not to be given back without need
    waiting: Collection[int]  # of these: not all has found room


@dataclass
class _Connection:
    state: State = "stopped"
    is_running: bool = False  # its process
    is_known: bool = True  # False: what it does is not known yet
    is_coming_back: bool = False  # its process was gone, and it has not been live since
    has_failed: bool = False  # the last attempt to connect
    since_s: float = 0.0  # in this state
    lost_s: float | None = None  # it should be live, and is not since
    was_live: bool = False  # since it was idle
    is_barred: bool = False  # Kite refuses it, as it would the spare


class FailoverPolicy:
    """Follows the connections and says what to do. `has_spare`: connection 3 may be used."""

    def __init__(self, *, after_s: float, stable_s: float, starting_s: float, has_spare: bool) -> None:
        self._after_s = after_s
        self._stable_s = stable_s
        self._starting_s = starting_s  # until a connection that was never live counts as lost
        self._has_spare = has_spare
        self._connections = {c: _Connection() for c in CONNECTIONS}

    def state(self, connection_id: int) -> State:
        """Return the state of a connection."""
        state = self._connections[connection_id].state
        return "standby" if state == "idle" and connection_id == TERTIARY else state

    def hear(self, connection_id: int, event: Event, now_s: float) -> None:
        """Take note of what has happened to a connection."""
        known = self._connections[connection_id]
        if event in ("started", "adopted", "died", "given_up", "ended"):
            known.is_running = event in ("started", "adopted")
            known.is_coming_back |= not known.is_running
        elif not known.is_running:
            return  # last words
        known.is_known = event != "adopted"
        state = TRANSITIONS.get((known.state, event)) or TRANSITIONS[None, event]
        if state != known.state:
            known.state, known.since_s = state, now_s
        if event != "connecting":
            known.is_barred = event in ("refused", "limited")
            known.has_failed = event in ("closed", "silent")
        if state in ("live", "idle", "stopped"):
            known.is_coming_back &= state != "live"
            known.was_live, known.lost_s = state == "live", None
        elif known.lost_s is None:
            known.lost_s = now_s

    def actions(self, situation: Situation, now_s: float) -> list[Action]:
        """Return what to do now."""
        if not self._decides:
            return []
        found = (self._action(c, situation, now_s) for c in CONNECTIONS)
        return [action for action in found if action]

    def unfit(self, situation: Situation, now_s: float) -> set[int]:
        """Return the connections that cannot record at present, and will not in a moment."""
        return {c for c in CONNECTIONS if not self._is_fit(c, situation, now_s)} if self._decides else set()

    def to_keep_open(self, situation: Situation, now_s: float) -> set[int]:
        """Return the connections that should have a socket although they may have nothing to record."""
        if not self._has_spare:
            return set()
        lost = [c for c in (PRIMARY, SECONDARY) if self._is_lost(c, situation, now_s)]
        probing = any(not self._others_live(c) or self._is_live(TERTIARY) for c in lost)
        return {*situation.failed_over, *((TERTIARY,) if probing else ())}

    @property
    def _decides(self) -> bool:
        return self._has_spare and all(known.is_known for known in self._connections.values())

    def _action(self, connection_id: int, situation: Situation, now_s: float) -> Action | None:
        if connection_id in situation.failed_over:
            reason = self._reason_to_fail_back(connection_id, situation, now_s)
            return FailBack(connection_id, reason) if reason else None
        known = self._connections[connection_id]
        others = {*CONNECTIONS} - {connection_id, *situation.failed_over} - self.unfit(situation, now_s)
        if not others or not self._is_lost(connection_id, situation, now_s):
            return None
        if not known.is_running:
            return FailOver(connection_id, "its process is gone")
        others_since_s = min((self._connections[c].since_s for c in others if self._is_live(c)), default=None)
        if others_since_s is None or known.lost_s is None:
            return None  # it may be the network
        waited_s = now_s - max(known.lost_s, others_since_s)
        return FailOver(connection_id, f"it is {known.state}") if waited_s >= self._after_s else None

    def _reason_to_fail_back(self, connection_id: int, situation: Situation, now_s: float) -> str:
        """Return why a connection should have its instruments back now; empty if it should not."""
        if connection_id not in situation.homes:
            return "it has nothing to record"
        if not self._is_live(connection_id):
            return ""
        if any(not self._is_live(home) for home in situation.waiting):
            return "it is live, and not all has found room elsewhere"
        by_hand = connection_id in situation.by_hand
        gone = [
            c
            for c in situation.failed_over[connection_id]
            if not (self._is_fit(c, situation, now_s) if by_hand else self._is_live(c))
        ]
        if gone:
            return f"it is live, and connection {gone[0]} is {self.state(gone[0])}"
        is_stable = now_s - self._connections[connection_id].since_s >= self._stable_s
        return f"it has been live for {self._stable_s:g} s" if is_stable and not by_hand else ""

    def _is_lost(self, connection_id: int, situation: Situation, now_s: float) -> bool:
        """Tell whether a connection should be live, is not, and the spare may do better."""
        if connection_id not in situation.homes or connection_id in situation.failed_over:
            return False
        return not self._connections[connection_id].is_barred and self._lost_for_s(connection_id, now_s) >= 0

    def _is_fit(self, connection_id: int, situation: Situation, now_s: float) -> bool:
        """Tell whether a connection records what it is told, or would in a moment."""
        known = self._connections[connection_id]
        if known.state == "idle" and connection_id not in situation.homes:
            known.is_coming_back = False  # there is nothing for which it should be live
        if not known.is_running or known.is_barred or known.is_coming_back:
            return False
        return self._lost_for_s(connection_id, now_s) < self._after_s and (known.was_live or not known.has_failed)

    def _lost_for_s(self, connection_id: int, now_s: float) -> float:
        """Return for how long a connection has been lost, below 0 where it has not."""
        known = self._connections[connection_id]
        if known.lost_s is None:
            return -1.0
        patience_s = self._starting_s if known.is_running and not known.was_live else 0.0
        return now_s - known.lost_s - patience_s

    def _is_live(self, connection_id: int) -> bool:
        return self._connections[connection_id].state == "live"

    def _others_live(self, connection_id: int) -> bool:
        return any(self._is_live(c) for c in self._connections if c != connection_id)
