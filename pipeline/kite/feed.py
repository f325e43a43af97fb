"""The feed: keeps one Kite connection open, watched and subscribed, and hands on its raw messages.

The pure part says what a text message is, what to send next and when to try again. `Feed` is the shell around it: one
coroutine that wakes when something changed or is due, looks, and does the next thing. Messages do not pass through
it: they go from the socket straight to the listener. Nothing here decodes a tick or knows what a connection is for.
"""

import asyncio
import logging
import math
import random
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import orjson

from pipeline.backoff import exponential
from pipeline.config import Mode
from pipeline.log import redact

if TYPE_CHECKING:
    from pipeline.kite.connection import Connection, End

log = logging.getLogger(__name__)

SILENCE_S = 6.0  # Kite's heartbeat comes every second or two: three missed in a row
CONNECT_S = 10.0  # for name, TCP, TLS and WebSocket together: three lost SYNs, 1 + 2 + 4 s, still fit
CLOSE_S = 1.0  # for the server's answer to a close frame, and for a dropped socket to be gone
STABLE_S = 10.0  # a connection that was live for longer has earned an immediate try
RETRY_FIRST_S, RETRY_CAP_S = 0.5, 10.0
RETRY_429_S = 1.0  # the broker counts a ghost or a fourth connection: at most one try a second
RETRY_403_S = 60.0  # a refused token seldom comes back to life; a new one wakes the feed
NO_CLOSE_FRAME = 1006  # as the code of a close (RFC 6455, 7.4.1)
PAUSE_S = 0.01  # between batches of a subscription: frames are read meanwhile
MAX_TEXT_BYTES = 2**20  # an order update has about one thousand; more is not parsed
KEPT_TEXT_CHARS = 4096  # of a text message that is nothing known
REASON_CHARS = 200  # of what the server gave as its reason

TokenCheck = Callable[[str, str], Awaitable[bool | None]]  # API key and access token; None: nobody can tell
_Told = TypeVar("_Told")
State = Literal["idle", "connecting", "live", "waiting", "unauthorised", "stopped"]
Cause = Literal["closed", "refused", "silent", "failed"]


@dataclass(frozen=True, slots=True)
class StateChange:
    """What the feed does from now on, and why it no longer does what it did."""

    state: State
    cause: Cause | None = None  # of what ended: live -> closed, silent; connecting -> refused, silent, failed; with
    # idle, stopped closed or silent: it was closed, and the server did not answer with a close frame
    reason: str = ""  # for people, without secrets
    http_status: int | None = None  # with refused: 403 bad token, 429 too many connections
    close_code: int | None = None  # with closed: the server's, 1006 where it sent none
    retry_in_s: float | None = None  # with waiting; with unauthorised None: not before there is another token
    is_new: bool = True  # False: it was idle meanwhile, and waits on


class Listener(Protocol):
    """Who is told. Called on the event loop, in order; must not block. What it raises is logged and counted."""

    def on_frame(self, payload: bytes) -> None:
        """Take a binary message as it came, heartbeats included."""

    def on_text(self, payload: bytes) -> None:
        """Take a text message as it came, which may not even be UTF-8; `classify_text` reads it."""

    def on_state(self, change: StateChange) -> None:
        """Take note of what the feed does now."""

    def on_sent(self, batch: "Batch") -> None:
        """Take note of what has just been sent to Kite, as `confirmed` tells from now on."""


@dataclass(frozen=True, slots=True)
class TextMessage:
    """A text message of Kite's: `kind` is its type (order, error, message, instruments_meta, ... or one unheard of).

    "untyped" is JSON without a type, "invalid" no JSON, "oversized" one that was not parsed.
    """

    kind: str
    data: Any  # its "data"; the whole of it where there is none; None where it was not read
    text: str  # as it came, cut, undecodable bytes replaced


