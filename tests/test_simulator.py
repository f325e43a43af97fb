"""The simulator as a server: the official client reads it, its limits are Kite's, its faults come when asked for."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pipeline.config import Config
from pipeline.config import Simulator as Settings
from pipeline.errors import ConfigError
from pipeline.kite.rest import is_accepted
from pipeline.simulator import record as recording
from pipeline.simulator import server, session
from pipeline.simulator.faults import ODD_TEXTS, Faults, parse
from pipeline.simulator.market import SEGMENTS, Market, tokens
from tests.test_simulator_market import messages_in, split

pytestmark = pytest.mark.usefixtures("no_settings", "in_tmp_path")

DEADLINE_S = 20.0
DEAD = 13 << 8 | 1


@contextmanager
def program(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command; give its process and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.simulator", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on ws://127.0.0.1:"), line
        url = line.split()[-1]
        assert process.stdout.readline() == f"REST API at {url.replace('ws', 'http', 1)}\n"
        yield process, url
    finally:
        process.kill()
        process.communicate()


@asynccontextmanager
async def running(
    *fault_texts: str, secrets: dict[str, str] | None = None, **settings: object
) -> AsyncIterator[tuple[str, server.Simulator]]:
    """Run a simulator in this loop; give its URL with credentials and the simulator."""
    config = Config.model_validate(secrets or {}).model_copy(update={"simulator": Settings.model_validate(settings)})
    simulator = server.Simulator(config, Faults(map(parse, fault_texts)))
    await simulator.start()
    stop = asyncio.Event()
    run = asyncio.create_task(simulator.run(stop))
    try:
        yield f"{simulator.url}/?api_key=key&access_token=token", simulator
    finally:
        stop.set()
        await run


@asynccontextmanager
async def client(url: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """Connect; at the end leave without a closing handshake, which waits for what was not read."""
    ws = await connect(url, **options)
    try:
        yield ws
    finally:
        ws.transport.abort()


def scenario(coroutine_function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of a coroutine, with a deadline for all of it."""

    def test() -> None:
        async def limited() -> None:
            async with asyncio.timeout(DEADLINE_S):
                await coroutine_function()

        asyncio.run(limited())

    test.__doc__ = coroutine_function.__doc__
    return test


def get(url: str, path: str) -> tuple[int, Any]:
    """Return the status and the JSON of one of the simulator's pages."""
    try:
        with urllib.request.urlopen(url.replace("ws://", "http://").split("/?")[0] + path, timeout=10) as answer:  # noqa: S310  http only
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the deadline is the scenario's."""
    while not condition():  # noqa: ASYNC110  the simulator has nothing to tell a test when it is done
        await asyncio.sleep(0.01)


async def subscribe(ws: ClientConnection, *wanted: object, mode: str | None = None) -> None:
    """Subscribe as the official client does."""
    await ws.send(json.dumps({"a": "subscribe", "v": wanted}))
    if mode:
        await ws.send(json.dumps({"a": "mode", "v": [mode, wanted]}))


async def first_of(ws: ClientConnection, accept: Callable[[Any], bool]) -> Any:
    """Return the first message that `accept` accepts."""
    while not accept(message := await ws.recv()):
        pass
    return message


def is_ticks(message: str | bytes) -> TypeGuard[bytes]:
    """Tell whether a message is one with ticks."""
    return isinstance(message, bytes) and len(message) > 2


