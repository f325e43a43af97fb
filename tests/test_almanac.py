"""The sessions of the calendar, as exchange_calendars has them."""

import json
import subprocess
import sys
from datetime import date, datetime, timedelta

import pytest

from pipeline import almanac
from pipeline.almanac import AHEAD_DAYS, BACK_DAYS
from pipeline.config import CHILD_VARIABLE, Config, Market
from pipeline.errors import ConfigError
from pipeline.market import Almanac


def ask(calendar):
    """Run it as the supervisor does; return its exit code, its answer and its log."""
    settings = Config(market=Market(calendar=calendar))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.almanac"],
        env={CHILD_VARIABLE: settings.model_dump_json(), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_it_prints_the_sessions():
    """One line, with days, openings and closings, and until when they are known."""
    code, [answer], _ = ask("XBOM")
    found = Almanac.read(answer)
    assert code == 0
    assert found.known_from < found.known_until
    for day, (opens, closes) in found.sessions.items():
        assert found.known_from <= day <= found.known_until
        assert closes - opens > timedelta(minutes=30)


def test_a_calendar_that_there_is_not():
    """It says which, and ends with the code of a wrong setting."""
    code, [answer], log = ask("XNOWHERE")
    assert code == 2
    assert "market.calendar" in answer["error"]
    assert "'XNOWHERE'" in log


def test_days_and_hours():
    """Holidays are left out, times are those of the exchange."""
    found = almanac.read("XBOM", date(2026, 1, 20))
    assert date(2026, 1, 26) not in found.sessions  # Republic Day
    assert found.sessions[date(2026, 1, 23)] == (
        datetime.fromisoformat("2026-01-23T09:15:00+05:30"),
        datetime.fromisoformat("2026-01-23T15:30:00+05:30"),
    )
    assert found.known_from == date(2026, 1, 20) - timedelta(days=BACK_DAYS)
    assert found.known_until == date(2026, 1, 20) + timedelta(days=AHEAD_DAYS)


def test_a_calendar_that_ends():
    """It is known up to its last day; on a day after that nothing is, and nothing raises."""
    from exchange_calendars import get_calendar

    last = get_calendar("XBOM").bound_max().date()
    assert almanac.read("XBOM", last - timedelta(days=5)).known_until == last
    after = almanac.read("XBOM", last + timedelta(days=400))
    assert (after.sessions, after.known_until) == ({}, last)


def test_an_empty_name_is_none():
    """The supervisor does not ask for it."""
    with pytest.raises(ConfigError, match=r"market\.calendar"):
        almanac.read("", date(2026, 1, 20))
