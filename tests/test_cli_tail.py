"""`mds tail`: which ticks it prints, how, and when it ends."""

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import time
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.files import tick_file_name
from tests.builders import DAY
from tests.tick_lines import INFY, KOLKATA, RELIANCE, full, ltp, quote

COMMAND = [sys.executable, "-m", "pipeline", "tail"]
DEADLINE_S = 20
PIPE_BYTES = 65536  # that Linux lets wait in a pipe


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with a data folder in it, and no settings from outside."""
    for name in [name for name in os.environ if name.startswith(("MDS_", "KITE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "market_data").mkdir()
    return tmp_path / "market_data"


@pytest.fixture
def file(folder):
    """A file with ticks in it."""
    path = folder / tick_file_name(DAY)
    path.write_bytes(b"".join(ltp(seq) for seq in range(1, 16)) + quote(16) + full(1))
    return path


def tail(*arguments):
    return CliRunner().invoke(cli, ["tail", *arguments])


def start(*arguments, **options):
    return subprocess.Popen([*COMMAND, *arguments], **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options})


def waiting(pipe):
    """Return how many bytes are in a pipe."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


def until(condition, what):
    give_up_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < give_up_s, what
        time.sleep(0.01)


@pytest.mark.usefixtures("file")
def test_the_last_ticks_for_people():
    """Time, instrument, mode, price, and as far as the tick has them change, volume, best bid and offer."""
    done = tail("--no-follow", "--lines", "3")
    assert done.exit_code == 0
    assert done.output == (
        "2025-10-01 09:10:14.000  408065  ltp    1,502.1429\n"
        "2025-10-01 09:10:15.000  408065  quote    1,504.35    +0.52%  vol 1,234,567\n"
        "2025-10-01 09:10:00.000  738561  full     1,504.35    +0.52%  vol 1,234,567  "
        "bid 1,504.30 x 100  ask 1,504.40 x 50\n"
    )


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ([], [*(ltp(seq) for seq in range(8, 16)), quote(16), full(1)]),
        (["--lines", "2", str(INFY)], [ltp(15), quote(16)]),
        (["--lines", "3", "--mode", "QUOTE", "--mode", "full"], [quote(16), full(1)]),
        (["--lines", "0"], []),
        (["5"], []),
        (["NSE:RELIANCE", "infy", "--lines", "2"], [quote(16), full(1)]),
    ],
)
@pytest.mark.usefixtures("file")
def test_the_last_ticks_as_they_are_stored(folder, arguments, lines):
    """Ten of them unless told otherwise; chosen by token, symbol and mode."""
    (folder / "instruments_2025-10-01.csv").write_text(
        "instrument_token,tradingsymbol,exchange\n408065,INFY,NSE\n738561,RELIANCE,NSE\n"
    )
    done = tail("--no-follow", "--json", *arguments)
    assert (done.exit_code, done.stdout_bytes) == (0, b"".join(lines))


@pytest.mark.usefixtures("file")
def test_symbols_are_shown_where_they_are_known(folder):
    """Tokens else."""
    (folder / "instruments_2025-10-01.csv").write_text("instrument_token,tradingsymbol,exchange\n408065,INFY,NSE\n")
    names = [line.split()[2] for line in tail("--no-follow", "--lines", "2").output.splitlines()]
    assert names == ["NSE:INFY", str(RELIANCE)]


def test_all_of_today(folder):
    """What earlier days have is left out."""
    (folder / tick_file_name(DAY)).write_bytes(ltp(1))
    (folder / tick_file_name(datetime.now(KOLKATA).date())).write_bytes(ltp(2) * 2 + b"rubbish\n" + ltp(3))
    done = tail("--no-follow", "--json", "--from-start")
    assert (done.exit_code, done.stdout_bytes) == (0, ltp(2) + ltp(3))


def test_what_a_tick_of_others_has_is_shown_as_far_as_it_goes(folder):
    """Nothing in a line breaks the output, or the terminal."""
    (folder / tick_file_name(DAY)).write_bytes(
        b'{"instrument_token":1,"connection_id":1,"epoch":1,"seq":1,"mode":"\\u001b[2J","timestamp":"","depth":{},'
        b'"last_price":null,"change":"much","volume_traded":[]}\n'
        b'{"instrument_token":1,"connection_id":1,"epoch":1,"seq":2,"mode":"","timestamp":"","depth":{"buy":[{}]}}\n'
    )
    done = tail("--no-follow")
    assert (done.exit_code, done.output.count("\n"), "\x1b" in done.output) == (0, 2, False)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--no-follow"], 1, "market_data: there is no market_data_YYYY-MM-DD.jsonl yet"),
        (["INFY"], 2, "no list of instruments"),
        (["--lines", "5", "--from-start"], 2, "cannot go together"),
        (["--mode", "depth"], 2, "depth"),
        (["0"], 2, "not an instrument token"),
    ],
)
def test_what_cannot_be_done(arguments, code, told):
    """Is told with the exit code for it, without a traceback."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_it_goes_on_until_interrupted(folder):
    """It waits for the first file, prints what comes as it comes, and ends with exit code 0 and not a word."""
    running = start("--json")
    assert b"waiting for it" in running.stderr.readline()
    path = folder / tick_file_name(DAY)
    path.write_bytes(ltp(1))
    assert running.stdout.readline() == ltp(1)
    with path.open("ab") as file:
        file.write(ltp(2) + full(1)[:20])
    assert running.stdout.readline() == ltp(2)
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=DEADLINE_S) == (b"", b"")
    assert running.returncode == 0


@pytest.mark.parametrize("when", ["idle", "busy"])
def test_it_ends_when_nobody_reads(file, when):
    """As soon as it is noticed, even without a tick; exit code 0 and not a word."""
    running = start("--json", "--lines", "1")
    assert running.stdout.readline() == full(1)
    running.stdout.close()
    if when == "busy":
        with file.open("ab") as ticks:
            ticks.write(b"".join(ltp(seq) for seq in range(17, 10_000)))
    assert running.wait(DEADLINE_S) == 0
    assert running.stderr.read() == b""
    running.stderr.close()


def test_a_reader_that_takes_its_time(file):
    """What is not read yet waits in the file, not in memory; all of it comes."""
    running = start("--json", "--lines", "1")
    assert running.stdout.readline() == full(1)
    statm = Path(f"/proc/{running.pid}/statm")
    before = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    lines, last = [quote(seq) for seq in range(20, 60_000)], full(2)
    with file.open("ab") as ticks:
        ticks.write(b"".join(lines) + last)
    until(lambda: waiting(running.stdout) > PIPE_BYTES - 4096, "the pipe is full")
    grown = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") - before
    assert grown < sum(map(len, lines)) / 4
    assert list(iter(running.stdout.readline, last)) == lines
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=DEADLINE_S) == (b"", b"")
