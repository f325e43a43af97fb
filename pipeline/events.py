"""Events: the lines of `events_YYYY-MM-DD.jsonl`, which tell what happened to the recording.

    {"event": "gap", "timestamp": "2025-10-01T09:15:23.123456+05:30", ..., "source": "worker-1", "epoch": E,
     "event_seq": N}

A line ends with who says it and its number: `event_seq` is 1, 2, 3, ... within (`source`, `epoch`). The journal finds
its place again by these endings, so their order is part of the format. In between stand, with `?` where not always:

    worker-N     all with connection_id N
      epoch                 format, previous_epoch, previous_last_seq, previous_last_event_seq (null: not known),
                            previous_end: none, clean, killed, unknown
      connected             -
      subscribed            instruments: {mode: [token, ...]}, once a frame has come after they were sent to Kite
      resubscribed          instruments: {mode: [token, ...]}, dropped: [token, ...]: changes to that on the same socket
      idle                  -: the socket was closed, nothing is to be recorded
      disconnected          cause, reason, retry_in_s, http_status?, close_code?; was live
      not_connected         the same of an attempt that never was
      gap                   instruments: [token, ...], from (null: not known), to, cause; gap_epoch?, first_seq?,
                            last_seq? where ticks that had a number are lost. Causes: closed, silent, refused, failed,
                            suspended, spool full, no room (others had to be carried instead); since the epoch before
                            stopped, killed, spool lost; spool damaged; opened late (the service was not up, or asleep,
                            when the clock should have opened connections)
      reject                received, offset, reason, raw (hex): bytes of a frame that are no packet
      order_update          data
      kite_error            data
      kite_message          type, data or text: any other text message
      clock_step            offset_s, followed
      stopped               last_seq: the last event of an epoch that ended in order
    supervisor   all with connection_id 0
      service_started       format, version, simulated
      process_started       process, pid, adopted (an earlier run had started it)
      process_died          process, exit_code (null: not known), given_up (else it is started again)
      process_hung          process, pid: it is killed
      uncovered             instruments: [token, ...] of connections that have failed over, for which no other has room;
                            empty when all have a place again
      request               action: subscribe, unsubscribe, set_mode, mirror, unmirror, failover, failback;
                            by: cli, client, universe, failover; instruments: [token, ...], mode?,
                            connections?: {connection: count}, result: done, refused; reason?
      health                status, was: starting, healthy, degraded, down; reasons: [text, ...]
      instruments_synced    date, instruments, bytes, file: Kite's list of instruments of that day is there
      instruments_failed    reason, refused: it could not be fetched
      expired               instruments: [token, ...], symbols: [text, ...]: they trade no more, and are unsubscribed
      token_changed         symbol, from_token, to_token: the list of a new day has it under another token
      market_closed         until (null: not to be seen): connections are closed, market.disconnect has passed
      market_opened         until (null: not to be seen): connections are opened, market.connect has passed
      subscriptions_damaged file, error, kept_in
      compacted             date, ticks, bytes (of the JSONL), parquet_bytes, bad_lines: the day is there as Parquet
      compact_failed        date (null: of no day), reason
      supervisor_left       -: it ends alone, as asked; the others go on recording
      service_stopped       drained: nothing is left in a spool of a worker
    writer       without connection_id
      file_missing          file, bytes: stored, and gone; error? why it could not be put back, where it was open
      file_restored         file, bytes, kept_in?: was removed or replaced while it was written to, and is back; what
                            had taken its place is kept in the state folder
      file_shortened        file, bytes, bytes_stored
      foreign_lines         file, lines
      torn_end              file, offset, bytes (0: only the newline was missing), kept_in?
      sync_failed           error, syncs_failed
      storing_paused        cause
      storing_resumed       -

The events that open a stream name the `format` of all that is recorded; where they do not, it is 1. It is another one,
`files.FORMAT` is raised, when a version that knows only the one before would read what there is wrongly, take it for
damage, or not go on with it: when a field of a tick or an event goes or means something else, or an end of a line, a
record of a spool, the checkpoint, another file of the state folder, or the columns or the footer of Parquet change.
More events, or more fields in the middle of one, are no other format: readers pass over what they do not know. Each
version reads all formats up to its own, goes on with what an older one has left, and leaves alone what is newer.
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
