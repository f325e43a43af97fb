"""The overview as Prometheus reads it: text format 0.0.4. Pure.

Names after https://prometheus.io/docs/practices/naming/. Counts begin again with the service, as Prometheus expects of
counters. What is not known has no sample, rather than a made-up one: a count that a process has yet to report would
look like one that began again, and all of it like what has come since.
"""

from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from pipeline import __version__
from pipeline.status import ConnectionStatus, Durations, HealthResponse, Overview, Process, Storage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HEALTH = ("healthy", "degraded", "down")
STATES = (
    "off",
    "starting",
    "idle",
    "standby",
    "connecting",
    "live",
    "down",
    "silent",
    "unauthorised",
    "rate_limited",
    "failed",
)

_Figure = Callable[[ConnectionStatus], float | None]

_COUNTS: tuple[tuple[str, str, _Figure], ...] = (  # of each connection
    ("mds_ticks_received", "Ticks received and spooled.", lambda c: c.tick_count),
    ("mds_ticks_refused", "Ticks lost because the spool was full.", lambda c: c.ticks_refused),
    ("mds_gaps", "Gap records written.", lambda c: c.gaps),
    ("mds_reconnects", "Sockets opened after the first one.", lambda c: c.reconnects),
    ("mds_rejects", "Parts of frames that were no packets.", lambda c: c.rejects),
)
_GAUGES: tuple[tuple[str, str, _Figure], ...] = (
    ("mds_connection_up", "Whether the connection is live.", lambda c: c.active),
    ("mds_gap_open", "Whether something is being missed now.", lambda c: c.gap_open),
    ("mds_ticks_pending", "Ticks received and not yet durable.", lambda c: c.ticks_pending),
    ("mds_queue_depth_ticks", "Ticks spooled and not yet handed to the writer.", lambda c: c.queue_depth),
    ("mds_lag_seconds", "Time since the oldest tick that is not yet durable was received.", lambda c: c.lag_ms / 1000),
    ("mds_tick_age_seconds", "Time since the last tick; no sample before the first one.", lambda c: c.tick_age_s),
    ("mds_spool_bytes", "Size of the spool.", lambda c: c.spool_bytes),
    ("mds_subscribed_instruments", "Instruments that it is to record.", lambda c: c.subscribed_instruments),
    ("mds_confirmed_instruments", "Instruments sent to Kite on its present socket.", lambda c: c.confirmed_instruments),
    ("mds_available_instruments", "Instruments that it still has room for.", lambda c: c.capacity_remaining),
)


def text(overview: Overview | None) -> bytes:
    """Return all figures; None: the service does not answer, which is all there is to say."""
    return _text(_Figures(overview))


class _Figures(Collector):
    def __init__(self, overview: Overview | None) -> None:
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        yield GaugeMetricFamily("mds_up", "Whether the service answers.", value=self._overview is not None)
        build = GaugeMetricFamily("mds_build_info", "The version of the HTTP process, as a label.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        if self._overview is not None:
            connections = list(self._overview.connections.values())
            yield from _health(self._overview.health)
            yield from _market(self._overview.health)
            yield from _token(self._overview.health, connections)
            yield from _connections(connections)
            yield from _missed(self._overview.health, connections)
            yield from _storage(self._overview.storage)
            yield from _processes(self._overview.processes)


def _text(figures: _Figures) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(figures)
    return generate_latest(registry)


def _health(health: HealthResponse) -> Iterator[Metric]:
    status = GaugeMetricFamily(
        "mds_health_status", "Whether everything is being recorded: 1 for what holds.", labels=["status"]
    )
    for name in HEALTH:
        status.add_metric([name], health.status == name)
    yield status
    yield GaugeMetricFamily(
        "mds_status_timestamp_seconds",
        "Unix time of these figures, by the service's clock.",
        value=_unix(health.timestamp),
    )
    yield GaugeMetricFamily(
        "mds_start_time_seconds",
        "Unix time at which the service was started.",
        value=_unix(health.service_start_time),
    )
    yield GaugeMetricFamily("mds_uptime_seconds", "Time since then.", value=health.uptime_seconds)
    yield GaugeMetricFamily(
        "mds_never_ticked_instruments", "Subscribed instruments that have not ticked yet.", value=health.never_ticked
    )


def _market(health: HealthResponse) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "mds_market_open",
        "Whether something that is subscribed trades now; no sample where nobody knows.",
        value=None if health.market == "unknown" else health.market == "open",
    )
    yield GaugeMetricFamily(
        "mds_market_change_timestamp_seconds",
        "Unix time at which that is going to change; no sample where nobody knows.",
        value=_unix(health.market_until),
    )


