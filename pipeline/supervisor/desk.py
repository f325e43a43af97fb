"""The desk: takes the requests that change what is recorded.

Each is checked as a whole, changes the subscriptions at once, and is told to the workers, saved and logged. The answer
waits for a moment until all of it has been sent to Kite, and says what has not.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.config import CONNECTIONS, Mode
from pipeline.errors import RequestRefusedError
from pipeline.requests import (
    Action,
    By,
    Change,
    FailbackParams,
    FailoverParams,
    HistoryEntry,
    HistoryParams,
    MirrorParams,
    Pending,
    SetModeParams,
    SubscribeParams,
    UnsubscribeAllParams,
    UnsubscribeParams,
)
from pipeline.supervisor.control import Method
from pipeline.supervisor.history import History
from pipeline.supervisor.orders import Orders
from pipeline.supervisor.subscriptions import Changed, Subscriptions

log = logging.getLogger(__name__)

CONFIRM_S = 2.0  # how long an answer waits for a connection that is getting there
UNDER_WAY = ("idle", "standby", "starting", "connecting", "live")  # states in which an order will soon be carried out


class Desk:
    """`state` tells a connection's state and its reason, `save` returns when the subscriptions are on disk."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        orders: Orders,
        history: History,
        *,
        clock: Callable[[], str],
        state: Callable[[int], tuple[str, str]],
        save: Callable[[], Any],
    ) -> None:
        self._subscriptions = subscriptions
        self._orders = orders
        self._history = history
        self._clock = clock
        self._state = state
        self._save = save
        self._news = asyncio.Event()

    @property
    def methods(self) -> dict[str, Method]:
        """What the control socket offers of it."""
        return {
            "subscribe": Method(SubscribeParams, self._subscribe),
            "unsubscribe": Method(UnsubscribeParams, self._unsubscribe),
            "unsubscribe_all": Method(UnsubscribeAllParams, self._unsubscribe_all),
            "set_mode": Method(SetModeParams, self._set_mode),
            "mirror": Method(MirrorParams, self._mirror),
            "failover": Method(FailoverParams, self._failover),
            "failback": Method(FailbackParams, self._failback),
            "history": Method(HistoryParams, self._tell_history),
        }

    def tell_workers(self) -> list[int]:
        """Tell each worker what is new for it; return those for which something was."""
        return [c for c in CONNECTIONS if self._orders.tell(c, self._subscriptions.wanted(c))]

    def hear(self, status: Mapping[str, Any]) -> None:
        """Take in a worker's status: what moved to it and is covered now is let go where it was."""
        connection_id = status["connection_id"]
        self._orders.hear(status, self._subscriptions.wanted(connection_id))
        told = self._orders.covered(connection_id)
        if told is not None and self._subscriptions.covered(connection_id, told):
            self.tell_workers()
        self._news.set()
        self._news = asyncio.Event()

    # The requests.

    async def _subscribe(self, params: SubscribeParams) -> Change:
        return await self._change(
            "subscribe",
            params.by,
            lambda: self._subscriptions.subscribe(params.tokens, params.mode, self._clock(), params.connection_id),
            params.tokens,
            params.mode,
        )

    async def _unsubscribe(self, params: UnsubscribeParams) -> Change:
        return await self._change(
            "unsubscribe",
            params.by,
            lambda: self._subscriptions.unsubscribe(params.tokens, ignore_unknown=params.ignore_unknown),
            params.tokens,
        )

    async def _unsubscribe_all(self, params: UnsubscribeAllParams) -> Change:
        return await self._change("unsubscribe", params.by, self._subscriptions.unsubscribe_all)

    async def _set_mode(self, params: SetModeParams) -> Change:
        return await self._change(
            "set_mode",
            params.by,
            lambda: self._subscriptions.set_mode(
                params.tokens, params.mode, self._clock(), subscribe_unknown=params.subscribe_unknown
            ),
            params.tokens,
            params.mode,
        )

    async def _mirror(self, params: MirrorParams) -> Change:
        action: Action = "mirror" if params.on else "unmirror"
        return await self._change(action, params.by, lambda: self._subscriptions.mirror(params.on))

    async def _failover(self, params: FailoverParams) -> Change:
        return await self._change("failover", params.by, lambda: self._subscriptions.failover(params.connection_id))

    async def _failback(self, params: FailbackParams) -> Change:
        return await self._change("failback", params.by, lambda: self._subscriptions.failback(params.connection_id))

    def _tell_history(self, params: HistoryParams) -> list[HistoryEntry]:
        return self._history.latest(params.limit)

    # How each is carried out.

    async def _change(
        self,
        action: Action,
        by: By,
        change: Callable[[], Changed],
        tokens: list[int] | None = None,
        mode: Mode | None = None,
    ) -> Change:
        try:
            changed = change()
        except RequestRefusedError as error:
            self._history.refused(action, by, tokens or [], str(error), mode)
            raise
        told = self.tell_workers()
        self._history.done(action, by, changed)
        log.info("%s: %d instruments, asked by %s", action, len(changed.instruments), by)
        saving = asyncio.ensure_future(self._save())
        pending = await self._confirm({c: self._orders.version(c) for c in told}, set(changed.instruments))
        await saving
        return Change(
            action=action,
            requested=len(tokens) if tokens is not None else len(changed.instruments),
            **vars(changed),
            confirmed=not pending,
            pending=pending,
        )

    async def _confirm(self, versions: dict[int, int], tokens: set[int]) -> list[Pending]:
        """Wait until the orders have been carried out, and return those connections where they have not."""
        moving = {c for c in CONNECTIONS if self._is_moving(c, tokens)}
        give_up_at = asyncio.get_running_loop().time() + CONFIRM_S
        while True:
            for connection_id in list(moving):
                if not self._is_moving(connection_id, tokens):
                    moving.remove(connection_id)
                    versions[connection_id] = self._orders.version(connection_id)  # the one that settles it
            waiting = {c for c, version in versions.items() if not self._orders.is_confirmed(c, version)}
            under_way = any(self._state(c)[0] in UNDER_WAY for c in waiting)
            if not under_way and (waiting or not moving):
                break
            try:
                async with asyncio.timeout_at(give_up_at):
                    await self._news.wait()
            except TimeoutError:
                break
        return [Pending(connection_id=c, reason=_in_words(*self._state(c))) for c in sorted(waiting | moving)]

    def _is_moving(self, connection_id: int, tokens: set[int]) -> bool:
        """Tell whether this connection is still to be told of some of these."""
        leaving = self._subscriptions.leaving[connection_id]
        return not tokens.isdisjoint(leaving) or self._subscriptions.is_held_back(connection_id)


def _in_words(state: str, reason: str) -> str:
    return f"{state}: {reason}" if reason else state
