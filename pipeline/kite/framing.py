"""Whole binary messages at the beginning of what a WebSocket brought: what a feed consists of, at little cost. Pure.

    0x82 | length, one byte up to 125, or 126 and two bytes | payload

is a binary message in one frame that its sender did not mask, RFC 6455 section 5.2. Everything else is left to whoever
knows all of the protocol: text, control frames, fragments, messages of 64 KiB and more, and what breaks its rules.
"""

from typing import NamedTuple

_WHOLE_BINARY = 0x82
_SHORT_MAX = 125
_MEDIUM = 126  # the length is in the next two bytes
_LONG = 127  # the length is in the next eight bytes
_LENGTH_BYTES = {_MEDIUM: 2, _LONG: 8}
_MASKED, _LENGTH = 0x80, 0x7F  # of the second byte
_MASK_BYTES = 4  # between the length and the payload


class Taken(NamedTuple):
    """Payloads that were whole, and where what follows them begins.

    `is_begun` tells that this is the beginning of such a message, which can be taken when more has arrived.
    """

    payloads: list[bytes]
    end: int
    is_begun: bool


def take_messages(data: bytes, start: int = 0) -> Taken:
    """Take the whole binary messages that follow each other from `start`, where a frame begins."""
    payloads: list[bytes] = []
    at, size = start, len(data)
    while at < size and data[at] == _WHOLE_BINARY:
        begin = at + 2
        if begin > size:
            return Taken(payloads, at, is_begun=True)
        length = data[at + 1]
        if length == _MEDIUM:
            begin = at + 4
            if begin > size:
                return Taken(payloads, at, is_begun=True)
            length = data[at + 2] << 8 | data[at + 3]
            if length <= _SHORT_MAX:
                break
        elif length > _MEDIUM:
            break
        end = begin + length
        if end > size:
            return Taken(payloads, at, is_begun=True)
        payloads.append(data[begin:end])
        at = end
    return Taken(payloads, at, is_begun=False)


def frame_end(data: bytes, start: int) -> int:
    """Return where the frame ends that begins at `start`, of any kind; the end of `data` while its header is not whole.

    It may be behind the end of `data`.
    """
    size = len(data)
    if start + 2 > size:
        return size
    is_masked, length = data[start + 1] & _MASKED, data[start + 1] & _LENGTH
    begin = start + 2 + _LENGTH_BYTES.get(length, 0) + (_MASK_BYTES if is_masked else 0)
    if begin > size:
        return size
    if length in _LENGTH_BYTES:
        length = int.from_bytes(data[start + 2 : start + 2 + _LENGTH_BYTES[length]], "big")
    return begin + length