def test_official_client_parses_everything():
    """The unmodified client gets all modes of all segments with sane values, exactly as many ticks as were sent."""
    wanted = tokens(60)
    modes = {"full": wanted[::3], "quote": wanted[1::3], "ltp": [*wanted[2::3], DEAD]}
    with program("--rate", "3000", "--frame-ticks", "7", "--seed", "5") as (_, url):
        reader = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("kite_reader.py")), url, "3000"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert reader.stdin is not None
            assert reader.stdout is not None
            reader.stdin.write(json.dumps(modes))
            reader.stdin.close()
            ticks = json.loads(reader.stdout.readline())
            stats = get(url, "/stats")[1]
        finally:
            reader.kill()
            reader.wait()
            if reader.stdout:
                reader.stdout.close()
    (connection,) = stats["connections"]
    assert connection["ticks_sent"] == stats["ticks_sent_total"] == len(ticks)
    assert connection["subscribed"] == 0
    assert {t["instrument_token"] for t in ticks} == set(wanted)
    assert {t["mode"] for t in ticks} == set(modes)
    for mode, these in modes.items():
        got = {t["instrument_token"] for t in ticks if t["mode"] == mode}
        assert got >= set(these) - {DEAD}

    market = Market(5)
    rows = market.rows(wanted, 0)
    bounds = {t: (market.state["lower"][r], market.state["upper"][r]) for t, r in zip(wanted, rows, strict=True)}
    now = time.time()
    for tick in ticks:
        segment = next(s for s in SEGMENTS.values() if s.code == tick["instrument_token"] & 0xFF)
        lower, upper = (bound / segment.divisor for bound in bounds[tick["instrument_token"]])
        assert 0 < lower <= tick["last_price"] <= upper
        assert tick["tradable"] is (segment.code != 9)
        if tick["mode"] == "ltp":
            continue
        ohlc = tick["ohlc"]
        assert lower <= ohlc["low"] <= tick["last_price"] <= ohlc["high"] <= upper
        assert -20 < tick["change"] < 20
        if tick["mode"] == "full":
            assert tick["exchange_timestamp"] == 0 or now - 60 < tick["exchange_timestamp"] <= now
        if tick["mode"] == "full" and tick["tradable"]:
            buy, sell = ([e["price"] for e in tick["depth"][side]] for side in ("buy", "sell"))
            assert buy == sorted(buy, reverse=True)
            assert sell == sorted(sell)
            assert 0 < buy[0] < tick["last_price"] < sell[0]
            assert all(e["orders"] and e["quantity"] for side in ("buy", "sell") for e in tick["depth"][side])


@scenario
async def test_rounds_reach_every_instrument():
    """Each instrument ticks as often as any other, in its own mode, whatever the number of ticks in a message."""
    for frame_ticks in (0, 1, 64):
        async with running(rate=20_000, frame_ticks=frame_ticks) as (url, _), client(url) as ws:
            wanted = tokens(50)
            await subscribe(ws, *wanted)
            await ws.send(json.dumps({"a": "mode", "v": ["full", wanted[:20]]}))
            await ws.send(json.dumps({"a": "mode", "v": ["ltp", wanted[20:30]]}))
            await first_of(ws, lambda m: is_ticks(m) and len(split(m)[0][0]) == 8)  # the last answer is on its way
            counts, total = dict.fromkeys(wanted, 0), 0
            while total < 3000:
                packets, whole = split(await first_of(ws, is_ticks))
                assert whole
                assert frame_ticks in (0, len(packets))
                for packet in packets:
                    counts[int.from_bytes(packet[:4], "big")] += 1
                total += len(packets)
            assert max(counts.values()) - min(counts.values()) <= 3


@scenario
async def test_greeting_snapshot_and_heartbeats():
    """Two texts come first; a request is answered by the current packets at once; else heartbeats, one byte long."""
    async with running(rate=0) as (url, simulator), client(url) as ws:
        texts = [json.loads(await ws.recv()), json.loads(await ws.recv())]
        assert [text["type"] for text in texts] == ["instruments_meta", "app_code"]
        await subscribe(ws, 408065, 256265, mode="full")
        assert [len(p) for p in split(await first_of(ws, is_ticks))[0]] == [44, 28]
        assert [len(p) for p in split(await first_of(ws, is_ticks))[0]] == [184, 32]
        assert await ws.recv() == b"\0"
        assert await ws.recv() == b"\0"
        assert simulator.stats()["connections"][0]["ticks_sent"] == 4


