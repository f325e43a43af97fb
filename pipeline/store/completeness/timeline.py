"""What the event log tells of the recording, as times: of the service, of each connection, of its instruments. Pure.

A connection has an instrument from its `subscribed` or `resubscribed` event on, until it drops it, closes, is lost or
its process ends. Gap records say more exactly since when nothing came: whoever wants to know what was received takes
them off. What is lost and has no gap record yet, because it is not over or nobody was left to write one, is an open
gap, with `until` None.

Times are microseconds since the Unix epoch.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pipeline.config import CONNECTIONS
from pipeline.store.completeness.entries import Entry, Tokens, microseconds
from pipeline.store.completeness.spans import Span, merged

FOREVER = 2**62
DOUBT_US = 10_000_000  # a socket is found silent after 6 s, a process hung after 2 s: so old may be what looks alive

State: TypeAlias = Literal["live", "failover", "mirror", "down", "idle"]


@dataclass(frozen=True)
class Spell:
    """A connection had these instruments all the time."""

    connection_id: int
    begin: int
    end: int
    tokens: Tokens

    @property
    def span(self) -> Span:
        """From when to when."""
        return self.begin, self.end


@dataclass(frozen=True)
class Gap:
    """A connection did not receive these instruments; without tokens nobody knows which."""

    connection_id: int
    cause: str
    since: int | None  # None: nobody knows
    until: int | None  # None: it has no record yet
    tokens: Tokens

    @property
    def span(self) -> Span:
        """From when to when at most; never empty, since one that is recorded has lost something."""
        begin = -FOREVER if self.since is None else self.since
        return begin, max(begin + 1, FOREVER if self.until is None else self.until)


@dataclass(frozen=True)
class Interval:
    """What a connection did; `cause` is why it was down, or what it carried."""

    connection_id: int
    state: State
    begin: int
    end: int
    cause: str = ""


@dataclass
class Move:
    """A failover or mirror, until it was taken back."""

    action: Literal["failover", "mirror"]
    begin: int
    end: int
    targets: tuple[int, ...]  # the connections that took the instruments
    tokens: Tokens
    reason: str


@dataclass
class Timeline:
    """All of it, each list in order of time."""

    running: list[Span] = field(default_factory=list)  # from the start of the service to its orderly end
    spells: list[Spell] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    states: dict[int, list[Interval]] = field(default_factory=dict)  # of connections, as it seemed at the time
    failures: dict[int, list[int]] = field(default_factory=dict)  # when a connection was lost or not had
    requested: dict[int, int] = field(default_factory=dict)  # instruments, and when they were first asked for
    starts: list[int] = field(default_factory=list)  # of services that have found no worker running
    signs: list[int] = field(default_factory=list)  # of life: the times of all events
    until: int = 0  # what came later is not known


def follow(entries: Iterable[Entry], now: int | None = None) -> Timeline:
    """Return what these events tell. `now` is when they were read if the recorder runs, else None."""
    known = sorted(entries, key=lambda entry: entry.timestamp)
    timeline = Timeline(signs=[entry.at for entry in known])
    timeline.until = max([*timeline.signs[-1:], *([now] if now else [])], default=0)
    service = _Service(timeline)
    connections = {number: _Connection(number, timeline) for number in CONNECTIONS}
    for before, entry in zip([None, *known], known, strict=False):
        if entry.event == "service_started" and before is not None:
            for connection in connections.values():
                connection.silent_since = before.at
        if entry.connection_id in connections:
            connections[entry.connection_id].hear(entry)
        else:
            service.hear(entry)
            if entry.event == "process_died" and entry.process.startswith("worker-"):
                number = int(entry.process.removeprefix("worker-")) if entry.process[7:].isdecimal() else 0
                if number in connections:
                    connections[number].died(entry.at)
    service.end()
    for connection in connections.values():
        connection.end(timeline.until)
    _add_never_had(timeline, service)
    timeline.spells.sort(key=lambda spell: spell.span)
    timeline.gaps.sort(key=lambda gap: gap.span)
    return timeline


class _Service:
    """Follows the supervisor."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.asked: dict[int, int] = {}  # instruments that are wanted since
        self._since: int | None = None
        self._heard = False
        self._starting: int | None = None

    @property
    def is_running(self) -> bool:
        """Whether it has not ended in order."""
        return self._since is not None

    def hear(self, entry: Entry) -> None:
        """Take an event."""
        if entry.source != "supervisor":
            return
        first = self.timeline.signs[0]
        if not self._heard and (entry.event != "service_started" or first < entry.at):
            self._since = first  # the log begins while it runs
        self._heard = True
        if entry.event == "service_started":
            self._starting = entry.at
            self.timeline.starts.append(entry.at)
            if self._since is None:
                self._since = entry.at
        elif entry.event == "process_started" and entry.adopted and entry.process.startswith("worker-"):
            if self._starting in self.timeline.starts:
                self.timeline.starts.remove(self._starting)
        elif entry.event == "service_stopped":
            self._stopped(entry.at)
        elif entry.event == "request" and entry.result == "done":
            self._request(entry)

    def _stopped(self, at: int) -> None:
        if self._since is not None:
            self.timeline.running.append((self._since, at))
        self._since = None
        self.asked.clear()
        for move in self.timeline.moves:
            move.end = min(move.end, at)

    def _request(self, entry: Entry) -> None:
        tokens = entry.tokens
        if entry.action in ("subscribe", "set_mode"):
            for token in tokens:
                self.asked.setdefault(token, entry.at)
                self.timeline.requested.setdefault(token, entry.at)
        elif entry.action == "unsubscribe":
            for token in tokens:
                self.asked.pop(token, None)
        elif entry.action in ("failover", "mirror"):
            targets = tuple(int(number) for number in entry.connections if number.isdecimal())
            action: Literal["failover", "mirror"] = "failover" if entry.action == "failover" else "mirror"
            reason = entry.reason or f"asked by {entry.by}"
            self.timeline.moves.append(Move(action, entry.at, FOREVER, targets, tokens, reason))
        elif entry.action in ("failback", "unmirror"):
            action = "failover" if entry.action == "failback" else "mirror"
            for move in self.timeline.moves:
                if move.action == action and move.end == FOREVER and not set(tokens).isdisjoint(move.tokens):
                    move.end = entry.at

    def end(self) -> None:
        """Close what is open at the end of the log."""
        if self._since is not None:
            self.timeline.running.append((self._since, FOREVER))
        elif not self._heard and self.timeline.signs:  # no word of a supervisor: it may have been there all the time
            self.timeline.running.append((self.timeline.signs[0], FOREVER))
        self.timeline.running = merged(self.timeline.running)
        for move in self.timeline.moves:
            move.end = min(move.end, self.timeline.until)


