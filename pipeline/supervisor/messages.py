"""What the command of `[notify]` is told, in which order, and how often. Pure; times in seconds, monotonic.

    {"event": "health", "status", "was", "reasons": [text, ...], "timestamp"}
    {"event": "gap_opened", "connection_id", "instruments", "reason", "timestamp"}
    {"event": "gap_closed", "connection_id", "instruments", "from" (null: not known), "to", "cause", "timestamp"}
    {"event": "token_refused", "connection_ids": [N, ...], "reason", "timestamp"}

`instruments` is how many they are. The notifier adds `service`, which is {"host", "run_dir"}, and `suppressed`: how
many messages before this one were left out. Times are ISO 8601 with offset.

A gap is opened by sight, a few times a second, for the connection that should record the instruments now: after a
failover that is the spare. It is closed by its record, for the connection that has missed something. So one that is too
short to be seen open, or that an earlier run has left, comes as `gap_closed` alone, and an outage after which
instruments came back at different times has several. Where instruments are new and their connection is only being
opened there is no gap to tell of yet, and a service that starts is not down yet: both have START_S.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, TypeAlias

from pipeline.config import CONNECTIONS
from pipeline.role import worker_role
from pipeline.status import ConnectionStatus, HealthResponse, Notice
from pipeline.supervisor.health import TO_OPEN

START_S = 5.0  # for the service, or a connection that gets its first instruments, until it should be recording
TOGETHER_S = 1.0  # refusals of one token come from all connections within so short a time
REFUSED = 403  # HTTP status of a connect whose access token is no good
AT_REST = ("off", "idle", "standby")  # states of a connection that needs no token
_CONNECTIONS = {worker_role(c): c for c in CONNECTIONS}

Message: TypeAlias = dict[str, Any]  # JSON types


class Messages:
    """Follows the service; `look` and `hear` return what is new."""

    def __init__(self) -> None:
        self._status = "starting"
        self._begun_s: float | None = None
        self._missing: dict[int, float] = {}  # connection -> since when
        self._opened: set[int] = set()  # of these: it has been told
        self._recorded, self._missed = 0, 0  # how many instruments
        self._refused: dict[int, float | None] = {}  # connection -> in how many seconds it tries the same token again
        self._refusal: tuple[float, Message] | None = None  # since when it waits for that of other connections

    def look(
        self,
        health: HealthResponse,
        connections: Mapping[str, ConnectionStatus],
        gaps: Mapping[int, int],
        now_s: float,
    ) -> list[Message]:
        """Take in how it goes now; `gaps` are how many instruments of which connection are being missed."""
        if self._begun_s is None:
            self._begun_s = now_s
        self._refused = {c: s for c, s in self._refused.items() if connections[str(c)].state not in AT_REST}
        missing = {c: count for c, count in gaps.items() if count}
        opened = self._newly_missing(missing, health.total_subscribed_instruments, now_s)
        return [
            *self._due_refusal(now_s),
            *(_gap_opened(connections[str(c)], missing[c], health.timestamp) for c in opened),
            *self._new_health(health, now_s - self._begun_s),
        ]

    def hear(self, notice: Notice, now_s: float) -> list[Message]:
        """Take in an event; one of an older version may lack any field."""
        connection_id, details = _CONNECTIONS.get(notice.source), notice.details
        if notice.event == "gap":
            told = {name: details.get(name) for name in ("instruments", "from", "to", "cause")}
            return [{"event": "gap_closed", "connection_id": connection_id, **told, "timestamp": notice.timestamp}]
        if connection_id is not None and notice.event == "connected":
            self._refused.pop(connection_id, None)
        elif connection_id is not None and details.get("http_status") == REFUSED:
            self._hear_refusal(connection_id, notice, now_s)
        return []

    def _new_health(self, health: HealthResponse, running_s: float) -> list[Message]:
        was, status = self._status, health.status
        if status == was or (was == "starting" and status != "healthy" and running_s < START_S):
            return []
        self._status = status
        if (was, status) == ("starting", "healthy"):
            return []
        return [
            {
                "event": "health",
                "status": status,
                "was": was,
                "reasons": health.reasons,
                "timestamp": health.timestamp,
            }
        ]

    def _newly_missing(self, missing: Mapping[int, int], subscribed: int, now_s: float) -> list[int]:
        """Return the connections with a gap to tell of: something that was recorded no longer is.

        What only changes its place while it is being missed, or is new, is told if it takes long.
        """
        missed = sum(missing.values())
        is_lost = subscribed - missed < self._recorded and missed > self._missed
        self._recorded, self._missed = subscribed - missed, missed
        self._missing = {c: self._missing.get(c, now_s) for c in missing}
        found = [
            c
            for c, since_s in self._missing.items()
            if c not in self._opened and ((is_lost and since_s == now_s) or now_s - since_s >= START_S)
        ]
        self._opened = self._opened.intersection(missing).union(found)
        return found

    def _hear_refusal(self, connection_id: int, notice: Notice, now_s: float) -> None:
        """Put together what is refused for one reason.

        A connection that was not to try again has another token now; for any other it is the one of before.
        """
        known, retry_in_s = self._refused, notice.details.get("retry_in_s")
        is_again = known.get(connection_id, ...) is None
        is_new = not known or is_again or (retry_in_s is None and None not in known.values())
        if self._refusal is None and is_again:
            known.clear()
        known[connection_id] = retry_in_s
        if self._refusal is None and not is_new:
            return
        since_s, before = self._refusal or (now_s, {"timestamp": notice.timestamp, "connection_ids": []})
        told = {
            "event": "token_refused",
            "connection_ids": sorted({connection_id, *before["connection_ids"]}),
            "reason": notice.details.get("reason"),
            "timestamp": before["timestamp"],
        }
        self._refusal = since_s, told

    def _due_refusal(self, now_s: float) -> list[Message]:
        if self._refusal is None or now_s - self._refusal[0] < TOGETHER_S:
            return []
        (_, message), self._refusal = self._refusal, None
        return [message]


def _gap_opened(connection: ConnectionStatus, instruments: int, timestamp: str) -> Message:
    state = "about to connect" if connection.state in TO_OPEN else connection.state
    return {
        "event": "gap_opened",
        "connection_id": connection.connection_id,
        "instruments": instruments,
        "reason": f"{state}: {connection.reason}" if connection.reason else state,
        "timestamp": timestamp,
    }


class Waiting:
    """Messages that wait for their turn, in order.

    Of those about gaps the latest `gaps` are kept. Of the other kinds the first and the latest: so both ends of a
    short outage are told, however slow the command is, and the last that is told of health is how it is.
    """

    def __init__(self, gaps: int) -> None:
        self._gaps = gaps
        self._messages: deque[Message] = deque()
        self._suppressed = 0

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: Message) -> None:
        """Put one at the end."""
        if message["event"].startswith("gap_"):
            same = [m for m in self._messages if m["event"].startswith("gap_")]
            superseded = same[:1] if len(same) >= self._gaps else []
        else:
            same = [m for m in self._messages if m["event"] == message["event"]]
            superseded = same[1:]
        self._messages = deque(m for m in self._messages if not any(m is gone for gone in superseded))
        self._suppressed += len(superseded)
        self._messages.append(message)

    def take(self) -> Message:
        """Return the first one, with the number of those that were left out since the last one was taken."""
        message = self._messages.popleft() | {"suppressed": self._suppressed}
        self._suppressed = 0
        return message


class Budget:
    """So many of something within any minute."""

    def __init__(self, per_minute: int) -> None:
        self._spent_s: deque[float] = deque(maxlen=per_minute)

    def wait_s(self, now_s: float) -> float:
        """Return how long to wait for the next one, 0 where it may be now."""
        is_full = len(self._spent_s) == self._spent_s.maxlen
        return max(self._spent_s[0] + 60.0 - now_s, 0.0) if is_full else 0.0

    def spend(self, now_s: float) -> None:
        """Take note of one."""
        self._spent_s.append(now_s)
