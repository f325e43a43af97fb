"""Interruptions of one connection, from the last frame before to the first one after. Pure.

A gap is open from the moment something ended the flow; it closes with the first frame after the connection has been
subscribed again. Where several things happen in between, the first one is the cause. A connection without instruments
can miss nothing and has no gaps.
"""

from typing import NamedTuple

from pipeline.epoch import Predecessor

_CAUSES = {"clean": "stopped", "killed": "killed", "unknown": "spool lost"}


class Gap(NamedTuple):
    """Nothing was recorded after `from_ns` (0: nobody knows since when) and before `to_ns`."""

    cause: str
    from_ns: int
    to_ns: int


class GapTracker:
    """Follows one connection through one epoch."""

    def __init__(self, predecessor: Predecessor) -> None:
        self.last_frame_ns = 0  # of this epoch, kept up by the owner
        self._cause: str | None = None
        self._from_ns = 0
        had_instruments = predecessor.last_recv_ns > 0 or predecessor.end == "unknown"
        if predecessor.end != "none" and had_instruments:
            self._cause = _CAUSES[predecessor.end]
            self._from_ns = predecessor.last_recv_ns

    @property
    def is_open(self) -> bool:
        """Whether something is being missed now."""
        return self._cause is not None

    def interrupted(self, cause: str, now_ns: int) -> None:
        """Open a gap, unless one is open."""
        if self._cause is None:
            self._cause = cause
            self._from_ns = self.last_frame_ns or now_ns

    def until(self, now_ns: int) -> Gap | None:
        """Return the open gap, if any, as far as it goes by now."""
        if self._cause is None:
            return None
        return Gap(self._cause, self._from_ns, max(self._from_ns, now_ns))  # the clock may have been set back

    def closed(self, now_ns: int) -> Gap | None:
        """Close the open gap, if any, because nothing is missed from now on, or this epoch ends."""
        gap = self.until(now_ns)
        self._cause = None
        return gap
