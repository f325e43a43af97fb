"""The REST API: every kind of answer, none, and no secret anywhere but where Kite wants it."""

import json
import logging
import os
import ssl
import subprocess
import sys
import threading
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.kite.rest import (
    KiteError,
    Profile,
    RefusedError,
    exchange,
    instruments,
    is_accepted,
    login_url,
    profile,
)
from tests.kite_rest import Rest
from tests.test_feed import make_certificates

KEY, TOKEN = "canary-k3y", "canary-t0ken"
GOOD = json.dumps({"status": "success", "data": {"user_id": "AB1234", "user_name": "Somebody"}})
DEADLINE_S = 20


def refusal(kind, **fields):
    return json.dumps({"status": "error", "message": "no", "data": None, "error_type": kind} | fields)


class Api(ThreadingHTTPServer):
    """Answers every GET with `status`, `headers` and `body`, of which None is never and text is all; keeps requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scheme = "http"
        self.status, self.headers, self.body = 200, {"Content-Type": "application/json"}, GOOD
        self.requests, self.forms = [], []
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def answers(self, status, body, **headers):
        self.status, self.body, self.headers = status, body, headers

    def use_tls(self, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.scheme = "https"

    def handle_error(self, *_):
        """Say nothing of clients that hang up."""

    def close(self):
        self.ended.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.server.body is not None:
            self.wfile.write(self.server.body.encode())
            return
        while not self.server.ended.wait(0.01):  # a byte now and then: no single read ever times out
            self.wfile.write(b" ")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.forms.append((self.path, dict(self.headers), body))
        self.do_GET()

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def api(monkeypatch, tmp_path):
    """A server in Kite's place, and an environment without proxies and logins."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server = Api()
    yield server
    server.close()


def ask(url, timeout_s=DEADLINE_S):
    return is_accepted(url, KEY, TOKEN, timeout_s)


JSON = {"Content-Type": "application/json"}
JSON_UTF8 = {"Content-Type": "application/json; charset=utf-8"}
HTML = {"Content-Type": "text/html"}
ANSWERS = {
    "profile": (200, GOOD, JSON, True),
    "profile with a charset": (200, GOOD, JSON_UTF8, True),
    "token exception": (403, refusal("TokenException"), JSON, False),
    "token exception as a success": (200, refusal("TokenException"), JSON, False),
    "permission exception": (403, refusal("PermissionException"), JSON, False),
    "another exception with 403": (403, refusal("NewException"), JSON, False),
    "too many requests": (429, refusal("NetworkException"), JSON, None),
    "server error": (500, refusal("GeneralException"), JSON, None),
    "order system": (502, refusal("DataException"), JSON, None),
    "maintenance": (503, refusal("NetworkException"), JSON, None),
    "input": (400, refusal("InputException"), JSON, None),
    "a gateway's 403": (403, "<html>blocked", HTML, None),
    "a gateway's 502": (502, "<html>bad gateway", HTML, None),
    "a portal": (200, "<html>log in", HTML, None),
    "empty": (200, "", JSON, None),
    "no JSON": (200, "{", JSON, None),
    "a list": (200, "[]", JSON, None),
    "null": (200, "null", JSON, None),
    "no data": (200, '{"status": "success"}', JSON, None),
    "null data": (200, '{"status": "success", "data": null}', JSON, None),
    "data of nobody": (200, '{"status": "success", "data": {}}', JSON, None),
    "data that is text": (200, '{"status": "success", "data": "user_id"}', JSON, None),
    "an error without a message": (403, '{"status": "error", "error_type": "TokenException"}', JSON, None),
    "an error type that is no type": (403, refusal("__name__"), JSON, None),
    "an error type that is a list": (403, refusal(["TokenException"]), JSON, None),
    "deep": (200, "[" * 100_000, JSON, None),
    "another encoding": (200, GOOD, JSON | {"Content-Encoding": "gzip"}, None),
    "no type": (200, GOOD, {}, None),
    "csv": (200, "user_id\nAB1234\n", {"Content-Type": "text/csv"}, None),
    "round and round": (302, "", {"Location": "/user/profile"}, None),
}


@pytest.mark.parametrize(("status", "body", "headers", "accepted"), ANSWERS.values(), ids=ANSWERS.keys())
def test_answers(api, status, body, headers, accepted):
    """A profile is a yes, Kite's 403 is a no, and whatever else comes is neither."""
    api.answers(status, body, **headers)
    assert ask(api.url) is accepted


def test_the_request(api):
    """It asks once, as the official client does."""
    assert ask(api.url) is True
    ((path, headers),) = api.requests
    assert path == "/user/profile"
    assert headers["X-Kite-Version"] == "3"
    assert headers["Authorization"] == f"token {KEY}:{TOKEN}"


