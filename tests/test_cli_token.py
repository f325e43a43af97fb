"""`mds token`: a token comes from a pipe or a prompt, goes to the file, is asked about, and is shown nowhere."""

import io
import json
import os
import pty
import subprocess
import sys
import termios
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline.cli import main
from pipeline.credentials import TokenFile
from tests.kite_rest import Rest

KEY, TOKEN, OTHER = "canary-k3y", "canary-t0ken", "canary-other-t0ken"
MDS = str(Path(sys.executable).with_name("mds"))
DEADLINE_S = 20


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder, a config folder in it, and no settings from outside."""
    for name in [name for name in os.environ if name.startswith(("MDS_", "KITE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mds(monkeypatch, capsys):
    """Runs `mds token set` with these bytes on the standard input; returns exit code, stdout, stderr."""

    def run(data, *arguments, command="set"):
        monkeypatch.setattr(sys, "argv", ["mds", "token", command, *arguments])
        monkeypatch.setattr(sys, "stdin", data if data is None else io.TextIOWrapper(io.BytesIO(data)))
        with pytest.raises(SystemExit) as end:  # by which click ends every command
            main()
        out, error = capsys.readouterr()
        assert "canary" not in out + error
        return end.value.code, out, error

    return run


def stored(path):
    return json.loads(path.read_bytes())["access_token"]


@pytest.mark.parametrize("data", [TOKEN, f"{TOKEN}\n", f"\r\n  {TOKEN}\t\r\n", f"\ufeff{TOKEN}\r\n"])
def test_a_token_from_a_pipe(mds, folder, data):
    """It is stored without the white space around it; the answer says where, and what happens next."""
    code, out, error = mds(data.encode())
    file = folder / "config" / "mds" / "access_token.json"
    assert (code, error) == (0, "")
    assert out == f"Stored in {file}, for you only. A running service takes it up by itself.\n"
    assert stored(file) == TOKEN
    assert [path.name for path in folder.iterdir()] == ["config"]


def test_where_it_goes(mds, folder, monkeypatch):
    """The setting says where, and a variable that would go first is named."""
    (folder / "mine.toml").write_text("[kite]\naccess_token_file = 'here.json'")
    monkeypatch.setenv("KITE_ACCESS_TOKEN", "yesterdays")
    code, out, _ = mds(TOKEN.encode(), "--config", "mine.toml")
    assert code == 0
    assert out.startswith(f"Stored in {folder}/here.json,")
    assert "KITE_ACCESS_TOKEN is set here, too: unset it" in out
    assert stored(folder / "here.json") == TOKEN


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"abcd\n", "it is too short"),
        (b"x" * 4097, "it is too long"),
        (b"x" * 10**6, "it is too long"),
        (b"canary-t0ken canary-t0ken", "it has white space in it: one word is wanted"),
        (b"canary-t0ken\nsecond line", "it has white space in it"),
        (b"canary\x00t0ken", "it has control characters"),
        (b"\xff\xfe\xff\xfe", "standard input: not text"),
        (None, "there is no standard input"),
    ],
)
def test_what_is_no_token(mds, folder, data, cause):
    """It is refused in one line with exit code 2, and nothing is made."""
    code, out, error = mds(data)
    assert (code, out) == (2, "")
    assert error.startswith("mds: ")
    assert cause in error
    assert error.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_what_never_ends_is_not_read_to_the_end(folder):
    """A pipe that goes on for ever is refused."""
    with Path("/dev/zero").open("rb") as endless:
        done = subprocess.run(
            [MDS, "token", "set"], stdin=endless, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    assert done.returncode == 2
    assert "control characters" in done.stderr
    assert list(folder.iterdir()) == []


def test_a_token_is_never_an_argument(mds, folder):
    """There it could be seen by others; the refusal says so and does not repeat it."""
    code, out, error = mds(b"", TOKEN)
    assert (code, out) == (2, "")
    assert "on the standard input" in error
    assert list(folder.iterdir()) == []


def test_a_place_that_cannot_be_written(mds, folder, monkeypatch):
    """It is one line that names file, cause and setting, exit code 2."""
    (folder / "file").touch()
    monkeypatch.setenv("MDS_KITE__ACCESS_TOKEN_FILE", "file/token.json")
    code, _, error = mds(TOKEN.encode())
    assert code == 2
    assert error == (
        f"mds: {folder}/file/token.json: cannot be written: a file is in the way of its folder; "
        "kite.access_token_file names another file\n"
    )


def test_a_token_from_a_terminal(folder):
    """It is asked for, and what is typed is not shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(MDS, [MDS, "token", "set"])  # noqa: S606  argv as given
    deadline_s = time.monotonic() + DEADLINE_S
    while termios.tcgetattr(terminal)[3] & termios.ECHO:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    os.write(terminal, f" {TOKEN} \n".encode())
    shown = b""
    try:
        while data := os.read(terminal, 4096):
            shown += data
    except OSError:  # the other end is gone
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert b"Access token (not shown): " in shown
    assert b"Stored in " in shown
    assert TOKEN.encode() not in shown
    assert stored(folder / "config" / "mds" / "access_token.json") == TOKEN


