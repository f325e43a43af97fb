"""The chain of epochs: each names the one before it and how far that had come, so that a lost end shows. Pure.

For each connection, in the order of its epochs, these hold, or a gap record explains why not:

- the epoch has its `epoch` event;
- this names the epoch before it. A start that knows nothing of its predecessor is explained by any gap record of its
  own;
- the ticks and events of that one are in the files as far as the event says. More may be there: after a power loss the
  recorder may know less than is stored. What is missing is explained by gap records that name that epoch and these
  ticks, or by one of the new epoch that says a spool was lost or damaged. Being killed explains nothing: it loses
  nothing of a spool.

Of the newest epoch of a connection the end is known only if it was stopped in order: its last event says so.

What still has a spool is pending, and what lies in days that are not under check is passed over.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.store.files import EpochEvent, Event, GapEvent, StoppedEvent
from pipeline.store.snapshot import Snapshot

SPOOL_LOSSES = ("spool lost", "spool damaged")


@dataclass
class Epoch:
    """What the files have of one epoch of a connection."""

    last_seq: int = 0
    last_event_seq: int = 0
    begin: EpochEvent | None = None
    accuses: bool = False  # `begin` was there before the spools were looked at
    stopped: StoppedEvent | None = None  # likewise


@dataclass
class Gap:
    """What the chain needs of a gap record."""

    written_in: int | None  # the worker's epoch; None where another process wrote it
    epoch: int | None
    first_seq: int | None
    last_seq: int | None
    cause: str

    @classmethod
    def of(cls, event: GapEvent) -> "Gap":
        """Return the extract of a gap record."""
        written_in = event.epoch if event.worker is not None else None
        return cls(written_in, event.gap_epoch, event.first_seq, event.last_seq, event.cause)


@dataclass
class Verdict:
    """`breaks` in words; counts of ticks."""

    breaks: list[str] = field(default_factory=list)
    missing: int = 0  # at the ends of epochs
    recorded: int = 0  # likewise, and a gap record says so
    pending: int = 0  # spooled, not yet in the files


def unexplained(first: int, last: int, epoch: int, gaps: Iterable[Gap]) -> bool:
    """Tell whether any of the ticks `first` to `last` of `epoch` has no gap record that names it."""
    named = sorted(
        (gap.first_seq or 1, gap.last_seq if gap.last_seq is not None else last) for gap in gaps if gap.epoch == epoch
    )
    for begin, end in named:
        if begin <= first <= end:
            first = end + 1
    return first <= last


def check(epochs: dict[tuple[int, int], Epoch], gaps: dict[int, list[Gap]], snapshot: Snapshot) -> Verdict:
    """Check the chains of all connections; `epochs` by (connection_id, epoch), `gaps` by connection_id."""
    verdict = Verdict()
    connections: defaultdict[int, list[int]] = defaultdict(list)
    for connection_id, epoch in sorted(epochs):
        connections[connection_id].append(epoch)
    for connection_id, numbers in connections.items():
        for previous, number in zip([None, *numbers], numbers, strict=False):
            link = _Link(connection_id, number, epochs, gaps.get(connection_id, []), snapshot, verdict)
            link.check(previous)
        link.check_stop()
    return verdict


@dataclass
class _Link:
    """An epoch and the one before it."""

    connection_id: int
    number: int
    epochs: dict[tuple[int, int], Epoch]
    gaps: list[Gap]
    snapshot: Snapshot
    verdict: Verdict

    def check(self, known: int | None) -> None:
        """Check the link to the epoch before, `known` from the files."""
        epoch = self.epochs[self.connection_id, self.number]
        begin = epoch.begin
        day = self.snapshot.begun_on(self.number)
        if begin is None:
            excused = self.snapshot.hides_events(day, day) or self._is_spooled(self.number)
            if not excused and not self._explained_here() and not self._names(self.number):
                self._break("has no event that tells how it began")
            return
        if not epoch.accuses:
            return
        named = begin.previous_epoch
        if named is None or (known is not None and named < known) or begin.previous_last_seq is None:
            first_of_all = begin.previous_end == "none" and known is None
            if not first_of_all and not self._explained_here():
                self._break(
                    f"does not tell how far the one before, {known or named or 'unknown'}, had come "
                    f"(it says {named}, {begin.previous_end})"
                )
            return
        self._check_ticks(named, begin.previous_last_seq, begin)
        self._check_events(named, begin.previous_last_event_seq or 0, begin)

    def check_stop(self) -> None:
        """Check the end of this epoch, if it was stopped in order. For the newest: others have a successor."""
        stopped = self.epochs[self.connection_id, self.number].stopped
        if stopped and stopped.last_seq is not None:
            self._check_ticks(self.number, stopped.last_seq, stopped)

    def _check_ticks(self, epoch: int, last: int, witness: Event) -> None:
        """Check that the ticks of `epoch` are there up to `last`."""
        first = self.epochs.get((self.connection_id, epoch), Epoch()).last_seq + 1
        missing = max(last - first + 1, 0)
        if not missing:
            return
        if self._is_spooled(epoch):
            self.verdict.pending += missing
        elif self.snapshot.hides_ticks(self.snapshot.begun_on(epoch), witness.timestamp.date()):
            return
        elif unexplained(first, last, epoch, self.gaps) and (epoch == self.number or not self._spool_was_lost()):
            self.verdict.missing += missing
            self._break(f"says that {epoch} had {last} ticks; {first} to {last} are missing at its end")
        else:
            self.verdict.recorded += missing

    def _check_events(self, epoch: int, last: int, witness: Event) -> None:
        """Check that the events of `epoch` are there up to `last`."""
        first = self.epochs.get((self.connection_id, epoch), Epoch()).last_event_seq + 1
        hidden = self.snapshot.hides_events(self.snapshot.begun_on(epoch), witness.timestamp.date())
        if first > last or hidden or self._is_spooled(epoch) or self._names(epoch) or self._spool_was_lost():
            return
        self._break(f"says that {epoch} had {last} events; {first} to {last} are missing at its end")

    def _is_spooled(self, epoch: int) -> bool:
        return (self.connection_id, epoch) in self.snapshot.spooled

    def _explained_here(self) -> bool:
        return any(gap.written_in == self.number for gap in self.gaps)

    def _spool_was_lost(self) -> bool:
        """Tell whether the new epoch says so of one before it, without knowing which ticks were in it."""
        return any(
            gap.written_in == self.number and gap.epoch is None and gap.cause in SPOOL_LOSSES for gap in self.gaps
        )

    def _names(self, epoch: int) -> bool:
        return any(gap.epoch == epoch for gap in self.gaps)

    def _break(self, words: str) -> None:
        self.verdict.breaks.append(f"connection {self.connection_id}, epoch {self.number} {words}")