def test_logins_of_the_user_do_not_replace_the_token(api, tmp_path):
    """A default entry in ~/.netrc, which requests would take for every host, stays out of it."""
    (tmp_path / "netrc").write_text("default login me password mine\n")
    assert ask(api.url) is True
    assert api.requests[0][1]["Authorization"] == f"token {KEY}:{TOKEN}"


def test_proxies_of_the_environment(api, monkeypatch):
    """A machine that reaches the world through a proxy reaches Kite through it."""
    monkeypatch.setenv("http_proxy", api.url)
    assert ask("http://kite.invalid") is True
    assert api.requests[0][0] == "http://kite.invalid/user/profile"


def test_nobody_there(api):
    """Without a server, a name, or a URL that means something, nobody can tell."""
    url = api.url
    api.server_close()
    for wrong in (url, "http://no.such.host.invalid", "http://[", "ftp://127.0.0.1", ""):
        assert is_accepted(wrong or "http://", KEY, TOKEN) is None


@pytest.mark.parametrize("token", ["canary\nt0ken", "canary-t\u00f6ken-\u043a", ""])
def test_tokens_that_no_header_takes(api, token, caplog):
    """Whatever the token, nothing is raised; an empty one is for Kite to refuse."""
    api.answers(403, refusal("TokenException"), **JSON)
    assert is_accepted(api.url, KEY, token) is (None if token else False)
    assert "canary" not in caplog.text


def test_a_server_that_never_ends(api):
    """The time is for all of it: an answer that trickles in for ever is none."""
    api.answers(200, None, **JSON)
    assert ask(api.url, timeout_s=0.3) is None


def test_the_end_of_the_process_does_not_wait(api):
    """A question that nobody answers holds nobody up."""
    api.answers(200, None, **JSON)
    code = f"from pipeline.kite.rest import is_accepted; print(is_accepted({api.url!r}, 'k', 't', 0.3))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, done.stdout) == (0, "None\n")


def test_certificates_are_checked(api, tmp_path, monkeypatch):
    """An impostor learns nothing; one whose authority is trusted is asked."""
    certificates = make_certificates(tmp_path)
    api.use_tls(certificates["good"])
    assert ask(api.url) is None
    assert api.requests == []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates["ca"]))
    assert ask(api.url) is True


@pytest.mark.parametrize("answer", ["profile", "token exception", "a portal", "no JSON", "maintenance"])
def test_no_secret_is_logged(api, caplog, capfd, answer):
    """Not even at debug level, by anybody; where nobody can tell, the kind of reason is."""
    status, body, headers, accepted = ANSWERS[answer]
    api.answers(status, body, **headers)
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, name)
    assert ask(api.url) is accepted
    assert "canary" not in caplog.text + "".join(capfd.readouterr())
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == (accepted is None)


# Logging in.

SECRET, REQUEST_TOKEN, NEW = "canary-s3cret", "canary-request-t0ken", "canary-new-t0ken"


def test_where_to_log_in():
    """The URL is the one of Kite's documentation; a state is handed over so that the redirect has it."""
    assert login_url("https://k.com/connect/login", "the key") == "https://k.com/connect/login?v=3&api_key=the+key"
    with_state = login_url("https://k.com/login?x=y", "k", "a&b")
    assert with_state == "https://k.com/login?x=y&v=3&api_key=k&redirect_params=state%3Da%2526b"


def test_a_login():
    """A request token becomes a session, once; its token is then good, and no repr shows it."""
    with Rest(KEY, secret=SECRET, request_token=REQUEST_TOKEN, new=NEW) as rest:
        assert is_accepted(rest.url, KEY, NEW) is False
        session = exchange(rest.url, KEY, REQUEST_TOKEN, SECRET)
        assert (session.user_id, session.user_name) == ("AB1234", "Somebody")
        assert session.access_token.get_secret_value() == NEW
        assert session.login_time == "2025-10-01 08:41:07"
        assert "canary" not in repr(session)
        assert profile(rest.url, KEY, NEW) == Profile("AB1234", "Somebody")
        with pytest.raises(RefusedError, match="once"):
            exchange(rest.url, KEY, REQUEST_TOKEN, SECRET)


def test_the_request_of_a_login(api):
    """It is one form, without the secret in it and without a header for a token that there is not yet."""
    api.answers(200, json.dumps({"status": "success", "data": {}}), **JSON)
    with pytest.raises(KiteError, match="not Kite's API"):
        exchange(api.url, KEY, REQUEST_TOKEN, SECRET)
    ((path, headers, body),) = api.forms
    assert path == "/session/token"
    assert "Authorization" not in headers
    assert SECRET not in body


