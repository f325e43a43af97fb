"""A worker process: one Kite connection, one spool; frames in, batches of ticks out.

Everything happens on one asyncio loop, with Twisted's reactor on it: nothing here waits or needs a lock. Frames
that arrive together are spooled with one write and leave together. What the writer does not take stays in the spool,
from which it is read when the writer takes again.
"""

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import zmq
import zmq.asyncio

from pipeline import role
from pipeline.arrivals import Arrivals
from pipeline.config import Config, Mode, from_child
from pipeline.credentials import StoredToken, TokenFile
from pipeline.days import NS_PER_S
from pipeline.digest import Digest
from pipeline.errors import ConfigError, MdsError, SpoolFullError
from pipeline.files import FORMAT
from pipeline.gaps import Gap, GapTracker
from pipeline.kite import rest
from pipeline.kite.feed import Batch, Feed, StateChange, classify_text, install_reactor, log_twisted
from pipeline.kite.packets import Decoder, split
from pipeline.lag import Lag
from pipeline.log import hide
from pipeline.logbook import Logbook
from pipeline.outbox import Loss
from pipeline.records import Record
from pipeline.spool import Incoming
from pipeline.ticks import StoredTick, encode_lines
from pipeline.uplink import Uplink
from pipeline.wire import COMMANDS_SOCKET, Commit, Order, WireError, decode_order

log = logging.getLogger("pipeline.worker")  # not __main__, as which it is run

TICK_S = 1.0  # digests, a look at the clock
HEARTBEATS = 2  # meanwhile: the supervisor kills who is silent for four of them
PACKETS_BYTES = 2  # of a message with packets, at least: a heartbeat has one
PAUSE_NS = 2 * NS_PER_S  # between two frames: worth asking whether the machine slept
ORDER_S = 2.0  # for the first order, where an epoch ends that has had none
ASK_S = 3.0  # for Kite's word on a token
DRAIN_S = 5.5  # at the end, for that order, and for the writer to make everything durable


