"""The event stream: who listens hears everything that is new, and the service is asked once for all."""

import asyncio
import json
from collections import Counter

import pytest

from pipeline.errors import NotRunningError
from pipeline.status import Notice, Series
from pipeline.web import events
from pipeline.web.events import FIRST_NOTICES, KEPT_NOTICES, EventStream, Hub
from pipeline.web.source import Source
from tests.overviews import T0, an_overview

SERIES = Series(timestamp=T0, ticks_per_second={"1": [1.0]}, commit_ms=[1.0], lag_ms=[0.0])
DEADLINE_S = 20.0


def a_notice(number, text=""):
    """A notice of its own, unless a text makes it the same as another."""
    text = text or f"something {number}"
    return Notice(number=number, timestamp=T0, event="note", source="writer", text=text, details={})


class FakeSource(Source):
    """A service with these notices; it is the client that questions are put to, too."""

    def __init__(self, *notices):
        self.notices = list(notices)
        self.error = None
        self.asked: Counter[str] = Counter()

    async def ask(self, question):
        await asyncio.sleep(0)
        if self.error:
            self.asked["in vain"] += 1
            raise self.error
        return question(self)

    def overview(self, after=0):
        self.asked["overview"] += 1
        return an_overview(*(notice for notice in self.notices if notice.number > after))

    def series(self):
        self.asked["series"] += 1
        return SERIES


class Client:
    """Reads a stream as a browser does."""

    def __init__(self, hub, last_event_id=""):
        self._sent: asyncio.Queue[bytes] = asyncio.Queue()
        self._is_reading = asyncio.Event()
        self._is_reading.set()
        self._has_left = asyncio.Event()
        self._rest = b""
        self.task = asyncio.create_task(EventStream(hub, last_event_id)({}, self._receive, self._send))

    async def next(self, *kinds):
        """Return kind, number and data of the next event, of one of these kinds."""
        while True:
            while b"\n\n" not in self._rest:
                self._rest += await asyncio.wait_for(self._sent.get(), DEADLINE_S)
            block, _, self._rest = self._rest.partition(b"\n\n")
            fields = dict(line.split(": ", 1) for line in block.decode().splitlines())
            if not kinds or fields.get("event") in kinds:
                return fields.get("event"), fields.get("id"), json.loads(fields.get("data", "null"))

    async def numbers(self, count):
        """Return the numbers of so many notices."""
        return [int((await self.next("notice"))[1]) for _ in range(count)]

    def stop_reading(self):
        """Let the server wait."""
        self._is_reading.clear()

    def read_on(self):
        """Take what is there."""
        self._is_reading.set()

    def leave(self):
        """Close the connection."""
        self._has_left.set()

    async def _receive(self):
        await self._has_left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        await self._is_reading.wait()
        self._sent.put_nowait(message.get("body", b""))


def run(scene, *notices):
    """Play a scene with a hub and its source."""

    async def main():
        source = FakeSource(*notices)
        hub = Hub(source)
        polling = asyncio.create_task(hub.run())
        await scene(hub, source)
        polling.cancel()

    asyncio.run(main())


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """Lets the poller turn faster than in use."""
    monkeypatch.setattr(events, "POLL_S", 0.01)
    monkeypatch.setattr(events, "GONE_S", 0.01)
    monkeypatch.setattr(events, "PAUSE_S", 0.002)


def test_beginning():
    """First come the figures of the last minutes, then the status, then the latest notices, oldest first."""

    async def scene(hub, _):
        client = Client(hub)
        assert await client.next() == (None, None, None)  # retry
        kind, _, data = await client.next()
        assert (kind, data) == ("series", SERIES.model_dump())
        kind, _, data = await client.next()
        assert (kind, data) == ("status", an_overview().model_dump(exclude={"notices"}))
        assert await client.numbers(FIRST_NOTICES) == list(range(11, 11 + FIRST_NOTICES))
        assert (await client.next())[0] == "status"

    run(scene, *map(a_notice, range(1, 11 + FIRST_NOTICES)))