@scenario
async def test_requests():
    """Modes are kept for each instrument; strings, dead and unknown tokens are ignored; nonsense is answered."""
    async with running(rate=0) as (url, simulator), client(url) as ws:
        await subscribe(ws, 408065, "738561", 738561.0, True, DEAD, 1594 << 8 | 10, -1, 2**40, None, 256265)
        await ws.send(json.dumps({"a": "mode", "v": ["ltp", [408065, 738561]]}))
        await subscribe(ws, 408065)
        await ws.send(json.dumps({"a": "unsubscribe", "v": [738561]}))
        for nonsense in (
            "",
            "[]",
            "null",
            '{"a": "subscribe"}',
            '{"a": "buy", "v": [1]}',
            '{"a": "mode", "v": "full"}',
        ):
            await ws.send(nonsense)
            error = json.loads(await first_of(ws, lambda m: isinstance(m, str) and "error" in m))
            assert error["data"].startswith("Invalid request")
        (connection,) = simulator.stats()["connections"]
        assert connection["tokens"] == {"408065": "ltp", "256265": "quote"}
        assert connection["modes"] == {"ltp": 1, "quote": 1, "full": 0}
        await ws.send(json.dumps({"a": "unsubscribe", "v": [408065, 256265]}))
        await until(lambda: not simulator.stats()["connections"][0]["tokens"])


@scenario
async def test_limit_of_instruments():
    """The 3,001st instrument is refused with an error message; the 3,000 before it stay."""
    wanted = tokens(3002)
    async with running(rate=0) as (url, simulator), client(url) as ws:
        await subscribe(ws, *wanted[:2999])
        await subscribe(ws, *wanted[2998:])
        error = json.loads(await first_of(ws, lambda m: isinstance(m, str) and "error" in m))
        assert error == {"type": "error", "data": "Subscription limit of 3000 instruments reached, 2 ignored"}
        assert list(simulator.stats()["connections"][0]["tokens"]) == [str(token) for token in wanted[:3000]]


async def status_of(url: str) -> int:
    """Return the HTTP status with which a connect is refused."""
    with pytest.raises(InvalidStatus) as refused:
        await connect(url)
    return refused.value.response.status_code


@scenario
async def test_credentials():
    """Without key or token, or with a token that is no good, the answer is 403."""
    async with running() as (url, simulator):
        base = url.split("?")[0]
        for query in ("", "?api_key=key", "?access_token=t", "?api_key=&access_token=t"):
            assert await status_of(base + query) == 403
        for token in ("expired", "invalid"):
            assert await status_of(f"{base}?api_key=key&access_token={token}") == 403
        assert simulator.stats()["refused"] == {"403": 6, "429": 0}
        async with client(base.rstrip("/") + "?api_key=any&access_token=other"):
            pass


@scenario
async def test_own_credentials():
    """A simulator that has credentials lets in these only."""
    async with running(secrets={"KITE_API_KEY": "key", "KITE_ACCESS_TOKEN": "ключ"}) as (url, _):
        base = url.split("?")[0]
        assert await status_of(url) == 403
        assert await status_of(f"{base}?api_key=other&access_token=%D0%BA%D0%BB%D1%8E%D1%87") == 403
        async with client(f"{base}?api_key=key&access_token=%D0%BA%D0%BB%D1%8E%D1%87"):
            pass


@scenario
async def test_fourth_connection():
    """A fourth connection of a key is refused with 429 until one of the three is gone; other keys are not concerned."""
    async with running(rate=0) as (url, simulator):
        three = [await connect(url) for _ in range(3)]
        assert await status_of(url) == 429
        other = await connect(url.replace("api_key=key", "api_key=other"))
        await three[1].close()
        await until(lambda: len(simulator.stats()["connections"]) == 3)
        again = await connect(url)
        stats = simulator.stats()
        assert [c["id"] for c in stats["connections"]] == [1, 3, 4, 5]
        assert stats["refused"] == {"403": 0, "429": 1}
        assert stats["closed"] == [{"id": 2, "ticks_sent": 0}]
        for ws in (three[0], three[2], other, again):
            await ws.close()


@scenario
async def test_silence_and_abort():
    """A silent connection gets nothing, not even its snapshot; an aborted one ends with 1006; the others go on."""
    async with running("silence:1", rate=1000) as (url, simulator), client(url) as ws, client(url) as other:
        await subscribe(ws, 408065)
        await subscribe(other, 408065)
        for _ in range(100):
            await first_of(other, is_ticks)
        await until(lambda: simulator.stats()["connections"][0]["subscribed"] == 1)
        assert simulator.stats()["connections"][0]["ticks_sent"] == 0
        assert (await asyncio.to_thread(get, url, "/fault?do=clear")) == (200, {"faults": []})
        await first_of(ws, is_ticks)

        await asyncio.to_thread(get, url, "/fault?do=abort&connection=1")
        with pytest.raises(ConnectionClosed):
            await first_of(ws, lambda _: False)
        assert ws.close_code == 1006
        await first_of(other, is_ticks)


