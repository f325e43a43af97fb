"""Is everything being recorded, and if not, why. Pure.

`down`: something is being missed now, or nothing becomes durable. `degraded`: all is recorded, but something is wrong
that may end in a loss. Each reason says which.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from pipeline import readable
from pipeline.role import HTTP, worker_role
from pipeline.status import ConnectionStatus, Process, Storage
from pipeline.supervisor.subscriptions import TERTIARY

LAG_TICKS = 50_000  # received, not yet durable: the writer is behind
LAG_MS = 2000.0  # the oldest of them was received so long ago: likewise
STUCK_S = 3.0  # something waits to be committed, and nothing was for so long
NEARLY_FULL_H = 1.0  # so many hours at the present rate
NEARLY_FULL_RESERVES = 1.25  # free, in units of the reserve
TO_OPEN = ("idle", "standby")  # states in which it has heard of no instruments yet
NO_SPARE = ("down", "silent", "unauthorised", "rate_limited")  # states in which it could not take over


class Facts(NamedTuple):
    """What the judgement rests on."""

    connections: Mapping[str, ConnectionStatus]
    storage: Storage
    processes: Mapping[str, Process]
    uncovered: Mapping[int, int]  # how many instruments of each connection nobody has
    failed_over: frozenset[int]
    writer_answers: bool
    uncommitted_s: float  # something waits to be committed, and nothing was for so long
    quiet: Mapping[int, float]  # live connections without a tick for so many seconds, which is too long
    unsaved: str  # why the subscriptions are not on disk, if they are not
    unresolved: Sequence[str]  # why not all that the settings name is recorded


def judge(facts: Facts) -> tuple[Literal["healthy", "degraded", "down"], list[str]]:
    """Return the state of the service and the reasons for it, the worst first."""
    missing = [*_missed(facts), *_not_stored(facts)]
    reasons = [*missing, *_endangered(facts)]
    return "down" if missing else "degraded" if reasons else "healthy", reasons


def _missed(facts: Facts) -> Iterator[str]:
    for c in facts.connections.values():
        if c.connection_id in facts.uncovered:
            reason = f", {c.reason}" if c.reason else ""
            count = facts.uncovered[c.connection_id]
            state = "about to connect" if c.state in TO_OPEN else c.state
            yield f"connection {c.connection_id} ({c.role}) is {state}{reason}: {count} instruments uncovered"
    for c in facts.connections.values():
        if c.active and c.gap_open:
            yield f"connection {c.connection_id} ({c.role}) is live, and a gap is open: ticks are being missed"


def _not_stored(facts: Facts) -> Iterator[str]:
    storage = facts.storage
    if storage.state == "paused":
        yield f"the writer is not storing: {storage.reason}"
    elif storage.state != "recording":
        yield f"the writer is {storage.state}"
    elif not facts.writer_answers:
        yield "the writer does not answer"
    elif (storage.syncing_since_s or 0) > STUCK_S:
        how_long = f"has not answered for {storage.syncing_since_s:.0f} s"
        yield f"the disk of {storage.data_dir} {how_long}: nothing is committed"
    elif facts.uncommitted_s > STUCK_S:
        yield f"nothing has been committed for {facts.uncommitted_s:.0f} s"


def _endangered(facts: Facts) -> Iterator[str]:
    pending = sum(c.ticks_pending for c in facts.connections.values())
    lag_ms = max(c.lag_ms for c in facts.connections.values())
    if pending > LAG_TICKS or lag_ms > LAG_MS:
        yield f"{pending:,} ticks are received and not yet durable, the oldest for {lag_ms / 1000:.1f} s"
    yield from _nearly_full(facts.storage)
    yield from _quiet(facts)
    for name, process in facts.processes.items():
        if name == HTTP:  # who only looks on costs recording nothing
            continue
        if process.state == "restarting":
            yield f"{name} is restarting"
        elif process.state == "failed":
            yield f"{name} has died too often and is given up; try again with: mds restart {name}"
    if facts.unsaved:
        yield f"the subscriptions are not saved ({facts.unsaved}): the next start would go on with older ones"
    yield from facts.unresolved
    spare = facts.connections[str(TERTIARY)]
    runs = facts.processes[worker_role(TERTIARY)].state == "running"
    if spare.state in NO_SPARE and TERTIARY not in facts.uncovered and runs:
        yield f"there is no spare: connection 3 (tertiary) is {spare.state}, {spare.reason}"
    for connection_id in sorted(facts.failed_over):
        outcome = "others are to record its instruments" if facts.uncovered else "others record its instruments"
        yield f"connection {connection_id} has failed over, {outcome}"


def _quiet(facts: Facts) -> Iterator[str]:
    for connection_id, quiet_s in sorted(facts.quiet.items()):
        how_long = readable.span(quiet_s)
        yield f"connection {connection_id} is live and has had no tick for {how_long}, though the market is open"


def _nearly_full(storage: Storage) -> Iterator[str]:
    if storage.state != "recording":
        return
    hours = storage.hours_until_full
    is_short = storage.free_bytes < storage.reserve_bytes * NEARLY_FULL_RESERVES
    if is_short or (hours is not None and hours < NEARLY_FULL_H):
        at_rate = (
            f", at the present rate enough for {readable.span(hours * readable.HOUR_S)}" if hours is not None else ""
        )
        free = storage.free_bytes / 2**20
        yield f"the disk of {storage.data_dir} is nearly full: {free:,.0f} MB are free{at_rate}"
