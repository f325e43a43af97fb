"""Handing a connection's spools to the writer: batches out, commits in, go-back-N between. No socket, no clock.

An `Outlet` hands on one stream. Its `sent` mark runs ahead of what the writer has accepted, and that ahead of what is
durable. As long as the outlet keeps up, a record goes out right after it was spooled; once ZeroMQ refuses a batch, the
outlet stops and later reads on from the spool, which is the queue. It goes back to what the writer has when the writer
has lost what was not durable (a new boot id), or when the writer makes no headway with what was sent.

An `Outbox` is all outlets of a connection: the epoch that is running, and the older ones whose spools still hold
something; these are done with once all of it is durable.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from typing import NamedTuple, TypeAlias

from pipeline.days import Calendar
from pipeline.epoch import Opening
from pipeline.records import Kind, Record
from pipeline.spool import Incoming, Spool
from pipeline.wire import Commit, Header, Mark, StreamId, encode_header

log = logging.getLogger(__name__)

READ_BYTES = 64 * 2**10  # of the spool at a time: some hundred kilobytes of lines, some milliseconds of work
STALLED_S = 1.0  # sent, not accepted, and no headway for so long: it was lost on the way

Batch: TypeAlias = list[bytes]
Encoder: TypeAlias = Callable[[int, Sequence[Record]], bytes]  # (epoch, frames) -> JSON lines of their accepted ticks


class Loss(NamedTuple):
    """Ticks `first_seq` to `last_seq` of `epoch` were spooled and are not held any more."""

    epoch: int
    first_seq: int
    last_seq: int
    from_ns: int  # receive time of the last record before them, 0 if unknown
    to_ns: int  # and of the first behind them


class Outlet:
    """Hands on one stream, see above. `send` takes a batch or returns False at once."""

    def __init__(
        self,
        stream: StreamId,
        spool: Spool,
        *,
        calendar: Calendar,
        encode: Encoder,
        send: Callable[[Batch], bool],
        oldest_epoch: Callable[[], int],
        on_loss: Callable[[Loss], None],
    ) -> None:
        self.stream = stream
        self.spool = spool
        self.sent = Mark()  # given to ZeroMQ, or waiting to be
        self.accepted = Mark()
        self.durable = Mark()
        self._calendar = calendar
        self._encode = encode
        self._send = send
        self._oldest_epoch = oldest_epoch
        self._on_loss = on_loss
        self._place = spool.seek(Mark())
        self._waiting: list[Batch] = []  # encoded, not yet taken by ZeroMQ
        self._boot: str | None = None
        self._headway_s = 0.0  # when the writer was last seen to get on
        self._last_ns = 0  # receive time of the last record handed on

    @property
    def behind(self) -> bool:
        """Whether something that is spooled has not been sent."""
        return bool(self._waiting) or self._place != self.spool.end

    @property
    def done(self) -> bool:
        """Whether everything that can be read from the spool is durable."""
        return not self.behind and self.durable.covers(self.sent)

    @property
    def pending(self) -> int:
        """Ticks that are spooled and not yet durable."""
        return max(0, self.spool.last.seq - self.durable.seq)

    @property
    def queued(self) -> int:
        """Ticks that are spooled and not yet handed to ZeroMQ."""
        return max(0, self.spool.last.seq - self.sent.seq)

    def append_frames(self, frames: Sequence[Incoming], missing_since_ns: int | None = None) -> None:
        """Spool frames and, if nothing older has to go first, hand them on. As `Spool.append_frames`."""
        keeps_up = not self.behind
        records = self.spool.append_frames(frames, missing_since_ns)
        if keeps_up:
            self._place = self.spool.end
            self._hand_on(records)

    def append_event(self, recv_ns: int, line: bytes) -> None:
        """The same for one event."""
        keeps_up = not self.behind
        record = self.spool.append_event(recv_ns, line)
        if keeps_up:
            self._place = self.spool.end
            self._hand_on([record])

    def pump(self) -> bool:
        """Send the next part of what is behind; False when ZeroMQ takes no more for now."""
        while self._waiting:
            if not self._send(self._waiting[0]):
                return False
            self._waiting.pop(0)
        if self._place != self.spool.end:
            chunk = self.spool.read(self._place, READ_BYTES)
            self._place = chunk.next
            self._hand_on(chunk.records)
            if self._place == self.spool.end and self.sent.seq < self.spool.last.seq:
                self._on_loss(self._loss(self.sent.seq + 1, self.spool.last.seq, self._last_ns))
        return not self._waiting

    def committed(self, commit: Commit, now_s: float) -> None:
        """Take in what the writer has; go back where it has less than was sent and is not getting on."""
        if self.stream.epoch < commit.retired.get(self.stream.connection_id, 0):
            durable = accepted = self.spool.last
        else:
            durable = commit.durable.get(self.stream, Mark())
            accepted = commit.accepted.get(self.stream, Mark())
        is_new, self._boot, knew_one = commit.boot != self._boot, commit.boot, self._boot is not None
        if accepted != self.accepted or not commit.taking or not knew_one or accepted.covers(self.sent):
            self._headway_s = now_s
        self.durable, self.accepted = durable, accepted
        if (is_new and knew_one) or not self.sent.covers(accepted):
            self._go_to_accepted(now_s)
        elif now_s - self._headway_s > STALLED_S:
            log.warning(
                "the writer has %d of %d ticks sent and is not getting on, sending again",
                accepted.seq,
                self.sent.seq,
            )
            self._go_to_accepted(now_s)
        self.spool.trim(durable)

    def _go_to_accepted(self, now_s: float) -> None:
        was, now = self.sent.seq, self.accepted.seq
        log.debug("epoch %d: going on after tick %d, was at %d", self.stream.epoch, now, was)
        self.sent = self.accepted
        self._waiting.clear()
        self._place = self.spool.seek(self.accepted)
        self._last_ns = 0
        self._headway_s = now_s

    def _hand_on(self, records: Iterable[Record]) -> None:
        losses: list[Loss] = []
        for day, run in self._runs(records, losses):
            batch = self._batch(day, run)
            if self._waiting or not self._send(batch):
                self._waiting.append(batch)
        for loss in losses:  # not earlier: whoever is told may append an event to this stream
            self._on_loss(loss)

    def _loss(self, first_seq: int, last_seq: int, to_ns: int) -> Loss:
        return Loss(self.stream.epoch, first_seq, last_seq, self._last_ns, to_ns)

    def _runs(self, records: Iterable[Record], losses: list[Loss]) -> Iterator[tuple[date, list[Record]]]:
        """Yield runs of records of one day, numbered without a hole, of which something is behind `sent`."""
        run: list[Record] = []
        run_day = date.min
        seq, event_seq = self.sent
        for record in records:
            last = record.first_seq + record.numbered - 1
            is_frame = record.kind == Kind.FRAME
            before = seq if is_frame else event_seq
            if record.kind > Kind.EVENT or record.numbered == 0 or last <= before:
                self._last_ns = record.recv_ns
                continue
            day = self._calendar.day_of(record.recv_ns)
            hole = record.first_seq > before + 1
            if run and (hole or day != run_day):
                yield run_day, run
                run = []
            if hole and is_frame:
                losses.append(self._loss(before + 1, record.first_seq - 1, record.recv_ns))
            run.append(record)
            run_day = day
            if is_frame:
                seq = last
            else:
                event_seq = last
            self._last_ns = record.recv_ns
        if run:
            yield run_day, run

    def _batch(self, day: date, run: Sequence[Record]) -> Batch:
        """Encode one run; `sent` moves to its end."""
        frames = [r for r in run if r.kind == Kind.FRAME]
        events = [r for r in run if r.kind == Kind.EVENT]
        header = Header(
            connection_id=self.stream.connection_id,
            day=day,
            epoch=self.stream.epoch,
            oldest_epoch=self._oldest_epoch(),
            after=self.sent,
            first=Mark(
                frames[0].first_seq if frames else self.sent.seq + 1,
                events[0].first_seq if events else self.sent.event_seq + 1,
            ),
            tick_count=sum(r.numbered for r in frames),
            event_count=len(events),
        )
        self.sent = header.last
        lines = self._encode(self.stream.epoch, frames) if frames else b""
        return [encode_header(header), lines, b"".join(r.payload for r in events)]


class Outbox:
    """All that one connection has to hand on: the running epoch's stream, and what older epochs have left."""

    def __init__(
        self,
        connection_id: int,
        opening: Opening,
        *,
        calendar: Calendar,
        encode: Encoder,
        send: Callable[[Batch], bool],
        on_loss: Callable[[Loss], None],
    ) -> None:
        def outlet(epoch: int, spool: Spool) -> Outlet:
            return Outlet(
                StreamId(connection_id, epoch),
                spool,
                calendar=calendar,
                encode=encode,
                send=send,
                oldest_epoch=lambda: min(self._leftovers, default=opening.epoch),
                on_loss=on_loss,
            )

        self.live = outlet(opening.epoch, opening.spool)
        self._leftovers = {epoch: outlet(epoch, spool) for epoch, spool in opening.leftovers.items()}
        self._heard = False  # from the writer: before that nobody knows what of the leftovers is stored

    @property
    def behind(self) -> bool:
        """Whether there is something to pump."""
        return self.live.behind or (self._heard and any(outlet.behind for outlet in self._leftovers.values()))

    @property
    def done(self) -> bool:
        """Whether everything that was ever spooled is durable."""
        return self.live.done and not self._leftovers

    @property
    def pending(self) -> int:
        """Ticks that are spooled and not yet durable."""
        return self.live.pending + sum(outlet.pending for outlet in self._leftovers.values())

    @property
    def spooled(self) -> list[tuple[int, int, int]]:
        """The epochs that may have something pending: each with its last tick, and how many of its ticks are."""
        outlets = [self.live, *self._leftovers.values()]
        return [(outlet.stream.epoch, outlet.spool.last.seq, outlet.pending) for outlet in outlets]

    @property
    def queued(self) -> int:
        """Ticks that are spooled and not yet handed to ZeroMQ."""
        return self.live.queued + sum(outlet.queued for outlet in self._leftovers.values())

    @property
    def bytes(self) -> int:
        """Size of the spools on disk."""
        return self.live.spool.bytes + sum(outlet.spool.bytes for outlet in self._leftovers.values())

    def pump(self) -> bool:
        """Send a part of what is behind, the running epoch first; False when ZeroMQ takes no more for now."""
        if not self.live.pump():
            return False
        if self._heard:
            for outlet in self._leftovers.values():
                if outlet.behind:
                    return outlet.pump()
        return True

    def committed(self, commit: Commit, now_s: float) -> None:
        """Take in a commit, and drop durable leftovers. Commits come in order; any may be lost or repeated."""
        self._heard = True
        self.live.committed(commit, now_s)
        for epoch, outlet in list(self._leftovers.items()):
            outlet.committed(commit, now_s)
            if outlet.done:
                outlet.spool.remove()
                del self._leftovers[epoch]
                log.info("what an earlier process had spooled (epoch %d) is stored, as far as it could be read", epoch)

    def close(self) -> None:
        """Let go of the files; what is spooled stays."""
        self.live.spool.close()