@scenario
async def test_malformed_messages():
    """Every third message is damaged in each of the ways in turn; the whole packets in all messages are counted."""
    async with running("malformed=3:1", rate=5000, frame_ticks=5) as (url, simulator), client(url) as ws:
        wanted = tokens(20)
        await subscribe(ws, *wanted, mode="full")
        whole, broken = 0, 0
        odd: list[str] = []
        while len(odd) < len(ODD_TEXTS):
            message = await ws.recv()
            if isinstance(message, bytes):
                packets, right = split(message)
                whole += len(packets)
                broken += not right
            elif message in ODD_TEXTS:
                odd.append(message)
        assert odd == list(ODD_TEXTS)
        assert broken == 4
        await ws.send(json.dumps({"a": "unsubscribe", "v": wanted}))
        while (message := await ws.recv()) != b"\0":
            whole += len(split(message)[0]) if isinstance(message, bytes) else 0
        assert whole == simulator.stats()["connections"][0]["ticks_sent"]


@scenario
async def test_refusals_on_request():
    """Connects are refused as asked for until that ends."""
    async with running(rate=0) as (url, simulator):
        for status in (403, 429):
            answer, body = await asyncio.to_thread(get, url, f"/fault?do=refuse&status={status}")
            assert answer == 200
            assert body["faults"][-1].startswith(f"refuse={status}@")
            assert await status_of(url) == status
        assert simulator.stats()["refused"] == {"403": 1, "429": 1}
        await asyncio.to_thread(get, url, "/fault?do=clear")
        async with client(url):
            pass


@scenario
async def test_profile():
    """The REST API tells the official client's question whether a token is good, by the same rules as the feed."""
    async with running() as (_, simulator):
        for key, token, accepted in (("k", "t", True), ("k", "expired", False), ("k", "", False), ("", "t", False)):
            assert await asyncio.to_thread(is_accepted, simulator.api_url, key, token) is accepted
        assert simulator.stats()["profiles"] == {"200": 1, "403": 3}
        for header in ("", "token", "token :", "Bearer k:t"):
            request = urllib.request.Request(f"{simulator.api_url}/user/profile", headers={"Authorization": header})  # noqa: S310  http only
            with pytest.raises(urllib.error.HTTPError, match="403"):
                await asyncio.to_thread(urllib.request.urlopen, request)
    async with running(secrets={"KITE_API_KEY": "key", "KITE_ACCESS_TOKEN": "t0ken"}) as (_, simulator):
        for key, token, accepted in (("key", "t0ken", True), ("key", "other", False), ("other", "t0ken", False)):
            assert await asyncio.to_thread(is_accepted, simulator.api_url, key, token) is accepted


@scenario
async def test_profile_on_request():
    """Feed and REST API refuse each for itself, so that a token can be refused by the one or by both."""
    async with running("refuse") as (url, simulator):
        assert await status_of(url) == 403
        assert await asyncio.to_thread(is_accepted, simulator.api_url, "key", "token") is True
        for status, accepted in ((403, False), (429, None), (503, None)):
            _, body = await asyncio.to_thread(get, url, f"/fault?do=profile&status={status}")
            assert body["faults"][-1].startswith(f"profile={status}@")
            assert await asyncio.to_thread(is_accepted, simulator.api_url, "key", "token") is accepted
        await asyncio.to_thread(get, url, "/fault?do=clear")
        assert await asyncio.to_thread(is_accepted, simulator.api_url, "key", "token") is True
        async with client(url):
            pass
        assert simulator.stats()["profiles"] == {"200": 2, "403": 1, "429": 1, "503": 1}


@scenario
async def test_pages():
    """The pages answer with JSON, and say what is wrong with a question."""
    async with running(instruments=7) as (url, _):
        assert await asyncio.to_thread(get, url, "/tokens") == (200, tokens(7))
        assert (await asyncio.to_thread(get, url, "/fault?do=sleep"))[0] == 400
        status, body = await asyncio.to_thread(get, url, "/fault?do=abort&connection=x")
        assert (status, body) == (400, {"error": "connection is a whole number from 1 on, not 'x'"})
        assert (await asyncio.to_thread(get, url, "/orders"))[0] == 404
        with pytest.raises(urllib.error.HTTPError, match="426"):
            await asyncio.to_thread(urllib.request.urlopen, url.replace("ws://", "http://"))
        stats = (await asyncio.to_thread(get, url, "/stats"))[1]
        assert stats["connections"] == stats["closed"] == []


