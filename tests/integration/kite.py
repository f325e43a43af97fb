"""The Kite server of these tests as a process of its own, and what it has sent, as the official client reads it."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from kiteconnect import KiteTicker

from tests.integration.service import pairs, until

ROOT = Path(__file__).parents[2]
ID_OFFSETS = {8: 4, 28: 8, 32: 8, 44: 16, 184: 16}  # in a packet, by its length
DIVISORS = {3: 10_000_000, 6: 10_000, 12: 10_000}  # of prices, by segment; 100 for the rest
TIMES = ("last_trade_time", "exchange_timestamp")

official = KiteTicker("key", "token")


class Kite:
    """A running server; what it can be told is in `kite_server`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.kite_server", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C is not for it: it ends with its stdin
        )
        self.port = int(self._answer())

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"ws://127.0.0.1:{self.port}"

    def tell(self, do: str, **fields: Any) -> dict[str, Any]:
        """Give a command; return the report that follows."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        self._process.stdin.flush()
        report: dict[str, Any] = self._answer()
        return report

    def load(self, rate: int, **fields: Any) -> None:
        """Send `rate` ticks a second over two connections."""
        self.tell("load", rate=rate / 2, **fields)

    def connections(self) -> list[dict[str, Any]]:
        """Return all connections there were, with what they have been sent in their files."""
        connections: list[dict[str, Any]] = self.tell("report")["connections"]
        return connections

    def of(self, token: int) -> list[dict[str, Any]]:
        """Return the connections that were subscribed to this token, oldest first."""
        return [c for c in self.connections() if str(token) in c["modes"]]

    def on_the_wire(self) -> list[dict[str, str]]:
        """Return what each open connection has: modes by token, in no order of connections."""
        return sorted((c["modes"] for c in self.connections() if c["open"]), key=pairs)

    def until_on_the_wire(self, *connections: dict[int, str]) -> None:
        """Wait until exactly these connections are open, each with exactly these instruments in these modes."""
        wanted = sorted(({str(token): mode for token, mode in modes.items()} for modes in connections), key=pairs)
        until(lambda: self.on_the_wire() == wanted, f"the server has {str(wanted)[:500]}")

    def sent(self, *tokens: int) -> int:
        """Return how many ticks went to connections with any of these tokens; to all, without."""
        return sum(c["ticks"] for c in self.connections() if not tokens or any(str(t) in c["modes"] for t in tokens))

    def frames(self, number: int) -> Iterator[bytes]:
        """Yield what was handed to a connection's socket, heartbeats left out."""
        data = (self.folder / f"{number}.frames").read_bytes()
        offset = 0
        while offset < len(data):
            (length,) = struct.unpack_from(">I", data, offset)
            yield data[offset + 4 : offset + 4 + length]
            offset += 4 + length

    def ticks(self, number: int) -> list[dict[str, Any]]:
        """Return what the official client makes of it, times as Unix seconds, None where the wire has 0."""
        return [comparable(tick) for frame in self.frames(number) for tick in official._parse_binary(frame)]

    def ids(self, number: int) -> list[int]:
        """Return the ids of the packets sent to a connection."""
        return [identity for frame in self.frames(number) for identity in ids_in(frame)]

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the Kite server of the tests has ended"
        return json.loads(line)


def comparable(tick: dict[str, Any]) -> dict[str, Any]:
    """Return a tick, stored or of the official client, with its exchange's times as Unix seconds."""
    return tick | {name: _seconds(tick[name]) for name in TIMES if name in tick}


def id_of(tick: dict[str, Any]) -> int:
    """Return the id that a stored tick carries."""
    if "volume_traded" in tick:
        volume: int = tick["volume_traded"]
        return volume
    price = tick["ohlc"]["high"] if "ohlc" in tick else tick["last_price"]
    return round(float(price) * DIVISORS.get(tick["instrument_token"] & 0xFF, 100))


def _seconds(time: datetime | str | None) -> float | None:
    moment = datetime.fromisoformat(time) if isinstance(time, str) else time
    return (moment.timestamp() or None) if moment else None


def ids_in(frame: bytes) -> Iterator[int]:
    """Yield the ids of the packets of a frame."""
    offset = 2
    while offset < len(frame):
        (length,) = struct.unpack_from(">H", frame, offset)
        if length in ID_OFFSETS:  # else it was made to be rejected
            yield struct.unpack_from(">I", frame, offset + 2 + ID_OFFSETS[length])[0]
        offset += 2 + length
