"""The server: who is let in, the clock that drives all connections, and the pages that tell and change its state.

    GET /?api_key=K&access_token=T   the feed, a WebSocket
    /user/profile, /instruments ...  the REST API, which `rest` answers
    GET /stats                       what is subscribed and was sent, as JSON
    GET /tokens                      the market's list of instruments, as JSON
    GET /rate?ticks_per_second=N     so many on each connection from now on
    GET /fault?do=KIND&...           a fault from now on: connection, after, for, every, status; do=clear ends all

No page of these and no log line shows a key or a token.
"""

import asyncio
import logging
import time
from collections import deque
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

from pydantic import ValidationError
from websockets.asyncio.server import Server as WebSocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from pipeline.config import Config
from pipeline.config import Simulator as Settings
from pipeline.errors import ConfigError
from pipeline.simulator import market
from pipeline.simulator.accounts import Accounts
from pipeline.simulator.answers import error, json
from pipeline.simulator.connection import Connection
from pipeline.simulator.faults import Faults, from_fields
from pipeline.simulator.rest import Question, Rest
from pipeline.simulator.session import Session

log = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 3  # for one API key, Kite's limit
TIMER_S: Final = 0.01
CLOSE_S: Final = 1.0  # for a client to answer the closing handshake
_CLOSED_KEPT: Final = 1000  # connections that `/stats` still knows after their end