def test_the_key_is_kept_with_it(mds, folder, monkeypatch):
    """KITE_API_KEY is stored, too, and stays with the tokens that follow; whose a token is is not known."""
    file = TokenFile(folder / "config" / "mds" / "access_token.json")
    file.write(SecretStr(OTHER), api_key=SecretStr("canary-old-k3y"), user_id="AB1234", user_name="Somebody")
    monkeypatch.setenv("KITE_API_KEY", KEY)
    assert mds(TOKEN.encode())[0] == 0
    monkeypatch.delenv("KITE_API_KEY")
    assert mds(OTHER.encode())[0] == 0
    on_disk = json.loads(file.path.read_bytes())
    assert on_disk.pop("stored_at")
    assert on_disk == {"access_token": OTHER, "api_key": KEY}
    file.path.write_bytes(b"damaged")
    assert mds(TOKEN.encode())[0] == 0
    assert json.loads(file.path.read_bytes()).keys() == {"access_token", "stored_at"}
    monkeypatch.setenv("KITE_API_KEY", "abc")
    code, _, error = mds(OTHER.encode())
    assert (code, error) == (2, "mds: this is no API key, nothing was stored: it is too short, with 3 characters\n")
    assert stored(file.path) == TOKEN


# Whether there is a good one.


@pytest.fixture
def status(mds):
    """Runs `mds token status`; returns exit code and text, or what the JSON holds."""

    def run(*arguments):
        code, out, error = mds(b"", *arguments, command="status")
        assert error == ""
        return code, json.loads(out) if "--json" in arguments else out

    return run


@pytest.fixture
def kite(monkeypatch):
    with Rest(KEY, TOKEN) as rest:
        monkeypatch.setenv("MDS_KITE__API_URL", rest.url)
        yield rest


@pytest.fixture
def file(folder):
    return TokenFile(folder / "config" / "mds" / "access_token.json")


def test_there_is_none(status, kite, monkeypatch):
    """It says what is missing and what to do; so it does for a token without a key."""
    code, out = status()
    assert code == 1
    assert out.startswith("There is no access token to use: KITE_API_KEY is not set")
    assert "log in with: mds login" in out
    monkeypatch.setenv("KITE_API_KEY", KEY)
    code, found = status("--json")
    assert (code, found["source"], found["accepted"]) == (1, None, None)
    assert found["reason"].startswith("KITE_ACCESS_TOKEN is not set")
    assert status("--offline")[0] == 1
    assert kite.asked == 0