@pytest.mark.parametrize("wrong", ["key", "request token", "secret"])
def test_a_login_that_is_refused(wrong):
    """One line says what may be wrong and what to do; what the server quotes of the request is not repeated."""
    key, token, secret = (f"canary-wr0ng-{w}" if w == wrong else w for w in ("key", "request token", "secret"))
    with (
        Rest("key", secret="secret", request_token="request token", new=NEW) as rest,
        pytest.raises(RefusedError, match=r"^127\.0\.0\.1:\d+: Kite refuses the request token: .*API secret") as caught,
    ):
        exchange(rest.url, key, token, secret)
    message = str(caught.value)
    assert "mds login" in message
    assert "(it says: no good: api_key=***" in message
    assert "canary" not in message
    assert "\n" not in message
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


SESSIONS = {
    "no session": {},
    "no login time": {"user_id": "AB1234", "access_token": NEW},
    "nobody's": {"user_id": "", "access_token": NEW, "login_time": "2025-10-01 08:41:07"},
    "an empty token": {"user_id": "AB1234", "access_token": "", "login_time": ""},
    "a token that is none": {"user_id": "AB1234", "access_token": "canary t0ken", "login_time": ""},
    "a number": {"user_id": "AB1234", "access_token": 123456, "login_time": ""},
    "null": None,
    "a list": ["access_token", "login_time"],
    "text": "access_token login_time",
}


@pytest.mark.parametrize("data", SESSIONS.values(), ids=SESSIONS.keys())
def test_what_is_no_session(api, data):
    """It is named as an answer that is not Kite's, and shown nowhere."""
    api.answers(200, json.dumps({"status": "success", "data": data}), **JSON)
    with pytest.raises(KiteError, match=r"^127\.0\.0\.1:\d+: what answers there is not Kite's API$"):
        exchange(api.url, KEY, REQUEST_TOKEN, SECRET)


# Errors.


def test_failures_are_told_apart(api):
    """Each line names the host and the kind of failure."""

    def cause(url, timeout_s=DEADLINE_S):
        with pytest.raises(KiteError) as caught:
            profile(url, KEY, TOKEN, timeout_s)
        assert type(caught.value) is KiteError
        assert "canary" not in str(caught.value)
        return str(caught.value)

    host = f"127.0.0.1:{api.server_port}"
    api.answers(429, refusal("NetworkException", message=f"too many of {TOKEN}"), **JSON)
    assert cause(api.url) == f"{host}: it has failed (HTTP 429); try again later (it says: too many of ***)"
    api.answers(503, refusal("GeneralException", message="\x1b[2Jcome\nback " + "x" * 500), **JSON)
    assert "(it says: [2Jcome back xxx" in cause(api.url)
    assert len(cause(api.url)) < 300
    api.answers(502, f"<html>{TOKEN}", **HTML)
    assert cause(api.url) == f"{host}: what answers there is not Kite's API"
    api.answers(200, None, **JSON)
    assert cause(api.url, 0.2) == f"{host}: no answer within 0.2 s; is the network up?"
    assert cause("http://somebody:canary@no-such-host.invalid").startswith(
        "no-such-host.invalid: there is no such host"
    )
    assert "it cannot be asked (InvalidSchema); is kite.api_url right?" in cause("ftp://127.0.0.1")
    api.server_close()
    assert cause(api.url) == f"{host}: cannot be reached; is the network up?"


def test_a_proxy_that_is_not_there(monkeypatch):
    """It is named, without the password that its URL may have."""
    monkeypatch.setenv("http_proxy", "http://somebody:canary@127.0.0.1:9")
    with pytest.raises(KiteError, match=r"^kite\.invalid: the proxy of the environment") as caught:
        profile("http://kite.invalid", KEY, TOKEN)
    assert "canary" not in str(caught.value)


# Instruments.

LIST = (
    "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,instrument_type,"
    "segment,exchange\n"
    '408065,1594,INFY,"INFOSYS",0,,0,0.05,1,EQ,NSE,NSE\n'
    '13568258,53001,NIFTY25OCT25000CE,"NIFTY",0,2025-10-28,25000,0.05,75,CE,NFO-OPT,NFO\n'
)


def test_the_list_of_instruments(api):
    """It is what the official client makes of it; a refusal says what to do, and JSON is no list."""
    api.answers(200, LIST, **{"Content-Type": "text/csv"})
    first, second = instruments(api.url, KEY, TOKEN)
    assert (first["instrument_token"], first["tradingsymbol"], first["expiry"]) == (408065, "INFY", "")
    assert (second["strike"], second["expiry"]) == (25000.0, date(2025, 10, 28))
    assert api.requests[0][0] == "/instruments"
    api.answers(403, refusal("TokenException", message=TOKEN), **JSON)
    with pytest.raises(
        RefusedError, match=r"Kite refuses the access token: log in with: mds login \(it says: \*\*\*\)"
    ):
        instruments(api.url, KEY, TOKEN)
    for body, headers in ((GOOD, JSON), ("a,b\n1,2\n", {"Content-Type": "text/csv"})):
        api.answers(200, body, **headers)
        with pytest.raises(KiteError, match="not Kite's API"):
            instruments(api.url, KEY, TOKEN)
