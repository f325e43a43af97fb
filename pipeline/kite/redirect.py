"""The redirect that ends a login: what it carries, and a listener on this machine that takes one.

Kite sends the browser to the URL that its developer console has for the app, with `?status=success&request_token=...`
and what `rest.login_url` has asked it to hand back. A request token is a secret for some minutes: no error, log line or
page shows it.
"""

import html
import secrets
import socket
import socketserver
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from urllib.parse import parse_qs, urlsplit

from pipeline.credentials import token_fault
from pipeline.errors import MdsError
from pipeline.kite.rest import STATE

POLL_S = 0.05  # how soon the listener notices that it is to end
READ_S = 5.0  # for a request to arrive
ANSWER_S = 30.0  # for what becomes of a redirect: the browser waits for it
SENT_S = 2.0  # for the page to reach the browser
STATUS_CHARS = 20  # of the status that is shown

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>mds login</title>
<body style="font: 1.1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto; padding: 0 1rem">
<h1>{title}</h1>
<p>{text}</p>
</body></html>
"""


class RedirectError(MdsError):
    """This is no redirect of a login that succeeded."""


def read_request_token(text: str) -> str:
    """Return the request token of a redirect's URL or query, or `text` itself where it is a bare one.

    Raises RedirectError, without showing any of it.
    """
    text = text.strip().strip("'\"<>")
    if not text:
        raise RedirectError("nothing was given")
    if not any(sign in text for sign in "=?/"):
        return _checked(text)
    try:
        query = parse_qs(urlsplit(text).query or text.rpartition("?")[2], max_num_fields=100)
    except ValueError:
        raise RedirectError("this is neither a URL nor a request token") from None
    status = query.get("status", ["success"])
    if status != ["success"]:
        raise RedirectError(f"Kite says that the login did not succeed{_shown(status[0])}")
    tokens = query.get("request_token", [])
    if not tokens and "api_key" in query:
        raise RedirectError("this is the URL to log in at: give the one that the browser shows after logging in")
    if not tokens:
        raise RedirectError("there is no request_token in this URL")
    if len(tokens) > 1:
        raise RedirectError("there is more than one request_token in this URL")
    return _checked(tokens[0])


def _checked(token: str) -> str:
    if fault := token_fault(token):
        raise RedirectError(f"this is no request token: {fault}")
    return token


def _shown(status: str) -> str:
    return f" (status {status})" if status.isascii() and status.isalnum() and len(status) <= STATUS_CHARS else ""


class Listener:
    """Takes one redirect at an address of this machine; a context, in which it listens.

    A redirect with another `state` than the one that was sent along with the login URL is refused and forgotten. One
    without any is taken: with a token from elsewhere one is logged in as somebody else, and told so. Raises
    RedirectError where it cannot listen.

    `open_url` is where a browser is to be sent that cannot be given `login_url` itself: arguments of a process can be
    seen by everybody on this machine, and the API key is part of that URL. It works once.
    """

    def __init__(self, host: str, port: int, login_url: str, state: str) -> None:
        self._begin = f"/{secrets.token_urlsafe()}"
        self._login_url: str | None = login_url
        self._state = state
        self._lock = Lock()
        self._queries: SimpleQueue[str] = SimpleQueue()
        self._taken = False
        self._outcome = (False, "")
        self._known, self._sent = Event(), Event()
        name = f"[{host}]" if ":" in host else host
        try:
            self._server = _Server(self, host, port)
        except OSError as error:
            why = f"cannot listen on {name}:{port}: {error.strerror}"
            raise RedirectError(f"{why}; end what listens there, or use another port, here and at Kite") from None
        self.url = f"http://{name}:{self._server.server_address[1]}"
        self.open_url = self.url + self._begin

    def __enter__(self) -> "Listener":
        Thread(target=self._server.serve_forever, args=(POLL_S,), name="redirect", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, timeout_s: float) -> str:
        """Return the request token of the redirect. Raises RedirectError where none comes, or of a failed login."""
        try:
            query = self._queries.get(timeout=timeout_s)
        except Empty:
            raise RedirectError(
                f"no redirect has come to {self.url} within {timeout_s:g} s: is that the redirect URL of your app in "
                "Kite's developer console? Without --listen, mds login takes the URL by paste"
            ) from None
        return read_request_token(f"?{query}")

    def answer(self, text: str, *, success: bool) -> None:
        """Tell the browser what has become of it; without a redirect nothing happens."""
        self._outcome = (success, text)
        self._known.set()
        if self._taken:
            self._sent.wait(SENT_S)

    def reply(self, target: str) -> tuple[HTTPStatus, str, str]:
        """Return status, title and text for a GET request of this path and query; with 302 the text is a URL."""
        path, _, query = target.partition("?")
        with self._lock:
            if path == self._begin and self._login_url:
                url, self._login_url = self._login_url, None
                return HTTPStatus.FOUND, "Found", url
        try:
            fields = parse_qs(query, keep_blank_values=True, max_num_fields=100)
        except ValueError:
            fields = {}
        if not fields.keys() & {"request_token", "status", STATE}:
            return HTTPStatus.NOT_FOUND, "Nothing here", "This page waits for Kite's redirect only."
        state = fields.get(STATE, [self._state])  # who hands the redirect on may have lost it
        if len(state) != 1 or not secrets.compare_digest(state[0].encode(), self._state.encode()):
            return HTTPStatus.BAD_REQUEST, "Ignored", "This does not come from the login that mds login waits for."
        with self._lock:
            if not self._taken:
                self._taken = True
                self._queries.put(query)
        if not self._known.wait(ANSWER_S):
            return HTTPStatus.GATEWAY_TIMEOUT, "Not known", "Look at the terminal for what has become of the login."
        success, text = self._outcome
        return HTTPStatus.OK, "Logged in" if success else "Not logged in", text

    def sent(self) -> None:
        """Take note that what has become of the login has been told."""
        self._sent.set()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, listener: Listener, host: str, port: int) -> None:
        self.listener = listener
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hang up, or send what is no HTTP."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = READ_S
    server_version, sys_version = "mds", ""

    def do_GET(self) -> None:
        status, title, text = self.server.listener.reply(self.path)
        page = PAGE.format(title=html.escape(title), text=html.escape(text)).encode()
        self.send_response(status)
        if status is HTTPStatus.FOUND:
            self.send_header("Location", text)
            page = b""
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")  # the request token is in this page's URL
        self.end_headers()
        self.wfile.write(page)
        self.wfile.flush()
        if status is HTTPStatus.OK:
            self.server.listener.sent()

    def log_message(self, *_: object) -> None:
        """Say nothing: the request line has the token in it."""
