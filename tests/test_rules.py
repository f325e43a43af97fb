"""`pipeline.rules`: the notations of derivatives and of sessions."""

from datetime import date, time

import pytest

from pipeline.rules import Rule, Session, parse_rule, parse_session


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("NFO:NIFTY:options:weekly:2", ("NFO", "NIFTY", "options", "weekly", 0, 2, "quote")),
        ("nfo:banknifty:options:monthly+1:0:full", ("NFO", "BANKNIFTY", "options", "monthly", 1, 0, "full")),
        ("MCX:GOLD:futures:monthly", ("MCX", "GOLD", "futures", "monthly", 0, 0, "quote")),
        ("NFO:M&M:futures:monthly+2:ltp", ("NFO", "M&M", "futures", "monthly", 2, 0, "ltp")),
    ],
)
def test_a_rule_is_read(text, rule):
    """Each part comes out as what it means, the names in capitals."""
    assert parse_rule(text) == Rule(text, *rule)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "is no rule"),
        ("NFO:NIFTY", "is no rule"),
        ("NFO:NIFTY:swaps:weekly:2", "is no rule"),
        ("NFO:NIFTY:options:weekly", "is no rule"),
        ("NFO::options:weekly:2", "is no rule"),
        ("NFO:NIFTY:options:weekly:2:full:x", "is no rule"),
        ("NFO:NIFTY:options:daily:2", "'daily' is no expiry"),
        ("NFO:NIFTY:options:weekly+21:2", "is no expiry"),
        ("NFO:NIFTY:options:weekly:-1", "'-1' is no number of strikes"),
        ("NFO:NIFTY:options:weekly:201", "is no number of strikes"),
        ("NFO:NIFTY:options:weekly:two", "is no number of strikes"),
        ("NFO:NIFTY:options:weekly:2:depth", "'depth' is no mode"),
        ("NFO:NIFTY:futures:monthly:2", "'2' is no mode"),
    ],
)
def test_what_is_no_rule(text, cause):
    """Each part that is wrong is named."""
    with pytest.raises(ValueError, match=cause):
        parse_rule(text)


def test_a_session_is_read():
    """Day, opening and closing."""
    assert parse_session("2026-11-08 18:00-19:15") == Session(date(2026, 11, 8), time(18), time(19, 15))


@pytest.mark.parametrize("text", ["", "2026-11-08", "2026-13-08 18:00-19:15", "2026-11-08 18:00-17:00", "x"])
def test_what_is_no_session(text):
    """It is said how one is written."""
    with pytest.raises(ValueError, match="is no session, which is written"):
        parse_session(text)
