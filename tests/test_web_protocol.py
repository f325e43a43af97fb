"""The server towards clients that are slow, greedy or no HTTP clients at all, over real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from pipeline.config import Http
from pipeline.web import guard, page, protocol
from pipeline.web.protocol import Server

GET = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"
SHORT_S = 0.05  # in place of a limit that a test waits for
LONG_S = 30.0  # in place of one that must not be what ends it


async def application(scope, receive, send):
    """Answers all there is; `/large` with more than any buffer holds, `/stream` with no end."""
    size = 2**26 if scope["path"] == "/large" else 2
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/stream":
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
    await send({"type": "http.response.body", "body": b"x" * size})


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, int]]:
    """A server, and its port."""
    server = Server(guard.Guard(application, Http(), page.load()))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        task = asyncio.create_task(server.serve([listening]))
        try:
            yield server, listening.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def talk(port, *parts):
    """Send these and return all that comes until the server closes; b"" if it just does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
    answer = await asyncio.wait_for(reader.read(), LONG_S)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer


async def until(condition):
    """Wait until something holds."""
    async with asyncio.timeout(LONG_S):
        while not condition():  # noqa: ASYNC110  what the server has in hand it tells nobody
            await asyncio.sleep(0.01)


def exchange(*parts):
    """Do that with a server of its own."""

    async def main():
        async with serving() as (_, port):
            return await talk(port, *parts)

    return asyncio.run(main())


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /live HTTP/1.1\r\nHost: loc", GET + b"GET / HT"],
    ids=["nothing", "half a head", "half a second one"],
)
def test_slow_head(sent, monkeypatch):
    """A head that does not arrive in time is told so."""
    monkeypatch.setattr(protocol, "HEAD_S", SHORT_S)
    answer = exchange(sent)
    assert b"HTTP/1.1 408 Request Timeout\r\n" in answer
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(b'{"detail":"the head of the request has not arrived within 0 s"}')


def test_head_in_small_pieces(monkeypatch):
    """Each byte is a sign of life, but the head as a whole has its time."""
    monkeypatch.setattr(protocol, "HEAD_S", SHORT_S)

    async def main():
        async with serving() as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = asyncio.create_task(reader.readline())
            writer.write(b"GET / HTTP/1.1\r\nx: ")
            while not head.done():
                writer.write(b"y")
                await asyncio.sleep(SHORT_S / 20)
            assert await head == b"HTTP/1.1 408 Request Timeout\r\n"
            writer.close()

    asyncio.run(main())


def test_idle_connection(monkeypatch):
    """A connection may be used again; when it is not, it is closed without a word."""
    monkeypatch.setattr(protocol, "HEAD_S", LONG_S)
    monkeypatch.setattr(protocol, "IDLE_S", SHORT_S)
    answer = exchange(GET, GET)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert answer.count(b"HTTP/1.1") == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_slow_body(method, monkeypatch):
    """A body that does not arrive in time is not waited for."""
    monkeypatch.setattr(guard, "BODY_S", SHORT_S)
    answer = exchange(f"{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab".encode())
    assert answer.startswith(b"HTTP/1.1 408 " if method == "GET" else b"HTTP/1.1 405 ")


