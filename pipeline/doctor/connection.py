"""One connection in depth: what it does, what it has in its spool, what happened to it today, who carries for whom."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError

from pipeline import role
from pipeline.client import Client
from pipeline.config import Config
from pipeline.days import Calendar
from pipeline.doctor import connections, credentials, folders, processes
from pipeline.doctor.finding import Check, Finding, cleaned
from pipeline.doctor.task import Deadline, Task
from pipeline.epoch import epochs_held
from pipeline.errors import ControlError, MdsError
from pipeline.events import source_of
from pipeline.files import event_file_name
from pipeline.log import redact
from pipeline.notices import describe
from pipeline.requests import MAX_PAGE
from pipeline.status import ConnectionStatus, InstrumentSubscription
from pipeline.store.files import Block, read_blocks

TIME_S = 8.0
LATEST = 10
SHOWN_TOKENS = 20
SUBSCRIPTIONS = "subscriptions.json"  # in the run folder; the supervisor's
UNCONNECTED = frozenset({"disconnected", "not_connected", "idle", "stopped"})  # from then on there is no socket
KINDS = frozenset({"connected", "gap", *UNCONNECTED})  # that are told


class Carried(NamedTuple):
    """Instruments of a connection that another one records."""

    home: int
    carrier: int
    instruments: int


class Happening(NamedTuple):
    """What happened to the connection."""

    timestamp: str
    event: str
    text: str


class History(NamedTuple):
    """What happened today."""

    latest: list[Happening]  # oldest first
    unconnected_since: str | None  # None: it has a socket, or nothing is known


class Depth(NamedTuple):
    """Everything that is known of a connection; without a service what its files tell."""

    connection_id: int
    status: ConnectionStatus | None
    fault: str  # why the service says nothing
    never_ticked: list[int]
    spool_epochs: list[int]
    spool_bytes: int
    carried: list[Carried]
    latest: list[Happening]  # of today, oldest first
    unconnected_since: str | None  # likewise
    findings: list[Finding]

    @property
    def since(self) -> str | None:
        """Since when it is in its state: connected, or else without a socket, as far as today's events tell."""
        return self.status.start_time if self.status and self.status.start_time else self.unconnected_since

    def to_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {
            "connection_id": self.connection_id,
            "status": self.status.model_dump() if self.status else None,
            "fault": self.fault,
            "since": self.since,
            "never_ticked": self.never_ticked,
            "spool": {"epochs": self.spool_epochs, "bytes": self.spool_bytes},
            "carried": [each._asdict() for each in self.carried],
            "latest_events": [each._asdict() for each in self.latest],
        }


def examine(config: Config, connection_id: int) -> Depth:
    """Look at one connection. Raises MdsError where its files cannot be read."""
    deadline = Deadline(TIME_S)
    today = Calendar(config.storage.timezone).now().date()
    secrets = (*config.secrets, *credentials.gather(config).secrets)
    asked = Task(lambda: _ask(config, connection_id))
    files = Task(lambda: _read(config, connection_id, today))
    status, never, fault = None, list[int](), ""
    try:
        status, rows = asked.result(deadline.left_s)
        never = [row.instrument_token for row in rows if not row.tick_count]
    except (MdsError, TimeoutError) as error:
        fault = str(error)
    try:
        epochs, size, carried, history = files.result(deadline.left_s)
    except OSError as error:  # TimeoutError among them
        raise MdsError(f"{error.filename or config.spool_dir}: {error.strerror or error}") from None
    clean = [happening._replace(text=redact(happening.text, secrets)) for happening in history.latest]
    findings = [cleaned(finding, secrets) for finding in judge(config, connection_id, status, fault)]
    since = history.unconnected_since
    return Depth(connection_id, status, fault, never, epochs, size, carried, clean, since, findings)


def judge(config: Config, connection_id: int, status: ConnectionStatus | None, fault: str) -> list[Finding]:
    """Judge the connection and its process."""
    name = role.worker_role(connection_id)
    holder, is_known = None, True
    try:
        holder = role.read_holder(role.lock_path(config, name))
    except MdsError:  # another user's, for instance
        is_known = False
    if status is not None:
        findings = connections.judge(status)
    else:
        check = Check(connections.AREA, f"connection_{connection_id}")
        nobody = is_known and not holder
        why = "nothing is recorded on it" if nobody else "its process may be recording, but nobody tells"
        findings = [check.failure(fault, why, "mds run; where it runs: mds doctor")]
    if holder:
        held = processes.Holding(holder, processes.state_of(holder.pid))
        findings.append(processes.judge_process(name, held, "", config.runtime.run_dir))
    return findings


def recent(blocks: Iterable[Any], connection_id: int, limit: int = LATEST) -> History:
    """Return what the events of a connection tell of connecting, losing and missing."""
    source = source_of(connection_id)
    mark = f'"source":"{source}"'.encode()
    latest: deque[Happening] = deque(maxlen=limit)
    since = None
    for block in blocks:
        for line in block.lines if isinstance(block, Block) else ():
            if mark in line and (happening := _happening(line, source)):
                latest.append(happening)
                if happening.event == "connected":
                    since = None
                elif happening.event in UNCONNECTED:
                    since = since or happening.timestamp
    return History(list(latest), since)


def carried_by(saved: Mapping[str, Any]) -> list[Carried]:
    """Return who records for whom by what the supervisor has saved; nothing where that is damaged."""
    try:
        homes = {token: group["connection_id"] for group in saved["subscribed"] for token in group["tokens"]}
        counted = Counter(
            (homes[token], group["connection_id"])
            for group in saved["carried"]
            for token in group["tokens"]
            if token in homes and homes[token] != group["connection_id"]
        )
    except (KeyError, TypeError):
        return []
    return [Carried(home, carrier, number) for (home, carrier), number in sorted(counted.items())]


def _ask(config: Config, connection_id: int) -> tuple[ConnectionStatus, list[InstrumentSubscription]]:
    with Client(config.runtime.run_dir, processes.ANSWER_S) as client:
        try:
            status = client.connections()[str(connection_id)]
            return status, client.find_instruments(connection_id=connection_id, limit=MAX_PAGE).instruments
        except ValidationError:
            raise ControlError("the service answers otherwise than this version of mds expects") from None


def _read(config: Config, connection_id: int, today: date) -> tuple[list[int], int, list[Carried], History]:
    epochs = epochs_held(config, connection_id)
    folder = config.spool_dir / str(connection_id)
    size = sum(folders.folder_bytes(folder / str(epoch)) for epoch in epochs)
    events = config.storage.data_dir / event_file_name(today)
    history = History([], None)
    if events.is_file():
        history = recent(read_blocks(events, events.stat().st_size), connection_id)
    return epochs, size, _carried(config.runtime.run_dir / SUBSCRIPTIONS), history


def _carried(path: Path) -> list[Carried]:
    try:
        saved = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return []
    return carried_by(saved) if isinstance(saved, dict) else []


def _happening(line: bytes, source: str) -> Happening | None:
    try:
        fields = orjson.loads(line)
        event, timestamp = str(fields.pop("event")), str(fields.pop("timestamp"))
        if fields["source"] != source or event not in KINDS:
            return None
        told = describe(event, fields)
        return Happening(timestamp, event, told[0]) if told else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
