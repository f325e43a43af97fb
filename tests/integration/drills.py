"""Drills: processes and sockets die under load, a few times by a test, many times by `python -m bench.drills`.

A drill starts the service, kills, ends it, and checks what must hold whatever has died: of what a socket was sent the
unbroken beginning is stored, once and in order, all of it where nobody cut it off, and each moment in which an
instrument was on no connection, or what it was sent is not stored, lies within a gap record. Long drills store millions
of ticks: what is stored is read through once, and of a tick only its id is kept.
"""

import json
import random
import signal
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

import orjson

from tests.integration.kite import Kite, id_of
from tests.integration.service import Service, Status, Stream, until

PRIMARY = [408065, *range(0x200001, 0x202001, 0x100)]
SECONDARY = [738561, *range(0x300001, 0x302001, 0x100)]
UNIVERSE = {"primary": PRIMARY, "secondary": SECONDARY}
HOMES = {1: dict.fromkeys(PRIMARY, "quote"), 2: dict.fromkeys(SECONDARY, "full")}
SOON = {"stable_s": 0.3}  # a failback
SETTINGS: dict[str, dict[str, Any]] = {"universe": UNIVERSE, "failover": SOON | {"max_deaths": 10_000}}  # of a drill
WORKERS = {"worker-1": 2, "worker-2": 2, "worker-3": 1}  # how often they are killed, in proportion
CHILDREN = ("writer", *WORKERS)
SOCKET_BITS = 22  # of an id, below the number of its socket

Span = tuple[int, int]  # Unix ns


@dataclass(frozen=True)
class Figures:
    """What a drill has seen. Where anything was lost, stored twice or not told of, it has failed instead."""

    kills: dict[str, int]  # by role
    duration_s: float  # from the first to the last kill, and until all were home
    sent: int
    stored: int  # the rest was under way to a worker when that was killed
    gaps: int  # on record
    gap_instrument_s: float  # instrument-seconds of these
    uncovered_instrument_s: float  # in which no socket of the server had an instrument
    longest_uncovered_s: float  # of one instrument
    overlap_s: float  # for which an instrument was on two connections at most
    hung: int  # processes that the supervisor has killed because they were silent
    overstated_instrument_s: float = 0.0  # on record, though recorded, or not subscribed at all
    faults: dict[str, int] = field(default_factory=dict)  # what else was done, by kind


# The drills.


def takeovers(kite: Kite, service: Service, homes: Iterable[int], *, frame: int = 5) -> Figures:
    """Kill the workers of these connections one after the other, at 5,000 ticks/s each.

    Each kill is one gap, exact to the frame, the spare has the same subscriptions and modes, and all come home.
    """
    begin(kite, service, 10_000, frame)
    killed: list[int] = []
    began_s = time.monotonic()
    for home in homes:
        until_on_disk(service, home, size(service))
        offset = size(service)
        service.send(f"worker-{home}", signal.SIGKILL)
        until_on_disk(service, 3, offset)
        killed.append(home)
        wait_until_home(kite, service)
    duration_s = time.monotonic() - began_s
    uncovered = kite.tell("report")["uncovered"]
    recording = end(kite, service, cut=len(killed))

    assert sorted(uncovered) == sorted(token for home in killed for token in HOMES[home]), "uncovered at other times"
    moved = [socket.modes for socket in recording.of(3)]
    assert moved == [HOMES[home] for home in killed], f"what the spare has taken over: {moved}"
    times = len(done(service, "failover")), len(done(service, "failback"))
    assert times == (len(killed), len(killed)), f"failovers and failbacks: {times}"
    assert_gaps_are_exact(service, recording, killed)
    kills = Counter(f"worker-{home}" for home in killed)
    return figures(kite, service, recording, kills=kills, duration_s=duration_s)


def random_kills(
    kite: Kite, service: Service, victims: Iterable[str], *, chance: random.Random, rate: int, pause_s: float
) -> Figures:
    """Kill these roles one after the other, at random moments at most `pause_s` after each is back.

    Nobody waits for the others to be back. A supervisor is followed by a new `mds run`, which adopts all.
    """
    begin(kite, service, rate, frame=10)
    kills: Counter[str] = Counter()
    began_s = time.monotonic()
    for role in victims:
        until_running(service, role)
        pause_at_random(chance, pause_s)
        service.kill(role)
        if role == "supervisor":
            pause_at_random(chance, pause_s)
            follow_supervisor(service)
        kills[role] += 1
    service.wait_until_settled()
    wait_until_home(kite, service)
    duration_s = time.monotonic() - began_s
    running = service.processes()
    assert len(running) == 1 + len(CHILDREN), f"not one process for each role: {running}"
    recording = end(kite, service, cut=sum(kills[role] for role in WORKERS))
    causes = {gap["cause"] for gap in service.events("gap")}
    assert causes <= {"killed"}, f"other causes of gaps: {causes}"
    left = list(service.spool_dir.iterdir())
    assert left == [], f"left in the spool: {left}"
    return figures(kite, service, recording, kills=kills, duration_s=duration_s)


