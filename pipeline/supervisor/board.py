"""What is known of the running service: fed by the processes' messages, read as the status models. No I/O."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.config import CONNECTIONS, Config
from pipeline.events import SUPERVISOR_ID
from pipeline.files import tick_file_name
from pipeline.market import Hours, Outlook
from pipeline.role import HTTP, SUPERVISOR, WRITER, worker_role
from pipeline.status import ConnectionStatus, HealthResponse, Metrics, Process, Series, Storage
from pipeline.supervisor.children import Child
from pipeline.supervisor.health import TO_OPEN, Facts, judge
from pipeline.supervisor.rates import STALE_S
from pipeline.supervisor.reports import RATE_S, WorkerReports, WriterReports
from pipeline.supervisor.rows import Rows
from pipeline.supervisor.subscriptions import MODES, ROLES, TERTIARY, Subscriptions
from pipeline.wire import Commit, StreamId

FRESH_S = 5.0  # a tick within so long: data is flowing
QUIET_S = 1.0  # a worker tells twice a second how it does
NEVER_TICKED = 100  # so many are named
SERIES_S = 300  # kept, one figure a second
OPENING_S = 5.0  # for connections that the clock has let open, until they should be live
OPENING = (*TO_OPEN, "connecting")  # states of these


class Board:
    """Takes messages in, gives models out. `clock` is the wall clock in the storage time zone."""

    def __init__(
        self, config: Config, subscriptions: Subscriptions, clock: Callable[[], datetime], now_s: float
    ) -> None:
        self._config = config
        self.rows = Rows(subscriptions, clock)
        self.hours = Hours(config.market, ZoneInfo(config.storage.timezone))
        self.resting = ""  # when connections open again, in words, while the clock has them closed
        self.opened_s = -OPENING_S  # when they did for the last time; monotonic
        self.token_expires: datetime | None = None  # about when, where it is known
        self._subscriptions = subscriptions
        self._clock = clock
        self._started = clock()
        self._started_s = now_s
        self._connections = {c: WorkerReports() for c in CONNECTIONS}
        self._writer = WriterReports()
        self._http: Mapping[str, Any] = {}
        self._durable: dict[StreamId, tuple[int, int]] = {}  # the seq of each stream, at first and now
        self._commit_heard_s = 0.0  # of any writer, also one that repeats what was known
        self._committed_s: float | None = None  # when something was last known to be committed, or nothing to wait
        self._series: deque[tuple[float, dict[int, int], float, float]] = deque(maxlen=SERIES_S + 1)

    def hear(self, message: Mapping[str, Any], now_s: float) -> None:
        """Take in a status or digest message of a process."""
        role = message["role"]
        if role == WRITER:
            self._writer.hear(message, now_s)
        elif role == HTTP:
            self._http = message
        elif message["type"] == "digest":
            self._subscriptions.hear(message["ticks"])
        else:
            self._connections[message["connection_id"]].hear(message, now_s, self._started_s)
            if not self._pending or self._committed_s is None:
                self._committed_s = now_s

    def hear_commit(self, commit: Commit, now_s: float) -> None:
        """Take note of what has become durable."""
        self._commit_heard_s = now_s
        for stream, mark in commit.durable.items():
            if stream.connection_id != SUPERVISOR_ID:
                first, before = self._durable.get(stream, (mark.seq, 0))
                self._durable[stream] = (first, mark.seq)
                if mark.seq != before:
                    self._committed_s = now_s

    def sample(self, now_s: float) -> None:
        """Keep the figures of this second for `series`; to be called once a second."""
        # What a worker that is adopted has counted before it is heard of has not come in this second.
        counts = {c: known.tick_count for c, known in self._connections.items() if known.epoch is not None}
        lag_ms = max(self._lag_ms(c, now_s) for c in self._connections)
        self._series.append((now_s, counts, self._writer.longest_ms(1.0, now_s), lag_ms))

    @property
    def all_stored(self) -> bool:
        """Whether everything that the workers have reported as received is known to be durable."""
        return all(
            self._durable_of(c, known.epoch) >= known.message["ticks_received"]
            for c, known in self._connections.items()
            if known.epoch is not None
        )

    def totals(self) -> tuple[int, int, int]:
        """Return the ticks received, stored, and still spooled."""
        received = sum(connection.tick_count for connection in self._connections.values())
        return received, self._stored, self._pending

    @property
    def _pending(self) -> int:
        return sum(map(self._pending_of, self._connections))

    def _pending_of(self, connection_id: int) -> int:
        """Return the ticks that wait to be durable, as said last.

        A worker that is dead says nothing any more, and one that has just started does not know yet what of older
        epochs is stored: there the commits that came since tell more.
        """
        known = self._connections[connection_id]
        is_quiet = self._commit_heard_s - known.heard_s > QUIET_S
        return sum(
            min(pending, max(last - self._durable_of(connection_id, epoch), 0))
            if is_quiet or epoch != known.epoch
            else pending
            for epoch, last, pending in known.message.get("spooled", ())
        )

    def _durable_of(self, connection_id: int, epoch: int) -> int:
        return self._durable.get(StreamId(connection_id, epoch), (0, 0))[1]

    @property
    def _stored(self) -> int:
        """Ticks that have become durable: all of the epochs that count as received, of older ones what was left."""
        return sum(
            now - (0 if stream.epoch in self._connections[stream.connection_id].epochs else first)
            for stream, (first, now) in self._durable.items()
        )

    def _lag_ms(self, connection_id: int, now_s: float) -> float:
        """Return since when the oldest tick waits to be durable: what was said, and the time since then."""
        if not self._pending_of(connection_id):
            return 0.0
        known = self._connections[connection_id]
        said: float = known.message.get("lag_ms", 0.0)
        late_ms = max(now_s - known.heard_s - STALE_S, 0.0) * 1000
        return round(said + late_ms, 1) if said else 0.0

    def series(self) -> Series:
        """Return the figures of the last minutes."""
        kept = list(self._series)
        steps = list(pairwise(kept))
        return Series(
            timestamp=self._clock().isoformat(timespec="microseconds"),
            ticks_per_second={
                str(c): [
                    round((b[1][c] - a[1][c]) / (b[0] - a[0]), 1) if c in a[1] and b[0] > a[0] else 0.0
                    for a, b in steps
                ]
                for c in CONNECTIONS
            },
            commit_ms=[b[2] for _, b in steps],
            lag_ms=[b[3] for _, b in steps],
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
        if said == "idle" and self.resting:
            return "standby" if connection_id == TERTIARY else said, self.resting
        return "standby" if said == "idle" and connection_id == TERTIARY else said, known.message["reason"]

    def connection(self, connection_id: int, children: Mapping[str, Child], now_s: float) -> ConnectionStatus:
        """Return the status of a connection."""
        known = self._connections[connection_id]
        message = known.message
        child = children.get(worker_role(connection_id))
        instruments = self._subscriptions.number_of(connection_id)
        state, reason = self.state(connection_id, child, now_s)
        is_live, is_gone = state == "live", _is_gone(message, child)
        rate_1s, rate_10s, rate_60s = (
            known.rate.over(span_s, now_s, has_ended=is_gone) for span_s in (1.0, RATE_S, 60.0)
        )
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
            tick_rate=rate_10s,
            tick_rate_1s=rate_1s,
            tick_rate_60s=rate_60s,
            last_tick_time=known.last_tick_time,
            tick_age_s=None if known.last_tick_s is None else round(max(now_s - known.last_tick_s, 0.0), 3),
            start_time=message.get("live_since") if is_live else None,
            capacity_remaining=self._subscriptions.available(connection_id),
            pid=child.pid if child else None,
            epoch=known.epoch,
            ticks_pending=self._pending_of(connection_id),
            lag_ms=self._lag_ms(connection_id, now_s),
            queue_depth=message.get("queue_depth", 0),
            ticks_refused=known.tally["ticks_refused"],
            rejects=known.tally["rejects"],
            reconnects=known.tally["reconnects"],
            restarts=child.restarts.count if child else 0,
            gaps=known.tally["gaps"],
            gap_open=instruments > 0 and not self.resting if is_gone else message.get("gap_open", False),
            spool_bytes=message.get("spool_bytes", 0),
        )

    def storage(self, children: Mapping[str, Child], now_s: float) -> Storage:
        """Return what the writer does."""
        message, tally = self._writer.message, self._writer.tally
        child = children.get(WRITER)
        free_bytes = message.get("free_bytes", 0)
        reserve_bytes = self._config.storage.reserve_mb * 2**20
        growth = self._writer.bytes_rate.over(60.0, now_s)
        return Storage(
            state=_writer_state(message, child),
            reason=message.get("reason", ""),
            data_dir=str(self._config.storage.data_dir),
            current_file=tick_file_name(self._clock().date()),
            ticks_stored=self._stored,
            bytes_written=tally["bytes_written"],
            bytes_per_second=self._writer.bytes_rate.over(RATE_S, now_s),
            spool_bytes=sum(c.message.get("spool_bytes", 0) for c in self._connections.values()),
            commits=tally["commits"],
            commits_per_second=self._writer.commit_rate.over(RATE_S, now_s),
            commit_ms=message.get("commit_ms", 0.0),
            commit_ms_max=self._writer.longest_ms(RATE_S, now_s),
            commit_ms_max_1s=self._writer.longest_ms(1.0, now_s),
            commit_durations=self._writer.durations,
            syncing_since_s=message.get("syncing_since_s"),
            syncs_failed=tally["syncs_failed"],
            batches_refused=tally["batches_refused"],
            free_bytes=free_bytes,
            reserve_bytes=reserve_bytes,
            hours_until_full=round(max(free_bytes - reserve_bytes, 0) / growth / 3600, 4) if growth else None,
        )

    def facts(
        self,
        connections: Mapping[str, ConnectionStatus],
        storage: Storage,
        processes: Mapping[str, Process],
        now_s: float,
        *,
        unsaved: str = "",
        unresolved: Sequence[str] = (),
    ) -> Facts:
        """Return what a judgement rests on."""
        now = self._clock()
        outlook = self.hours.outlook(now, self._subscriptions.segments)
        return Facts(
            connections=connections,
            storage=storage,
            processes=processes,
            uncovered=self.uncovered(connections, now_s),
            failed_over=frozenset(self._subscriptions.failed_over if not self.resting else ()),
            writer_answers=now_s - self._writer.heard_s <= STALE_S,
            uncommitted_s=now_s - self._committed_s if self._pending and self._committed_s is not None else 0.0,
            quiet=self._quiet(connections, outlook, now, now_s),
            unsaved=unsaved,
            unresolved=unresolved,
        )

    def health(
        self,
        connections: Mapping[str, ConnectionStatus],
        storage: Storage,
        processes: Mapping[str, Process],
        now_s: float,
        *,
        unsaved: str = "",
        unresolved: Sequence[str] = (),
    ) -> HealthResponse:
        """Tell whether everything is being recorded, and if not, why."""
        facts = self.facts(connections, storage, processes, now_s, unsaved=unsaved, unresolved=unresolved)
        state, reasons = judge(facts)
        now = self._clock()
        outlook = self.hours.outlook(now, self._subscriptions.segments)
        never = self._subscriptions.never_ticked
        last_ticks = [c.last_tick_time for c in connections.values() if c.last_tick_time]
        last_tick_time = max(last_ticks, default=None)
        age_s = min((c.tick_age_s for c in connections.values() if c.tick_age_s is not None), default=None)
        active = sum(c.active for c in connections.values())
        return HealthResponse(
            status=state,
            reasons=reasons,
            timestamp=now.isoformat(timespec="microseconds"),
            service_start_time=self._started.isoformat(timespec="microseconds"),
            uptime_seconds=self._uptime_s(now_s),
            active_connections=active,
            total_connections=self._config.kite.max_connections,
            total_subscribed_instruments=len(self._subscriptions.all),
            never_ticked=len(never),
            never_ticked_instruments=list(islice(never, NEVER_TICKED)),
            kite_connected=active > 0,
            last_tick_time=last_tick_time,
            tick_age_s=age_s,
            data_fresh=(age_s is not None and age_s < FRESH_S) or outlook.state == "closed",
            market=outlook.state,
            market_until=outlook.until and outlook.until.isoformat(),
            resting=self.resting,
            ticks_per_second=round(sum(c.tick_rate for c in connections.values()), 1),
            uncovered={str(c): count for c, count in facts.uncovered.items()},
            failed_over=sorted(facts.failed_over),
            quiet_s={str(c): round(quiet_s, 1) for c, quiet_s in facts.quiet.items()},
            token_expires=self.token_expires and self.token_expires.isoformat(),
        )

    def metrics(
        self,
        connections: Mapping[str, ConnectionStatus],
        storage: Storage,
        processes: Mapping[str, Process],
        subscription_requests: int,
        now_s: float,
    ) -> Metrics:
        """Return counts and rates."""
        all_of = connections.values()
        received = sum(c.tick_count for c in all_of)
        uptime_s = self._uptime_s(now_s)
        counted = received - sum(known.counted_at_first for known in self._connections.values())
        return Metrics(
            timestamp=self._clock().isoformat(timespec="microseconds"),
            uptime_seconds=uptime_s,
            total_ticks_received=received,
            total_ticks_stored=storage.ticks_stored,
            total_ticks_pending=sum(c.ticks_pending for c in all_of),
            lag_ms=max(c.lag_ms for c in all_of),
            queue_depth=sum(c.queue_depth for c in all_of),
            spool_bytes=storage.spool_bytes,
            average_tick_rate=round(counted / uptime_s, 1) if uptime_s else 0.0,
            ticks_per_second=round(sum(c.tick_rate for c in all_of), 1),
            ticks_per_second_1s=round(sum(c.tick_rate_1s for c in all_of), 1),
            ticks_per_second_60s=round(sum(c.tick_rate_60s for c in all_of), 1),
            ticks_by_connection={name: c.tick_count for name, c in connections.items()},
            commits_per_second=storage.commits_per_second,
            ticks_refused=sum(c.ticks_refused for c in all_of),
            rejects=sum(c.rejects for c in all_of),
            reconnects=sum(c.reconnects for c in all_of),
            restarts=sum(process.restarts for process in processes.values()),
            gaps=sum(c.gaps for c in all_of),
            subscription_requests=subscription_requests,
        )

    def uncovered(self, connections: Mapping[str, ConnectionStatus], now_s: float) -> dict[int, int]:
        """Return how many instruments of each connection no live one has; those that just open have a moment."""
        found = self._subscriptions.uncovered({c.connection_id for c in connections.values() if c.active})
        if found and now_s - self.opened_s < OPENING_S:
            found = {c: count for c, count in found.items() if connections[str(c)].state not in OPENING}
        return found

    def _quiet(
        self, connections: Mapping[str, ConnectionStatus], outlook: Outlook, now: datetime, now_s: float
    ) -> dict[int, float]:
        """Return which live connections have had no tick for too long while something that they record trades."""
        stale_s = self._config.market.stale_s
        if outlook.state != "open" or not stale_s:
            return {}
        quiet = {}
        for c in connections.values():
            if c.active and c.subscribed_instruments:
                known = self._connections[c.connection_id]
                own = self.hours.outlook(now, self._subscriptions.segments_of(c.connection_id))
                if own.state == "open":
                    open_s = (now - own.since).total_seconds() if own.since else now_s - self._started_s
                    quiet_s = min(open_s, now_s - max(known.subscribed_s, known.last_tick_s or 0.0))
                    if quiet_s >= stale_s:
                        quiet[c.connection_id] = quiet_s
        return quiet

    def process(self, name: str, children: Mapping[str, Child], own_pid: int) -> Process:
        """Return what is known of a process."""
        if name == SUPERVISOR:
            return Process(pid=own_pid, state="running", restarts=0)
        child = children.get(name)
        if child is None:
            return Process(pid=None, state="off", restarts=0)
        is_running = child.state == "running" and name == HTTP and self._http.get("pid") == child.pid
        state = self._http["state"] if is_running else child.state
        return Process(pid=child.pid, state=state, restarts=child.restarts.count)

    def _uptime_s(self, now_s: float) -> float:
        return round(now_s - self._started_s, 2)


def _is_gone(message: Mapping[str, Any], child: Child | None) -> bool:
    """Tell whether the worker that has said this is no more."""
    return bool(message) and child is not None and (child.state != "running" or child.pid != message["pid"])


def _writer_state(message: Mapping[str, Any], child: Child | None) -> str:
    if child is None or child.state != "running":
        return "stopped"
    said: str = message["state"] if message.get("pid") == child.pid else "starting"
    return said
