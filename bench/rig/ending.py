"""How a benchmark is ended from outside, without leaving behind what it has started."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

ENDINGS = (signal.SIGTERM, signal.SIGHUP)  # asked to by a program, or the terminal is gone


@contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, once: those that follow must not interrupt the cleaning up.

    What is ignored already, as SIGHUP is under `nohup`, stays so.
    """

    def interrupt(*_: object) -> None:
        for number in before:
            signal.signal(number, lambda *_: None)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in heeded(ENDINGS)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def heeded(numbers: tuple[signal.Signals, ...]) -> list[signal.Signals]:
    """Return those of the signals that who has started this process does not want to be ignored."""
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
