"""The changes that were asked for: the latest in memory, all in the event log as `request` events."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from pipeline.config import Mode
from pipeline.requests import KEPT_CHANGES, Action, By, HistoryEntry
from pipeline.store.files import Block, event_files, read_blocks
from pipeline.supervisor.subscriptions import Changed

EVENT = "request"
KEPT_TOKENS = 200_000  # of all changes together
KEPT_REFUSED = 100  # tokens of a request that changed nothing
KEPT_EVENTS = 200
FILES_READ = 2  # today's, and the one before
_MARK = b'"event":"request"'
_FIELDS = tuple(HistoryEntry.model_fields)


class History:
    """`log_event` gets the name and the fields of each change, and returns its timestamp."""

    def __init__(self, log_event: Callable[[str, dict[str, Any]], str]) -> None:
        self._log_event = log_event
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
        known = {name: value for name, value in fields.items() if value or name == "instruments"}
        entry = HistoryEntry(timestamp=self._log_event(EVENT, known), **known)
        self._entries.append(entry)
        self._tokens += len(entry.instruments)
        self._forget()


class Logged(NamedTuple):
    """What the event log tells of earlier runs, oldest first."""

    requests: list[HistoryEntry]
    events: list[dict[str, Any]]


def logged(data_dir: Path, but_epoch: int) -> Logged:
    """Return the changes and the last events that the latest event files tell of, those of one epoch left out."""
    entries: deque[HistoryEntry] = deque(maxlen=KEPT_CHANGES)
    last: deque[bytes] = deque(maxlen=KEPT_EVENTS)
    for path in event_files(data_dir)[-FILES_READ:]:
        for block in read_blocks(path, path.stat().st_size):
            if isinstance(block, Block):
                entries.extend(_entries((line for line in block.lines if _MARK in line), but_epoch))
                last.extend(block.lines)
    return Logged(list(entries), list(_events(last, but_epoch)))


def _events(lines: Iterable[bytes], but_epoch: int) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            event = orjson.loads(line)
            datetime.fromisoformat(event["timestamp"])
            if event["epoch"] != but_epoch and isinstance(event["event"], str) and event["source"]:
                yield event
        except (ValueError, TypeError, KeyError):
            continue


def _entries(lines: Iterable[bytes], but_epoch: int) -> Iterator[HistoryEntry]:
    for line in lines:
        try:
            event: Mapping[str, Any] = orjson.loads(line)
            if event["event"] == EVENT and event["epoch"] != but_epoch:
                yield HistoryEntry.model_validate({name: event[name] for name in _FIELDS if name in event})
        except (ValueError, TypeError, KeyError):
            continue
