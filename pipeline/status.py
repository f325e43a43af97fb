"""What a person or a monitor can ask of the running service: one set of models for the socket, the CLI and Python."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline.config import Mode


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ConnectionStatus(_Model):
    """One Kite connection."""

    connection_id: int
    role: Literal["primary", "secondary", "tertiary"]
    mode: Mode  # what it is for; each instrument has a mode of its own
    state: str  # off, starting, idle, standby, connecting, live, down, unauthorised, rate_limited, stopped
    reason: str  # for a state that is not wished for
    active: bool  # connected
    subscribed_instruments: int
    confirmed_instruments: int  # sent to Kite on the present socket
    tick_count: int  # received since the service started
    tick_rate: float  # a second, over the last ten
    last_tick_time: str | None
    start_time: str | None  # connected since
    capacity_remaining: int
    pid: int | None
    epoch: int | None
    ticks_pending: int  # spooled, not yet durable
    ticks_refused: int  # lost: the spool was full
    rejects: int  # parts of frames that were no packets
    spool_bytes: int
    gap_open: bool  # something is being missed now


class Instrument(_Model):
    """One subscribed instrument."""

    instrument_token: int
    connection_id: int  # that records it
    mode: Mode
    mirrored: bool  # connection 3 records it as well
    subscribed_at: str
    tick_count: int  # stored since it was subscribed, of both where it is mirrored
    last_price: float | None
    last_tick_time: str | None


class Health(_Model):
    """Is it recording, and if not wholly, why."""

    status: Literal["healthy", "degraded", "down"]
    reasons: list[str]
    timestamp: str
    service_start_time: str
    uptime_seconds: float
    active_connections: int
    total_connections: int
    total_subscribed_instruments: int
    kite_connected: bool
    last_tick_time: str | None
    data_fresh: bool  # a tick within the last five seconds; a closed market has none
    ticks_per_second: float


class Storage(_Model):
    """What the writer does."""

    state: str  # starting, recording, paused, stopped
    reason: str
    data_dir: str
    current_file: str
    ticks_stored: int  # since the service started
    bytes_written: int
    spool_bytes: int
    commits: int
    commit_ms: float  # how long the last sync took
    syncing_since_s: float | None  # a write or a sync is under way for so long
    syncs_failed: int
    batches_refused: int
    free_bytes: int


class Metrics(_Model):
    """Counts over the whole service."""

    timestamp: str
    uptime_seconds: float
    total_ticks_received: int
    total_ticks_stored: int
    total_ticks_pending: int
    average_tick_rate: float
    ticks_per_second: float
    ticks_by_connection: dict[str, int]
    subscription_requests: int  # that `history` can tell of


class Process(_Model):
    """One process of the service."""

    pid: int | None
    state: str  # running, restarting, stopped, off
    restarts: int


class Status(_Model):
    """Everything, as `mds status --json` prints it."""

    health: Health
    connections: dict[str, ConnectionStatus]
    instruments: list[Instrument]
    storage: Storage
    metrics: Metrics
    processes: dict[str, Process]
