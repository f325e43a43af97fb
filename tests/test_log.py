"""Log lines: no secret in them, and nobody waits for them."""

import json
import logging
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, quote_plus
from zoneinfo import ZoneInfo

import orjson
import pytest
from pydantic import SecretStr

from pipeline import log
from pipeline.config import Config
from pipeline.log import HIDDEN, Formatter, redact, redact_all

KEY, TOKEN = "k3yk3yk3yk3yk3y", "t0k+n/t0ken=t0k n%"
SECRETS = (KEY, TOKEN)
DEADLINE_S = 20
WARNING = os.environ | {"PYTHONWARNINGS": "always"}


def formatted(message, *args, exc_info=None, style="text", **attributes):
    """Return what is shown of a record; of a text without time, level and process."""
    record = logging.LogRecord("any", logging.INFO, "file.py", 1, message, args, exc_info)
    record.__dict__.update(attributes)
    secrets = {"api_key": SecretStr(KEY), "access_token": SecretStr(TOKEN)}
    line = Formatter(Config().with_changes(log={"format": style}).model_copy(update=secrets), "any").format(record)
    return line if style == "json" else line.partition("any: ")[2]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"the token is {TOKEN}.", f"the token is {HIDDEN}."),
        (f"{TOKEN}{TOKEN}", f"{HIDDEN}{HIDDEN}"),
        (f"path /a/{quote(TOKEN, safe='')}/b", f"path /a/{HIDDEN}/b"),
        (f"form {quote_plus(TOKEN)}", f"form {HIDDEN}"),
        ("wss://h/?api_key=unknown&access_token=other HTTP", f"wss://h/?api_key={HIDDEN}&access_token={HIDDEN} HTTP"),
        ("https://h/?request_token=abc", f"https://h/?request_token={HIDDEN}"),
        ("{'access_token': 'other', 'user': 'AB1'}", f"{{'access_token': '{HIDDEN}', 'user': 'AB1'}}"),
        ('{"api_secret":"other","user":"AB1"}', f'{{"api_secret":"{HIDDEN}","user":"AB1"}}'),
        ("Authorization: token abc:def", f"Authorization: token {HIDDEN}"),
        ("{'Authorization': 'token abc:def'}", f"{{'Authorization': 'token {HIDDEN}'}}"),
        ("authorization token abc:def next", f"authorization token {HIDDEN} next"),
        ("12 instruments are subscribed", "12 instruments are subscribed"),
    ],
)
def test_secrets_are_blanked(text, shown):
    """Known secrets, in any spelling, and whatever Kite's URLs and headers carry as one, become ***."""
    assert formatted("%s", text) == shown
    assert redact(text, iter(SECRETS)) == shown


def test_the_longer_secret_goes_first():
    """Where one secret is part of another, no rest of the longer one stays."""
    assert redact("abcdef abc", ["abc", "abcdef"]) == f"{HIDDEN} {HIDDEN}"


@pytest.mark.parametrize("spell", [str, repr, json.dumps])
def test_a_secret_in_quotes_is_blanked(spell):
    """The token of the HTTP API may have any printable characters, and Python and JSON spell some in another way."""
    secret = r"""a"b\c'd"""  # noqa: S105  a made-up one
    assert "b" not in redact(f"it is {spell(secret)}", [secret])


def test_an_empty_secret_hides_nothing():
    """Credentials that are not set do not tear lines apart."""
    assert redact("a line", ["", ""]) == "a line"


def test_a_traceback_is_blanked_with_its_causes():
    """An exception is logged with its chain, and none of its messages shows a secret."""
    try:
        try:
            raise ValueError(f"no connection to wss://h/?access_token={TOKEN}")
        except ValueError as error:
            raise RuntimeError(f"gave up with {KEY}") from error
    except RuntimeError:
        text = formatted("failed: %r", {"key": KEY}, exc_info=sys.exc_info())
    assert "ValueError" in text
    assert "RuntimeError" in text
    assert KEY not in text
    assert TOKEN not in text


PRINTING = """
import logging, os, sys, warnings
from pathlib import Path
from pydantic import SecretStr
from pipeline import log
from pipeline.config import Config
from pipeline.printing import QUEUED_LINES, Printing
config = Config().with_changes(**dict({changes})).model_copy(update={{"access_token": SecretStr("s3cret")}})
log.setup(config, "supervisor")
printing = Printing()
"""
OURS = "logging.getLogger('pipeline.any')"


