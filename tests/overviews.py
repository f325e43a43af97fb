"""What the supervisor may answer, for the tests of those who ask it."""

from typing import Any

from pipeline.status import ConnectionStatus, Durations, HealthResponse, Metrics, Notice, Overview, Process, Storage
from tests.builders import EPOCH

T0 = "2025-10-01T09:10:00.000000+05:30"
ROLES = {1: "primary", 2: "secondary", 3: "tertiary"}


def an_overview(*notices: Notice, **health: Any) -> Overview:
    """Return what the supervisor may answer; `health` are fields of its health that are to be different."""
    return Overview(
        health=HealthResponse(
            **{
                "status": "healthy",
                "reasons": [],
                "timestamp": T0,
                "service_start_time": T0,
                "uptime_seconds": 60.0,
                "active_connections": 2,
                "total_connections": 3,
                "total_subscribed_instruments": 2,
                "never_ticked": 0,
                "never_ticked_instruments": [],
                "kite_connected": True,
                "last_tick_time": T0,
                "tick_age_s": 0.5,
                "data_fresh": True,
                "market": "unknown",
                "market_until": None,
                "resting": "",
                "ticks_per_second": 20.0,
                **health,
            }
        ),
        connections={str(connection_id): a_connection(connection_id) for connection_id in ROLES},
        storage=Storage(
            state="recording",
            reason="",
            data_dir="/data",
            current_file="market_data_2025-10-01.jsonl",
            ticks_stored=1200,
            bytes_written=600_000,
            bytes_per_second=10_000.0,
            spool_bytes=4096,
            commits=100,
            commits_per_second=20.0,
            commit_ms=1.0,
            commit_ms_max=2.0,
            commit_ms_max_1s=2.0,
            commit_durations=Durations(bounds_s=[0.001, 0.01], counts=[90, 99, 100], sum_s=0.25),
            syncing_since_s=None,
            syncs_failed=0,
            batches_refused=0,
            free_bytes=2**40,
            reserve_bytes=2**28,
            hours_until_full=30_000.0,
        ),
        metrics=Metrics(
            timestamp=T0,
            uptime_seconds=60.0,
            total_ticks_received=1200,
            total_ticks_stored=1200,
            total_ticks_pending=0,
            lag_ms=0.0,
            queue_depth=0,
            spool_bytes=4096,
            average_tick_rate=20.0,
            ticks_per_second=20.0,
            ticks_per_second_1s=20.0,
            ticks_per_second_60s=20.0,
            ticks_by_connection={"1": 600, "2": 600, "3": 0},
            commits_per_second=20.0,
            ticks_refused=0,
            rejects=0,
            reconnects=0,
            restarts=0,
            gaps=0,
            subscription_requests=1,
        ),
        processes={name: Process(pid=1, state="running", restarts=0) for name in ("supervisor", "writer", "http")},
        notices=list(notices),
    )


def a_connection(connection_id: int) -> ConnectionStatus:
    """Return a connection that is live; the third one stands by."""
    is_spare = connection_id == 3
    return ConnectionStatus.model_validate(
        {
            "connection_id": connection_id,
            "role": ROLES[connection_id],
            "mode": "full" if connection_id == 2 else "quote",
            "state": "standby" if is_spare else "live",
            "reason": "",
            "active": not is_spare,
            "subscribed_instruments": 0 if is_spare else 1,
            "confirmed_instruments": 0 if is_spare else 1,
            "tick_count": 0 if is_spare else 600,
            "tick_rate": 10.0,
            "tick_rate_1s": 10.0,
            "tick_rate_60s": 10.0,
            "last_tick_time": None if is_spare else T0,
            "tick_age_s": None if is_spare else 0.5,
            "start_time": None if is_spare else T0,
            "capacity_remaining": 2999,
            "pid": 10 + connection_id,
            "epoch": EPOCH,
            "ticks_pending": 0,
            "lag_ms": 0.0,
            "queue_depth": 0,
            "ticks_refused": 0,
            "rejects": 0,
            "reconnects": 0,
            "restarts": 0,
            "gaps": 0,
            "gap_open": False,
            "spool_bytes": 2048,
        }
    )