def classify_text(payload: bytes) -> TextMessage:
    """Read a text message. Never raises."""
    text = payload[: 4 * KEPT_TEXT_CHARS].decode("utf-8", "replace")[:KEPT_TEXT_CHARS]
    if len(payload) > MAX_TEXT_BYTES:
        return TextMessage("oversized", None, text)
    try:
        message = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return TextMessage("invalid", None, text)
    if isinstance(message, dict) and isinstance(message.get("type"), str):
        return TextMessage(message["type"], message.get("data", message), text)
    return TextMessage("untyped", message, text)


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that are sent together: tokens that get one mode, or are to go."""

    action: Literal["unsubscribe", "subscribe", "mode"]
    tokens: tuple[int, ...]
    mode: Mode | None = None


def next_batch(confirmed: Mapping[int, Mode], wanted: Mapping[int, Mode], batch_size: int) -> Batch | None:
    """Return what to send next so that `confirmed` becomes `wanted`, None when it is.

    What is to go comes first, which keeps the connection under Kite's limit; then what is new, the latest first, so
    that a small request does not wait for a large one before it; then changes of mode.
    """
    if gone := tuple(islice((token for token in confirmed if token not in wanted), batch_size)):
        return Batch("unsubscribe", gone)
    for action, due in (
        ("subscribe", [token for token in wanted if token not in confirmed]),
        ("mode", [token for token, mode in wanted.items() if confirmed.get(token, mode) != mode]),
    ):
        if due:
            mode = wanted[due[-1]]
            same = list(islice((token for token in reversed(due) if wanted[token] == mode), batch_size))
            return Batch("subscribe" if action == "subscribe" else "mode", tuple(reversed(same)), mode)
    return None


class Retry:
    """When to try again, from how attempts ended."""

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._reset()

    def _reset(self) -> None:
        self._delays = exponential(RETRY_FIRST_S, RETRY_CAP_S, self._uniform)
        self._immediate = True

    def delay_s(self, cause: Cause, http_status: int | None, live_s: float) -> float:
        """Return the seconds to wait after an attempt that was live for `live_s` (0: never).

        A connection that closed or fell silent is tried again at once, the first time; then, as for failures, the
        wait doubles. Being live for long enough makes it the first time again.
        """
        if http_status == 403:
            return RETRY_403_S
        if http_status == 429:
            return RETRY_429_S + self._uniform(0, RETRY_429_S)
        if live_s > STABLE_S:
            self._reset()
        if self._immediate and cause in ("closed", "silent"):
            self._immediate = False
            return 0.0
        return next(self._delays)


def install_reactor(loop: asyncio.AbstractEventLoop) -> None:
    """Put Twisted on `loop`, once in a process and before anything imports kiteconnect.

    The loop is run and stopped by asyncio, signals stay with the caller, and the reactor, which holds nothing
    but the sockets of feeds, is never stopped. Raises where the process has a reactor already.
    """
    from twisted.internet.asyncioreactor import AsyncioSelectorReactor  # noqa: PLC0415  only workers need Twisted
    from twisted.internet.main import installReactor  # noqa: PLC0415  only workers need Twisted

    reactor = AsyncioSelectorReactor(loop)
    installReactor(reactor)  # type: ignore[no-untyped-call]  # Twisted has no types here
    reactor.startRunning(installSignalHandlers=False)
    reactor.getThreadPool().threadFactory = _ResolverThread


def log_twisted() -> None:
    """Let what Twisted and autobahn complain of be logged like all else, not written to stderr as it comes."""
    from twisted.logger import STDLibLogObserver, globalLogBeginner  # noqa: PLC0415  only workers need Twisted

    logging.getLogger("twisted").setLevel(logging.WARNING)  # every socket that comes or goes is info to it
    observer: Any = STDLibLogObserver()  # Twisted's types do not see that it is one
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)


class _ResolverThread(threading.Thread):
    """Where Twisted looks names up. A daemon: the end of the process does not wait for a name server."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)


def _at_rest(end: "End | None", secrets: tuple[str, str]) -> StateChange:
    """Return how a live socket was closed: with a close frame in answer to ours all has come that was sent before."""
    if end is None:
        return StateChange("idle", "silent", "the server did not answer when it was closed")
    if end.close_code == NO_CLOSE_FRAME:
        reason = redact(f"the server dropped it when it was closed: {end.reason}", filter(None, secrets))
        return StateChange("idle", "closed", reason[:REASON_CHARS], close_code=end.close_code)
    return StateChange("idle")


