"""The dicts that the facade returns: the models of `status` and `requests`, some fields put as people and scripts write
them (`Primary`, `QUOTE`), and some added. Pure.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pipeline.config import MAX_INSTRUMENTS
from pipeline.errors import MdsError, RequestRefusedError
from pipeline.requests import Change
from pipeline.status import ConnectionStatus, HealthResponse, Metrics, Status

TARGET_TICKS_PER_S = 1000  # that `performance_pct` is measured by
MIRROR = "3"  # the connection that mirrors


def subscribed(change: Change, connection_id: int) -> dict[str, Any]:
    """Return what has been subscribed; `connection_id` is for where they were to go, if none has gone anywhere."""
    return {
        **change.model_dump(),
        "connection_id": next(map(int, change.connections), connection_id),
        "subscribed_count": len(change.instruments),
        "mode": change.mode.upper() if change.mode else None,
    }


def unsubscribed(change: Change) -> dict[str, Any]:
    """Return what has been unsubscribed."""
    results = [{"connection_id": int(c), "unsubscribed_count": count} for c, count in change.connections.items()]
    return {**change.model_dump(), "results": results}


def refused(error: MdsError) -> dict[str, Any]:
    """Return why nothing was changed."""
    details = dict(error.details) if isinstance(error, RequestRefusedError) else {}
    if "duplicates" in details:
        details["duplicates"] = [
            {"token": d["instrument_token"], "existing_connection": d["connection_id"], "mode": d["mode"].upper()}
            for d in details["duplicates"]
        ]
    return {**details, "success": False, "error": str(error)}


def health(answer: HealthResponse) -> dict[str, Any]:
    """Return whether everything is being recorded."""
    return {
        **answer.model_dump(),
        "subscribed_instruments": answer.total_subscribed_instruments,
        "uptime_human": str(timedelta(seconds=int(answer.uptime_seconds))),
    }


def connections(answer: Mapping[str, ConnectionStatus], now: datetime) -> dict[str, Any]:
    """Return the three connections."""
    return {
        "timestamp": timestamp(now),
        "connections": {
            name: {
                **connection.model_dump(),
                "role": connection.role.capitalize(),
                "mode": connection.mode.upper(),
                "uptime_seconds": _seconds_since(connection.start_time, now) or 0.0,
                "seconds_since_last_tick": _seconds_since(connection.last_tick_time, now),
            }
            for name, connection in answer.items()
        },
    }


def instruments(status: Status, now: datetime) -> dict[str, Any]:
    """Return what is subscribed, by connection and one by one."""
    tokens: dict[str, list[int]] = {name: [] for name in status.connections}
    for instrument in status.instruments:
        tokens[str(instrument.connection_id)].append(instrument.instrument_token)
        if instrument.mirrored:
            tokens[MIRROR].append(instrument.instrument_token)
    return {
        "timestamp": timestamp(now),
        "total_unique_instruments": len({instrument.instrument_token for instrument in status.instruments}),
        "by_connection": {
            name: {"count": len(found), "tokens": found, "mode": status.connections[name].mode.upper()}
            for name, found in tokens.items()
        },
        "capacity_summary": {
            name: {
                "count": len(found),
                "capacity_used_pct": len(found) / MAX_INSTRUMENTS * 100,
                "capacity_remaining": status.connections[name].capacity_remaining,
            }
            for name, found in tokens.items()
        },
        "subscription_history_count": status.metrics.subscription_requests,
        "instruments": [
            {**instrument.model_dump(), "mode": instrument.mode.upper()} for instrument in status.instruments
        ],
    }


def metrics(answer: Metrics) -> dict[str, Any]:
    """Return counts and rates."""
    return {
        **answer.model_dump(),
        "target_tick_rate": TARGET_TICKS_PER_S,
        "performance_pct": round(answer.average_tick_rate / TARGET_TICKS_PER_S * 100, 2),
    }


def _seconds_since(time_text: str | None, now: datetime) -> float | None:
    return round((now - datetime.fromisoformat(time_text)).total_seconds(), 2) if time_text else None


def timestamp(moment: datetime) -> str:
    """Return a time as all timestamps are written."""
    return moment.isoformat(timespec="microseconds")
