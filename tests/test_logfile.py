"""The log file: it rotates, and what cannot be written disturbs nobody."""

import errno
import logging
import os
import stat
import subprocess
import sys

import pytest

from pipeline import logfile
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.logfile import LogFile, log_files

DEADLINE_S = 20


@pytest.fixture
def path(tmp_path):
    return tmp_path / "logs" / "mds.log"


@pytest.fixture
def open_file(path):
    """Return a function that opens the file; it is closed afterwards."""
    opened = []

    def begin(max_bytes=2**20, keep=2):
        file = LogFile(path, max_bytes, keep)
        opened.append(file)
        return file

    yield begin
    for file in opened:
        file.close()


@pytest.fixture
def no_pause(monkeypatch):
    """Let each line be tried."""
    monkeypatch.setattr(logfile, "AGAIN_S", 0.0)


def say(file, text):
    file.handle(logging.makeLogRecord({"msg": text}))


def test_lines_are_appended(path, open_file):
    """File and folder are made, the file for this user only; what is in it stays."""
    say(open_file(), "one")
    say(open_file(), "two \udc80")
    assert path.read_text() == "one\ntwo \\udc80\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_rotates(path, open_file):
    """No file is larger than it may be, `keep` older ones stay, and the lines are in order; each is private."""
    file = open_file(max_bytes=100, keep=2)
    for number in range(100):
        say(file, f"{number:09d}")
    files = [path.with_name(f"mds.log{suffix}") for suffix in (".2", ".1", "")]
    assert sorted(path.parent.iterdir()) == sorted(files)
    assert max(each.stat().st_size for each in files) == 100
    assert "".join(each.read_text() for each in files).split() == [f"{number:09d}" for number in range(70, 100)]
    assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}


def test_a_line_may_be_larger_than_the_file(path, open_file):
    """It gets a file of its own."""
    file = open_file(max_bytes=10, keep=2)
    for letter in "ab":
        say(file, letter * 100)
    assert (path.stat().st_size, path.with_name("mds.log.1").stat().st_size) == (101, 101)


@pytest.mark.parametrize("remove", ["file", "folder", "moved"])
def test_another_is_begun_where_it_is_gone(path, open_file, remove, caplog):
    """Somebody removes the file, or its folder, or moves it away as logrotate does: nothing is written to nowhere."""
    file = open_file()
    say(file, "one")
    if remove == "moved":
        path.rename(path.with_name("elsewhere"))
    else:
        path.unlink()
    if remove == "folder":
        path.parent.rmdir()
    say(file, "two")
    assert path.read_text() == "two\n"
    assert caplog.records == []


@pytest.mark.usefixtures("no_pause")
def test_what_cannot_be_written_is_told_once(path, open_file, caplog):
    """A folder that has become a file: one error, and when it can be written again one line tells what is missing."""
    file = open_file()
    say(file, "one")
    aside = path.parent.rename(path.parent.with_name("aside"))
    path.parent.touch()
    for number in range(3):
        say(file, f"lost {number}")
    path.parent.unlink()
    aside.rename(path.parent)
    say(file, "two")
    say(file, "three")
    assert path.read_text() == "one\ntwo\nthree\n"
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert caplog.messages == [
        f"log.file: {path}: Not a directory; lines are on stderr alone until it can be written again",
        f"log.file: {path}: written again, 3 lines are missing in it",
    ]


def test_a_full_disk_is_left_alone_for_a_while(path, open_file, monkeypatch, caplog):
    """After a failure the disk is not tried with every line."""
    tries = []

    def full(*_):
        tries.append(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = open_file()
    monkeypatch.setattr(os, "write", full)
    for _ in range(5):
        say(file, "lost")
    assert len(tries) == 1
    assert f"log.file: {path}: No space left on device; lines are on stderr alone" in caplog.text


def test_no_half_of_a_line_stays(tmp_path):
    """Where the disk takes only some of a line, it is taken back; here the limit is one of the process."""
    code = f"""
import logging, resource, signal
from pathlib import Path
from pipeline import logfile
logfile.AGAIN_S = 0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
file = logfile.LogFile(Path({str(tmp_path / "mds.log")!r}), 2**20, 1)
def say(text):
    file.handle(logging.makeLogRecord(dict(msg=text)))
for _ in range(20):
    say("." * 29)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
say("again")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert (tmp_path / "mds.log").read_text() == ("." * 29 + "\n") * 3 + "again\n"
    assert done.stderr.count("File too large") == 1
    assert "written again, 17 lines are missing in it" in done.stderr


def test_a_wrong_log_call_harms_nobody(path, open_file, monkeypatch):
    """It is passed over, as everywhere."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    file = open_file()
    file.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
    say(file, "one")
    assert path.read_text() == "one\n"


def settings(**log):
    return Config().with_changes(log=log).resolved()


def test_no_file_unless_one_is_named():
    """By default there is none."""
    assert log_files(settings()) == []


@pytest.mark.parametrize("what", ["folder", "pipe", "below a file", "in the run folder"])
def test_what_can_be_no_log_file(tmp_path, what):
    """One line names the setting, the file and the cause; nothing hangs."""
    path, reason = tmp_path / "it", "not a regular file"
    run_dir = tmp_path / "run"
    if what == "folder":
        path.mkdir()
        reason = "Is a directory"
    elif what == "pipe":
        os.mkfifo(path)
        reason = "No such device or address"
    elif what == "below a file":
        path.touch()
        path, reason = path / "it", "Not a directory|File exists"
    else:
        path, reason = run_dir / "supervisor.log", "is in the run folder, where each process has its own log"
    config = settings(file=path).with_changes(runtime={"run_dir": run_dir})
    with pytest.raises(ConfigError, match=rf"^log\.file: {path}: ({reason}); name another"):
        log_files(config)