def _finite(seconds: float) -> float | None:
    return None if seconds == math.inf else seconds


class Feed:
    """One Kite connection: open while it is needed, subscribed to exactly what is wanted, replaced when it dies.

    Lives on the running asyncio loop, with `install_reactor` done. `clock` counts seconds and never steps.
    `is_accepted` is asked when a connect is refused with 403, and if the token is refused there too, it is not tried
    again.
    """

    def __init__(
        self,
        *,
        url: str,
        api_key: str,
        access_token: str,
        batch_size: int,
        listener: Listener,
        is_accepted: TokenCheck | None = None,
        silence_s: float = SILENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state: State = "idle"
        self.listener_errors = 0  # exceptions that the listener raised
        self._url = url
        self._credentials = (api_key, access_token)
        self._batch_size = batch_size
        self._listener = listener
        self._is_accepted = is_accepted
        self._silence_s = silence_s
        self._clock = clock
        self._wanted: dict[int, Mode] = {}
        self._keep_open = False
        self._confirmed: dict[int, Mode] = {}
        self._retry = Retry()
        self._next_try_at = clock()
        self._ended = StateChange("waiting")  # how the last attempt did
        self._at_rest = StateChange("idle")
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def confirmed(self) -> Mapping[int, Mode]:
        """What has been sent to Kite on the present socket."""
        return self._confirmed

    def set_instruments(self, wanted: Mapping[int, Mode], *, keep_open: bool = False) -> None:
        """Replace the whole set of wanted instruments; differences are sent as soon as the socket is open.

        Without instruments there is no socket, unless it is to be kept open.
        """
        self._wanted = dict(wanted)
        self._keep_open = keep_open
        self._wake.set()

    def set_credentials(self, api_key: str, access_token: str) -> None:
        """Use these from the next attempt on, which is made now if the feed waits. A live socket is left alone."""
        self._credentials = (api_key, access_token)
        self._next_try_at = self._clock()
        self._wake.set()

    def start(self) -> asyncio.Task[None]:
        """Begin, and return the task that does it. It ends by `stop`; an exception in it is a fault of the feed."""
        if "twisted.internet.reactor" not in sys.modules:
            raise RuntimeError("install_reactor comes before Feed.start")
        self._task = asyncio.create_task(self._run())
        return self._task

    async def stop(self) -> None:
        """Close the socket, in little more than CLOSE_S at worst, for good. Afterwards the listener hears nothing."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        while not self._stopping:
            wait_s = self._next_try_at - self._clock()
            if not self._is_needed:
                if self.state != "idle":
                    self._change(self._at_rest)
                    self._at_rest = StateChange("idle")
                await self._woken()
            elif wait_s > 0:
                if self.state == "idle":
                    self._change(replace(self._ended, retry_in_s=_finite(wait_s), is_new=False))
                await self._woken(wait_s)
            else:
                await self._attempt()
        self._change(replace(self._at_rest, state="stopped"))

    @property
    def _is_needed(self) -> bool:
        return bool(self._wanted) or self._keep_open

    async def _woken(self, at_most_s: float = math.inf) -> None:
        try:
            async with asyncio.timeout(None if at_most_s == math.inf else at_most_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _attempt(self) -> None:
        """Connect, and stay until the socket is gone."""
        from pipeline.kite.connection import Connection  # noqa: PLC0415  imports the reactor, which is installed now

        credentials = self._credentials
        log.debug("connecting")
        self._change(StateChange("connecting"))
        connection = Connection(
            self._url,
            *credentials,
            on_open=self._opened,
            on_message=self._received,
            wake=self._wake.set,
            clock=self._clock,
        )
        try:
            end = await self._serve(connection, credentials)
        finally:
            connection.abort()
            self._confirmed = {}
        if end is None:
            return
        live_s = 0.0 if connection.opened_at is None else self._clock() - connection.opened_at
        wait_s = self._retry.delay_s(end.cause, end.http_status, live_s)
        reason = end.reason
        if end.http_status == 403 and await self._is_refused(credentials):
            wait_s, reason = math.inf, f"{end.reason}; Kite refuses the access token: log in with: mds login"
        if credentials is not self._credentials:  # they came while the old ones were being refused
            wait_s = 0.0
        self._next_try_at = self._clock() + wait_s
        self._ended = StateChange(
            "unauthorised" if end.http_status == 403 else "waiting",
            end.cause,
            redact(reason, filter(None, credentials))[:REASON_CHARS],
            end.http_status,
            end.close_code,
            _finite(wait_s),
        )
        self._change(self._ended)

    async def _is_refused(self, credentials: tuple[str, str]) -> bool:
        """Ask whether the token is refused for good; False where nobody can tell, or nobody wants to know any more."""
        if self._is_accepted is None:
            return False
        asking = asyncio.ensure_future(self._is_accepted(*credentials))
        asking.add_done_callback(lambda _: self._wake.set())
        while not (asking.done() or self._stopping or credentials is not self._credentials):
            await self._woken()
        return asking.done() and asking.result() is False

    async def _serve(self, connection: "Connection", secrets: tuple[str, str]) -> "End | None":
        """Return how the connection ended, None where this side wished it."""
        from pipeline.kite.connection import End  # noqa: PLC0415  imports the reactor, which is installed now

        connect_by = self._clock() + CONNECT_S
        try:
            connection.connect()
            while connection.end is None:
                if self._stopping or not self._is_needed:
                    self._confirmed = {}
                    connection.hang_up()
                    await self._gone(connection)
                    if connection.opened_at is not None:
                        self._at_rest = _at_rest(connection.end, secrets)
                    return None
                if connection.opened_at is None:
                    left_s, limit = connect_by - self._clock(), f"no connection within {CONNECT_S:g} s"
                else:
                    left_s = connection.heard_at + self._silence_s - self._clock()
                    limit = f"no byte for {self._silence_s:g} s"
                if left_s <= 0:
                    self._confirmed = {}
                    connection.abort()
                    await self._gone(connection)
                    return End("silent", limit)
                if self._send_next(connection):
                    left_s = min(left_s, PAUSE_S)
                await self._woken(left_s)
        except Exception as error:  # noqa: BLE001  a client that raises plain Exception; a fault in it costs one attempt
            told = {"traceback": redact(traceback.format_exc(), filter(None, secrets))}
            log.error("the Kite client failed, the connection is tried again", extra=told)
            return End("failed", f"{type(error).__name__}: {error}")
        return connection.end

    async def _gone(self, connection: "Connection") -> None:
        """Wait until the socket is gone, for CLOSE_S at most."""
        give_up_at = self._clock() + CLOSE_S
        while connection.end is None and (left_s := give_up_at - self._clock()) > 0:
            await self._woken(left_s)

    def _send_next(self, connection: "Connection") -> bool:
        """Send one batch of what Kite does not know yet; False where there is nothing to send, or no way."""
        batch = next_batch(self._confirmed, self._wanted, self._batch_size) if connection.is_open else None
        if batch is None:
            return False
        tokens = list(batch.tokens)
        if batch.mode is None:
            connection.unsubscribe(tokens)
            for token in tokens:
                del self._confirmed[token]
        else:
            if batch.action == "subscribe":
                connection.subscribe(tokens)
            connection.set_mode(batch.mode, tokens)
            self._confirmed.update(dict.fromkeys(tokens, batch.mode))
        log.debug("sent to Kite: %s of %d instruments, mode %s", batch.action, len(tokens), batch.mode)
        self._tell(self._listener.on_sent, batch)
        return True

    def _opened(self) -> None:
        self._change(StateChange("live"))

    def _received(self, payload: bytes, is_binary: bool) -> None:
        self._tell(self._listener.on_frame if is_binary else self._listener.on_text, payload)

    def _change(self, change: StateChange) -> None:
        self.state = change.state
        self._tell(self._listener.on_state, change)

    def _tell(self, hear: Callable[[_Told], None], what: _Told) -> None:
        """Call the listener, whose faults must not end the feed; the official client would drop the socket."""
        try:
            hear(what)
        except Exception:
            self.listener_errors += 1
            if self.listener_errors.bit_count() == 1:  # the 1st, 2nd, 4th, ...: one a frame would fill the disk
                log.exception("the feed's listener failed (%d times by now), the feed goes on", self.listener_errors)
