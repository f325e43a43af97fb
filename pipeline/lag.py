"""How long what was received waits to be durable. Pure; times in ns of the receive clock."""

from collections import deque

STEP_NS = 10_000_000  # ticks that were received within so short a time are one mark
MARKS = 4096  # with more of them, every other one goes: an age is then known less exactly


class Lag:
    """Follows one stream: `received` in order, `durable` as the writer gets on."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, int]] = deque()  # (seq of the first tick, when it was received)
        self._last_seq = 0

    def received(self, last_seq: int, recv_ns: int) -> None:
        """Take note that ticks up to this one were received by now."""
        if last_seq > self._last_seq:
            if not self._marks or recv_ns - self._marks[-1][1] >= STEP_NS:
                self._marks.append((self._last_seq + 1, recv_ns))
                if len(self._marks) > MARKS:
                    self._marks = deque(mark for place, mark in enumerate(self._marks) if place % 2 == 0)
            self._last_seq = last_seq

    def durable(self, seq: int) -> None:
        """Take note of what is durable."""
        marks = self._marks
        while len(marks) > 1 and marks[1][0] <= seq + 1:
            marks.popleft()
        if marks and seq >= self._last_seq:
            marks.clear()

    def age_ms(self, now_ns: int) -> float:
        """Return how long the oldest tick that is not durable has waited, 0 if there is none."""
        return max((now_ns - self._marks[0][1]) / 1e6, 0.0) if self._marks else 0.0
