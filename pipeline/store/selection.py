"""Which ticks a reader wants, as it says it: instruments, modes, and a span of time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeAlias, get_args
from zoneinfo import ZoneInfo

from pipeline.config import Mode
from pipeline.errors import ConfigError
from pipeline.store.symbols import Symbols

Moment: TypeAlias = datetime | date | str | None


@dataclass(frozen=True)
class Selection:
    """What is wanted; None: no matter. `start` is included, `end` is not."""

    tokens: frozenset[int] | None = None
    modes: frozenset[str] | None = None
    start: datetime | None = None
    end: datetime | None = None

    def has(self, tick: dict[str, Any]) -> bool:
        """Tell whether a stored tick is wanted."""
        if self.tokens is not None and tick["instrument_token"] not in self.tokens:
            return False
        if self.modes is not None and tick["mode"] not in self.modes:
            return False
        if self.start is None and self.end is None:
            return True
        received = datetime.fromisoformat(tick["timestamp"])
        return (self.start is None or received >= self.start) and (self.end is None or received < self.end)


def select(
    data_dir: Path,
    timezone: str,
    *,
    tokens: Iterable[int | str] | int | str | None = None,
    modes: Iterable[str] | str | None = None,
    start: Moment = None,
    end: Moment = None,
) -> Selection:
    """Return what these words of a reader mean; symbols are looked up in the data folder.

    Times without an offset are in `timezone`; a date is its midnight. Raises ConfigError naming what is none.
    """
    words: Iterable[int | str] | None = [tokens] if isinstance(tokens, (int, str)) else tokens
    named = [modes] if isinstance(modes, str) else modes
    return Selection(
        None if words is None else frozenset(Symbols(data_dir).resolve(words)),
        None if named is None else frozenset(map(_mode, named)),
        _moment(start, timezone),
        _moment(end, timezone),
    )


def _mode(word: str) -> str:
    modes: Sequence[str] = get_args(Mode)
    if word.lower() not in modes:
        raise ConfigError(f"{word!r} is not a mode, they are {', '.join(modes)}")
    return word.lower()


def _moment(given: Moment, timezone: str) -> datetime | None:
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given) if isinstance(given, str) else given
    except ValueError:
        raise ConfigError(f"{given!r} is not a time like 2025-10-01T09:15:00") from None
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)  # noqa: DTZ001  its zone comes next
    zone = ZoneInfo(timezone)
    return moment.astimezone(zone) if moment.tzinfo else moment.replace(tzinfo=zone)  # polars compares within a zone only
