"""What was sent to Kite and what has arrived of it."""

import asyncio
import struct
from typing import Any

from pipeline.arrivals import NEWS_STEP, Arrivals
from pipeline.kite.feed import Batch


class Connection:
    """Arrivals whose time the test keeps, and what they have told."""

    def __init__(self):
        self.arrived: list[Any] = []
        self.news: list[Any] = []
        self.timers: list[Any] = []
        self.arrivals = Arrivals(
            lambda tokens: self.arrived.append(sorted(tokens)),
            lambda: self.news.append(sorted(self.arrivals.unseen)),
            lambda _, call, *arguments: self.timers.append(lambda: call(*arguments)),
        )

    def subscribe(self, *tokens):
        """Send a batch."""
        self.arrivals.sent(Batch("subscribe", tokens, "ltp"))

    async def see(self, *tokens):
        """Let these tick."""
        self.arrivals.see(tokens)
        await asyncio.sleep(0)


def frame(*tokens):
    """Return a frame with a tick in ltp mode of each."""
    packets = [struct.pack(">HII", 8, token, 1) for token in tokens]
    return struct.pack(">H", len(packets)) + b"".join(packets)


def test_what_ticks_has_arrived():
    """Each is told once; the supervisor hears of it when all are there."""

    async def scene():
        connection = Connection()
        connection.subscribe(1, 2)
        await connection.see(1, 7)
        assert (connection.arrived, connection.news) == ([[1]], [])
        await connection.see(1, 2)
        assert (connection.arrived, connection.news) == ([[1], [2]], [[]])
        assert not connection.arrivals.unseen

    asyncio.run(scene())


def test_thousands_are_told_in_steps():
    """Nobody waits for the last of them."""

    async def scene():
        connection = Connection()
        connection.subscribe(*range(1, 2 * NEWS_STEP + 10))
        for token in range(1, 2 * NEWS_STEP + 10):
            await connection.see(token)
        assert [len(left) for left in connection.news] == [NEWS_STEP + 9, 9, 0]

    asyncio.run(scene())


def test_who_does_not_tick_counts_as_arrived_after_a_moment():
    """An instrument that is not traded must not keep its old place for ever; sent again it has its time again."""
    connection = Connection()
    connection.subscribe(1, 2)
    connection.arrivals.lost()
    connection.subscribe(1)
    connection.arrivals.hear()
    first, second = connection.timers
    first()
    assert connection.arrived == []
    second()
    assert (connection.arrived, connection.news) == ([[1]], [[]])


def test_nothing_arrives_on_a_socket_that_may_be_half_open():
    """Not a byte has come since: it may be dead."""
    connection = Connection()
    connection.arrivals.hear()
    connection.subscribe(1)
    connection.timers.pop()()
    assert (connection.arrived, len(connection.timers)) == ([], 1)
    connection.arrivals.hear()
    connection.timers.pop()()
    assert (connection.arrived, connection.timers) == ([[1]], [])


def test_what_is_unsubscribed_does_not_arrive():
    """Its last ticks may still be under way."""

    async def scene():
        connection = Connection()
        connection.subscribe(1, 2)
        connection.arrivals.sent(Batch("unsubscribe", (1,)))
        await connection.see(1)
        assert connection.arrived == []
        assert set(connection.arrivals.unseen) == {2}

    asyncio.run(scene())


def test_ticks_of_what_comes_back_prove_nothing_for_a_while():
    """They may have been sent before it was unsubscribed; it has arrived when it had its time."""

    async def scene():
        connection = Connection()
        connection.subscribe(1, 2)
        await connection.see(1, 2)
        connection.arrivals.sent(Batch("unsubscribe", (1, 2)))
        connection.subscribe(1)
        await connection.see(1)
        assert connection.arrived == [[1, 2]]
        connection.arrivals.hear()
        _, forget, had_time = connection.timers
        had_time()
        assert connection.arrived == [[1, 2], [1]]
        forget()
        connection.subscribe(2)
        await connection.see(2)
        assert connection.arrived == [[1, 2], [1], [2]]

    asyncio.run(scene())


def test_a_tick_of_what_was_sent_last_shows_that_all_was_taken():
    """Frames without one may have been under way before; when nothing is awaited any frame will do."""
    connection = Connection()
    frames = [(10, frame(1)), (11, b"\0"), (12, frame(1, 3)), (13, frame(3))]
    assert connection.arrivals.all_sent(frames) == 10
    connection.subscribe(1, 2)
    connection.subscribe(3)
    assert connection.arrivals.all_sent(frames[:2]) is None
    assert connection.arrivals.all_sent(frames) == 12
    connection.arrivals.complete()
    assert connection.arrivals.all_sent(frames) == 10


def test_what_was_sent_last_and_is_dropped_is_not_awaited():
    """What was sent before it is the last again; where nothing is left any frame will do."""
    connection = Connection()
    connection.subscribe(1, 2)
    connection.subscribe(3, 4)
    connection.arrivals.sent(Batch("unsubscribe", (3,)))
    assert connection.arrivals.all_sent([(10, frame(1, 3)), (11, frame(4))]) == 11
    connection.arrivals.sent(Batch("unsubscribe", (4,)))
    assert connection.arrivals.all_sent([(12, frame(3, 4)), (13, frame(2))]) == 13
    connection.arrivals.sent(Batch("unsubscribe", (1, 2)))
    assert connection.arrivals.all_sent([(14, b"\0")]) == 14


def test_who_has_ticked_before_anybody_asked_is_not_awaited_for_long():
    """It may not tick again for hours: after its time any frame shows that it was taken; a later batch has its own."""

    async def scene():
        connection = Connection()
        connection.subscribe(1)
        await connection.see(1)
        assert connection.arrivals.all_sent([(10, frame(2))]) is None
        connection.timers[0]()  # not a byte has come since
        connection.subscribe(3)
        connection.arrivals.hear()
        connection.timers[-2]()
        assert connection.arrivals.all_sent([(11, frame(2))]) is None
        assert connection.arrivals.all_sent([(12, frame(3))]) == 12
        connection.arrivals.hear()
        connection.timers[-1]()
        assert connection.arrivals.all_sent([(13, frame(2))]) == 13

    asyncio.run(scene())
