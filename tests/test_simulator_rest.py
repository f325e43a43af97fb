"""The simulator's REST API, asked by the official client, a browser, and by what is neither."""

import asyncio
import csv
import gzip
import hashlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime, timedelta
from io import StringIO
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kiteconnect import KiteConnect
from kiteconnect.exceptions import GeneralException, InputException, TokenException
from pydantic import ValidationError

from pipeline.config import Simulator as Settings
from pipeline.simulator import server
from pipeline.simulator.accounts import LOGIN_S, Accounts, TokenError
from pipeline.simulator.connection import BODY_MAX, HEAD_MAX, Taken, take
from pipeline.simulator.market import tokens
from tests.test_simulator import client, first_of, get, is_ticks, program, running, scenario, status_of, subscribe
from tests.test_simulator_market import split

pytestmark = pytest.mark.usefixtures("no_settings", "in_tmp_path")

SECRET = "the-api-secret"  # noqa: S105  made up
FORM = {"api_key": "key", "request_token": "r" * 32, "checksum": "0" * 64}
QUESTION = b"POST /session/token HTTP/1.1\r\nHost: kite\r\n"


class _Stay(urllib.request.HTTPRedirectHandler):
    """Leaves redirects to whoever asked."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def redirected(api_url: str, **query: str) -> str:
    """Log in as a browser does; return where it is sent."""
    opener = urllib.request.build_opener(_Stay)
    with pytest.raises(urllib.error.HTTPError, match="302") as answer:
        opener.open(f"{api_url}/connect/login?{urlencode({'v': '3', 'api_key': 'key', **query})}", timeout=10)
    return answer.value.headers["Location"]


def request_token(api_url: str, api_key: str = "key") -> str:
    """Log in; return the request token."""
    return dict(parse_qsl(urlsplit(redirected(api_url, api_key=api_key)).query))["request_token"]


def kite(api_url: str, access_token: str | None = None) -> KiteConnect:
    """Return the official client."""
    return KiteConnect("key", access_token, root=api_url)


def session_of(api_url: str, secret: str = SECRET) -> KiteConnect:
    """Return the official client after a whole login."""
    one = kite(api_url)
    one.generate_session(request_token(api_url), secret)
    return one


def talk(api_url: str, *parts: bytes) -> tuple[int, Any]:
    """Send bytes in several pieces; return the status and the JSON of the answer."""
    with socket.create_connection((urlsplit(api_url).hostname, urlsplit(api_url).port), 10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
        received = b""
        while more := connection.recv(65536):
            received += more
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, json.loads(body) if body else None


def refusal(kind: str, message: str) -> dict[str, Any]:
    """Return an error in Kite's form."""
    return {"status": "error", "message": message, "data": None, "error_type": kind}


def threaded(function: Callable[[str], None], **settings: Any) -> Callable[..., None]:
    """Make a test of a function that blocks and is given the address of the REST API."""

    async def test() -> None:
        async with running(**settings) as (_, simulator):
            await asyncio.to_thread(function, simulator.api_url)

    test.__doc__ = function.__doc__
    return scenario(test)


@scenario
async def test_from_login_to_ticks():
    """A login brings an access token that profile and feed take, until it is invalidated."""
    async with running(rate=100) as (url, simulator):
        one = kite(simulator.api_url)
        token = await asyncio.to_thread(request_token, simulator.api_url)
        session = await asyncio.to_thread(one.generate_session, token, SECRET)
        assert {"user_id", "user_name", "user_shortname", "email", "user_type", "broker", "exchanges", "products"} | {
            "order_types", "api_key", "access_token", "public_token", "refresh_token", "enctoken", "login_time", "meta",
            "avatar_url"} == session.keys()  # fmt: skip
        assert [len(session[name]) for name in ("access_token", "public_token", "refresh_token")] == [32, 32, 0]
        assert isinstance(session["login_time"], datetime)
        assert abs(datetime.now(ZoneInfo("Asia/Kolkata")).replace(tzinfo=None) - session["login_time"]).seconds < 60
        assert (await asyncio.to_thread(one.profile))["user_id"] == session["user_id"]
        feed = f"{url.partition('?')[0]}?api_key=key&access_token={session['access_token']}"
        async with client(feed) as ws:
            await subscribe(ws, 408065)
            await first_of(ws, is_ticks)
            assert await asyncio.to_thread(one.invalidate_access_token) is True
            for _ in range(5):
                await first_of(ws, is_ticks)  # what is connected stays
        assert await status_of(feed) == 403
        assert await status_of(feed.replace("api_key=key", "api_key=other")) == 403
        with pytest.raises(TokenException, match="Incorrect"):
            await asyncio.to_thread(one.profile)
        with pytest.raises(TokenException, match="Token is invalid or has expired"):
            await asyncio.to_thread(one.invalidate_access_token)
        stats = simulator.stats()
        assert (stats["sessions"], stats["profiles"], stats["lists"]) == ({"200": 1}, {"200": 1, "403": 1}, 0)