class Worker:
    """One connection through one epoch. It listens to its feed."""

    def __init__(self, config: Config, connection_id: int, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        self._connection_id = connection_id
        # First of all: what is ordered before it is connected is lost.
        self._commands: zmq.asyncio.Socket = zmq.asyncio.Context(context).socket(zmq.DEALER)
        self._commands.setsockopt(zmq.ROUTING_ID, role.worker_role(connection_id).encode())
        self._commands.connect(role.endpoint(config.runtime.run_dir, COMMANDS_SOCKET))
        self._status = role.StatusLine(context, config.runtime.run_dir, role.worker_role(connection_id))
        self._uplink = Uplink(
            config,
            connection_id,
            context,
            encode=self._encode,
            on_loss=self._lost,
            on_commit=self._committed,
            on_event=self._status.send_event,
        )
        self._logbook = Logbook(self._uplink, connection_id)
        self._stamp = self._uplink.calendar.timestamp
        self._decoders: dict[int, Decoder] = {}  # by epoch
        self._digest = Digest()
        self._digested_seq = 0  # ticks are counted once, however often they are sent
        self._gaps = GapTracker(self._uplink.predecessor)
        self._losses: set[Loss] = set()
        self._lag = Lag()
        self._frames: list[tuple[int, bytes]] = []  # arrived in this turn of the loop
        self._refused_ticks = 0
        self._service = ""  # who orders, and the number of its last order
        self._version = 0
        self._lost_order = False  # one did not arrive: the next one has to be whole
        self._wanted: dict[int, Mode] = {}
        self._arrivals = Arrivals(self._take, self._report)
        self._subscribed_ns = 0  # the first frame after Kite had taken all that is wanted
        self._announce_due = False  # the event log does not know the present subscription yet
        self._state = StateChange("idle")
        self._live_since_ns = 0
        self._closing_ns = 0
        self._last_tick_ns = 0
        self._last_tick_s = 0.0  # the same on a clock that nobody can set
        self._stop, self._ordered = asyncio.Event(), asyncio.Event()
        self._token_file = TokenFile(config.token_file)
        self._config = config  # with the credentials in use
        self._feed = Feed(
            url=config.kite.ws_url,
            api_key=config.api_key.get_secret_value(),
            access_token=config.access_token.get_secret_value(),
            batch_size=config.universe.batch_size,
            listener=self,
            is_accepted=lambda key, token: asyncio.to_thread(rest.is_accepted, config.kite.api_url, key, token, ASK_S),
        )

    async def run(self, *, drain: bool = False) -> int:
        """Record until SIGTERM; return the exit code. With `drain` only hand on what earlier epochs have left."""
        loop = asyncio.get_running_loop()
        for number in role.STOP_SIGNALS:
            loop.add_signal_handler(number, self._stop.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, role.STOP_SIGNALS)  # it began with them blocked
        self._begin_epoch()
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._uplink.read_commits()),
            asyncio.create_task(self._read_commands()),
            asyncio.create_task(self._tick()),
            asyncio.create_task(self._stop.wait()),
        ]
        if drain:
            self._stop.set()
        else:
            tasks.append(self._feed.start())
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # a task that ended by itself has failed
        return await self._end(tasks)

    # What the feed reports.

    def on_frame(self, payload: bytes) -> None:
        """Keep a binary message for the end of this turn of the loop."""
        if not self._frames:
            asyncio.get_running_loop().call_soon(self._flush)
        self._frames.append((self._uplink.clock.now_ns(), payload))

    def on_text(self, payload: bytes) -> None:
        """Log a text message as an event."""
        self._flush()
        self._logbook.text(classify_text(payload))

    def on_state(self, change: StateChange) -> None:
        """Log what became of the connection, and open a gap where it is down."""
        self._flush()
        before, self._state = self._state.state, change
        now_ns = self._uplink.clock.now_ns()
        if change.state != "live":
            self._arrivals.lost()
        if change.state == "live":
            self._live_since_ns = now_ns
            self._announce_due = True
            self._logbook.connected()
        elif change.cause is not None:
            self._interrupt(change.cause, now_ns)
            if change.is_new:
                self._logbook.ended(change, was_live=before == "live")
        elif change.state == "idle" and before == "live":
            self._logbook.log("idle", {})
        if change.state == "idle":
            self._note_frame(now_ns)  # that it was closed in order shows as much
            self._uplink.mark_wanted(wanted=False)
        elif change.state == "stopped" and before == "live":
            self._note_close()
        self._report()
        if change.state == "unauthorised" and change.retry_in_s is None:
            self._try_stored_token()

    def on_sent(self, batch: Batch) -> None:
        """Follow what has been sent to Kite: the supervisor waits for it."""
        if batch.action == "subscribe":
            self._logbook.returning(batch.tokens)
        self._arrivals.sent(batch)
        self._report()

    def _take(self, tokens: Iterable[int]) -> None:
        """Answer for these from now on: they are recorded here."""
        self._gaps.taken(tokens, self._uplink.clock.now_ns())

    # Frames to ticks.

    def _flush(self) -> None:
        """Spool the frames that have arrived, and hand their ticks on."""
        if not self._frames:
            return
        frames, self._frames = self._frames, []
        first_ns, last_ns = frames[0][0], frames[-1][0]
        self._arrivals.hear()
        if not self._wanted and all(len(payload) < PACKETS_BYTES for _, payload in frames):
            self._note_heartbeat(last_ns)
            return
        incoming, rejects, now_s = [], [], _boot_s()
        for recv_ns, payload in frames:
            layout = split(payload)
            incoming.append(Incoming(recv_ns, layout.count, payload))
            if layout.count:
                self._last_tick_ns, self._last_tick_s = recv_ns, now_s
            if layout.rejects:
                rejects.append((recv_ns, layout.rejects))
        if first_ns - self._gaps.last_frame_ns > PAUSE_NS:
            self._look_for_suspension()
        complete_ns = self._completed_by(frames)
        try:
            self._uplink.append_frames(incoming, self._gaps.since_ns if complete_ns is None else None)
        except SpoolFullError as error:
            self._refuse(incoming, error)
            return
        self._lag.received(self._uplink.outbox.live.spool.last.seq, first_ns)
        if complete_ns is not None:
            self._complete(complete_ns)
        self._note_frame(last_ns)
        for recv_ns, found in rejects:
            self._logbook.rejects(recv_ns, found)

    def _committed(self, _: Commit) -> None:
        self._lag.durable(self._uplink.outbox.live.durable.seq)

    def _note_heartbeat(self, recv_ns: int) -> None:
        """Note a frame of a socket that is only kept open."""
        if not self._feed.confirmed:
            self._logbook.unsubscribed()
        self._note_frame(recv_ns)

    def _note_frame(self, recv_ns: int) -> None:
        was_parting = self._gaps.is_parting
        self._gaps.last_frame_ns = recv_ns
        if was_parting:
            if not self._wanted:
                self._uplink.mark_wanted(wanted=False)
            self._report()

    def _note_close(self) -> None:
        """Remember for the next epoch what a socket that was closed in order shows: all came until we asked for that.

        Not until the answer came: the server had closed before, nobody knows when.
        """
        until_ns = max(self._closing_ns, self._gaps.last_frame_ns)
        self._note_frame(until_ns)
        if not self._gaps.is_open and not self._announce_due:
            self._uplink.mark_told(until_ns)

    def _completed_by(self, frames: Sequence[tuple[int, bytes]]) -> int | None:
        """Return the time of the frame from which on all that is wanted is received, None if it is not one of these."""
        is_due = self._announce_due or self._gaps.is_open
        return self._arrivals.all_sent(frames) if is_due and self._feed.confirmed == self._wanted else None

    def _complete(self, recv_ns: int) -> None:
        """End the gap, if any, with the frame of this time."""
        self._arrivals.complete()
        self._subscribed_ns = recv_ns
        if self._announce_due:
            self._announce_due = False
            self._logbook.subscribed(self._wanted)
        self._logbook.gaps(self._gaps.closed(recv_ns))

    def _encode(self, epoch: int, frames: Sequence[Record]) -> bytes:
        """Decode frames of one stream and return their JSON lines."""
        decoder = self._decoders.get(epoch)
        if decoder is None:
            decoder = self._decoders[epoch] = Decoder(self._uplink.calendar, self._connection_id, epoch)
        ticks: list[StoredTick] = []
        for record in frames:
            ticks += decoder.decode(record.payload, split(record.payload), record.recv_ns, record.first_seq)
        if epoch == self._uplink.epoch and ticks[-1].seq > self._digested_seq:
            fresh = ticks[max(self._digested_seq + 1 - ticks[0].seq, 0) :]
            self._digest.add(fresh)
            self._digested_seq = ticks[-1].seq
            if self._arrivals.unseen:
                self._arrivals.see({tick.instrument_token for tick in fresh})
        return encode_lines(ticks)

    # What is missed.

    def _lost(self, loss: Loss) -> None:
        """Log what the spool has lost, once, however often the outlet comes by."""
        if loss not in self._losses:
            self._losses.add(loss)
            numbers = {"gap_epoch": loss.epoch, "first_seq": loss.first_seq, "last_seq": loss.last_seq}
            self._logbook.gap(Gap("spool damaged", loss.from_ns, loss.to_ns, sorted(self._wanted)), **numbers)

    def _refuse(self, frames: Sequence[Incoming], error: SpoolFullError) -> None:
        """Count frames that the spool has no room for; the gap record follows when there is room again."""
        if not self._gaps.is_open:
            log.error("%s: ticks are being lost until the writer catches up", error)
        self._interrupt("spool full", frames[0].recv_ns)
        self._refused_ticks += sum(frame.ticks for frame in frames)

    def _look_for_suspension(self) -> None:
        asleep_ns = self._uplink.clock.suspended_ns()
        if asleep_ns and self._gaps.last_frame_ns:
            log.warning("the machine was suspended for %.1f s", asleep_ns / NS_PER_S)
            self._interrupt("suspended", self._uplink.clock.now_ns())

    def _interrupt(self, cause: str, now_ns: int) -> None:
        self._logbook.gaps(self._gaps.interrupted(cause, now_ns))

    # What runs beside the frames.

    async def _read_commands(self) -> None:
        """Take the supervisor's orders."""
        while True:
            try:
                order = decode_order(await self._commands.recv())
            except WireError as error:
                log.error("from the supervisor: %s", error)
                continue
            if self._stop.is_set() and self._ordered.is_set():
                continue  # what this epoch had and misses from now on is its successor's to tell
            self._obey(order)

    def _obey(self, order: Order) -> None:
        """Want from now on what the order says, unless one before it was lost: the report asks for a whole one then."""
        if order.after and (order.service, order.after) != (self._service, self._version):
            if order.service != self._service or order.version > self._version:
                log.debug("order %d follows on %d, which has not come: asking for all", order.version, order.after)
                self._lost_order = True
                self._report()
            return
        wanted = {**self._wanted, **order.changed} if order.after else dict(order.changed)
        for token in order.dropped:
            wanted.pop(token, None)
        log.debug(
            "order %d: %d instruments have come or have another mode, %d have gone, %d are wanted",
            order.version,
            len(order.changed),
            len(order.dropped),
            len(wanted),
        )
        is_overdue = bool(order.due) and not self._wanted
        # The first order of all may be for nothing.
        if wanted != self._wanted or order.missing or is_overdue or not self._service:
            self._want(wanted, order)
        self._gaps.taken(order.changed.keys() - set(order.held), self._uplink.clock.now_ns())
        self._service, self._version, self._lost_order = order.service, order.version, False
        self._ordered.set()
        self._feed.set_instruments(wanted, keep_open=order.keep_open)
        self._report()

    def _want(self, wanted: dict[int, Mode], order: Order) -> None:
        if not self._wanted:
            self._uplink.clock.suspended_ns()  # what it has slept through with nothing to record is no loss
        gaps = self._gaps.want(
            wanted,
            self._uplink.clock.now_ns(),
            before=order.before,
            relieved=order.relieved,
            held=order.held,
            missing=order.missing,
            due=order.due,
            rests=order.rests,
            down_by=self._state.cause if self._state.state in ("waiting", "unauthorised") else None,
        )
        self._logbook.gaps(gaps)
        if wanted or not self._gaps.is_parting:
            self._uplink.mark_wanted(wanted=bool(wanted), missed_since_ns=self._gaps.since_ns)
        self._wanted = wanted
        self._announce_due = True

    async def _tick(self) -> None:
        while True:
            for _ in range(HEARTBEATS):
                self._report()
                self._look_for_token()
                await asyncio.sleep(TICK_S / HEARTBEATS)
            step = self._uplink.clock.check()
            if step:
                self._logbook.log("clock_step", {"offset_s": step.offset_ns / NS_PER_S, "followed": step.followed})
                log.warning(
                    "the clock was set %s by %.3f s%s",
                    "forward" if step.offset_ns > 0 else "back",
                    abs(step.offset_ns) / NS_PER_S,
                    "" if step.followed else "; receive times go on without it until this process is restarted",
                )
            digest = self._digest.take()
            if digest:
                self._status.send("digest", connection_id=self._connection_id, ticks=digest)

    def _look_for_token(self) -> None:
        """Take up an access token that was stored since this process began."""
        stored = self._token_file.poll()
        if stored is not None:
            log.info("there is a new access token")
            self._use(stored)

    def _try_stored_token(self) -> None:
        """Try the token in the file, if it is another one: what this process began with may be older."""
        try:
            stored = self._token_file.read()
        except ConfigError as error:
            log.warning("the stored access token cannot be used: %s", error)
            return
        if stored is None:
            return
        found = self._config.with_stored(stored)
        if (found.api_key, found.access_token) != (self._config.api_key, self._config.access_token):
            log.info("trying the stored access token instead")
            self._use(stored)

    def _use(self, stored: StoredToken) -> None:
        self._config = self._config.with_stored(stored)
        hide(*self._config.secrets)
        self._feed.set_credentials(
            self._config.api_key.get_secret_value(), self._config.access_token.get_secret_value()
        )

    def _report(self) -> None:
        outbox, before = self._uplink.outbox, self._uplink.predecessor
        is_live = self._state.state == "live"
        unsent = self._unsent() if is_live else []
        all_known = not unsent and not self._announce_due
        self._status.send(
            "status",
            connection_id=self._connection_id,
            service=self._service,
            version=self._version,
            lost_order=self._lost_order,
            unsent=unsent,
            unseen=list(self._arrivals.unseen),
            parting=self._gaps.is_parting,
            covered_ns=self._subscribed_ns if all_known else self._uplink.clock.now_ns(),
            state=self._state_name(),
            reason=self._state.reason,
            epoch=self._uplink.epoch,
            previous_epoch=before.epoch,
            previous_last_seq=before.last.seq if before.last else None,
            wanted=len(self._wanted),
            confirmed=len(self._feed.confirmed),
            ticks_received=outbox.live.spool.last.seq,
            spooled=outbox.spooled,
            spool_bytes=outbox.bytes,
            ticks_refused=self._refused_ticks,
            lag_ms=round(self._lag.age_ms(self._uplink.clock.now_ns()), 1),
            queue_depth=outbox.queued,
            rejects=self._logbook.rejected,
            reconnects=self._logbook.reconnects,
            gaps=self._logbook.gap_count,
            gap_open=self._gaps.is_open and bool(self._wanted),
            tick_age_s=_boot_s() - self._last_tick_s if self._last_tick_ns else None,
            last_tick_time=self._stamp(self._last_tick_ns) if self._last_tick_ns else None,
            live_since=self._stamp(self._live_since_ns) if is_live else None,
        )

    def _unsent(self) -> list[int]:
        """Return for which instruments Kite does not know yet what is wanted."""
        confirmed = self._feed.confirmed
        if confirmed == self._wanted:
            return []
        new = [token for token, mode in self._wanted.items() if confirmed.get(token) != mode]
        return new + [token for token in confirmed if token not in self._wanted]

    def _state_name(self) -> str:
        """Return the connection's state as people and the supervisor know it."""
        if self._state.state == "waiting":
            known = {"silent": "silent"} | ({"refused": "rate_limited"} if self._state.http_status == 429 else {})
            return known.get(self._state.cause or "", "down")
        return self._state.state

    # Beginning and end.

    def _begin_epoch(self) -> None:
        before = self._uplink.predecessor
        fields = {
            "format": FORMAT,
            "previous_epoch": before.epoch,
            "previous_last_seq": before.last.seq if before.last else None,
            "previous_last_event_seq": before.last.event_seq if before.last else None,
            "previous_end": before.end,
        }
        self._logbook.log("epoch", fields)
        if before.end == "unknown":
            log.error("nothing tells what the previous epoch (%s) had spooled: its spool is gone", before.epoch)
            to_ns = self._uplink.clock.now_ns()
            self._logbook.gap(Gap("spool lost", 0, to_ns), gap_epoch=before.epoch)

    async def _end(self, tasks: Sequence[asyncio.Task[Any]]) -> int:
        """Close the socket, hand on everything, and wait until it is durable; return the exit code."""
        self._closing_ns = self._uplink.clock.now_ns()
        await self._feed.stop()
        self._flush()
        loop = asyncio.get_running_loop()
        drained_by_s = loop.time() + DRAIN_S
        if self._gaps.is_open:
            await self._await_order()
        now_ns = self._uplink.clock.now_ns()
        if gaps := self._gaps.closed(now_ns):
            self._logbook.gaps(gaps)
            self._uplink.mark_told(now_ns)
        outbox = self._uplink.outbox
        self._logbook.log("stopped", {"last_seq": outbox.live.spool.last.seq})
        stored = await self._uplink.finish(drained_by_s - loop.time())
        if not stored:
            log.error("the writer did not take everything: %d ticks stay in the spool", outbox.pending)
        self._report()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # nobody waits on a socket when it is closed
        self._uplink.close()
        self._commands.close(linger=0)
        self._status.close()
        return 0 if stored else role.EXIT_SPOOLED

    async def _await_order(self) -> None:
        """Wait for the first order, for a moment: only it tells what the epoch before had, and so has missed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ORDER_S):
                await self._ordered.wait()


def main() -> int:
    """Run a worker: `python -m pipeline.worker CONNECTION [--drain]`, by the supervisor; return the exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, role.STOP_SIGNALS)  # until the loop can end what it has begun
    connection_id = int(sys.argv[1])
    config = from_child()
    name = role.worker_role(connection_id)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    role.set_up_log(config, name, context)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        role.Lock(role.lock_path(config, name)).acquire(config.hash)
        install_reactor(loop)
        log_twisted()
        return loop.run_until_complete(_run(config, connection_id, context, drain="--drain" in sys.argv[2:]))
    except MdsError as error:
        log.error("%s", error)
        return error.exit_code
    except Exception:
        log.exception("%s has failed", name)
        return 1


async def _run(config: Config, connection_id: int, context: "zmq.Context[zmq.Socket[bytes]]", *, drain: bool) -> int:
    with role.StartSigns(context, config.runtime.run_dir, role.worker_role(connection_id)):
        worker = Worker(config, connection_id, context)
        role.spare_collector()
    return await worker.run(drain=drain)


def _boot_s() -> float:
    """Return the time on a clock that goes on through suspension."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    sys.exit(main())
