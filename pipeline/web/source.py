"""Asks the supervisor for all who ask the HTTP process: one question at a time, and one answer for many.

What it tells is never older than SHARED_S. It holds nothing else, so that it does not matter when it is killed.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from pipeline.client import Client
from pipeline.errors import ControlError, NotRunningError
from pipeline.status import Overview
from pipeline.web import prometheus

SHARED_S = 0.5  # so long an answer is given to all who ask; the processes report as often
TIMEOUT_S = 1.5  # of a question: who asks over HTTP is to hear soon that nobody answers
NO_NOTICES = 2**62  # above the number of any notice

_Answer = TypeVar("_Answer")


class Source:
    """Every method raises NotRunningError where no service answers, and ControlError where it answers with an error."""

    def __init__(self, run_dir: Path) -> None:
        self._client = Client(run_dir, TIMEOUT_S)
        self._thread = ThreadPoolExecutor(1, "questions")  # a ZeroMQ socket belongs to one thread
        self._silent_s = 0.0  # monotonic: when a question was last given up
        self._overview: Overview | None = None
        self._overview_s = 0.0
        self._asking: asyncio.Task[Overview] | None = None
        self._metrics: tuple[Overview | None, bytes] = (None, b"")

    def close(self) -> None:
        """Let go of thread and socket; what is being asked is still answered."""
        self._thread.submit(self._client.close)
        self._thread.shutdown(wait=False)

    async def overview(self) -> Overview:
        """Return everything but instruments and notices."""
        if self._overview is not None and time.monotonic() - self._overview_s < SHARED_S:
            return self._overview
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_overview())
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)  # others may wait for it when this one has gone

    async def metrics(self) -> bytes:
        """Return the overview as Prometheus reads it."""
        overview = await self.overview()
        if self._metrics[0] is not overview:
            self._metrics = overview, prometheus.text(overview)
        return self._metrics[1]

    async def ask(self, question: Callable[[Client], _Answer]) -> _Answer:
        """Return the answer to a question that is only this asker's."""
        asked_s = time.monotonic()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._put, question, asked_s)

    async def _ask_overview(self) -> Overview:
        self._overview = await self.ask(lambda client: client.overview(NO_NOTICES))
        self._overview_s = time.monotonic()
        return self._overview

    def _asked(self, asking: "asyncio.Task[Overview]") -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # known to those who waited, if anybody still did

    def _put(self, question: Callable[[Client], _Answer], asked_s: float) -> _Answer:
        if asked_s < self._silent_s:  # those who have waited for a turn need not wait for a timeout of their own
            raise NotRunningError("the service does not answer")
        try:
            return question(self._client)
        except NotRunningError:
            self._silent_s = time.monotonic()
            raise
        except ValidationError as error:
            raise ControlError(f"the service is of another version, its answer cannot be read: {error}") from None
