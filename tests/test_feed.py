"""The feed against a real server on real sockets, in a process with a reactor of its own; its pure parts beside it."""

import asyncio
import datetime
import functools
import ipaddress
import itertools
import json
import os
import random
import socket
import ssl
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kite.feed import (
    CLOSE_S,
    CONNECT_S,
    MAX_TEXT_BYTES,
    RETRY_CAP_S,
    SILENCE_S,
    Retry,
    classify_text,
    next_batch,
)
from tests.feed_server import BINARY, CLOSE, HEARTBEAT, PING, TEXT, KiteServer, frame, until

API_KEY, ACCESS_TOKEN = "keySECRET", "tokenSECRET"
ONE = {"408065": "quote"}
Event = dict[str, Any]


# What a text message is


@pytest.mark.parametrize(
    ("payload", "kind", "data"),
    [
        (b'{"type": "order", "data": {"order_id": "1"}}', "order", {"order_id": "1"}),
        (b'{"type": "error", "data": "bad"}', "error", "bad"),
        (b'{"type": "message", "data": null}', "message", None),
        (b'{"type": "app_code", "code": 1}', "app_code", {"type": "app_code", "code": 1}),
        (b'{"type": 7}', "untyped", {"type": 7}),
        (b"[]", "untyped", []),
        (b"null", "untyped", None),
        (b'"x"', "untyped", "x"),
        (b"", "invalid", None),
        (b"{", "invalid", None),
        (b'{"type": "order\xff"}', "invalid", None),
        (b"[" * 100_000, "invalid", None),
        (b'"' + b"x" * MAX_TEXT_BYTES + b'"', "oversized", None),
    ],
)
def test_text_is_classified(payload, kind, data):
    """A message's type is its kind; what has none, is not JSON or is too long has a kind of its own."""
    message = classify_text(payload)
    assert (message.kind, message.data) == (kind, data)


