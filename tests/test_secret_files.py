"""Secrets that are handed over as files: names, what wins, and every way to get them wrong."""

import os

import pytest

from pipeline.config import GIVEN_VARIABLES, load
from pipeline.errors import ConfigError
from pipeline.secret_files import read_secrets
from pipeline.supervisor.children import without_secrets

VALUE = "s3cret-5ecret"

pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder, and an environment that names it."""
    handed_over = tmp_path / "credentials"
    handed_over.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed_over))
    monkeypatch.chdir(tmp_path)
    return handed_over


@pytest.mark.parametrize("prefix", ["", "mds_", "MDS_"])
@pytest.mark.parametrize("spell", [str.upper, str.lower])
def test_each_variable_can_be_a_file(folder, prefix, spell):
    """In any case, as systemd names the files of a folder; without the line break that an editor adds."""
    for number, variable in enumerate(GIVEN_VARIABLES):
        (folder / (prefix + spell(variable))).write_text(f"{VALUE}-{number}" + ["", "\n", "\r\n"][number])
    (folder / "tls.key").write_text("somebody else's")
    (folder / "ca").mkdir()
    config = load(need_credentials=True)
    values = [config.api_key, config.access_token, config.http.token]
    assert [value.get_secret_value() for value in values] == [f"{VALUE}-{number}" for number in range(3)]


def test_the_environment_goes_first_and_the_settings_last(folder, tmp_path, monkeypatch):
    """A variable wins over its file, and that over `mds.toml`; the other keys of the section stay."""
    (folder / "KITE_API_KEY").write_text("of-the-file")
    (folder / "KITE_ACCESS_TOKEN").write_text("of-the-file")
    (folder / "MDS_HTTP__TOKEN").write_text("of-the-file")
    (tmp_path / "mds.toml").write_text('[http]\ntoken = "of-the-settings"\nlisten = "0.0.0.0:80"\n')
    monkeypatch.setenv("KITE_API_KEY", "of-the-environment")
    config = load()
    values = [config.api_key, config.access_token, config.http.token]
    assert [v.get_secret_value() for v in values] == ["of-the-environment", "of-the-file", "of-the-file"]
    assert config.http.listen == "0.0.0.0:80"


def test_a_file_that_is_overruled_is_not_even_read(folder, monkeypatch):
    """What is wrong with it is no matter then."""
    (folder / "KITE_API_KEY").write_text("")
    monkeypatch.setenv("KITE_API_KEY", "of-the-environment")
    assert load().api_key.get_secret_value() == "of-the-environment"


@pytest.mark.usefixtures("in_tmp_path")
@pytest.mark.parametrize("named", ["", "relative", "/nowhere/at/all"])
def test_without_a_folder_there_are_none(monkeypatch, named):
    """A container names the folder, whether or not anything is mounted there."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", named)
    assert read_secrets(GIVEN_VARIABLES) == {}
    assert load().api_key.get_secret_value() == ""


WRONG = {
    "empty": (b"", "it is empty"),
    "a line break": (b"\n", "it is empty"),
    "two lines": (f"{VALUE}\n{VALUE}\n".encode(), "it has white space in it"),
    "a blank": (f" {VALUE}".encode(), "it has white space in it"),
    "as in a shell": (f"KITE_API_KEY = {VALUE}".encode(), "it has white space in it"),
    "no text": (VALUE.encode() + b"\xff\xfe", "not a text"),
    "a zero": (VALUE.encode() + b"\0", "control characters"),
    "letters of another alphabet": (f"{VALUE}é".encode(), "others that are not ASCII"),
    "endless": (VALUE.encode() * 1000, "it is too long"),
}


@pytest.mark.parametrize(("content", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_can_be_no_secret_is_one_line(folder, content, said):
    """It names the file, the cause and the way out, and shows nothing of the content."""
    (folder / "mds_kite_api_key").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load()
    line = str(caught.value)
    assert line.startswith(f"{folder}/mds_kite_api_key: ")
    assert said in line
    assert line.endswith("it has to hold the secret alone, or not to be there")
    assert ("\n" in line, VALUE in line) == (False, False)


def test_what_is_no_file_holds_nobody(folder):
    """A folder, and a pipe that nobody writes to."""
    path = folder / "KITE_ACCESS_TOKEN"
    for make, undo in ((path.mkdir, path.rmdir), (lambda: os.mkfifo(path), path.unlink)):
        make()
        with pytest.raises(ConfigError, match=r"KITE_ACCESS_TOKEN: not a file; "):
            load()
        undo()


def test_a_link_to_nowhere(folder):
    """The reason is the system's."""
    (folder / "KITE_API_KEY").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"KITE_API_KEY: No such file or directory; it has to be readable"):
        load()


def test_a_folder_that_is_none(tmp_path, monkeypatch):
    """The variable is named, too."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"^CREDENTIALS_DIRECTORY: .*/file: Not a directory$"):
        load()


def test_two_files_for_one_secret(folder):
    """Nobody can tell which is meant."""
    (folder / "KITE_API_KEY").write_text(VALUE)
    (folder / "mds_KITE_API_KEY").write_text(VALUE)
    with pytest.raises(ConfigError, match=r"KITE_API_KEY and mds_KITE_API_KEY are both for KITE_API_KEY; remove one"):
        load()


def test_what_systemd_tells_the_supervisor_is_not_for_others():
    """Children, errands and the command of [notify] get none of it."""
    told = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "CREDENTIALS_DIRECTORY": "/c"}
    assert without_secrets(told | {"KITE_API_KEY": "k", "PATH": "/bin"}) == {"PATH": "/bin"}
