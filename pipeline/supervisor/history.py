"""The changes that were asked for: the latest in memory, all in the event log as `request` events."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from pipeline.config import Mode
from pipeline.requests import KEPT_CHANGES, Action, By, HistoryEntry
from pipeline.store.files import Block, event_files, read_blocks
from pipeline.supervisor.subscriptions import Changed

EVENT = "request"
KEPT_TOKENS = 200_000  # of all changes together
KEPT_REFUSED = 100  # tokens of a request that changed nothing
FILES_READ = 2  # today's, and the one before
_MARK = b'"event":"request"'
_FIELDS = tuple(HistoryEntry.model_fields)


class History:
    """`log_event` gets the fields of each change, `clock` returns the time as a timestamp."""

    def __init__(self, log_event: Callable[[str, dict[str, Any]], None], clock: Callable[[], str]) -> None:
        self._log_event = log_event
        self._clock = clock
        self._entries: deque[HistoryEntry] = deque()
        self._tokens = 0  # in all of them

    def done(self, action: Action, by: By, changed: Changed, reason: str = "") -> None:
        """Take note of a change."""
        self._add(
            action=action,
            by=by,
            instruments=changed.instruments,
            mode=changed.mode,
            connections=changed.connections,
            result="done",
            reason=reason,
        )

    def refused(self, action: Action, by: By, tokens: Iterable[int], reason: str, mode: Mode | None = None) -> None:
        """Take note of a request that changed nothing."""
        tokens = list(dict.fromkeys(islice(tokens, KEPT_REFUSED)))
        self._add(action=action, by=by, instruments=tokens, mode=mode, result="refused", reason=reason)

    @property
    def count(self) -> int:
        """How many changes are known."""
        return len(self._entries)

    def latest(self, limit: int) -> list[HistoryEntry]:
        """Return the latest, oldest first."""
        return list(self._entries)[-limit:]

    def recall(self, earlier: list[HistoryEntry]) -> None:
        """Put what earlier runs have logged before what is known."""
        self._entries = deque([*earlier, *self._entries])
        self._tokens = sum(len(entry.instruments) for entry in self._entries)
        self._forget()

    def _forget(self) -> None:
        while len(self._entries) > KEPT_CHANGES or (self._tokens > KEPT_TOKENS and len(self._entries) > 1):
            self._tokens -= len(self._entries.popleft().instruments)

    def _add(self, **fields: Any) -> None:
        entry = HistoryEntry(timestamp=self._clock(), **fields)
        self._entries.append(entry)
        self._tokens += len(entry.instruments)
        self._forget()
        self._log_event(EVENT, entry.model_dump(exclude={"timestamp"}, exclude_defaults=True))


def logged(data_dir: Path, before: datetime) -> list[HistoryEntry]:
    """Return the changes before a time that the latest event files tell of, oldest first."""
    entries: deque[HistoryEntry] = deque(maxlen=KEPT_CHANGES)
    for path in event_files(data_dir)[-FILES_READ:]:
        for block in read_blocks(path, path.stat().st_size):
            if isinstance(block, Block):
                entries.extend(filter(None, map(_entry, (line for line in block.lines if _MARK in line))))
    return [entry for entry in entries if datetime.fromisoformat(entry.timestamp) < before]


def _entry(line: bytes) -> HistoryEntry | None:
    try:
        event: Mapping[str, Any] = orjson.loads(line)
        datetime.fromisoformat(event["timestamp"])
        return HistoryEntry.model_validate({name: event[name] for name in _FIELDS if name in event})
    except (ValueError, ValidationError, TypeError, KeyError):
        return None
