"""One accepted connection: what it has subscribed, what it is owed, and what is written to it.

Nothing here waits. Ticks go to the transport as they are: websockets' own `send` would wait for a client that does not
read, and costs more for one message than numpy needs for a hundred ticks.
"""

import logging
import time
from typing import Any, Final

import numpy as np
import orjson
from websockets.asyncio.server import ServerConnection, broadcast
from websockets.protocol import State

from pipeline.config import MAX_INSTRUMENTS, Simulator
from pipeline.simulator.faults import damage
from pipeline.simulator.frames import FRAME_TICKS_MAX, encode, header
from pipeline.simulator.market import INDEX_CODE, Market, Packets, Rows, is_known
from pipeline.simulator.record import Record

log = logging.getLogger(__name__)

MODES: Final = ("ltp", "quote", "full")
_TRADED_BYTES: Final = {"ltp": 8, "quote": 44, "full": 184}
_INDEX_BYTES: Final = {"ltp": 8, "quote": 28, "full": 32}

HEARTBEAT_S: Final = 1.0
CATCH_UP_S: Final = 1.0  # ticks that are late by more than this are never made
BATCH_MAX: Final = 30_000  # ticks made at once, so that one connection does not hold up the others
BUFFER_MAX: Final = 4 * 2**20  # bytes not yet taken by the client; above it no ticks are made
STALL_S = 5.0  # a client that leaves the buffer above that for so long is dropped, as Kite does


