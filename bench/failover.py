"""How long it takes until instruments are recorded again whose connection fails: `python -m bench.failover`.

Connections are taken down under load, one at a time, each when all are well again:

    kill      its worker is killed (SIGKILL): the spare takes over, and gives back when the next worker is live
    hang      its worker is stopped (SIGSTOP): the supervisor has to notice, and kills it; then as above
    silence   nothing comes any more and the socket stays open, as with a network that is gone: the worker reconnects
    abort     the TCP connection is reset: the worker reconnects

A connection that comes back by itself does so at once only if it was live for 10 s before, else it waits longer each
time, as it should with a server that throws it out. So sockets are left alone for so long before they fail here.

All is seen from outside, on one clock: when it was done, what the event log says of who noticed and connected, the
receive time of the first tick of these instruments on another socket, and when its line was found in the file, which
is looked at every millisecond. Until all are home again includes the 0.3 s for which a connection has to be live here
(`failover.stable_s`, 30 s as it comes) before it has its instruments back.

The Kite server is that of the tests: its packets carry ids. Of what each socket was sent the unbroken beginning must be
stored, all of it where nobody cut it off, `mds verify` must find nothing wrong, and each failure must have its gap
record, of all its instruments, with its cause, and no other there may be. The server has room for ids of four million
ticks on a socket; before that is reached the run ends early.
"""

import itertools
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

import click

from bench.rig import show
from bench.rig.arena import READ_BACK_S, arena
from bench.rig.options import of_drills
from bench.rig.spread import Spread, bar, histogram
from pipeline.days import Calendar
from pipeline.kite.feed import STABLE_S
from pipeline.store.follow import Follower
from pipeline.store.selection import Selection
from tests.integration import drills, service
from tests.integration.drills import HOMES, SOCKET_BITS, ns
from tests.integration.kite import Kite, id_of
from tests.integration.service import Service, until

HOWS = ("kill", "hang", "silence", "abort")
CAUSES = {"kill": "killed", "hang": "killed", "silence": "silent", "abort": "closed"}  # of their gap records
NOTICED = {"kill": "process_died", "hang": "process_hung", "silence": "disconnected", "abort": "disconnected"}
CUTS = ("kill", "hang", "abort")  # what was on its way is lost
FRAME = 5  # ticks in one message
KILLS_MAX = 400  # the server has numbers for 1,023 sockets
TICKS_MAX = 0.9 * 2**SOCKET_BITS  # of a socket
LOOK_S = 0.001
MARGIN_S = 0.5  # to the time in which a connection earns that its next try comes at once
PATIENCE_S = 60.0  # for a tick to come again
NS_PER_MS = 1_000_000

WORDS = {
    "noticed_ms": "noticed",
    "decided_ms": "then decided",
    "connected_ms": "then connected",
    "received_ms": "then a tick received",
    "written_ms": "then in the file",
    "total_ms": "in all",
    "gap_ms": "gap on record",
    "home_ms": "all home again after",
}


@dataclass(frozen=True)
class Failure:
    """A connection that was taken down, and what was seen of it; times are Unix ns."""

    how: str
    connection_id: int
    at_ns: int
    carrier: int  # the connection with the first tick afterwards
    received_ns: int  # of that tick
    written_ns: int  # when it was found in the file
    home_ns: int  # when all were well again


@dataclass(frozen=True)
class Phases:
    """How long each step took, in ms, from the one before; `total`, `home`: from the failure."""

    noticed_ms: float
    decided_ms: float  # to fail over; 0 where the connection comes back by itself
    connected_ms: float
    received_ms: float
    written_ms: float
    total_ms: float  # until the tick was in the file: the sum of those above
    gap_ms: float  # as the gap record has it: from the last tick received to the first
    home_ms: float


