"""What a client may hold of the server: uvicorn's protocol, with limits on time and connections.

A head has HEAD_S to arrive, and an idle connection IDLE_S to go on. Who does not take an answer is cut off after
STALLED_S. Where there are too many connections, the oldest that has never asked for anything gives way. What is no
request at all is answered with the fitting 4xx, and the socket kept open for a moment for the answer to be read: closed
on data that is still coming, it would be lost.
"""

import asyncio
import sys
from http import HTTPStatus
from typing import Any

import h11
import orjson
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.web.guard import MAX_HEAD, MAX_REQUESTS

HEAD_S = 10.0
IDLE_S = 15
STALLED_S = 30.0
LINGER_S = 2.0
BACKLOG = 128  # connections that wait to be accepted; so many may be open above the limit for a moment
END_S = 0.5  # for an answer to be sent when the process ends
MAX_CONNECTIONS = 2 * MAX_REQUESTS  # of more, the oldest that has not asked yet is closed, or else the new one


class Protocol(H11Protocol):
    """One connection of a client."""

    _overdue: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _is_refused = False
    made_s = 0.0  # monotonic

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn's
        """Expect a head."""
        super().connection_made(transport)
        self.made_s = self.loop.time()
        if len(self.connections) > MAX_CONNECTIONS and not self._make_room():
            transport.abort()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what was expected."""
        self._stop_clock()
        self._stop_stall_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what has come."""
        if self._is_refused:
            return
        super().data_received(data)
        if not self._is_refused and not self.transport.is_closing():
            self._expect_head()

    def on_response_complete(self) -> None:
        """Go on with what has come meanwhile."""
        super().on_response_complete()
        if not self._is_refused and not self.transport.is_closing():
            self._expect_head()

    def pause_writing(self) -> None:
        """Give the client some time to read."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: it has read."""
        self._stop_stall_clock()
        super().resume_writing()

    def shutdown(self) -> None:
        """End with the process, soon."""
        self.loop.call_later(END_S, self.transport.abort)
        super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Answer what h11 has found to be no request, which is the exception that is being handled."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        if status == HTTPStatus.NOT_IMPLEMENTED:  # of a way to send a body, where none is wanted at all
            status = HTTPStatus.LENGTH_REQUIRED
        self._refuse(status, msg if status != 431 else f"the head of the request has more than {MAX_HEAD} bytes")

    def _make_room(self) -> bool:
        """Close the oldest connection that has not asked for anything; return False where all have."""
        others = [other for other in self.connections if isinstance(other, Protocol) and other is not self]
        silent = [other for other in others if other.cycle is None and not other.transport.is_closing()]
        if silent:
            min(silent, key=lambda other: other.made_s).transport.abort()
        return bool(silent)

    def _expect_head(self) -> None:
        """Start the clock when a head begins, on a new connection at once, and stop it when it is complete."""
        is_first = self.cycle is None
        is_head = self.conn.their_state is h11.IDLE and (is_first or bool(self.conn.trailing_data[0]))
        if is_head and self._overdue is None:
            self._unset_keepalive_if_required()
            self._overdue = self.loop.call_later(HEAD_S, self._head_is_overdue)
        elif not is_head:
            self._stop_clock()

    def _stop_clock(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _stop_stall_clock(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _head_is_overdue(self) -> None:
        self._refuse(408, f"the head of the request has not arrived within {HEAD_S:.0f} s")

    def _refuse(self, status: int, detail: str) -> None:
        """Answer and close; without an answer where another one has begun."""
        self._is_refused = True
        self.flow.resume_reading()
        self._stop_clock()
        self._unset_keepalive_if_required()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = orjson.dumps({"detail": detail})
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("connection", "close"),
        ]
        reason = HTTPStatus(status).phrase.encode()
        for event in (
            h11.Response(status_code=status, headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.abort)


class Server(uvicorn.Server):
    """uvicorn's server; signals are the process's own business."""

    def __init__(self, app: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=IDLE_S,
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=MAX_HEAD,
            )
        )

    async def serve(self, sockets: Any = None) -> None:
        """Serve on these sockets until `should_exit` is set."""
        await self._serve(sockets)