def test_news():
    """Each notice comes once, in order, and series only at the beginning."""

    async def scene(hub, source):
        client = Client(hub)
        assert await client.numbers(1) == [1]
        for number in range(2, 6):
            source.notices.append(a_notice(number))
            assert await client.numbers(1) == [number]
        assert source.asked["series"] == 1

    run(scene, a_notice(1))


@pytest.mark.parametrize(
    ("last", "expected"), [("3", [4, 5]), ("5", []), ("0", [1, 2, 3, 4, 5]), ("rubbish", [1, 2, 3, 4, 5])]
)
def test_coming_back(last, expected):
    """Who says what he had last gets what has come since, and nothing twice."""

    async def scene(hub, source):
        client = Client(hub, last)
        assert await client.numbers(len(expected)) == expected
        await client.next("status")
        source.notices.append(a_notice(6))
        assert await client.numbers(1) == [6]

    run(scene, *map(a_notice, range(1, 6)))


def test_one_question_for_all():
    """Many listeners cost no more questions than one, and none costs none."""

    async def scene(hub, source):
        clients = [Client(hub) for _ in range(20)]
        for client in clients:
            await client.next("status")
        assert source.asked["series"] <= 2
        assert source.asked["overview"] <= 3
        for client in clients:
            client.leave()
        await asyncio.gather(*(client.task for client in clients))
        asked = source.asked.total()
        await asyncio.sleep(0.1)
        assert source.asked.total() <= asked + 2  # one may have been under way
        source.notices.append(a_notice(2))
        assert await Client(hub).numbers(2) == [1, 2]

    run(scene, a_notice(1))


def test_service_that_goes_and_comes_back():
    """While nobody answers the listener is told why, again and again; then he hears what has happened since."""

    async def scene(hub, source):
        client = Client(hub)
        assert await client.numbers(2) == [1, 2]
        source.error = NotRunningError("it is gone")
        for _ in range(2):
            _, _, data = await client.next("gone")
            assert data == {"reason": "it is gone"}
        source.error = None
        # A new supervisor counts anew, above, and remembers what was before it.
        source.notices = [a_notice(101, "something 1"), a_notice(102, "something 2"), a_notice(103)]
        assert (await client.next("status"))[0] == "status"
        assert await client.numbers(1) == [103]

    run(scene, a_notice(1), a_notice(2))


def test_service_that_is_not_there_at_first():
    """The figures of the last minutes come as soon as somebody answers."""

    async def scene(hub, source):
        source.error = NotRunningError("not yet")
        client = Client(hub)
        await client.next("gone")
        source.error = None
        kind = (await client.next("series", "status"))[0]
        assert kind == "series"

    run(scene)


def test_slow_listener():
    """Who does not read keeps nobody waiting; later he gets the present status, and the notices that fit."""

    async def scene(hub, source):
        slow, fast = Client(hub), Client(hub)
        for client in (slow, fast):
            await client.next("status")
        slow.stop_reading()
        count = KEPT_NOTICES * 5
        for number in range(1, count + 1):
            source.notices.append(a_notice(number))
            if number % KEPT_NOTICES == 0:
                await fast.numbers(KEPT_NOTICES)
        asked = source.asked["overview"]
        slow.read_on()
        statuses = 0
        numbers: list[int] = []
        while not numbers or numbers[-1] < count:
            kind, number, _ = await slow.next("status", "notice")
            statuses += kind == "status"
            numbers += [int(number)] if kind == "notice" else []
        assert numbers == sorted(set(numbers))
        assert len(numbers) <= 2 * KEPT_NOTICES  # in hand, and waiting
        assert statuses <= 3 + source.asked["overview"] - asked

    run(scene)


def test_end():
    """At the end all streams end, and who comes then ends at once."""

    async def scene(hub, _):
        client = Client(hub)
        await client.next("status")
        hub.end()
        await asyncio.wait_for(client.task, DEADLINE_S)
        await asyncio.wait_for(Client(hub).task, DEADLINE_S)
        assert not hub.is_full

    run(scene)