class Simulator:
    """Kite's feed and REST API, on one port. With an API secret, who asks for a session must know it."""

    def __init__(self, config: Config, faults: Faults, api_secret: str = "") -> None:
        self._settings = config.simulator
        credentials = (config.api_key.get_secret_value(), config.access_token.get_secret_value())
        self._accounts = Accounts(*credentials, api_secret)
        self._market = market.Market(config.simulator.seed)
        self._faults = faults
        self._rest = Rest(config, self._accounts, self._market, faults, self._now_s)
        self._sessions: dict[ServerConnection, Session] = {}
        self._keys: dict[ServerConnection, str] = {}
        self._accepted = 0
        self._refused = {403: 0, 429: 0}
        self._closed: deque[dict[str, int]] = deque(maxlen=_CLOSED_KEPT)
        self._closed_ticks = 0
        self._watchers: set[asyncio.Task[None]] = set()
        self._started_at = time.monotonic()
        self._server: WebSocketServer
        self.url = ""
        self.api_url = ""

    async def start(self) -> None:
        """Listen; `url` and, for REST, `api_url` are where.

        Raises ConfigError when the address cannot be had, or there is no folder for the record.
        """
        if self._settings.record is not None:
            try:
                self._settings.record.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"simulator.record: {self._settings.record}: {error.strerror}") from None
        # At debug level websockets logs the request line, and with it the secrets; failures are logged here.
        quiet = logging.getLogger("pipeline.simulator.websockets")
        quiet.setLevel(logging.CRITICAL)
        host, port = self._settings.host, self._settings.port
        try:
            self._server = await serve(
                self._serve,
                host,
                port,
                process_request=self._answer,
                create_connection=Connection,
                compression=None,
                ping_interval=None,
                close_timeout=CLOSE_S,
                server_header=None,
                logger=quiet,
            )
        except OSError as error:
            raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror}; --port names another") from None
        self._started_at = time.monotonic()
        address = f"{host}:{next(iter(self._server.sockets)).getsockname()[1]}"
        self.url, self.api_url = f"ws://{address}", f"http://{address}"
        log.info("market with seed %d, %d ticks/s on each connection", self._settings.seed, self._settings.rate)

    async def run(self, stop: asyncio.Event) -> None:
        """Drive all connections until `stop` is set, then close them."""
        last = time.monotonic()
        while not stop.is_set():
            await asyncio.sleep(TIMER_S)
            now = time.monotonic()
            self._apply_faults(now - self._started_at)
            for session in list(self._sessions.values()):
                session.pump(now - last, now)
            last = now
        self._server.close()
        try:
            await asyncio.wait_for(self._server.wait_closed(), CLOSE_S)
        except TimeoutError:
            for session in list(self._sessions.values()):
                session.abort()

    def stats(self) -> dict[str, Any]:
        """Return what `/stats` shows; `closed` are connections that are gone."""
        sessions = list(self._sessions.values())
        return {
            "connections": [session.stats() for session in sessions],
            "ticks_sent_total": self._closed_ticks + sum(session.ticks_sent for session in sessions),
            "refused": {str(status): number for status, number in self._refused.items()},
            **self._rest.stats(),
            "closed": list(self._closed),
            "faults": [str(fault) for fault in self._faults.pending(self._now_s())],
        }

    def _now_s(self) -> float:
        """Return the seconds since the start, in which faults are timed."""
        return time.monotonic() - self._started_at

    def _apply_faults(self, now_s: float) -> None:
        for session in self._sessions.values():
            self._apply_to(session, now_s)
        for fault in self._faults.take_aborts(now_s):
            concerned = [s for s in self._sessions.values() if fault.concerns(s.number)]
            log.warning("fault %s: %d connections dropped", fault, len(concerned))
            for session in concerned:
                session.abort()

    def _apply_to(self, session: Session, now_s: float) -> None:
        silence = self._faults.find("silence", now_s, session.number)
        malformed = self._faults.find("malformed", now_s, session.number)
        session.silent = silence is not None
        session.malformed_every = malformed.value if malformed else 0

    async def _answer(self, ws: ServerConnection, request: Request) -> Response | None:
        """Return the answer to an HTTP request, or None where the opening handshake goes on."""
        connection = cast("Connection", ws)
        url = urlsplit(request.path)
        pairs = parse_qsl(url.query)
        question = Question(connection.method, url.path, pairs, request.headers, connection.body)
        response = await self._rest.answer(question)
        if response is not None:
            return response
        if question.method != "GET":
            return error(405)
        query = dict(pairs)
        match url.path:
            case "/" | "":
                return self._admit(ws, query, is_upgrade="Upgrade" in request.headers)
            case "/stats":
                return json(self.stats())
            case "/tokens":
                return json(market.tokens(self._settings.instruments))
            case "/rate":
                return self._set_rate(query)
            case "/fault":
                return self._set_fault(query)
        return error(404, f"there are {', '.join(self._rest.paths)}, /stats, /tokens, /rate, /fault and the feed at /")

    def _admit(self, ws: ServerConnection, query: dict[str, str], *, is_upgrade: bool) -> Response | None:
        key, token = query.get("api_key", ""), query.get("access_token", "")
        fault = self._faults.find("refuse", self._now_s())
        if fault is not None:
            return self._refuse(fault.value, "fault")
        if not self._accounts.is_good(key, token):
            return self._refuse(403, "credentials")
        if list(self._keys.values()).count(key) >= CONNECTIONS_MAX:
            return self._refuse(429, f"{CONNECTIONS_MAX} connections are open")
        if not is_upgrade:
            return None  # websockets answers it with 426
        self._accepted += 1
        session = Session(self._accepted, ws, self._market, self._settings)
        self._apply_to(session, self._now_s())
        self._sessions[ws], self._keys[ws] = session, key
        watcher = asyncio.create_task(self._forget_when_closed(ws))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return None

    def _refuse(self, status: int, reason: str) -> Response:
        self._refused[status] += 1
        log.warning("connect refused with %d: %s", status, reason)
        return error(status)

    def _set_rate(self, query: dict[str, str]) -> Response:
        try:
            section = Settings.model_validate({"rate": query.get("ticks_per_second")})
        except ValidationError as wrong:
            return json({"error": f"ticks_per_second: {wrong.errors()[0]['msg'].lower()}"}, HTTPStatus.BAD_REQUEST)
        self._settings = self._settings.model_copy(update={"rate": section.rate})
        for session in self._sessions.values():
            session.rate = section.rate
        log.info("%d ticks/s on each connection", section.rate)
        return json({"ticks_per_second": section.rate})

    def _set_fault(self, query: dict[str, str]) -> Response:
        now_s = self._now_s()
        if query.get("do") == "clear":
            self._faults.clear()
        else:
            try:
                fault = from_fields(query, now_s)
            except ConfigError as wrong:
                return json({"error": str(wrong)}, HTTPStatus.BAD_REQUEST)
            self._faults.add(fault)
            log.warning("fault %s asked for", fault)
        self._apply_faults(now_s)
        return json({"faults": [str(fault) for fault in self._faults.pending(now_s)]})

    async def _serve(self, ws: ServerConnection) -> None:
        session = self._sessions[ws]
        log.info("connection %d: open", session.number)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        session.say(
            {"type": "instruments_meta", "data": {"count": self._settings.instruments, "etag": 'W/"simulator"'}}
        )
        session.say({"type": "app_code", "timestamp": now})
        try:
            async for message in ws:
                session.request(message)
        except ConnectionClosed:
            pass  # without a closing handshake; _forget_when_closed logs it
        except Exception:
            log.exception("connection %d: request failed", session.number)

    async def _forget_when_closed(self, ws: ServerConnection) -> None:
        await ws.wait_closed()
        session = self._sessions.pop(ws)
        del self._keys[ws]
        self._closed.append({"id": session.number, "ticks_sent": session.ticks_sent})
        self._closed_ticks += session.ticks_sent
        log.info("connection %d: closed (%s) after %d ticks", session.number, ws.close_code, session.ticks_sent)
        session.close_record()