def run_python(code, changes=None, **options):
    made = PRINTING.format(changes=changes or {}) + code
    return subprocess.Popen([sys.executable, "-c", made], text=True, **options)


def printed(code, changes=None, **options):
    """Return the lines on stderr of a process that logs like the supervisor."""
    process = run_python(code + "\nassert printing.finish()\n", changes, stderr=subprocess.PIPE, **options)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return err.splitlines()


def test_a_line_has_time_level_and_process():
    """The time is that of storage.timezone, whatever the machine's is; no secret is in the line."""
    code = f"{OURS}.warning('own %s', 's3cret')"
    began = datetime.now(UTC).replace(microsecond=0)
    (line,) = printed(code, {"storage": {"timezone": "Asia/Kathmandu"}}, env=os.environ | {"TZ": "America/Lima"})
    time, rest = line[:23], line[23:]
    assert rest == " WARNING supervisor: own ***"
    said = datetime.strptime(time, "%Y-%m-%d %H:%M:%S,%f").replace(tzinfo=ZoneInfo("Asia/Kathmandu"))
    assert began <= said <= datetime.now(UTC)


def test_a_traceback_is_indented():
    """Its lines cannot be taken for facts, and have no secret; whoever logs may bring it as text."""
    try:
        raise ValueError(f"{TOKEN}\n2026-01-01 00:00:00,000 ERROR   writer: \rforged")
    except ValueError:
        first, *lines = formatted("broken", exc_info=sys.exc_info()).split("\n")
    assert first == "broken"
    assert lines[-2:] == ["    ValueError: ***", r"    2026-01-01 00:00:00,000 ERROR   writer: \rforged"]
    assert all(line.startswith("    ") for line in lines)
    assert formatted("told", traceback="one\ntwo\n") == "told\n    one\n    two"


def test_nobody_forges_a_line():
    """What would end a line or move a cursor is escaped, lone surrogates of file names too; other letters stay."""
    assert (
        formatted("%s", "no\n2026-01-01 ERROR   writer: x\r\x1b[2J\x85\u2028\u202e\udc80 \u20b9 caf\u00e9")
        == r"no\n2026-01-01 ERROR   writer: x\r\x1b[2J\x85\u2028\u202e\udc80 " + "\u20b9 caf\u00e9"
    )


def test_nobody_forges_a_line_of_json():
    """Nor with what JSON leaves as it is: a reader of lines, or a terminal, may take it for more than a letter."""
    text = "no\n\r\x1b[2J\x7f\x85\x9b2J\u2028\u202e \U000e0001\u20b9 caf\u00e9"
    line = formatted("%s", text, style="json")
    assert (line.isprintable(), orjson.loads(line)["message"]) == (True, text)
    assert "\u20b9 caf\u00e9" in line


def test_json_has_a_line_for_each_record():
    """Each is an object with the same fields, and `exception` where there is one; nothing in it is a secret."""
    try:
        raise ValueError(KEY)
    except ValueError:
        broken = formatted("broken", exc_info=sys.exc_info(), style="json")
    said = orjson.loads(formatted("own %s\n", f"{TOKEN} \udc80", style="json"))
    time = datetime.fromisoformat(said.pop("time"))
    assert time.utcoffset() == timedelta(hours=5.5)
    assert abs(time - datetime.now(UTC)) < timedelta(minutes=5)
    about = {"level": "info", "process": "any", "pid": os.getpid(), "logger": "any"}
    assert said == about | {"message": "own *** \\udc80\n"}
    assert "\n" not in broken
    said = orjson.loads(broken)
    assert said.pop("exception").endswith("ValueError: ***")
    assert {key: said[key] for key in said if key != "time"} == about | {"message": "broken"}


def test_the_level_is_ours():
    """What matters less is left out; libraries never say more than info, for at debug some tell whole URLs."""
    code = """
for level in ("debug", "info", "warning", "error"):
    log.setup(config.with_changes(log={"level": level}), level)
    for name in ("pipeline.any", "urllib3"):
        for number in (10, 20, 30, 40):
            logging.getLogger(name).log(number, "%s", name)
"""
    lines = [line.split()[2:] for line in printed(code)]
    ours = {"debug": "DEBUG INFO WARNING ERROR", "info": "INFO WARNING ERROR", "warning": "WARNING ERROR"}
    expected = []
    for level in ("debug", "info", "warning", "error"):
        words = ours.get(level, "ERROR").split()
        expected += [[word, f"{level}:", "pipeline.any"] for word in words]
        expected += [[word, f"{level}:", "urllib3"] for word in words if word != "DEBUG"]
    assert lines == expected


