"""What is known of the running service: fed by the processes' messages, read as the status models. No I/O."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from typing import Any

from pipeline.config import CONNECTIONS, Config
from pipeline.events import SUPERVISOR_ID
from pipeline.files import tick_file_name
from pipeline.requests import FindParams
from pipeline.role import HTTP, SIMULATOR, SUPERVISOR, WRITER, worker_role
from pipeline.status import (
    ConnectionStatus,
    Durations,
    HealthResponse,
    Metrics,
    Notice,
    Overview,
    Process,
    Series,
    Storage,
)
from pipeline.supervisor.children import Child
from pipeline.supervisor.health import Facts, judge
from pipeline.supervisor.rates import STALE_S, Rate, Tally
from pipeline.supervisor.subscriptions import MODES, ROLES, TERTIARY, Subscription, Subscriptions
from pipeline.wire import Commit, StreamId

FRESH_S = 5.0  # a tick within so long: data is flowing
RATE_S = 10.0
QUIET_S = 1.0  # a worker tells twice a second how it does
NEVER_TICKED = 100  # so many are named
SERIES_S = 300  # kept, one figure a second
ROLES_SHOWN = (SUPERVISOR, WRITER, *(worker_role(c) for c in CONNECTIONS), HTTP, SIMULATOR)
Row = dict[str, Any]  # an `InstrumentSubscription`: thousands of models would take too long to make
_TALLIED = ("ticks_refused", "rejects", "reconnects", "gaps")


@dataclass
class _Connection:
    """What a worker has said, and the counts of the epochs before the present one."""

    message: Mapping[str, Any] = field(default_factory=dict)
    heard_s: float = 0.0  # monotonic
    counted_before: int = 0
    epoch: int | None = None
    rate: Rate = field(default_factory=Rate)
    tally: Tally = field(default_factory=Tally)
    last_tick_time: str | None = None
    last_tick_s: float | None = None  # monotonic: the wall clock may be set
    counted_at_first: int = 0  # before the service started, by a process that was adopted
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

    def hear(self, message: Mapping[str, Any], now_s: float, started_s: float) -> None:
        is_first = self.epoch is None
        if message["epoch"] != self.epoch:
            self.counted_before = self.counted_until(message)
            self.epoch = message["epoch"]
        self.epochs.add(message["epoch"])
        self.message, self.heard_s = message, now_s
        if is_first or now_s <= started_s:  # what was said while nobody listened comes first
            self.counted_at_first = self.tick_count
        self.last_tick_time = message["last_tick_time"] or self.last_tick_time
        self.rate.hear(now_s, self.tick_count)
        self.tally.hear(message["epoch"], {name: message[name] for name in _TALLIED})


@dataclass
class _Writer:
    """What the writer has said, and the counts of those before it."""

    message: Mapping[str, Any] = field(default_factory=dict)
    heard_s: float = 0.0
    tally: Tally = field(default_factory=Tally)
    bytes_rate: Rate = field(default_factory=Rate)
    commit_rate: Rate = field(default_factory=Rate)
    longest: deque[tuple[float, float]] = field(default_factory=deque)  # (monotonic s, ms) of the last ten seconds

    def hear(self, message: Mapping[str, Any], now_s: float) -> None:
        self.message, self.heard_s = message, now_s
        names = ("bytes_written", "commits", "syncs_failed", "batches_refused", "commit_us")
        buckets = {f"<={place}": count for place, count in enumerate(message["commit_counts"])}
        self.tally.hear(message["pid"], {name: message[name] for name in names} | buckets)
        self.bytes_rate.hear(now_s, self.tally["bytes_written"])
        self.commit_rate.hear(now_s, self.tally["commits"])
        self.longest.append((now_s, message["commit_ms_max"]))
        while self.longest[0][0] < now_s - RATE_S:
            self.longest.popleft()

    def longest_ms(self, span_s: float, now_s: float) -> float:
        """Return how long the longest sync of the last seconds took."""
        return max((ms for heard_s, ms in self.longest if heard_s > now_s - span_s), default=0.0)

    @property
    def durations(self) -> Durations:
        """How long syncs took."""
        bounds = self.message.get("commit_bounds_s", [])
        counts = [self.tally[f"<={place}"] for place in range(len(bounds) + 1)]
        return Durations(bounds_s=bounds, counts=counts, sum_s=self.tally["commit_us"] / 1e6)


class Board:
    """Takes messages in, gives models out. `clock` is the wall clock in the storage time zone."""

    def __init__(
        self, config: Config, subscriptions: Subscriptions, clock: Callable[[], datetime], now_s: float
    ) -> None:
        self._config = config
        self._subscriptions = subscriptions
        self._clock = clock
        self._started = clock()
        self._started_s = now_s
        self._connections = {c: _Connection() for c in CONNECTIONS}
        self._writer = _Writer()
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
            known = self._connections[message["connection_id"]]
            known.hear(message, now_s, self._started_s)
            self._hear_tick(known, message, now_s)
            if not self._pending or self._committed_s is None:
                self._committed_s = now_s

    def _hear_tick(self, known: _Connection, message: Mapping[str, Any], now_s: float) -> None:
        age_s: float | None = message.get("tick_age_s")  # of another version: it does not tell
        if age_s is None:
            age_s = _age_s(message["last_tick_time"], self._clock())
        if age_s is not None:
            known.last_tick_s = now_s - age_s

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
        spooled = known.message.get("spooled")
        if spooled is None:  # of another version: it does not tell
            return int(known.message.get("ticks_pending", 0))
        is_quiet = self._commit_heard_s - known.heard_s > QUIET_S
        return sum(
            min(pending, max(last - self._durable_of(connection_id, epoch), 0))
            if is_quiet or epoch != known.epoch
            else pending
            for epoch, last, pending in spooled
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
        return "standby" if said == "idle" and connection_id == TERTIARY else said, known.message["reason"]

    def connection(self, connection_id: int, children: Mapping[str, Child], now_s: float) -> ConnectionStatus:
        """Return the status of a connection."""
        known = self._connections[connection_id]
        message = known.message
        child = children.get(worker_role(connection_id))
        instruments = len(self._subscriptions.of(connection_id))
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
            gap_open=instruments > 0 if is_gone else message.get("gap_open", False),
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

    def health(
        self,
        connections: Mapping[str, ConnectionStatus],
        storage: Storage,
        processes: Mapping[str, Process],
        now_s: float,
        unsaved: str = "",
    ) -> HealthResponse:
        """Tell whether everything is being recorded, and if not, why."""
        now = self._clock()
        state, reasons = judge(
            Facts(
                connections=connections,
                storage=storage,
                processes=processes,
                uncovered=self.uncovered(connections),
                failed_over=frozenset(self._subscriptions.failed_over),
                writer_answers=now_s - self._writer.heard_s <= STALE_S,
                uncommitted_s=now_s - self._committed_s if self._pending and self._committed_s is not None else 0.0,
                unsaved=unsaved,
            )
        )
        never = [token for token, known in self._subscriptions.all.items() if not known.tick_count]
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
            never_ticked_instruments=never[:NEVER_TICKED],
            kite_connected=active > 0,
            last_tick_time=last_tick_time,
            tick_age_s=age_s,
            data_fresh=age_s is not None and age_s < FRESH_S,
            ticks_per_second=round(sum(c.tick_rate for c in connections.values()), 1),
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

    def instruments(self) -> list[Row]:
        """Return the subscribed instruments."""
        return self._described(self._subscriptions.all.items())

    def instrument(self, token: int) -> Row | None:
        """Return one subscribed instrument, None if it is not subscribed."""
        known = self._subscriptions.all.get(token)
        return self._described([(token, known)])[0] if known else None

    def find(self, wanted: FindParams) -> dict[str, Any]:
        """Return a page of the instruments that fulfil all that is asked for, in the shape of `InstrumentPage`."""
        ages = _Ages(self._clock())
        found = [
            (token, known)
            for token, known in self._subscriptions.all.items()
            if (wanted.mode is None or known.mode == wanted.mode)
            and (wanted.search is None or wanted.search in str(token))
            and (wanted.connection_id is None or wanted.connection_id in self._recorded_on(token))
            and (wanted.stale is None or wanted.stale == ages.is_stale(known.last_tick_time, wanted.stale_s))
        ]
        page = found[wanted.offset : wanted.offset + wanted.limit]
        place = {"total": len(found), "offset": wanted.offset, "limit": wanted.limit}
        return {**place, "instruments": self._described(page)}

    def _recorded_on(self, token: int) -> tuple[int | None, ...]:
        mirror = (TERTIARY,) if self._subscriptions.is_mirrored(token) else ()
        return (self._subscriptions.carrier(token), *mirror)

    def _described(self, found: Iterable[tuple[int, Subscription]]) -> list[Row]:
        ages = _Ages(self._clock())
        return [
            {
                "instrument_token": token,
                "connection_id": self._subscriptions.carrier(token),
                "mode": known.mode,
                "mirrored": self._subscriptions.is_mirrored(token),
                "subscribed_at": known.subscribed_at,
                "tick_count": known.tick_count,
                "last_price": known.last_price,
                "last_tick_time": known.last_tick_time,
                "tick_age_s": ages[known.last_tick_time],
            }
            for token, known in found
        ]

    def uncovered(self, connections: Mapping[str, ConnectionStatus]) -> dict[int, int]:
        """Return how many instruments of each connection no live one has."""
        return self._subscriptions.uncovered({c.connection_id for c in connections.values() if c.active})

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
    def status(self) -> dict[str, Any]:
        """Everything, in the shape of `Status`."""
        return {
            "health": self.health,
            "connections": self.connections,
            "instruments": self.instruments,
            "storage": self.storage,
            "metrics": self.metrics,
            "processes": self.processes,
        }

    def overview(self, notices: list[Notice]) -> Overview:
        """Return everything but the instruments."""
        return Overview(
            health=self.health,
            connections=self.connections,
            storage=self.storage,
            metrics=self.metrics,
            processes=self.processes,
            notices=notices,
        )

    @cached_property
    def health(self) -> HealthResponse:
        """Is it recording."""
        return self._board.health(self.connections, self.storage, self.processes, self._now_s, self._unsaved)

    @cached_property
    def connections(self) -> dict[str, ConnectionStatus]:
        """The three connections."""
        return {str(c): self._board.connection(c, self._children, self._now_s) for c in CONNECTIONS}

    @property
    def instruments(self) -> list[Row]:
        """The subscribed instruments."""
        return self._board.instruments()

    @cached_property
    def storage(self) -> Storage:
        """What the writer does."""
        return self._board.storage(self._children, self._now_s)

    @cached_property
    def metrics(self) -> Metrics:
        """Counts and rates."""
        return self._board.metrics(
            self.connections, self.storage, self.processes, self._subscription_requests, self._now_s
        )

    @cached_property
    def processes(self) -> dict[str, Process]:
        """All processes."""
        return {name: self._board.process(name, self._children, self._own_pid) for name in ROLES_SHOWN}

    @cached_property
    def gaps(self) -> Counter[int]:
        """What is being missed now: how many instruments of which connection."""
        open_ones = {c.connection_id: c.subscribed_instruments for c in self.connections.values() if c.gap_open}
        return Counter(open_ones | self._board.uncovered(self.connections))


def _age_s(time: str | None, now: datetime) -> float | None:
    return round(max((now - datetime.fromisoformat(time)).total_seconds(), 0.0), 3) if time else None


class _Ages(dict[str | None, float | None]):
    """Ages by time: instruments that ticked in one frame have the same."""

    def __init__(self, now: datetime) -> None:
        super().__init__()
        self._now = now

    def __missing__(self, time: str | None) -> float | None:
        age_s = self[time] = _age_s(time, self._now)
        return age_s

    def is_stale(self, time: str | None, stale_s: float) -> bool:
        age_s = self[time]
        return age_s is None or age_s > stale_s


def _is_gone(message: Mapping[str, Any], child: Child | None) -> bool:
    """Tell whether the worker that has said this is no more."""
    return bool(message) and child is not None and (child.state != "running" or child.pid != message["pid"])


def _writer_state(message: Mapping[str, Any], child: Child | None) -> str:
    if child is None or child.state != "running":
        return "stopped"
    said: str = message["state"] if message.get("pid") == child.pid else "starting"
    return said
