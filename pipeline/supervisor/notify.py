"""The command of `[notify]`: run with one message on its standard input, one run at a time. What is told: `messages`.

Nobody waits for it: what it does not take in time waits in a short queue, or is counted and left out. It runs without a
shell, in a session of its own, without our secrets in its environment, and is killed with all that it has started when
it ends or takes too long. Its output is dropped; where it fails, the end of what it wrote to stderr is logged.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from typing import IO, cast

from pipeline.config import Config
from pipeline.log import redact, redact_all
from pipeline.status import Notice
from pipeline.supervisor.children import without_secrets
from pipeline.supervisor.messages import Budget, Message, Messages, Waiting
from pipeline.supervisor.view import View

log = logging.getLogger(__name__)

LOOK_S = 0.02  # between looks at a running command
END_S = 1.0  # for what is under way when the service ends
GONE_S = 0.1  # for what has been killed then
SHOWN_CHARS = 200  # of what it wrote to stderr
STDERR_BYTES = 4096  # of it that are kept: more than are shown, so that no secret is cut in two and not known again
READ_BYTES = 2**16  # at each look: a command that writes without end must not keep us busy
FAILURES_LOGGED = 1  # in any minute


class Notifier:
    """Tells the command what happens. `look` and `hear` never block and never raise."""

    def __init__(self, config: Config) -> None:
        self._argv = config.notify.argv
        self._timeout_s = config.notify.timeout_s
        self._secrets = config.secrets
        self._service = {"host": socket.gethostname(), "run_dir": str(config.runtime.run_dir)}
        self._messages = Messages()
        self._waiting = Waiting(config.notify.per_minute)  # what finds no room would be old news after a minute
        self._budget = Budget(config.notify.per_minute)
        self._complaints = Budget(FAILURES_LOGGED)
        self._unlogged = 0  # failures
        self._news = asyncio.Event()
        self._is_ending = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to run the command, on the running loop."""
        if self._argv:
            self._task = asyncio.create_task(self._run())

    async def end(self) -> None:
        """Let what waits be told if it goes fast, then kill what runs; no event is taken any more."""
        self._is_ending = True
        self._news.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=END_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._waiting:
            log.warning("notify.command is not told of the last %d messages: the service ends", len(self._waiting))

    def look(self, view: View, now_s: float) -> None:
        """Take in how it goes now; to be called a few times a second."""
        if self._argv:
            self._add(self._messages.look(view.health, view.connections, view.gaps, now_s))

    def hear(self, notice: Notice) -> None:
        """Take in an event."""
        if self._argv:
            self._add(self._messages.hear(notice, time.monotonic()))

    def _add(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if not self._is_ending:
                self._waiting.add(message)
                self._news.set()

    async def _run(self) -> None:
        while True:
            wait_s = self._budget.wait_s(time.monotonic()) if self._waiting else None
            if wait_s == 0:
                await self._tell(self._waiting.take())
            elif self._is_ending:
                return
            else:
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._news.wait()

    async def _tell(self, message: Message) -> None:
        """Run the command with this message, and log if it fails."""
        self._budget.spend(time.monotonic())
        log.debug("notify.command is told of: %s", message.get("event"))
        told = redact_all({"service": self._service, **message}, self._secrets)
        try:
            with Run(self._argv, json.dumps(told).encode() + b"\n") as run:
                fault = await self._outcome(run)
                said = run.stderr
        except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
            reason = error.strerror if isinstance(error, OSError) else error
            fault, said = f"cannot be run: {self._argv[0]}: {reason}", b""
        if fault:
            self._complain(fault, said)

    async def _outcome(self, run: "Run") -> str:
        """Wait until it has ended; return what was wrong with it."""
        late_s = time.monotonic() + self._timeout_s
        is_killed = False
        while not run.has_ended():
            run.exchange()
            await asyncio.sleep(LOOK_S)
            if time.monotonic() >= late_s and not is_killed:
                run.kill()  # where it waits for a disk even this takes its time, and so does the next run
                is_killed = True
        code = run.finish()
        if is_killed:
            return f"was killed, it took longer than {self._timeout_s:g} s"
        return "" if code == 0 else f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"

    def _complain(self, fault: str, said: bytes) -> None:
        now_s = time.monotonic()
        if self._complaints.wait_s(now_s):
            self._unlogged += 1
            return
        self._complaints.spend(now_s)
        text = redact(said.decode(errors="replace"), self._secrets)
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())[-SHOWN_CHARS:]
        before = f"; it has failed {self._unlogged} times more since it was last logged" if self._unlogged else ""
        log.warning("notify.command %s%s%s", fault, f": {line}" if line else "", before)
        self._unlogged = 0


class Run:
    """One run of a command, with `message` on its stdin. A context manager: nothing of it survives.

    Raises OSError or ValueError where it cannot be started. Nothing here blocks.
    """

    def __init__(self, argv: Sequence[str], message: bytes) -> None:
        self.stderr = b""  # the end of what it has written there
        self._unsent = message
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=without_secrets(os.environ),
            start_new_session=True,
            bufsize=0,
        )
        self._stdin, self._stderr = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stderr)
        for pipe in (self._stdin, self._stderr):
            os.set_blocking(pipe.fileno(), False)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GONE_S)
        for pipe in (self._stdin, self._stderr):
            pipe.close()

    def exchange(self) -> None:
        """Hand over what its stdin takes, which is all unless pipes are short, and read what it has to say."""
        if self._unsent:
            try:
                sent = self._stdin.write(self._unsent)  # None: it takes nothing now
                self._unsent = self._unsent[sent or 0 :]
            except BrokenPipeError:  # it does not want to know
                self._unsent = b""
        if not self._unsent:
            self._stdin.close()
        self.stderr = (self.stderr + (self._stderr.read(READ_BYTES) or b""))[-STDERR_BYTES:]

    def has_ended(self) -> bool:
        """Tell whether it has ended. It is not reaped: until `finish` its process group is nobody else's."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def kill(self) -> None:
        """Kill it with all that it has started, unless that has left its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def finish(self) -> int:
        """Return the exit code of a command that has ended, negative: the signal; what it has left running goes."""
        self.kill()
        self.exchange()
        return self._process.wait()