@scenario
async def test_rate_on_request():
    """The rate of all connections can be changed, to nothing and back; what is no rate is refused."""
    async with running(rate=0) as (url, simulator), client(url) as ws:
        assert await asyncio.to_thread(get, url, "/rate?ticks_per_second=5000") == (200, {"ticks_per_second": 5000})
        await subscribe(ws, *tokens(20))
        await until(lambda: simulator.stats()["connections"][0]["ticks_sent"] > 100)
        assert (await asyncio.to_thread(get, url, "/rate?ticks_per_second=0"))[0] == 200
        while await ws.recv() != b"\0":
            pass
        for wrong in ("", "?ticks_per_second=-1", "?ticks_per_second=x"):
            status, body = await asyncio.to_thread(get, url, f"/rate{wrong}")
            assert status == 400
            assert body["error"].startswith("ticks_per_second: ")


@scenario
async def test_without_a_rate_nothing_follows():
    """When the rate has become 0, not even ticks that were late are sent: what has been sent by then is all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "BATCH_MAX", 1000)  # it is always late
        async with running(rate=1_000_000, frame_ticks=100) as (url, simulator), client(url) as ws:
            await subscribe(ws, *tokens(20))
            await first_of(ws, is_ticks)
            await until(lambda: simulator.stats()["ticks_sent_total"] > 2000)
            await asyncio.to_thread(get, url, "/rate?ticks_per_second=0")
            sent = simulator.stats()["ticks_sent_total"]
            await first_of(ws, lambda message: message == b"\0")
            assert simulator.stats()["ticks_sent_total"] == sent


@scenario
async def test_record():
    """The record of a connection has the messages with ticks that it was sent, damaged ones too, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "of" / "all"
        for fault in ([], ["malformed=3"]):
            async with running(*fault, rate=5000, frame_ticks=5, record=record) as (url, simulator), client(url) as ws:
                await subscribe(ws, *tokens(20), mode="full")
                received: list[bytes] = []
                while len(received) < 50:
                    message = await ws.recv()
                    if is_ticks(message) or (isinstance(message, bytes) and fault and message != b"\0"):
                        received.append(message)
            written = messages_in((record / "connection-1.sent").read_bytes())
            assert written[: len(received)] == received
            ticks = sum(len(split(message)[0]) for message in written)
            assert ticks == simulator.stats()["ticks_sent_total"]


def test_a_record_that_cannot_be_written(monkeypatch, caplog):
    """A full disk ends the record of a connection, with one line in the log, not its ticks, nor what others get."""
    monkeypatch.setattr(recording, "BUFFER_BYTES", 4096)

    async def play():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "connection-1.sent").symlink_to("/dev/full")
            async with running(rate=5000, record=Path(folder)) as (url, simulator):
                async with client(url) as ws, client(url) as other:
                    await subscribe(ws, *tokens(100), mode="full")
                    await subscribe(other, 408065)
                    sent = simulator.stats()["ticks_sent_total"] + 10_000
                    while simulator.stats()["ticks_sent_total"] < sent:
                        await first_of(ws, is_ticks)
                        await first_of(other, is_ticks)
                await until(lambda: len(simulator.stats()["closed"]) == 2)
                stats = simulator.stats()
                assert stats["ticks_sent_total"] == sum(closed["ticks_sent"] for closed in stats["closed"])
                async with client(url), client(url), client(url):  # as many as one key may have: no place is held
                    pass
            assert (Path(folder) / "connection-2.sent").stat().st_size > 0

    with caplog.at_level("ERROR"):
        scenario(play)()
    assert [record.getMessage().partition("connection-1.sent: ")[2] for record in caplog.records] == [
        "No space left on device; its record is not complete"
    ]


