"""What happened of late, as people are told of it. Pure: who hears of an event hands it in."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.notices import describe
from pipeline.status import Notice

KEPT = 200


class Bulletin:
    """The latest notices. `begin` is the number before the first one; it has to be above those of any earlier run."""

    def __init__(self, begin: int) -> None:
        self._begin = self._number = begin
        self._notices: deque[Notice] = deque(maxlen=KEPT)
        self.listener: Callable[[Notice], None] = lambda _: None

    def tell(self, event: str, source: str, timestamp: str, told: tuple[str, dict[str, Any]]) -> None:
        """Take in an event, with the text and the details of it that people are told."""
        self._number += 1
        notice = _notice(self._number, event, source, timestamp, told)
        self._notices.append(notice)
        self.listener(notice)

    def recall(self, earlier: Iterable[Mapping[str, Any]]) -> None:
        """Put events that earlier runs have logged, oldest first, before what is known."""
        told = [(line, found) for line in earlier if (found := describe(line["event"], _particular(line)))]
        first = self._begin - len(told) + 1
        recalled = [
            _notice(first + place, line["event"], line["source"], line["timestamp"], found)
            for place, (line, found) in enumerate(told)
        ]
        self._notices = deque([*recalled, *self._notices], maxlen=KEPT)

    def after(self, number: int) -> list[Notice]:
        """Return what is known with a higher number, oldest first."""
        return [notice for notice in self._notices if notice.number > number]


def _particular(line: Mapping[str, Any]) -> dict[str, Any]:
    common = ("event", "timestamp", "source", "epoch", "event_seq")
    return {name: value for name, value in line.items() if name not in common}


def _notice(number: int, event: str, source: str, timestamp: str, told: tuple[str, dict[str, Any]]) -> Notice:
    text, details = told
    return Notice(number=number, timestamp=timestamp, event=event, source=source, text=text, details=details)
