"""`mds login`: what is asked for, what comes of it, and no secret on the screen, in an argument or in a child."""

import http.client
import io
import json
import os
import socket
import sys
import threading
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pexpect
import pytest

from pipeline.cli import main
from tests.kite_rest import Rest

KEY, SECRET, REQUEST_TOKEN, NEW = "canary-k3y", "canary-s3cret", "canary-request-t0ken", "canary-new-t0ken"
REDIRECT = f"http://127.0.0.1/?action=login&type=login&status=success&request_token={REQUEST_TOKEN}"
MDS = str(Path(sys.executable).with_name("mds"))
DEADLINE_S = 20


@pytest.fixture
def kite():
    with Rest(KEY, secret=SECRET, request_token=REQUEST_TOKEN, new=NEW) as rest:
        yield rest


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, kite):
    """An empty working folder, a config folder in it, and Kite's URL as the only setting."""
    for name in [name for name in os.environ if name.startswith(("MDS_", "KITE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MDS_KITE__API_URL", kite.url)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def file(folder):
    return folder / "config" / "mds" / "access_token.json"


@pytest.fixture
def give(monkeypatch):
    """Sets KITE_API_KEY and KITE_API_SECRET, or something else."""

    def give(api_key=KEY, api_secret=SECRET, **variables):
        given = {"KITE_API_KEY": api_key, "KITE_API_SECRET": api_secret} | variables
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return give


@pytest.fixture
def mds(monkeypatch, capsys):
    """Runs `mds login` with this on the standard input; returns exit code, stdout without the URL's key, and stderr."""

    def run(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["mds", "login", *arguments])
        data = stdin if stdin is None else stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", data if data is None else io.TextIOWrapper(io.BytesIO(data), "utf-8"))
        with pytest.raises(SystemExit) as end:  # by which click ends every command
            main()
        out, error = capsys.readouterr()
        out = out.replace(f"v=3&api_key={KEY}", "v=3&api_key=K")
        assert "canary" not in out + error
        return end.value.code, out, error

    return run


def test_a_login_without_a_terminal(mds, give, file):
    """It tells where to log in, whose the token is, for how long, and where it is; all of it is in the file."""
    give()
    code, out, error = mds(stdin=REDIRECT + "\n")
    assert code == 0
    url, told = "https://kite.zerodha.com/connect/login?v=3&api_key=K", out.splitlines()
    assert (error, told[:4]) == ("", ["Log in at:", "", f"  {url}", ""])
    first, second = told[4:]
    assert first.startswith("Logged in as Somebody (AB1234), until about 2")
    assert first.endswith(" 06:00 IST.")
    assert second == f"Stored in {file}, for you only. A running service takes it up by itself."
    stored = json.loads(file.read_bytes())
    assert {name: stored[name] for name in stored if name != "stored_at"} == {
        "access_token": NEW,
        "api_key": KEY,
        "user_id": "AB1234",
        "user_name": "Somebody",
    }
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_the_key_of_the_last_login(mds, give, file, monkeypatch):
    """With it KITE_API_KEY need not be set; a file that cannot be used is replaced."""
    give()
    assert mds(stdin=REQUEST_TOKEN)[0] == 0
    monkeypatch.delenv("KITE_API_KEY")
    code, out, _ = mds(stdin="canary-used-up")
    assert code == 1
    assert "api_key=K\n" in out
    file.write_text(f"{{{NEW}")
    code, _, error = mds(stdin=REQUEST_TOKEN)
    assert code == 2
    assert "damaged" in error
    assert "KITE_API_KEY is not set, and there is no terminal to ask for the API key" in error


def test_a_place_that_cannot_be_written(mds, give, folder):
    """It is told before anybody has logged in: that would be for nothing."""
    (folder / "file").touch()
    give(MDS_KITE__ACCESS_TOKEN_FILE="file/token.json")
    code, out, error = mds(stdin=REDIRECT)
    assert (code, out) == (2, "")
    assert "file/token.json: cannot be written: a file is in the way of its folder" in error


def test_a_variable_that_goes_before(mds, give):
    """It is named: the next run would begin with it."""
    give(KITE_ACCESS_TOKEN="canary-old-t0ken")
    code, out, _ = mds(stdin=REQUEST_TOKEN)
    assert code == 0
    assert "KITE_ACCESS_TOKEN is set here, too: unset it" in out


@pytest.mark.parametrize(
    "case",
    [
        ({"api_secret": "canary-other"}, REDIRECT, 1, "Kite refuses the request token: "),
        ({}, "canary-other-t0ken", 1, "Kite refuses the request token: "),
        ({}, "", 1, "nothing was given"),
        ({}, "http://127.0.0.1/?status=error", 1, "did not succeed (status error)"),
        ({}, "x" * 10**6, 1, "it is too long"),
        ({}, b"\xff\xfe", 2, "standard input: not text"),
        ({}, None, 2, "there is no standard input"),
        ({"api_secret": ""}, REDIRECT, 2, "KITE_API_SECRET is not set, and there is no terminal"),
        ({"api_key": ""}, REDIRECT, 2, "KITE_API_KEY is not set, and there is no terminal"),
        ({"api_key": "abc"}, REDIRECT, 2, "KITE_API_KEY is no API key: it is too short"),
        ({"api_key": "abc\n"}, REDIRECT, 2, "KITE_API_KEY is no API key: it has white space"),
        ({"api_secret": "canary secret"}, REDIRECT, 2, "KITE_API_SECRET is no API secret: it has white space"),
        ({"MDS_KITE__API_URL": "http://127.0.0.1:9"}, REDIRECT, 1, "127.0.0.1:9: cannot be reached"),
        ({"MDS_KITE__ACCESS_TOKEN_FILE": "/dev/null/x"}, REDIRECT, 2, "/dev/null/x: cannot be written"),
    ],
)
def test_what_goes_wrong(mds, give, folder, case):
    """It is one line with what to do, and nothing is stored."""
    given, stdin, code, cause = case
    give(**given)
    found, out, error = mds(stdin=stdin)
    assert (found, "Logged in" in out) == (code, False)
    line = error.splitlines()[-1]
    assert line.startswith("mds: ")
    assert cause in line
    assert list(folder.iterdir()) == []


def test_what_was_stored_stays(mds, give, file):
    """A login that fails leaves the token of the one before."""
    give()
    assert mds(stdin=REQUEST_TOKEN)[0] == 0
    before = file.read_bytes()
    assert mds(stdin=REQUEST_TOKEN)[0] == 1  # each is good once
    assert file.read_bytes() == before


def test_no_secret_is_an_option(mds):
    """There are none for key, secret or token; one that is tried is refused, and not repeated."""
    for option in ("--api-secret", "--api-key", "--request-token"):
        code, out, error = mds(f"{option}=canary")
        assert (code, out) == (2, "")
        assert f"No such option '{option}'" in error.replace(f": {option}", f" '{option}'")  # depends on click
    for argument in (REQUEST_TOKEN, REDIRECT):
        code, out, error = mds(argument)
        assert (code, out) == (2, "")
        assert "when asked" in error


# The listener.


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url):
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.netloc, timeout=DEADLINE_S)) as connection:
        connection.request("GET", f"{parts.path}?{parts.query}")
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()


