"""One attempt to connect to Kite, and the socket that came of it: the official KiteTicker with its faults fenced off.

Importing this imports Twisted's reactor, so `pipeline.kite.feed.install_reactor` comes first. No timer of Twisted's or
autobahn's runs here (they count on the wall clock, which can step): the feed watches, and ends what takes too long.
"""

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import certifi
from autobahn.twisted.websocket import connectWS
from kiteconnect.ticker import KiteTicker, KiteTickerClientProtocol
from twisted.internet.error import ConnectionClosed
from twisted.internet.ssl import Certificate, optionsForClientTLS, platformTrust, trustRootFromCertificates

from pipeline.kite.framing import frame_end, take_messages

MAX_MESSAGE_BYTES = 64 * 2**20  # a hundred full snapshots: a longer one is a broken length that would eat the rest
_STATUS_LINE = re.compile(r"HTTP/\S+\s+(\d{3})\b\s*(.*)")
_PEM = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended."""

    cause: Literal["closed", "refused", "silent", "failed"]
    reason: str = ""  # may hold secrets
    http_status: int | None = None  # where the server answered without opening a socket
    close_code: int | None = None  # 1006 where no close frame came


class Connection(KiteTicker):  # type: ignore[misc]  # the official client has no types
    """A KiteTicker for one attempt, which hands on raw messages and never retries.

    `on_open()` is called once the socket is open, `on_message(payload, is_binary)` for each message after that, and
    `wake()` when `opened_at` or `end` was set. They must not raise. After `abort` there is only the last `wake`.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        access_token: str,
        *,
        on_open: Callable[[], None],
        on_message: Callable[[bytes, bool], None],
        wake: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(quote(api_key, safe=""), quote(access_token, safe=""), root=url)
        self.opened_at: float | None = None  # by `clock`, seconds
        self.heard_at = clock()  # when the last byte came, heartbeats, pings and the handshake's answer included
        self.end: End | None = None  # set when the socket is gone
        self._clock = clock
        self._on_opened = on_open
        self._on_raw = on_message
        self._wake = wake
        self._aborted = False
        self._http_status: int | None = None
        self._reason = ""
        self._close_code: int | None = None
        self._connector: Any = None

    def connect(self) -> None:
        """Start to connect; the outcome shows in `opened_at` and `end`."""
        headers = {"X-Kite-Version": "3"}
        self._create_connection(self.socket_url, useragent=self._user_agent(), headers=headers, proxy=None)
        context = verified_tls(self.factory.host) if self.factory.isSecure else None
        self._connector = connectWS(self.factory, contextFactory=context, timeout=None)

    @property
    def is_open(self) -> bool:
        """Whether what is sent now goes out: after a close the official client says True and sends nothing."""
        return bool(self.is_connected())

    def hang_up(self) -> None:
        """Close an open socket with a close frame, and hand on what still arrives; abort what is not open."""
        if self.is_open:
            self.ws.sendClose(1000)
        else:
            self.abort()

    def abort(self) -> None:
        """Drop the socket or the attempt at once, whatever is unsent; `end` follows when it is gone."""
        self._aborted = True
        if self._connector is None or self.end is not None:
            return
        if self._connector.state == "connecting":
            self._connector.stopConnecting()
        elif self._connector.state == "connected":
            self._connector.transport.abortConnection()

    def _create_connection(self, url: str, **kwargs: Any) -> None:
        super()._create_connection(url, **kwargs)
        self.on_open = self._opened
        self.factory.noisy = False
        self.factory.protocol = _Protocol
        self.factory.connection = self
        self.factory.on_message = self._received  # instead of its own, which drops the socket when parsing raises
        # Its own would reconnect, with the token in its URL: stop_retry() is undone by each successful connect.
        self.factory.clientConnectionFailed = self._gone
        self.factory.clientConnectionLost = self._gone
        self.factory.setProtocolOptions(
            utf8validateIncoming=False,  # bad text is for the event log, not the end of the socket
            maxMessagePayloadSize=MAX_MESSAGE_BYTES,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            serverConnectionDropTimeout=0,
        )

    def _opened(self, _: Any) -> None:
        if not self._aborted:
            self.opened_at = self._clock()
            self._on_opened()
            self._wake()

    def _received(self, _: Any, payload: bytes, is_binary: bool) -> None:
        if not self._aborted:
            self._on_raw(payload, is_binary)

    def heard(self) -> None:
        """Note that bytes arrived."""
        self.heard_at = self._clock()

    def failed(self, reason: str, status_line: str = "") -> None:
        """Note what went wrong, with the HTTP status line where one came instead of a socket."""
        answer = _STATUS_LINE.match(status_line)
        if answer and answer[1] != "101":
            self._http_status = int(answer[1])
            reason = f"HTTP {answer[1]} {answer[2]}".rstrip()
        self._reason = reason

    def closed(self, code: int | None, reason: str | None) -> None:
        """Note what the WebSocket was closed with; the socket may still be there."""
        self._close_code = code
        self._reason = self._reason or reason or ""

    def _gone(self, _: Any, failure: Any) -> None:
        reason = self._reason or str(failure.value)
        if self._http_status is not None:
            self.end = End("refused", reason, self._http_status)
        elif self.opened_at is not None:
            self.end = End("closed", reason, close_code=self._close_code)
        else:
            self.end = End("failed", reason)
        self._wake()


