"""Interruptions of one connection, and which instruments missed what by them. Pure.

A socket that is half-open is noticed late: what was taken off it meanwhile has missed something, too.

An interruption is open from the moment something ended the flow; it closes with the first frame after the connection
has been subscribed again. Where several things happen in between, the first one is the cause. An instrument misses what
lies between the interruption, or the moment it was wanted if that is later, and the end, or the moment it was no
longer wanted here or another connection had it, if that is earlier. What another connection keeps until this one covers
it is that one's to miss. A connection without instruments misses nothing, and none misses anything in a rest: a time in
which the clock has all connections closed.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from pipeline.days import NS_PER_S
from pipeline.epoch import Predecessor

NOTHING: Mapping[int, int] = MappingProxyType({})
_CAUSES = {"clean": "stopped", "killed": "killed", "unknown": "spool lost"}
LATE_NS = 5 * NS_PER_S  # after a rest, until what should be recorded counts as missed: orders take a moment


class Gap(NamedTuple):
    """These instruments were not recorded after `from_ns` (0: nobody knows since when) and before `to_ns`."""

    cause: str
    from_ns: int
    to_ns: int
    instruments: Sequence[int] = ()


class GapTracker:
    """Follows one connection through one epoch."""

    def __init__(self, predecessor: Predecessor) -> None:
        self._last_frame_ns = 0  # of this epoch
        self._lately: dict[int, tuple[int, int]] = {}  # the last frame, and wanted no more since: none came after that
        self._wanted: frozenset[int] | None = None  # None: nobody has said yet
        self._late: dict[int, int] = {}  # wanted only since this time, within the interruption
        self._held: frozenset[int] = frozenset()  # by another connection, until this one covers them
        self._rests: Sequence[tuple[int, int]] = ()
        self._overdue_until: dict[int, int] = {}  # when it was told what these had missed: orders may come twice
        self._cause: str | None = None
        self._from_ns = 0
        had_instruments = predecessor.last_recv_ns > 0 or predecessor.end == "unknown"
        if predecessor.end != "none" and had_instruments:
            self._cause = _CAUSES[predecessor.end]
            self._from_ns = predecessor.last_recv_ns

    @property
    def last_frame_ns(self) -> int:
        """When the last frame came in this epoch; kept up by the owner."""
        return self._last_frame_ns

    @last_frame_ns.setter
    def last_frame_ns(self, recv_ns: int) -> None:
        self._last_frame_ns = recv_ns
        self._lately.clear()

    @property
    def is_parting(self) -> bool:
        """Whether no frame has shown yet that the socket was well when something was taken off it."""
        return bool(self._lately)

    @property
    def is_open(self) -> bool:
        """Whether something is being missed now."""
        return self._cause is not None

    @property
    def since_ns(self) -> int | None:
        """Since when something is being missed; None if nothing is, or nobody knows."""
        return self._from_ns or None if self.is_open else None

    def interrupted(self, cause: str, now_ns: int) -> list[Gap]:
        """Open an interruption, unless one is open or nothing is wanted.

        Returns what those have missed that were still wanted after the last frame.
        """
        if self._cause is not None:
            return []
        self._cause, self._from_ns = cause, self.last_frame_ns or now_ns
        lately = {token: span for token, span in self._lately.items() if 0 < span[0] < span[1]}
        gaps = [
            Gap(cause, *span, sorted(t for t in lately if lately[t] == span)) for span in sorted({*lately.values()})
        ]
        self._lately.clear()
        if not self._wanted:
            self._end()
        return gaps

    def want(
        self,
        wanted: Iterable[int],
        now_ns: int,
        *,
        before: Collection[int] | None = None,
        relieved: Mapping[int, int] = NOTHING,
        held: Collection[int] = (),
        missing: Mapping[int, int] = NOTHING,
        due: Mapping[int, int] = NOTHING,
        rests: Sequence[tuple[int, int]] = (),
        down_by: str | None = None,
    ) -> list[Gap]:
        """Follow a new set of instruments; return what those that are gone have missed.

        The first one of an epoch comes with what the epoch `before` had, None if nobody knows. `relieved` tells of
        instruments since when another connection has recorded them, even if it does no longer and they are wanted here
        again: the rest is that one's to miss. `held` tells of new ones that another keeps until they are `taken`, and
        `missing` of those that nobody records since a time. What is `due` should be recorded since a time at which a
        rest was over, unless it is; until now, if it is wanted no more. `rests` are the latest ones; without any, those
        that were told before hold.
        `down_by` is why the connection is down, if it is: new instruments miss what comes until it is not.
        """
        is_first = self._wanted is None
        had = frozenset(before or ()) if self._wanted is None else self._wanted
        is_unknown = is_first and before is None
        self._wanted = frozenset(wanted)
        self._rests = rests or self._rests
        due = due if is_first or not had else NOTHING
        overdue = due.keys() - self._wanted - (had if self._cause else set())
        gaps = self._overdue({token: due[token] for token in overdue}, relieved, now_ns)
        due = {t: since for t, since in due.items() if t in self._wanted}
        gone = had - self._wanted - self._held
        if self._cause is None:
            since_ns = self.last_frame_ns
            self._lately.update({token: (since_ns, relieved.get(token, now_ns)) for token in gone})
        else:
            back = had.intersection(self._wanted, relieved) if is_first else frozenset()
            missed = {token: relieved.get(token, now_ns) for token in gone | back}
            missed = {t: to_ns for t, to_ns in missed.items() if t not in relieved or to_ns > self._from_ns}
            gaps += self._missed(missed)
            self._late.update(dict.fromkeys(back, now_ns))
            if is_unknown and not self._wanted:
                gaps.append(self._nobodys(now_ns))
            for token in gone:
                self._late.pop(token, None)
            if not is_unknown:
                late = {t: max(due[t], self._from_ns) if t in due else now_ns for t in self._wanted - had}
                self._late.update(late)
        new = self._wanted if is_first else self._wanted - had
        self._held = (self._held | new.intersection(held)) & self._wanted
        if self._cause is None and any(now_ns - since > LATE_NS for since in due.values()):
            self._cause, self._from_ns = "opened late", min(due.values())
            self._late.update({t: due.get(t, now_ns) for t in self._wanted})
        if not self._wanted:
            self._end()
        elif not had:
            self._last_frame_ns = now_ns  # nothing was missed before
            if down_by is not None:
                self.interrupted(down_by, now_ns)
        self._miss({token: since for token, since in missing.items() if token in self._wanted})
        return gaps

    def _miss(self, missing: Mapping[int, int]) -> None:
        if missing and self._cause is None:
            self._cause, self._from_ns = "no room", min(missing.values())
        self._late.update(missing)
        self._held -= missing.keys()

    def taken(self, tokens: Iterable[int], now_ns: int) -> None:
        """Take note that these are recorded here now, or nowhere: what comes is this connection's to miss."""
        found = self._held.intersection(tokens)
        self._held -= found
        if self._cause is not None:
            self._late.update(dict.fromkeys(found, now_ns))

    def closed(self, now_ns: int) -> list[Gap]:
        """End the interruption, if any, because nothing is missed from now on, or this epoch ends.

        Where nobody has said yet what is wanted it stays open: the next epoch tells it.
        """
        if self._wanted is None:
            return []
        gaps = self._missed(dict.fromkeys(self._wanted - self._held, now_ns))
        self._held = frozenset()
        self._end()
        return gaps

    def _overdue(self, due: Mapping[int, int], relieved: Mapping[int, int], now_ns: int) -> list[Gap]:
        """Return what these have missed, which are wanted no more."""
        from_ns = self._from_ns if self._cause else 0
        spans: dict[tuple[int, int], list[int]] = {}
        for token, since_ns in due.items():
            span = max(since_ns, from_ns, self._overdue_until.get(token, 0)), relieved.get(token, now_ns)
            if span[1] - span[0] > (0 if self._cause else LATE_NS):
                spans.setdefault(span, []).append(token)
                self._overdue_until[token] = now_ns
        return self._gaps(self._cause or "opened late", spans)

    def _end(self) -> None:
        self._cause = None
        self._late.clear()

    def _nobodys(self, now_ns: int) -> Gap:
        """Return what was missed when nobody knows by which instruments."""
        return Gap(self._cause or "", self._from_ns, max(self._from_ns, now_ns))

    def _missed(self, until: Mapping[int, int]) -> list[Gap]:
        """Return what instruments have missed, each until its time; those together that have missed the same."""
        if self._cause is None:
            return []
        spans: dict[tuple[int, int], list[int]] = {}
        for token, to_ns in until.items():
            spans.setdefault((self._late.get(token, self._from_ns), to_ns), []).append(token)
        return self._gaps(self._cause, spans)

    def _gaps(self, cause: str, spans: Mapping[tuple[int, int], list[int]]) -> list[Gap]:
        # The clock may have been set back.
        return [
            Gap(cause, *part, sorted(tokens))
            for (from_ns, to_ns), tokens in sorted(spans.items())
            for part in _outside(self._rests, from_ns, max(from_ns, to_ns))
        ]


def _outside(rests: Sequence[tuple[int, int]], from_ns: int, to_ns: int) -> list[tuple[int, int]]:
    """Return the parts of a time that lie in no rest; these are in order."""
    parts = []
    for begin_ns, end_ns in rests if from_ns else ():  # 0: nobody knows since when
        if begin_ns < to_ns and from_ns < end_ns:
            if from_ns < begin_ns:
                parts.append((from_ns, begin_ns))
            from_ns = end_ns
            if from_ns >= to_ns:
                return parts
    return [*parts, (from_ns, to_ns)]