@threaded
def test_a_request_token_is_good_once(api_url):
    """It belongs to its API key and is used up by the session; the session does not end with a second attempt."""
    token = request_token(api_url)
    with pytest.raises(TokenException, match="Token is invalid or has expired"):
        KiteConnect("other", root=api_url).generate_session(token, SECRET)
    one = kite(api_url)
    one.generate_session(token, SECRET)
    with pytest.raises(TokenException, match="Token is invalid or has expired"):
        kite(api_url).generate_session(token, SECRET)
    with pytest.raises(TokenException, match="Token is invalid or has expired"):
        kite(api_url).generate_session("made-up", SECRET)
    assert one.profile()["user_id"]
    with pytest.raises(TokenException):
        KiteConnect("other", one.access_token, root=api_url).profile()


@threaded
def test_where_a_login_leads(api_url):
    """Without a page of the user's own, the browser comes to one that tells what to copy."""
    place = urlsplit(redirected(api_url, redirect_params="state=a%26b&empty="))
    assert (place.netloc, place.path) == ("", "/redirect")
    query = parse_qs(place.query, keep_blank_values=True)
    assert (query["action"], query["status"], query["state"], query["empty"]) == (["login"], ["success"], ["a&b"], [""])
    assert len(query["request_token"][0]) == 32
    with urllib.request.urlopen(f"{api_url}/connect/login?v=3&api_key=key", timeout=10) as page:  # noqa: S310  http only
        assert "request_token" in page.read().decode()
        assert len(parse_qs(urlsplit(page.url).query)["request_token"][0]) == 32
    assert get(api_url, "/connect/login") == (400, refusal("InputException", "Missing or empty field `api_key`"))


def test_a_page_of_the_users_own():
    """A login leads to the page that is set, whose own query stays; what is no page is refused in one line."""
    for page, beginning in (
        ("http://127.0.0.1:5010/done", "http://127.0.0.1:5010/done?action=login"),
        ("https://example.com/?app=1", "https://example.com/?app=1&action=login"),
    ):
        with program("--redirect-url", page) as (_, url):
            assert redirected(url.replace("ws", "http", 1)).startswith(beginning)
    for wrong in ("/done", "ftp://example.com", "http://", "x"):
        with pytest.raises(ValidationError, match="must be a http or https URL"):
            Settings(redirect_url=wrong)


def test_credentials_of_the_environment():
    """With an API secret a checksum is made of it, with an access token no other is good; the log shows neither."""
    secrets = {"KITE_API_KEY": "key", "KITE_ACCESS_TOKEN": "the-access-token", "KITE_API_SECRET": SECRET}
    with program(**secrets) as (process, url):
        api_url = url.replace("ws", "http", 1)
        token = request_token(api_url)
        with pytest.raises(TokenException, match="Invalid `checksum`"):
            kite(api_url).generate_session(token, "wrong")
        one = kite(api_url)
        one.generate_session(token, SECRET)  # a mistake does not use it up
        assert one.profile() == kite(api_url, "the-access-token").profile()
        for other in (kite(api_url, "other"), KiteConnect("other", "the-access-token", root=api_url)):
            with pytest.raises(TokenException):
                other.profile()
        status, body = get(api_url, "/connect/login?v=3&api_key=other")
        assert (status, body) == (400, refusal("InputException", "Invalid `api_key`."))
        process.terminate()
        said = process.communicate(timeout=20)[1]
    assert said
    assert not [secret for secret in (SECRET, token, one.access_token, "the-access-token") if secret in said]


@scenario
async def test_the_morning():
    """No access token that was good is good any more, nor any other; connections stay; who logs in again is let in."""
    async with running(rate=100) as (url, simulator):
        api_url = simulator.api_url
        old = await asyncio.to_thread(session_of, api_url)
        async with client(url) as ws:
            await subscribe(ws, 408065)
            await first_of(ws, is_ticks)
            assert await asyncio.to_thread(get, url, "/expire") == (200, {"status": "success", "data": True})
            for one in (old, kite(api_url, "token"), kite(api_url, "any")):
                with pytest.raises(TokenException):
                    await asyncio.to_thread(one.profile)
            assert await status_of(url) == 403
            for _ in range(5):
                await first_of(ws, is_ticks)
        new = await asyncio.to_thread(session_of, api_url)
        assert await asyncio.to_thread(new.profile)
        await asyncio.to_thread(get, url, "/expire?accept=afresh")
        with pytest.raises(TokenException):
            await asyncio.to_thread(new.profile)
        async with client(f"{url.partition('?')[0]}?api_key=any&access_token=afresh"):
            pass


