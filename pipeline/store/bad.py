"""Lines that are no ticks: where they stand, why they are none, and what a reader does about them."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from pipeline.errors import MdsError
from pipeline.store.files import Block, Fragment, Place
from pipeline.ticks import StoredTick, decode_line

log = logging.getLogger(__name__)

LOGGED = 10  # of one file; the rest are counted


class BadLine(NamedTuple):
    """A line that is no tick."""

    place: Place
    why: str

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.place.path} line {self.place.line}, byte {self.place.offset}: no tick: {self.why}"


class BadLineError(MdsError, ValueError):
    """A line is no tick, and the reader was asked to raise."""

    def __init__(self, bad: BadLine) -> None:
        super().__init__(str(bad))
        self.bad = bad


def sort_out(block: Block) -> tuple[list[StoredTick], list[BadLine]]:
    """Return the ticks of lines in their order, and the lines that are none."""
    ticks: list[StoredTick] = []
    bad: list[BadLine] = []
    for index, line in enumerate(block.lines):
        try:
            ticks.append(decode_line(line))
        except (ValueError, RecursionError) as error:
            bad.append(BadLine(block.place(index), str(error)))
    return ticks, bad


OnBad: TypeAlias = Literal["skip", "raise"] | Callable[[BadLine], object]


class Judge:
    """Deals with the bad lines of one file as the reader was asked to.

    "skip" names them in the log and passes over them, "raise" raises BadLineError at the first, and a callable gets
    each of them, `list.append` for instance.
    """

    def __init__(self, path: Path, on_bad: OnBad) -> None:
        if not callable(on_bad) and on_bad not in ("skip", "raise"):
            raise ValueError(f'on_bad is "skip", "raise" or a callable, not {on_bad!r}')
        self._path = path
        self._on_bad = on_bad
        self._seen = 0

    def hear(self, bad: BadLine) -> None:
        """Take in one more."""
        self._seen += 1
        if callable(self._on_bad):
            self._on_bad(bad)
        elif self._on_bad == "raise":
            raise BadLineError(bad)
        elif self._seen <= LOGGED:
            log.warning("%s; passed over", bad)

    def hear_fragment(self, fragment: Fragment) -> None:
        """Take in what is not even a line."""
        self.hear(BadLine(fragment.place, fragment.why))

    def end(self) -> None:
        """Sum up, after the file was read."""
        if self._seen > LOGGED and self._on_bad == "skip":
            log.warning("%s: %d lines passed over that are no ticks; mds verify tells more", self._path, self._seen)
