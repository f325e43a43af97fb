"""Parquet of days that are over, where `[storage] compact` is set: when its process is started, and what it tells.

It is no part of the service: not in the status, not adopted, and nobody waits for it. One process at a time, at the
start and whenever closed days have ticks that it has not seen; after a failure not before an hour is over.
"""

import asyncio
import contextlib
import logging
import os
import sys
import time
from asyncio import subprocess
from collections.abc import Callable
from typing import Any

import orjson

from pipeline import role
from pipeline.compactor import EXIT_BUSY, ROLE
from pipeline.config import CHILD_VARIABLE, Config
from pipeline.files import COMPACT_LOCK
from pipeline.store.files import date_of, tick_files
from pipeline.store.keeping.closed import first_open
from pipeline.supervisor.children import log_file
from pipeline.supervisor.notify import without_secrets

log = logging.getLogger(__name__)

MODULE = "pipeline.compactor"  # python -m ...
LOOK_S = 60.0
AGAIN_S = 3600.0  # after a failure: a full disk, a damaged part
END_S = 1.0  # it does nothing that must be brought to an end

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
        settings = self._config.with_changes(http={"listen": ""})  # a token that it would need is not for this process
        try:
            with log_file(self._config.runtime.run_dir / f"{ROLE}.log") as log_fd:
                process = await subprocess.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    MODULE,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log_fd,
                    env=without_secrets(os.environ) | {CHILD_VARIABLE: settings.model_dump_json()},
                    start_new_session=True,
                )
        except OSError as error:
            self._fail({"reason": f"cannot be started: {error.strerror}"})
            return
        has_told = False
        try:
            assert process.stdout  # noqa: S101  it is a pipe
            async for line in process.stdout:
                has_told = self._hear(line) or has_told
            code = await process.wait()
        finally:
            await self._end(process)
        if code == 0:
            self._seen = there
        elif code != EXIT_BUSY and not has_told:
            self._fail({"reason": f"ended with exit code {code}, see {self._config.runtime.run_dir / ROLE}.log"})

    def _hear(self, line: bytes) -> bool:
        """Take in what became of a day; tell whether it was a failure."""
        try:
            fields: dict[str, Any] = orjson.loads(line)
        except ValueError:  # it was killed within the line
            return False
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

    async def _end(self, process: subprocess.Process) -> None:
        for stop in (process.terminate, process.kill):
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    stop()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), END_S)
