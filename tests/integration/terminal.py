"""A newcomer's terminal on a fresh machine: lines are typed in a folder, and end by themselves or are watched."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pexpect

from tests.integration.machine import PATH, Machine
from tests.integration.service import DEADLINE_S

LINE_S = 120.0  # until a line has ended; installing takes a tenth of it where packages are kept


class Terminal:
    """Lines are given to bash as they stand, in `folder` (a path on the machine), as `user`."""

    def __init__(self, machine: Machine, folder: str, user: str = "root", env: Mapping[str, str] | None = None) -> None:
        self.machine = machine
        self.folder = folder
        self._user = user
        self._env = {"PATH": PATH, "TERM": "xterm", "COLUMNS": "120", **(env or {})}

    @property
    def path(self) -> Path:
        """The folder as the machine around it sees it."""
        return self.machine.root / self.folder.lstrip("/")

    def run(self, line: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a line to its end, with `given` on its standard input; both outputs come as one."""
        return subprocess.run(
            self._argv(line),
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
            timeout=LINE_S,
        )

    def done(self, line: str, *, given: str = "") -> str:
        """Run a line that ends well; return what it prints."""
        ended = self.run(line, given)
        assert ended.returncode == 0, f"$ {line}\n{ended.stdout[-3000:]}\nexit code {ended.returncode}"
        return ended.stdout

    def start(self, line: str) -> "pexpect.spawn[str]":
        """Start a line on a terminal of its own, which is returned to be typed at.

        The line has the terminal to itself, as a job of a shell has: Ctrl-C is for it alone.
        """
        command, *arguments = self._argv(f"set -m\n{line}\nexit $?")
        return pexpect.spawn(command, arguments, timeout=DEADLINE_S, encoding="utf-8", dimensions=(40, 120))

    def beside(self, folder: str) -> "Terminal":
        """Return another terminal of this user, in another folder."""
        return Terminal(self.machine, folder, self._user, self._env)

    def _argv(self, line: str) -> list[str]:
        return list(self.machine.argv("bash", "-c", line, user=self._user, cwd=self.folder, env=self._env))
