"""What happened of late, as people are told of it. Pure: who hears of an event hands it in.

Numbers ascend. They are times, in microseconds since 1970, or one more than the last one where that is not enough: so
they ascend over runs of the supervisor too, and what it recalls of an earlier run has the number that it had there.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from pipeline.notices import describe
from pipeline.status import Notice

KEPT = 200
_COMMON = ("event", "timestamp", "source", "epoch", "event_seq")  # fields of every line of the event log


class Bulletin:
    """The latest notices; `listener` gets each new one."""

    def __init__(self) -> None:
        self._notices: deque[Notice] = deque(maxlen=KEPT)
        self.listener: Callable[[Notice], None] = lambda _: None

    def tell(self, event: str, source: str, timestamp: str, told: tuple[str, dict[str, Any]]) -> None:
        """Take in an event, with the text and the details of it that people are told."""
        before = self._notices[-1].number if self._notices else 0
        notice = _notice(max(before + 1, _microseconds(timestamp)), event, source, timestamp, told)
        self._notices.append(notice)
        self.listener(notice)

    def recall(self, earlier: Iterable[Mapping[str, Any]]) -> None:
        """Add events that have been logged before, but for those that have been told since."""
        numbers = {notice.number for notice in self._notices}
        known = {(notice.event, notice.source, notice.timestamp) for notice in self._notices}
        recalled = []
        for line in earlier:
            event, source, timestamp = line["event"], line["source"], line["timestamp"]
            told = describe(event, {name: value for name, value in line.items() if name not in _COMMON})
            if told and (event, source, timestamp) not in known:
                number = _microseconds(timestamp)
                while number in numbers:
                    number += 1
                numbers.add(number)
                recalled.append(_notice(number, event, source, timestamp, told))
        self._notices = deque(sorted([*recalled, *self._notices], key=lambda notice: notice.number), maxlen=KEPT)

    def after(self, number: int) -> list[Notice]:
        """Return what is known with a higher number, oldest first."""
        return [notice for notice in self._notices if notice.number > number]


def _microseconds(timestamp: str) -> int:
    return round(datetime.fromisoformat(timestamp).timestamp() * 1e6)


def _notice(number: int, event: str, source: str, timestamp: str, told: tuple[str, dict[str, Any]]) -> Notice:
    text, details = told
    return Notice(number=number, timestamp=timestamp, event=event, source=source, text=text, details=details)
