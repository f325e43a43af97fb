"""The lines of an event log, as far as they tell when what was recorded. Pure."""

from array import array
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from pipeline.store.files import Moment

FIRST_YEAR, LAST_YEAR = 1970, 9000  # no clock says such a year, and no calendar can reckon beyond the last ones

if TYPE_CHECKING:
    Tokens: TypeAlias = array[int]
else:
    Tokens = array  # msgspec looks at it, and knows no array[int]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of an event log, as far as it is of use here."""

    event: str
    timestamp: Moment
    source: str
    connection_id: int | None = None
    tokens: Tokens = msgspec.field(name="instruments", default_factory=lambda: array("I"))  # of whatever mode
    dropped: list[int] = []
    cause: str | None = None
    since: Moment | None = msgspec.field(name="from", default=None)
    until: Moment | None = msgspec.field(name="to", default=None)
    previous_end: str | None = None
    process: str = ""
    adopted: bool = False
    action: str = ""
    by: str = ""
    result: str = ""
    reason: str | None = None
    connections: dict[str, int] = {}

    @property
    def at(self) -> int:
        """When it was."""
        return microseconds(self.timestamp)


def _as_tokens(_type: type[Any], given: Any) -> Tokens:
    """Return a list of tokens, or lists by mode, as an array: a bad day has millions of them."""
    if isinstance(given, dict):
        given = chain.from_iterable(given.values())
    try:
        return array("I", given)
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None


_decode = msgspec.json.Decoder(Entry, dec_hook=_as_tokens).decode


def decode(lines: Iterable[bytes]) -> Iterator[Entry]:
    """Yield the events of lines, passing over what is none."""
    for line in lines:
        try:
            entry = _decode(line)
        except (ValueError, RecursionError):
            continue
        times = (entry.timestamp, entry.since, entry.until)
        if all(time is None or FIRST_YEAR < time.year < LAST_YEAR for time in times):
            yield entry


def microseconds(moment: datetime) -> int:
    """Return a time as microseconds since the epoch."""
    return (moment - EPOCH) // _US
