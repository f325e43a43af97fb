"""Packets -> the bytes of WebSocket messages, many at once. Pure.

    0x82 | length (1, 3 or 9 bytes) | packets in the message, 2 | length, 2 | packet | length, 2 | packet ...
    `---------- WebSocket --------' `---------------------- Kite's message --------------------------- - -

All of it is done by numpy: a step of Python for each tick, or even for each message, would make the simulator slower
than what it is there to test.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FRAME_TICKS_MAX: Final = 3000

_SHORT = np.dtype([("opcode", "u1"), ("length", "u1")])
_MEDIUM = np.dtype([("opcode", "u1"), ("form", "u1"), ("length", ">u2")])
_LONG = np.dtype([("opcode", "u1"), ("form", "u1"), ("length", ">u8")])
_BINARY: Final = 0x82  # a whole binary message, RFC 6455 section 5.2


def encode(packets: NDArray[np.void], sizes: NDArray[np.intp], frame_ticks: int) -> NDArray[np.uint8]:
    """Return the messages that carry the first `sizes[i]` bytes of each of `packets`, `frame_ticks` in each.

    The last message may have fewer. There is at least one packet.
    """
    steps = sizes + 2
    firsts = np.arange(0, len(sizes), frame_ticks)
    counts = np.diff(firsts, append=len(sizes))
    lengths = np.add.reduceat(steps, firsts) + 2
    heads = np.where(lengths < 126, 2, np.where(lengths < 2**16, 4, 10))
    ends = np.cumsum(heads + lengths)
    starts = ends - heads - lengths
    places = np.cumsum(steps) - steps + np.repeat(np.cumsum(heads + 2), counts)

    out = np.empty(ends[-1], np.uint8)
    for head in (_SHORT, _MEDIUM, _LONG):
        mine = heads == head.itemsize
        if mine.any():
            _anywhere(out, head)[starts[mine]] = _headers(head, lengths[mine])
    _anywhere(out, np.dtype(">u2"))[starts + heads] = counts
    _anywhere(out, np.dtype(">u2"))[places] = sizes
    for size in np.unique(sizes):
        mine = sizes == size
        part = np.dtype(("V", int(size)))
        beginnings: NDArray[Any] = np.ndarray(len(packets), part, packets, 0, (packets.itemsize,))
        _anywhere(out, part)[places[mine] + 2] = beginnings[mine]
    return out


def header(payload_bytes: int) -> bytes:
    """Return what goes before the payload of one binary message."""
    head = _SHORT if payload_bytes < 126 else _MEDIUM if payload_bytes < 2**16 else _LONG
    return _headers(head, np.array([payload_bytes])).tobytes()


def _headers(head: np.dtype[Any], lengths: NDArray[np.intp]) -> NDArray[Any]:
    headers = np.empty(len(lengths), head)
    headers["opcode"] = _BINARY
    headers["length"] = lengths
    if head is not _SHORT:
        headers["form"] = 126 if head is _MEDIUM else 127
    return headers


def _anywhere(out: NDArray[np.uint8], item: np.dtype[Any]) -> NDArray[Any]:
    """Return a view of `out` in which element i is the item that begins at byte i."""
    return np.ndarray(max(0, len(out) - item.itemsize + 1), item, out, 0, (1,))