@click.command(context_settings={"max_content_width": 110, "show_default": True})
@click.option("--kills", default=50, type=click.IntRange(1, KILLS_MAX), metavar="N", help="How many failures.")
@click.option(
    "--how", default="kill", type=click.Choice([*HOWS, "mixed"]), help="What is done; mixed: each of these in turn."
)
@click.option(
    "--connection", default="both", type=click.Choice(["1", "2", "both"]), help="Which is taken down; both: in turn."
)
@click.option("--rate", default=10_000, type=click.IntRange(100, 20_000), metavar="N", help="Ticks a second in all.")
@of_drills
def main(*, kills: int, how: str, connection: str, rate: int, keep: bool, as_json: bool) -> None:
    """Take connections down under load, and tell how long each step took until their instruments were recorded again.

    `kill` and `hang` do it to the worker of a connection, `silence` and `abort` to its socket. Exits with 1 where
    anything was lost but what was on its way to a worker or socket that died, or has no gap record.
    """
    service.DEADLINE_S = READ_BACK_S
    plan = planned(kills, how, connection)
    with arena(keep=keep) as (kite, recorder), show.counted(plan, "failures") as bar_:
        drills.begin(kite, recorder, rate, FRAME)
        failures: list[Failure] = []
        for each, home in bar_:
            if max(socket["ticks"] for socket in kite.connections()) > TICKS_MAX:
                show.note(f"\nended after {len(failures)} failures: the server has no more ids for one of the sockets")
                break
            failures.append(fail(kite, recorder, each, home))
        recording = drills.end(kite, recorder, cut=sum(failure.how in CUTS for failure in failures))
        events = recorder.events()
        require_gaps(failures, events)
        found = [(failure.how, phases(failure, events)) for failure in failures]
    by_how = {how: [some for which, some in found if which == how] for how in HOWS if how in dict(found)}
    figures = {
        "rate": rate,
        "failures": len(failures),
        "sent": recording.sent,
        "stored": recording.stored,
        "gaps": len(failures),
        "phases": {each: spreads(some) for each, some in by_how.items()},
    }
    text = [table for each, some in by_how.items() for table in tables(each, some)]
    counts = [("failures", f"{len(failures):,}"), ("ticks sent", f"{recording.sent:,}")]
    counts += [
        ("stored", f"{recording.stored:,}"),
        ("on their way to what died", f"{recording.sent - recording.stored:,}"),
    ]
    counts += [("each socket's beginning unbroken, gap records, mds verify", "as they must be")]
    show.show(figures, [*text, ("|>", counts)], as_json=as_json)


def planned(kills: int, how: str, connection: str) -> list[tuple[str, int]]:
    """Return what is done to which connection; of both and of all kinds in turn, so that each meets each."""
    hows = HOWS if how == "mixed" else (how,)
    homes = (1, 2) if connection == "both" else (int(connection),)
    return list(itertools.islice(itertools.cycle(itertools.product(hows, homes)), kills))


def fail(kite: Kite, recorder: Service, how: str, home: int) -> Failure:
    """Take a connection down, and wait until all are well again."""
    if how in ("silence", "abort"):
        connected_ns = max(ns(event["timestamp"]) for event in recorder.events("connected", connection_id=home))
        time.sleep(max(STABLE_S + MARGIN_S - (time.time_ns() - connected_ns) / 1e9, 0))
    drills.until_on_disk(recorder, home, drills.size(recorder))
    sockets = kite.connections()
    number = next(c["number"] for c in reversed(sockets) if c["open"] and str(next(iter(HOMES[home]))) in c["modes"])
    follower = Follower(recorder.data_dir, Selection(HOMES[home]), Calendar("Asia/Kolkata"))
    at_ns = time.time_ns()
    if how == "silence":
        kite.tell("mute", connection=number)
    elif how == "abort":
        kite.tell("abort", connection=number)
    else:
        recorder.send(f"worker-{home}", signal.SIGKILL if how == "kill" else signal.SIGSTOP)
    first, written_ns = first_tick(follower, len(sockets))
    drills.wait_until_home(kite, recorder)
    home_ns = time.time_ns()
    told = f"the gap of connection {home} is on record"
    until(lambda: any(ns(gap["to"]) > at_ns for gap in recorder.events("gap", connection_id=home)), told)
    return Failure(how, home, at_ns, first["connection_id"], ns(first["timestamp"]), written_ns, home_ns)


def first_tick(follower: Follower, sockets: int) -> tuple[dict[str, Any], int]:
    """Wait for the first tick that came on a socket after the first `sockets`; return it, and when it was found."""
    give_up_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_s:
        for batch in follower.new():
            for found in batch:
                if id_of(found.tick) >> SOCKET_BITS > sockets:
                    return found.tick, time.time_ns()
        time.sleep(LOOK_S)
    raise AssertionError(f"after {PATIENCE_S:g} s there is no tick of the connection that was taken down")


