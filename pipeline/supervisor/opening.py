"""Market hours in the running service: learns what the calendar says, and opens and closes connections by the clock.

Outside the window that `market.connect` and `market.disconnect` name, workers are told to want nothing: connections
close in order, and who is subscribed where stays. What was missed by who was not up when the window opened is a gap as
any other; the time between two windows is none.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

import orjson

from pipeline import almanac, readable
from pipeline.config import CONNECTIONS, Config
from pipeline.market import WARNED_DAYS, Almanac, Hours, Window
from pipeline.supervisor import errand
from pipeline.supervisor.board import Board
from pipeline.supervisor.desk import Desk
from pipeline.supervisor.saved import Saved, assigned
from pipeline.supervisor.saved import window as window_of
from pipeline.supervisor.subscriptions import Subscriptions

log = logging.getLogger(__name__)

MODULE = "pipeline.almanac"  # python -m ...
LOOK_S = 60.0
AGAIN_S = 3600.0  # after a failure
FILE_NAME = "almanac.json"  # in the run folder: what was answered last, for the beginning of the next run
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


class Opening:
    """`clock` is the wall clock in the storage time zone, `log_event` takes an event and its fields."""

    def __init__(
        self,
        config: Config,
        subscriptions: Subscriptions,
        board: Board,
        desk: Desk,
        *,
        clock: Callable[[], datetime],
        log_event: Callable[[str, dict[str, Any]], object],
    ) -> None:
        self._config = config
        self._subscriptions = subscriptions
        self._board = board
        self._desk = desk
        self._clock = clock
        self._log_event = log_event
        self._planned_from = clock()  # the same window has been in force since
        self._until: datetime | None = None  # of a rest, as it was foreseen
        self._asked_on: date | None = None
        self._not_before_s = 0.0
        self._is_warned = False
        self._kept = config.runtime.run_dir / FILE_NAME
        self._recall()

    def begin(self, last: Saved | None) -> None:
        """Open connections or keep them closed, before workers are told anything; `last` is what a run before saved."""
        now = self._clock()
        window = self._window(now)
        if self._config.market.connect is None:
            return
        due: dict[int, dict[int, int]] = {}
        if last is not None and last.window == window_of(self._config):
            self._planned_from = datetime.min.replace(tzinfo=UTC)
            if last.opens is not None and last.opens <= now:
                due = {c: dict.fromkeys(tokens, _ns(last.opens)) for c, tokens in assigned(last).items()}
        was_resting = last is not None and last.resting
        if window.is_open:
            self._desk.open(self._rests(), due)
        else:
            self._rest(window, due)
        if window.is_open == was_resting:
            self._tell(window)

    def check(self) -> None:
        """Look whether connections are to be opened or closed now; to be called a few times a second."""
        if self._config.market.connect is None:
            return
        now = self._clock()
        window = self._window(now)
        is_resting = self._subscriptions.resting
        due: dict[int, dict[int, int]] = {}
        if is_resting and self._until is not None and now >= self._until:
            # Opened before that, it is not the clock's doing: what is wanted now trades at other times.
            due = {c: dict.fromkeys(self._subscriptions.of(c), _ns(self._until)) for c in CONNECTIONS}
        if window.is_open and is_resting:
            self._board.resting, self._board.opened_s = "", time.monotonic()
            self._desk.open(self._rests(), due)
            self._tell(window)
        elif not window.is_open and (not is_resting or window.until != self._until):
            self._rest(window, due)  # it may have slept through all of a window
            if not is_resting:
                self._tell(window)

    @property
    def opens(self) -> datetime | None:
        """When the clock opens connections next, None where it does not, or that is not to be seen."""
        window = self._window(self._clock())
        if window.is_open and window.until is not None:
            window = self._window(window.until)
        return None if window.is_open else window.until

    async def run(self) -> None:
        """Learn the sessions of the calendar once a day, until cancelled."""
        while self._config.market.calendar:
            today = self._clock().date()
            if today != self._asked_on and time.monotonic() >= self._not_before_s:
                self._asked_on = today if await self._ask(today) else None
            await asyncio.sleep(LOOK_S)

    # How it is done.

    def _window(self, now: datetime) -> Window:
        return self._board.hours.window(now, self._subscriptions.segments)

    def _rest(self, window: Window, due: Mapping[int, Mapping[int, int]]) -> None:
        self._until = window.until
        until = readable.when(window.until.isoformat(), self._clock().isoformat()) if window.until else ""
        self._board.resting = f"connections are closed {f'until {until}' if until else 'by the clock'}"
        self._desk.rest(self._board.resting, self._rests(), due)

    def _tell(self, window: Window) -> None:
        until = window.until.isoformat() if window.until else None
        if window.is_open:
            log.info("connections are opened, as market.connect says")
        else:
            log.info("%s, as market.disconnect says", self._board.resting)
        self._log_event("market_opened" if window.is_open else "market_closed", {"until": until})

    def _rests(self) -> tuple[tuple[int, int], ...]:
        found = self._board.hours.rests(self._clock(), self._subscriptions.segments)
        return tuple(
            (_ns(max(begin, self._planned_from)), _ns(end)) for begin, end in found if end > self._planned_from
        )

    def _recall(self) -> None:
        """Go by the sessions that an earlier run has learned, until they are asked for."""
        try:
            kept = orjson.loads(self._kept.read_bytes())
            if kept["calendar"] == self._config.market.calendar:
                self._use(Almanac.read(kept))
        except (OSError, KeyError, TypeError, ValueError):  # there is none, or it is damaged
            return

    def _keep(self, found: Almanac) -> None:
        try:
            self._kept.write_bytes(orjson.dumps({"calendar": self._config.market.calendar, **found.fields()}))
        except OSError as error:
            log.warning("%s: %s; the next start does not know holidays at once", self._kept, error.strerror)

    def _use(self, found: Almanac) -> None:
        self._board.hours = Hours(self._config.market, ZoneInfo(self._config.storage.timezone), found)

    async def _ask(self, today: date) -> bool:
        """Ask for the sessions; return whether there is an answer."""
        answer: list[Mapping[str, Any]] = []
        try:
            code = await errand.run(self._config, MODULE, name=almanac.NAME, hear=answer.append)
        except OSError as error:
            return self._fail(f"cannot be started: {error.strerror}")
        try:
            found = Almanac.read(answer[-1])
        except (IndexError, KeyError, TypeError, ValueError):
            said = answer[-1].get("error") if answer else None
            path = self._config.runtime.run_dir / f"{almanac.NAME}.log"
            return self._fail(str(said or f"ended with exit code {code}, see {path}"))
        self._use(found)
        self._keep(found)
        if found.known_until < today + timedelta(days=WARNED_DAYS) and not self._is_warned:
            self._is_warned = True
            log.warning(
                "exchange_calendars knows the holidays of %s only until %s: every weekday after that counts as a "
                "trading day; upgrade exchange_calendars",
                self._config.market.calendar,
                found.known_until,
            )
        return True

    def _fail(self, reason: str) -> Literal[False]:
        log.error("the hours of the market are not known, asking again in an hour: %s", reason)
        self._not_before_s = time.monotonic() + AGAIN_S
        return False


def _ns(moment: datetime) -> int:
    """Return the receive time of a moment."""
    return (moment - _EPOCH) // _US * 1000
