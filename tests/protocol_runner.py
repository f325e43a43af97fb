"""Feeds bytes to a connection's protocol, without a socket and in a process of its own, since it needs a reactor.

A line of JSON on stdin is one connection: `reads` are the bytes that come with each read, as hex; `hang_up_after` is
the number of messages after which it is hung up, null for never; with `plain` autobahn alone reads. The answer tells
the messages, how many frames autobahn read, what is still kept once the connection is lost, and whether it was dropped.
"""

import asyncio
import base64
import hashlib
import json
import sys
from typing import Any

from pipeline.kite.feed import install_reactor


def run(reads: list[str], hang_up_after: int | None, plain: bool) -> dict[str, Any]:
    from kiteconnect.ticker import KiteTickerClientProtocol
    from twisted.internet.error import ConnectionDone
    from twisted.internet.testing import StringTransport
    from twisted.python.failure import Failure

    from pipeline.kite.connection import Connection

    class Transport(StringTransport):
        dropped = False

        def abortConnection(self) -> None:  # noqa: N802  Twisted's name
            self.dropped = True

        def setTcpNoDelay(self, _: bool) -> None:  # noqa: N802  Twisted's name
            pass

        def unregisterProducer(self) -> None:  # noqa: N802  Twisted's name
            pass

    messages: list[tuple[str, bool]] = []
    frames = 0

    def note(payload: bytes, is_binary: bool) -> None:
        messages.append((payload.hex(), is_binary))
        if len(messages) == hang_up_after:
            connection.hang_up()

    def count() -> None:
        nonlocal frames
        frames += 1
        begin()

    connection = Connection(
        "ws://127.0.0.1:1", "k", "t", on_open=lambda: None, on_message=note, wake=lambda: None, clock=lambda: 0.0
    )
    connection._create_connection(connection.socket_url, useragent="", headers={}, proxy=None)
    protocol: Any = connection.factory.buildProtocol(None)
    transport = Transport()
    protocol.makeConnection(transport)
    protocol.dataReceived(accept(transport.value()))
    begin, protocol.onFrameBegin = protocol.onFrameBegin, count
    for read in reads:
        if plain:
            KiteTickerClientProtocol.dataReceived(protocol, bytes.fromhex(read))
        else:
            protocol.dataReceived(bytes.fromhex(read))
    state = protocol.state
    protocol.connectionLost(Failure(ConnectionDone()))
    parts = (vars(protocol).get("message_data"), vars(protocol).get("frame_data"), [protocol.data])
    return {
        "messages": messages,
        "frames": frames,
        "kept": sum(len(part) for several in parts for part in several or ()),
        "ended": [state, transport.dropped, transport.disconnecting, protocol.remoteCloseCode],
    }


def accept(request: bytes) -> bytes:
    """Return the answer of a server that opens a WebSocket."""
    key = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    digest = hashlib.sha1(key.split(b": ")[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # noqa: S324  RFC 6455
    return b"\r\n".join(
        [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest),
            b"",
            b"",
        ]
    )


def main() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    install_reactor(loop)
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)  # noqa: T201  stdout is the answer


if __name__ == "__main__":
    main()