def shuffled(chance: random.Random, *, writer: int, workers: int, supervisor: int) -> list[str]:
    """Return so many victims of each kind in random order."""
    victims = ["writer"] * writer + ["supervisor"] * supervisor
    victims += chance.choices(list(WORKERS), list(WORKERS.values()), k=workers)
    chance.shuffle(victims)
    return victims


def begin(kite: Kite, service: Service, rate: int, frame: int) -> None:
    """Start the service under so many ticks a second in all."""
    kite.load(rate, frame=frame)
    service.start()
    service.wait_until_settled()


def until_running(service: Service, role: str) -> None:
    """Wait until a role is back."""
    service.wait_for(lambda s: s["processes"][role]["state"] == "running", f"{role} is back")


def follow_supervisor(service: Service) -> None:
    """Start `mds run` where the last one was killed: it must adopt what is running, and replace nothing."""
    running = {role: pid for role in CHILDREN if (pid := service.pid(role))}
    service.start()
    service.wait_for(
        lambda s: all(s["processes"][role]["pid"] == pid for role, pid in running.items()), f"{running} are adopted"
    )


def pause_at_random(chance: random.Random, at_most_s: float) -> None:
    """Let a random time pass, mostly a short one: the moment of a kill is the point here."""
    time.sleep(at_most_s * chance.random() ** 2)


# What is stored.


@dataclass
class Socket:
    """What is stored of what one socket of the server was sent."""

    connection_id: int
    first: str  # timestamp
    last: str = ""
    ids: "array[int]" = field(default_factory=lambda: array("I"))
    modes: dict[int, str] = field(default_factory=dict)  # in the end, by instrument


class Recording:
    """What a service has stored, by sockets of the server, oldest first; `sent` is how much these were sent."""

    def __init__(self, service: Service, sent: int) -> None:
        self.sent = sent
        self.sockets: dict[int, Socket] = {}
        self.parts: set[int] = set()  # sockets of which not all is stored that they were sent
        self.holes: dict[int, list[Span]] = {}  # in which an instrument was not recorded, by token
        self.last: dict[Stream, str] = {}  # timestamp of the last tick
        counts: Counter[Stream] = Counter()
        for tick in stored_ticks(service):
            stream = (tick["connection_id"], tick["epoch"])
            counts[stream] += 1
            assert tick["seq"] == counts[stream], f"seq {tick['seq']} of {stream} where {counts[stream]} is due"
            self.last[stream] = tick["timestamp"]
            self._add(tick)
        self.sockets = dict(sorted(self.sockets.items()))
        self.last = dict(sorted(self.last.items()))

    def _add(self, tick: dict[str, Any]) -> None:
        identity = id_of(tick)
        number = identity >> SOCKET_BITS
        socket = self.sockets.get(number)
        if socket is None:
            socket = self.sockets[number] = Socket(tick["connection_id"], tick["timestamp"])
        socket.last = tick["timestamp"]
        socket.ids.append(identity)
        socket.modes[tick["instrument_token"]] = tick["mode"]

    @property
    def stored(self) -> int:
        """How many ticks."""
        return sum(len(socket.ids) for socket in self.sockets.values())

    def of(self, connection_id: int) -> list[Socket]:
        """Return what came through one connection."""
        return [socket for socket in self.sockets.values() if socket.connection_id == connection_id]


def stored_ticks(service: Service) -> Iterator[dict[str, Any]]:
    """Yield all stored ticks in the order of the files."""
    for path in sorted(service.data_dir.glob("market_data_*.jsonl")):
        with path.open("rb") as file:
            yield from map(orjson.loads, file)