class _Silent:
    """A logger for autobahn that says nothing: at debug level it would log the URL with its secrets.

    What matters of it reaches the feed as the reason of an `End`.
    """

    def __getattr__(self, _: str) -> Callable[..., None]:
        return self._nothing

    @staticmethod
    def _nothing(*_: Any, **__: Any) -> None:
        return None


class _Protocol(KiteTickerClientProtocol):  # type: ignore[misc]  # the official client has no types
    """The official protocol, which tells its Connection about bytes, refusals and closes."""

    log = _Silent()
    data: bytes  # not read yet; empty within a frame
    message_data: list[bytes] | None
    frame_data: list[bytes] | None

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        self.factory.connection.heard()
        if self.state == self.STATE_OPEN:
            data, self.data = self.data + data, b""
        at = 0
        while at < len(data) and self.state == self.STATE_OPEN:
            if self.current_frame is not None:
                end = at + self.current_frame.length - self.current_frame_masker.pointer()
            else:
                if not self.inside_message:
                    # Small frames would else cost a worker a third more: autobahn's way takes a dozen calls for each.
                    payloads, at, is_begun = take_messages(data, at)
                    for payload in payloads:
                        self.onMessage(payload, True)
                    if is_begun or at == len(data):
                        self.data = data[at:]  # where autobahn goes on reading, should we hang up meanwhile
                        return
                end = frame_end(data, at)
            super().dataReceived(data[at:end])  # one frame, or what there is of it: small ones may follow
            at = end
        if at < len(data):
            super().dataReceived(data[at:])

    def onMessageEnd(self) -> None:  # noqa: N802  autobahn's name
        # autobahn's own also makes two Deferreds a message for listeners that nobody registers.
        if not self.failedByMe and self.message_data is not None:
            self._onMessage(b"".join(self.message_data), self.message_is_binary)
        self.message_data = None

    def onCloseFrame(self, code: int | None, reason: bytes | None) -> Any:  # noqa: N802  autobahn's name
        stop = super().onCloseFrame(code, reason)
        self.transport.loseConnection()  # after the reply; autobahn waits, for ever, until the server does it
        return stop

    def onClose(self, was_clean: bool, code: int | None, reason: str | None) -> None:  # noqa: N802  autobahn's name
        self.factory.connection.closed(code, reason if was_clean else self.wasNotCleanReason)

    def connectionLost(self, reason: Any) -> None:  # noqa: N802  Twisted's name
        if not isinstance(reason.value, ConnectionClosed):  # TLS; autobahn calls a foreign certificate a peer's drop
            self.factory.connection.failed(f"{'TLS failed: ' if self.factory.isSecure else ''}{reason.value!r}")
        super().connectionLost(reason)
        # The protocol is in cycles with its transport and factory: a large message cut short would stay for a while.
        self.data = b""
        self.message_data = self.frame_data = None

    def failHandshake(self, reason: str) -> None:  # noqa: N802  autobahn's name
        self.factory.connection.failed(reason, self.http_status_line)
        super().failHandshake(reason)

    def _loop_ping(self) -> None:
        """Do nothing: the official one sets a timer and sends no ping."""

    def _loop_pong_check(self) -> None:
        """Do nothing: without pings no pong can be late."""


def verified_tls(host: str) -> Any:
    """Return TLS settings that let a connection be only with the owner of `host`, a name or an IP address.

    The official client checks nothing. Here certificate and name are checked in the handshake, before a byte of ours
    is sent. Trusted is what SSL_CERT_FILE and SSL_CERT_DIR name, else the system's authorities, else (in a container
    that has none) those of the certifi package.
    """
    return optionsForClientTLS(host, trustRoot=_platform_trust() or _certifi_trust())


def _platform_trust() -> Any:
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())):
        return platformTrust()  # type: ignore[no-untyped-call]  # Twisted's
    return None


def _certifi_trust() -> Any:
    bundle = Path(certifi.where()).read_text(encoding="ascii")
    certificates = [Certificate.loadPEM(pem) for pem in _PEM.findall(bundle)]
    return trustRootFromCertificates(certificates)  # type: ignore[no-untyped-call]  # Twisted's
