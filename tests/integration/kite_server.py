"""A Kite server for tests, written from the protocol alone: it shares nothing with the recorder or its simulator.

    python -m tests.integration.kite_server FOLDER

It listens on a free port of 127.0.0.1, which its first line on stdout names. After that each line on stdin is a
command, a JSON object with `do`, and is answered by one line of JSON. It ends with stdin. The commands:

    load    ltp, rate, frame, limit    send on every connection that has instruments: `rate` ticks/s on each, at most
                                       `limit` ticks, `frame` in a frame; the tokens `ltp` tick in ltp mode unasked
    pause                              stop sending
    report                             answer with all connections; what was sent is then in their files
    spans                              the same, with `spans` of each connection: token and Unix ns from when until when
                                       (null: now) it was subscribed there and not mute
    raw     connection, frames         send binary messages, hex
    text    connection, messages       send text messages, hex
    abort   connection                 reset the TCP connection
    refuse  statuses                   answer the next clients with these HTTP statuses
    bar     how, only, but, unless     turn clients away until the next `bar`; `how` is an HTTP status, "reset", "hang"
                                       (never answer) or null (nobody); all but the processes `but`, or `only` these;
                                       not those that have `unless` in their path
    mute    connection                 send nothing more, and keep it open

A report tells under `uncovered` which instruments were no longer on any open connection at some moment, each time anew,
and under `most` of each connection how many it has had at once.

Every packet carries an id: the connection's number and a running count, in volume_traded where the packet has it, in
the day's high of an index, in the last price of an ltp packet. All frames with packets that were handed to the socket
of a connection stand in FOLDER/<number>.frames, each behind its length (uint32).
"""

import asyncio
import itertools
import json
import random
import struct
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

TURN_S = 0.005  # between looks at what is due
HEARTBEAT_S = 1.0  # with nothing to send, as Kite does
ID_BITS = 22  # of the running count; the connection's number is above
INDICES = 9
LENGTHS = {"ltp": 8, "quote": 44, "full": 184}
INDEX_LENGTHS = {"ltp": 8, "quote": 28, "full": 32}
ID_OFFSETS = {8: 4, 28: 8, 32: 8, 44: 16, 184: 16}
PREFIX = 2  # a packet's length stands before it


