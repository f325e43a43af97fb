"""What a day of recording takes on disk. Pure."""

from collections.abc import Iterable

from pipeline.config import Mode

SESSION_S = 6.25 * 3600  # 09:15 to 15:30
LINE_BYTES: dict[Mode, int] = {"ltp": 180, "quote": 410, "full": 1000}  # of a typical stored line


def bytes_a_day(modes: Iterable[Mode], ticks_per_second: float) -> int:
    """Return what a session of instruments in these modes takes when each ticks so often."""
    return int(sum(LINE_BYTES[mode] for mode in modes) * SESSION_S * ticks_per_second)