def checksum(key: str, token: str, secret: str) -> str:
    """Return what proves that the secret is known."""
    return hashlib.sha256((key + token + secret).encode()).hexdigest()


def test_a_request_token_is_good_for_five_minutes():
    """It is taken up to then, and not after."""
    accounts = Accounts(api_secret=SECRET)
    early, late = accounts.login("key", 1000.0), accounts.login("key", 1000.0)
    assert len(accounts.exchange("key", early, checksum("key", early, SECRET), 1000.0 + LOGIN_S - 1)) == 32
    with pytest.raises(TokenError, match="expired"):
        accounts.exchange("key", late, checksum("key", late, SECRET), 1000.0 + LOGIN_S)


def test_a_checksum_has_its_form():
    """Without a secret of the simulator's it is taken as it is, if it can be one."""
    accounts = Accounts()
    token = accounts.login("key", 0.0)
    for wrong in ("x", "0" * 63, "0" * 65, "Z" * 64):
        with pytest.raises(TokenError, match="checksum"):
            accounts.exchange("key", token, wrong, 1.0)
    assert accounts.exchange("key", token, "0" * 64, 1.0)


@threaded
def test_the_list_of_instruments(api_url):
    """The official client reads it without a login, whole and by exchange; all the market's tokens are named there."""
    rows = KiteConnect("key", root=api_url).instruments()
    assert {row["instrument_token"] for row in rows} >= set(tokens(100))
    shares = kite(api_url).instruments("NSE")
    assert shares == [row for row in rows if row["exchange"] == "NSE"]
    assert {row["tradingsymbol"]: row["instrument_token"] for row in shares}["INFY"] == 408065
    expiries = [row["expiry"] for row in rows if row["expiry"]]
    assert min(expiries) >= datetime.now(ZoneInfo("Asia/Kolkata")).date() - timedelta(days=1)  # it may be midnight
    with pytest.raises(InputException, match="exchange"):
        kite(api_url).instruments("NYSE")
    assert get(api_url, "/stats")[1]["lists"] == 2


@threaded
def test_the_list_is_packed_for_those_who_can_unpack(api_url):
    """It is gzip where the request allows that, else plain."""
    texts = []
    for header, form in (("gzip, deflate", "gzip"), ("identity", None)):
        request = urllib.request.Request(f"{api_url}/instruments", headers={"Accept-Encoding": header})  # noqa: S310  http only
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  http only
            assert answer.headers["Content-Type"] == "text/csv"
            assert answer.headers["Content-Encoding"] == form
            texts.append(gzip.decompress(answer.read()) if form else answer.read())
    assert texts[0] == texts[1]


