"""Parquet of days that are over, where `[storage] compact` is set: when its process is started, and what it tells.

It is no part of the service: not in the status, not adopted, and nobody waits for it. One process at a time, at the
start and whenever closed days have ticks that it has not seen; after a failure not before an hour is over.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from pipeline import role
from pipeline.compactor import EXIT_BUSY, ROLE
from pipeline.config import Config
from pipeline.files import COMPACT_LOCK
from pipeline.store.files import date_of, tick_files
from pipeline.store.keeping.closed import first_open
from pipeline.supervisor import errand

log = logging.getLogger(__name__)

MODULE = "pipeline.compactor"  # python -m ...
LOOK_S = 60.0
AGAIN_S = 3600.0  # after a failure: a full disk, a damaged part

Sizes = dict[str, int]  # of tick files, by name


class Compaction:
    """Runs the process. `log_event` takes an event and its fields."""

    def __init__(self, config: Config, log_event: Callable[[str, dict[str, Any]], object]) -> None:
        self._config = config
        self._log_event = log_event
        self._seen: Sizes = {}  # what the latest run that has succeeded has found
        self._not_before_s = 0.0

    async def run(self) -> None:
        """Look now and then, until cancelled; a process that runs then is ended."""
        while self._config.storage.compact:
            there = await asyncio.to_thread(self._closed)
            if there != self._seen and time.monotonic() >= self._not_before_s and not self._is_busy():
                await self._compact(there)
            await asyncio.sleep(LOOK_S)

    def _closed(self) -> Sizes:
        """Return the files of closed days."""
        try:
            first = first_open(self._config)
            paths = tick_files(self._config.storage.data_dir)
            return {path.name: path.stat().st_size for path in paths if (day := date_of(path)) and day < first.day}
        except OSError as error:  # one has just been removed, or the disk has a bad moment
            log.warning("cannot see which days are closed: %s", error)
            return self._seen

    def _is_busy(self) -> bool:
        """Tell whether somebody compacts by hand, or a process that an earlier supervisor has left."""
        return role.read_holder(self._config.state_dir / COMPACT_LOCK) is not None

    async def _compact(self, there: Sizes) -> None:
        has_told = False

        def hear(fields: dict[str, Any]) -> None:
            nonlocal has_told
            has_told = self._hear(fields) or has_told

        try:
            code = await errand.run(self._config, MODULE, name=ROLE, hear=hear)
        except OSError as error:
            self._fail({"reason": f"cannot be started: {error.strerror}"})
            return
        if code == 0:
            self._seen = there
        elif code != EXIT_BUSY and not has_told:
            self._fail({"reason": f"ended with exit code {code}, see {self._config.runtime.run_dir / ROLE}.log"})

    def _hear(self, fields: dict[str, Any]) -> bool:
        """Take in what became of a day; tell whether it was a failure."""
        event = fields.pop("event")
        if event == "compact_failed":
            self._fail(fields)
            return True
        log.info("%s is compacted: %s ticks, %.1f MB", fields["date"], fields["ticks"], fields["parquet_bytes"] / 1e6)
        self._log_event(event, fields)
        return False

    def _fail(self, fields: dict[str, Any]) -> None:
        log.error("compaction has failed, it is tried again in an hour: %s", fields["reason"])
        self._not_before_s = time.monotonic() + AGAIN_S
        self._log_event("compact_failed", {"date": None, **fields})
