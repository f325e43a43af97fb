"""The token file: whole or not there, for its owner only, and noticed when it is replaced."""

import errno
import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from pipeline.credentials import TOKEN_CHARS_MAX, TokenFile, expires_at, token_fault
from pipeline.durable import replace_durably
from pipeline.errors import ConfigError

TOKEN, OTHER = "canary-t0ken-1", "canary-t0ken-2"
NOW = "2025-10-01T08:41:07+05:30"
WAY_OUT = "mds login"
DEADLINE_S = 20
EVERYTHING_ALLOWED = 0o000  # as a umask


@pytest.fixture
def file(tmp_path):
    return TokenFile(tmp_path / "mds" / "access_token.json")


@pytest.fixture
def umask():
    """Let files be made with whatever mode they are asked for."""
    before = os.umask(EVERYTHING_ALLOWED)
    yield
    os.umask(before)


def put(file, content, mode=0o600):
    """Write the file as an editor does: in its place."""
    file.path.parent.mkdir(exist_ok=True)
    file.path.write_bytes(content)
    file.path.chmod(mode)


def content(token=TOKEN, stored_at=NOW, **more):
    return json.dumps({"access_token": token, "stored_at": stored_at, **more}).encode()


def store(file, token):
    file.write(SecretStr(token))


def mode_of(path):
    return path.stat().st_mode & 0o7777


def stored(file):
    found = file.read()
    return found and found.access_token.get_secret_value()


def polled(file):
    found = file.poll()
    return found and found.access_token.get_secret_value()


# Storing and reading.


def test_what_is_stored_is_read(file):
    """The token comes back with the time it was stored at, from a file that has both as JSON."""
    assert file.read() is None
    before = datetime.now(UTC)
    store(file, TOKEN)
    found = file.read()
    assert found.access_token.get_secret_value() == TOKEN
    assert before <= found.stored_at <= datetime.now(UTC)
    on_disk = json.loads(file.path.read_bytes())
    assert on_disk.keys() == {"access_token", "stored_at"}
    assert datetime.fromisoformat(on_disk["stored_at"]) == found.stored_at
    assert datetime.fromisoformat(on_disk["stored_at"]).tzinfo is not None


@pytest.mark.usefixtures("umask")
def test_nobody_else_may_read_it(file):
    """File and folder are for their owner, whatever the umask; a folder that was there stays as it was."""
    store(file, TOKEN)
    assert (mode_of(file.path), mode_of(file.path.parent)) == (0o600, 0o700)
    file.path.parent.chmod(0o755)
    store(file, OTHER)
    assert (mode_of(file.path), mode_of(file.path.parent)) == (0o600, 0o755)


@pytest.mark.usefixtures("umask")
def test_nobody_else_may_read_it_for_a_moment(file, monkeypatch):
    """While it is being replaced no file with the new token is open to others, not even one that was there before."""
    put(file, content())
    left = file.path.with_suffix(f".{os.getpid()}.new")  # by a killed process with the same id
    left.touch(0o666)
    seen: list[tuple[int, bytes]] = []

    def sync(_fd):
        seen.extend((mode_of(path), path.read_bytes()) for path in file.path.parent.iterdir() if path.is_file())

    with left.open("rb") as opened_before:
        monkeypatch.setattr("os.fsync", sync)
        store(file, OTHER)
        assert opened_before.read() == b""
    assert any(OTHER.encode() in data for _, data in seen)
    assert {mode for mode, _ in seen} == {0o600}
    assert [path.name for path in file.path.parent.iterdir()] == ["access_token.json"]


