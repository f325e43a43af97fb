"""What is known of the running service: fed by the processes' messages, read as the status models. No I/O."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from pipeline.config import CONNECTIONS, Config
from pipeline.events import SUPERVISOR_ID
from pipeline.files import tick_file_name
from pipeline.role import SIMULATOR, SUPERVISOR, WRITER, worker_role
from pipeline.status import (
    ConnectionStatus,
    Health,
    Instrument,
    Metrics,
    Process,
    Status,
    Storage,
)
from pipeline.supervisor.children import Child
from pipeline.supervisor.subscriptions import MODES, ROLES, TERTIARY, Subscriptions
from pipeline.wire import Commit, StreamId

FRESH_S = 5.0  # a tick within so long: data is flowing
RATE_S = 10.0
STALE_S = 3.0  # a process that has said nothing for so long counts as not answering
LAG_TICKS = 50_000  # received, not yet durable: the writer is behind
NO_SPARE = ("down", "silent", "unauthorised", "rate_limited")  # states in which it could not take over
ROLES_SHOWN = (SUPERVISOR, WRITER, *(worker_role(c) for c in CONNECTIONS), "http", SIMULATOR)


@dataclass
class _Connection:
    """What a worker has said, and the counts of the epochs before the present one."""

    message: Mapping[str, Any] = field(default_factory=dict)
    heard_s: float = 0.0  # monotonic
    counted_before: int = 0
    epoch: int | None = None
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))  # (monotonic s, ticks)
    last_tick_time: str | None = None
    epochs: set[int] = field(default_factory=set)  # of which tick_count counts all ticks

    @property
    def tick_count(self) -> int:
        received: int = self.message.get("ticks_received", 0)
        return self.counted_before + received

    def counted_until(self, message: Mapping[str, Any]) -> int:
        """Return the ticks before the epoch of `message`, which knows how far a killed predecessor had come."""
        if self.epoch is None:
            return 0
        if message["previous_epoch"] == self.epoch and message["previous_last_seq"] is not None:
            return self.counted_before + int(message["previous_last_seq"])
        return self.tick_count

    def rate(self, now_s: float) -> float:
        recent = [sample for sample in self.samples if sample[0] >= now_s - RATE_S]
        if len(recent) < 2 or recent[-1][0] <= recent[0][0]:
            return 0.0
        return round((recent[-1][1] - recent[0][1]) / (recent[-1][0] - recent[0][0]), 1)


class Board:
    """Takes messages in, gives models out. `clock` is the wall clock in the storage time zone."""

    def __init__(self, config: Config, subscriptions: Subscriptions, clock: Callable[[], datetime]) -> None:
        self._config = config
        self._subscriptions = subscriptions
        self._clock = clock
        self._started = clock()
        self._connections = {c: _Connection() for c in CONNECTIONS}
        self._writer: Mapping[str, Any] = {}
        self._writer_heard_s = 0.0
        self._durable: dict[StreamId, tuple[int, int]] = {}  # the seq of each stream, at first and now

    def hear(self, message: Mapping[str, Any], now_s: float) -> None:
        """Take in a status or digest message of a process."""
        role = message["role"]
        if role == WRITER:
            self._writer, self._writer_heard_s = message, now_s
            return
        connection = self._connections[message["connection_id"]]
        if message["type"] == "digest":
            self._subscriptions.hear(message["ticks"])
            return
        if message["epoch"] != connection.epoch:
            connection.counted_before = connection.counted_until(message)
            connection.epoch = message["epoch"]
        connection.epochs.add(message["epoch"])
        connection.message, connection.heard_s = message, now_s
        connection.last_tick_time = message["last_tick_time"] or connection.last_tick_time
        connection.samples.append((now_s, connection.tick_count))

    def view(
        self,
        children: Mapping[str, Child],
        own_pid: int,
        now_s: float,
        *,
        subscription_requests: int = 0,
        unsaved: str = "",
    ) -> "View":
        """Return what is known at this moment; `unsaved` is why the subscriptions are not on disk, if they are not."""
        return View(self, children, own_pid, now_s, subscription_requests=subscription_requests, unsaved=unsaved)

    def hear_commit(self, commit: Commit) -> None:
        """Take note of what has become durable."""
        for stream, mark in commit.durable.items():
            if stream.connection_id != SUPERVISOR_ID:
                first, _ = self._durable.get(stream, (mark.seq, 0))
                self._durable[stream] = (first, mark.seq)

    @property
    def all_stored(self) -> bool:
        """Whether everything that the workers have reported as received is known to be durable."""
        return all(
            self._durable.get(StreamId(c, known.epoch), (0, 0))[1] >= known.message["ticks_received"]
            for c, known in self._connections.items()
            if known.epoch is not None
        )

    def totals(self) -> tuple[int, int, int]:
        """Return the ticks received, stored, and still spooled."""
        received = sum(connection.tick_count for connection in self._connections.values())
        pending = sum(connection.message.get("ticks_pending", 0) for connection in self._connections.values())
        return received, self._stored, pending

    @property
    def _stored(self) -> int:
        """Ticks that have become durable: all of the epochs that count as received, of older ones what was left."""
        return sum(
            now - (0 if stream.epoch in self._connections[stream.connection_id].epochs else first)
            for stream, (first, now) in self._durable.items()
        )

    def state(self, connection_id: int, child: Child | None, now_s: float) -> tuple[str, str]:
        """Return the state of a connection, and the reason for one that is not wished for."""
        known = self._connections[connection_id]
        if child is None:
            return "off", ""
        if child.state == "failed":
            return "failed", f"its process has died too often; try again with: mds restart {child.role}"
        if child.state != "running":
            return "down", "its process is not running"
        if child.pid != known.message.get("pid"):
            return "starting", ""
        if now_s - known.heard_s > STALE_S:
            return "down", "its process does not answer"
        said: str = known.message["state"]
        return "standby" if said == "idle" and connection_id == TERTIARY else said, known.message["reason"]

    def connection(self, connection_id: int, children: Mapping[str, Child], now_s: float) -> ConnectionStatus:
        """Return the status of a connection."""
        known = self._connections[connection_id]
        message = known.message
        child = children.get(worker_role(connection_id))
        instruments = len(self._subscriptions.of(connection_id))
        state, reason = self.state(connection_id, child, now_s)
        is_live = state == "live"
        return ConnectionStatus(
            connection_id=connection_id,
            role=ROLES[connection_id],
            mode=MODES[connection_id],
            state=state,
            reason=reason,
            active=is_live,
            subscribed_instruments=instruments,
            confirmed_instruments=message.get("confirmed", 0) if is_live else 0,
            tick_count=known.tick_count,
            tick_rate=known.rate(now_s),
            last_tick_time=known.last_tick_time,
            start_time=message.get("live_since") if is_live else None,
            capacity_remaining=self._subscriptions.available(connection_id),
            pid=child.pid if child else None,
            epoch=known.epoch,
            ticks_pending=message.get("ticks_pending", 0),
            ticks_refused=message.get("ticks_refused", 0),
            rejects=message.get("rejects", 0),
            spool_bytes=message.get("spool_bytes", 0),
            gap_open=message.get("gap_open", False),
        )

    def storage(self, children: Mapping[str, Child]) -> Storage:
        """Return what the writer does."""
        message = self._writer
        child = children.get(WRITER)
        return Storage(
            state=_writer_state(message, child),
            reason=message.get("reason", ""),
            data_dir=str(self._config.storage.data_dir),
            current_file=tick_file_name(self._clock().date()),
            ticks_stored=self._stored,
            bytes_written=message.get("bytes_written", 0),
            spool_bytes=sum(c.message.get("spool_bytes", 0) for c in self._connections.values()),
            commits=message.get("commits", 0),
            commit_ms=message.get("commit_ms", 0.0),
            syncing_since_s=message.get("syncing_since_s"),
            syncs_failed=message.get("syncs_failed", 0),
            batches_refused=message.get("batches_refused", 0),
            free_bytes=message.get("free_bytes", 0),
        )

    def health(
        self,
        connections: Mapping[str, ConnectionStatus],
        storage: Storage,
        processes: Mapping[str, Process],
        now_s: float,
        unsaved: str = "",
    ) -> Health:
        """Tell whether everything is being recorded, and if not, why."""
        now = self._clock()
        uncovered = self._uncovered(connections)
        reasons = [
            f"connection {c.connection_id} ({c.role}) is {c.state}{f', {c.reason}' if c.reason else ''}: "
            f"{uncovered[c.connection_id]} instruments uncovered"
            for c in connections.values()
            if c.connection_id in uncovered
        ]
        reasons += [
            f"connection {c.connection_id} ({c.role}) is live, and a gap is open: ticks are being missed"
            for c in connections.values()
            if c.active and c.gap_open
        ]
        writer_silent = now_s - self._writer_heard_s > STALE_S
        if storage.state == "paused":
            reasons.append(f"the writer is not storing: {storage.reason}")
        elif storage.state != "recording" or writer_silent:
            reasons.append(
                f"the writer is {storage.state}" if storage.state != "recording" else "the writer does not answer"
            )
        elif (storage.syncing_since_s or 0) > STALE_S:
            how_long = f"has not answered for {storage.syncing_since_s:.0f} s"
            reasons.append(f"the disk of {storage.data_dir} {how_long}: nothing is committed")
        is_down = bool(reasons)
        pending = sum(c.ticks_pending for c in connections.values())
        if pending > LAG_TICKS:
            reasons.append(f"{pending} ticks are received and not yet durable")
        reasons += [f"{name} is {p.state}" for name, p in processes.items() if p.state in ("restarting", "failed")]
        if unsaved:
            reasons.append(f"the subscriptions are not saved ({unsaved}): the next start would go on with older ones")
        spare = connections[str(TERTIARY)]
        if spare.state in NO_SPARE and TERTIARY not in uncovered and _runs(processes[worker_role(TERTIARY)]):
            reasons.append(f"there is no spare: connection 3 (tertiary) is {spare.state}, {spare.reason}")
        reasons += [
            f"connection {c} has failed over, others record its instruments"
            for c in sorted(self._subscriptions.failed_over)
        ]
        last_ticks = [c.last_tick_time for c in connections.values() if c.last_tick_time]
        last_tick_time = max(last_ticks, default=None)
        age_s = (now - datetime.fromisoformat(last_tick_time)).total_seconds() if last_tick_time else None
        active = sum(c.active for c in connections.values())
        return Health(
            status="down" if is_down else "degraded" if reasons else "healthy",
            reasons=reasons,
            timestamp=now.isoformat(timespec="microseconds"),
            service_start_time=self._started.isoformat(timespec="microseconds"),
            uptime_seconds=self._uptime_s(),
            active_connections=active,
            total_connections=self._config.kite.max_connections,
            total_subscribed_instruments=len(self._subscriptions.all),
            kite_connected=active > 0,
            last_tick_time=last_tick_time,
            data_fresh=age_s is not None and age_s < FRESH_S,
            ticks_per_second=round(sum(c.tick_rate for c in connections.values()), 1),
        )

    def metrics(
        self, connections: Mapping[str, ConnectionStatus], storage: Storage, subscription_requests: int
    ) -> Metrics:
        """Return counts and rates."""
        received = sum(c.tick_count for c in connections.values())
        uptime_s = self._uptime_s()
        return Metrics(
            timestamp=self._clock().isoformat(timespec="microseconds"),
            uptime_seconds=uptime_s,
            total_ticks_received=received,
            total_ticks_stored=storage.ticks_stored,
            total_ticks_pending=sum(c.ticks_pending for c in connections.values()),
            average_tick_rate=round(received / uptime_s, 1) if uptime_s else 0.0,
            ticks_per_second=round(sum(c.tick_rate for c in connections.values()), 1),
            ticks_by_connection={name: c.tick_count for name, c in connections.items()},
            subscription_requests=subscription_requests,
        )

    def instruments(self) -> list[Instrument]:
        """Return the subscribed instruments."""
        return [
            Instrument(
                instrument_token=token,
                connection_id=self._subscriptions.carrier(token) or known.connection_id,
                mode=known.mode,
                mirrored=self._subscriptions.is_mirrored(token),
                subscribed_at=known.subscribed_at,
                tick_count=known.tick_count,
                last_price=known.last_price,
                last_tick_time=known.last_tick_time,
            )
            for token, known in self._subscriptions.all.items()
        ]

    def _uncovered(self, connections: Mapping[str, ConnectionStatus]) -> dict[int, int]:
        """Return how many instruments of each connection no live one has."""
        live = {c.connection_id for c in connections.values() if c.active}
        counts = {
            c: sum(live.isdisjoint(self._subscriptions.holders(token)) for token in self._subscriptions.of(c))
            for c in CONNECTIONS
            if c not in live
        }
        return {c: count for c, count in counts.items() if count}

    def process(self, name: str, children: Mapping[str, Child], own_pid: int) -> Process:
        """Return what is known of a process."""
        if name == SUPERVISOR:
            return Process(pid=own_pid, state="running", restarts=0)
        child = children.get(name)
        if child is None:
            return Process(pid=None, state="off", restarts=0)
        return Process(pid=child.pid, state=child.state, restarts=child.restarts.count)

    def _uptime_s(self) -> float:
        return round((self._clock() - self._started).total_seconds(), 2)


class View:
    """What the board knows at one moment; each part is made when it is asked for."""

    def __init__(
        self,
        board: Board,
        children: Mapping[str, Child],
        own_pid: int,
        now_s: float,
        *,
        subscription_requests: int,
        unsaved: str,
    ) -> None:
        self._board = board
        self._children = children
        self._own_pid = own_pid
        self._now_s = now_s
        self._subscription_requests = subscription_requests
        self._unsaved = unsaved

    @property
    def status(self) -> Status:
        """Everything."""
        return Status(
            health=self.health,
            connections=self.connections,
            instruments=self.instruments,
            storage=self.storage,
            metrics=self.metrics,
            processes=self.processes,
        )

    @cached_property
    def health(self) -> Health:
        """Is it recording."""
        return self._board.health(self.connections, self.storage, self.processes, self._now_s, self._unsaved)

    @cached_property
    def connections(self) -> dict[str, ConnectionStatus]:
        """The three connections."""
        return {str(c): self._board.connection(c, self._children, self._now_s) for c in CONNECTIONS}

    @property
    def instruments(self) -> list[Instrument]:
        """The subscribed instruments."""
        return self._board.instruments()

    @cached_property
    def storage(self) -> Storage:
        """What the writer does."""
        return self._board.storage(self._children)

    @property
    def metrics(self) -> Metrics:
        """Counts and rates."""
        return self._board.metrics(self.connections, self.storage, self._subscription_requests)

    @cached_property
    def processes(self) -> dict[str, Process]:
        """All processes."""
        return {name: self._board.process(name, self._children, self._own_pid) for name in ROLES_SHOWN}


def _runs(process: Process) -> bool:
    return process.state == "running"


def _writer_state(message: Mapping[str, Any], child: Child | None) -> str:
    if child is None or child.state != "running":
        return "stopped"
    said: str = message["state"] if message.get("pid") == child.pid else "starting"
    return said