def figures(
    kite: Kite,
    service: Service,
    recording: Recording,
    *,
    kills: Mapping[str, int],
    duration_s: float,
    faults: Mapping[str, int] | None = None,
) -> Figures:
    """Return what there is to tell of a drill that has ended."""
    gaps = json.loads(service.mds("gaps", "--json").stdout)["totals"]
    holes_s = [(to - since) / 1e9 for holes in recording.holes.values() for since, to in holes]
    overstated = (without(told, recording.holes.get(token, [])) for token, told in gaps_by_token(service).items())
    return Figures(
        kills=dict(sorted(kills.items())),
        duration_s=duration_s,
        sent=recording.sent,
        stored=recording.stored,
        gaps=gaps["gaps"],
        gap_instrument_s=gaps["instrument_seconds"],
        uncovered_instrument_s=sum(holes_s),
        longest_uncovered_s=max(holes_s, default=0.0),
        overlap_s=longest_overlap_s(kite),
        hung=len(service.events("process_hung")),
        overstated_instrument_s=sum((to - since) / 1e9 for spans in overstated for since, to in spans),
        faults=dict(faults or {}),
    )


# What must hold at the end of each drill.


def end(kite: Kite, service: Service, *, cut: int = 0, wanted: Mapping[int, Sequence[Span]] | None = None) -> Recording:
    """End the service: what the sockets were sent is stored, whole but for `cut` of them, and no gap is silent.

    `wanted` tells when which instruments were subscribed; without, all were all the time.
    """
    kite.tell("pause")
    code = service.stop()
    assert code == 0, f"mds run has ended with {code}: {service.output()}"
    numbers = [connection["number"] for connection in kite.connections()]
    recording = Recording(service, kite.sent())
    recording.parts = {number for number in numbers if not is_whole(kite, number, recording.sockets.get(number))}
    assert len(recording.parts) <= cut, f"sockets {recording.parts} are stored in part, only {cut} were cut"
    assert set(recording.sockets) <= set(numbers), "there are ticks of sockets that never were"
    service.assert_verified()
    spans = spans_by_token(kite, recording)
    if wanted is None:
        recording.holes = {token: between(some) for token, some in spans.items()}
    else:
        recording.holes = {token: without(some, spans.get(token, [])) for token, some in wanted.items()}
    assert_no_gap_is_silent(service, recording.holes)
    return recording


def is_whole(kite: Kite, number: int, socket: Socket | None) -> bool:
    """Check that the beginning of what a socket was sent is stored, in order; tell whether it is all."""
    stored = socket.ids if socket else array("I")
    sent = array("I", kite.ids(number))
    if stored != sent[: len(stored)]:
        wrong = next((n for n, (a, b) in enumerate(zip(stored, sent, strict=False)) if a != b), len(sent))
        around = slice(max(wrong - 2, 0), wrong + 3)
        raise AssertionError(
            f"socket {number}: of its {len(sent)} ticks {len(stored)} are stored, and from the {wrong + 1}th on not"
            f" the same: stored {stored[around].tolist()}, sent {sent[around].tolist()}"
        )
    return len(stored) == len(sent)


def assert_gaps_are_exact(service: Service, recording: Recording, killed: Sequence[int]) -> None:
    """Check that each kill of a worker is one gap, from its last tick to the first one of the spare."""
    spare = [socket.first for socket in recording.of(3)]
    gaps = service.events("gap")
    assert len(gaps) == len(killed), f"{len(gaps)} gaps for {len(killed)} kills"
    for home in set(killed):
        died = [last for (connection_id, _), last in recording.last.items() if connection_id == home][:-1]
        found = [
            (gap["from"], gap["to"], gap["cause"], gap["instruments"]) for gap in gaps if gap["connection_id"] == home
        ]
        due = [(last, min(t for t in spare if t > last), "killed", sorted(HOMES[home])) for last in died]
        assert len(found) == len(due) == killed.count(home), f"connection {home}: {len(found)} gaps, {len(due)} ends"
        wrong = [pair for pair in zip(found, due, strict=True) if pair[0] != pair[1]]
        assert not wrong, f"{len(wrong)} gaps of connection {home} are not exact; on record, and due: {wrong[0]}"


def assert_no_gap_is_silent(service: Service, holes: Mapping[int, Sequence[Span]]) -> None:
    """Check that gap records say of each instrument whenever it was not recorded."""
    told = gaps_by_token(service)
    silent = {
        token: [hole for hole in some if not is_within(hole, told.get(token, []))] for token, some in holes.items()
    }
    silent = {token: some for token, some in silent.items() if some}
    shown = [(token, hole, around(hole, told.get(token, []))) for token, some in silent.items() for hole in some][:3]
    assert not silent, f"{len(silent)} instruments have gaps without a record: token, gap, records around it: {shown}"


def gaps_by_token(service: Service) -> dict[int, list[Span]]:
    """Return what is on record of each instrument."""
    gaps: dict[int, list[Span]] = defaultdict(list)
    for gap in service.events("gap"):
        assert gap["from"], f"nobody knows when this gap began: {gap}"
        for token in gap["instruments"]:
            gaps[token].append((ns(gap["from"]), ns(gap["to"])))
    return {token: joined(some) for token, some in gaps.items()}


