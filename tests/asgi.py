"""Calling an ASGI application as a server does, without one."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


def ask(
    app: ASGIApp,
    target: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: Iterable[bytes] = (),
    *,
    host: str | None = "localhost",
) -> Answer:
    """Send one request and return the answer to it; after the body the client waits."""
    return asyncio.run(answer(app, target, method, headers, body, host=host))


async def answer(
    app: ASGIApp,
    target: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: Iterable[bytes] = (),
    *,
    host: str | None = "localhost",
) -> Answer:
    """Do the same on the running loop."""
    path, _, query = target.partition("?")
    given = {**({"host": host} if host is not None else {}), **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in given.items()],
    }
    unread = list(body) or [b""]
    is_answered = asyncio.Event()
    sent: list[Message] = []

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(0), "more_body": bool(unread)}
        await is_answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        assert not is_answered.is_set()
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            is_answered.set()

    await app(scope, receive, send)
    assert is_answered.is_set()
    start, *parts = sent
    headers_back = {name.decode(): value.decode() for name, value in start["headers"]}
    assert len(headers_back) == len(start["headers"]), "a header is there twice"
    return Answer(start["status"], headers_back, b"".join(part.get("body", b"") for part in parts))
