"""Whether a token is good: every kind of answer, none, and no secret anywhere but in the one header."""

import json
import logging
import os
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.kite.profile import is_accepted
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
        self.requests = []
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
    code = f"from pipeline.kite.profile import is_accepted; print(is_accepted({api.url!r}, 'k', 't', 0.3))"
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
