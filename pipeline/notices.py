"""What people are told of an event: a line of text, and few details. Pure; the event log has it in full."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

KEPT_SYMBOLS = 5
KEPT_TEXT = 200  # characters of what others have written
# What a user has traded is nobody else's business, and what Kite broadcasts is no news of the recording.
_UNTOLD = frozenset({"order_update", "kite_message", "epoch"})
_DROPPED = frozenset({"connection_id", "raw", "data"})
_TEXTS = {
    "connected": "connected",
    "subscribed": "recording {instruments} instruments",
    "resubscribed": "subscription changed: {instruments} instruments new or in another mode, {dropped} dropped",
    "idle": "closed in order, there is nothing to record",
    "disconnected": "connection lost ({cause}): {reason}",
    "not_connected": "could not connect ({cause}): {reason}",
    "reject": "a part of a frame was no packet: {reason}",
    "kite_error": "Kite reports an error",
    "clock_step": "the clock was set by {offset_s} s",
    "stopped": "ended in order",
    "service_started": "service {version} started",
    "service_stopped": "service ended",
    "supervisor_left": "the supervisor ended alone, the others go on recording",
    "process_started": "{process} started",
    "process_died": "{process} has died",
    "process_hung": "{process} gave no sign of life and is killed",
    "uncovered": "{instruments} instruments are uncovered: no connection that is well has room for them",
    "instruments_synced": "the list of instruments of {date} is there: {instruments}",
    "instruments_failed": "the list of instruments could not be fetched: {reason}",
    "expired": "expired, and unsubscribed: {symbols}",
    "token_changed": "{symbol} has another token: {to_token}, was {from_token}",
    "compacted": "{date} is there as Parquet: {ticks} ticks",
    "compact_failed": "making Parquet of {date} has failed: {reason}",
    "health": "{status}, was {was}: {reasons}",
    "subscriptions_damaged": "the saved subscriptions were damaged: {error}",
    "file_missing": "{file} is gone",
    "file_restored": "somebody has removed or replaced {file}: it is back with all that was recorded",
    "file_shortened": "{file} has lost what was stored in it",
    "foreign_lines": "{file} has lines of somebody else",
    "torn_end": "the end of {file} was torn, and is mended",
    "sync_failed": "syncing to disk has failed: {error}",
    "storing_paused": "not storing: {cause}",
    "storing_resumed": "storing again",
}


def describe(event: str, fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return text and details, None for what is not told. Instruments are told as their number."""
    if event in _UNTOLD:
        return None
    details = _Details((name, _shortened(name, value)) for name, value in fields.items() if name not in _DROPPED)
    return _text(event, details), details


class _Details(dict[str, Any]):
    """What an older version has written may lack a field."""

    def __missing__(self, name: str) -> str:
        return "?"


def _text(event: str, details: Mapping[str, Any]) -> str:
    if event == "gap":
        return f"{details['instruments']} instruments were not recorded {_span(details)} ({details['cause']})"
    if event == "request":
        return _request(details)
    if event == "health" and not details["reasons"]:
        return f"{details['status']}, was {details['was']}"
    if event == "uncovered" and not details["instruments"]:
        return "all instruments have a place again"
    if event == "process_started" and details.get("adopted"):
        return f"{details['process']} was running already, and is adopted"
    if event == "process_died" and details.get("given_up"):
        return f"{details['process']} has died too often, and is given up: mds restart {details['process']}"
    if event in ("market_closed", "market_opened"):
        until = f" until {details['until'][:16].replace('T', ' ')}" if details.get("until") else ""
        return f"connections are {event.removeprefix('market_')} by the clock{until}"
    known = _TEXTS.get(event)
    return known.format_map(details) if known else event


def _span(gap: Mapping[str, Any]) -> str:
    if None in (gap.get("from"), gap.get("to")):
        return "for an unknown time"
    lasted = datetime.fromisoformat(gap["to"]) - datetime.fromisoformat(gap["from"])
    return f"for {lasted.total_seconds():.3f} s"


def _request(details: Mapping[str, Any]) -> str:
    action = str(details["action"]).replace("_", " ")
    mode = f" in {details['mode']} mode" if details.get("mode") else ""
    reason = f": {details['reason']}" if details.get("reason") else ""
    result = "" if details["result"] == "done" else f", {details['result']}"
    return f"{action}, {details['instruments']} instruments{mode}, asked by {details['by']}{result}{reason}"


def _shortened(name: str, value: Any) -> Any:
    if name == "reasons":
        return "; ".join(value)
    if name == "symbols":
        return ", ".join(value[:KEPT_SYMBOLS]) + (", ..." if len(value) > KEPT_SYMBOLS else "")
    if isinstance(value, str):
        return value if len(value) <= KEPT_TEXT else f"{value[:KEPT_TEXT]}..."
    if isinstance(value, Mapping):  # by mode or connection: instruments, or how many they are
        return sum(len(each) if isinstance(each, list | tuple) else int(each) for each in value.values())
    if isinstance(value, list | tuple):
        return len(value)
    return value
