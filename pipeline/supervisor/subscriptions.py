"""Who is subscribed where. Pure.

Each instrument has a home: connection 1, the primary, for ltp and quote mode, connection 2, the secondary, for full
mode, unless the request says otherwise. With fewer connections to use, the primary is home to all. Usually the home
also records it; of a connection that has failed over, the spare does (connection 3), and others with free room.

Make before break: an instrument that moves stays where it was until its new place covers it. `wanted` is what a
connection should have on the wire, such leftovers included; `of` is what it has to do for good. While it all rests
nothing is wanted, and nothing else is different.

A request is carried out as a whole, or refused as a whole with one of `errors.RequestRefusedError`.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Literal, NamedTuple

from pipeline.config import CONNECTIONS, MAX_INSTRUMENTS, Mode, Overflow
from pipeline.errors import AlreadySubscribedError, CapacityError, NotSubscribedError, RequestRefusedError
from pipeline.instruments.roll import Identity
from pipeline.supervisor.carriers import assign

PRIMARY, SECONDARY, TERTIARY = 1, 2, 3

ROLES: dict[int, Literal["primary", "secondary", "tertiary"]] = {1: "primary", 2: "secondary", 3: "tertiary"}
MODES: dict[int, Mode] = {PRIMARY: "quote", SECONDARY: "full", TERTIARY: "quote"}
SHOWN_TOKENS = 10  # in the words of a refusal

Instruments = dict[int, Mode]
Wanted = Sequence[tuple[int, Mode]]  # may name a token twice: the first counts
Tick = tuple[int, int, float, str]  # of a digest: token, count, last price, receive time


@dataclass(slots=True)
class Subscription:
    """One instrument.

    What has ticked is since it was subscribed, and zero or None before the first tick.
    """

    connection_id: int  # its home
    mode: Mode
    subscribed_at: str
    identity: Identity | None = None  # None: no list of instruments has the token
    tick_count: int = 0
    last_price: float | None = None
    last_tick_time: str | None = None


class Refusal(NamedTuple):
    """A token that was not subscribed, and why."""

    token: int
    reason: str


@dataclass(frozen=True)
class Changed:
    """What a request has changed; the names are those of `requests.Change`."""

    instruments: list[int]
    connections: dict[str, int] = field(default_factory=dict)
    mode: Mode | None = None
    repeats: list[int] = field(default_factory=list)
    unchanged: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)


def connection_for(mode: Mode, max_connections: int) -> int:
    """Return the connection that instruments of this mode belong to, with so many to use."""
    return SECONDARY if mode == "full" and max_connections >= SECONDARY else PRIMARY


def modes(wanted: Wanted) -> Instruments:
    """Return what is wanted by token."""
    found: Instruments = {}
    for token, mode in wanted:
        found.setdefault(token, mode)
    return found


class Subscriptions:
    """Instruments by connection. `max_connections` and `overflow` are the settings of these names."""

    def __init__(self, max_connections: int, overflow: Overflow = "refuse") -> None:
        self.all: dict[int, Subscription] = {}
        self.who_is: Callable[[int], Identity | None] = lambda _: None  # asked of each token that is new
        self.mirroring = False
        self.resting = False  # the clock has all connections closed
        self.never_ticked: dict[int, None] = {}  # of all, in their order
        self.failed_over: set[int] = set()  # homes that others record for
        self.by_hand: set[int] = set()  # of these, until somebody asks for the failback
        self.unfit: set[int] = set()  # connections that cannot record at present, as far as anybody knows
        self.waiting: set[int] = set()  # homes that have failed over, and not all has found a place with others
        self.leaving: dict[int, Instruments] = {c: {} for c in CONNECTIONS}  # kept until the new place covers them
        self._recalled: set[int] = set()  # leaving as an earlier run has saved it: perhaps it had let go since
        self._max_connections = max_connections
        self._overflow = overflow
        self._homes: dict[int, Instruments] = {c: {} for c in CONNECTIONS}
        self._segments: dict[int, Counter[int]] = {c: Counter() for c in CONNECTIONS}  # of these
        self._on_wire: dict[int, Instruments] = {c: {} for c in CONNECTIONS}  # what was wanted at last
        self._carried: dict[int, Instruments] = {c: {} for c in CONNECTIONS}  # for homes that have failed over
        self._carriers: dict[int, int] = {}  # token -> connection, of those
        self._carriers_of: dict[int, set[int]] = {}  # the same by home
        self._by_symbol: dict[str, int] | None = None  # made when it is asked for
        self._evicted: set[int] = set()  # had a place that others need more, and their home is unfit

    # Questions.

    def connection_for(self, mode: Mode) -> int:
        """Return the connection that instruments of this mode belong to."""
        return connection_for(mode, self._max_connections)

    @property
    def homes(self) -> set[int]:
        """The connections that are home to instruments."""
        return {c for c, instruments in self._homes.items() if instruments}

    @property
    def carriers(self) -> Mapping[int, int]:
        """The connections that record for homes that have failed over, by token."""
        return self._carriers

    def carriers_of(self, home: int) -> Collection[int]:
        """Return the connections that record for a home that has failed over."""
        return self._carriers_of.get(home, ())

    def waiting_of(self, home: int) -> list[int]:
        """Return the instruments of a home that has failed over for which nobody else has room."""
        return [token for token in self._homes[home] if token not in self._carriers] if home in self.waiting else []

    def in_order(self) -> Iterator[tuple[int, Subscription]]:
        """Yield all instruments, home by home, as they came there."""
        return ((token, self.all[token]) for instruments in self._homes.values() for token in instruments)

    def carrier(self, token: int) -> int | None:
        """Return the connection that has to record this instrument."""
        known = self.all.get(token)
        return self._carriers.get(token, known.connection_id) if known else None

    def is_mirrored(self, token: int) -> bool:
        """Tell whether connection 3 records this instrument as well."""
        is_copied = self.mirroring and token in self._homes[PRIMARY] and self.carrier(token) != TERTIARY
        return is_copied and token in self._on_wire[TERTIARY]

    def holders(self, token: int) -> set[int | None]:
        """Return the connections that have this instrument on the wire as soon as they can."""
        return {
            self.carrier(token),
            *({TERTIARY} if self.is_mirrored(token) else ()),
            *(c for c, leaving in self.leaving.items() if token in leaving),
        }

    def uncovered(self, live: Collection[int]) -> dict[int, int]:
        """Return how many instruments of each other connection none of the `live` ones is among the `holders` of."""
        counts = {}
        for connection_id in CONNECTIONS if not self.resting else ():
            if connection_id not in live:
                tokens = set(self.of(connection_id))
                for other in live:
                    tokens.difference_update(self.leaving[other])
                    if self.mirroring and connection_id == TERTIARY:  # it has copies of what the other records
                        tokens.difference_update(self.of(other))
                    elif self.mirroring and other == TERTIARY:
                        tokens -= self._on_wire[TERTIARY].keys() & self._homes[PRIMARY].keys()
                counts[connection_id] = len(tokens)
        return {c: count for c, count in counts.items() if count}

    def of(self, connection_id: int) -> Instruments:
        """Return what this connection has to record."""
        return dict(islice(self._assigned(connection_id), MAX_INSTRUMENTS))

    def number_of(self, connection_id: int) -> int:
        """Return how many `of` has; it is asked many times a second."""
        if self._has_only_its_own(connection_id):
            return min(len(self._homes[connection_id]), MAX_INSTRUMENTS)
        return len(self.of(connection_id))

    @property
    def segments(self) -> set[int]:
        """The segments of all instruments; it is asked many times a second."""
        return set().union(*self._segments.values())

    def segments_of(self, connection_id: int) -> Collection[int]:
        """Return the segments of what this connection has to record; it is asked many times a second."""
        if self._has_only_its_own(connection_id):
            return self._segments[connection_id].keys()
        return {segment(token) for token in self.of(connection_id)}

    def wanted(self, connection_id: int) -> Instruments:
        """Return what this connection should have on the wire now, never more than Kite's limit.

        Where something has to leave first, what was wanted before comes before what is new, and copies come last.
        """
        leaving, assigned = self.leaving[connection_id], self.of(connection_id)
        wanted = leaving | assigned if not self.resting else {}
        if len(wanted) > MAX_INSTRUMENTS:
            before = self._on_wire[connection_id]
            own = self._homes[connection_id].keys() | self._carried[connection_id].keys()
            arriving = [token for token in assigned if token not in leaving]
            order = chain(leaving, sorted(arriving, key=lambda token: (token not in own, token not in before)))
            wanted = {token: wanted[token] for token in islice(order, MAX_INSTRUMENTS)}
        self._on_wire[connection_id] = wanted
        return wanted

    def held_back(self, connection_id: int) -> set[int]:
        """Return what is assigned to this connection and finds room only when something has left it."""
        if not self.leaving[connection_id]:
            return set()
        return self.of(connection_id).keys() - self.wanted(connection_id).keys()

    def held_for(self, connection_id: int) -> set[int]:
        """Return what others keep until this connection covers it."""
        leaving = set().union(*(leaving for c, leaving in self.leaving.items() if c != connection_id))
        return {token for token in leaving if self.carrier(token) == connection_id}

    def available(self, connection_id: int) -> int:
        """Return how many more instruments this connection takes, beside what it records for others."""
        if not self._is_usable(connection_id) or (connection_id == TERTIARY and self.mirroring):
            return 0
        used = len(self._homes[connection_id]) + len(self._carried[connection_id])
        return max(MAX_INSTRUMENTS - used, 0)

    def described(self, tokens: Sequence[int]) -> Changed:
        """Return these, which have one mode, as what has just been subscribed."""
        return Changed(list(tokens), self._homes_of(tokens), self.all[tokens[0]].mode if tokens else None)

    def named(self, symbol: str) -> int | None:
        """Return the token of what is subscribed and has this symbol, whatever the case."""
        if self._by_symbol is None:
            self._by_symbol = {known.identity.symbol.upper(): t for t, known in self.all.items() if known.identity}
        return self._by_symbol.get(symbol.upper())

    # Requests.

    def subscribe(self, tokens: Iterable[int], mode: Mode, now: str, connection_id: int | None = None) -> Changed:
        """Subscribe instruments that are not subscribed yet."""
        unique, repeats = _once(tokens)
        duplicates = [token for token in unique if token in self.all]
        if duplicates:
            raise self._already(duplicates)
        places = self._new_homes(unique, mode, connection_id)
        with self._moving(unique):
            for token, place in places:
                self._put(token, Subscription(place, mode, now))
        return Changed(unique, self._homes_of(unique), mode, repeats)

    def subscribe_possible(self, tokens: Iterable[int], mode: Mode, now: str) -> tuple[Changed, list[Refusal]]:
        """Subscribe those of the instruments that are not subscribed yet and for which there is room."""
        new = [token for token in dict.fromkeys(tokens) if token not in self.all]
        target = self.connection_for(mode)
        room = sum(self.available(place) for place in (target, self._other(target)) if place)
        changed = self.subscribe(new[:room], mode, now)
        return changed, [Refusal(token, f"connection {target} is full") for token in new[room:]]

    def unsubscribe(self, tokens: Iterable[int], *, ignore_unknown: bool = False) -> Changed:
        """Unsubscribe instruments."""
        unique, repeats = _once(tokens)
        unknown = [token for token in unique if token not in self.all]
        if unknown and not ignore_unknown:
            raise self._not_subscribed(
                unknown, "leave them out, or pass over them with: mds unsubscribe --ignore-unknown"
            )
        known = [token for token in unique if token in self.all]
        connections = self._homes_of(known)
        with self._moving(known):
            for token in known:
                self._remove(token)
        return Changed(known, connections, repeats=repeats, unknown=unknown)

    def unsubscribe_all(self) -> Changed:
        """Unsubscribe everything."""
        return self.unsubscribe(list(self.all))

    def set_mode(self, tokens: Iterable[int], mode: Mode, now: str, *, subscribe_unknown: bool = False) -> Changed:
        """Give instruments a mode, with the connection for it as their home.

        With `overflow` "spill", what finds no room there keeps its home.
        """
        unique, repeats = _once(tokens)
        unknown = [token for token in unique if token not in self.all]
        if unknown and not subscribe_unknown:
            raise self._not_subscribed(unknown, f"leave them out, or subscribe them with: mds subscribe --mode {mode}")
        target = self.connection_for(mode)
        arriving = [t for t in unique if t in self.all and self.all[t].connection_id != target]
        room = self.available(target) - len(unknown)
        if len(arriving) > room and self._overflow == "refuse":
            raise self._no_room(target, len(arriving) + len(unknown), self.available(target))
        places = self._new_homes(unknown, mode)
        moving = set(arriving[: max(room, 0)])
        before = {token: (s.connection_id, s.mode) for token in unique if (s := self.all.get(token))}
        with self._moving(unique):
            for token, (home, _) in before.items():
                known = self.all[token]
                known.mode = mode
                if token in moving:
                    self._leave_home(token, home)
                    known.connection_id = target
                self._put(token, known)
            for token, place in places:
                self._put(token, Subscription(place, mode, now))
        changed = [t for t in unique if before.get(t) != (self.all[t].connection_id, mode)]
        unchanged = [t for t, was in before.items() if was == (self.all[t].connection_id, mode)]
        return Changed(changed, self._homes_of(changed), mode, repeats, unchanged)

    def mirror(self, on: bool) -> Changed:
        """Let connection 3 record what connection 1 is home to, as well, or end that."""
        if on and not self._is_usable(TERTIARY):
            raise self._not_in_use(TERTIARY)
        if on and self._homes[TERTIARY]:
            raise RequestRefusedError(
                f"connection 3 has {len(self._homes[TERTIARY])} instruments of its own and cannot mirror connection 1; "
                "unsubscribe them, or move them with: mds mode"
            )
        changed = list(self._homes[PRIMARY]) if on != self.mirroring else []
        self.mirroring = on
        return Changed(changed, {str(TERTIARY): len(changed)} if changed else {})

    def failover(self, connection_id: int, *, by_hand: bool = False) -> Changed:
        """Let connection 3 record what this connection is home to, and others with free room what does not fit there.

        What fits nowhere stays.
        """
        if not self._is_usable(TERTIARY):
            raise self._not_in_use(TERTIARY)
        homes = self.failed_over | {connection_id}
        if by_hand and not self._fit_places(homes):
            raise RequestRefusedError(
                f"no other connection can record for connection {connection_id} now, see: mds connections"
            )
        self.by_hand |= {connection_id} if by_hand else set()
        return self._carry_for(homes, self.unfit)

    def failback(self, connection_id: int | None = None) -> Changed:
        """Let this connection, or all, record again what it is home to."""
        homes = self.failed_over - ({connection_id} if connection_id else set(CONNECTIONS))
        return self._carry_for(homes, self.unfit)

    def avoid(self, unfit: set[int]) -> Changed:
        """Let these connections carry for others only what no other has room for."""
        return self._carry_for(self.failed_over, unfit)

    def _carry_for(self, homes: set[int], unfit: set[int]) -> Changed:
        self.by_hand &= homes
        if homes == self.failed_over == set():
            self.unfit = unfit
            return Changed([])
        before = {token: self.carrier(token) for token in self.all}
        with self._moving(before):
            self.failed_over, self.unfit = homes, unfit
        changed = [token for token, was in before.items() if self.carrier(token) != was]
        counts = Counter(map(self.carrier, changed))
        return Changed(changed, {str(c): counts[c] for c in CONNECTIONS if counts[c]})

    # What is not asked for by anybody.

    def take(self, tokens: Iterable[int], mode: Mode, now: str, connection_id: int | None = None) -> list[Refusal]:
        """Subscribe each token for which it is possible; return those for which it was not."""
        target = connection_id if connection_id and self._is_usable(connection_id) else self.connection_for(mode)
        refusals = []
        for token in dict.fromkeys(tokens):
            known = self.all.get(token)
            place = self._first_with_room(target)
            if known:
                refusals.append(Refusal(token, f"already on connection {known.connection_id} in {known.mode} mode"))
            elif place is None:
                refusals.append(Refusal(token, f"connection {target} is full"))
            else:
                self._put(token, Subscription(place, mode, now))
        return refusals

    def take_wanted(self, wanted: Wanted, now: str) -> list[Refusal]:
        """Subscribe what the configuration wants, as far as possible."""
        in_turn = dict.fromkeys(mode for _, mode in wanted)
        return [
            refusal
            for mode in in_turn
            for refusal in self.take([token for token, wished in wanted if wished == mode], mode, now)
        ]

    def identify(self, identities: Mapping[int, Identity]) -> None:
        """Take note of who these tokens are."""
        for token, identity in identities.items():
            if token in self.all:
                self.all[token].identity = identity
        self._by_symbol = None

    def resume(
        self,
        *,
        mirror: bool,
        failed_over: Iterable[int],
        by_hand: Iterable[int],
        carriers: Mapping[int, int],
        leaving: Iterable[tuple[int, int, Mode]],
        waiting: Iterable[int],
    ) -> None:
        """Go on with what an earlier run was about.

        `carriers` are connections by token, `leaving` are token, connection and mode, `waiting` were held back.
        """
        if self._is_usable(TERTIARY):
            self.mirroring = mirror and not self._homes[TERTIARY]
            self.failed_over = set(failed_over)
            self.by_hand = self.failed_over.intersection(by_hand)
        room = {place: self._room(place) for place in self._places(self.failed_over)}
        places = {}
        for token, place in carriers.items():
            known = self.all.get(token)
            if known and known.connection_id in self.failed_over and room.get(place, 0) > 0:
                places[token] = place
                room[place] -= 1
        self._set_carriers(places)
        for token, connection_id, mode in leaving:
            kept = self.leaving[connection_id]
            is_elsewhere = token in self.all and self.carrier(token) != connection_id
            if is_elsewhere and self._is_usable(connection_id) and len(kept) < MAX_INSTRUMENTS:
                kept[token] = mode
                self._recalled.add(token)
        late = set(waiting)
        for connection_id in CONNECTIONS:
            self._on_wire[connection_id] = {t: mode for t, mode in self.of(connection_id).items() if t not in late}

    def rest(self, *, on: bool) -> None:
        """Want nothing anywhere, or what there is to record again."""
        self.resting = on
        if on:  # then nobody has to wait for another place any more
            for leaving in self.leaving.values():
                leaving.clear()
            self._recalled.clear()

    def take_evicted(self) -> set[int]:
        """Return, once, what had to make room for others, and nobody records any more."""
        evicted, self._evicted = self._evicted, set()
        return evicted

    def let_go(self, is_covered: Callable[[int, int], bool]) -> dict[tuple[int, int], list[int]]:
        """Let go what has moved, as far as its new connection covers it: `is_covered(connection, token)`.

        Returns the tokens by old and new connection.
        """
        gone: dict[tuple[int, int], list[int]] = {}
        on_wire = {c: self.wanted(c) for c in CONNECTIONS} if self.failed_over else {}
        for old, leaving in self.leaving.items():
            for token in list(leaving):
                new = self.carrier(token)
                if new is not None and is_covered(new, token):
                    del leaving[token]
                    gone.setdefault((old, new), []).append(token)
        if gone and self.failed_over:
            with self._moving((), on_wire):
                pass  # there may be room now for what found none
        return gone

    def hear(self, ticks: Iterable[Tick]) -> None:
        """Take note of what has ticked, from a worker's digest."""
        for token, count, last_price, time in ticks:
            known = self.all.get(token)
            if known:  # the last ticks of one that was unsubscribed count no more
                self.never_ticked.pop(token, None)
                known.tick_count += count
                known.last_price, known.last_tick_time = last_price, time

    # How it is done.

    def _is_usable(self, connection_id: int) -> bool:
        return connection_id <= self._max_connections

    def _assigned(self, connection_id: int) -> Iterable[tuple[int, Mode]]:
        """Yield what this connection has to record, most important first."""
        homes = self._homes[connection_id]
        if connection_id in self.failed_over:
            homes = {token: mode for token, mode in homes.items() if token not in self._carriers}
        carried = self._carried[connection_id]
        mirrored: Instruments = self._homes[PRIMARY] if self.mirroring and connection_id == TERTIARY else {}
        again = ((token, mode) for token, mode in mirrored.items() if token not in carried)
        return chain(homes.items(), carried.items(), again)

    def _put(self, token: int, subscription: Subscription) -> None:
        if subscription.identity is None:
            subscription.identity = self.who_is(token)
        self._by_symbol = None
        if token not in self.all:
            self.never_ticked[token] = None
        self.all[token] = subscription
        home = self._homes[subscription.connection_id]
        if token not in home:
            self._segments[subscription.connection_id][segment(token)] += 1
        home[token] = subscription.mode

    def _leave_home(self, token: int, home: int) -> None:
        del self._homes[home][token]
        self._segments[home][segment(token)] -= 1
        self._segments[home] += Counter()  # forgets what is zero

    def _has_only_its_own(self, connection_id: int) -> bool:
        is_exchanging = connection_id in self.failed_over or bool(self._carried[connection_id])
        return not is_exchanging and not (self.mirroring and connection_id == TERTIARY)

    def _remove(self, token: int) -> None:
        self._by_symbol = None
        self._leave_home(token, self.all.pop(token).connection_id)
        self.never_ticked.pop(token, None)
        for leaving in self.leaving.values():
            leaving.pop(token, None)

    def _new_homes(self, tokens: Sequence[int], mode: Mode, connection_id: int | None = None) -> list[tuple[int, int]]:
        """Find a home for each; raises CapacityError."""
        target = connection_id or self.connection_for(mode)
        if not self._is_usable(target):
            raise self._not_in_use(target)
        if target == TERTIARY and self.mirroring:
            raise RequestRefusedError("connection 3 mirrors connection 1; end that first with: mds mirror off")
        room = self.available(target)
        other = self._other(target) if connection_id is None else None
        if len(tokens) > room + (self.available(other) if other else 0):
            raise self._no_room(target, len(tokens), room + (self.available(other) if other else 0))
        return [(token, target if n < room or other is None else other) for n, token in enumerate(tokens)]

    def _other(self, connection_id: int) -> int | None:
        """Return where instruments go for which this connection has no room."""
        if self._overflow == "refuse" or connection_id == TERTIARY or not self._is_usable(SECONDARY):
            return None
        return SECONDARY if connection_id == PRIMARY else PRIMARY

    def _first_with_room(self, connection_id: int) -> int | None:
        places = (connection_id, self._other(connection_id))
        return next((place for place in places if place and self.available(place) > 0), None)

    @contextmanager
    def _moving(self, tokens: Iterable[int], on_wire: Mapping[int, Instruments] | None = None) -> Iterator[None]:
        """Keep those of `tokens` that get a new place in their old one for now, if they are on the wire there."""
        watched = list(self.all if self.failed_over else tokens)  # others may have to make room for carried ones
        before = {token: was for token in watched if (was := self.carrier(token))}
        on_wire = on_wire or {c: self.wanted(c) for c in CONNECTIONS}  # what goes back home may move again below
        under_way = self._under_way() - self._recalled
        yield
        self._assign_carriers()
        returned = False
        for token, was in before.items():
            now = self.carrier(token)
            if now is not None and now != was:
                # What is under way is still had by another place.
                had = on_wire.get(was, {})
                if token in had and token not in under_way and token not in self._evicted:
                    self.leaving[was][token] = had[token]
                self._recalled.discard(token)
                returned |= self.leaving[now].pop(token, None) is not None
        if returned and (self.waiting or any(self._carried[place] for place in self.unfit)):
            with self._moving((), on_wire):
                pass  # what went back takes no room twice

    def _assign_carriers(self) -> None:
        """Find places for the instruments of homes that have failed over, the primary's first."""
        fit = self._fit_places(self.failed_over)
        stuck = self._take_stuck(fit)
        under_way = self._under_way()
        before = {t: c for t, c in self._carriers.items() if t not in under_way}
        before |= {token: place for place, token, _ in stuck}
        self._set_carriers({})
        found = assign(
            {home: self._homes[home] for home in sorted(self.failed_over)},
            before,
            {place: self._room(place) for place in fit},
            {place: self._room(place) for place in self._places(self.failed_over) if place in self.unfit},
            self.unfit,
        )
        self._evicted = found.evicted
        self._set_carriers(found.places)
        for place, token, mode in stuck:
            if found.places.get(token, place) != place:
                self.leaving[place][token] = mode

    def _set_carriers(self, places: dict[int, int]) -> None:
        self._carriers, self._carriers_of = places, {}
        self._carried = {c: {} for c in CONNECTIONS}
        carried: Counter[int] = Counter()
        for token, place in places.items():
            known = self.all[token]
            self._carried[place][token] = known.mode
            self._carriers_of.setdefault(known.connection_id, set()).add(place)
            carried[known.connection_id] += 1
        self.waiting = {home for home in self.failed_over if carried[home] < len(self._homes[home])}

    def _take_stuck(self, places: Collection[int]) -> list[tuple[int, int, Mode]]:
        """Take what is on its way from these places to a home that has become unfit: it stays, if it finds room there.

        Returns place, token and mode of each.
        """
        lost = self.failed_over & self.unfit
        stuck = [
            (place, token, mode)
            for place in places
            for token, mode in self.leaving[place].items()
            if self.all[token].connection_id in lost and token not in self._carriers
        ]
        for place, token, _ in stuck:
            del self.leaving[place][token]
        return stuck

    def _places(self, failed_over: Collection[int]) -> list[int]:
        """Return where the instruments of these homes may go: to the spare, and to others."""
        return [c for c in (TERTIARY, PRIMARY, SECONDARY) if self._is_usable(c) and c not in failed_over]

    def _fit_places(self, failed_over: Collection[int]) -> list[int]:
        return [c for c in self._places(failed_over) if c not in self.unfit]

    def _under_way(self) -> set[int]:
        """Return what has another place than the one that has it now."""
        return set().union(*self.leaving.values())

    def _room(self, connection_id: int) -> int:
        used = (self._homes, self._carried, self.leaving)  # who is to take over now does not wait for others to leave
        return max(MAX_INSTRUMENTS - sum(len(instruments[connection_id]) for instruments in used), 0)

    def _homes_of(self, tokens: Iterable[int]) -> dict[str, int]:
        counts = Counter(self.all[token].connection_id for token in tokens)
        return {str(c): count for c, count in sorted(counts.items())}

    # Refusals in words.

    def _already(self, tokens: Sequence[int]) -> AlreadySubscribedError:
        places = [(token, self.all[token].connection_id, self.all[token].mode) for token in tokens]
        shown = ", ".join(f"{self._called(token)} (connection {c}, {mode})" for token, c, mode in places[:SHOWN_TOKENS])
        names = ("instrument_token", "connection_id", "mode")
        return AlreadySubscribedError(
            f"already subscribed: {shown}{_more(tokens)}; nothing was changed, leave them out, or use: mds mode",
            {"duplicates": [dict(zip(names, place, strict=True)) for place in places]},
        )

    def _not_subscribed(self, tokens: Sequence[int], way_out: str) -> NotSubscribedError:
        shown = ", ".join(map(self._called, tokens[:SHOWN_TOKENS]))
        return NotSubscribedError(
            f"not subscribed: {shown}{_more(tokens)}; nothing was changed, {way_out}", {"unknown": list(tokens)}
        )

    def _called(self, token: int) -> str:
        known = self.all.get(token)
        identity = known.identity if known else self.who_is(token)
        return f"{token} {identity.symbol}" if identity else str(token)

    def _no_room(self, connection_id: int, requested: int, available: int) -> CapacityError:
        return CapacityError(
            f"connection {connection_id} has room for {available} more instruments, requested are {requested}; "
            "nothing was changed, unsubscribe some"
            + (' or set universe.overflow = "spill"' if self._overflow == "refuse" else ""),
            {"connection_id": connection_id, "requested": requested, "available": available},
        )

    def _not_in_use(self, connection_id: int) -> RequestRefusedError:
        return RequestRefusedError(
            f"connection {connection_id} is not in use, kite.max_connections is {self._max_connections}"
        )


def segment(token: int) -> int:
    """Return what tells exchange and kind of an instrument (https://kite.trade/docs/connect/v3/websocket/)."""
    return token & 0xFF


def _more(tokens: Sequence[int]) -> str:
    return f" and {len(tokens) - SHOWN_TOKENS} more" if len(tokens) > SHOWN_TOKENS else ""


def _once(tokens: Iterable[int]) -> tuple[list[int], list[int]]:
    """Return the tokens, each once, and those of them that were there more often."""
    counts = Counter(tokens)
    return list(counts), [token for token, count in counts.items() if count > 1]
