"""Work that may hang, beside other work: a name server, a disk, a process that is stopped."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

_Result = TypeVar("_Result")


class Task(Generic[_Result]):
    """Work in a thread of its own, begun at once. The end of the process does not wait for it."""

    def __init__(self, work: Callable[[], _Result]) -> None:
        self._work = work
        self._ended = threading.Event()
        self._result: _Result | None = None
        self._error: Exception | None = None
        try:
            threading.Thread(target=self._run, daemon=True).start()
        except RuntimeError as error:  # there can be no more threads
            self._error = error
            self._ended.set()

    def result(self, timeout_s: float) -> _Result:
        """Return what came of it, to any number of callers. Raises what it raised, or TimeoutError."""
        if not self._ended.wait(max(timeout_s, 0.0)):
            raise TimeoutError(f"no end within {timeout_s:.1f} s")
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # it has ended, and has raised nothing

    def _run(self) -> None:
        try:
            self._result = self._work()
        except Exception as error:  # noqa: BLE001  it is raised where the result is asked for
            self._error = error
        self._ended.set()


class Deadline:
    """A time by which everything has to have ended."""

    def __init__(self, seconds: float) -> None:
        self._at_s = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """How long there is until then, 0 afterwards."""
        return max(self._at_s - time.monotonic(), 0.0)
