"""What a person or a monitor can ask of the running service: one set of models for all who ask.

Times are ISO 8601 with offset. Counts are since the service started. Rates are over the last 1, 10 and 60 seconds; the
one without a number in its name is over 10.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline.config import Mode


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ConnectionStatus(_Model):
    """One Kite connection."""

    connection_id: int
    role: Literal["primary", "secondary", "tertiary"]
    mode: Mode  # what it is for; each instrument has a mode of its own
    state: str  # off, starting, idle, standby, connecting, live, down, silent, unauthorised, rate_limited, failed
    reason: str  # for a state that is not wished for
    active: bool  # connected
    subscribed_instruments: int
    confirmed_instruments: int  # sent to Kite on the present socket
    tick_count: int
    tick_rate: float  # ticks a second
    tick_rate_1s: float
    tick_rate_60s: float
    last_tick_time: str | None
    tick_age_s: float | None  # since the last tick; None: there was none
    start_time: str | None  # connected since
    capacity_remaining: int
    pid: int | None
    epoch: int | None
    ticks_pending: int  # spooled, not yet durable
    lag_ms: float  # since the oldest of these was received
    queue_depth: int  # ticks spooled, not yet handed to the writer
    ticks_refused: int  # lost: the spool was full
    rejects: int  # parts of frames that were no packets
    reconnects: int  # sockets opened after the first one
    restarts: int  # of its process
    gaps: int  # gap records
    gap_open: bool  # something is being missed now
    spool_bytes: int


class InstrumentSubscription(_Model):
    """One subscribed instrument."""

    instrument_token: int
    symbol: str | None = None  # NSE:INFY; None: no list of instruments has the token
    connection_id: int  # that records it
    mode: Mode
    mirrored: bool  # connection 3 records it as well
    subscribed_at: str
    tick_count: int  # stored since it was subscribed, of both where it is mirrored
    last_price: float | None
    last_tick_time: str | None  # None: it has never ticked
    tick_age_s: float | None


class InstrumentPage(_Model):
    """A part of the subscribed instruments that were asked for, in the order in which they were subscribed."""

    total: int  # of those that were asked for
    offset: int
    limit: int
    instruments: list[InstrumentSubscription]


class HealthResponse(_Model):
    """Is it recording, and if not wholly, why."""

    status: Literal["healthy", "degraded", "down"]
    reasons: list[str]
    timestamp: str
    service_start_time: str
    uptime_seconds: float
    active_connections: int
    total_connections: int
    total_subscribed_instruments: int
    never_ticked: int  # of these
    never_ticked_instruments: list[int]  # the first hundred of them
    kite_connected: bool
    last_tick_time: str | None
    tick_age_s: float | None
    data_fresh: bool  # a tick within the last five seconds, or nothing that is subscribed trades now
    market: Literal["open", "closed", "unknown"]  # of what is subscribed; open: a part of it trades
    market_until: str | None  # the next change of this; None: not to be seen
    resting: str  # when connections open again, in words, while the clock has them closed
    ticks_per_second: float
    uncovered: dict[str, int] = {}  # by connection, instruments that nobody records; these four: not in older services
    failed_over: list[int] = []  # connections whose instruments others record
    quiet_s: dict[str, float] = {}  # by connection, for how long a live one has had no tick, where that is too long
    token_expires: str | None = None  # about when the access token dies; None: not known, as of the environment's


class Durations(_Model):
    """How long something has taken, as a histogram."""

    bounds_s: list[float]  # upper ones, ascending
    counts: list[int]  # of what took no longer than each of these, and of all
    sum_s: float


class Storage(_Model):
    """What the writer does."""

    state: str  # starting, recording, paused, stopped
    reason: str
    data_dir: str
    current_file: str
    ticks_stored: int
    bytes_written: int
    bytes_per_second: float
    spool_bytes: int
    commits: int
    commits_per_second: float
    commit_ms: float  # how long the last sync took
    commit_ms_max: float  # the longest of the last ten seconds
    commit_ms_max_1s: float  # the longest of the last second
    commit_durations: Durations
    syncing_since_s: float | None  # a write or a sync is under way for so long
    syncs_failed: int
    batches_refused: int
    free_bytes: int
    reserve_bytes: int  # with no more than these free the writer stops, the spools go on
    hours_until_full: float | None  # until only the reserve is left, as of the last minute; None: nothing is written


class Metrics(_Model):
    """Counts and rates over the whole service."""

    timestamp: str
    uptime_seconds: float
    total_ticks_received: int
    total_ticks_stored: int
    total_ticks_pending: int  # the writer's lag: received, not yet durable
    lag_ms: float  # since the oldest of these was received
    queue_depth: int  # of these: not yet handed to the writer
    spool_bytes: int
    average_tick_rate: float  # since the service started, without what adopted processes had counted before
    ticks_per_second: float
    ticks_per_second_1s: float
    ticks_per_second_60s: float
    ticks_by_connection: dict[str, int]
    commits_per_second: float
    ticks_refused: int
    rejects: int
    reconnects: int
    restarts: int
    gaps: int
    subscription_requests: int  # that `history` can tell of


class Process(_Model):
    """One process of the service."""

    pid: int | None
    state: str  # running, waiting (http: its port is taken), restarting, stopped, failed, off
    restarts: int


class Notice(_Model):
    """Something that happened, as people are told of it; the event log has it in full."""

    number: int  # ascending, over restarts too; the same for the same event
    timestamp: str
    event: str  # as in the event log
    source: str
    text: str
    details: dict[str, Any]  # some of its fields; instruments as their number


class Overview(_Model):
    """All but the instruments, and what happened of late."""

    health: HealthResponse
    connections: dict[str, ConnectionStatus]
    storage: Storage
    metrics: Metrics
    processes: dict[str, Process]
    notices: list[Notice]  # the latest, oldest first


class Series(_Model):
    """The last minutes, one figure a second, oldest first; the lists are of one length."""

    timestamp: str  # of the last ones
    ticks_per_second: dict[str, list[float]]  # by connection
    commit_ms: list[float]  # the longest sync that ended in this second
    lag_ms: list[float]


class Status(_Model):
    """Everything, as `mds status --json` prints it."""

    health: HealthResponse
    connections: dict[str, ConnectionStatus]
    instruments: list[InstrumentSubscription]
    storage: Storage
    metrics: Metrics
    processes: dict[str, Process]
