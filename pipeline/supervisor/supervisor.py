"""The supervisor's loop: `mds run`.

It starts the writer, the workers, the HTTP process and, on request, the simulator, tells each worker what to subscribe,
restarts what dies, and answers the control socket. No tick passes through it: recording goes on without it, and the
next supervisor adopts what is running.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson
import zmq
import zmq.asyncio

from pipeline import __version__, role
from pipeline.config import CONNECTIONS, Config
from pipeline.credentials import StoredToken, TokenFile, expires_at
from pipeline.days import Calendar
from pipeline.epoch import epochs_held
from pipeline.errors import AlreadyRunningError, ConfigError, NotSubscribedError
from pipeline.events import SUPERVISOR_ID
from pipeline.files import FORMAT, SERVICE_LOCK, WRITER_LOCK, claim_format
from pipeline.log import hide, redact, show
from pipeline.notices import describe
from pipeline.outbox import Loss
from pipeline.records import Record
from pipeline.requests import FindParams, InstrumentParams, NoParams, OverviewParams, Restarted, RestartParams
from pipeline.status import Overview
from pipeline.store.files import event_files
from pipeline.store.format import require_known
from pipeline.supervisor.board import Board
from pipeline.supervisor.bulletin import Bulletin
from pipeline.supervisor.children import RENEW_S, WORKER_MODULE, Child, Children
from pipeline.supervisor.compaction import Compaction
from pipeline.supervisor.control import Method, answer
from pipeline.supervisor.desk import Desk
from pipeline.supervisor.guard import CHECK_S, Guard
from pipeline.supervisor.history import History, logged
from pipeline.supervisor.lists import Lists
from pipeline.supervisor.messages import START_S
from pipeline.supervisor.notify import Notifier
from pipeline.supervisor.opening import Opening
from pipeline.supervisor.orders import Orders
from pipeline.supervisor.resume import last_saved, subscribe
from pipeline.supervisor.roster import Roster
from pipeline.supervisor.rows import Row
from pipeline.supervisor.saved import FILE_NAME, SavedFile, due, on_wire, relieved, snapshot
from pipeline.supervisor.subscriptions import Subscriptions
from pipeline.supervisor.systemd import Systemd
from pipeline.supervisor.view import View
from pipeline.supervisor.watchdog import status_line
from pipeline.uplink import Uplink
from pipeline.wire import COMMANDS_SOCKET, CONTROL_SOCKET, STATUS_SOCKET

log = logging.getLogger(__name__)

SIMULATOR_MODULE = "pipeline.simulator"  # python -m ...
HTTP_MODULE = "pipeline.web"
WORKERS_END_S = 7.0  # a worker drains for at most worker.DRAIN_S and closes its socket before
WRITER_END_S = 1.5
SIMULATOR_END_S = 1.5  # it closes its sockets first
HTTP_END_S = 1.5  # likewise
OWN_EVENTS_S = 0.5
LAST_WORDS_S = 0.5
READ_BYTES = 2**24  # of a request; what is larger is not even read, and costs the client its socket
UNREAD_ORDERS = 1000
UNREAD_ANSWERS = 20  # for one client, before further ones are dropped: a whole status has a megabyte


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    received: int
    stored: int
    spooled: int
    drained: bool  # every worker handed on all it had


class Supervisor:
    """One run of the service. Construct, then `run`; sockets are bound in `run`."""

    def __init__(self, config: Config, *, simulate: bool, fresh: bool = False) -> None:
        self._config = config
        self._simulate = simulate
        self._fresh = fresh
        self._now = Calendar(config.storage.timezone).now
        self._subscriptions = Subscriptions(config.kite.max_connections, config.universe.overflow)
        self._roster = Roster(config, self._subscriptions, clock=self._now, log_event=self._log_event)
        self._background: set[asyncio.Task[None]] = set()
        self._misheard = 0
        self._stop = asyncio.Event()
        self._leave = asyncio.Event()
        self._restarting: set[asyncio.Task[int | None]] = set()
        self._systemd = Systemd()
        self._bulletin = Bulletin()
        self._notifier = Notifier(config)
        self._bulletin.listener = self._notifier.hear
        self._health = "starting"  # as the event log knows it
        self._sample_due_s = 0.0

    def lock(self) -> None:
        """Claim run folder and data folder.

        Raises AlreadyRunningError, ConfigError where they are not usable, FormatError where a newer version has
        recorded.
        """
        role.prepare_run_dir(self._config)
        storage = self._config.storage
        for key, folder in (("storage.data_dir", storage.data_dir), ("storage.spool_dir", self._config.spool_dir)):
            role.make_folder(key, folder)
        role.make_folder("storage.data_dir", self._config.state_dir)
        for path in (role.lock_path(self._config, role.SUPERVISOR), self._config.state_dir / SERVICE_LOCK):
            role.Lock(path).acquire(self._config.hash)
        writing = role.read_holder(self._config.state_dir / WRITER_LOCK)
        ours = role.read_holder(role.lock_path(self._config, role.WRITER))
        if writing is not None and (ours is None or ours.pid != writing.pid):
            raise AlreadyRunningError(
                f"{storage.data_dir} is written to by process {writing.pid} of another run folder; end that one first"
            )
        claim_format(self._config.state_dir)
        with contextlib.suppress(OSError):  # what cannot be read is told by who goes on with it
            require_known((), event_files(storage.data_dir)[-1:])  # of a copy without its state folder

    def _open_desk(self) -> None:
        self._saved = SavedFile(self._config.runtime.run_dir / FILE_NAME, self._snapshot)
        self._history = History(self._log_event)
        last = last_saved(self._config, self._log_event, simulated=self._simulate)
        self._orders = Orders(
            f"{os.getpid()}-{time.time_ns()}",
            self._send_order,
            on_wire(last) if last else None,
            relieved(last) if last else None,
            due(last) if last else None,
        )
        saved = None if self._fresh else last
        self._lists = Lists(
            self._config,
            simulated=self._simulate,
            clock=self._now,
            use=lambda listing: self._roster.use(listing, self._desk, self._history),
            log_event=self._log_event,
        )
        wanted = self._roster.begin(saved, self._lists.first())
        now = self._timestamp()
        subscribe(self._subscriptions, saved, self._config, wanted, history=self._history, now=now)
        self._desk = Desk(
            self._subscriptions,
            self._orders,
            self._history,
            clock=self._timestamp,
            state=self._state,
            save=self._saved.save,
            tokens=self._roster.tokens,
            listed=self._lists.settled,
        )
        self._guard = Guard(self._config, self._subscriptions, self._desk, self._children, self._log_event)
        self._opening = Opening(
            self._config, self._subscriptions, self._board, self._desk, clock=self._now, log_event=self._log_event
        )
        self._opening.begin(last)

    def _snapshot(self) -> bytes:
        return snapshot(
            self._subscriptions,
            self._config,
            simulated=self._simulate,
            wanted=self._roster.wanted,
            selected=self._roster.selected,
            expired=self._roster.expired,
            unheard=self._orders.unheard(),
            opens=self._opening.opens,
        )

    async def run(self, duration_s: float | None) -> Summary | None:
        """Record until a signal, a `shutdown` request, or the end of `duration_s`.

        With role.LEAVE_SIGNAL this process ends alone, and returns None.
        """
        loop = asyncio.get_running_loop()
        for number in role.STOP_SIGNALS:
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(role.LEAVE_SIGNAL, self._leave.set)
        if duration_s is not None:
            loop.call_later(duration_s, self._stop.set)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        waiting = zmq.asyncio.Context(context)
        status = self._bind(waiting, zmq.PULL, STATUS_SOCKET)
        self._commands = self._bind(waiting, zmq.ROUTER, COMMANDS_SOCKET)
        control = self._bind(waiting, zmq.ROUTER, CONTROL_SOCKET)
        self._board = Board(self._config, self._subscriptions, self._now, time.monotonic())
        uplink = self._uplink = Uplink(
            self._config,
            SUPERVISOR_ID,
            context,
            encode=_no_ticks,
            on_loss=_no_losses,
            on_commit=lambda commit: self._board.hear_commit(commit, time.monotonic()),
            on_event=self._tell,
        )
        self._children = Children(self._config, self._child_changed)
        started = {"format": FORMAT, "version": __version__, "simulated": self._simulate}
        self._log_event("service_started", started)
        self._open_desk()
        self._begin()
        self._notifier.start()
        role.spare_collector()
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._read_status(status)),
            asyncio.create_task(self._answer(control)),
            asyncio.create_task(uplink.read_commits()),
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._saved.keep_up()),
            asyncio.create_task(self._stop.wait()),
            asyncio.create_task(self._leave.wait()),
        ]
        following = tasks[2]
        renewing = asyncio.create_task(self._renew())
        compacting = asyncio.create_task(Compaction(self._config, self._log_event).run())
        beside = [asyncio.create_task(each) for each in (self._opening.run(), self._lists.run())]
        self._systemd.ready()
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self._systemd.stopping()
        for task in (renewing, compacting, *beside):
            task.cancel()
        self._guard.stop()
        for task in done:
            task.result()  # a task that ended by itself has failed
        notifier_ends = asyncio.create_task(self._notifier.end())
        is_leaving = self._leave.is_set() and not self._stop.is_set()
        summary = None if is_leaving else await self._end()
        await notifier_ends
        tasks += [compacting, *beside, *self._background]
        if is_leaving:
            await self._depart([task for task in tasks if task is not following])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # nobody waits on a socket when it is closed
        uplink.close()
        for bound in (status, self._commands, control):
            bound.close(linger=0)
        context.term()
        return summary

    def _bind(self, context: zmq.asyncio.Context, kind: int, name: str) -> zmq.asyncio.Socket:
        bound: zmq.asyncio.Socket = context.socket(kind)
        if kind == zmq.ROUTER:
            bound.setsockopt(zmq.MAXMSGSIZE, READ_BYTES)
            bound.setsockopt(zmq.SNDHWM, UNREAD_ANSWERS if name == CONTROL_SOCKET else UNREAD_ORDERS)
            bound.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a restarted worker takes its predecessor's name at once
        bound.bind(role.endpoint(self._config.runtime.run_dir, name))
        return bound

    # Beginning and end.

    def _begin(self) -> None:
        config = self._config
        if self._simulate:
            if any(config.storage.data_dir.glob("market_data_*.jsonl")):
                log.warning("simulated ticks go to %s, beside what is recorded there", config.storage.data_dir)
            self._add_simulator()
        self._children.add(role.WRITER, "pipeline.writer")
        for connection_id in CONNECTIONS:
            in_use = connection_id <= config.kite.max_connections
            if in_use or epochs_held(config, connection_id):  # an unused one hands on what it has left, and idles
                self._children.add(role.worker_role(connection_id), WORKER_MODULE, str(connection_id))
        if config.http.address is not None:
            self._children.add(role.HTTP, HTTP_MODULE)
        workers = dict.fromkeys(map(role.worker_role, CONNECTIONS), WORKER_MODULE)
        self._children.end_unwanted(workers | {role.SIMULATOR: SIMULATOR_MODULE, role.HTTP: HTTP_MODULE})
        self._roster.start(self._desk, self._history)
        self._desk.tell_workers()
        self._in_background(self._remember())

    async def _remember(self) -> None:
        """Save what is subscribed, and learn what was asked for before this run."""
        await self._saved.save()
        earlier = await asyncio.to_thread(logged, self._config.storage.data_dir, self._uplink.epoch)
        self._history.recall(earlier.requests)
        self._bulletin.recall(earlier.events)

    def _add_simulator(self) -> None:
        simulator = self._config.simulator
        self._children.add(role.SIMULATOR, SIMULATOR_MODULE, "--host", simulator.host, "--port", str(simulator.port))

    async def _end(self) -> Summary:
        """End everything in order: workers hand on what they have, then the writer makes it durable."""
        log.info("ending: the connections close, then everything received is stored")
        names = [role.worker_role(c) for c in CONNECTIONS]
        ending = (self._children.end(name, WORKERS_END_S) for name in names)
        await asyncio.gather(*ending, self._children.end(role.HTTP, HTTP_END_S))
        drained = not any(epochs_held(self._config, connection_id) for connection_id in CONNECTIONS)
        self._log_event("service_stopped", {"drained": drained})
        await self._uplink.finish(self._config.storage.commit_interval_ms / 1000 + OWN_EVENTS_S)
        await self._children.end(role.WRITER, WRITER_END_S)
        await self._children.end(role.SIMULATOR, SIMULATOR_END_S)
        if drained:
            await self._hear_last_words()
        received, stored, spooled = self._board.totals()
        return Summary(received, stored, 0 if drained else spooled, drained)

    async def _depart(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """End alone: the others go on recording. What is being restarted now is brought to its end before."""
        if self._restarting:
            await asyncio.wait(self._restarting, timeout=RENEW_S)
        self._children.let_go()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._log_event("supervisor_left", {})
        await self._saved.save()
        await self._uplink.finish(self._config.storage.commit_interval_ms / 1000 + OWN_EVENTS_S)

    async def _hear_last_words(self) -> None:
        """Wait for the last messages of the others: they may arrive after these are gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                while not self._board.all_stored:  # noqa: ASYNC110  once, for a moment, at the very end
                    await asyncio.sleep(0.005)

    # What happens meanwhile.

    def _child_changed(self, child: Child) -> None:
        if child.pid is None and child.state in ("restarting", "failed"):
            fields = {"process": child.role, "exit_code": child.exit_code, "given_up": child.state == "failed"}
            self._log_event("process_died", fields)
        elif child.pid is not None:
            is_adopted = child.process is None
            self._log_event("process_started", {"process": child.role, "pid": child.pid, "adopted": is_adopted})
        self._guard.hear_child(child)

    def _log_event(self, event: str, fields: dict[str, Any]) -> str:
        """Log an event; return its time."""
        now_ns = self._uplink.clock.now_ns()
        self._uplink.log_event(event, {"connection_id": SUPERVISOR_ID, **fields}, now_ns)
        return self._uplink.calendar.timestamp(now_ns)

    def _tell(self, event: str, timestamp: str, fields: Mapping[str, Any]) -> None:
        told = describe(event, fields)
        if told is not None:
            self._bulletin.tell(event, role.SUPERVISOR, timestamp, told)

    async def _read_status(self, status: zmq.asyncio.Socket) -> None:
        while True:
            data = await status.recv()
            try:
                self._hear(orjson.loads(data))
            except (ValueError, KeyError, TypeError) as error:  # of another version, or rubbish
                if not self._misheard:
                    log.error("a process says what cannot be understood (%r): %.200r", error, data)
                self._misheard += 1

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] == "log":
            show(message)
            return
        if message["type"] == "event":
            told = (message["text"], message["details"])
            self._bulletin.tell(message["event"], message["role"], message["timestamp"], told)
            return
        child = self._children.all.get(message["role"])
        if child is None or child.pid not in (None, message["pid"]):
            return  # the last words of a process that has been replaced; without a successor they count
        if message["type"] != "starting":
            self._board.hear(message, message["sent_s"])
        if message["type"] == "status" and "connection_id" in message:
            self._desk.hear(message)
        self._guard.hear_status(message)

    async def _watch(self) -> None:
        token_file = TokenFile(self._config.token_file)
        self._note_expiry(_stored_in(token_file))
        while not self._stop.is_set():
            self._guard.check()
            self._opening.check()
            stored = token_file.poll()
            if stored is not None:  # the workers look for themselves; those that are started from now on get it
                self._config = self._config.with_stored(stored)
                self._note_expiry(stored)
                hide(*self._config.secrets)
                self._children.use(self._config)
                self._lists.use_credentials(self._config)
            self._look(time.monotonic())
            await asyncio.sleep(CHECK_S)
        await asyncio.Event().wait()  # what ends now is meant to

    def _note_expiry(self, stored: StoredToken | None) -> None:
        """Take note of when the present token dies; nobody knows of one that the environment has."""
        if stored is not None and stored.access_token == self._config.access_token:
            self._board.token_expires = expires_at(stored.stored_at)

    def _look(self, now_s: float) -> None:
        """Keep the figures of the second, and write down when it goes better or worse."""
        if now_s >= self._sample_due_s:
            self._sample_due_s = now_s + 1.0
            self._board.sample(now_s)
            self._roster.look(self._desk, self._history)
        view = self._view()
        health = view.health
        is_starting = self._health == "starting" and health.status != "healthy" and health.uptime_seconds < START_S
        if health.status != self._health and not is_starting:
            was, self._health = self._health, health.status
            self._log_event("health", {"status": health.status, "was": was, "reasons": health.reasons})
        self._notifier.look(view, now_s)
        self._systemd.look(redact(status_line(health), self._config.secrets), lambda: view.fault, now_s)

    async def _renew(self) -> None:
        """Restart what was adopted from another version or configuration, one at a time."""
        for name in self._children.outdated():
            log.info("%s has another version or configuration, restarting it", name)
            await self._guard.until_back(name)
            await self._restart(name)
            await self._guard.until_back(name)

    async def _restart(self, name: str) -> int | None:
        """End a process in order and start it anew, with others in its place if possible; return the new pid."""
        await self._guard.relieve(name)
        self._guard.hear_end(name)
        restarting = asyncio.create_task(self._children.restart(name))
        self._restarting.add(restarting)
        restarting.add_done_callback(self._restarting.discard)
        return await asyncio.shield(restarting)

    def _send_order(self, connection_id: int, order: bytes) -> None:
        """Send at once, or not at all: who is just being restarted asks for it when it is back."""
        sent = self._commands.send_multipart([role.worker_role(connection_id).encode(), order], zmq.NOBLOCK)
        cast("asyncio.Future[Any]", sent).exception()

    async def _answer(self, control: zmq.asyncio.Socket) -> None:
        """Answer requests, each in a task of its own: some wait for a connection."""
        methods = self._methods()

        async def carry_out(envelope: list[bytes], request: bytes) -> None:
            response = await answer(request, methods)
            await control.send_multipart([*envelope, response])

        while True:
            *envelope, request = await control.recv_multipart()
            self._in_background(carry_out(envelope, request))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _state(self, connection_id: int) -> tuple[str, str]:
        child = self._children.all.get(role.worker_role(connection_id))
        return self._board.state(connection_id, child, time.monotonic())

    def _timestamp(self) -> str:
        return self._now().isoformat(timespec="microseconds")

    def _view(self) -> View:
        return View(
            self._board,
            self._children.all,
            os.getpid(),
            time.monotonic(),
            subscription_requests=self._history.count,
            unsaved=self._saved.fault,
            unresolved=self._roster.reasons,
        )

    def _methods(self) -> dict[str, Method]:
        def part(name: str) -> Method:
            return Method(NoParams, lambda _: getattr(self._view(), name))

        async def restart(params: RestartParams) -> Restarted:
            return Restarted(role=params.role, pid=await self._restart(params.role))

        def shutdown(_: NoParams) -> dict[str, bool]:
            self._stop.set()
            return {"ending": True}

        def overview(params: OverviewParams) -> Overview:
            return self._view().overview(self._bulletin.after(params.after))

        def instrument(params: InstrumentParams) -> Row:
            token = self._roster.tokens([params.token])[0]
            found = self._board.rows.one(token)
            if found is None:
                raise NotSubscribedError(
                    f"not subscribed: {params.token}; mds instruments lists what is", {"unknown": [params.token]}
                )
            return found

        parts = ("status", "health", "connections", "instruments", "storage", "metrics", "processes")
        return {
            **self._desk.methods,
            **{name: part(name) for name in parts},
            "overview": Method(OverviewParams, overview),
            "series": Method(NoParams, lambda _: self._board.series()),
            "find_instruments": Method(FindParams, self._board.rows.find),
            "instrument": Method(InstrumentParams, instrument),
            "restart": Method(RestartParams, restart),
            "shutdown": Method(NoParams, shutdown),
        }


def _stored_in(token_file: TokenFile) -> StoredToken | None:
    """Return what is stored, None where that cannot be read: who needs it has said so."""
    with contextlib.suppress(ConfigError):
        return token_file.read()
    return None


def _no_ticks(epoch: int, frames: Sequence[Record]) -> bytes:
    raise AssertionError(f"the supervisor's stream has no ticks: {epoch}, {len(frames)} frames")


def _no_losses(loss: Loss) -> None:
    raise AssertionError(f"the supervisor's stream has no ticks: {loss}")
