"""What to do when a process or a connection fails. Pure: the time is handed in, in seconds that never step back.

`Restarts` says when to restart a process, `Heartbeats` which process hangs, and `FailoverPolicy` when the spare takes
over a connection's instruments and when it gives them back.

A connection's state follows from what is reported of it, by the one table below. What it does about it:

  - The process is gone: the spare takes over at once.
  - The socket is gone: the connection tries again at once, by itself; after `after_s` the spare takes over. Where no
    other connection is live this may be the network: the spare then only tries to connect, and takes over if it can.
  - The token is refused, or Kite counts too many connections: the spare would fare no better.
  - Who has been taken over keeps trying. Live before the spare is, it has its instruments back at once; else when it
    has been live for `stable_s`. What was failed over by hand stays so until it is given back by hand.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pipeline.backoff import exponential
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

    def started(self, role: str, now_s: float) -> None:
        """Expect the first heartbeat of a new process."""
        self._due_s[role] = now_s + self._starting_s

    def heard(self, role: str, now_s: float) -> None:
        """Take note of a heartbeat."""
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
    failed_over: Collection[int]
    by_hand: Collection[int]  # of these: not to be given back


@dataclass
class _Connection:
    state: State = "stopped"
    is_running: bool = False  # its process
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
        self._connections = {c: _Connection() for c in (PRIMARY, SECONDARY, TERTIARY)}

    def state(self, connection_id: int) -> State:
        """Return the state of a connection."""
        state = self._connections[connection_id].state
        return "standby" if state == "idle" and connection_id == TERTIARY else state

    def hear(self, connection_id: int, event: Event, now_s: float) -> None:
        """Take note of what has happened to a connection."""
        known = self._connections[connection_id]
        if event in ("started", "died", "given_up", "ended"):
            known.is_running = event == "started"
        elif not known.is_running:
            return  # last words
        state = TRANSITIONS.get((known.state, event)) or TRANSITIONS[None, event]
        if state != known.state:
            known.state, known.since_s = state, now_s
        if event != "connecting":
            known.is_barred = event in ("refused", "limited")
        if state in ("live", "idle", "stopped"):
            known.was_live, known.lost_s = state == "live", None
        elif known.lost_s is None:
            known.lost_s = now_s

    def actions(self, situation: Situation, now_s: float) -> list[Action]:
        """Return what to do now."""
        if not self._has_spare:
            return []
        found = (self._action(c, situation, now_s) for c in (PRIMARY, SECONDARY))
        return [action for action in found if action]

    def to_keep_open(self, situation: Situation, now_s: float) -> set[int]:
        """Return the connections that should have a socket although they may have nothing to record."""
        if not self._has_spare:
            return set()
        trying = set(situation.failed_over) - set(situation.by_hand)
        lost = [c for c in (PRIMARY, SECONDARY) if self._is_lost(c, situation, now_s)]
        probing = any(not self._others_live(c) or self._is_live(TERTIARY) for c in lost)
        return trying | ({TERTIARY} if probing else set())

    def _action(self, connection_id: int, situation: Situation, now_s: float) -> Action | None:
        known = self._connections[connection_id]
        if connection_id in situation.failed_over:
            if connection_id in situation.by_hand:
                return None
            if connection_id not in situation.homes:
                return FailBack(connection_id, "it has nothing to record")
            if known.state != "live":
                return None
            if not self._is_live(TERTIARY):
                return FailBack(connection_id, "it is live, and the spare is not")
            stable = now_s - known.since_s >= self._stable_s
            return FailBack(connection_id, f"it has been live for {self._stable_s:g} s") if stable else None
        if not self._is_lost(connection_id, situation, now_s) or self._connections[TERTIARY].state == "failed":
            return None
        if not known.is_running:
            return FailOver(connection_id, "its process is gone")
        waited = known.lost_s is not None and now_s - known.lost_s >= self._after_s
        return FailOver(connection_id, f"it is {known.state}") if waited and self._others_live(connection_id) else None

    def _is_lost(self, connection_id: int, situation: Situation, now_s: float) -> bool:
        """Tell whether a connection should be live, is not, and the spare may do better."""
        known = self._connections[connection_id]
        if known.lost_s is None or known.is_barred or connection_id in situation.failed_over:
            return False
        patience_s = self._starting_s if known.is_running and not known.was_live else 0.0
        return connection_id in situation.homes and now_s - known.lost_s >= patience_s

    def _is_live(self, connection_id: int) -> bool:
        return self._connections[connection_id].state == "live"

    def _others_live(self, connection_id: int) -> bool:
        return any(self._is_live(c) for c in self._connections if c != connection_id)
