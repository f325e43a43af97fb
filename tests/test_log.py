"""Log lines: no secret in them, and nobody waits for them."""

import logging
import os
import subprocess
import sys
from urllib.parse import quote, quote_plus

import pytest

from pipeline.log import HIDDEN, RedactingFormatter, redact, redact_all

KEY, TOKEN = "k3yk3yk3yk3yk3y", "t0k+n/t0ken=t0k n%"
SECRETS = (KEY, TOKEN)
DEADLINE_S = 20


def formatted(message, *args, exc_info=None):
    record = logging.LogRecord("any", logging.INFO, "file.py", 1, message, args, exc_info)
    return RedactingFormatter(SECRETS, "%(message)s").format(record)


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
import logging, os, sys
from pipeline import log
log.setup("supervisor", ["s3cret"])
printing = log.print_from_thread("relayed")
"""


def run_python(code, **options):
    return subprocess.Popen([sys.executable, "-c", PRINTING + code], text=True, **options)


def test_lines_of_other_processes_are_printed_as_they_are():
    """A relayed line is not dressed up a second time; our own get time, level and role, and no secret."""
    code = """
logging.getLogger("relayed").info("%s", "2025-10-01 09:15:00,000 INFO    writer: hello")
logging.getLogger("pipeline.any").warning("own %s", "s3cret")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("pipeline.any").exception("s3cret")
assert printing.finish()
"""
    _, printed = run_python(code, stderr=subprocess.PIPE).communicate(timeout=DEADLINE_S)
    lines = printed.splitlines()
    assert lines[0] == "2025-10-01 09:15:00,000 INFO    writer: hello"
    assert lines[1].endswith(" WARNING supervisor: own ***")
    assert "ZeroDivisionError: division by zero" in lines
    assert "s3cret" not in printed


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
