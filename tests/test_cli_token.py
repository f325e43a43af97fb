"""`mds token set`: the token comes from a pipe or a prompt, goes to the file, and is shown nowhere."""

import io
import json
import os
import pty
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from pipeline.cli import main

TOKEN = "canary-t0ken"  # noqa: S105  made up
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

    def run(data, *arguments):
        monkeypatch.setattr(sys, "argv", ["mds", "token", "set", *arguments])
        monkeypatch.setattr(sys, "stdin", data if data is None else io.TextIOWrapper(io.BytesIO(data)))
        with pytest.raises(SystemExit) as end:  # by which click ends every command
            main()
        out, error = capsys.readouterr()
        assert TOKEN not in out + error
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
        (b"canary-t0ken canary-t0ken", "it has white space in it: one token is wanted"),
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
