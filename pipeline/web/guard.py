"""What every request has to pass before anything answers it, and what every answer carries.

In this order: the name that the server is called by, the token, the method, the length of the head, the body. A page
that somebody opens may not read this server through the browser: it may resolve its own name to our address (DNS
rebinding), but it cannot change the Host header, which then has that name. Only the probe is anybody's: what asks
whether a container lives has no token, and calls it by any name; the answer tells nothing but that there is one.
"""

import asyncio
import hmac
import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.config import Http, is_loopback
from pipeline.web.page import DOCS, NOTHING, Page

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024  # bytes; no request needs one at all
MAX_HEAD = 32 * 1024
BODY_S = 5.0  # for a body to arrive, or for one that is too large to be read and dropped
MAX_REQUESTS = 200  # that are being answered at a time; those that only arrive do not count
METHODS = "GET, HEAD"
PROBE = "/live"
ALWAYS = {
    b"cache-control": b"no-store",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}

JSON = b"application/json"

_Headers = list[tuple[bytes, bytes]]


class RefusalError(Exception):
    """A request is not answered as it was meant."""

    def __init__(self, status: int, detail: str, *headers: tuple[bytes, bytes], page: bytes | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.headers: _Headers = [*headers, (b"content-type", b"text/html; charset=utf-8" if page else JSON)]
        self.body = page or orjson.dumps({"detail": detail})


class Guard:
    """Stands before the application. `page` is what `/` shows to who has no token yet: it holds no data, and asks."""

    def __init__(self, app: ASGIApp, settings: Http, page: Page) -> None:
        self._app = app
        self._page = page
        self._is_host = _host_check(settings)
        self._token = settings.token.get_secret_value().encode()
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path, headers = scope["path"], scope["headers"]
        policy = self._page.policy if path == "/" else DOCS if path.startswith("/docs") else NOTHING
        answer = _Answer(send, policy, is_head=scope["method"] == "HEAD")
        try:
            self._check(scope)
            nothing = await _read_body(headers, receive)
        except RefusalError as refusal:
            await _refuse(refusal, _has_body(headers), receive, answer)
            return
        self._in_flight += 1
        try:
            await self._app({**scope, "method": "GET"}, answer.receive(receive, nothing), answer)
        except Exception:  # it has been answered; the next request is another one
            log.exception("the request %s has failed", path)
        finally:
            self._in_flight -= 1

    def _check(self, scope: Scope) -> None:
        if scope["path"] != PROBE:
            self._check_client(scope)
        if scope["method"] not in ("GET", "HEAD"):
            raise RefusalError(405, f"only {METHODS}: changes go through mds", (b"allow", METHODS.encode()))
        head = len(scope["raw_path"]) + len(scope["query_string"])
        if head + sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD:
            raise RefusalError(431, f"the head of the request has more than {MAX_HEAD} bytes")

    def _check_client(self, scope: Scope) -> None:
        if self._in_flight >= MAX_REQUESTS:
            raise RefusalError(503, f"{MAX_REQUESTS} requests are being answered already, try again later")
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or not self._is_host(hosts[0].decode("latin-1")):
            raise RefusalError(400, "the Host header names another server: call it by its address, or set http.hosts")
        if self._token and not self._has_token(scope["headers"]):
            challenge = (b"www-authenticate", b"Bearer")
            page = self._page.document if scope["path"] == "/" and scope["method"] in ("GET", "HEAD") else None
            raise RefusalError(401, "the header Authorization: Bearer <http.token> is needed", challenge, page=page)

    def _has_token(self, headers: _Headers) -> bool:
        given = [value for name, value in headers if name == b"authorization"]
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        return hmac.compare_digest(token.strip(), self._token) and scheme.lower() == b"bearer"


class _Answer:
    """Adds the headers that every answer has; of an answer to HEAD the body is left out, and its stream ended."""

    def __init__(self, send: Send, policy: str, *, is_head: bool) -> None:
        self._send = send
        self._headers = ALWAYS | {b"content-security-policy": policy.encode()}
        self._is_head = is_head
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = list(message.get("headers", ()))
            given = {name.lower() for name, _ in headers}
            added = [(name, value) for name, value in self._headers.items() if name not in given]
            await self._send({**message, "headers": headers + added})
            if self._is_head:
                await self._send({"type": "http.response.body", "body": b""})
        elif not self._is_head:
            await self._send(message)

    def receive(self, receive: Receive, first: Message) -> Receive:
        """Return what the application is to receive: a request without a body, then whether the client has left."""
        unread = [first]

        async def next_message() -> Message:
            if unread:
                return unread.pop()
            if self._is_head and self.has_begun:
                return {"type": "http.disconnect"}
            return await receive()

        return next_message


def _host_check(settings: Http) -> Callable[[str], bool]:
    names = {"localhost", *(_name(host) for host in settings.hosts)}
    if not settings.is_local:
        name = socket.gethostname().lower()
        names |= {name, name.partition(".")[0]}
    is_address = is_loopback if settings.is_local else _is_address
    return lambda host: (name := _name(host)) in names or is_address(name)


def _name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    name, colon, port = host.strip().lower().rpartition(":")
    if not colon or port.endswith("]") or not (port == "" or port.isdecimal()):
        name = host.strip().lower()
    is_bracketed = name.startswith("[") and name.endswith("]")
    return name[1:-1] if is_bracketed else name.removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _has_body(headers: _Headers) -> bool:
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)


async def _read_body(headers: _Headers, receive: Receive) -> Message:
    """Read what was announced as the body, and drop it; return the message that stands for none.

    Raises RefusalError where it is too large, or does not come.
    """
    for name, value in headers:
        if name == b"transfer-encoding":
            raise RefusalError(411, "no request has a body here, and none of unknown length is read")
        if name == b"content-length" and int(value) > MAX_BODY:
            raise RefusalError(413, f"no request has a body here, and none of more than {MAX_BODY} bytes is read")
    if _has_body(headers) and not await _drop_body(receive):
        raise RefusalError(408, f"the body has not arrived within {BODY_S:.0f} s")
    return {"type": "http.request", "body": b"", "more_body": False}


async def _drop_body(receive: Receive) -> bool:
    try:
        async with asyncio.timeout(BODY_S):
            while (message := await receive())["type"] == "http.request":
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        return False
    return True


async def _refuse(refusal: RefusalError, has_body: bool, receive: Receive, answer: _Answer) -> None:
    """Answer, and with a body on its way read on for a while: where a socket is closed on it the answer is lost."""
    if not has_body:
        await _send(answer, refusal)
        return
    refusal.headers.append((b"connection", b"close"))
    await _send(answer, refusal, more_body=True)
    await _drop_body(receive)
    await answer({"type": "http.response.body", "body": b""})


async def _send(answer: _Answer, refusal: RefusalError, **more: Any) -> None:
    headers = [*refusal.headers, (b"content-length", str(len(refusal.body)).encode())]
    await answer({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await answer({"type": "http.response.body", "body": refusal.body, **more})
