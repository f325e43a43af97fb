"""Which of the stored lines are the ticks that are asked for. Pure: lines in, ticks out.

Who follows one instrument of thousands should not pay for reading all of them as JSON: a line is turned away by how it
begins. What does not begin as the recorder writes it is read, and judged by its fields.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple, get_args

import orjson

from pipeline.config import Mode
from pipeline.errors import ConfigError

_BEGINNING = re.compile(rb'\{"mode":"([a-z]+)","tradable":(?:true|false),"instrument_token":([0-9]+),')
_INTS = ("instrument_token", "connection_id", "epoch", "seq")
_TEXTS = ("mode", "timestamp")


class Found(NamedTuple):
    """A stored tick: as it stands in the file, without its newline, and what it holds."""

    line: bytes
    tick: dict[str, Any]


class Selection:
    """Ticks of some instruments, in some modes, received from `start` on and before `end`; None: no matter."""

    def __init__(
        self,
        tokens: Iterable[int] | None = None,
        modes: Iterable[str] | str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> None:
        self.tokens = None if tokens is None else frozenset(tokens)
        self.modes = None if modes is None else _known((modes,) if isinstance(modes, str) else modes)
        self.start = start
        self.end = end
        self._token_words = None if self.tokens is None else {str(token).encode() for token in self.tokens}
        self._mode_words = None if self.modes is None else {mode.encode() for mode in self.modes}

    def may_have(self, line: bytes) -> bool:
        """Tell, by its beginning, whether a line has to be read."""
        found = _BEGINNING.match(line)
        if found is None:
            return True
        mode, token = found.groups()
        return (self._token_words is None or token in self._token_words) and (
            self._mode_words is None or mode in self._mode_words
        )

    def has(self, tick: dict[str, Any]) -> bool:
        """Tell whether a tick is asked for."""
        if self.tokens is not None and tick["instrument_token"] not in self.tokens:
            return False
        if self.modes is not None and tick["mode"] not in self.modes:
            return False
        if self.start is None and self.end is None:
            return True
        received = datetime.fromisoformat(tick["timestamp"])
        return (self.start is None or received >= self.start) and (self.end is None or received < self.end)

    def pick(self, lines: Iterable[bytes], on_bad: Callable[[int, str], None]) -> Iterator[Found]:
        """Yield the ticks among lines that are asked for; `on_bad` is told which line is none, and why."""
        for index, line in enumerate(lines):
            if self.may_have(line):
                try:
                    tick = read_tick(line)
                except ValueError as error:
                    on_bad(index, str(error))
                else:
                    if self.has(tick):
                        yield Found(line, tick)


def read_tick(line: bytes) -> dict[str, Any]:
    """Return what a line holds. Raises ValueError where it has not what every tick has; the rest is not checked."""
    tick = orjson.loads(line)
    if not isinstance(tick, dict):
        raise ValueError("not a JSON object")
    for names, kind in ((_INTS, int), (_TEXTS, str)):
        for name in names:
            if type(tick.get(name)) is not kind:
                raise ValueError(f"{name} is missing" if name not in tick else f"{name} is not {kind.__name__}")
    return tick


class Seen:
    """Up to which number each stream has come: a number comes again where the writer went back to its last commit."""

    def __init__(self) -> None:
        self._high: dict[tuple[int, int], int] = {}

    def is_new(self, tick: dict[str, Any]) -> bool:
        """Take in a tick; tell whether it is the first with its number."""
        stream = tick["connection_id"], tick["epoch"]
        if tick["seq"] <= self._high.get(stream, 0):
            return False
        self._high[stream] = tick["seq"]
        return True


def _known(modes: Iterable[str]) -> frozenset[str]:
    known = frozenset(mode.lower() for mode in modes)
    if wrong := known.difference(get_args(Mode)):
        raise ConfigError(f"{', '.join(sorted(wrong))}: no such mode, there are {', '.join(get_args(Mode))}")
    return known