def test_a_warning_of_python_is_logged():
    """It is one line like others."""
    (line,) = printed("warnings.warn('s3cret is old', DeprecationWarning, stacklevel=1)", env=WARNING)
    assert " WARNING supervisor: DeprecationWarning: *** is old (<string> line " in line


@pytest.mark.parametrize("is_connected", [True, False])
@pytest.mark.parametrize("style", ["text", "json"])
def test_the_journal_is_told_the_priority(tmp_path, style, is_connected):
    """Where stderr is the journal's each line begins with its priority, and a text has no time of its own."""
    code = f"""
for level in (10, 20, 30, 40, 50):
    {OURS}.log(level, "at %d", level)
{OURS}.error("with", extra={{"traceback": "one"}})
"""
    with (tmp_path / "journal").open("w+") as journal:
        stat = os.fstat(journal.fileno())
        stream = f"{stat.st_dev}:{stat.st_ino if is_connected else stat.st_ino + 1}"
        changes = {"log": {"level": "debug", "format": style}}
        process = run_python(
            code + "printing.finish()", changes, stderr=journal, env=os.environ | {"JOURNAL_STREAM": stream}
        )
        assert process.wait(DEADLINE_S) == 0
        journal.seek(0)
        lines = journal.read().splitlines()
    if not is_connected:
        assert not any(line.startswith("<") for line in lines)
    elif style == "json":
        assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>", "<3>"]
        assert orjson.loads(lines[0][3:])["message"] == "at 10"
    else:
        assert lines == [
            "<7>DEBUG   supervisor: at 10",
            "<6>INFO    supervisor: at 20",
            "<4>WARNING supervisor: at 30",
            "<3>ERROR   supervisor: at 40",
            "<2>CRITICAL supervisor: at 50",
            "<3>ERROR   supervisor: with",
            "<3>    one",
        ]


def test_what_other_processes_say():
    """A record that is handed on looks as if it had been logged here, with its own time; level and secrets hold.

    A finished line of an older version is taken apart.
    """
    code = """
import orjson
who = {"type": "log", "role": "worker-1", "pid": 4321}
record = logging.makeLogRecord({"name": "pipeline.kite", "levelno": 30, "levelname": "WARNING", "msg": "a\\nb",
                                "created": 1e9, "traceback": "where"})
log.show(orjson.loads(orjson.dumps(who | log.fields(record, []))))
log.show(who | {"created_s": 1e9, "level": "WARNING", "logger": "urllib3", "message": "s3cret"})
log.show(who | {"created_s": 1e9, "level": "INFO", "logger": "pipeline", "message": "too little"})
log.show(who | {"line": "2025-10-01 09:15:00,000 ERROR   worker-1: hello s3cret\\nTraceback"})
log.show(who | {"line": "2025-10-01 09:15:00,000 INFO    worker-1: too little"})
for rubbish in ({}, {"level": "x", "logger": "x", "message": "x"}, {"line": 5}, {"level": [], "message": ""}):
    try:
        log.show(who | rubbish)
    except (KeyError, TypeError, ValueError):
        continue
    raise AssertionError(rubbish)
"""
    lines = printed(code, {"log": {"level": "warning"}})
    assert lines[:3] == [
        "2001-09-09 07:16:40,000 WARNING worker-1: a\\nb",
        "    where",
        "2001-09-09 07:16:40,000 WARNING worker-1: ***",
    ]
    assert lines[3].endswith(" ERROR   worker-1: hello ***")
    assert lines[4:] == ["    Traceback"]


def test_what_is_logged_is_told_as_it_was_then():
    """A thread prints later: what is changed meanwhile does not show."""
    code = f"words = ['then']\n{OURS}.info('%s', words)\nwords[0] = 'later'"
    (line,) = printed(code)
    assert line.endswith("['then']")


