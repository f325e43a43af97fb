"""What each worker has been told to have on the wire, and how far it is. No socket: `send` is handed in.

The messages are the orders of `wire`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.config import CONNECTIONS
from pipeline.supervisor.subscriptions import Instruments
from pipeline.wire import Order, encode_order

AGAIN_S = 0.5  # a status that says otherwise may have been sent before what was told arrived


@dataclass
class _Worker:
    told: Instruments = field(default_factory=dict)
    version: int = 0  # of what was told last
    told_s: float = float("-inf")
    confirmed: int = 0  # the latest version that has been sent to Kite
    covering: int = 0  # the latest one of which everything is known to tick


class Orders:
    """Tells workers and hears them. `service` is another for each run of the supervisor."""

    def __init__(
        self, service: str, send: Callable[[int, bytes], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._service = service
        self._send = send
        self._clock = clock
        self._workers = {c: _Worker() for c in CONNECTIONS}

    def tell(self, connection_id: int, wanted: Instruments) -> bool:
        """Tell a worker what is different, if anything is; return whether it was."""
        worker = self._workers[connection_id]
        if worker.version == 0:
            self._tell_all(connection_id, wanted)
            return True
        changed = {token: mode for token, mode in wanted.items() if worker.told.get(token) != mode}
        dropped = [token for token in worker.told if token not in wanted]
        if changed or dropped:
            self._tell(connection_id, wanted, changed, dropped, after=worker.version)
        return bool(changed or dropped)

    def hear(self, status: Mapping[str, Any], wanted: Instruments) -> None:
        """Take in a worker's status; tell it everything again if it does not know what it was told."""
        connection_id = status["connection_id"]
        worker = self._workers[connection_id]
        if status["service"] == self._service:
            worker.confirmed = max(worker.confirmed, status["version_confirmed"])
            worker.covering = max(worker.covering, status["version_covering"])
        is_new = status["service"] != self._service
        if is_new or (status["version"] != worker.version and self._clock() - worker.told_s > AGAIN_S):
            self._tell_all(connection_id, wanted)

    def version(self, connection_id: int) -> int:
        """Return the number of what this worker was told last."""
        return self._workers[connection_id].version

    def is_confirmed(self, connection_id: int, version: int) -> bool:
        """Tell whether the worker has sent Kite what it was told under this number, or later."""
        return self._workers[connection_id].confirmed >= version

    def covered(self, connection_id: int) -> Instruments | None:
        """Return what this worker was told last if it covers all of it, else None."""
        worker = self._workers[connection_id]
        return worker.told if worker.version and worker.covering == worker.version else None

    def _tell_all(self, connection_id: int, wanted: Instruments) -> None:
        self._tell(connection_id, wanted, wanted, [], after=0)

    def _tell(
        self, connection_id: int, wanted: Instruments, changed: Instruments, dropped: list[int], after: int
    ) -> None:
        worker = self._workers[connection_id]
        worker.told, worker.told_s = wanted, self._clock()
        worker.version += 1
        self._send(connection_id, encode_order(Order(self._service, worker.version, after, changed, dropped)))
