"""The desk: takes the requests that change what is recorded.

Each is checked as a whole, changes the subscriptions at once, and is told to the workers, saved and logged. The answer
waits for a moment until all of it has been sent to Kite, and says what has not. What moves is let go at its old place
when its new one covers it and the move is on disk: whoever reads the file after a crash finds it where it is recorded.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
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
    """`state` tells a connection's state and its reason, `save` returns whether the subscriptions are on disk now.

    `tokens` looks up what a request names; it raises RequestRefusedError. `listed` is set when it has something to look
    symbols up in, or will not have for a while.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        orders: Orders,
        history: History,
        *,
        clock: Callable[[], str],
        state: Callable[[int], tuple[str, str]],
        save: Callable[[], Coroutine[Any, Any, bool]],
        tokens: Callable[[Sequence[int | str]], list[int]],
        listed: asyncio.Event,
    ) -> None:
        self._subscriptions = subscriptions
        self._orders = orders
        self._history = history
        self._clock = clock
        self._state = state
        self._save = save
        self._tokens = tokens
        self._listed = listed
        self._news = asyncio.Event()
        self._kept_open: set[int] = set()
        self._resting = ""  # when connections open again, in words, while the clock has them closed
        self._unsaved: Counter[int] = Counter()  # instruments of changes that are not on disk yet
        self._saving: set[asyncio.Task[bool]] = set()

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

    def tell_workers(self, moved: Collection[int] = ()) -> list[int]:
        """Tell each worker what is new for it; return those for which something was.

        Who has `moved` to a connection that has it already is told there again: the old place lets go only when this
        has been heard.
        """
        for token in self._subscriptions.take_evicted():
            if not self._resting:
                self._orders.miss(self._subscriptions.all[token].connection_id, [token], time.time_ns())
        arrived: dict[int, set[int]] = {c: set() for c in CONNECTIONS}
        for token in moved:
            if place := self._subscriptions.carrier(token):
                arrived[place].add(token)
        return [
            c
            for c in CONNECTIONS
            if self._orders.tell(
                c,
                self._subscriptions.wanted(c),
                keep_open=c in self._kept_open and not self._resting,
                again=arrived[c],
                held=self._subscriptions.held_for(c),
            )
        ]

    def keep_open(self, connections: set[int]) -> None:
        """Let these connections have a socket even without instruments."""
        if connections != self._kept_open:
            self._kept_open = connections
            self.tell_workers()

    def rest(self, until: str, rests: tuple[tuple[int, int], ...], due: Mapping[int, Mapping[int, int]]) -> None:
        """Have all connections closed in order, because of the clock; `until` says for people when they open again.

        `rests` are the latest times in which they should be closed, in ns; `due` are by connection the instruments that
        should have been recorded since a time, but for these. Who is subscribed where stays.
        """
        self._turn(until, rests, due)

    def open(self, rests: tuple[tuple[int, int], ...], due: Mapping[int, Mapping[int, int]]) -> None:
        """Let connections open; `due` are by connection the instruments that should be recorded since a time, in ns."""
        self._turn("", rests, due)

    def _turn(self, resting: str, rests: tuple[tuple[int, int], ...], due: Mapping[int, Mapping[int, int]]) -> None:
        self._resting, self._orders.rests = resting, rests
        self._subscriptions.rest(on=bool(resting))
        for connection_id, since in due.items():
            self._orders.expect(connection_id, since)
        self._tell_and_save()

    def _tell_and_save(self) -> None:
        self.tell_workers()
        self._save_soon()

    def _save_soon(self) -> None:
        saving = asyncio.create_task(self._save())
        self._saving.add(saving)
        saving.add_done_callback(self._saving.discard)

    def lose(self, connection_id: int) -> None:
        """Take note that a worker has ended."""
        self._orders.gone(connection_id)

    async def until_left(self, connection_id: int, timeout_s: float) -> bool:
        """Wait until all that has a new place has left this connection; False if that takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._subscriptions.leaving[connection_id]:
                    await self.until_news()
        return not self._subscriptions.leaving[connection_id]

    async def until_news(self) -> None:
        """Wait until something has been heard of a worker."""
        await self._news.wait()

    def hear(self, status: Mapping[str, Any]) -> None:
        """Take in a worker's status: what moved to it and is covered now is let go where it was."""
        connection_id = status["connection_id"]
        if self._orders.hear(
            status, self._subscriptions.wanted(connection_id), self._subscriptions.held_for(connection_id)
        ):
            self._save_soon()  # from now on it answers for what it was told
        self._let_go()
        self._spread_news()

    def change(
        self,
        action: Action,
        by: By,
        change: Callable[[], Changed],
        *,
        tokens: list[int] | None = None,
        mode: Mode | None = None,
        reason: str = "",
    ) -> tuple[Changed, dict[int, int], "asyncio.Task[bool]"]:
        """Carry out a change; return it, the orders that came of it by connection, and the task that saves it.

        Raises RequestRefusedError.
        """
        try:
            changed = change()
        except RequestRefusedError as error:
            self._history.refused(action, by, tokens or [], str(error), mode)
            raise
        orders, saving = self._carry_out(action, by, changed, reason)
        return changed, orders, saving

    def avoid(self, unfit: set[int], reason: str) -> None:
        """Let these connections carry for others only what no other has room for."""
        changed = self._subscriptions.avoid(unfit)
        if changed.instruments:
            self._carry_out("failover", "failover", changed, reason)

    def _carry_out(
        self, action: Action, by: By, changed: Changed, reason: str
    ) -> tuple[dict[int, int], "asyncio.Task[bool]"]:
        orders = {c: self._orders.version(c) for c in self.tell_workers(changed.instruments)}
        self._history.done(action, by, changed, reason)
        level = logging.WARNING if action == by == "failover" else logging.INFO  # unasked
        asked = "" if by == "failover" else f", asked by {by}"
        log.log(level, "%s: %d instruments%s%s", action, len(changed.instruments), asked, reason and f": {reason}")
        saving = asyncio.create_task(self._keep(changed.instruments))
        self._saving.add(saving)
        saving.add_done_callback(self._saving.discard)
        return orders, saving

    # The requests.

    async def _subscribe(self, params: SubscribeParams) -> Change:
        return await self._change(
            "subscribe",
            params.by,
            lambda tokens: self._subscriptions.subscribe(tokens, params.mode, self._clock(), params.connection_id),
            params.tokens,
            params.mode,
        )

    async def _unsubscribe(self, params: UnsubscribeParams) -> Change:
        return await self._change(
            "unsubscribe",
            params.by,
            lambda tokens: self._subscriptions.unsubscribe(tokens, ignore_unknown=params.ignore_unknown),
            params.tokens,
        )

    async def _unsubscribe_all(self, params: UnsubscribeAllParams) -> Change:
        return await self._change("unsubscribe", params.by, lambda _: self._subscriptions.unsubscribe_all())

    async def _set_mode(self, params: SetModeParams) -> Change:
        return await self._change(
            "set_mode",
            params.by,
            lambda tokens: self._subscriptions.set_mode(
                tokens, params.mode, self._clock(), subscribe_unknown=params.subscribe_unknown
            ),
            params.tokens,
            params.mode,
        )

    async def _mirror(self, params: MirrorParams) -> Change:
        action: Action = "mirror" if params.on else "unmirror"
        return await self._change(action, params.by, lambda _: self._subscriptions.mirror(params.on))

    async def _failover(self, params: FailoverParams) -> Change:
        return await self._change("failover", params.by, lambda _: self._failover_by_hand(params.connection_id))

    def _failover_by_hand(self, connection_id: int) -> Changed:
        if self._resting:
            raise RequestRefusedError(f"no connection is open, there is nothing to fail over; {self._resting}")
        return self._subscriptions.failover(connection_id, by_hand=True)

    async def _failback(self, params: FailbackParams) -> Change:
        return await self._change("failback", params.by, lambda _: self._subscriptions.failback(params.connection_id))

    def _tell_history(self, params: HistoryParams) -> list[HistoryEntry]:
        return self._history.latest(params.limit)

    # How each is carried out.

    async def _change(
        self,
        action: Action,
        by: By,
        change: Callable[[list[int]], Changed],
        words: Sequence[int | str] = (),
        mode: Mode | None = None,
    ) -> Change:
        if any(isinstance(word, str) for word in words):
            await self._until_listed()
        tokens = self._look_up(action, by, words, mode)
        changed, orders, saving = self.change(action, by, lambda: change(tokens), tokens=tokens, mode=mode)
        give_up_at = asyncio.get_running_loop().time() + CONFIRM_S
        pending = await self._confirm(orders, set(changed.instruments), give_up_at)
        if self._resting:
            places = sorted(map(int, changed.connections)) if action != "unsubscribe" else []
            pending = [Pending(connection_id=c, reason=self._resting) for c in places]
        try:
            async with asyncio.timeout_at(give_up_at):
                saved = await asyncio.shield(saving)
        except TimeoutError:
            saved = False
        return Change(
            action=action,
            requested=len(tokens) if words else len(changed.instruments),
            **vars(changed),
            saved=saved,
            confirmed=not pending,
            pending=pending,
        )

    async def _until_listed(self) -> None:
        """Wait for the first list of instruments, for a moment: it is fetched when the service starts."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_S):
                await self._listed.wait()

    def _look_up(self, action: Action, by: By, words: Sequence[int | str], mode: Mode | None) -> list[int]:
        try:
            return self._tokens(words)
        except RequestRefusedError as error:
            self._history.refused(action, by, [word for word in words if isinstance(word, int)], str(error), mode)
            raise

    async def _keep(self, tokens: list[int]) -> bool:
        """Save a change, and let go then what it has moved; return whether it is on disk."""
        self._unsaved.update(tokens)
        saved = await self._save()
        self._unsaved.subtract(tokens)
        self._unsaved += Counter()  # forgets what is zero
        self._let_go()
        return saved

    def _let_go(self) -> None:
        gone = self._subscriptions.let_go(lambda c, token: token not in self._unsaved and self._orders.covers(c, token))
        if gone:
            for (old, new), tokens in gone.items():
                self._orders.relieve(old, tokens, by=new)
            self._tell_and_save()
            self._spread_news()

    def _spread_news(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _confirm(self, orders: dict[int, int], tokens: set[int], give_up_at: float) -> list[Pending]:
        """Wait until the orders have been carried out, and return those connections where they have not."""
        moving = {c for c in CONNECTIONS if self._is_moving(c, tokens)}
        while True:
            for connection_id in list(moving):
                if not self._is_moving(connection_id, tokens):
                    moving.remove(connection_id)
                    orders[connection_id] = self._orders.version(connection_id)  # the one that settles it
            waiting = {c for c, version in orders.items() if not self._orders.is_sent(c, version, tokens)}
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
        return not tokens.isdisjoint(leaving) or not tokens.isdisjoint(self._subscriptions.held_back(connection_id))


def _in_words(state: str, reason: str) -> str:
    return f"{state}: {reason}" if reason else state
