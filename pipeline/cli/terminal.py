"""A terminal that one picture fills: shown, kept to the window's size, ended by a key, and left as it was found.

Keys and signals are waited for together with what else is waited for; a signal handler does nothing but let
`wait` wake up. No thread.
"""

import errno
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import zmq
from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text

Painter = Callable[[int, int], Sequence[Text]]  # the lines for a window of so many columns and lines

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
HANDLED = (*ENDING, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
QUIT_KEYS = b"qQ\x03"  # Ctrl-C comes as a signal, but for a terminal that is told otherwise
READ_BYTES = 1024
USUAL_SIZE = (80, 24)  # of a terminal that does not know its own


class Quit(BaseException):
    """The user wants no more of it: a key, or one of the signals that end a process (`number`)."""

    def __init__(self, number: int | None = None) -> None:
        super().__init__(number)
        self.number = number


class Terminal:
    """A context manager. The standard output has to be a terminal; the standard input gives keys if it is one."""

    def __init__(self) -> None:
        self._console = Console(force_terminal=True, force_interactive=True, highlight=False)
        self._out = sys.stdout.fileno()
        self._keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._painter: Painter = lambda _columns, _lines: []
        self._live: Live | None = None
        self._modes: list[Any] = []  # of the terminal, as it was found
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Terminal":
        self._wakeup, self._wake = os.pipe()
        for fd in (self._wakeup, self._wake):
            os.set_blocking(fd, False)
        self._old_wakeup = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, _noted) for number in HANDLED}
        try:
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self._wakeup)
        os.close(self._wake)

    def show(self, painter: Painter) -> None:
        """Show what `painter` returns, now and, made anew, whenever the window gets another size."""
        self._painter = painter
        self._paint()

    def wait(self, socket: "zmq.Socket[bytes] | None", timeout_s: float) -> bool:
        """Wait for a socket to have something, and tell whether it has. Raises Quit."""
        due_s = time.monotonic() + timeout_s
        poller = zmq.Poller()
        for source in (socket, self._keys, self._wakeup):
            if source is not None:
                poller.register(source, zmq.POLLIN)
        while True:
            left_ms = round((due_s - time.monotonic()) * 1000)
            found = dict(poller.poll(max(left_ms, 0)))
            if self._wakeup in found:
                self._obey_signals()
            if self._keys in found:
                self._obey_keys()
            if socket in found:
                return True
            if left_ms <= 0:
                return False

    def _obey_keys(self) -> None:
        try:
            typed = os.read(self._keys or 0, READ_BYTES)
        except OSError:  # the terminal is gone
            typed = b""
        if not typed or set(typed) & set(QUIT_KEYS):
            raise Quit

    def _obey_signals(self) -> None:
        numbers = self._signals()
        if signal.SIGTSTP in numbers:
            numbers = self._suspend()
        elif signal.SIGCONT in numbers:  # it was stopped by SIGSTOP: who had the terminal meanwhile has changed it
            self._set_modes()
            self._console.show_cursor(False)
        for number in numbers:
            if number in ENDING:
                raise Quit(number)
        self._paint()

    def _signals(self) -> bytes:
        """Return the numbers of the signals that came."""
        try:
            return os.read(self._wakeup, READ_BYTES)
        except BlockingIOError:
            return b""

    def _suspend(self) -> bytes:
        """Stop, with the terminal as it was found; return the signals that came until it went on."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # and here it goes on
        signal.signal(signal.SIGTSTP, _noted)
        self._take()
        return self._signals()

    def _paint(self) -> None:
        if self._live is None or not self._takes_output():
            return
        columns, lines = self._size()
        self._console.size = ConsoleDimensions(columns, lines)
        self._live.update(Group(*self._painter(columns, lines)), refresh=True)

    def _takes_output(self) -> bool:
        """Tell whether the terminal keeps up: what it cannot take now is not worth waiting for."""
        output = select.poll()
        output.register(self._out, select.POLLOUT)
        return bool(output.poll(0))

    def _size(self) -> tuple[int, int]:
        """Return the size of the window; COLUMNS and LINES do not follow it."""
        columns, lines = os.get_terminal_size(self._out)
        return columns or USUAL_SIZE[0], lines or USUAL_SIZE[1]

    def _take(self) -> None:
        if self._keys is not None:
            self._modes = termios.tcgetattr(self._keys)
            self._set_modes()
        self._live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()

    def _set_modes(self) -> None:
        """Hand over keys as they are typed, unseen; Ctrl-C, Ctrl-Z and Ctrl-\\ go on to be signals.

        Ctrl-S no longer stops the output: who waits to write would not see the q.
        """
        if self._keys is not None:
            with suppress(termios.error):
                tty.setcbreak(self._keys, termios.TCSANOW)
                modes = termios.tcgetattr(self._keys)
                modes[0] &= ~termios.IXON
                termios.tcsetattr(self._keys, termios.TCSANOW, modes)

    def _give_back(self) -> None:
        if self._live is not None:
            with suppress(OSError):  # there may be no terminal any longer
                self._live.stop()
            self._live = None
        if self._keys is not None and self._modes:
            _restore(self._keys, self._modes)


def _restore(keys: int, modes: list[Any]) -> None:
    for _ in range(len(HANDLED)):  # a signal may come between
        try:
            return termios.tcsetattr(keys, termios.TCSANOW, modes)
        except termios.error as error:
            if error.args[0] != errno.EINTR:
                return None  # there is no terminal any longer
    return None


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Nothing: the file that wakes up `wait` has the number already."""
