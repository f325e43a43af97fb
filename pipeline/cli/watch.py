"""What commands share that go on: asking the service again and again, and ending when nobody wants it any longer."""

import errno
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from pipeline.cli import drop_output
from pipeline.client import Client, Wait, poll
from pipeline.config import Config
from pipeline.days import Calendar
from pipeline.errors import ControlError, MdsError, NotRunningError
from pipeline.status import Overview, Series

ANSWER_S = 2.0  # for an answer; one takes milliseconds
_NOT_WANTED = (errno.EPIPE, errno.EIO)  # the other end of a pipe, or of a terminal, is gone


class Watch:
    """What the service says of itself, and since when it does not. A context manager.

    Without a service it is `down`, as with one that says so.
    """

    def __init__(self, settings: Config, wait: Wait = poll) -> None:
        self.overview: Overview | None = None  # the last that it has said
        self.problem = ""  # why it does not answer; empty where it does
        self._settings = settings
        self._wait = wait
        self._now = Calendar(settings.storage.timezone).now
        self._client = self._new_client()
        self._down_since_s: float | None = None  # monotonic

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self) -> None:
        """Ask once."""
        try:
            self.overview = self._client.overview()
            self.problem = ""
        except (NotRunningError, ControlError, ValidationError) as error:
            self.problem = _told(error)
            self._client.close()  # with it goes what nobody has taken: requests do not pile up
            self._client = self._new_client()
        if self.reasons is None:
            self._down_since_s = None
        elif self._down_since_s is None:
            self._down_since_s = time.monotonic()

    def series(self) -> Series | None:
        """Return the figures of the last minutes, None where there is no answer."""
        try:
            return self._client.series()
        except (NotRunningError, ControlError, ValidationError):
            return None

    @property
    def reasons(self) -> list[str] | None:
        """Why it is down, None where it is not."""
        if self.problem:
            return [self.problem]
        if self.overview is not None and self.overview.health.status == "down":
            return self.overview.health.reasons
        return None

    @property
    def timestamp(self) -> str:
        """The time of now, as the service writes times."""
        return self._now().isoformat(timespec="microseconds")

    def left_s(self, down_max_s: float) -> float | None:
        """Return how long it may be down yet, None where it is not. Raises MdsError when it was for `down_max_s`."""
        if self._down_since_s is None or self.reasons is None:
            return None
        down_s = time.monotonic() - self._down_since_s
        if down_s >= down_max_s:
            raise MdsError(f"down for {down_s:.0f} s: {'; '.join(self.reasons)}")
        return down_max_s - down_s

    def _new_client(self) -> Client:
        return Client(self._settings.runtime.run_dir, ANSWER_S, wait=self._wait)


def _told(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "the service does not answer as it should: it is of another version"
    if "does not answer" in str(error):
        return str(error)
    return f"the service does not answer: {error}"


@contextmanager
def until_unwanted() -> Iterator[None]:
    """End quietly with Ctrl-C, and when nobody reads the output any longer. Raises MdsError where it cannot go."""
    try:
        yield
    except KeyboardInterrupt:
        pass
    except OSError as error:
        drop_output()
        if error.errno not in _NOT_WANTED:
            raise MdsError(f"standard output: {error.strerror}") from None


def pause(seconds: float) -> None:
    """Wait. Raises BrokenPipeError as soon as nobody reads the standard output any longer."""
    output = select.poll()
    if sys.stdout is not None:
        output.register(sys.stdout, 0)
    if output.poll(max(seconds, 0.0) * 1000):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
