"""What is known at one moment, as the status models; each part is made when it is asked for, and once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pipeline.config import CONNECTIONS
from pipeline.role import HTTP, SIMULATOR, SUPERVISOR, WRITER, worker_role
from pipeline.status import ConnectionStatus, HealthResponse, Metrics, Notice, Overview, Process, Storage
from pipeline.supervisor.board import Board
from pipeline.supervisor.children import Child
from pipeline.supervisor.rows import Row
from pipeline.supervisor.watchdog import fault

ROLES_SHOWN = (SUPERVISOR, WRITER, *(worker_role(c) for c in CONNECTIONS), HTTP, SIMULATOR)


class View:
    """What the board knows at one moment; `unsaved` is why the subscriptions are not on disk, if they are not.

    `unresolved` is why not all that the settings name is recorded.
    """

    def __init__(
        self,
        board: Board,
        children: Mapping[str, Child],
        own_pid: int,
        now_s: float,
        *,
        subscription_requests: int = 0,
        unsaved: str = "",
        unresolved: Sequence[str] = (),
    ) -> None:
        self._board = board
        self._children = children
        self._own_pid = own_pid
        self._now_s = now_s
        self._subscription_requests = subscription_requests
        self._unsaved = unsaved
        self._unresolved = unresolved

    @property
    def status(self) -> dict[str, Any]:
        """Everything, in the shape of `Status`."""
        return {
            "health": self.health,
            "connections": self.connections,
            "instruments": self.instruments,
            "storage": self.storage,
            "metrics": self.metrics,
            "processes": self.processes,
        }

    def overview(self, notices: list[Notice]) -> Overview:
        """Return everything but the instruments."""
        return Overview(
            health=self.health,
            connections=self.connections,
            storage=self.storage,
            metrics=self.metrics,
            processes=self.processes,
            notices=notices,
        )

    @cached_property
    def health(self) -> HealthResponse:
        """Is it recording."""
        return self._board.health(
            self.connections,
            self.storage,
            self.processes,
            self._now_s,
            unsaved=self._unsaved,
            unresolved=self._unresolved,
        )

    @property
    def fault(self) -> str:
        """What is wrong with recording that a restart of the supervisor may mend."""
        return fault(self._board.facts(self.connections, self.storage, self.processes, self._now_s))

    @cached_property
    def connections(self) -> dict[str, ConnectionStatus]:
        """The three connections."""
        return {str(c): self._board.connection(c, self._children, self._now_s) for c in CONNECTIONS}

    @property
    def instruments(self) -> list[Row]:
        """The subscribed instruments."""
        return self._board.rows.all()

    @cached_property
    def storage(self) -> Storage:
        """What the writer does."""
        return self._board.storage(self._children, self._now_s)

    @cached_property
    def metrics(self) -> Metrics:
        """Counts and rates."""
        return self._board.metrics(
            self.connections, self.storage, self.processes, self._subscription_requests, self._now_s
        )

    @cached_property
    def processes(self) -> dict[str, Process]:
        """All processes."""
        return {name: self._board.process(name, self._children, self._own_pid) for name in ROLES_SHOWN}

    @cached_property
    def gaps(self) -> Counter[int]:
        """What is being missed now: how many instruments of which connection."""
        open_ones = {c.connection_id: c.subscribed_instruments for c in self.connections.values() if c.gap_open}
        return Counter(open_ones | self._board.uncovered(self.connections, self._now_s))
