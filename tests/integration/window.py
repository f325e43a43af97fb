"""A terminal's window with `mds` in it: a pty, and as much of a terminal as is needed to say what is to be seen."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.integration.service import DEADLINE_S

_SEQUENCE = re.compile(rb"\x1b\[(\??)([0-9;]*)([A-Za-z])|\x1b(?!\[).")
_UNFINISHED = re.compile(rb"\x1b(\[\??[0-9;]*)?$")


class Window:
    """A window of `columns` by `lines`, which a command has to itself. A context manager: what runs in it is killed."""

    def __init__(self, command: Sequence[str | Path], columns: int, lines: int, **options: Any) -> None:
        self.columns, self.lines = columns, lines
        self.is_alternate = False
        self.shows_cursor = True
        self.written: list[bytes] = []  # all of it
        self.trouble: list[bytes] = []  # sequences that no program of ours should send
        self._rest = b""
        self._clear()
        self.master, self.slave = pty.openpty()
        self._set_size()
        self.modes = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509  there are no threads here
            **{"stderr": subprocess.PIPE, **options},
        )

    def __enter__(self) -> "Window":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        os.close(self.slave)
        os.close(self.master)

    @property
    def text(self) -> str:
        """What is to be seen, a line each."""
        return "\n".join("".join(row).rstrip() for row in self._cells)

    @property
    def is_as_found(self) -> bool:
        """Whether the terminal is as it was before: modes, cursor, the screen that it was on."""
        return termios.tcgetattr(self.slave) == self.modes and self.shows_cursor and not self.is_alternate

    def type(self, keys: bytes) -> None:
        """Type keys."""
        os.write(self.master, keys)

    def resize(self, columns: int, lines: int) -> None:
        """Give the window another size; what was in it is gone, as after a reflow nobody can foresee."""
        self.read()
        self.columns, self.lines = columns, lines
        self._clear()
        self._set_size()
        self.process.send_signal(signal.SIGWINCH)

    def read(self, timeout_s: float = 0.0) -> None:
        """Take in what was written."""
        while select.select([self.master], [], [], timeout_s)[0]:
            self.written.append(os.read(self.master, 65536))
            self._feed(self.written[-1])
            timeout_s = 0.0

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for a condition, taking in what is written; fail, showing the window, when it does not come true."""
        give_up_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < give_up_s, f"in vain: {what}\n{self.text}"
            self.read(0.02)

    def until_shown(self, *words: str) -> None:
        """Wait until these words are to be seen."""
        self.until(lambda: all(word in self.text for word in words), f"{words} are shown")

    def wait(self) -> tuple[int, str]:
        """Return exit code and stderr of the command."""
        self.until(lambda: self.process.poll() is not None, "the command ends")
        self.read()
        return self.process.returncode, self.process.stderr.read().decode() if self.process.stderr else ""

    def _set_size(self) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", self.lines, self.columns, 0, 0))

    def _clear(self) -> None:
        self._cells = [[" "] * self.columns for _ in range(self.lines)]
        self._row = self._column = 0

    def _feed(self, data: bytes) -> None:
        data = self._rest + data
        cut = _UNFINISHED.search(data)
        data, self._rest = (data[: cut.start()], cut[0]) if cut else (data, b"")
        place = 0
        for found in _SEQUENCE.finditer(data):
            self._print(data[place : found.start()])
            self._obey(found)
            place = found.end()
        self._print(data[place:])

    def _print(self, data: bytes) -> None:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:  # a character that is not there as a whole yet
            text, self._rest = data[: error.start].decode(), data[error.start :] + self._rest
        for character in text:
            if character == "\r":
                self._column = 0
            elif character == "\n":
                self._row += 1
                if self._row == self.lines:
                    self._cells = [*self._cells[1:], [" "] * self.columns]
                    self._row -= 1
            else:
                if self._column == self.columns:  # what is wider than the window goes on below
                    self._print(b"\r\n")
                self._cells[self._row][self._column] = character
                self._column += 1

    def _obey(self, found: re.Match[bytes]) -> None:
        match found[1], found[2], found[3]:
            case b"?", b"1049", letter:
                self.is_alternate = letter == b"h"
                self._clear()
            case b"?", b"25", letter:
                self.shows_cursor = letter == b"h"
            case b"", b"", b"H":
                self._row = self._column = 0
            case b"", _, b"m":
                pass
            case _:
                self.trouble.append(found[0])


def _take_terminal() -> None:
    """Make the terminal that of the session: then Ctrl-C and Ctrl-Z are signals, and its end is one."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