@pytest.fixture
def browser(monkeypatch):
    """Stands in for the user's: it is led to Kite's page, logs in, and is sent to the redirect URL."""

    class Browser:
        def __init__(self):
            self.port, self.fields, self.pages = 0, {}, []

        def launch(self, url):
            assert "canary" not in url + str(dict(os.environ))
            self.thread = threading.Thread(target=self.log_in, args=(url,))
            self.thread.start()

        def log_in(self, url):
            status, headers, _ = get(url)
            assert status == 302
            query = parse_qs(urlsplit(headers["Location"]).query)
            assert query["api_key"] == [KEY]
            state = parse_qs(query["redirect_params"][0])["state"][0]
            here = f"http://127.0.0.1:{self.port}"
            self.pages.append(get(f"{here}/favicon.ico"))
            self.pages.append(get(f"{here}/?status=success&request_token=canary-another&state=guessed"))
            fields = {"status": "success", "request_token": REQUEST_TOKEN, "state": state} | self.fields
            self.pages.append(get(f"{here}/done?" + "&".join(f"{name}={value}" for name, value in fields.items())))

    made = Browser()
    monkeypatch.setattr("click.launch", made.launch)
    yield made
    made.thread.join(DEADLINE_S)


def test_a_login_that_listens(mds, give, file, browser):
    """The browser is led to Kite and back, and told the end; others who call are turned away."""
    give(KITE_ACCESS_TOKEN="canary-old-t0ken", MDS_HTTP__TOKEN="canary-http-t0ken")
    browser.port = free_port()
    code, out, error = mds("--open", "--listen", str(browser.port))
    assert code == 0
    assert "Logged in as Somebody (AB1234)" in out
    assert f"Waiting for Kite's redirect at http://127.0.0.1:{browser.port}" in error
    assert json.loads(file.read_bytes())["access_token"] == NEW
    browser.thread.join(DEADLINE_S)
    assert [status for status, _, _ in browser.pages] == [404, 400, 200]
    assert "You can close this window" in browser.pages[-1][2]
    assert not any("canary" in page for _, _, page in browser.pages)


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"status": "cancelled"}, "did not succeed (status cancelled)"),
        ({"request_token": "canary-old"}, "Kite refuses"),
    ],
)
def test_a_login_that_listens_and_fails(mds, give, browser, fields, cause):
    """Terminal and browser both say why."""
    give()
    browser.port, browser.fields = free_port(), fields
    code, out, error = mds("--open", "--listen", f"localhost:{browser.port}")
    assert (code, "Logged in" in out) == (1, False)
    assert cause in error
    browser.thread.join(DEADLINE_S)
    assert "Not logged in" in browser.pages[-1][2]
    assert cause in browser.pages[-1][2]
    assert "canary" not in browser.pages[-1][2]
    assert list(Path.cwd().iterdir()) == []


