"""What was subscribed, in `run/subscriptions.json`: the next `mds run` goes on with it.

    {"format": 1, "simulated", "max_connections", "resting", "window": [time, time], "opens": time or null,
     "universe": {mode: [token, ...]}, "mirror", "failed_over": [connection, ...], "by_hand": [connection, ...],
     "subscribed": [group, ...],
     "carried": [{"connection_id", "tokens"}, ...], "leaving": [group, ...], "waiting": [token, ...],
     "unheard": [{"connection_id", "tokens", "relieved": [[token, ns], ...], "due": [[token, ns], ...]}, ...],
     "identities": {token: [symbol, expiry or null]}, "selected": {"day", "tokens": {mode: [token, ...]}},
     "expired": {word: day}}
    group: {"connection_id", "mode", "since", "tokens"}

The file is laid over `[universe]`: it holds the state, and as tokens what the configuration wanted when it was written,
whose words and rules may mean others today. What the configuration has gained, lost or changed since then wins over the
file; for all else the file holds. A run with the simulator and one with Kite know nothing of each other: the file of
the other kind waits under its own name.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import date, datetime
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from pipeline.config import CONNECTIONS, Config, Mode, Token
from pipeline.durable import replace_durably
from pipeline.instruments.roll import Identity
from pipeline.requests import ConnectionId
from pipeline.supervisor import orders
from pipeline.supervisor.subscriptions import (
    PRIMARY,
    TERTIARY,
    Refusal,
    Subscription,
    Subscriptions,
    connection_for,
)
from pipeline.wire import by_mode

log = logging.getLogger(__name__)

RETRY_S = 1.0
FILE_NAME = "subscriptions.json"
NOTHING_EXPIRED: Mapping[str, date] = MappingProxyType({})
NOBODY: Mapping[int, orders.Unheard] = MappingProxyType({})


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Group(_Model):
    """Instruments that have all but their token in common."""

    connection_id: ConnectionId
    mode: Mode
    since: str = ""
    tokens: list[Token]


class Carried(_Model):
    """Instruments that a connection records for one that has failed over."""

    connection_id: ConnectionId
    tokens: list[Token]


class Unheard(_Model):
    """What a connection had when its worker was heard for the last time: the next one has to say what was missed."""

    connection_id: ConnectionId
    tokens: list[Token]
    relieved: list[tuple[Token, int]]  # since which receive time another connection has it
    due: list[tuple[Token, int]] = []  # since which it should have had what it may not know of


class Selected(_Model):
    """What the rules of the configuration have picked, on which day."""

    day: date | None = None
    tokens: dict[Mode, list[Token]] = {}


NOTHING_SELECTED = Selected()


class Saved(_Model):
    """The content of the file; the last three were not always there."""

    format: Literal[1] = 1
    simulated: bool
    max_connections: int
    resting: bool = False  # the clock had all connections closed
    window: list[str] = []  # market.connect and market.disconnect, where these are set
    opens: AwareDatetime | None = None  # the next time at which the clock opens connections, as it was foreseen
    universe: dict[Mode, list[Token]]
    mirror: bool
    failed_over: list[ConnectionId]
    by_hand: list[ConnectionId]
    subscribed: list[Group]
    carried: list[Carried]
    leaving: list[Group]
    waiting: list[Token]
    unheard: list[Unheard]
    identities: dict[int, Identity] = {}
    selected: Selected = Selected()
    expired: dict[str, date] = {}


class DamagedError(Exception):
    """The file is there and is not what was saved; the words say why."""


def read(path: Path) -> Saved | None:
    """Return what was saved, None where nothing was. Raises DamagedError."""
    try:
        return Saved.model_validate(orjson.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise DamagedError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    except (OSError, ValueError) as error:
        raise DamagedError(str(error)) from None


def set_aside(path: Path) -> Path | None:
    """Rename a damaged file so that somebody can look at it; None where that is not possible."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    try:
        return path.rename(aside)
    except OSError:
        return None


def take_turns(run_dir: Path, *, simulated: bool) -> Path:
    """Put the file of this kind of run in its place, and that of the other kind aside; return the place.

    Raises DamagedError where the file that is there tells of no kind.
    """
    path = run_dir / FILE_NAME
    saved = read(path)
    if saved is not None and saved.simulated != simulated:
        path.replace(_waiting(run_dir, saved.simulated))
        saved = None
    if saved is None and (waiting := _waiting(run_dir, simulated)).exists():
        waiting.replace(path)
    return path


def _waiting(run_dir: Path, simulated: bool) -> Path:
    return run_dir / f"subscriptions.{'simulator' if simulated else 'kite'}.json"


