"""Events: the lines of `events_YYYY-MM-DD.jsonl`, which tell what happened to the recording.

    {"event": "gap", "timestamp": "2025-10-01T09:15:23.123456+05:30", ..., "source": "worker-1", "epoch": E,
     "event_seq": N}

A line ends with who says it and its number: `event_seq` is 1, 2, 3, ... within (`source`, `epoch`). The journal finds
its place again by these endings, so their order is part of the format.
"""

from collections.abc import Mapping
from typing import Any

import orjson

WRITER = "writer"
SUPERVISOR = "supervisor"
SUPERVISOR_ID = 0  # its connection_id, where a stream has to have one


def source_of(connection_id: int) -> str:
    """Return who numbers the events of this stream."""
    return f"worker-{connection_id}" if connection_id != SUPERVISOR_ID else SUPERVISOR


def encode_event(
    event: str, timestamp: str, fields: Mapping[str, Any], *, source: str, epoch: int, event_seq: int
) -> bytes:
    """Return one line, newline included. `fields` hold what is particular to this event, JSON types only."""
    line = {"event": event, "timestamp": timestamp, **fields, "source": source, "epoch": epoch, "event_seq": event_seq}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
