"""What a worker tells of each instrument once a second, so that nobody has to follow every tick. Pure."""

from collections import Counter
from collections.abc import Sequence

from pipeline.ticks import StoredTick


class Digest:
    """Count, price and time of the latest decoded tick of each instrument, since the last one was taken."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._latest: dict[int, StoredTick] = {}

    def add(self, ticks: Sequence[StoredTick]) -> None:
        """Take in ticks of one frame."""
        tokens = [tick.instrument_token for tick in ticks]
        self._counts.update(tokens)
        self._latest.update(zip(tokens, ticks, strict=True))

    def take(self) -> list[tuple[int, int, float, str]]:
        """Return (token, count, last price, receive time) for each instrument that ticked, and begin anew."""
        taken = [(t, self._counts[t], tick.last_price, tick.timestamp) for t, tick in self._latest.items()]
        self._counts.clear()
        self._latest.clear()
        return taken