def snapshot(
    subscriptions: Subscriptions,
    config: Config,
    *,
    simulated: bool,
    wanted: Mapping[int, Mode],
    selected: Selected = NOTHING_SELECTED,
    expired: Mapping[str, date] = NOTHING_EXPIRED,
    unheard: Mapping[int, orders.Unheard] = NOBODY,
    opens: datetime | None = None,
) -> bytes:
    """Return the content of the file for this state: `wanted` is what the configuration wants now.

    The order is kept: it decides who finds room on the spare.
    """
    content = {
        "format": 1,
        "simulated": simulated,
        "max_connections": config.kite.max_connections,
        "resting": subscriptions.resting,
        "window": window(config),
        "opens": opens,
        "universe": by_mode(wanted),
        "mirror": subscriptions.mirroring,
        "failed_over": sorted(subscriptions.failed_over),
        "by_hand": sorted(subscriptions.by_hand),
        "subscribed": [
            {"connection_id": c, "mode": mode, "since": since, "tokens": [token for token, _ in same]}
            for (c, mode, since), same in groupby(subscriptions.in_order(), key=lambda item: _in_common(item[1]))
        ],
        "carried": [
            {"connection_id": c, "tokens": [token for token, place in subscriptions.carriers.items() if place == c]}
            for c in sorted(set(subscriptions.carriers.values()))
        ],
        "leaving": [
            {"connection_id": c, "mode": mode, "tokens": tokens}
            for c, instruments in subscriptions.leaving.items()
            for mode, tokens in by_mode(instruments).items()
        ],
        "waiting": sorted(set().union(*map(subscriptions.held_back, CONNECTIONS))),
        "unheard": [
            {
                "connection_id": c,
                "tokens": worker.tokens,
                "relieved": list(worker.relieved.items()),
                "due": list(worker.due.items()),
            }
            for c, worker in unheard.items()
        ],
        "identities": {
            str(token): [known.identity.symbol, known.identity.expiry]
            for token, known in subscriptions.all.items()
            if known.identity
        },
        "selected": selected.model_dump(),
        "expired": dict(expired),
    }
    return orjson.dumps(content)


def window(config: Config) -> list[str]:
    """Return from when until when connections are open, as it is saved; empty: always."""
    edges = (config.market.connect, config.market.disconnect)
    return [edge.isoformat() for edge in edges if edge is not None]


def _in_common(known: Subscription) -> tuple[int, Mode, str]:
    return known.connection_id, known.mode, known.subscribed_at


def restore(subscriptions: Subscriptions, saved: Saved, wanted: Mapping[int, Mode], now: str) -> list[Refusal]:
    """Subscribe what was saved, laid over what the configuration wants now; return what could not be."""
    before = {token: mode for mode, tokens in saved.universe.items() for token in tokens}
    changed = {token for token in {*before, *wanted} if before.get(token) != wanted.get(token)}
    refusals = []
    for group in saved.subscribed:
        tokens = [token for token in group.tokens if token not in changed or wanted.get(token) == group.mode]
        by_mode_then = connection_for(group.mode, saved.max_connections)
        place = None if group.connection_id == by_mode_then else group.connection_id  # there may be more to use now
        refusals += subscriptions.take(tokens, group.mode, group.since, place)
    subscriptions.identify(saved.identities)
    gained = [token for token in wanted if token in changed and token not in subscriptions.all]
    for mode, new in by_mode({token: wanted[token] for token in gained}).items():
        refusals += subscriptions.take(new, mode, now)
    subscriptions.resume(
        mirror=saved.mirror,
        failed_over=saved.failed_over,
        by_hand=saved.by_hand,
        carriers={token: group.connection_id for group in saved.carried for token in group.tokens},
        leaving=[(token, g.connection_id, g.mode) for g in saved.leaving for token in g.tokens],
        waiting=saved.waiting,
    )
    return refusals


def on_wire(saved: Saved) -> dict[int, list[int]]:
    """Return what each connection had to record, as far as the file tells."""
    had = {} if saved.resting else assigned(saved)
    return had | {worker.connection_id: worker.tokens for worker in saved.unheard}


def assigned(saved: Saved) -> dict[int, list[int]]:
    """Return the same, had it not been resting."""
    had: dict[int, list[int]] = {}
    carriers = {token: group.connection_id for group in saved.carried for token in group.tokens}
    for group in saved.subscribed:
        for token in group.tokens:
            place = carriers.get(token, group.connection_id)
            had.setdefault(place, []).append(token)
            if saved.mirror and place == PRIMARY:
                had.setdefault(TERTIARY, []).append(token)
    for group in saved.leaving:
        had.setdefault(group.connection_id, []).extend(group.tokens)
    return had


def relieved(saved: Saved) -> dict[int, dict[int, int]]:
    """Return since when others have had instruments of each connection, as far as the file tells."""
    return {worker.connection_id: dict(worker.relieved) for worker in saved.unheard}


def due(saved: Saved) -> dict[int, dict[int, int]]:
    """Return since when each connection should have had what it may not know of, as far as the file tells."""
    return {worker.connection_id: dict(worker.due) for worker in saved.unheard}


class SavedFile:
    """Keeps the file up to date. Requests that come while it is being written share the next write."""

    def __init__(self, path: Path, content: Callable[[], bytes]) -> None:
        self._path = path
        self._content = content
        self._writing = asyncio.Lock()
        self._changes = 0
        self._saved_changes = 0
        self._failed = asyncio.Event()
        self.fault = ""  # why the last save failed

    async def keep_up(self) -> None:
        """Try again what could not be saved, for ever."""
        while True:
            await self._failed.wait()
            await asyncio.sleep(RETRY_S)
            await self.save()

    async def save(self) -> bool:
        """Return when all that was changed until now is durable; False, with the reason in the log, if it cannot be."""
        self._changes += 1
        mine = self._changes
        async with self._writing:
            if self._saved_changes >= mine:
                return True
            upto = self._changes
            try:
                await asyncio.to_thread(replace_durably, self._path, self._content())
            except OSError as error:
                fault = f"{self._path}: {error.strerror}"
                if fault != self.fault:
                    log.error("%s; the next start goes on with what it says now", fault)
                self.fault = fault
                self._failed.set()
                return False
            if self.fault:
                log.info("%s: saved again", self._path)
            self.fault = ""
            self._failed.clear()
            self._saved_changes = upto
            return True
