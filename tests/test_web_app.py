"""The paths and what stands before them, with a source that answers as the test wishes."""

import logging
from functools import cache

import pytest

from pipeline.config import Config, Http
from pipeline.errors import ControlError, NotRunningError, NotSubscribedError, UnknownSymbolError
from pipeline.requests import FindParams
from pipeline.status import InstrumentPage, InstrumentSubscription
from pipeline.web import app, guard, page, prometheus
from pipeline.web.events import MAX_LISTENERS, Hub
from pipeline.web.source import Source
from tests.asgi import ask
from tests.overviews import T0, an_overview

TOKEN = "a-secret-of-some-length"  # noqa: S105  made up
INSTRUMENT = InstrumentSubscription(
    instrument_token=408065,
    connection_id=1,
    mode="quote",
    mirrored=False,
    subscribed_at=T0,
    tick_count=5,
    last_price=1.5,
    last_tick_time=T0,
    tick_age_s=0.5,
)
GONE = NotRunningError("no service is running in /run")
PATHS = (
    "/health",
    "/live",
    "/connections",
    "/instruments",
    "/instruments/408065",
    "/storage",
    "/processes",
    "/metrics",
)


class FakeSource(Source):
    """Answers with `known`, or raises `error`; it is the client that questions are put to, too."""

    def __init__(self, **health):
        self.known = an_overview(**health)
        self.error = None
        self.wanted = None

    async def overview(self):
        self._fail()
        return self.known

    async def metrics(self):
        self._fail()
        return prometheus.text(self.known)

    async def ask(self, question):
        self._fail()
        return question(self)

    def find_instruments(self, **wanted):
        self.wanted = FindParams(**wanted)
        return InstrumentPage(total=1, offset=0, limit=100, instruments=[INSTRUMENT])

    def instrument(self, token):
        if isinstance(token, str):
            raise UnknownSymbolError(f"{token} is not on the list")
        if token != INSTRUMENT.instrument_token:
            raise NotSubscribedError(f"not subscribed: {token}")
        return INSTRUMENT

    def _fail(self):
        if self.error:
            raise self.error


def serving(source=None, **http):
    """The application behind its guard; where no source is given it is shared by the tests."""
    return made(Http(**http), source) if source else shared(tuple(http.items()))


@cache
def shared(http):
    """Make it once for these settings."""
    return made(Http(**dict(http)), FakeSource())


def made(settings, source):
    """Make it."""
    document = page.load()
    return guard.Guard(app.create(Config(http=settings), source, Hub(source), document), settings, document)


def failing(error):
    """The same, with a source that fails."""
    source = FakeSource()
    source.error = error
    return serving(source)


@pytest.mark.parametrize(("status", "code"), [("healthy", 200), ("degraded", 200), ("down", 503)])
def test_health(status, code):
    """A monitor sees by the status code alone whether something is being missed."""
    answer = ask(serving(FakeSource(status=status, reasons=["because"])), "/health")
    assert (answer.status, answer.json["status"], answer.json["reasons"]) == (code, status, ["because"])


@pytest.mark.parametrize("error", [GONE, ControlError("of another version")])
def test_nobody_answers(error):
    """Without the service, health is down and says why, all other questions are 503, and the process is live."""
    without = failing(error)
    health = ask(without, "/health")
    assert (health.status, health.json) == (
        503,
        {"status": "down", "reasons": [str(error)]},
    )
    for path in ("/connections", "/instruments", "/instruments/1", "/storage", "/processes"):
        answer = ask(without, path)
        assert (answer.status, answer.json) == (503, {"detail": str(error)})
    assert ask(without, "/metrics", headers={"accept": "application/json"}).status == 503
    metrics = ask(without, "/metrics")
    assert (metrics.status, b"\nmds_up 0.0\n" in metrics.body) == (200, True)
    live = ask(without, "/live")
    assert (live.status, live.json) == (200, {"status": "live"})