@pytest.mark.parametrize("buffered_bytes", [2, 2**20])
def test_a_record_that_fails_at_once_or_when_it_is_closed(monkeypatch, caplog, buffered_bytes):
    """Whether what is written fails at once or at the end, that is said once, and nothing raises."""
    monkeypatch.setattr(recording, "BUFFER_BYTES", buffered_bytes)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "connection-1.sent").symlink_to("/dev/full")
        record = recording.Record(Path(folder), 1)
        for _ in range(5):
            record.write(b"message")
        record.close()
        record.write(b"late")
        record.close()
    assert len(caplog.records) == 1


@scenario
async def test_record_folder_that_is_gone():
    """Whoever connects when the folder for records is no longer there gets ticks all the same."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "gone"
        async with running(rate=100, record=record) as (url, _):
            record.rmdir()
            async with client(url) as ws:
                await subscribe(ws, 408065)
                await first_of(ws, is_ticks)


@scenario
async def test_record_without_a_folder():
    """Where a file is in the way of the folder for the record, the start fails and says so."""
    with tempfile.NamedTemporaryFile() as file, pytest.raises(ConfigError, match=r"^simulator\.record: .*File exists"):
        async with running(record=Path(file.name)):
            pass


def test_client_that_does_not_read_is_dropped(monkeypatch):
    """Its ticks are not piled up without end, it is dropped after a while, and the others get theirs meanwhile."""
    monkeypatch.setattr(session, "STALL_S", 0.3)

    async def play():
        async with running(rate=200_000) as (url, simulator), client(url, max_queue=1) as deaf, client(url) as other:
            deaf.transport.pause_reading()
            await subscribe(deaf, *tokens(100), mode="full")
            await subscribe(other, 408065)
            await first_of(other, is_ticks)
            most = 0
            while simulator.stats()["connections"][0]["id"] == 1:
                (waiting, *_) = (s.ws.transport.get_write_buffer_size() for s in simulator._sessions.values())
                most = max(most, waiting)
                await first_of(other, is_ticks)
            assert session.BUFFER_MAX < most < 2 * session.BUFFER_MAX
            assert [closed["id"] for closed in simulator.stats()["closed"]] == [1]
            await first_of(other, is_ticks)

    scenario(play)()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it(number):
    """SIGINT and SIGTERM end it with exit code 0, with nothing more on stdout than where it listens."""
    with program("--rate", "1000") as (process, _):
        process.send_signal(number)
        out, _ = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, out) == (0, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "-1"], "--rate -1: input should be greater than or equal to 0"),
        (["--frame-ticks", "5000"], "--frame-ticks 5000: input should be less than or equal to 3000"),
        (["--fault", "silence:x"], "fault 'silence:x': connection is a whole number"),
        (["--config", "none.toml"], "none.toml: no such file"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid port 0"),
    ],
)
def test_wrong_options(options, message):
    """What is wrong is said in one line, exit code 2."""
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline.simulator", *options], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_port_in_use():
    """A port that is taken is named, exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, "-m", "pipeline.simulator", "--port", port], capture_output=True, text=True, check=False
        )
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}: " in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_settings_and_child_configuration(tmp_path):
    """File, environment of a child, and options reach it; no secret is in its log."""
    (tmp_path / "mds.toml").write_text("[simulator]\ninstruments = 3\n", encoding="utf-8")
    with program() as (_, url):
        assert get(url, "/tokens")[1] == tokens(3)
    with program("--instruments", "4") as (_, url):
        assert get(url, "/tokens")[1] == tokens(4)
    child = Config(KITE_API_KEY="the-key", KITE_ACCESS_TOKEN="the-token").with_changes(simulator={"instruments": 5})
    with program(**child.to_child()) as (process, url):
        assert get(url, "/tokens")[1] == tokens(5)
        assert get(url, "/?api_key=the-key&access_token=wrong-token")[0] == 403
        assert is_accepted(url.replace("ws", "http", 1), "the-key", "wrong-token") is False
        assert is_accepted(url.replace("ws", "http", 1), "the-key", "the-token") is True
        process.terminate()
        assert "-token" not in process.communicate(timeout=DEADLINE_S)[1]


def test_print_tokens():
    """The list for a universe is printed one a line."""
    command = [sys.executable, "-m", "pipeline.simulator", "--print-tokens", "25"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [int(line) for line in ended.stdout.split()] == tokens(25)