class _Connection:
    """Follows one connection: what it has, since when, and what it has lost and no gap record tells of."""

    def __init__(self, number: int, timeline: Timeline) -> None:
        self._number = number
        self._timeline = timeline
        self._had: dict[int, int] = {}  # instruments, and since when
        self._lost: dict[int, tuple[int, str]] = {}  # instruments, since when and why
        self._before: Tokens = array("I")  # what it had when it was stopped
        self.silent_since: int | None = None  # the last sign of the service before this one
        self._state: State | None = None
        self._cause = ""
        self._since = 0
        self._states = timeline.states.setdefault(number, [])
        self.failures = timeline.failures.setdefault(number, [])

    def hear(self, entry: Entry) -> None:
        """Take an event of it."""
        at = entry.at
        match entry.event:
            case "subscribed":
                self._close(at, set(self._had) - set(entry.tokens))
                self._open(at, entry.tokens)
            case "resubscribed":
                self._close(at, entry.dropped)
                self._open(at, entry.tokens)
                if not self._had:
                    self._turn("idle", at)
            case "idle":
                self._end_spells(at, "idle")
            case "stopped":
                self._before = array("I", self._had or self._lost)
                self._end_spells(at, None)
            case "disconnected" | "not_connected":
                self._lose(at, entry.cause or entry.event)
            case "epoch":
                if self._state in ("live", "down"):
                    self._lose(at if self.silent_since is None else self.silent_since, "killed")
                else:
                    self._turn("idle", at)
                self.silent_since = None
            case "gap":
                self._gap(entry)

    def died(self, at: int) -> None:
        """Its process has ended, not in order."""
        if self._state in (None, "idle"):
            self._end_spells(at, None)
        else:
            self._lose(at, "killed")

    def end(self, at: int) -> None:
        """Close what is open at the end of the log: what seems to be alive is certain only until a moment ago."""
        if self._state == "down":
            for since, cause in sorted(set(self._lost.values())):
                tokens = array("I", (token for token, known in self._lost.items() if known == (since, cause)))
                self._timeline.gaps.append(Gap(self._number, cause, since - DOUBT_US, None, tokens))
        self._close(at - DOUBT_US, list(self._had))
        self._turn(None, at)

    def _open(self, at: int, tokens: Iterable[int]) -> None:
        for token in tokens:
            self._had.setdefault(token, at)
        self._lost.clear()
        self._before = array("I")
        if self._had:
            self._turn("live", at)

    def _close(self, at: int, tokens: Iterable[int]) -> None:
        by_begin: dict[int, Tokens] = {}
        for token in tokens:
            begin = self._had.pop(token, None)
            if begin is not None:
                by_begin.setdefault(begin, array("I")).append(token)
        for begin, found in by_begin.items():
            self._timeline.spells.append(Spell(self._number, begin, max(begin, at), found))

    def _end_spells(self, at: int, state: State | None) -> None:
        self._close(at, list(self._had))
        self._lost.clear()
        self._turn(state, at)

    def _lose(self, at: int, cause: str) -> None:
        self.failures.append(at)
        if self._state != "down":
            self._lost.update(dict.fromkeys(self._before, (at, cause)))
        self._lost.update({token: (at, cause) for token in self._had if token not in self._lost})
        self._close(at, list(self._had))
        if self._state != "down":
            self._turn("down", at, cause)

    def _gap(self, entry: Entry) -> None:
        tokens = entry.tokens
        since = microseconds(entry.since) if entry.since else None
        until = microseconds(entry.until) if entry.until else entry.at
        self._timeline.gaps.append(Gap(self._number, entry.cause or "unknown", since, until, tokens))
        for token in tokens or list(self._lost):
            self._lost.pop(token, None)

    def _turn(self, state: State | None, at: int, cause: str = "") -> None:
        if state == self._state:
            return
        if self._state is not None and self._since < at:
            self._states.append(Interval(self._number, self._state, self._since, at, self._cause))
        self._state, self._since, self._cause = state, at, cause


def _add_never_had(timeline: Timeline, service: _Service) -> None:
    """Add open gaps for what was asked for, and no connection has had."""
    if not service.is_running:
        return
    had = (spell.tokens for spell in timeline.spells)
    known = set[int]().union(*had, *(gap.tokens for gap in timeline.gaps))
    by_time: dict[int, Tokens] = {}
    for token, at in service.asked.items():
        if token not in known:
            by_time.setdefault(at, array("I")).append(token)
    timeline.gaps += [Gap(0, "not subscribed", at, None, tokens) for at, tokens in by_time.items()]