def test_answers():
    """Each path gives its part, in the shape of the models."""
    source = FakeSource()
    known = source.known
    service = serving(source)
    assert ask(service, "/connections").json == {name: c.model_dump() for name, c in known.connections.items()}
    assert ask(service, "/storage").json == known.storage.model_dump()
    assert ask(service, "/processes").json == {name: p.model_dump() for name, p in known.processes.items()}
    assert ask(service, "/instruments/408065").json == INSTRUMENT.model_dump()
    metrics = ask(service, "/metrics", headers={"accept": "application/json"})
    assert metrics.json == known.metrics.model_dump() | {"target_tick_rate": 1000, "performance_pct": 2.0}
    assert metrics.headers["content-type"] == "application/json"
    text = ask(service, "/metrics")
    assert text.body == prometheus.text(known)
    assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        ("", False),
        ("*/*", False),
        ("text/html", False),
        ("application/json", True),
        ("application/json, text/plain, */*", True),
        ("application/json;q=0.5, text/plain", False),
        ("APPLICATION/JSON ; q=1", True),
        ("application/json;q=0", False),
        ("application/json;q=x", False),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1", False),
        (",;=;q,", False),
    ],
)
def test_accept(accept, json):
    """JSON is for who asks for it, and not less than for text."""
    assert app.wants_json(accept) == json


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", FindParams()),
        ("connection=3&mode=full", FindParams(connection_id=3, mode="full")),
        ("stale=true&stale_s=2.5", FindParams(stale=True, stale_s=2.5)),
        ("search=408&offset=50&limit=50", FindParams(search="408", offset=50, limit=50)),
        ("limit=6000&offset=1000000", FindParams(limit=6000, offset=1_000_000)),
    ],
)
def test_instruments_that_are_asked_for(query, wanted):
    """The query is handed on as it is meant."""
    source = FakeSource()
    assert ask(serving(source), f"/instruments?{query}").json["instruments"] == [INSTRUMENT.model_dump()]
    assert source.wanted == wanted


@pytest.mark.parametrize(
    ("target", "status", "detail"),
    [
        ("/instruments?limit=0", 422, "limit: Input should be greater than or equal to 1"),
        ("/instruments?limit=6001", 422, "limit: Input should be less than or equal to 6000"),
        ("/instruments?offset=-1", 422, "offset: Input should be greater than or equal to 0"),
        ("/instruments?offset=1000001", 422, "offset: Input should be less than or equal to 1000000"),
        ("/instruments?connection=4", 422, "connection: Input should be less than or equal to 3"),
        ("/instruments?stale_s=nan", 422, "stale_s: Input should be less than or equal to 31536000"),
        ("/instruments?mode=tick", 422, "mode: Input should be 'ltp', 'quote' or 'full'"),
        ("/instruments?search=" + "1" * 65, 422, "search: String should have at most 64 characters"),
        ("/instruments?conection=1", 422, "conection: Extra inputs are not permitted"),
        ("/instruments/0", 422, "token: should be greater than 0"),
        ("/instruments/4294967296", 422, "token: should be less than 4294967296"),
        ("/instruments/99999999999", 422, "token: should be less than 4294967296"),
        ("/instruments/abc", 422, "token: should be an integer, the token, or a symbol like NSE:INFY"),
        ("/instruments/a:b:c", 422, 'token: a symbol is written "NSE:INFY"'),
        ("/instruments/NSE:INFI", 404, "NSE:INFI is not on the list"),
        ("/instruments/7", 404, "not subscribed: 7"),
        ("/nothing", 404, "there is nothing here, /docs lists what there is"),
        ("/health/", 404, "there is nothing here, /docs lists what there is"),
        ("/static-offline-docs/../app.py", 404, "there is nothing here, /docs lists what there is"),
    ],
)
def test_what_is_wrong(target, status, detail):
    """A wrong request is told what is wrong with it."""
    answer = ask(serving(), target)
    assert (answer.status, answer.json) == (status, {"detail": detail})


