"""What a worker tells of each instrument once a second, so that nobody has to follow every tick. Pure."""

from collections import Counter
from collections.abc import Sequence

from pipeline.ticks import StoredTick

FOLD_TICKS = 4096  # that are waiting; folding them takes some tenths of a millisecond


class Digest:
    """Count, price and time of the latest decoded tick of each instrument, since the last one was taken.

    Ticks wait in lists and are folded into the instruments' entries many at a time. Thousands of entries do not stay in
    the processor's cache from one frame to the next, and to fetch them for each frame costs more than to decode it.
    """

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._values: list[tuple[float, str]] = []  # price and time
        self._counts: Counter[int] = Counter()
        self._latest: dict[int, tuple[float, str]] = {}

    def add(self, ticks: Sequence[StoredTick]) -> None:
        """Take in ticks, the latest last. They are not kept."""
        self._tokens += [tick.instrument_token for tick in ticks]
        self._values += [(tick.last_price, tick.timestamp) for tick in ticks]
        if len(self._tokens) >= FOLD_TICKS:
            self._fold()

    def take(self) -> list[tuple[int, int, float, str]]:
        """Return (token, count, last price, receive time) for each instrument that ticked, and begin anew."""
        self._fold()
        taken = [(token, self._counts[token], *value) for token, value in self._latest.items()]
        self._counts.clear()
        self._latest.clear()
        return taken

    def _fold(self) -> None:
        self._counts.update(self._tokens)
        self._latest.update(zip(self._tokens, self._values, strict=True))
        self._tokens.clear()
        self._values.clear()