def test_a_long_list_goes_out_beside_ticks(monkeypatch):
    """A list of 50,000 comes whole to a client that is in no hurry, while others get their ticks."""
    monkeypatch.setattr(server, "CLOSE_S", 0.1)

    async def play():
        async with running(rate=1000, listed=50_000) as (url, simulator), client(url) as ws:
            await subscribe(ws, *tokens(20))
            slow = socket.socket()
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", urlsplit(simulator.api_url).port))
            reader, writer = await asyncio.open_connection(sock=slow, limit=1024)
            writer.write(b"GET /instruments HTTP/1.1\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(dict(line.split(b": ") for line in head.split(b"\r\n")[1:-2])[b"Content-Length"])
            for _ in range(30):
                await first_of(ws, is_ticks)
            body = await reader.readexactly(size)
            writer.close()
            rows = list(csv.reader(StringIO(body.decode())))
            assert len(rows) > 50_000
            assert {len(row) for row in rows} == {12}

    scenario(play)()


@scenario
async def test_last_prices():
    """They are the feed's, by symbol; what is not on the list is left out; a good access token is wanted."""
    async with running(rate=0) as (url, simulator), client(url) as ws:
        one = kite(simulator.api_url, "token")
        symbols = ["NSE:INFY", "NSE:NIFTY 50", "NSE:M&M", "CDS:SIM100026DECFUT", "NSE:NOSUCH", "INFY"]
        prices = await asyncio.to_thread(one.ltp, symbols)
        known = {"NSE:INFY": 408065, "NSE:NIFTY 50": 256265, "NSE:M&M": 519937}
        assert {symbol: price["instrument_token"] for symbol, price in prices.items() if "SIM" not in symbol} == known
        await subscribe(ws, *known.values(), mode="ltp")
        packets: list[bytes] = []
        while len(packets) < 6:
            packets += split(await first_of(ws, is_ticks))[0]
        fed = {int.from_bytes(p[:4], "big"): int.from_bytes(p[4:8], "big") / 100 for p in packets}
        assert fed == {price["instrument_token"]: price["last_price"] for price in prices.values()}
        with pytest.raises(TokenException):
            await asyncio.to_thread(kite(simulator.api_url, "expired").ltp, "NSE:INFY")
        with pytest.raises(InputException):
            await asyncio.to_thread(one.ltp)


@threaded
def test_what_is_no_session(api_url):
    """A form that lacks something, or cannot be read, is refused in Kite's form, and the server goes on."""
    form = urlencode(FORM).encode()
    whole = b"Content-Length: %d\r\n\r\n" % len(form) + form
    expired = (403, refusal("TokenException", "Token is invalid or has expired."))
    assert talk(api_url, QUESTION + whole) == expired
    assert talk(api_url, *(bytes([byte]) for byte in QUESTION + whole)) == expired
    assert talk(api_url, QUESTION + whole + b"GET /stats HTTP/1.1\r\n\r\n") == expired
    for name in FORM:
        rest = urlencode({key: value for key, value in FORM.items() if key != name}).encode()
        lacking = (400, refusal("InputException", f"Missing or empty field `{name}`"))
        assert talk(api_url, QUESTION + b"content-length:%d\r\n\r\n" % len(rest) + rest) == lacking
    nothing = (400, refusal("InputException", "Missing or empty field `api_key`"))
    unread = (400, refusal("InputException", "The form cannot be read: it needs a Content-Length up to 65536"))
    assert talk(api_url, QUESTION + b"\r\n") == nothing
    assert talk(api_url, QUESTION + b"Content-Length: 3\r\n\r\n\xff\xfe=") == nothing
    for header in (
        b"Content-Length: x",
        b"Content-Length: -1",
        b"Content-Length: 65537",
        b"Transfer-Encoding: chunked",
    ):
        assert talk(api_url, QUESTION + header + b"\r\n\r\n") == unread
    assert get(api_url, "/stats")[1]["sessions"] == {"400": 9, "403": 3}


@threaded
def test_other_methods(api_url):
    """What is not asked for in that way is 405, a path that does not exist 404, what is no HTTP gets no answer."""
    assert talk(api_url, b"POST /stats HTTP/1.1\r\n\r\n")[0] == 405
    assert talk(api_url, b"POST / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")[0] == 405
    assert talk(api_url, b"PUT /session/token HTTP/1.1\r\nContent-Length: 1\r\n\r\nx")[0] == 405
    assert talk(api_url, b"GET /session/token HTTP/1.1\r\n\r\n")[0] == 405
    assert talk(api_url, b"post / HTTP/1.1\r\n\r\n")[0] == 405
    assert talk(api_url, b"DELETE /orders HTTP/1.1\r\n\r\n")[0] == 405
    assert talk(api_url, b"G", b"ET /tokens HTTP/1.1\r\n", b"\r\n") == (200, tokens(100))
    for garbage in (b"\x16\x03\x01\n", b"POST nowhere\r\n\r\n", b"\r\n\r\n"):
        assert talk(api_url, garbage)[0] == 0
    with pytest.raises(GeneralException, match="/quote/ltp"):
        kite(api_url, "token").orders()


@given(
    st.binary(max_size=200) | st.from_regex(rb"[A-Z]{1,8} /[a-z]{0,5}( HTTP/1.1)?\r\n(Content-Length:.*\r\n)*\r\n.*")
)
def test_any_bytes_are_taken(received):
    """Anything is taken in the end, or waits for more; what is a GET or no HTTP is taken as it is."""
    taken = take(received)
    assert taken is None or taken.method != "GET" or taken == Taken(received)
    assert take(b"GET " + received) == Taken(b"GET " + received)
    assert take(received + b"x" * (HEAD_MAX + BODY_MAX)) is not None


@given(st.binary(max_size=100), st.binary(max_size=10), st.data())
def test_a_body_is_taken_when_it_is_whole(body, more, data):
    """A request is taken with the last byte of its body, whatever follows, and as a GET without one."""
    head = b"POST /p HTTP/1.1\r\nHost: kite\r\nContent-Length: %d\r\nX: y\r\n\r\n" % len(body)
    request = head + body
    assert take(request + more) == Taken(b"GET /p HTTP/1.1\r\nHost: kite\r\nX: y\r\n\r\n", "POST", body)
    assert take(request[: data.draw(st.integers(1, len(request) - 1))]) is None
