"""What each worker has been told to have on the wire, and how far it is. No socket: `send` is handed in.

The messages are the orders of `wire`.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.config import CONNECTIONS
from pipeline.supervisor.subscriptions import Instruments
from pipeline.wire import Order, encode_order

log = logging.getLogger(__name__)

AGAIN_S = 0.5  # an order that is not acknowledged for so long has not arrived


class Unheard(NamedTuple):
    """What a worker had, since when others have it, and since when it should have had what it may not know of."""

    tokens: list[int]
    relieved: Mapping[int, int]
    due: Mapping[int, int]


@dataclass
class _Worker:
    """What was told, and what was heard."""

    told: Instruments = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)  # in which order each of them was told
    version: int = 0  # of the last order
    held: frozenset[int] = frozenset()  # of what was told: others keep them until they are covered
    keep_open: bool = False
    had: Collection[int] | None = None  # when it acknowledged an order for the last time; None: not known
    is_parting: bool = False  # it did, but its socket may have been half-open before
    relieved: dict[int, int] = field(default_factory=dict)  # token -> not its to miss since; not acknowledged yet
    missing: dict[int, int] = field(default_factory=dict)  # token -> recorded by nobody since; not acknowledged yet
    untold: set[int] = field(default_factory=set)  # of these: what no order has told yet
    due: dict[int, int] = field(default_factory=dict)  # token -> to be recorded since; not acknowledged yet
    is_due_untold: bool = False  # to any order yet
    unheard_since_s: float | None = None  # the oldest order that is not acknowledged

    heard: int = 0  # the last order that it has taken
    is_live: bool = False
    unsent: frozenset[int] = frozenset()  # of these Kite does not know yet
    unseen: frozenset[int] = frozenset()  # these have not ticked since
    covered_ns: int = 0  # all others are recorded since this receive time, or before

    @property
    def is_unheard(self) -> bool:
        """Whether it is not known to have done what it was told."""
        return self.heard != self.version or self.is_parting


class Orders:
    """Tells workers and hears them. `service` is another for each run of the supervisor.

    `before` is what the connections had when the last run ended, `relieved` since when others had it, `due` since when
    they should have had what they may not know of.
    """

    def __init__(
        self,
        service: str,
        send: Callable[[int, bytes], None],
        before: Mapping[int, Collection[int]] | None = None,
        relieved: Mapping[int, Mapping[int, int]] | None = None,
        due: Mapping[int, Mapping[int, int]] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._send = send
        self._clock = clock
        self.rests: tuple[tuple[int, int], ...] = ()  # the latest times in which nothing was to be recorded, in ns
        self._workers = {c: _Worker(had=None if before is None else before.get(c, ())) for c in CONNECTIONS}
        for connection_id, since in (relieved or {}).items():
            self._workers[connection_id].relieved = dict(since)
        for connection_id, since in (due or {}).items():
            self._workers[connection_id].due = dict(since)

    def tell(
        self,
        connection_id: int,
        wanted: Instruments,
        *,
        keep_open: bool = False,
        again: Collection[int] = (),
        held: Collection[int] = (),
    ) -> bool:
        """Tell a worker what is different, if anything is; return whether it was.

        Instruments of `again` count as different: its next word on them is then a new one. Others keep those that are
        `held` until this worker covers them; where they do so no longer, it is told.
        """
        worker = self._workers[connection_id]
        if worker.version == 0:
            worker.keep_open = keep_open
            self._tell_all(connection_id, wanted, held)
            return True
        again = {
            *again,
            *worker.untold,
            *(t for t in worker.held if t not in held and not self.covers(connection_id, t)),
        }
        changed = {t: mode for t, mode in wanted.items() if worker.told.get(t) != mode or t in again}
        dropped = [token for token in worker.told if token not in wanted]
        now_ns = time.time_ns()
        back = [t for t in changed if t in worker.relieved and t not in worker.told and t not in held]
        worker.missing |= dict.fromkeys(back, now_ns)
        worker.relieved = dict.fromkeys(dropped, now_ns) | worker.relieved
        is_new = bool(changed or dropped) or keep_open != worker.keep_open or worker.is_due_untold
        if is_new:
            worker.keep_open = keep_open
            self._tell(connection_id, wanted, changed, dropped, held, after=worker.version)
        return is_new

    def hear(self, status: Mapping[str, Any], wanted: Instruments, held: Collection[int] = ()) -> bool:
        """Take in a worker's status; tell it everything again if it does not know what it was told.

        Returns whether `unheard` names it no more.
        """
        connection_id = status["connection_id"]
        worker = self._workers[connection_id]
        was_unheard = worker.is_unheard
        if status.get("service") != self._service:
            worker.heard, worker.is_live = 0, False
            self._tell_all(connection_id, wanted, held)
            return False
        worker.heard, worker.is_live = status["version"], status["state"] == "live"
        worker.unsent, worker.unseen = frozenset(status["unsent"]), frozenset(status["unseen"])
        worker.covered_ns = status["covered_ns"]
        now_s = self._clock()
        worker.is_parting = status.get("parting", False)
        if worker.heard == worker.version:
            worker.unheard_since_s, worker.missing, worker.due = None, {}, {}
            if worker.is_parting:
                worker.had = {*(worker.had or ()), *worker.told}
            else:
                worker.had, worker.relieved = worker.told, {}
        elif status["lost_order"] or (worker.unheard_since_s is not None and now_s - worker.unheard_since_s > AGAIN_S):
            self._tell_all(connection_id, wanted, held)
        return was_unheard and not worker.is_unheard

    def unheard(self) -> dict[int, Unheard]:
        """Return what workers had, where their successors do not know it yet."""
        return {
            c: Unheard(list(worker.had), worker.relieved, worker.due)
            for c, worker in self._workers.items()
            if worker.had is not None and worker.is_unheard
        }

    def version(self, connection_id: int) -> int:
        """Return the number of what this worker was told last."""
        return self._workers[connection_id].version

    def is_sent(self, connection_id: int, version: int, tokens: Collection[int]) -> bool:
        """Tell whether Kite knows what this order says of these instruments."""
        worker = self._workers[connection_id]
        if worker.heard < version:
            return False
        if worker.is_live:
            return worker.unsent.isdisjoint(tokens)
        return worker.heard == worker.version and not any(token in worker.told for token in tokens)

    def covers(self, connection_id: int, token: int) -> bool:
        """Tell whether this worker records what it was told of this instrument."""
        worker = self._workers[connection_id]
        return (
            worker.is_live
            and token in worker.told
            and worker.versions[token] <= worker.heard
            and token not in worker.unsent
            and token not in worker.unseen
        )

    def gone(self, connection_id: int) -> None:
        """Take note that a worker has ended: it records nothing any more, whatever it said last."""
        self._workers[connection_id].is_live = False

    def relieve(self, connection_id: int, tokens: Collection[int], by: int) -> None:
        """Remember for the next order that another connection covers these now, unless one has done so before."""
        worker = self._workers[connection_id]
        worker.relieved = dict.fromkeys(tokens, self._workers[by].covered_ns) | worker.relieved

    def miss(self, connection_id: int, tokens: Collection[int], since_ns: int) -> None:
        """Remember for the next order that nobody records these any more."""
        worker = self._workers[connection_id]
        worker.missing.update(dict.fromkeys(tokens, since_ns))
        worker.untold.update(tokens)

    def expect(self, connection_id: int, since: Mapping[int, int]) -> None:
        """Remember for the next order since when these should be recorded, as far as they are not."""
        worker = self._workers[connection_id]
        worker.due = dict(since) | worker.due
        worker.is_due_untold = bool(since)

    def _tell_all(self, connection_id: int, wanted: Instruments, held: Collection[int]) -> None:
        worker = self._workers[connection_id]
        worker.versions, worker.unheard_since_s = {}, None
        self._tell(connection_id, wanted, wanted, [], held, after=0)

    def _tell(
        self,
        connection_id: int,
        wanted: Instruments,
        changed: Instruments,
        dropped: list[int],
        held: Collection[int],
        *,
        after: int,
    ) -> None:
        worker = self._workers[connection_id]
        worker.told = wanted
        worker.untold, worker.is_due_untold = set(), False
        worker.held = frozenset(token for token in wanted if token in held)
        worker.version += 1
        worker.versions.update(dict.fromkeys(changed, worker.version))
        if worker.unheard_since_s is None:
            worker.unheard_since_s = self._clock()
        order = Order(
            self._service,
            worker.version,
            after,
            changed,
            dropped,
            worker.keep_open,
            None if after or worker.had is None else list(worker.had),
            worker.relieved,
            tuple(token for token in changed if token in held),
            {token: since_ns for token, since_ns in worker.missing.items() if token in wanted},
            worker.due,
            self.rests,
        )
        told = len(changed), len(dropped)
        log.debug("order %d to connection %d: %d to have, %d to drop", order.version, connection_id, *told)
        self._send(connection_id, encode_order(order))
