"""Tests for what a worker tells of each instrument."""

from pipeline.digest import FOLD_TICKS, Digest
from pipeline.ticks import LtpTick


def tick(token: int, price: float, second: int) -> LtpTick:
    """Return a tick with nothing in it but what a digest looks at."""
    return LtpTick(True, token, price, f"2025-10-01T09:15:{second:02d}.000000+05:30", 1, 1, 1)


def test_it_tells_count_and_latest_and_begins_anew():
    """Each instrument that ticked is told with its count, latest price and time; then nothing until it ticks again."""
    digest = Digest()
    digest.add([tick(5, 1.0, 1), tick(7, 2.0, 1), tick(5, 1.5, 2)])
    digest.add([tick(5, 1.25, 3)])
    assert sorted(digest.take()) == [
        (5, 3, 1.25, "2025-10-01T09:15:03.000000+05:30"),
        (7, 1, 2.0, "2025-10-01T09:15:01.000000+05:30"),
    ]
    assert digest.take() == []
    digest.add([tick(7, 3.0, 4)])
    assert digest.take() == [(7, 1, 3.0, "2025-10-01T09:15:04.000000+05:30")]


def test_it_tells_the_same_of_many_ticks():
    """However many ticks there are, and however they come, each one is counted and the last one is told."""
    digest = Digest()
    for number in range(FOLD_TICKS):
        digest.add([tick(5, float(number), number % 60), tick(number % 3, 0.5, 1)] * (1 + number % 2))
    digest.add([])
    taken = {token: (count, price) for token, count, price, _ in digest.take()}
    halves = FOLD_TICKS + FOLD_TICKS // 2
    assert taken.pop(5) == (halves, float(FOLD_TICKS - 1))
    assert sum(count for count, _ in taken.values()) == halves
    assert set(taken) == {0, 1, 2}
