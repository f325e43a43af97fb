"""Event logs made by hand, for tests of what is read out of them. Times are seconds from T0."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from pipeline.events import encode_event, source_of
from tests.builders import T0_NS, ZONE

T0_US = T0_NS // 1000
END = 100  # s, of a random history
TOKENS = {1: (1, 2, 3), 2: (4, 5), 3: (1, 2, 4, 6)}  # of its connections

Down = tuple[int, int, int]  # from, when it was noticed, to


def stamp(second: float) -> str:
    """Return a time as it stands in an event log."""
    moment = datetime.fromtimestamp(T0_NS / 1e9 + second, UTC).astimezone(ZoneInfo(ZONE))
    return moment.isoformat(timespec="microseconds")


def event(name: str, second: float, connection_id: int = 0, **fields: Any) -> bytes:
    """Return the line of an event, of the supervisor where no connection is named."""
    known = {"connection_id": connection_id} | fields
    line = encode_event(name, stamp(second), known, source=source_of(connection_id), epoch=7, event_seq=1)
    return line.rstrip(b"\n")


def subscribed(second: float, connection_id: int, tokens: Iterable[int]) -> bytes:
    """Return the line that says that a connection has these from now on, and no others."""
    return event("subscribed", second, connection_id, instruments={"quote": list(tokens)})


def gap(since: float | None, until: float, connection_id: int, tokens: Iterable[int], cause: str = "closed") -> bytes:
    """Return the line of a gap, recorded when it was over."""
    fields = {"from": None if since is None else stamp(since), "to": stamp(until), "cause": cause}
    return event("gap", until, connection_id, instruments=list(tokens), **fields)


def lost(second: float, connection_id: int, cause: str = "closed") -> bytes:
    """Return the line that says that a connection was lost."""
    return event("disconnected", second, connection_id, cause=cause, reason="", retry_in_s=0)


def request(action: str, second: float, tokens: Iterable[int], **fields: Any) -> bytes:
    """Return the line of a request that was done."""
    known = {"by": "cli", "result": "done"} | fields
    return event("request", second, action=action, instruments=list(tokens), **known)


def started(second: float = 0) -> bytes:
    """Return the line of a service that begins."""
    return event("service_started", second, version="0", simulated=False)


def stopped(second: float) -> bytes:
    """Return the line of a service that ends in order."""
    return event("service_stopped", second, drained=True)


@st.composite
def downs(draw: st.DrawFn) -> dict[int, list[Down]]:
    """Return when connections received nothing, each time noticed late, and subscribed again at the end."""
    found: dict[int, list[Down]] = {}
    for connection_id in TOKENS:
        times = sorted(draw(st.sets(st.integers(2, END - 2), max_size=12)))
        found[connection_id] = [(a, b, c) for a, b, c in zip(times[::3], times[1::3], times[2::3], strict=False)]
    return found


def history(down: dict[int, Sequence[Down]]) -> list[bytes]:
    """Return the event log of a service whose connections were down at these times."""
    lines = [started(0)]
    for connection_id, tokens in TOKENS.items():
        lines.append(subscribed(1, connection_id, tokens))
        for since, noticed, until in down[connection_id]:
            again = subscribed(until, connection_id, tokens)
            lines += [lost(noticed, connection_id), again, gap(since, until, connection_id, tokens)]
        lines.append(event("stopped", END, connection_id, last_seq=1))
    return [*lines, stopped(END)]
