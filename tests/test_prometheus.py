"""The overview as Prometheus reads it, read back."""

import math
import subprocess
from datetime import datetime
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pipeline import __version__
from pipeline.config import CONNECTIONS, Mode
from pipeline.status import (
    ConnectionStatus,
    Durations,
    HealthResponse,
    Metrics,
    Overview,
    Process,
    Storage,
)
from pipeline.supervisor.view import ROLES_SHOWN
from pipeline.web import prometheus
from tests.overviews import ROLES, an_overview

counts = st.integers(0, 2**53)
figures = st.floats(0, 1e12)
T0 = an_overview().health.timestamp
texts = st.text(max_size=20)


@st.composite
def durations(draw):
    """Strictly ascending bounds, and counts that rise with them."""
    bounds = draw(st.lists(st.floats(1e-6, 100), max_size=12, unique=True))  # none: no writer was heard of
    rising = draw(st.lists(counts, min_size=len(bounds) + 1, max_size=len(bounds) + 1))
    return Durations(bounds_s=sorted(bounds), counts=sorted(rising), sum_s=draw(figures))


def connection(number):
    """A connection with any figures."""
    return st.builds(
        ConnectionStatus,
        connection_id=st.just(number),
        role=st.just(ROLES[number]),
        mode=st.sampled_from(get_args(Mode)),
        state=st.sampled_from(prometheus.STATES) | texts,
        reason=texts,
        tick_count=counts,
        ticks_pending=counts,
        queue_depth=counts,
        lag_ms=figures,
        tick_age_s=st.none() | figures,
        gaps=counts,
        reconnects=counts,
        rejects=counts,
        ticks_refused=counts,
        spool_bytes=counts,
        subscribed_instruments=counts,
        confirmed_instruments=counts,
        capacity_remaining=counts,
        tick_rate=figures,
        tick_rate_1s=figures,
        tick_rate_60s=figures,
        last_tick_time=st.none(),
        start_time=st.none(),
        pid=st.none(),
        epoch=st.none() | st.integers(1),
        restarts=counts,
    )


overviews = st.builds(
    Overview,
    health=st.builds(
        HealthResponse,
        timestamp=st.just(T0),
        service_start_time=st.just(T0),
        market_until=st.none() | st.just(T0),
        uptime_seconds=figures,
        never_ticked=counts,
        reasons=st.lists(texts, max_size=2),
        never_ticked_instruments=st.just([]),
        tick_age_s=st.none(),
        uncovered=st.dictionaries(st.sampled_from("123"), counts),
        failed_over=st.lists(st.sampled_from(CONNECTIONS), unique=True),
        quiet_s=st.dictionaries(st.sampled_from("123"), figures),
        token_expires=st.none() | st.just(T0),
    ),
    connections=st.fixed_dictionaries({str(c): connection(c) for c in CONNECTIONS}),
    storage=st.builds(
        Storage,
        commit_durations=durations(),
        hours_until_full=st.none() | figures,
        syncing_since_s=st.none() | figures,
        ticks_stored=counts,
        commits=counts,
        bytes_written=counts,
        syncs_failed=counts,
        batches_refused=counts,
        free_bytes=counts,
        reserve_bytes=counts,
    ),
    metrics=st.builds(Metrics, ticks_by_connection=st.just({})),
    processes=st.fixed_dictionaries(
        {
            name: st.builds(
                Process,
                pid=st.none(),
                state=st.sampled_from(("running", "waiting", "restarting", "stopped", "failed", "off")),
                restarts=counts,
            )
            for name in ROLES_SHOWN
        }
    ),
    notices=st.just([]),
)


def read(text):
    """Return the samples by name and labels, and the types of the families."""
    families = list(text_string_to_metric_families(text.decode()))
    samples = {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}
    assert len(samples) == sum(len(family.samples) for family in families), "a sample is there twice"
    assert all(family.documentation for family in families)
    return samples, {family.name: family.type for family in families}


