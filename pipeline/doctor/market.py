"""What the recorder knows of the market: when it is open, and the list of instruments."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple

import orjson

from pipeline.config import CHILD_VARIABLE, Config
from pipeline.doctor.finding import Check, Finding
from pipeline.market import WARNED_DAYS

AREA = "market"
HOURS = Check(AREA, "market_hours")
LIST = Check(AREA, "instrument_list")

ASK_S = 6.0
UPGRADE = "pip install --upgrade exchange_calendars"
_LIST_FILE = re.compile(r"instruments_(\d{4}-\d{2}-\d{2})\.csv(\.gz|\.zst)?")


class Almanac(NamedTuple):
    """What the calendar of the exchange knows, in ascending order."""

    sessions: list[tuple[datetime, datetime]]  # opening and closing
    known_until: date


def gather(config: Config) -> Almanac:
    """Ask the calendar, in a process of its own: it takes time and memory. Raises OSError, and what `parse` raises."""
    settings = config.with_changes(http={"listen": ""})  # its token is not for that process
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KITE_", "MDS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.almanac"],
        env=environment | {CHILD_VARIABLE: settings.model_dump_json()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=ASK_S,
        check=False,
    )
    if done.returncode and not done.stdout:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(lines[-1] if lines else f"exit code {done.returncode}")
    return parse(done.stdout)


def parse(answer: bytes) -> Almanac:
    """Read what the calendar's process prints. Raises ValueError, or LookupError or TypeError where it is no answer."""
    found = orjson.loads(answer)
    if "error" in found:
        raise ValueError(found["error"])
    sessions = [
        (datetime.fromisoformat(opens), datetime.fromisoformat(closes)) for _, opens, closes in found["sessions"]
    ]
    return Almanac(sorted(sessions), date.fromisoformat(found["known_until"]))


def judge_hours(calendar: str, almanac: Almanac | None, now: datetime) -> Finding:
    """Judge whether it is known when the market is open; without a calendar it always is."""
    if almanac is None:
        return HOURS.ok("market.calendar names none: every hour counts as open")
    zone = now.tzinfo
    current = next((session for session in almanac.sessions if session[0] <= now < session[1]), None)
    following = next((opens for opens, _ in almanac.sessions if opens > now), None)
    if current:
        what = f"{calendar} is open until {current[1].astimezone(zone):%H:%M}"
    else:
        what = f"{calendar} is closed" + (f" until {following.astimezone(zone):%a %d %b %H:%M}" if following else "")
    what += f"; its calendar goes to {almanac.known_until}"
    if almanac.known_until - now.date() < timedelta(days=WARNED_DAYS):
        why = "after that every weekday counts as a trading day, holidays too: then there are false alarms"
        return HOURS.warning(what, why, UPGRADE)
    return HOURS.ok(what)


def judge_fault(calendar: str, error: Exception) -> Finding:
    """Judge that the calendar says nothing."""
    why = "nobody knows whether ticks are missed or the market is closed"
    return HOURS.warning(f"the calendar {calendar} cannot be asked: {error}", why, f"see market.calendar; {UPGRADE}")


def list_day(names: Iterable[str]) -> date | None:
    """Return the day of the newest list of instruments among these file names."""
    days = [found[1] for name in names if (found := _LIST_FILE.fullmatch(name))]
    return date.fromisoformat(max(days)) if days else None


def gather_list(data_dir: Path) -> date | None:
    """Return the day of the newest list of instruments that is kept, None if there is none."""
    return list_day(path.name for path in data_dir.iterdir()) if data_dir.is_dir() else None


def judge_list(day: date | None, now: datetime, sync_at: time, *, is_needed: bool) -> Finding:
    """Judge the list by its day; it `is_needed` where the settings name instruments by symbols or rules."""
    todo = "mds instruments sync"
    if day is None:
        what = "there is no list of instruments yet"
        why = "symbols cannot be resolved to the tokens that Kite knows"
        if is_needed:
            return LIST.failure(what, f"{why}, and the settings name some", todo)
        return LIST.warning(what, why, todo)
    expected = now.date() if now.time() >= sync_at else now.date() - timedelta(days=1)
    if day >= expected:
        return LIST.ok(f"of {day}")
    why = "tokens are given to other instruments in time, and new contracts are not in it"
    return LIST.warning(f"the newest list of instruments is of {day}", why, f"{todo}; a running service does it daily")


def needs_list(config: Config) -> bool:
    """Tell whether the settings name instruments other than by token."""
    universe = config.universe
    return bool(universe.select) or any(isinstance(word, str) for word in (*universe.primary, *universe.secondary))