def test_nobody_logs_in(mds, give):
    """It ends with a line that says where the redirect was expected."""
    give()
    code, _, error = mds("--listen", str(free_port()), "--timeout", "0.05")
    assert code == 1
    assert "within 0.05 s: is that the redirect URL of your app" in error


def test_a_port_that_is_taken(mds, give):
    """It is named before anybody logs in."""
    give()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, error = mds("--listen", str(port))
    assert code == 1
    assert error.startswith(f"mds: cannot listen on 127.0.0.1:{port}: Address already in use; ")


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("0.0.0.0:8765", "others can reach '0.0.0.0'"),
        ("[::]:8765", "others can reach '::'"),
        ("example.com:8765", "others can reach 'example.com'"),
        ("0", "is not [HOST:]PORT"),
        ("65536", "is not [HOST:]PORT"),
        ("http", "is not [HOST:]PORT"),
        ("", "is not [HOST:]PORT"),
    ],
)
def test_where_it_does_not_listen(mds, give, address, cause):
    """Only this machine can be listened to."""
    give()
    code, _, error = mds("--listen", address)
    assert code == 2
    assert cause in error


def test_ctrl_c_ends_it(give, folder):
    """While it waits for the redirect, and at once."""
    give()
    arguments = [MDS, "login", "--listen", str(free_port())]
    child = pexpect.spawn(arguments[0], arguments[1:], encoding="utf-8", timeout=DEADLINE_S)
    child.expect_exact("Waiting for Kite's redirect")
    child.sendintr()
    child.expect_exact("Aborted!")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1
    assert list(folder.iterdir()) == []


# On a terminal.


def test_a_login_on_a_terminal(file):
    """Key, secret and URL are asked for, not shown, and asked for again where they are not what is wanted."""
    child = pexpect.spawn(MDS, ["login"], encoding="utf-8", timeout=DEADLINE_S)
    shown = io.StringIO()
    child.logfile_read = shown
    child.expect_exact("API key (not shown): ")
    child.sendline(KEY)
    child.expect_exact("API secret (not shown): ")
    child.sendline(SECRET)
    child.expect("connect/login")
    for wrong, cause in (("http://127.0.0.1/", "no request_token in this URL; try again"), ("", "nothing was given")):
        child.expect_exact("(not shown): ")
        child.sendline(wrong)
        child.expect_exact(cause)
    child.expect_exact("(not shown): ")
    child.sendline(REDIRECT)
    child.expect_exact("Logged in as Somebody (AB1234)")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    screen = shown.getvalue().replace(f"v=3&api_key={KEY}", "")
    assert "canary" not in screen
    assert json.loads(file.read_bytes())["access_token"] == NEW


def test_a_terminal_that_gives_up(give, folder):
    """After the third thing that is no redirect it is over."""
    give()
    child = pexpect.spawn(MDS, ["login"], encoding="utf-8", timeout=DEADLINE_S)
    for _ in range(3):
        child.expect_exact("(not shown): ")
        child.sendline("what is wanted?")
    child.expect_exact("mds: ")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1
    assert list(folder.iterdir()) == []