def around(hole: Span, spans: Iterable[Span]) -> list[Span]:
    """Return those of these spans that are near, for a message."""
    near_ns = 2 * 10**9
    return [(since, to_ns) for since, to_ns in spans if since - near_ns < hole[1] and hole[0] < to_ns + near_ns]


def spans_by_token(kite: Kite, recording: Recording | None = None) -> dict[int, list[Span]]:
    """Return from when until when each instrument was on a connection, of all connections.

    With a recording: was recorded. What was still under way when a socket closed counts if it is stored; of a socket
    that was cut, nothing counts behind the last tick that is.
    """
    now = time.time_ns()
    spans: dict[int, list[Span]] = defaultdict(list)
    for connection in kite.tell("spans")["connections"]:
        number, ended_ns = connection["number"], connection["ended_ns"]
        socket = recording.sockets.get(number) if recording else None
        heard_ns = ns(socket.last) if socket else 0
        for token, since, until_ns in connection["spans"]:
            to_ns = until_ns or now
            if recording and number in recording.parts:
                to_ns = min(to_ns, heard_ns)
            elif until_ns == ended_ns:
                to_ns = max(to_ns, heard_ns)
            is_asked_in_vain = ended_ns is not None and since >= ended_ns  # it is mute
            if since < to_ns and not is_asked_in_vain:
                spans[token].append((since, to_ns))
    return spans


def joined(spans: Iterable[Span]) -> list[Span]:
    """Return these spans with those that overlap as one."""
    found: list[Span] = []
    for since, until_ns in sorted(spans):
        if found and since <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], until_ns))
        else:
            found.append((since, until_ns))
    return found


def between(spans: Iterable[Span]) -> list[Span]:
    """Return what no span covers between the first and the last."""
    return [(before[1], after[0]) for before, after in pairwise(joined(spans))]


def without(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """Return what is left of these where the others are not."""
    left = joined(spans)
    for since, to_ns in joined(others):
        left = [
            part
            for before in left
            for part in ((before[0], min(before[1], since)), (max(before[0], to_ns), before[1]))
            if part[0] < part[1]
        ]
    return left


def is_within(hole: Span, spans: Iterable[Span]) -> bool:
    """Tell whether one of these covers all of it."""
    return any(since <= hole[0] and hole[1] <= until_ns for since, until_ns in spans)


def longest_overlap_s(kite: Kite) -> float:
    """Return for how long an instrument was on two connections at most."""
    overlaps = [
        min(one[1], other[1]) - other[0]
        for spans in spans_by_token(kite).values()
        for one, other in pairwise(sorted(spans))
    ]
    return max(overlaps, default=0) / 1e9


def ns(timestamp: str) -> int:
    """Return a timestamp as Unix ns, exact to the microsecond."""
    moment = datetime.fromisoformat(timestamp)
    return round(moment.timestamp()) * 10**9 + (moment.microsecond - (moment.microsecond >= 500_000) * 10**6) * 1000


# What is waited for.


def is_home(status: Status) -> bool:
    """Tell whether connections 1 and 2 have their instruments, and the spare stands by."""
    found = status["connections"]
    return found["3"]["state"] == "standby" and all(
        c["state"] == "live" and c["confirmed_instruments"] == c["subscribed_instruments"] > 0
        for c in (found["1"], found["2"])
    )


def wait_until_home(kite: Kite, service: Service) -> None:
    """Wait until that is so, and until the server agrees."""
    service.wait_for(is_home, "all are back, the spare stands by")
    kite.until_on_the_wire(*HOMES.values())


def done(service: Service, action: str) -> list[str]:
    """Return the reasons of what was done without being asked for."""
    return [e["reason"] for e in service.events("request", action=action, by="failover", result="done")]


def size(service: Service) -> int:
    """Return how long the file of the day is, once there is one."""
    until(lambda: any(service.data_dir.glob("market_data_*.jsonl")), "there is a tick file")
    bytes_: int = max(service.data_dir.glob("market_data_*.jsonl")).stat().st_size
    return bytes_


def until_on_disk(service: Service, connection_id: int, offset: int) -> None:
    """Wait until a tick of this connection stands in the file of the day behind an offset."""
    tick = f'"connection_id":{connection_id},'.encode()
    with max(service.data_dir.glob("market_data_*.jsonl")).open("rb") as file:
        file.seek(offset)
        until(lambda: tick in file.read(), f"a tick of connection {connection_id} is on disk")
