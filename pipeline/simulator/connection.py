"""A connection that takes any HTTP request, where websockets takes only a GET without a body.

The feed and the REST API are on one port. What begins as a GET, as every opening handshake does, goes to websockets as
it comes. Anything else is read here, up to the end of its body, and goes to websockets as a GET without one; its method
and its body are kept beside it, for whoever answers. There is one request on a connection, which is closed after it.
"""

import re
from typing import Final, NamedTuple

from websockets.asyncio.server import ServerConnection

HEAD_MAX: Final = 65_536  # bytes of request line and headers
BODY_MAX: Final = 65_536

_GET: Final = b"GET "
_METHOD: Final = re.compile(rb"[A-Za-z]{1,16}( |$)")  # a whole one, or the beginning of one
_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"[0-9]{1,9}")


class Taken(NamedTuple):
    """A request as websockets takes it, and what it does not take; `body` None cannot be read."""

    data: bytes
    method: str = "GET"
    body: bytes | None = b""


class Connection(ServerConnection):
    """A connection with the method and the body of its request; `body` is None where it cannot be read."""

    method = "GET"
    body: bytes | None = b""
    _received: bytes | None = b""  # None: all further bytes are for websockets

    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        if self._received is not None:
            self._received += data
            taken = take(self._received)
            if taken is None:
                return
            self._received = None
            data, self.method, self.body = taken
        super().data_received(data)


def take(received: bytes) -> Taken | None:
    """Return the request with which `received` begins, or None as long as it is not whole. Pure.

    What is no HTTP is handed on as it is: websockets refuses it.
    """
    method = _METHOD.match(received)
    if received.startswith(_GET) or method is None or len(received) > HEAD_MAX + BODY_MAX:
        return Taken(received)
    head, end, body = received.partition(_END)
    if not end:
        return Taken(received) if len(received) > HEAD_MAX else None
    line, *headers = head.split(b"\r\n")
    name, _, rest = line.partition(b" ")
    length = 0
    kept = []
    for header in headers:
        field, _, value = header.partition(b":")
        match field.lower():
            case b"transfer-encoding":
                length = -1
            case b"content-length":
                is_right = _LENGTH.fullmatch(value.strip()) and length >= 0
                length = int(value) if is_right and int(value) <= BODY_MAX else -1
            case _:
                kept.append(header)
    if length > len(body):
        return None
    data = b"\r\n".join([_GET + rest, *kept]) + _END
    return Taken(data, name.decode(), None if length < 0 else body[:length])
