"""The sessions of the market's calendar, as exchange_calendars has them: a process of its own.

    {"sessions": [["2026-11-20", "2026-11-20T03:45:00+00:00", "2026-11-20T10:00:00+00:00"], ...],
     "known_from": "2026-11-11", "known_until": "2026-12-31"}

is the line that it prints, or {"error": text}. It takes half a second and a hundred megabytes to import, which nobody
else is to carry. The holidays of some exchanges are known in advance only for the years that the installed version of
exchange_calendars was made for; then `known_until` is the last day of these.
"""

import logging
import sys
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from pipeline import config, log, role
from pipeline.errors import ConfigError, MdsError
from pipeline.market import Almanac

NAME = "almanac"
BACK_DAYS, AHEAD_DAYS = 10, 60

logger = logging.getLogger("pipeline.almanac")  # not __main__, as which it is run


def read(calendar: str, today: date) -> Almanac:
    """Return the sessions around a day. Raises ConfigError where there is no such calendar."""
    import exchange_calendars  # noqa: PLC0415  see above
    from exchange_calendars.errors import InvalidCalendarName  # noqa: PLC0415

    try:
        found = exchange_calendars.get_calendar(calendar)
    except InvalidCalendarName:
        raise ConfigError(
            f'market.calendar: exchange_calendars knows no {calendar!r}; XBOM is India\'s, "" is a market without hours'
        ) from None
    first, last = today - timedelta(days=BACK_DAYS), today + timedelta(days=AHEAD_DAYS)
    known_until = min(last, found.default_end().date())
    # Labels are days without a zone. Beyond its bounds a calendar raises, a slice of its schedule does not.
    rows = found.schedule.loc[first.isoformat() : known_until.isoformat()]
    sessions = {
        label.date(): (_utc(opens), _utc(closes))
        for label, opens, closes in zip(rows.index, rows["open"], rows["close"], strict=True)
    }
    return Almanac(sessions, first, known_until)


def _utc(moment: Any) -> datetime:
    found: datetime = moment.to_pydatetime()
    return found.astimezone(UTC)


def main() -> int:
    """Print the sessions of the configured calendar; return the exit code."""
    settings = config.from_child()
    role.end_with_parent()
    log.setup(settings, NAME)
    try:
        today = datetime.now(ZoneInfo(settings.storage.timezone)).date()
        answer = read(settings.market.calendar, today).fields()
    except MdsError as error:
        logger.error("%s", error)
        _tell({"error": str(error)})
        return error.exit_code
    _tell(answer)
    return 0


def _tell(fields: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(fields) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
