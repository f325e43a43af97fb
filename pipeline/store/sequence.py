"""The numbers 1, 2, 3, ... of one stream, as they are met: holes, repeats, late ones. Pure.

A hole may be filled by a later line: then nothing is missing, but the order is wrong. Memory is bounded: of a stream
with more than `OPEN_HOLES` holes the oldest are counted and forgotten, and what fills them is taken for a repeat.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from operator import attrgetter
from typing import Literal

from pipeline.store.files import Place

OPEN_HOLES = 10_000

_first = attrgetter("first")


@dataclass
class Hole:
    """Numbers `first` to `last` have not come; noticed at `place`. Hidden: they are where nobody looked."""

    first: int
    last: int
    place: Place
    hidden: bool


@dataclass
class Sequence:
    """What has come of one stream up to now."""

    day: date  # of the file with its latest line; before the first line, the day on which it began
    next: int = 1
    forgotten: int = 0  # holes that were closed unfilled
    forgotten_numbers: int = 0
    holes: list[Hole] | tuple[()] = ()  # most streams have none

    def take(self, number: int, place: Place, *, hidden: bool) -> Literal["duplicate", "out of order"] | None:
        """Note `number`; tell a line that was there before, or comes late. Holes are told at the end, by `gaps`."""
        if number < self.next:
            return "out of order" if self._fill(number) else "duplicate"
        if number > self.next:
            self._open(Hole(self.next, number - 1, place, hidden))
        self.next = number + 1
        return None

    def gaps(self) -> Iterator[Hole]:
        """Yield the holes that are still open."""
        return (hole for hole in self.holes if not hole.hidden)

    @property
    def is_cut(self) -> bool:
        """Part of it is where nobody looked."""
        return any(hole.hidden for hole in self.holes)

    def _open(self, hole: Hole) -> None:
        holes = self.holes = self.holes or []
        holes.append(hole)
        if len(holes) > OPEN_HOLES:
            oldest = holes.pop(0)
            if not oldest.hidden:
                self.forgotten += 1
                self.forgotten_numbers += oldest.last - oldest.first + 1

    def _fill(self, number: int) -> bool:
        index = bisect_right(self.holes, number, key=_first) - 1
        if index < 0 or self.holes[index].last < number:
            return False
        assert isinstance(self.holes, list)  # noqa: S101  an empty tuple has no index
        hole = self.holes[index]
        parts = (replace(hole, last=number - 1), replace(hole, first=number + 1))
        self.holes[index : index + 1] = [part for part in parts if part.first <= part.last]
        return True
