"""The redirect that ends a login: what is taken from what people paste, and the listener among strangers."""

import http.client
import re
import socket
import threading
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import MdsError
from pipeline.kite.redirect import Listener, RedirectError, read_request_token

TOKEN, STATE = "canary-request-t0ken", "canary-state"
LOGIN_URL = "https://kite.invalid/connect/login?v=3&api_key=canary-k3y"
DEADLINE_S = 20


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        f"  {TOKEN}\r\n",
        f"'{TOKEN}'",
        f"http://127.0.0.1:8765/?action=login&type=login&status=success&request_token={TOKEN}",
        f"https://my.app/done?request_token={TOKEN}&status=success&state=x#top",
        f'"http://127.0.0.1/?status=success&request_token={TOKEN}"',
        f"my.app/done?status=success&request_token={TOKEN}",
        f"?status=success&request_token={TOKEN}",
        f"status=success&request_token={TOKEN}",
        f"request_token={TOKEN}",
    ],
)
def test_what_people_paste(text):
    """The whole URL, a part of it, or the token, with whatever pasting has put around it."""
    assert read_request_token(text) == TOKEN


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "nothing was given"),
        (" \n", "nothing was given"),
        ("abc", "no request token: it is too short"),
        (f"{TOKEN} {TOKEN}", "white space"),
        (f"{TOKEN}\x1b[A", "control characters"),
        ("http://127.0.0.1:8765/", "no request_token in this URL"),
        ("http://127.0.0.1:8765/?status=success&request_token=", "no request_token in this URL"),
        ("http://[/?request_token=canary-t0ken", "neither a URL nor"),
        (f"http://h/?status=success&request_token={TOKEN}&request_token=other", "more than one"),
        (f"http://h/?status=cancelled&request_token={TOKEN}", r"did not succeed \(status cancelled\)"),
        (f"http://h/?status=success&status=error&request_token={TOKEN}", "did not succeed"),
        (f"http://h/?status=%1b[2J&request_token={TOKEN}", "did not succeed$"),
        (f"http://h/?status=success&request_token={TOKEN}%0acanary", "white space"),
        (LOGIN_URL, "this is the URL to log in at"),
        ("x?" + "&".join(f"a{n}=1" for n in range(1000)), "neither a URL nor"),
    ],
)
def test_what_is_no_login(text, cause):
    """One line says what it is instead, and shows none of it."""
    with pytest.raises(RedirectError, match=cause) as caught:
        read_request_token(text)
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text() | st.text(alphabet="?&=/:[]%#request_token"))
def test_whatever_is_pasted(text):
    """A token or one kind of error comes of it."""
    told = ""
    try:
        assert read_request_token(text).isascii()
    except RedirectError as error:
        told = str(error)
    assert not told or told.isprintable()


# The listener.


@pytest.fixture
def listener():
    with Listener("127.0.0.1", 0, LOGIN_URL, STATE) as made:
        yield made


def get(listener, target, host=None):
    """Return status, headers and body."""
    with closing(http.client.HTTPConnection(urlsplit(listener.url).netloc, timeout=DEADLINE_S)) as connection:
        connection.request("GET", target, headers={"Host": host or "127.0.0.1"})
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()


def redirect(**fields):
    given = {"action": "login", "status": "success", "request_token": TOKEN, "state": STATE} | fields
    return "/?" + "&".join(f"{name}={value}" for name, value in given.items() if value is not None)