def _token(health: HealthResponse, connections: list[ConnectionStatus]) -> Iterator[Metric]:
    refused = any(c.state == "unauthorised" for c in connections)
    yield GaugeMetricFamily("mds_kite_token_refused", "Whether Kite refuses the access token.", value=refused)
    yield GaugeMetricFamily(
        "mds_kite_token_expiry_timestamp_seconds",
        "Unix time at about which the access token dies; no sample for one that is in the environment.",
        value=_unix(health.token_expires),
    )


def _connections(connections: list[ConnectionStatus]) -> Iterator[Metric]:
    for kind, figures in ((CounterMetricFamily, _COUNTS), (GaugeMetricFamily, _GAUGES)):
        for name, help_text, figure in figures:
            has_role = name == "mds_connection_up"
            family = kind(name, help_text, labels=["connection", "role"] if has_role else ["connection"])
            for c in connections:
                value = figure(c)
                if value is not None and (c.epoch is not None or kind is GaugeMetricFamily):
                    family.add_metric([str(c.connection_id), *([c.role] if has_role else [])], value)
            yield family
    states = GaugeMetricFamily(
        "mds_connection_state", "The state of a connection: 1 for what holds.", labels=["connection", "state"]
    )
    for c in connections:
        for state in dict.fromkeys((*STATES, c.state)):
            states.add_metric([str(c.connection_id), state], c.state == state)
    yield states


def _missed(health: HealthResponse, connections: list[ConnectionStatus]) -> Iterator[Metric]:
    """What is being lost now, and what may be lost next, by the connection whose it is."""
    missed = GaugeMetricFamily(
        "mds_missed_instruments", "Instruments whose ticks are being missed now.", labels=["connection"]
    )
    over = GaugeMetricFamily("mds_failed_over", "Whether others record its instruments.", labels=["connection"])
    quiet = GaugeMetricFamily(
        "mds_quiet_seconds",
        "How long it has had no tick, where that is longer than market.stale_s in market hours; else 0.",
        labels=["connection"],
    )
    for c in connections:
        name = str(c.connection_id)
        in_gap = c.subscribed_instruments if c.gap_open else 0
        missed.add_metric([name], health.uncovered.get(name, in_gap))
        over.add_metric([name], c.connection_id in health.failed_over)
        quiet.add_metric([name], health.quiet_s.get(name, 0.0))
    yield from (missed, over, quiet)


def _storage(storage: Storage) -> Iterator[Metric]:
    yield GaugeMetricFamily("mds_storing", "Whether the writer takes ticks.", value=storage.state == "recording")
    if storage.commit_durations.bounds_s:  # else the writer has not been heard of
        yield from _writer(storage)


def _writer(storage: Storage) -> Iterator[Metric]:
    yield CounterMetricFamily("mds_ticks_stored", "Ticks that have become durable.", value=storage.ticks_stored)
    yield CounterMetricFamily("mds_commits", "Syncs to disk that have succeeded.", value=storage.commits)
    yield CounterMetricFamily("mds_sync_failures", "Syncs to disk that have failed.", value=storage.syncs_failed)
    yield CounterMetricFamily(
        "mds_batches_refused", "Batches that the writer could not take.", value=storage.batches_refused
    )
    yield CounterMetricFamily("mds_bytes_written", "Bytes written to the files.", value=storage.bytes_written)
    yield HistogramMetricFamily(
        "mds_commit_duration_seconds",
        "How long syncs to disk took.",
        buckets=_buckets(storage.commit_durations),
        sum_value=storage.commit_durations.sum_s,
    )
    yield GaugeMetricFamily(
        "mds_syncing_seconds",
        "How long the write or sync under way has taken by now; 0: there is none.",
        value=storage.syncing_since_s or 0.0,
    )
    yield GaugeMetricFamily("mds_disk_free_bytes", "Free space where the files are.", value=storage.free_bytes)
    yield GaugeMetricFamily(
        "mds_disk_reserve_bytes", "Free space at which the writer stops.", value=storage.reserve_bytes
    )
    yield GaugeMetricFamily(
        "mds_disk_full_seconds",
        "Time until only the reserve is left, at the rate of the last minute.",
        value=None if storage.hours_until_full is None else storage.hours_until_full * 3600,
    )


def _unix(timestamp: str | None) -> float | None:
    return None if timestamp is None else datetime.fromisoformat(timestamp).timestamp()


def _buckets(durations: Durations) -> list[tuple[str, float]]:
    bounds = [*(repr(bound) for bound in durations.bounds_s), "+Inf"]
    return list(zip(bounds, durations.counts, strict=True))


def _processes(processes: dict[str, Process]) -> Iterator[Metric]:
    up = GaugeMetricFamily("mds_process_up", "Whether a process of the service runs.", labels=["process"])
    restarts = CounterMetricFamily("mds_process_restarts", "How often it was started again.", labels=["process"])
    for name, process in processes.items():
        if process.state != "off":
            up.add_metric([name], process.state in ("running", "waiting"))
            restarts.add_metric([name], process.restarts)
    yield from (up, restarts)