def template(token: int, mode: str) -> bytearray:
    """Return a packet with its length before it: made-up values, some of them at their limits."""
    length = (INDEX_LENGTHS if token & 0xFF == INDICES else LENGTHS)[mode]
    made_up = random.Random(token)
    words = [made_up.randrange(1, 2**31) for _ in range(length // 4)]
    words[0] = token
    kind = made_up.randrange(4)
    if length in (28, 32) and kind == 0:
        words[5] = 0  # close: no change can be computed
    if length >= 44:
        words[5], words[6] = 2**32 - 1, made_up.randrange(2**31, 2**32)  # total quantities, unsigned
        if kind == 0:
            words[10] = 0
    if length == 184:
        words[11] = 0 if kind == 1 else int(time.time()) - kind  # last trade
        words[15] = 0 if kind == 2 else int(time.time())
    if length == 32:
        words[7] = 0 if kind == 1 else int(time.time())
    packet = bytearray(struct.pack(f">H{len(words)}I", length, *words))
    for entry in range(64, length, 12):
        struct.pack_into(">HH", packet, PREFIX + entry + 8, made_up.randrange(2**16), 0)
    return packet


class Connection:
    """One client."""

    def __init__(self, number: int, socket: ServerConnection, folder: Path) -> None:
        self.number = number
        self.socket = socket
        self.modes: dict[int, str] = {}
        self.most = 0  # instruments at once
        self.is_mute = False
        self.ended_ns: int | None = None  # when the last frame was sent, at the latest
        self.since_ns: dict[int, int] = {}  # token -> when it was subscribed, while it is sent
        self.spans: list[tuple[int, int, int | None]] = []  # that are over
        self.ticks = 0
        self.file = (folder / f"{number}.frames").open("wb")
        self._packets: dict[tuple[int, str], bytearray] = {}
        self._next: Any = None  # a cycle over the templates

    async def listen(self, on_dropped: Callable[[list[int]], None]) -> None:
        """Take requests until the socket closes; tell which instruments are no longer subscribed here."""
        async for message in self.socket:
            request = json.loads(message)
            action, value = request["a"], request["v"]
            if action == "subscribe":
                self.modes |= {token: "quote" for token in value if type(token) is int and token not in self.modes}
                self.since_ns = dict.fromkeys(self.modes, time.time_ns()) | self.since_ns
            elif action == "unsubscribe":
                self.end_spans(value)
                on_dropped([token for token in value if self.modes.pop(token, None)])
            elif action == "mode":
                self.modes |= {token: value[0] for token in value[1] if token in self.modes}
            self.most = max(self.most, len(self.modes))
            self._next = None

    def end_spans(self, tokens: Iterable[int]) -> int:
        """Write down that these are sent no longer; return the time of that."""
        now_ns = time.time_ns()
        self.spans += [(token, self.since_ns.pop(token), now_ns) for token in tokens if token in self.since_ns]
        return now_ns

    def fall_silent(self) -> None:
        """Write down that nothing is sent any more."""
        ended_ns = self.end_spans(list(self.since_ns))
        self.ended_ns = self.ended_ns or ended_ns

    async def serve_ticks(self, load: dict[str, Any]) -> None:
        """Send what `load` asks for, and heartbeats where there is nothing, for ever."""
        last_s = sent_s = time.monotonic()
        due = 0.0
        while True:
            await asyncio.sleep(TURN_S)
            if self.is_mute:
                continue
            now_s = time.monotonic()
            rate, size = load.get("rate", 0), load.get("frame", 1)
            if rate and self.modes:
                due = min(due + (now_s - last_s) * rate, rate)
            last_s = now_s
            while due >= size and load.get("rate") and self.modes and self.ticks < load["limit"]:
                due -= size
                sent_s = now_s
                await self.send(self._frame(min(size, load["limit"] - self.ticks), load["ltp"]))
            if now_s - sent_s >= HEARTBEAT_S:
                sent_s = now_s
                await self.send(b"\x00")

    async def send(self, frame: bytes) -> None:
        """Hand a frame to the socket, and write down that it was."""
        if self.socket.state is State.OPEN and len(frame) > 1:
            self.file.write(struct.pack(">I", len(frame)) + frame)
        await self.socket.send(frame)

    def _frame(self, size: int, ltp: list[int]) -> bytes:
        if self._next is None:
            wanted = [*self.modes.items(), *((token, "ltp") for token in ltp)]
            self._packets = {key: self._packets.get(key) or template(*key) for key in wanted}
            self._next = itertools.cycle(self._packets.values())
        parts = [struct.pack(">H", size)]
        for packet in itertools.islice(self._next, size):
            self.ticks += 1
            struct.pack_into(">I", packet, PREFIX + 4, 1 + self.ticks * 7919 % (2**31 - 1))  # last price
            identity = self.number << ID_BITS | self.ticks
            struct.pack_into(">I", packet, PREFIX + ID_OFFSETS[len(packet) - PREFIX], identity)
            parts.append(bytes(packet))
        return b"".join(parts)


class Server:
    """All connections, and the commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.connections: list[Connection] = []
        self.refusals: list[int] = []
        self.refused = 0
        self.uncovered: list[int] = []
        self.load: dict[str, Any] = {}
        self.bar: dict[str, Any] = {"how": None}
        self.bar_changed = asyncio.Event()

    async def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse a client where that was asked for."""
        how = self.bar["how"]
        if how is not None and self._is_barred(connection, request.path):
            self.refused += 1
            if how == "hang":
                await self.bar_changed.wait()
            if how in ("hang", "reset"):
                connection.transport.abort()
                how = 503  # nobody will read it
            return connection.respond(how, f"{request.path} as asked for\n")
        if self.refusals:
            self.refused += 1
            return connection.respond(self.refusals.pop(0), "as asked for\n")
        return None

    def _is_barred(self, connection: ServerConnection, path: str) -> bool:
        port = connection.remote_address[1]
        spared = any(_owns(pid, port) for pid in self.bar.get("but", []))
        meant = "only" not in self.bar or any(_owns(pid, port) for pid in self.bar["only"])
        return meant and not spared and ("unless" not in self.bar or self.bar["unless"] not in path)

    async def serve(self, socket: ServerConnection) -> None:
        """Serve one client until it is gone."""
        connection = Connection(len(self.connections) + 1, socket, self.folder)
        self.connections.append(connection)
        sending = asyncio.create_task(connection.serve_ticks(self.load))
        try:
            await connection.listen(self._dropped)
        except ConnectionClosed:
            pass
        finally:
            connection.fall_silent()
            self._dropped(list(connection.modes))
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            connection.file.flush()

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        what = command["do"]
        if "connection" in command:
            await self._obey_on(self.connections[command["connection"] - 1], command)
        elif what == "load":
            self.load.update({"ltp": [], "limit": 2**ID_BITS - 1, "frame": 1} | command)
        elif what == "pause":
            self.load["rate"] = 0
        elif what == "refuse":
            self.refusals = command["statuses"]
        elif what == "bar":
            self.bar, changed, self.bar_changed = command, self.bar_changed, asyncio.Event()
            changed.set()
        return self.report(with_spans=what == "spans")

    async def _obey_on(self, chosen: Connection, command: dict[str, Any]) -> None:
        what = command["do"]
        if what == "raw":
            for frame in command["frames"]:
                await chosen.send(bytes.fromhex(frame))
        elif what == "text":
            for message in command["messages"]:
                await chosen.socket.send(bytes.fromhex(message), text=True)
        elif what == "abort":
            chosen.socket.transport.abort()
        elif what == "mute":
            chosen.is_mute = True
            chosen.fall_silent()

    def report(self, *, with_spans: bool = False) -> dict[str, Any]:
        """Return what there is, with the files written as far."""
        for connection in self.connections:
            connection.file.flush()
        connections = [self._about(connection) for connection in self.connections]
        if with_spans:
            for about, connection in zip(connections, self.connections, strict=True):
                about["spans"] = [*connection.spans, *((t, since, None) for t, since in connection.since_ns.items())]
        return {"refused": self.refused, "uncovered": self.uncovered, "connections": connections}

    def _dropped(self, tokens: list[int]) -> None:
        """Write down which of these no open connection has."""
        still = [c.modes for c in self.connections if c.socket.state is State.OPEN]
        self.uncovered += [token for token in tokens if not any(token in modes for modes in still)]

    @staticmethod
    def _about(connection: Connection) -> dict[str, Any]:
        request = connection.socket.request
        assert request is not None
        return {
            "number": connection.number,
            "open": connection.socket.state is State.OPEN,
            "modes": {str(token): mode for token, mode in connection.modes.items()},
            "most": connection.most,
            "ticks": connection.ticks,
            "ended_ns": connection.ended_ns,
            "path": request.path,
            "version": request.headers.get("X-Kite-Version"),
        }


def _owns(pid: int, port: int) -> bool:
    """Tell whether a process has the socket with this local port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}")}
    return any(_link(fd) in inodes for fd in Path(f"/proc/{pid}/fd").glob("*"))


def _link(fd: Path) -> str:
    try:
        return str(fd.readlink())
    except OSError:  # closed meanwhile
        return ""


async def main() -> None:
    """Serve until stdin ends."""
    server = Server(Path(sys.argv[1]))
    commands = asyncio.StreamReader(limit=2**24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    settings: dict[str, Any] = {"compression": None, "ping_interval": None, "close_timeout": 1}
    async with serve(server.serve, "127.0.0.1", 0, process_request=server.admit, **settings) as listening:
        answer(next(iter(listening.sockets)).getsockname()[1])
        async for line in commands:
            answer(await server.obey(json.loads(line)))


def answer(value: Any) -> None:
    """Print one line of JSON."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