class Session:
    """A connection with its number, counts and subscriptions; modes by token in `modes`.

    With a folder for records, every binary message with ticks goes into one, as it is handed to the transport.
    """

    def __init__(self, number: int, ws: ServerConnection, market: Market, settings: Simulator) -> None:
        self.number = number
        self.ws = ws
        self.rate = settings.rate  # ticks a second
        self.modes: dict[int, str] = {}
        self.ticks_sent = 0  # whole packets that were handed to the transport
        self.frames_sent = 0  # binary messages with ticks
        self.damaged_frames = 0
        self.silent = False  # fault: nothing is sent
        self.malformed_every = 0  # fault: of so many messages one is damaged; 0: none
        self._market = market
        self._record = None if settings.record is None else Record(settings.record, number)
        self._frame_ticks = settings.frame_ticks or FRAME_TICKS_MAX
        self._waits_for_frame = bool(settings.frame_ticks)
        self._due = 0.0  # ticks, with their fraction
        self._rows = np.zeros(0, np.intp)  # the round in which instruments tick
        self._sizes = np.zeros(0, np.intp)  # packet length of each
        self._next = 0  # whose turn it is
        self._changed = False
        self._sent_at = 0.0  # monotonic time of the last message
        self._stalled_at: float | None = None

    @property
    def is_open(self) -> bool:
        """True between the opening and the closing handshake."""
        return self.ws.state is State.OPEN

    def say(self, message: Any) -> None:
        """Send a text message, `message` as JSON."""
        self._broadcast(orjson.dumps(message).decode())

    def request(self, message: str | bytes) -> None:
        """Do what a subscribe, unsubscribe or mode request asks; answer a request that cannot be read with an error."""
        try:
            request = orjson.loads(message)
            action, value = request["a"], request["v"]
            if action == "mode":
                mode, wanted = value
            else:
                mode, wanted = "quote", value
            if action not in ("subscribe", "unsubscribe", "mode") or mode not in MODES or not isinstance(wanted, list):
                raise ValueError
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            self.say({"type": "error", "data": "Invalid request: expected {a: subscribe|unsubscribe|mode, v: ...}"})
            return
        tokens = [t for t in dict.fromkeys(t for t in wanted if type(t) is int) if is_known(t)]
        if action == "subscribe":
            tokens = self._subscribe(tokens)
        elif action == "mode":
            tokens = [t for t in tokens if t in self.modes]
            self.modes.update(dict.fromkeys(tokens, mode))
        else:
            for token in tokens:
                self.modes.pop(token, None)
        self._changed = True
        log.debug("connection %d: %s %d instruments, now %d", self.number, action, len(tokens), len(self.modes))
        if action != "unsubscribe" and tokens and not self.silent and self.is_open:
            rows = self._market.rows(tokens, int(time.time()))
            self._send(self._market.packets(rows), self._packet_sizes(tokens))

    def pump(self, elapsed_s: float, now: float) -> None:
        """Send the ticks that have become due in `elapsed_s`, or a heartbeat if it is time; `now` is monotonic."""
        if not self.is_open or self.silent or self._is_stalled(now):
            return
        if self._changed:
            self._make_round()
        least = self._frame_ticks if self._waits_for_frame and self.rate else 0
        ceiling = max(self.rate * CATCH_UP_S, least)
        self._due = min(self._due + elapsed_s * self.rate, ceiling) if self.modes else 0.0
        number = min(int(self._due), BATCH_MAX)
        if self._waits_for_frame:
            number -= number % self._frame_ticks
        if number:
            self._due -= number
            self._send(*self._trade(number))
        elif now - self._sent_at >= HEARTBEAT_S:
            self._broadcast(b"\0")

    def abort(self) -> None:
        """Drop the TCP connection without a closing handshake: the client sees 1006."""
        self.ws.transport.abort()

    def close_record(self) -> None:
        """Write what is left of the record; nothing is sent any more."""
        if self._record is not None:
            self._record.close()

    def stats(self) -> dict[str, Any]:
        """Return what `GET /stats` tells of this connection."""
        modes = list(self.modes.values())
        return {
            "id": self.number,
            "subscribed": len(modes),
            "ticks_sent": self.ticks_sent,
            "frames_sent": self.frames_sent,
            "damaged_frames": self.damaged_frames,
            "modes": {mode: modes.count(mode) for mode in MODES},
            "tokens": {str(token): mode for token, mode in self.modes.items()},
        }

    def _subscribe(self, tokens: list[int]) -> list[int]:
        """Subscribe what fits; return all of `tokens` that are subscribed now."""
        new = [t for t in tokens if t not in self.modes]
        room = MAX_INSTRUMENTS - len(self.modes)
        if len(new) > room:
            self.say(
                {
                    "type": "error",
                    "data": f"Subscription limit of {MAX_INSTRUMENTS} instruments reached, {len(new) - room} ignored",
                }
            )
        self.modes.update(dict.fromkeys(new[:room], "quote"))
        return [t for t in tokens if t in self.modes]

    def _make_round(self) -> None:
        """Put the subscribed instruments into a new order, mixed so that a message has packets of all kinds."""
        tokens = list(self.modes)
        order = np.random.default_rng(len(tokens)).permutation(len(tokens))
        self._rows = self._market.rows(tokens, int(time.time()))[order]
        self._sizes = self._packet_sizes(tokens)[order]
        self._next = 0
        self._changed = False

    def _trade(self, number: int) -> tuple[Packets, Rows]:
        """Let the next `number` instruments of the round trade; return packets and packet lengths."""
        rows, sizes = np.roll(self._rows, -self._next), np.roll(self._sizes, -self._next)
        passes, rest = divmod(number, len(rows))
        self._next = (self._next + rest) % len(rows)
        now_s = int(time.time())
        parts = [self._market.advance(rows, passes, now_s)] if passes else []
        if rest:
            parts.append(self._market.advance(rows[:rest], 1, now_s))
        packets = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return packets, np.resize(sizes, number)

    def _packet_sizes(self, tokens: list[int]) -> Rows:
        by_kind = (_TRADED_BYTES, _INDEX_BYTES)
        return np.array([by_kind[token & 0xFF == INDEX_CODE][self.modes[token]] for token in tokens], np.intp)

    def _send(self, packets: Packets, sizes: Rows) -> None:
        if self.malformed_every:
            self._send_damaged(packets, sizes)
            return
        self._write(encode(packets, sizes, self._frame_ticks).data)
        self.ticks_sent += len(sizes)
        self.frames_sent += -(-len(sizes) // self._frame_ticks)
        self._sent_at = time.monotonic()

    def _send_damaged(self, packets: Packets, sizes: Rows) -> None:
        """Send one message after the other, each `malformed_every`-th of them damaged."""
        for first in range(0, len(sizes), self._frame_ticks):
            these = slice(first, first + self._frame_ticks)
            frame = encode(packets[these], sizes[these], self._frame_ticks).tobytes()
            ticks = len(sizes[these])
            self.frames_sent += 1
            if self.frames_sent % self.malformed_every == 0:
                payload_bytes = 2 + ticks * 2 + int(sizes[these].sum())
                message, ticks = damage(frame[-payload_bytes:], self.damaged_frames)
                self.damaged_frames += 1
                if isinstance(message, bytes):
                    self._write(header(len(message)) + message)
                else:
                    self._broadcast(message)
            else:
                self._write(frame)
            self.ticks_sent += ticks
        self._sent_at = time.monotonic()

    def _write(self, messages: bytes | memoryview) -> None:
        self.ws.transport.write(messages)
        if self._record is not None:
            self._record.write(messages)

    def _broadcast(self, message: str | bytes) -> None:
        """Send one message without ever waiting, which is what websockets' `broadcast` is for."""
        if not self.silent:
            broadcast([self.ws], message)
            self._sent_at = time.monotonic()

    def _is_stalled(self, now: float) -> bool:
        """Tell whether the client is too far behind to be sent more; drop it when that has lasted."""
        waiting = self.ws.transport.get_write_buffer_size()
        if waiting <= BUFFER_MAX:
            self._stalled_at = None
            return False
        if self._stalled_at is None:
            self._stalled_at = now
        elif now - self._stalled_at > STALL_S:
            log.warning(
                "connection %d: does not read, %d bytes wait for it since %.0f s; dropped",
                self.number,
                waiting,
                STALL_S,
            )
            self.abort()
        return True