def test_the_old_content_stays_until_the_new_is_whole(file, monkeypatch):
    """Who has the old file open reads the old token; a write that fails leaves it, and leaves nothing else."""
    store(file, TOKEN)
    with file.path.open("rb") as opened_before:
        store(file, OTHER)
        assert TOKEN.encode() in opened_before.read()
    monkeypatch.setattr("os.write", lambda _fd, data: len(data) // 2)
    with pytest.raises(ConfigError, match="cannot be written: No space left"):
        store(file, TOKEN)
    assert stored(file) == OTHER
    assert [path.name for path in file.path.parent.iterdir()] == ["access_token.json"]


def test_two_that_store_at_once(file):
    """The file is whole at any moment, and both get to the end."""
    store(file, TOKEN)
    code = (
        "import sys; from pathlib import Path; from pydantic import SecretStr\n"
        "from pipeline.credentials import TokenFile\n"
        "for _ in range(100): TokenFile(Path(sys.argv[1])).write(SecretStr(sys.argv[2]))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, file.path, token]) for token in (TOKEN, OTHER)]
    while any(process.poll() is None for process in both):
        assert stored(file) in (TOKEN, OTHER)
    assert [process.wait(DEADLINE_S) for process in both] == [0, 0]
    assert [path.name for path in file.path.parent.iterdir()] == ["access_token.json"]


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_file_is_replaced_with_a_mode(tmp_path, mode):
    """The mode is the one that was asked for, whatever the old file had."""
    path = tmp_path / "state.json"
    path.touch(0o666)
    replace_durably(path, b"new", mode)
    assert (path.read_bytes(), mode_of(path)) == (b"new", mode)


# What cannot be used.

DAMAGED = {
    "empty": (b"", "Invalid JSON"),
    "a bare token": (TOKEN.encode(), "Invalid JSON"),
    "cut off": (content()[:-5], "Invalid JSON"),
    "no text": (b"\xff\xfe" + content(), "Invalid JSON"),
    "no object": (b"[]", "object"),
    "no token": (b'{"stored_at": "2025-10-01T08:41:07+05:30"}', "access_token: field required"),
    "a number": (content(12345), "access_token: .*string"),
    "a list": (content([TOKEN]), "access_token: .*string"),
    "too short": (content("abcd"), "access_token: it is too short"),
    "too long": (content("x" * (TOKEN_CHARS_MAX + 1)), "access_token: it is too long"),
    "two words": (content(f"{TOKEN} {OTHER}"), "access_token: it has white space"),
    "no time": (b'{"access_token": "canary-t0ken-1"}', "stored_at: field required"),
    "no offset": (content(stored_at="2025-10-01T08:41:07"), "stored_at: .*timezone"),
    "a key that is none": (content(api_key="canary key"), "api_key: it has white space"),
    "a key that is a number": (content(api_key=12345), "api_key: .*string"),
    "a user that is a number": (content(user_id=12345), "user_id: .*string"),
    "huge": (b" " * 10**6 + content(), "Invalid JSON"),
}


@pytest.mark.parametrize(("data", "cause"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file(file, data, cause):
    """One line names the file, the cause and the way out, and nothing of the content."""
    put(file, data)
    with pytest.raises(ConfigError, match=f"(?i){cause}") as caught:
        file.read()
    message = str(caught.value)
    assert message.startswith(f"{file.path}: damaged: ")
    assert WAY_OUT in message
    assert "\n" not in message
    assert "canary" not in message
    assert caught.value.__cause__ is None
    store(file, TOKEN)
    assert stored(file) == TOKEN


def test_more_than_is_known_is_passed_over(file):
    """A later version may store more."""
    put(file, content(user_id="AB1234", refresh_token="x", version=2))
    assert stored(file) == TOKEN


def test_whose_it_is(file):
    """Key and user are kept with the token where they are known; what a later token comes without is gone."""
    file.write(SecretStr(TOKEN), api_key=SecretStr("canary-k3y"), user_id="AB1234", user_name="Somebody")
    for found in (file.poll(), file.read()):
        assert found.api_key.get_secret_value() == "canary-k3y"
        assert (found.user_id, found.user_name) == ("AB1234", "Somebody")
        assert "canary" not in repr(found) + str(found) + found.model_dump_json()
    on_disk = json.loads(file.path.read_bytes())
    assert on_disk.keys() == {"access_token", "stored_at", "api_key", "user_id", "user_name"}
    assert on_disk["api_key"] == "canary-k3y"
    file.write(SecretStr(OTHER), api_key=SecretStr("canary-k3y"), user_id="", user_name="")
    assert json.loads(file.path.read_bytes()).keys() == {"access_token", "stored_at", "api_key"}
    store(file, TOKEN)
    found = file.read()
    assert (found.api_key, found.user_id, found.user_name) == (None, None, None)


def test_what_is_no_key(file):
    """It is refused as a token would be."""
    with pytest.raises(ConfigError, match=r"^this is no API key, nothing was stored: it is too short"):
        file.write(SecretStr(TOKEN), api_key=SecretStr("k"))
    assert file.read() is None


# How long it lives.


@pytest.mark.parametrize(
    ("stored_at", "expires"),
    [
        ("2025-10-01T08:41:07+05:30", "2025-10-02T06:00:00+05:30"),
        ("2025-10-01T05:59:59+05:30", "2025-10-01T06:00:00+05:30"),
        ("2025-10-01T06:00:00+05:30", "2025-10-02T06:00:00+05:30"),
        ("2025-10-01T23:59:59+05:30", "2025-10-02T06:00:00+05:30"),
        ("2025-10-01T00:29:59+00:00", "2025-10-01T06:00:00+05:30"),
        ("2025-12-31T19:00:00-05:00", "2026-01-01T06:00:00+05:30"),
    ],
)
def test_when_it_dies(stored_at, expires):
    """At the next six o'clock in India, wherever it was stored."""
    assert expires_at(datetime.fromisoformat(stored_at)).isoformat() == expires


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.timezones()))  # noqa: DTZ001  of any zone
def test_it_lives_for_a_day_at_most(stored_at):
    """Its end is later than its beginning, by 24 hours at most, and at six."""
    expires = expires_at(stored_at)
    assert timedelta(0) < expires - stored_at.astimezone(UTC) <= timedelta(days=1)
    assert (expires.hour, expires.minute, expires.utcoffset()) == (6, 0, timedelta(hours=5, minutes=30))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o666])
def test_a_file_that_is_open_to_others(file, mode):
    """It is refused, with the mode and what to do."""
    put(file, content(), mode)
    with pytest.raises(ConfigError, match=rf"open to other users \(mode {mode:04o}\): .*chmod 600.*{WAY_OUT}"):
        file.read()
    file.path.chmod(0o400)
    assert stored(file) == TOKEN