def test_page():
    """The dashboard is one document that may load nothing from elsewhere, and cannot be put into another page."""
    answer = ask(serving(), "/")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert b"<style>" in answer.body
    assert b"<script>" in answer.body
    policy = answer.headers["content-security-policy"]
    for part in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "script-src 'sha256-"):
        assert part in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", [*PATHS, "/", "/docs", "/openapi.json", "/nothing", "/instruments/x"])
def test_every_answer(path):
    """Nothing is kept, guessed or told to others."""
    headers = ask(serving(), path).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "server" not in headers


def test_page_of_the_api_works_offline():
    """The page names no other server, and all that it names is here."""
    service = serving()
    text = ask(service, "/docs").body.decode()
    assert "://" not in text
    for path in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f"/static-offline-docs/{path}" in text
        assert ask(service, f"/static-offline-docs/{path}").status == 200
    assert ask(service, "/openapi.json").json["paths"].keys() == {
        *PATHS[:4],
        "/instruments/{token}",
        *PATHS[5:],
        "/events",
    }


@pytest.mark.parametrize("path", [*PATHS, "/", "/docs", "/events"])
def test_head(path):
    """HEAD has the headers of GET and no body, and ends where GET does not."""
    answer = ask(serving(), path, "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    if path != "/events":
        got = ask(serving(), path)
        assert {**answer.headers, "date": ""} == {**got.headers, "date": ""}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"])
@pytest.mark.parametrize("path", ["/health", "/", "/instruments/1", "/docs", "/nothing"])
def test_nothing_is_changed_here(method, path):
    """Other methods are told which there are."""
    answer = ask(serving(), path, method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


LOOPBACK: dict[str, str] = {}
ANY = {"listen": "0.0.0.0:8080", "token": TOKEN}
NAMED = {"hosts": ("Recorder.example",)}


@pytest.mark.parametrize(
    ("http", "host", "is_right"),
    [
        (LOOPBACK, "localhost", True),
        (LOOPBACK, "LocalHost:8080", True),
        (LOOPBACK, "localhost.", True),
        (LOOPBACK, "127.0.0.1:9", True),
        (LOOPBACK, "127.1.2.3", True),
        (LOOPBACK, "[::1]", True),
        (LOOPBACK, "[::1]:8080", True),
        (LOOPBACK, "192.168.1.5", False),
        (LOOPBACK, "evil.example", False),
        (LOOPBACK, "localhost.evil.example", False),
        (LOOPBACK, "127.0.0.1.evil.example", False),
        (LOOPBACK, "evil.example:80@localhost", False),
        (LOOPBACK, "", False),
        (LOOPBACK, ":8080", False),
        (LOOPBACK, "[]", False),
        (LOOPBACK, None, False),
        (NAMED, "recorder.example:8080", True),
        (NAMED, "other.example", False),
        (ANY, "192.168.1.5:8080", True),
        (ANY, "[fe80::1]:8080", True),
        (ANY, "localhost", True),
        (ANY, "This-Machine", True),
        (ANY, "this-machine.lan:8080", True),
        (ANY, "evil.example", False),
    ],
)
def test_host(http, host, is_right, monkeypatch):
    """A page that has resolved its own name to our address is not answered."""
    monkeypatch.setattr("socket.gethostname", lambda: "This-Machine.lan")
    answer = ask(serving(**http), "/health", headers={"authorization": f"Bearer {TOKEN}"}, host=host)
    assert answer.status == (200 if is_right else 400)
    if not is_right:
        assert "Host" in answer.json["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {TOKEN}"}, 200),
        ({"authorization": f"bearer  {TOKEN}"}, 200),
        ({"authorization": TOKEN}, 401),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": f"Bearer {TOKEN}x"}, 401),
        ({"authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer \xff"}, 401),
    ],
)
@pytest.mark.parametrize(
    "path",
    [
        *(path for path in PATHS if path != "/live"),
        *("/docs", "/openapi.json", "/nothing", "/static-offline-docs/favicon.png"),
        *("/live/", "//live", "/LIVE"),
    ],
)
def test_token(path, headers, status):
    """With a token set, no path but the probe is answered without it, not even by what there is not."""
    answer = ask(serving(token=TOKEN), path, headers=headers)
    assert answer.status == (404 if status == 200 and path.lower().strip("/") in ("nothing", "live") else status)
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN.encode() not in answer.body