def phases(failure: Failure, events: Iterable[Mapping[str, Any]]) -> Phases:
    """Return how long each step took, by the event log. Raises AssertionError where it tells nothing of one."""
    after = [event for event in events if failure.at_ns <= ns(event["timestamp"]) <= failure.home_ns]

    def first(**wanted: Any) -> int:
        found = (e for e in after if all(e.get(name) == value for name, value in wanted.items()))
        moments = [ns(event["timestamp"]) for event in found]
        assert moments, f"of the {failure.how} of connection {failure.connection_id} the event log has no {wanted}"
        return min(moments)

    home = failure.connection_id
    is_failover = failure.carrier != home
    who = {"process": f"worker-{home}"} if NOTICED[failure.how].startswith("process") else {"connection_id": home}
    noticed_ns = first(event=NOTICED[failure.how], **who)
    decided_ns = first(event="request", action="failover", by="failover", result="done") if is_failover else noticed_ns
    connected_ns = first(event="connected", connection_id=failure.carrier)
    steps = (failure.at_ns, noticed_ns, decided_ns, connected_ns, failure.received_ns, failure.written_ns)
    gaps = [event for event in gaps_of(failure, events) if event["from"]]
    lasted_ns = max((ns(gap["to"]) - ns(gap["from"]) for gap in gaps), default=0)
    total_ns, home_ns = failure.written_ns - failure.at_ns, failure.home_ns - failure.at_ns
    in_ns = (*(to - since for since, to in pairwise(steps)), total_ns, lasted_ns, home_ns)
    return Phases(*(each / NS_PER_MS for each in in_ns))


def gaps_of(failure: Failure, events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the gap records that a failure has left: those of its connection that ended before all were well again."""
    return [
        event
        for event in events
        if event["event"] == "gap"
        and event["connection_id"] == failure.connection_id
        and failure.at_ns < ns(event["to"]) <= failure.home_ns
    ]


def require_gaps(failures: Sequence[Failure], events: Sequence[Mapping[str, Any]]) -> None:
    """Raise AssertionError unless each failure is on record, with its cause and instruments, and nothing else is."""
    told = 0
    for number, failure in enumerate(failures, 1):
        gaps = gaps_of(failure, events)
        told += len(gaps)
        causes = {gap["cause"] for gap in gaps}
        tokens = sorted({token for gap in gaps for token in gap["instruments"]})
        name = f"failure {number}, {failure.how} of connection {failure.connection_id}"
        assert causes == {CAUSES[failure.how]}, f"{name}: gap records with the causes {sorted(causes)}"
        assert tokens == sorted(HOMES[failure.connection_id]), f"{name}: a gap record of {len(tokens)} instruments"
    others = sum(event["event"] == "gap" for event in events) - told
    assert not others, f"{others} gaps are on record that no failure explains"


def spreads(some: Sequence[Phases]) -> dict[str, Any]:
    """Return how each step is spread, and all values of it."""
    return {name: asdict(spread) | {"values": values} for name, values, spread in columns(some)}


def tables(how: str, some: Sequence[Phases]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Return the steps of one kind of failure, and how long it took in all as a histogram."""
    rows = [
        (WORDS[name], *(f"{value:,.1f}" for value in (spread.p50, spread.p90, spread.p99, spread.max)))
        for name, _, spread in columns(some)
    ]
    classes = histogram([each.total_ms for each in some])
    most = max(count for _, _, count in classes)
    drawn: list[tuple[str, ...]] = [
        (f"{since:,.0f} to {to:,.0f}", f"{count:,}", bar(count, most)) for since, to, count in classes
    ]
    return [(f"{how}, {len(some):,} times, ms|>p50|>p90|>p99|>most", rows), (f"{how}, ms in all|>times|", drawn)]


def columns(some: Sequence[Phases]) -> Iterator[tuple[str, list[float], Spread]]:
    """Yield each step by its name, with its values."""
    for field in fields(Phases):
        values = [getattr(each, field.name) for each in some]
        yield field.name, values, Spread.of(values)


if __name__ == "__main__":
    main()
