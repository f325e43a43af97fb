"""Which instruments have been sent to Kite a moment ago, and have not ticked since."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence

from pipeline.kite.feed import Batch
from pipeline.kite.packets import split, tokens_in

FIRST_TICK_S = 0.5  # who has not ticked until then counts as arrived, if anything came: Kite sends a snapshot at once
STALE_S = 2.0  # for which ticks may still be under way that were sent before an instrument was unsubscribed
NEWS_STEP = 500  # arrivals are told in such steps, and the last one


class Arrivals:
    """Follows one connection.

    `on_arrived` gets the tokens that have arrived; `on_news` is called when it is worth telling, not at once.
    """

    def __init__(
        self,
        on_arrived: Callable[[Collection[int]], None],
        on_news: Callable[[], None],
        call_later: Callable[..., object] | None = None,
    ) -> None:
        self._on_arrived = on_arrived
        self._on_news = on_news
        self._call_later = call_later  # that of the running loop
        self._unseen: dict[int, object] = {}  # the values tell with which batch
        self._dropped: dict[int, object] = {}  # unsubscribed a moment ago
        self._returned: set[int] = set()  # of the unseen: sent again that soon, their ticks prove nothing
        self._told = 0  # how many were left when it was last told
        self._frames = 0  # how many were heard
        # What was sent, in order, and is still subscribed: when one of the last batch ticks, Kite has taken all before.
        self._batches: dict[object, set[int]] = {}

    @property
    def unseen(self) -> Collection[int]:
        """The tokens that have been sent and have not arrived."""
        return self._unseen.keys()

    def sent(self, batch: Batch) -> None:
        """Take note of what has been sent."""
        if batch.action == "subscribe":
            when = object()
            self._unseen.update(dict.fromkeys(batch.tokens, when))
            self._returned |= self._dropped.keys() & batch.tokens
            self._batches[when] = set(batch.tokens)
            self._wait(batch.tokens, when)
        elif batch.action == "unsubscribe":
            when = object()
            for token in batch.tokens:
                self._unseen.pop(token, None)
            left = {sent: tokens.difference(batch.tokens) for sent, tokens in self._batches.items()}
            self._batches = {sent: tokens for sent, tokens in left.items() if tokens}
            self._dropped.update(dict.fromkeys(batch.tokens, when))
            self._later(STALE_S, self._forget, batch.tokens, when)
        self._told = len(self._unseen)

    def lost(self) -> None:
        """Take note that the socket is gone: all has to be sent again."""
        self._unseen.clear()
        self._dropped.clear()
        self._batches.clear()

    def hear(self) -> None:
        """Take note of frames, heartbeats included."""
        self._frames += 1

    def see(self, tokens: Iterable[int]) -> None:
        """Take note of ticks of these."""
        arrived = (self._unseen.keys() & tokens) - self._returned
        if arrived:
            self._arrive(arrived)
            left = len(self._unseen)
            if not left or self._told - left >= NEWS_STEP:
                self._told = left
                asyncio.get_running_loop().call_soon(self._on_news)  # what the ticks came with is still being recorded

    def all_sent(self, frames: Sequence[tuple[int, bytes]]) -> int | None:
        """Return the time of the first frame that shows that Kite has taken all that was sent, None without one.

        That is one with a tick of those that were sent last; frames without may have been under way before.
        """
        last = next(reversed(self._batches.values()), None)
        for recv_ns, payload in frames:
            if last is None or not last.isdisjoint(tokens_in(payload, split(payload))):
                return recv_ns
        return None

    def complete(self) -> None:
        """Await nothing of what was sent any more."""
        self._batches.clear()

    def _wait(self, tokens: Iterable[int], when: object) -> None:
        self._later(FIRST_TICK_S, self._had_time, tokens, when, self._frames)

    def _later(self, delay_s: float, do: Callable[..., None], *arguments: object) -> None:
        call_later = self._call_later or asyncio.get_running_loop().call_later
        call_later(delay_s, do, *arguments)

    def _forget(self, tokens: Iterable[int], when: object) -> None:
        for token in tokens:
            if self._dropped.get(token) is when:
                del self._dropped[token]

    def _had_time(self, tokens: Iterable[int], when: object, frames: int) -> None:
        """No longer wait for these, unless they have been sent again since, or the socket may be half-open."""
        waiting = [token for token in tokens if self._unseen.get(token) is when]
        if self._frames == frames and (waiting or when in self._batches):
            self._wait(waiting, when)
            return
        if when in self._batches:
            sent = list(self._batches)
            for earlier in sent[: sent.index(when) + 1]:
                del self._batches[earlier]
        if waiting:
            self._arrive(waiting)
            self._on_news()

    def _arrive(self, tokens: Collection[int]) -> None:
        for token in tokens:
            self._unseen.pop(token, None)
        self._returned -= set(tokens)
        self._on_arrived(tokens)