@pytest.mark.parametrize("size", [2**17, 2**24])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_huge_body(method, size):
    """Who sends a huge body can read the answer when he has sent it; nothing of it is kept."""
    head = f"{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()
    answer = exchange(head, *[b"x" * 2**16] * (size // 2**16))
    assert answer.startswith(b"HTTP/1.1 413 " if method == "GET" else b"HTTP/1.1 405 ")
    assert b'{"detail":' in answer


def test_chunked_body():
    """A body of a length that is not told is refused."""
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert exchange(head, b"3\r\nabc\r\n", b"0\r\n\r\n").startswith(b"HTTP/1.1 411 ")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\r\n\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200, 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n: bad\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 411),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 2**20 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 2**20 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"y" * 2**20, 431),
    ],
    ids=lambda value: repr(value[:70]) if isinstance(value, bytes) else None,
)
def test_no_request(sent, status, monkeypatch):
    """What is no request is told so, whatever else is still coming, and the connection closed."""
    monkeypatch.setattr(protocol, "LINGER_S", LONG_S)
    answer = exchange(sent)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert answer.count(b"HTTP/1.1") == 1
    assert b'{"detail":"' in answer


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close, upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_other_requests(sent, monkeypatch):
    """What is a request is answered, also where it asks for what there is not."""
    monkeypatch.setattr(protocol, "IDLE_S", SHORT_S)
    assert exchange(sent).startswith(b"HTTP/1.1 200 OK\r\n")


def test_rubbish_after_a_stream_has_begun():
    """An answer that has begun cannot become another one: the connection is closed."""

    async def main():
        async with serving() as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"x" * 99 + b"\x00rubbish\r\n\r\n")
            await asyncio.wait_for(reader.read(), LONG_S)
            writer.close()
            await until(lambda: not server.server_state.connections)

    asyncio.run(main())


def test_client_that_does_not_read(monkeypatch):
    """Who asks for much and does not read it is cut off."""
    monkeypatch.setattr(protocol, "STALLED_S", SHORT_S)

    async def main():
        async with serving() as (server, port):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await until(lambda: server.server_state.connections)
                await until(lambda: not server.server_state.connections)

    asyncio.run(main())


def test_too_many_connections(monkeypatch):
    """There is an end to how many connections are held; those that are there are served on."""
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 2)

    async def main():
        async with serving() as (_, port):
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            for reader, writer in held:
                writer.write(GET)
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), LONG_S) == b""
            for _, other in (*held, (reader, writer)):
                other.close()

    asyncio.run(main())


def test_many_connections_at_once():
    """No more are accepted in one go than there are files left for: asyncio takes as many as the backlog is long."""

    async def main():
        async with serving() as (server, port):
            await talk(port, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert protocol.MAX_CONNECTIONS + server.config.backlog < 1024 - 200

    asyncio.run(main())


@pytest.mark.parametrize("sent", [b"", b"GET /live HTTP/1.1\r\nHost: loc"], ids=["nothing", "half a head"])
def test_connections_that_do_not_ask_give_way(sent, monkeypatch):
    """Connections held open without a request keep out nobody who has one."""
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(protocol, "HEAD_S", LONG_S)

    async def main():
        async with serving() as (server, port):
            held = []
            for number in (1, 2):
                held.append(await asyncio.open_connection("127.0.0.1", port))
                held[-1][1].write(sent)
                await until(lambda number=number: len(server.server_state.connections) == number)
            answer = await talk(port, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            (first, _), (second, writer) = held
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(first.read(), LONG_S) == b""
            writer.write(GET.removeprefix(sent))
            assert await asyncio.wait_for(second.readline(), LONG_S) == b"HTTP/1.1 200 OK\r\n"
            for _, other in held:
                other.close()

    asyncio.run(main())


def test_too_many_requests(monkeypatch):
    """There is an end to how many requests are answered at a time; the probe does not count what others do."""
    monkeypatch.setattr(guard, "MAX_REQUESTS", 1)

    async def main():
        async with serving() as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            once = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            assert (await talk(port, once.replace(b"/live", b"/health"))).startswith(b"HTTP/1.1 503 ")
            assert (await talk(port, once)).startswith(b"HTTP/1.1 200 ")
            writer.close()

    asyncio.run(main())


def test_end_with_open_streams():
    """The server ends though clients hold on to streams, and to connections that they do not use."""

    async def main():
        async with serving() as (_, port):
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            held[0][1].write(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await held[0][0].readuntil(b"\r\n\r\n")
        for reader, writer in held:
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), LONG_S)
            writer.close()

    asyncio.run(main())