def test_what_is_no_file(tmp_path):
    """A folder or a pipe in its place, or a file in its folder's place, is named; nothing waits, nothing is left."""
    folder, pipe, below = tmp_path / "folder", tmp_path / "pipe", tmp_path / "plain" / "token.json"
    folder.mkdir()
    os.mkfifo(pipe, 0o600)
    below.parent.touch()
    for path, cause in ((folder, "Is a directory"), (pipe, "damaged"), (below, "Not a directory")):
        with pytest.raises(ConfigError, match=f"^{path}: {cause}"):
            TokenFile(path).read()
    for path, cause in ((folder, "Is a directory"), (below, "a file is in the way of its folder")):
        with pytest.raises(ConfigError, match=f"^{path}: cannot be written: {cause}; kite.access_token_file names"):
            store(TokenFile(path), TOKEN)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "pipe", "plain"}


def test_a_file_that_is_closed_to_us(file, monkeypatch):
    """It is named with the reason."""
    store(file, TOKEN)

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(ConfigError, match=f"^{file.path}: Permission denied; kite.access_token_file names another"):
        file.read()


NO_TOKENS = {
    "": "empty",
    "abcd": "too short",
    "x" * (TOKEN_CHARS_MAX + 1): "too long",
    "xyz abc": "white space",
    "xyz\nabc": "white space",
    "xyz\u00a0abc": "white space",
    "xyz\x00abc": "control characters",
    "xyz\x1b[Aabc": "control characters",
    "xyz\u200babc": "not ASCII",
    "t\u00f6ken": "not ASCII",
}


@pytest.mark.parametrize(("token", "fault"), NO_TOKENS.items(), ids=map(repr, range(len(NO_TOKENS))))
def test_what_is_no_token(file, token, fault):
    """It is refused without being shown, and nothing is stored."""
    assert fault in (token_fault(token) or "")
    with pytest.raises(ConfigError, match=f"no access token, nothing was stored: .*{fault}") as caught:
        store(file, token)
    assert not token or token[:3] not in str(caught.value)
    assert not file.path.parent.exists()


@pytest.mark.parametrize("token", ["a1B2c", "x" * TOKEN_CHARS_MAX, "with=all/+-_.~:signs"])
def test_what_is_a_token(file, token):
    """Lengths up to the limits, and whatever a header takes, are stored as they are."""
    assert token_fault(token) is None
    store(file, token)
    assert stored(file) == token


def test_no_repr_shows_it(file):
    """What is printed by mistake is no secret."""
    store(file, TOKEN)
    found = file.read()
    for shown in (
        repr(found),
        str(found),
        str(found.model_dump()),
        found.model_dump_json(),
        repr(file),
        str(vars(file)),
    ):
        assert TOKEN not in shown


# Watching it.


def test_a_poll_tells_of_a_new_token_once(file):
    """What was there before is no news; what is stored after that is, each time, the same token included."""
    assert file.poll() is None
    for token in (TOKEN, OTHER, OTHER):
        store(file, token)
        assert polled(file) == token
        assert file.poll() is None
    assert TokenFile(file.path).poll() is None
    file.path.unlink()
    assert file.poll() is None
    store(file, OTHER)
    assert polled(file) == OTHER


def test_reading_takes_no_news_away(file):
    """A read between two polls is a matter of its own."""
    store(file, TOKEN)
    assert stored(file) == TOKEN
    assert polled(file) == TOKEN


def test_a_poll_logs_what_it_cannot_use_once(file, caplog):
    """A damaged file is a warning, for each content; nothing is raised, no token is in it, and repairing it is news."""
    put(file, TOKEN.encode())
    assert [file.poll() for _ in range(3)] == [None] * 3
    put(file, content()[:-1])
    assert [file.poll() for _ in range(3)] == [None] * 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert f"a new access token cannot be used: {file.path}: damaged: " in caplog.text
    assert "canary" not in caplog.text
    put(file, content())
    assert polled(file) == TOKEN


def test_a_poll_sees_a_file_being_closed_to_others(file, caplog):
    """The chmod that the warning asks for is noticed."""
    put(file, content(), 0o644)
    assert [file.poll() for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert "open to other users" in caplog.text
    file.path.chmod(0o600)
    assert polled(file) == TOKEN
    assert file.poll() is None


def test_a_poll_opens_nothing_without_need(file, monkeypatch):
    """It may be called many times a second."""
    store(file, TOKEN)
    assert polled(file) == TOKEN
    monkeypatch.setattr("os.open", lambda *_: pytest.fail("opened"))
    assert file.poll() is None


def test_a_link_to_the_file(file, tmp_path):
    """A link is followed when reading, and replaced when storing: what it leads to is not ours to change."""
    put(file, content())
    link = TokenFile(tmp_path / "link.json")
    link.path.symlink_to(file.path)
    assert stored(link) == TOKEN
    store(link, OTHER)
    assert (stored(link), stored(file), link.path.is_symlink()) == (OTHER, TOKEN, False)
