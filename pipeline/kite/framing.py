"""Whole binary messages at the beginning of what a WebSocket brought: what a feed consists of, at little cost. Pure.

    0x82 | length, one byte up to 125, or 126 and two bytes | payload

is a binary message in one frame that its sender did not mask, RFC 6455 section 5.2. Everything else is left to whoever
knows all of the protocol: text, control frames, fragments, messages of 64 KiB and more, and what breaks its rules.
"""

from typing import NamedTuple

_WHOLE_BINARY = 0x82
_SHORT_MAX = 125
_MEDIUM = 126  # the length is in the next two bytes


class Taken(NamedTuple):
    """Payloads that were whole, and where what follows them begins.

    `is_begun` tells that this is the beginning of such a message, which can be taken when more has arrived.
    """

    payloads: list[bytes]
    end: int
    is_begun: bool


def take_messages(data: bytes) -> Taken:
    """Take the whole binary messages that `data` begins with; it begins where a frame does."""
    payloads: list[bytes] = []
    at, size = 0, len(data)
    while at < size and data[at] == _WHOLE_BINARY:
        start = at + 2
        if start > size:
            return Taken(payloads, at, is_begun=True)
        length = data[at + 1]
        if length == _MEDIUM:
            start = at + 4
            if start > size:
                return Taken(payloads, at, is_begun=True)
            length = data[at + 2] << 8 | data[at + 3]
            if length <= _SHORT_MAX:
                break
        elif length > _MEDIUM:
            break
        end = start + length
        if end > size:
            return Taken(payloads, at, is_begun=True)
        payloads.append(data[start:end])
        at = end
    return Taken(payloads, at, is_begun=False)