@pytest.mark.parametrize("host", ["10.1.2.3:8080", "evil.example", "", None])
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}], ids=["no token", "a wrong one"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_probe(method, headers, host):
    """What only asks whether the process answers needs no token, and may call it as it likes."""
    answer = ask(serving(**ANY), "/live?token=x", method, headers, host=host)
    assert (answer.status, answer.body) == (200, b'{"status":"live"}' if method == "GET" else b"")
    assert ask(serving(**ANY), "/live", "POST", headers, host=host).status == 405
    assert ask(serving(**ANY), "/live", headers={"x": "a" * guard.MAX_HEAD}, host=host).status == 431


def test_page_without_the_token():
    """The page that asks for the token comes without it; it is refused all the same."""
    service = serving(token=TOKEN)
    answer = ask(service, "/")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.body == ask(service, "/", headers={"authorization": f"Bearer {TOKEN}"}).body
    assert TOKEN.encode() not in answer.body


def test_document_tells_of_the_token():
    """Who reads the OpenAPI document learns whether a token is needed, and by what not."""
    with_token = ask(serving(token=TOKEN), "/openapi.json", headers={"authorization": f"Bearer {TOKEN}"}).json
    assert with_token["security"] == [{"token": []}]
    free = {name for name, path in with_token["paths"].items() if path["get"].get("security") == []}
    unrefused = {name for name, path in with_token["paths"].items() if "401" not in path["get"]["responses"]}
    assert free == unrefused == {"/live"}
    assert "security" not in ask(serving(), "/openapi.json").json


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-length": "3"}, [b"a", b"bc"], None),
        ({"content-length": "65536"}, [b"a" * 65536], None),
        ({"content-length": "65537"}, [b"a" * 65536, b"a"], 413),
        ({"content-length": "9" * 20}, [b"a"], 413),
        ({"transfer-encoding": "chunked"}, [b"a"], 411),
    ],
)
def test_bodies(method, headers, body, status):
    """A small body is passed over; a large one, or one of any length, is refused and the connection closed."""
    answer = ask(serving(), "/live", method, headers, body)
    expected = 405 if method == "POST" else status or 200
    assert answer.status == expected
    assert (answer.headers.get("connection") == "close") == (expected != 200)


def test_long_head():
    """A head that is too long is not read any further."""
    assert ask(serving(), "/live", headers={"x": "a" * guard.MAX_HEAD}).status == 431
    assert ask(serving(), "/live?" + "a" * guard.MAX_HEAD).status == 431


def test_failure(caplog):
    """What nobody thought of is logged with its traceback, and told without; the query is not logged."""
    with caplog.at_level(logging.ERROR):
        answer = ask(failing(RuntimeError("unthought-of")), "/storage?token=secret")
    assert (answer.status, answer.json) == (
        500,
        {"detail": "this request has failed, the log of the service tells why"},
    )
    assert "unthought-of" in caplog.text
    assert "secret" not in caplog.text


def test_too_many_listeners():
    """There is an end to how many may listen."""
    source = FakeSource()
    hub = Hub(source)
    service = app.create(Config(), source, hub, page.load())
    held = [hub.listening(None) for _ in range(MAX_LISTENERS)]
    for listening in held:
        listening.__enter__()
    answer = ask(service, "/events")
    assert (answer.status, "detail" in answer.json) == (503, True)
