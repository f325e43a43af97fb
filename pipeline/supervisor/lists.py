"""Keeps the list of instruments: has it fetched once a day, and reads it when it is new."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.instruments import sync
from pipeline.instruments.listing import Listing, SymbolError, read
from pipeline.supervisor import errand

log = logging.getLogger(__name__)

MODULE = "pipeline.instruments.sync"  # python -m ...
FETCHED = ".zst"  # the end of the name of a list that was fetched
LOOK_S = 5.0
AGAIN_S, AGAIN_CAP_S = 30.0, 900.0  # after a failure

_Stamp = tuple[Path, int]


class Lists:
    """`use` gets each list that is new, `log_event` an event and its fields."""

    def __init__(
        self,
        config: Config,
        *,
        simulated: bool,
        clock: Callable[[], datetime],
        use: Callable[[Listing], None],
        log_event: Callable[[str, dict[str, Any]], object],
    ) -> None:
        self._config = config
        self._simulated = simulated
        self._clock = clock
        self._use = use
        self._log_event = log_event
        self._seen: _Stamp | None = None  # the list that was read last, or could not be read
        self._is_damaged = False  # it has to be fetched again
        self._not_before_s = 0.0
        self._wait_s = AGAIN_S
        self._refused = False  # not before there is another token
        self._told = ""  # why it failed last
        self._fault = ""  # why the folder cannot be read
        self._wake = asyncio.Event()
        self.settled = asyncio.Event()  # there is a list, or the first attempt to have one is over

    def first(self) -> Listing | None:
        """Return the list of the day, None where there is none; takes a moment."""
        self._seen = self._newest()
        listing = self._read(self._seen)
        if listing is not None:
            self.settled.set()
        return listing

    def use_credentials(self, config: Config) -> None:
        """Try again with these what was refused."""
        self._config = config
        self._refused, self._not_before_s = False, 0.0
        self._wake.set()

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            if await asyncio.to_thread(self._is_due):  # the disk may hang
                await self._sync()
            stamp = await asyncio.to_thread(self._newest)
            if stamp != self._seen:
                self._seen = stamp
                if listing := await asyncio.to_thread(self._read, stamp):
                    self._use(listing)
            self.settled.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_S)
            self._wake.clear()

    def _newest(self) -> _Stamp | None:
        try:
            path = sync.usable(self._config, self._clock().date(), simulated=self._simulated)
            stamp = (path, path.stat().st_mtime_ns) if path else None
        except OSError as error:
            if str(error) != self._fault:
                log.warning("cannot look for the list of instruments: %s", error)
            self._fault = str(error)
            return self._seen
        self._fault = ""
        return stamp

    def _read(self, stamp: _Stamp | None) -> Listing | None:
        self._is_damaged = False
        if stamp is None:
            return None
        try:
            return read(stamp[0])
        except SymbolError as error:
            log.error("%s", error)
            self._is_damaged = stamp[0].suffix == FETCHED  # what somebody has put there would still go before another
            return None

    def _is_due(self) -> bool:
        if not self._config.instruments.sync or self._refused or time.monotonic() < self._not_before_s:
            return False
        try:
            return self._is_damaged or sync.due(self._config, self._clock(), simulated=self._simulated)
        except OSError:  # which is told when the list is looked for
            return False

    async def _sync(self) -> None:
        arguments = ["--simulated"] if self._simulated else []
        told: list[dict[str, Any]] = []
        self._not_before_s = time.monotonic() + self._wait_s
        try:
            await errand.run(self._config, MODULE, *arguments, name=sync.ROLE, hear=told.append, with_credentials=True)
        except OSError as error:
            told.append({"event": "instruments_failed", "reason": f"cannot be started: {error.strerror}"})
        fields = (
            told[-1] if told else {"event": "instruments_failed", "reason": f"see {sync.ROLE}.log in the run folder"}
        )
        event = fields.pop("event")
        if event == "instruments_failed":
            self._fail(fields)
            return
        self._wait_s, self._told = AGAIN_S, ""
        log.info("the list of instruments of %s is here: %s", fields["date"], f"{fields['instruments']:,}")
        self._log_event(event, fields)

    def _fail(self, fields: dict[str, Any]) -> None:
        self._refused = bool(fields.get("refused"))
        self._wait_s = min(self._wait_s * 2, AGAIN_CAP_S)
        if fields["reason"] != self._told:  # once, not every time
            self._told = fields["reason"]
            then = "waiting for other credentials" if self._refused else "it is tried again"
            log.warning("the list of instruments cannot be fetched, %s: %s", then, fields["reason"])
            self._log_event("instruments_failed", fields)
