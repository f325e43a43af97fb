"""A small Kite-like WebSocket server on raw streams, so that a test can also send what no library would."""

import asyncio
import base64
import hashlib
import json
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
HEARTBEAT = b"\x00"

Plan = int | str  # 101: open a socket; another status: refuse with it; "hang": never answer; other text: the answer


def frame(opcode: int, payload: bytes) -> bytes:
    """Return an unmasked, final WebSocket frame."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 126)) + struct.pack(">H", size)
    else:
        head = bytes((0x80 | opcode, 127)) + struct.pack(">Q", size)
    return head + payload


@dataclass
class Peer:
    """One client as the server sees it."""

    head: str  # its HTTP request
    writer: asyncio.StreamWriter
    requests: list[dict[str, Any]] = field(default_factory=list)
    close_code: int | None = None  # of the client's close frame
    pongs: list[bytes] = field(default_factory=list)
    gone: bool = False  # its side of the TCP connection is closed
    echo_close: bool = True

    async def send(self, *frames: bytes) -> None:
        """Send bytes, frames that go out together."""
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    def abort(self) -> None:
        """Reset the TCP connection."""
        self.writer.transport.abort()


class KiteServer:
    """Listens on 127.0.0.1; `plans` says how to treat the next clients, after that they get a socket."""

    def __init__(self, *plans: Plan, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.plans = list(plans)
        self.peers: list[Peer] = []  # all that sent a request
        self.port = port
        self.handshakes_done = 0  # of TLS
        self.handshakes_failed = 0
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "KiteServer":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """Where it listens, by address."""
        return f"ws{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if self._tls:
                await self._shake_hands(writer)
            await self._treat(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        except asyncio.CancelledError:
            pass  # by __aexit__; asyncio's stream server would log it as an error
        finally:
            writer.transport.abort()

    async def _shake_hands(self, writer: asyncio.StreamWriter) -> None:
        assert self._tls
        try:
            await writer.start_tls(self._tls)
        except OSError:
            self.handshakes_failed += 1
            raise
        self.handshakes_done += 1

    async def _treat(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        peer = Peer(head, writer)
        plan = self.plans.pop(0) if self.plans else 101
        try:
            if plan == 101:
                key = next(line for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
                digest = hashlib.sha1(key.split(": ")[1].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11")  # noqa: S324  RFC 6455
                accept = base64.b64encode(digest.digest()).decode()
                writer.write(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
                )
                self.peers.append(peer)
                await self._listen(reader, peer)
            elif plan == "hang":
                self.peers.append(peer)
                await reader.read()
            else:
                answer = plan if isinstance(plan, str) else f"HTTP/1.1 {plan} Made Up\r\nContent-Length: 0\r\n\r\n"
                writer.write(answer.encode())
                self.peers.append(peer)
                await writer.drain()
        finally:
            peer.gone = True

    async def _listen(self, reader: asyncio.StreamReader, peer: Peer) -> None:
        while True:
            first, second = await reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                size = int.from_bytes(await reader.readexactly(2))
            elif size == 127:
                size = int.from_bytes(await reader.readexactly(8))
            mask = await reader.readexactly(4)
            payload = bytes(b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(size)))
            opcode = first & 0x0F
            if opcode == TEXT:
                peer.requests.append(json.loads(payload))
            elif opcode == PONG:
                peer.pongs.append(payload)
            elif opcode == CLOSE:
                peer.close_code = int.from_bytes(payload[:2])
                if peer.echo_close:
                    await peer.send(frame(CLOSE, payload))


async def until(condition: Callable[[], Any], what: str, deadline_s: float = 20.0) -> None:
    """Wait for a condition, looking often; fail, naming it, when it does not come true."""
    give_up_at = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up_at, f"waited {deadline_s} s in vain: {what}"
        await asyncio.sleep(0.002)
