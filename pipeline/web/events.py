"""Server-sent events: one poller asks the supervisor for all who listen, and nobody is asked while nobody does.

`series` comes once, `status` at once and every POLL_S, `notice` for the latest ones and then for each new one, and
`gone` in place of `status` while the service does not answer. A listener has room for one status, so a slow one misses
some rather than letting them pile up.

Source of the format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator

import orjson
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from pipeline.errors import MdsError
from pipeline.status import Notice
from pipeline.web.source import Source

log = logging.getLogger(__name__)

POLL_S = 0.5
GONE_S = 1.0  # between questions to a service that does not answer
PAUSE_S = 0.1  # between questions in any case, however many listeners come and go
RETRY_MS = 2000  # after which a browser connects again
MAX_LISTENERS = 64
FIRST_NOTICES = 50  # for a listener that has had none
KEPT_NOTICES = 200  # as many as the supervisor keeps
ANY_NUMBER = -(2**62)  # below the number of any notice


class Listener:
    """What is on its way to one client. `after` is the number of the last notice that it has had, if it tells."""

    def __init__(self, after: int | None) -> None:
        self.after = after
        self.wants_series = True
        self._news = asyncio.Event()
        self._once = deque([f"retry: {RETRY_MS}\n\n".encode()])
        self._notices: deque[bytes] = deque(maxlen=KEPT_NOTICES)
        self._state = b""
        self._has_ended = False

    def give_series(self, event: bytes) -> None:
        """Send the figures of the last minutes, once."""
        self.wants_series = False
        self._once.append(event)
        self._news.set()

    def give_state(self, event: bytes) -> None:
        """Send a status or `gone`, in place of one that it has not taken yet."""
        self._state = event
        self._news.set()

    def give_notice(self, number: int, event: bytes) -> None:
        """Send a notice."""
        self.after = number
        self._notices.append(event)
        self._news.set()

    def end(self) -> None:
        """Let `next` return what is still there, and then nothing."""
        self._has_ended = True
        self._news.set()

    async def next(self) -> bytes:
        """Wait for something to send; b"" is the end."""
        while not (self._once or self._notices or self._state or self._has_ended):
            self._news.clear()
            await self._news.wait()
        chunk = b"".join((*self._once, self._state, *self._notices))
        self._once.clear()
        self._notices.clear()
        self._state = b""
        return chunk


class Hub:
    """Who listens, and the poller, which `run` is."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._listeners: set[Listener] = set()
        self._joined = asyncio.Event()
        self._known: deque[Notice] = deque(maxlen=KEPT_NOTICES)
        self._has_ended = False

    @property
    def is_full(self) -> bool:
        """Whether there are as many listeners as there may be."""
        return len(self._listeners) >= MAX_LISTENERS

    @contextlib.contextmanager
    def listening(self, after: int | None) -> Iterator[Listener]:
        """Add a listener for as long as the context lasts."""
        listener = Listener(after)
        if self._has_ended:
            listener.end()
        self._listeners.add(listener)
        self._joined.set()
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def end(self) -> None:
        """Let all streams end."""
        self._has_ended = True
        for listener in self._listeners:
            listener.end()

    async def run(self) -> None:
        """Ask as long as somebody listens, for ever."""
        while True:
            if not self._listeners:
                self._known.clear()  # what happens meanwhile is asked for when somebody listens again
                self._joined.clear()
                await self._joined.wait()
            self._joined.clear()
            pause_s = POLL_S
            try:
                await self._poll()
            except MdsError as error:
                gone = encode("gone", orjson.dumps({"reason": str(error)}))
                for listener in self._listeners:
                    listener.give_state(gone)
                pause_s = GONE_S
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s - PAUSE_S):
                    await self._joined.wait()

    async def _poll(self) -> None:
        after = self._known[-1].number if self._known else ANY_NUMBER
        overview = await self._source.ask(lambda client: client.overview(after))
        if waiting := [listener for listener in self._listeners if listener.wants_series]:
            series = encode("series", _json(await self._source.ask(lambda client: client.series())))
            for listener in waiting:
                listener.give_series(series)
        new = self._unknown(overview.notices)
        self._known.extend(new)
        status = encode("status", overview.model_dump_json(exclude={"notices"}).encode())
        for listener in self._listeners:
            listener.give_state(status)
        notices = {notice.number: encode("notice", _json(notice), notice.number) for notice in self._known}
        earlier = list(notices)[:-FIRST_NOTICES]
        for listener in self._listeners:
            if listener.after is None:
                listener.after = earlier[-1] if earlier else ANY_NUMBER
            for number, event in notices.items():
                if number > listener.after:
                    listener.give_notice(number, event)

    def _unknown(self, notices: list[Notice]) -> list[Notice]:
        """Return those that are new: a new supervisor tells what happened before it again, under other numbers."""
        known = {(notice.timestamp, notice.source, notice.event, notice.text) for notice in self._known}
        return [n for n in notices if (n.timestamp, n.source, n.event, n.text) not in known]


class EventStream(Response):
    """A response that lasts until client or hub end it."""

    def __init__(self, hub: Hub, last_event_id: str) -> None:
        super().__init__()
        self._hub = hub
        self._after = _number(last_event_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what there is, as it comes."""
        if self._hub.is_full:
            full = JSONResponse({"detail": f"{MAX_LISTENERS} clients are listening already, try again later"}, 503)
            await full(scope, receive, send)
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        with self._hub.listening(self._after) as listener:
            leaving = asyncio.create_task(_end_with_client(listener, receive))
            try:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                while chunk := await listener.next():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            finally:
                leaving.cancel()


async def _end_with_client(listener: Listener, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    listener.end()


def encode(event: str, data: bytes, number: int | None = None) -> bytes:
    """Return an event; `data` is JSON on one line."""
    identity = f"id: {number}\n" if number is not None else ""
    return f"event: {event}\n{identity}data: ".encode() + data + b"\n\n"


def _json(model: BaseModel) -> bytes:
    return model.model_dump_json().encode()


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