@settings(max_examples=20, deadline=None)
@given(overviews)
def test_every_figure_is_read_back(overview):
    """Prometheus reads just what the overview says, in base units, and nothing of what is not known."""
    samples, _ = read(prometheus.text(overview))
    assert samples["mds_up",] == 1
    for name, c in overview.connections.items():

        def of(metric, *labels, name=name):
            return samples.get((metric, ("connection", name), *labels))

        assert of("mds_ticks_received_total") == (None if c.epoch is None else c.tick_count)
        assert of("mds_ticks_pending") == c.ticks_pending
        assert of("mds_queue_depth_ticks") == c.queue_depth
        assert of("mds_lag_seconds") == c.lag_ms / 1000
        assert of("mds_tick_age_seconds") == c.tick_age_s
        assert of("mds_connection_up", ("role", c.role)) == c.active
        assert of("mds_connection_state", ("state", c.state)) == 1
        assert of("mds_subscribed_instruments") == c.subscribed_instruments
        assert of("mds_confirmed_instruments") == c.confirmed_instruments
        assert of("mds_gaps_total") == (None if c.epoch is None else c.gaps)
        assert of("mds_gap_open") == c.gap_open
        assert of("mds_reconnects_total") == (None if c.epoch is None else c.reconnects)
        assert of("mds_rejects_total") == (None if c.epoch is None else c.rejects)
        assert of("mds_ticks_refused_total") == (None if c.epoch is None else c.ticks_refused)
        assert of("mds_spool_bytes") == c.spool_bytes
        in_gap = c.subscribed_instruments if c.gap_open else 0
        assert of("mds_missed_instruments") == overview.health.uncovered.get(name, in_gap)
        assert of("mds_failed_over") == (c.connection_id in overview.health.failed_over)
        assert of("mds_quiet_seconds") == overview.health.quiet_s.get(name, 0)
        states = [value for (metric, *labels), value in samples.items() if metric == "mds_connection_state"
                  and ("connection", name) in labels]  # fmt: skip
        assert sum(states) == 1
    storage = overview.storage
    is_heard = bool(storage.commit_durations.bounds_s)  # else the writer has said nothing yet

    def of_writer(metric, value):
        assert samples.get((metric,)) == (value if is_heard else None), metric

    of_writer("mds_ticks_stored_total", storage.ticks_stored)
    of_writer("mds_commits_total", storage.commits)
    of_writer("mds_sync_failures_total", storage.syncs_failed)
    of_writer("mds_bytes_written_total", storage.bytes_written)
    of_writer("mds_disk_free_bytes", storage.free_bytes)
    of_writer("mds_disk_reserve_bytes", storage.reserve_bytes)
    hours = storage.hours_until_full
    of_writer("mds_disk_full_seconds", None if hours is None else hours * 3600)
    assert samples["mds_storing",] == (storage.state == "recording")
    unix = datetime.fromisoformat(T0).timestamp()
    assert samples["mds_status_timestamp_seconds",] == samples["mds_start_time_seconds",] == unix
    for name, moment in (
        ("mds_market_change_timestamp_seconds", overview.health.market_until),
        ("mds_kite_token_expiry_timestamp_seconds", overview.health.token_expires),
    ):
        assert samples.get((name,)) == (None if moment is None else unix)
    assert samples["mds_uptime_seconds",] == overview.health.uptime_seconds
    assert samples["mds_never_ticked_instruments",] == overview.health.never_ticked
    assert samples["mds_health_status", ("status", overview.health.status)] == 1
    assert samples["mds_kite_token_refused",] == any(c.state == "unauthorised" for c in overview.connections.values())
    assert samples["mds_build_info", ("version", __version__)] == 1
    for name, process in overview.processes.items():
        restarts = None if process.state == "off" else process.restarts
        assert samples.get(("mds_process_restarts_total", ("process", name))) == restarts


@settings(max_examples=20, deadline=None)
@given(overviews)
def test_histogram(overview):
    """Each bucket has what took no longer, +Inf has all, and the sum is the time that all took."""
    samples, types = read(prometheus.text(overview))
    known = overview.storage.commit_durations
    buckets = [
        (float(dict(labels)["le"]), value)
        for (name, *labels), value in samples.items()
        if name == "mds_commit_duration_seconds_bucket"
    ]
    if not known.bounds_s:
        assert not buckets
        return
    assert buckets == list(zip([*known.bounds_s, math.inf], known.counts, strict=True))
    assert samples["mds_commit_duration_seconds_count",] == known.counts[-1]
    assert samples["mds_commit_duration_seconds_sum",] == known.sum_s
    assert types["mds_commit_duration_seconds"] == "histogram"


def test_without_a_service():
    """That nobody answers is a figure too: a scrape finds `mds_up 0`, and no others that look like facts."""
    samples, _ = read(prometheus.text(None))
    assert samples == {("mds_up",): 0, ("mds_build_info", ("version", __version__)): 1}


@pytest.mark.parametrize("overview", [an_overview(), None], ids=["all", "none"])
def test_promtool(overview):
    """Prometheus's own linter has nothing to say."""
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=prometheus.text(overview),
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(("market", "value"), [("open", 1.0), ("closed", 0.0), ("unknown", None)])
def test_the_market(market, value):
    """It is open or not; where nobody knows there is no sample."""
    samples, _ = read(prometheus.text(an_overview(market=market)))
    assert samples.get(("mds_market_open",)) == value