@given(
    st.binary() | st.recursive(st.none() | st.booleans() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_text_never_raises(payload):
    """Whatever comes as text gets a kind, and keeps its beginning."""
    message = classify_text(payload)
    assert message.kind
    assert message.text == payload.decode("utf-8", "replace")[: len(message.text)]


# What to send next

INSTRUMENTS = st.dictionaries(st.integers(1, 40), st.sampled_from(["ltp", "quote", "full"]))


@given(INSTRUMENTS, INSTRUMENTS, st.integers(1, 10))
def test_batches_converge(confirmed, wanted, batch_size):
    """Batches, none too large and none in vain, turn any set into any other, never holding more than the larger one."""
    most = max(len(confirmed), len(wanted))
    differing = {t for t in {*confirmed, *wanted} if confirmed.get(t) != wanted.get(t)}
    touched: list[int] = []
    while batch := next_batch(confirmed, wanted, batch_size):
        assert 1 <= len(batch.tokens) <= batch_size
        touched += batch.tokens
        for token in batch.tokens:
            assert (token in confirmed) == (batch.action != "subscribe")
            confirmed.pop(token, None)
            if batch.mode:
                confirmed[token] = batch.mode
        assert len(confirmed) <= most
    assert confirmed == wanted
    assert sorted(touched) == sorted(differing)


# When to try again


def test_retry_is_immediate_once_then_slower():
    """After a close the first try is at once, the next ones wait longer and longer, up to the cap."""
    retry = Retry(uniform=lambda _, high: high)
    waits = [retry.delay_s("closed", None, 1.0) for _ in range(8)]
    assert waits == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_retry_starts_over_after_a_stable_connection():
    """More than ten seconds live, and the next try is at once again."""
    retry = Retry(uniform=lambda _, high: high)
    for _ in range(5):
        retry.delay_s("closed", None, 1.0)
    assert retry.delay_s("silent", None, 10.1) == 0.0
    assert retry.delay_s("failed", None, 0.0) == 0.5


def test_a_first_failure_is_not_retried_at_once():
    """Nobody listens there: that does not change in the same millisecond."""
    assert Retry(uniform=lambda _, high: high).delay_s("failed", None, 0.0) == 0.5


ENDINGS = st.one_of(
    st.tuples(st.sampled_from(["closed", "silent"]), st.none(), st.floats(0, 30)),
    st.tuples(st.just("failed"), st.none(), st.just(0.0)),
    st.tuples(st.just("refused"), st.sampled_from([302, 403, 429, 500]), st.just(0.0)),
)


@given(st.lists(ENDINGS))
def test_retry_keeps_its_limits(endings):
    """At most one try a second on 429, one a minute on 403; never two at once without a stable connection between."""
    retry, immediate = Retry(), 0
    for cause, status, live_s in endings:
        wait_s = retry.delay_s(cause, status, live_s)
        if live_s > 10:
            immediate = 0
        if status == 403:
            assert wait_s == 60
        elif status == 429:
            assert 1 <= wait_s <= 2
        else:
            assert wait_s == 0 or 0.25 <= wait_s <= RETRY_CAP_S
        immediate += wait_s == 0
        assert immediate <= 1


# The process that the feeds are in


class Process:
    """The runner, and all that it has said."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self.log = log
        self.events: list[Event] = []
        self._names = itertools.count(1)
        with log.open("wb") as stderr:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "tests.feed_runner"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._popen.stdout or ():
            self.events.append(json.loads(line))

    def say(self, **command) -> None:
        assert self._popen.stdin
        self._popen.stdin.write(json.dumps(command).encode() + b"\n")
        self._popen.stdin.flush()

    def feed(self) -> "Handle":
        return Handle(self, str(next(self._names)))

    def end(self) -> int:
        """Close its stdin, which ends it, and return the exit code."""
        assert self._popen.stdin
        self._popen.stdin.close()
        try:
            return self._popen.wait(20)
        finally:
            self._popen.kill()
            self._popen.wait()


class Handle:
    """One feed in the process."""

    def __init__(self, process: Process, name: str) -> None:
        self._process = process
        self._name = name

    def heard(self, *kinds: str) -> list[Event]:
        return [e for e in self._process.events if e["feed"] == self._name and e["event"] in kinds]

    @property
    def states(self) -> list[str]:
        return [e["state"] for e in self.heard("state")]

    async def tell(self, do: str, **args) -> Event:
        """Have a command obeyed; return how the feed is afterwards."""
        before = len(self.heard("done"))
        self._process.say(name=self._name, do=do, **args)
        await until(lambda: len(self.heard("done")) > before, f"an answer to {do}")
        return self.heard("done")[-1]

    def say(self, do: str, **args) -> None:
        """Give a command without waiting for it."""
        self._process.say(name=self._name, do=do, **args)

    async def begin(self, url: str, wanted: dict[str, str] = ONE, **args) -> None:
        args = {"api_key": API_KEY, "access_token": ACCESS_TOKEN, "batch_size": 500} | args
        await self.tell("new", url=url, **args)
        await self.tell("wanted", wanted=wanted)
        await self.tell("start")

    async def state(self, state: str, times: int = 1) -> Event:
        """Wait until a state was entered for the nth time, and return that change."""
        await until(lambda: self.states.count(state) >= times, f"state {state}, {times} times; had {self.states}")
        return [e for e in self.heard("state") if e["state"] == state][times - 1]

    async def confirmed(self, wanted: dict[str, str]) -> None:
        """Wait until the feed says that it has sent just this."""
        for _ in range(1000):
            if (await self.tell("look"))["confirmed"] == wanted:
                return
            await asyncio.sleep(0.01)
        pytest.fail(f"never subscribed to {wanted}")


def make_certificates(folder: Path) -> dict[str, Path]:
    """Write a CA and server certificates: good ones for localhost and 127.0.0.1, and ones that must be refused."""
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def make(label: str, subject: str, names: list[x509.GeneralName], issuer: Any = None, ends: Any = now + day) -> Any:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(issuer[0].subject if issuer else name(subject))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * day)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=label == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(issuer[1] if issuer else key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = folder / f"{label}.pem"
        path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        return path, (certificate, key)

    localhost: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    ca_path, ca = make("ca", "Test CA", [])
    return {
        "ca": ca_path,
        "good": make("good", "localhost", localhost, ca)[0],
        "impostor": make("impostor", "localhost", localhost)[0],
        "wrong_host": make("wrong_host", "localhost", [x509.DNSName("example.com")], ca)[0],
        "expired": make("expired", "localhost", localhost, ca, now - day)[0],
    }


def tls(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def process(tmp_path_factory, certificates):
    """Run the runner; at the end it must go by itself, and have logged at debug level but no secret."""
    log = tmp_path_factory.mktemp("runner") / "stderr"
    runner = Process(log, os.environ | {"SSL_CERT_FILE": str(certificates["ca"])})
    yield runner
    assert runner.end() == 0
    text = log.read_text()
    assert "autobahn logs at debug level here" in text
    assert "SECRET" not in text
    assert "SECRET" not in json.dumps(runner.events)


@pytest.fixture
def feed(process):
    """Return a feed that is stopped afterwards."""
    handle = process.feed()
    yield handle
    if handle.heard("done") and "stopped" not in handle.states:
        asyncio.run(handle.tell("stop"))


def on_loop(test):
    """Make a test out of a coroutine function."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(test(*args, **kwargs))

    return run


# Messages


@on_loop
async def test_messages_arrive_raw_and_in_order(feed):
    """Binary and text messages of any size, heartbeats and empty ones included, arrive as sent, one call each."""
    sizes = [1, 0, 2, 125, 126, 65535, 65536, 600_000, *[10] * 500, 1]
    sent = [(TEXT if i % 7 == 3 else BINARY, struct.pack(">H", i) * (size // 2 + 1)) for i, size in enumerate(sizes)]
    sent = [(opcode, payload[:size]) for (opcode, payload), size in zip(sent, sizes, strict=True)]
    async with KiteServer() as server:
        await feed.begin(server.url)
        await feed.state("live")
        await server.peers[0].send(*(frame(opcode, payload) for opcode, payload in sent))
        await server.peers[0].send(b"\x02\x03abc", b"\x00\x02de", b"\x80\x01f")  # one message in three fragments
        await until(lambda: len(feed.heard("frame", "text")) == len(sent) + 1, "all messages")
    sent.append((BINARY, b"abcdef"))
    expected = [("text" if o == TEXT else "frame", len(payload), payload[:100].hex()) for o, payload in sent]
    assert [(e["event"], e["size"], e["data"]) for e in feed.heard("frame", "text")] == expected


@on_loop
async def test_messages_arrive_whole_however_they_are_cut(feed):
    """Where the pieces that TCP brings begin and end makes no difference, be it within a header or a control frame."""
    sent = [(BINARY, b"x" * size) for size in (1, 0, 3, 126, 300)] * 3 + [(TEXT, b"text"), (BINARY, b"y" * 70_000)]
    sent += [(PING, b"ping"), (BINARY, b"z" * 130)] * 2 + [(BINARY, bytes([n])) for n in range(20)]
    data = b"".join(frame(opcode, payload) for opcode, payload in sent)
    data += b"\x02\x03abc" + b"\x89\x01p" + b"\x80\x01f" + frame(BINARY, b"last")
    heard = [(opcode, payload) for opcode, payload in sent if opcode != PING] + [(BINARY, b"abcf"), (BINARY, b"last")]
    expected = [("text" if o == TEXT else "frame", len(payload), payload[:100].hex()) for o, payload in heard]
    chance = random.Random(1)
    async with KiteServer() as server:
        await feed.begin(server.url)
        await feed.state("live")
        at = 0
        while at < len(data):
            size = chance.choice((1, 2, 3, 5, 100, 5000, 50_000))
            await server.peers[0].send(data[at : at + size])
            at += size
            if at < 4000 or at > len(data) - 300:  # time for the piece to arrive by itself
                await feed.tell("look")
        await until(lambda: len(feed.heard("frame", "text")) == len(expected), "all messages")
        assert server.peers[0].pongs == [b"ping", b"ping", b"p"]
    assert [(e["event"], e["size"], e["data"]) for e in feed.heard("frame", "text")] == expected


@on_loop
async def test_bad_messages_do_not_end_the_socket(feed):
    """What makes the official client drop its connection is handed on like anything else."""
    bad_text = [b"[]", b"null", b'"x"', b"\xff\xfe", b"{", b"", b"\xe2\x82"]
    bad_binary = [b"", b"\x00", b"\x00\x01", b"\xff" * 7, struct.pack(">HH", 1, 184) + b"x" * 44]
    async with KiteServer() as server:
        await feed.begin(server.url)
        await feed.state("live")
        await server.peers[0].send(*(frame(TEXT, t) for t in bad_text), *(frame(BINARY, b) for b in bad_binary))
        await server.peers[0].send(frame(BINARY, b"good"))
        await until(lambda: feed.heard("frame") and feed.heard("frame")[-1]["data"] == b"good".hex(), "the good frame")
        assert [bytes.fromhex(e["data"]) for e in feed.heard("text")] == bad_text
        assert [bytes.fromhex(e["data"]) for e in feed.heard("frame")] == [*bad_binary, b"good"]
        assert feed.states == ["connecting", "live"]


@on_loop
async def test_a_raising_listener_does_not_end_the_socket(feed, process):
    """Exceptions of the listener are counted and logged with their traceback; messages keep coming."""
    async with KiteServer() as server:
        await feed.begin(server.url, raises=True)
        await feed.state("live")
        await server.peers[0].send(*[frame(BINARY, b"a"), frame(TEXT, b"b")] * 10)
        await until(lambda: len(feed.heard("frame", "text")) == 20, "20 messages")
        done = await feed.tell("look")
        assert (done["state"], done["errors"]) == ("live", 23)
    assert "ValueError: the listener was told to raise" in process.log.read_text()


@on_loop
async def test_no_timers_run_in_the_reactor(feed):
    """Neither messages nor the official client leave a timer behind, live, waiting or stopped: it never retries."""
    async with KiteServer(101, 500) as server:
        await feed.begin(server.url)
        await feed.state("live")
        await server.peers[0].send(*[frame(BINARY, HEARTBEAT)] * 100)
        await until(lambda: len(feed.heard("frame")) == 100, "the frames")
        assert (await feed.tell("look"))["timers"] == 0
        server.peers[0].abort()
        assert (await feed.state("waiting", 2))["http_status"] == 500
        assert (await feed.tell("look"))["timers"] == 0


@on_loop
async def test_a_broken_length_ends_the_socket(feed):
    """A frame that claims a terabyte would swallow all that follows: the socket is replaced at once."""
    async with KiteServer() as server:
        await feed.begin(server.url)
        await feed.state("live")
        await server.peers[0].send(bytes((0x82, 127)) + struct.pack(">Q", 2**40))
        assert (await feed.state("waiting"))["cause"] == "closed"
        await feed.state("live", 2)


# Subscribing


@on_loop
async def test_subscribes_in_batches(feed):
    """Each batch is a subscribe and the mode for the same tokens, at most `batch_size` of them, of one mode.

    The latest comes first.
    """
    wanted = {"1": "quote", "2": "full", "3": "full", "4": "ltp", "5": "full"}
    async with KiteServer() as server:
        await feed.begin(server.url, wanted, batch_size=2)
        await feed.confirmed(wanted)
        await until(lambda: len(server.peers[0].requests) == 8, "eight requests")
        assert server.peers[0].requests == [
            {"a": "subscribe", "v": [3, 5]},
            {"a": "mode", "v": ["full", [3, 5]]},
            {"a": "subscribe", "v": [4]},
            {"a": "mode", "v": ["ltp", [4]]},
            {"a": "subscribe", "v": [2]},
            {"a": "mode", "v": ["full", [2]]},
            {"a": "subscribe", "v": [1]},
            {"a": "mode", "v": ["quote", [1]]},
        ]


@on_loop
async def test_sends_only_differences(feed):
    """On an open socket a new set costs what changed; on a new socket everything is sent again."""
    first = {"1": "quote", "2": "quote", "3": "full"}
    second = {"1": "quote", "2": "full", "4": "ltp"}
    async with KiteServer() as server:
        await feed.begin(server.url, first)
        await feed.confirmed(first)
        await feed.tell("wanted", wanted=second)
        await feed.confirmed(second)
        await until(lambda: len(server.peers[0].requests) == 8, "eight requests")
        assert server.peers[0].requests[4:] == [
            {"a": "unsubscribe", "v": [3]},
            {"a": "subscribe", "v": [4]},
            {"a": "mode", "v": ["ltp", [4]]},
            {"a": "mode", "v": ["full", [2]]},
        ]
        server.peers[0].abort()
        await feed.state("live", 2)
        await feed.confirmed(second)
        await until(lambda: subscribed(server.peers[1].requests) == second, "all on the new socket")


@on_loop
async def test_a_change_while_sending_converges(feed):
    """Sets that follow each other while batches are under way end in the last one, on the server's side too."""
    sets = [{str(t): mode for t in range(low, low + 60)} for low, mode in ((1, "quote"), (30, "full"), (45, "ltp"))]
    async with KiteServer() as server:
        await feed.begin(server.url, sets[0], batch_size=1)
        for wanted, sent in zip(sets[1:], (5, 25), strict=True):
            await until(functools.partial(has_requests, server, sent), f"{sent} requests")
            await feed.tell("wanted", wanted=wanted)
        await feed.confirmed(sets[-1])
        await until(lambda: subscribed(server.peers[0].requests) == sets[-1], "the last set")
        assert len(server.peers) == 1


def has_requests(server: KiteServer, number: int) -> bool:
    return bool(server.peers) and len(server.peers[0].requests) >= number


def subscribed(requests: list[Event]) -> dict[str, str]:
    """Return what Kite would have after these requests."""
    modes: dict[str, str] = {}
    for request in requests:
        if request["a"] == "subscribe":
            modes |= {str(token): "quote" for token in request["v"]}
        elif request["a"] == "unsubscribe":
            modes = {token: mode for token, mode in modes.items() if int(token) not in request["v"]}
        else:
            modes |= {str(token): request["v"][0] for token in request["v"][1] if str(token) in modes}
    return modes


@on_loop
async def test_open_only_while_something_is_wanted(feed):
    """Without instruments nothing is opened; the first opens the socket, the last one gone closes it politely."""
    async with KiteServer() as server:
        await feed.begin(server.url, {})
        assert (await feed.tell("look"))["state"] == "idle"
        assert server.peers == []
        await feed.tell("wanted", wanted=ONE)
        await feed.confirmed(ONE)
        await feed.tell("wanted", wanted={})
        await feed.state("idle")
        assert server.peers[0].close_code == 1000
        assert (await feed.tell("look"))["confirmed"] == {}
        await feed.tell("wanted", wanted=ONE)
        await feed.confirmed(ONE)
        assert feed.states == ["connecting", "live", "idle", "connecting", "live"]


# How attempts end


@pytest.mark.parametrize(
    ("plan", "state", "status"),
    [
        (403, "unauthorised", 403),
        ("HTTP/1.0 403 Forbidden\r\n\r\n", "unauthorised", 403),
        (429, "waiting", 429),
        (500, "waiting", 500),
        ("HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\n\r\n", "waiting", 302),
    ],
)
@on_loop
async def test_refusals_tell_their_status(feed, plan, state, status):
    """An HTTP answer instead of a socket is a refusal; only 403 asks for another token."""
    async with KiteServer(plan) as server:
        await feed.begin(server.url)
        change = await feed.state(state)
        assert (change["cause"], change["http_status"]) == ("refused", status)
        assert change["reason"].startswith(f"HTTP {status}")
        assert feed.states == ["connecting", state]
        await feed.tell("advance", seconds=change["retry_in_s"])
        await feed.state("live")
        assert server.peers[0].head.startswith(f"GET /?api_key={API_KEY}&access_token={ACCESS_TOKEN} HTTP/1.1\r\n")
        assert "X-Kite-Version: 3\r\n" in server.peers[0].head


@pytest.mark.parametrize(
    "answer",
    [
        "garbage\r\n\r\n",
        "HTTP/1.1 101 Fine\r\n\r\n",
        "HTTP/1.1 \r\n\r\n",
        "\r\n\r\n",
        "HTTP/1.1 101 Fine\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: no\r\n\r\n",
    ],
)
@on_loop
async def test_a_senseless_answer_is_a_failure(feed, answer):
    """What is neither a socket nor a refusal fails, and is tried again."""
    async with KiteServer(answer) as server:
        await feed.begin(server.url)
        change = await feed.state("waiting")
        assert (change["cause"], change["http_status"]) == ("failed", None)
        await feed.tell("advance", seconds=change["retry_in_s"])
        await feed.state("live")


@on_loop
async def test_connects_when_the_server_appears(feed):
    """Nobody listens: it fails and is tried again, on the real clock, until somebody does."""
    async with KiteServer() as server:
        port = server.port
    await feed.begin(f"ws://127.0.0.1:{port}", real_clock=True)
    change = await feed.state("waiting", 2)
    assert change["cause"] == "failed"
    assert "refused" in change["reason"]
    async with KiteServer(port=port):
        await feed.state("live")


@on_loop
async def test_an_unknown_host_fails(feed):
    """A name that does not resolve is a failure like others."""
    await feed.begin("ws://no-such-host.invalid:1")
    assert (await feed.state("waiting"))["cause"] == "failed"


@on_loop
async def test_an_exception_of_the_client_costs_one_attempt(feed, process):
    """Where the client raises, with the secrets in its message here, the attempt failed and the feed goes on."""
    await feed.begin("ws://127.0.0.1:1#fragment")
    change = await feed.state("waiting")
    assert change["cause"] == "failed"
    assert "fragment" in change["reason"]
    assert "access_token=***" in change["reason"]
    assert "the Kite client failed" in process.log.read_text()


@on_loop
async def test_a_close_is_told_and_tried_again_at_once(feed):
    """A close has its code and reason. The first is followed by a try at once, the second by a wait."""
    async with KiteServer() as server:
        await feed.begin(server.url)
        await feed.state("live")
        await server.peers[0].send(frame(CLOSE, struct.pack(">H", 4001) + f"{ACCESS_TOKEN} is stale".encode()))
        change = await feed.state("waiting")
        assert (change["cause"], change["close_code"], change["reason"]) == ("closed", 4001, "*** is stale")
        assert change["retry_in_s"] == 0
        await until(lambda: server.peers[0].gone, "the socket closed by the client, though the server holds it")
        await feed.state("live", 2)
        await server.peers[1].send(frame(CLOSE, b""))
        change = await feed.state("waiting", 2)
        assert (change["cause"], change["close_code"]) == ("closed", None)
        assert change["retry_in_s"] > 0


@on_loop
async def test_an_aborted_socket_is_told(feed):
    """A reset without a close frame is a close with 1006, after the frames that came before."""
    async with KiteServer() as server:
        await feed.begin(server.url)
        await feed.state("live")
        await server.peers[0].send(frame(BINARY, b"last"))
        await until(lambda: feed.heard("frame"), "the frame")
        server.peers[0].abort()
        change = await feed.state("waiting")
        assert (change["cause"], change["close_code"]) == ("closed", 1006)
        await feed.state("live", 2)


# Silence


@pytest.mark.parametrize("sign", [frame(BINARY, HEARTBEAT), frame(TEXT, b"{}"), frame(PING, b"p")])
@on_loop
async def test_any_message_is_a_sign_of_life(feed, sign):
    """Heartbeats, text and pings each give six more seconds; without any the socket is replaced at once."""

    def reached(times: int) -> bool:
        return len(feed.heard("frame", "text")) + len(server.peers[0].pongs) == times

    async with KiteServer() as server:
        await feed.begin(server.url)
        await feed.state("live")
        for times in (1, 2, 3):
            await feed.tell("advance", seconds=SILENCE_S - 0.1)
            await server.peers[0].send(sign)
            await until(functools.partial(reached, times), "the feed has heard it")
        await feed.tell("advance", seconds=SILENCE_S - 0.1)
        assert feed.states == ["connecting", "live"]
        await feed.tell("advance", seconds=0.1)
        change = await feed.state("waiting")
        assert (change["cause"], change["retry_in_s"]) == ("silent", 0)
        await until(lambda: server.peers[0].gone, "the old socket gone")
        await feed.state("live", 2)


@on_loop
async def test_silence_from_the_start_is_noticed(feed):
    """Connected, but nothing ever came: the same fault, and the second time in a row it waits before the next try."""
    async with KiteServer() as server:
        await feed.begin(server.url)
        for times in (1, 2):
            await feed.state("live", times)
            await feed.tell("advance", seconds=SILENCE_S)
            change = await feed.state("waiting", times)
            assert change["cause"] == "silent"
            assert (change["retry_in_s"] > 0) == (times == 2)


@on_loop
async def test_silence_ends_the_socket_by_itself(feed):
    """The same on the real clock, without anything that would wake the feed."""
    async with KiteServer() as server:
        await feed.begin(server.url, real_clock=True, silence_s=0.1)
        await feed.state("waiting")
        assert feed.heard("state")[2]["cause"] == "silent"
        await feed.state("live", 2)


@on_loop
async def test_a_hanging_handshake_is_ended(feed):
    """A server that takes the connection and never answers is silent too."""
    async with KiteServer("hang") as server:
        await feed.begin(server.url)
        await until(lambda: server.peers, "the request")
        await feed.tell("advance", seconds=CONNECT_S - 0.1)
        assert feed.states == ["connecting"]
        await feed.tell("advance", seconds=0.1)
        assert (await feed.state("waiting"))["cause"] == "silent"
        await until(lambda: server.peers[0].gone, "the old socket gone")
        await feed.state("live")


# Credentials


@on_loop
async def test_a_refused_token_waits_for_a_new_one(feed):
    """After 403 it tries once a minute; new credentials are tried at once."""
    async with KiteServer(403, 403, 403) as server:
        await feed.begin(server.url)
        await feed.state("unauthorised")
        await feed.tell("advance", seconds=59.9)
        assert feed.states == ["connecting", "unauthorised"]
        await feed.tell("advance", seconds=0.1)
        await feed.state("unauthorised", 2)
        await feed.tell("credentials", api_key=API_KEY, access_token="new&SECRET")
        await feed.state("unauthorised", 3)
        assert "access_token=new%26SECRET " in server.peers[2].head
        assert ACCESS_TOKEN in server.peers[1].head


@on_loop
async def test_credentials_that_come_during_an_attempt_are_used_next(feed):
    """An attempt with the old token is refused after the new one came: the new one is tried without waiting."""
    async with KiteServer("hang") as server:
        await feed.begin(server.url)
        await until(lambda: server.peers, "the request")
        await feed.tell("credentials", api_key=API_KEY, access_token="newSECRET")
        await server.peers[0].send(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        assert (await feed.state("unauthorised"))["retry_in_s"] == 0
        await feed.state("live")
        assert "newSECRET" in server.peers[1].head


@on_loop
async def test_a_live_socket_survives_new_credentials(feed):
    """A socket outlives its token; nothing is opened anew for a new one."""
    async with KiteServer() as server:
        await feed.begin(server.url)
        await feed.confirmed(ONE)
        done = await feed.tell("credentials", api_key=API_KEY, access_token="newSECRET")
        assert done["state"] == "live"
        assert len(server.peers) == 1


# Stopping


@on_loop
async def test_stop_closes_politely_and_for_good(feed):
    """A close frame goes out, what still arrives before the answer is handed on, and after `stop` nothing is heard."""
    async with KiteServer() as server:
        await feed.begin(server.url)
        await feed.state("live")
        peer = server.peers[0]
        peer.echo_close = False
        feed.say("stop")
        await until(lambda: peer.close_code == 1000, "the close frame")
        await peer.send(frame(BINARY, b"last"), frame(CLOSE, b"\x03\xe8"))
        await until(lambda: feed.heard("done")[-1]["do"] == "stop", "the stop")
        assert feed.heard("frame")[-1]["data"] == b"last".hex()
        assert feed.states == ["connecting", "live", "stopped"]
        assert feed.heard("done", "state", "frame")[-1]["event"] == "done"
        await until(lambda: peer.gone, "the socket gone")
        assert len(server.peers) == 1


@on_loop
async def test_stop_does_not_wait_for_a_dead_server(feed):
    """Where no answer to the close frame comes, the socket is dropped after a second; a second `stop` waits with it."""
    async with KiteServer() as server:
        await feed.begin(server.url)
        await feed.state("live")
        server.peers[0].echo_close = False
        feed.say("stop")
        await until(lambda: server.peers[0].close_code, "the close frame")
        assert "stopped" not in feed.states
        await feed.tell("advance", seconds=CLOSE_S)
        await feed.state("stopped")
        await until(lambda: server.peers[0].gone, "the socket gone")


@pytest.mark.parametrize("how", ["reset", "closed"])
@pytest.mark.parametrize("state", ["stopped", "idle"])
@on_loop
async def test_a_close_without_an_answer_is_told(feed, state, how):
    """What the server has sent until then may be lost, as it is with a server that is silent."""
    async with KiteServer() as server:
        await feed.begin(server.url)
        await feed.state("live")
        peer = server.peers[0]
        peer.echo_close = False
        if state == "idle":
            await feed.tell("wanted", wanted={})
        else:
            feed.say("stop")
        await until(lambda: peer.close_code, "the close frame")
        if how == "reset":
            peer.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        peer.abort()
        change = await feed.state(state)
        assert (change["cause"], change["close_code"], change["retry_in_s"]) == ("closed", 1006, None)
        assert feed.states == ["connecting", "live", state]


@pytest.mark.parametrize("plan", ["hang", 403])
@on_loop
async def test_stop_ends_attempts_and_waits(feed, plan):
    """A feed that connects or waits stops at once."""
    async with KiteServer(plan) as server:
        await feed.begin(server.url)
        await until(lambda: server.peers, "the request")
        await feed.tell("stop")
        assert feed.states[-1] == "stopped"
        await until(lambda: server.peers[0].gone, "the socket gone")


# TLS


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@on_loop
async def test_tls_by_name_and_by_address(feed, certificates, host):
    """A certificate that a trusted authority gave to this name or address is good; frames and stop work the same."""
    async with KiteServer(tls=tls(certificates["good"])) as server:
        await feed.begin(f"wss://{host}:{server.port}")
        await feed.confirmed(ONE)
        assert ACCESS_TOKEN in server.peers[0].head
        await server.peers[0].send(frame(BINARY, b"x" * 100_000))
        await until(lambda: feed.heard("frame"), "the frame")
        await feed.tell("advance", seconds=SILENCE_S)
        await feed.state("live", 2)
        await until(lambda: server.peers[0].gone, "the silent socket gone")
        await feed.tell("stop")
        await until(lambda: server.peers[1].gone, "the socket gone")
        assert server.peers[1].close_code == 1000


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("which", ["impostor", "wrong_host", "expired"])
@on_loop
async def test_an_impostor_gets_nothing(feed, certificates, host, which):
    """A self-signed, a foreign or an expired certificate is refused before key and token are sent."""
    async with KiteServer(tls=tls(certificates[which])) as server:
        await feed.begin(f"wss://{host}:{server.port}")
        change = await feed.state("waiting")
        assert change["cause"] == "failed"
        assert "TLS failed" in change["reason"]
        assert {"impostor": "certificate verify", "wrong_host": "Mismatch", "expired": "certificate verify"}[
            which
        ] in change["reason"]
        await feed.tell("advance", seconds=change["retry_in_s"])
        await feed.state("waiting", 2)
        await until(lambda: server.handshakes_failed == 2, "the server's view of two failed handshakes")
        assert server.peers == []


def python(code: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, check=True, capture_output=True, text=True
    ).stdout


def test_without_system_authorities_certifi_is_trusted(tmp_path):
    """In a container without a store the wss connection to Kite can still be verified."""
    code = (
        "from pipeline.kite import connection as c\n"
        "print(c._platform_trust(), c.verified_tls('ws.kite.trade') is not None)"
    )
    nowhere = {"SSL_CERT_FILE": str(tmp_path / "none"), "SSL_CERT_DIR": str(tmp_path)}
    assert python(code, **nowhere).split() == ["None", "True"]


# The reactor


def test_importing_has_no_side_effects():
    """Importing the feed installs no reactor, and a feed without one says what is missing."""
    code = """if True:
        import asyncio, sys
        from pipeline.kite.feed import Feed
        assert not any(name.startswith(("twisted", "kiteconnect")) for name in sys.modules)
        async def main():
            Feed(url="ws://x", api_key="", access_token="", batch_size=1, listener=None).start()
        try:
            asyncio.run(main())
        except RuntimeError as error:
            print(error)
    """
    assert "install_reactor" in python(code)