def test_a_good_one(status, kite, file):
    """Whose, from where, since when, until when, and that Kite takes it."""
    file.write(SecretStr(TOKEN), api_key=SecretStr(KEY), user_id="old", user_name="old")
    code, out = status()
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["Access", "token", "of", "Somebody", "(AB1234)"]
    assert lines[1] == ["from", str(file.path)]
    assert lines[2][0] == "stored"
    assert lines[2][-2:] == ["s", "ago"]
    assert lines[3][0] == "expires"
    assert lines[3][2:] == ["06:00", "IST,", "about"]
    assert lines[4] == ["Kite", "takes", "it"]
    code, found = status("--json")
    assert code == 0
    assert datetime.fromisoformat(found.pop("stored_at")) == file.read().stored_at
    assert datetime.fromisoformat(found.pop("expires_at")) > datetime.now(UTC)
    assert found == {
        "source": "file",
        "file": str(file.path),
        "expired": False,
        "user_id": "AB1234",
        "user_name": "Somebody",
        "accepted": True,
        "reason": None,
    }
    assert kite.asked == 2


def test_one_that_kite_refuses(status, kite, file):
    """The reason says what to do; what Kite quotes is not repeated."""
    file.write(SecretStr(OTHER), api_key=SecretStr(KEY), user_id="AB1234")
    code, out = status()
    assert code == 1
    assert out.startswith("Access token of AB1234\n")
    assert "Kite     refuses it: 127.0.0.1:" in out
    assert "log in with: mds login" in out
    assert status("--json")[1]["accepted"] is False
    assert status("--offline") == (0, out[: out.index("  Kite")] + "  Kite     was not asked\n")
    assert kite.asked == 2


def test_nobody_can_tell(status, file, monkeypatch):
    """It is said, and is no yes."""
    monkeypatch.setenv("MDS_KITE__API_URL", "http://127.0.0.1:9")
    file.write(SecretStr(TOKEN), api_key=SecretStr(KEY))
    code, out = status()
    assert code == 1
    assert "Access token of an unknown user" in out
    assert "Kite     does not tell: 127.0.0.1:9: cannot be reached" in out
    assert status("--json")[1]["accepted"] is None


@pytest.mark.usefixtures("kite")
def test_the_variable_goes_first(status, file, monkeypatch):
    """As it does where `mds run` begins; nobody knows its age."""
    file.write(SecretStr(OTHER), api_key=SecretStr(KEY))
    monkeypatch.setenv("KITE_ACCESS_TOKEN", TOKEN)
    code, out = status()
    assert code == 0
    assert "KITE_ACCESS_TOKEN, which goes before any that is stored" in out
    assert "stored   " not in out
    code, found = status("--json", "--offline")
    assert (code, found["source"], found["stored_at"], found["expired"]) == (0, "environment", None, None)
    monkeypatch.setenv("KITE_API_KEY", "canary-an0ther")
    assert status()[0] == 1


def test_one_of_yesterday(status, kite, file):
    """Its age alone tells, where Kite is not to be asked; Kite has the last word where it is."""
    file.write(SecretStr(TOKEN), api_key=SecretStr(KEY))
    content = json.loads(file.path.read_bytes())
    content["stored_at"] = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    content["user_name"] = "Some\x1b[2Jbody"
    content["user_id"] = "AB1234"
    file.path.write_text(json.dumps(content))
    code, out = status("--offline")
    assert code == 1
    assert "expired  " in out
    assert "about; log in with: mds login" in out
    assert "Some [2Jbody (AB1234)" in out
    assert "48.0 h ago" in out or "2 d ago" in out
    assert kite.asked == 0
    code, out = status()
    assert code == 0
    assert "log in" not in out
    assert "still takes it" in out


def test_one_for_another_app(status, kite, file, monkeypatch):
    """It is not used, and why is said."""
    file.write(SecretStr(TOKEN), api_key=SecretStr(KEY))
    monkeypatch.setenv("KITE_API_KEY", "canary-an0ther")
    code, out = status()
    assert code == 1
    assert "this token was made for another API key than KITE_API_KEY" in out
    assert kite.asked == 0
    file.path.write_bytes(b"damaged")
    code, out = status()
    assert code == 1
    assert "damaged" in out