def test_the_log_in_the_run_folder_stays_short(tmp_path):
    """A process whose stderr is its own log there begins it anew when it is large, and keeps one; nothing is lost."""
    own = tmp_path / "supervisor.log"
    code = f"""
print("on stdout", flush=True)
for number in range(30_000):
    {OURS}.info("line %d %s", number, "." * 60)
    if number % 1000 == 0:  # nothing is to be dropped
        assert printing.finish()
        log.setup(config, "supervisor")
        printing = Printing()
assert printing.finish()
print("at last")
"""
    with own.open("ab") as output:
        changes = f"{{'runtime': {{'run_dir': Path({str(tmp_path)!r})}}}}"
        process = run_python(code, changes, stdout=output, stderr=output)
        assert process.wait(DEADLINE_S) == 0
    before = tmp_path / "supervisor.log.1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["supervisor.log", "supervisor.log.1"]
    assert stat.S_IMODE(own.stat().st_mode) == 0o600
    assert max(own.stat().st_size, before.stat().st_size) < log.OWN_LOG_BYTES + 1000
    told = (before.read_text() + own.read_text()).splitlines()
    assert told.pop() == "at last"
    numbers = [int(line.split()[5]) for line in told]
    assert numbers == list(range(numbers[0], 30_000))


def test_a_pipe_that_nobody_reads_stops_nobody():
    """With stderr full, logging returns, lines beyond the queue are dropped, and the process can end."""
    code = """
for number in range(30_000):
    logging.getLogger("pipeline.any").info("line %d of many that nobody reads", number)
print("logged", flush=True)
stuck = not printing.finish()
print("stuck" if stuck else "printed", flush=True)
os._exit(0)
"""
    unread, stderr = os.pipe()
    try:
        process = run_python(code, stdout=subprocess.PIPE, stderr=stderr)
        os.close(stderr)
        out, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        os.close(unread)
    assert out.split() == ["logged", "stuck"]
    assert process.returncode == 0


def test_what_was_dropped_is_counted():
    """When there is room again a line tells how many are missing; each handler has a thread of its own."""
    code = f"""
import threading, time
class Slow(logging.Handler):
    def emit(self, record):
        go.wait()
        seen.append(record.getMessage())
go, seen = threading.Event(), []
log.setup(config, "supervisor", Slow())
printing = Printing()
for number in range(QUEUED_LINES + 100):
    {OURS}.info("%d", number)
    time.sleep(number % 1000 == 999 and 0.1)  # for the thread of stderr
go.set()
while len(seen) < QUEUED_LINES:
    time.sleep(0.01)
{OURS}.info("last")
while seen[-1] != "last":
    time.sleep(0.01)
missing = int(seen[-2].split()[0])
assert "lines are missing here" in seen[-2], seen[-2]
assert len(seen) - 2 + missing == QUEUED_LINES + 100, (len(seen), missing)
"""
    lines = [line.rpartition(" ")[2] for line in printed(code)]
    assert "last" in lines


def test_a_closed_stderr_is_no_error():
    """A terminal that has gone away must not end a recording, nor be complained about."""
    code = """
for _ in range(10):
    logging.getLogger("pipeline.any").info("into the void")
assert printing.finish()
print("on")
"""
    unread, stderr = os.pipe()
    os.close(unread)
    process = run_python(code, stdout=subprocess.PIPE, stderr=stderr)
    os.close(stderr)
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert out == "on\n"


def test_secrets_within_a_json_value_are_blanked_and_its_numbers_kept():
    """What an event carries is redacted text by text: a secret of digits must not eat a token or a number."""
    value = {"data": {"message": "no such token 12345", "codes": [12345, "12345"]}, "instruments": [12345], "n": 12345}
    assert redact_all(value, ["12345"]) == {
        "data": {"message": "no such token ***", "codes": [12345, "***"]},
        "instruments": [12345],
        "n": 12345,
    }


def test_a_supervisor_that_fails_says_so(tmp_path):
    """Its traceback goes where all lines go, without a secret, and the exit code tells."""
    code = """
import asyncio, sys
from pipeline.cli import main
from pipeline.supervisor.supervisor import Supervisor
async def fail(*_):
    raise RuntimeError("with t0ken-s3cret")
Supervisor.run = fail
sys.argv = ["mds", "run"]
main()
"""
    variables = {
        "KITE_API_KEY": "k3y-s3cret",
        "KITE_ACCESS_TOKEN": "t0ken-s3cret",
        "MDS_STORAGE__DATA_DIR": str(tmp_path / "data"),
        "MDS_RUNTIME__RUN_DIR": str(tmp_path / "run"),
        "MDS_LOG__FILE": str(tmp_path / "mds.log"),
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert " ERROR   supervisor: the supervisor has failed; what it has started goes on recording\n" in done.stderr
    assert done.stderr.endswith("    RuntimeError: with ***\n")
    assert (tmp_path / "mds.log").read_text() == done.stderr