def ask(listener, target):
    """Ask in a thread, which waits for the outcome; the list has the answer when the thread is done."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(get(listener, target)))
    thread.start()
    return thread, answers


@pytest.mark.parametrize("path", ["/", "/done/here"])
def test_a_redirect(listener, path):
    """Its token is taken, whatever its path, and its page tells what became of it, in text that is no HTML."""
    thread, answers = ask(listener, path + redirect()[1:])
    assert listener.wait(DEADLINE_S) == TOKEN
    assert answers == []
    listener.answer("all is <b>well</b>", success=True)
    thread.join(DEADLINE_S)
    ((status, headers, body),) = answers
    assert (status, headers["Cache-Control"], headers["Referrer-Policy"]) == (200, "no-store", "no-referrer")
    assert "Logged in" in body
    assert "all is &lt;b&gt;well&lt;/b&gt;" in body
    assert "canary" not in body


def test_a_redirect_that_has_lost_its_state(listener):
    """Not every way from Kite to this machine keeps what was sent along."""
    thread, _ = ask(listener, f"/?request_token={TOKEN}")
    assert listener.wait(DEADLINE_S) == TOKEN
    listener.answer("all is well", success=True)
    thread.join(DEADLINE_S)


def test_a_browser_that_asks_twice(listener):
    """It is one login, and both get the same page."""
    both = [ask(listener, redirect()), ask(listener, redirect())]
    assert listener.wait(DEADLINE_S) == TOKEN
    listener.answer("no luck", success=False)
    for thread, answers in both:
        thread.join(DEADLINE_S)
        assert "Not logged in" in answers[0][2]
        assert "no luck" in answers[0][2]
    with pytest.raises(RedirectError, match="no redirect has come"):
        listener.wait(0.01)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/favicon.ico", 404),
        ("/", 404),
        ("/?x=y", 404),
        (redirect(state="wrong"), 400),
        (redirect(state=""), 400),
        (redirect(state=STATE + "&state=" + STATE), 400),
        (redirect(state="%ff"), 400),
        ("/?state=wrong", 400),
        ("/?" + "&".join(f"a{n}=1" for n in range(1000)), 404),
        ("/%00%ff", 404),
    ],
)
def test_strangers(listener, target, status):
    """What does not come from this login is refused, and goes no further."""
    found, _, body = get(listener, target)
    assert found == status
    assert "canary" not in body
    with pytest.raises(RedirectError):
        listener.wait(0.01)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"\x16\x03\x01\x02",
        b"POST / HTTP/1.1\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"x" * 10**5,
    ],
)
def test_rubbish(listener, data, capfd):
    """It is answered or hung up on, says nothing here, and does not stand in the way of the redirect."""
    with (
        socket.create_connection(urlsplit(listener.url).netloc.split(":"), DEADLINE_S) as silent,
        socket.create_connection(urlsplit(listener.url).netloc.split(":"), DEADLINE_S) as sock,
    ):
        sock.sendall(data)
        thread, answers = ask(listener, redirect())
        assert listener.wait(DEADLINE_S) == TOKEN
        listener.answer("done", success=True)
        thread.join(DEADLINE_S)
        assert answers[0][0] == 200
        silent.close()
    assert capfd.readouterr() == ("", "")


def test_a_login_that_was_cancelled(listener):
    """It is an error here, and told."""
    thread, answers = ask(listener, redirect(status="cancelled", request_token=None))
    with pytest.raises(RedirectError, match="cancelled") as caught:
        listener.wait(DEADLINE_S)
    listener.answer(str(caught.value), success=False)
    thread.join(DEADLINE_S)
    assert "status cancelled" in answers[0][2]


def test_the_way_of_a_browser_to_the_login_page(listener):
    """It is led there once, from an address that has no key in it."""
    assert "canary" not in listener.open_url
    path = urlsplit(listener.open_url).path
    assert len(path) > 32
    status, headers, _ = get(listener, path)
    assert (status, headers["Location"]) == (302, LOGIN_URL)
    assert get(listener, path)[0] == 404


def test_nobody_comes(listener):
    """It is said where the redirect was expected, and what to look at."""
    with pytest.raises(RedirectError, match=rf"{re.escape(listener.url)} within 0.01 s: .* developer console"):
        listener.wait(0.01)
    listener.answer("too late", success=False)


def test_a_port_that_is_taken(listener):
    """One line names it; the port is free again when the listener is gone."""
    port = urlsplit(listener.url).port or 0
    with pytest.raises(MdsError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: Address already in use; "):
        Listener("127.0.0.1", port, LOGIN_URL, STATE)
    with Listener("127.0.0.1", 0, LOGIN_URL, STATE) as other:
        port = urlsplit(other.url).port or 0
        get(other, "/")
    with Listener("127.0.0.1", port, LOGIN_URL, STATE) as again:
        assert get(again, "/")[0] == 404


def test_the_other_loopback():
    """It listens on ::1, too, where the machine has it."""
    try:
        made = Listener("::1", 0, LOGIN_URL, STATE)
    except MdsError:
        pytest.skip("there is no IPv6")
    with made:
        assert re.fullmatch(r"http://\[::1\]:\d+", made.url)
        assert get(made, "/")[0] == 404
