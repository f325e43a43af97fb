"""A connection's road to the writer, on the running asyncio loop: an outbox with its sockets and its epoch.

Workers send ticks and events on it, the supervisor events only. Whoever owns one appends; sending, going back and
trimming happen by themselves as the writer takes and commits.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import zmq
import zmq.asyncio

from pipeline import role
from pipeline.clock import ReceiveClock
from pipeline.config import Config
from pipeline.days import Calendar
from pipeline.epoch import claim_spool, close_epoch, open_epoch
from pipeline.errors import SpoolFullError
from pipeline.events import encode_event, source_of
from pipeline.log import redact_all
from pipeline.outbox import Batch, Encoder, Loss, Outbox
from pipeline.spool import Incoming
from pipeline.wire import COMMITS_SOCKET, TICKS_SOCKET, Commit, WireError, decode_commit

log = logging.getLogger(__name__)

SEND_BATCHES = 16  # ZeroMQ's queue to the writer: the spool is the queue, this only keeps the pipe full
HELD_BACK_EVENTS = 10_000  # some megabytes
BLOCKED_S = 0.005  # until ZeroMQ is asked again whether it takes more

Listener: TypeAlias = Callable[[str, str, Mapping[str, Any]], None]  # (event, timestamp, fields)


class Uplink:
    """One stream on its way, and what older epochs have left.

    Raises EpochError, or AlreadyRunningError where another process has the spool.
    """

    def __init__(
        self,
        config: Config,
        connection_id: int,
        context: "zmq.Context[zmq.Socket[bytes]]",
        *,
        encode: Encoder,
        on_loss: Callable[[Loss], None],
        on_commit: Callable[[Commit], None] | None = None,
        on_event: Listener | None = None,
    ) -> None:
        self.clock = ReceiveClock()
        self.calendar = Calendar(config.storage.timezone)
        claim_spool(config, connection_id)
        opening = open_epoch(config, connection_id, self.clock.now_ns())
        self.epoch = opening.epoch
        self.predecessor = opening.predecessor
        self._config = config
        self._connection_id = connection_id
        # events that found no room in the spool; the oldest go when even memory should end
        self._held_back: deque[tuple[str, Mapping[str, Any], int]] = deque(maxlen=HELD_BACK_EVENTS)
        self._pumping = False
        self._committed = asyncio.Event()
        self._on_commit = on_commit
        self._on_event = on_event
        self._push: zmq.Socket[bytes] = context.socket(zmq.PUSH)
        self._push.setsockopt(zmq.SNDHWM, SEND_BATCHES)
        self._push.setsockopt(zmq.LINGER, 0)
        self._push.connect(role.endpoint(config.runtime.run_dir, TICKS_SOCKET))
        self._commits: zmq.asyncio.Socket = zmq.asyncio.Context(context).socket(zmq.SUB)
        self._commits.setsockopt(zmq.SUBSCRIBE, b"")
        self._commits.connect(role.endpoint(config.runtime.run_dir, COMMITS_SOCKET))
        self.outbox = Outbox(
            connection_id, opening, calendar=self.calendar, encode=encode, send=self._send, on_loss=on_loss
        )

    def append_frames(self, frames: Sequence[Incoming], missing_since_ns: int | None = None) -> None:
        """Spool frames that arrived together, and hand them on. As `Spool.append_frames`."""
        self.outbox.live.append_frames(frames, missing_since_ns)
        self._pump_soon()

    def mark_wanted(self, *, wanted: bool, missed_since_ns: int | None = None) -> None:
        """Remember whether the connection has instruments from now on: without, nothing can be missed.

        Where something of them is missed since an earlier time, that is remembered.
        """
        if wanted != (self.outbox.live.spool.last_recv_ns > 0):
            self._append_wanted(missed_since_ns or self.clock.now_ns(), wanted=wanted)

    def mark_told(self, until_ns: int) -> None:
        """Remember that what was missed until then has been told."""
        if self.outbox.live.spool.last_recv_ns > 0:
            self._append_wanted(until_ns, wanted=True)

    def _append_wanted(self, recv_ns: int, *, wanted: bool) -> None:
        try:
            self.outbox.live.spool.append_wanted(recv_ns, wanted=wanted)
        except SpoolFullError as error:
            log.error("%s: the next start cannot tell since when nothing was recorded", error)

    def log_event(self, event: str, fields: Mapping[str, Any], happened_ns: int | None = None) -> None:
        """Number an event and hand it on like a tick. Without room for it, it is kept until there is."""
        self._retry_events()
        happened_ns = happened_ns or self.clock.now_ns()
        fields = redact_all(fields, self._config.secrets)  # a server may quote what it was sent
        if self._on_event is not None:
            self._on_event(event, self.calendar.timestamp(happened_ns), fields)
        if self._held_back or not self._append_event(event, fields, happened_ns):
            if not self._held_back:
                log.error("no room for the event %r: it and what follows are kept until there is", event)
            self._held_back.append((event, fields, happened_ns))

    def _append_event(self, event: str, fields: Mapping[str, Any], happened_ns: int) -> bool:
        live = self.outbox.live
        now_ns = self.clock.now_ns()
        same_day = self.calendar.day_of(happened_ns) == self.calendar.day_of(now_ns)  # as the file it will stand in
        line = encode_event(
            event,
            self.calendar.timestamp(happened_ns if same_day else now_ns),
            fields,
            source=source_of(self._connection_id),
            epoch=self.epoch,
            event_seq=live.spool.last.event_seq + 1,
        )
        try:
            live.append_event(now_ns, line)
        except SpoolFullError:
            return False
        self._pump_soon()
        return True

    def _retry_events(self) -> None:
        while self._held_back and self._append_event(*self._held_back[0]):
            self._held_back.popleft()

    async def read_commits(self) -> None:
        """Follow what the writer makes durable, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                commit = decode_commit(await self._commits.recv())
            except WireError as error:
                log.error("from the writer: %s", error)
                continue
            self.outbox.committed(commit, loop.time())
            if self._on_commit is not None:
                self._on_commit(commit)
            self._retry_events()
            self._pump_soon()
            self._committed.set()

    async def finish(self, timeout_s: float) -> bool:
        """Wait until all that was spooled is durable, and end the epoch; False if the writer did not take it in time.

        `read_commits` has to be running.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self._held_back or not self.outbox.done:
                    self._committed.clear()
                    await self._committed.wait()
        except TimeoutError:
            self.outbox.close()
            return False
        close_epoch(self._config, self._connection_id, self.epoch, self.outbox.live.spool)
        return True

    def close(self) -> None:
        """Let go of the sockets; the context can then be destroyed."""
        self._push.close()
        self._commits.close(linger=0)

    def _send(self, batch: Batch) -> bool:
        try:
            self._push.send_multipart(batch, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _pump_soon(self, delay_s: float = 0.0) -> None:
        """Send what is behind, part by part: in between, the loop reads its sockets."""
        if self.outbox.behind and not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_later(delay_s, self._pump)

    def _pump(self) -> None:
        self._pumping = False
        took = self.outbox.pump()
        self._pump_soon(0.0 if took else BLOCKED_S)
