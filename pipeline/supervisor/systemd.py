"""What systemd is told, as sd_notify(3) has it, where it has started us: `Type=notify` and `WatchdogSec=`."""

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

STATUS_S = 1.0  # between two lines at least: some reasons count seconds


class Systemd:
    """Never blocks and never raises: what finds no room, or nobody who listens, is dropped."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._feed_s = _watchdog_s(environment) / 2 if address else 0.0  # 0: nobody watches
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None
        self._line, self._line_due_s = "", 0.0
        self._fault, self._food_due_s = "", 0.0

    def ready(self) -> None:
        """The service is up."""
        self._send("READY=1")

    def stopping(self) -> None:
        """It is ending, for which it has the watchdog's whole time: that goes on, and is not fed any more."""
        if self._feed_s:
            self._send("WATCHDOG=1")
        self._send("STOPPING=1")

    def look(self, line: str, fault: Callable[[], str], now_s: float) -> None:
        """Tell how it does where that is different, and feed the watchdog unless there is a `fault`.

        To be called a few times a second.
        """
        if line != self._line and now_s >= self._line_due_s:
            self._line, self._line_due_s = line, now_s + STATUS_S
            self._send("STATUS=" + " ".join(line.split()))  # a line break would begin another message
        if self._feed_s and now_s >= self._food_due_s:
            self._feed(fault(), now_s)

    def _feed(self, fault: str, now_s: float) -> None:
        if fault and not self._fault:
            log.error("%s: if that lasts, systemd's watchdog restarts the supervisor; the others go on", fault)
        self._fault = fault
        if not fault:
            self._food_due_s = now_s + self._feed_s
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(message.encode(), self._address)


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """Return how long systemd waits for a sign of life; 0 where it does not, or not for one of this process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    with contextlib.suppress(ValueError):
        return max(int(environment.get("WATCHDOG_USEC", "0")), 0) / 1e6
    return 0.0
