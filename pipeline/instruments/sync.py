"""Fetches Kite's list of instruments and keeps it by day beside the recordings, since tokens are reused.

Of a day the latest is kept. Where it has come from is remembered, so that the list of a simulator never passes for
Kite's: `is_due` tells when another is wanted. One process at a time does it.

As a process, `python -m pipeline.instruments.sync [--simulated]`, it is an errand of the supervisor: it fetches today's
list and prints one line, a JSON object with the fields of the event `instruments_synced` or `instruments_failed`.
"""

import argparse
import contextlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from pipeline import config as settings
from pipeline import log, role
from pipeline.config import Config
from pipeline.days import Calendar
from pipeline.durable import replace_durably
from pipeline.errors import AlreadyRunningError, MdsError
from pipeline.files import INSTRUMENTS, INSTRUMENTS_LOCK, instruments_file_name
from pipeline.instruments.listing import Listing, SymbolError, day_of, newest, read, write

ROLE = "instruments"
LEAST_SHARE: Final = 0.5  # of what is kept: a list with fewer instruments is half of one, or of something else
_NICE = 5

logger = logging.getLogger("pipeline.instruments.sync")  # not __main__, as which it is run


class SyncError(MdsError):
    """There is no new list, and what was kept is as it was."""

    refused = False


class RefusedSyncError(SyncError):
    """Kite does not give its list with these credentials."""

    refused = True


class State(BaseModel):
    """Where the latest list has come from."""

    model_config = ConfigDict(frozen=True)

    day: date
    source: str  # see `source_of`
    fetched_at: AwareDatetime
    simulated: bool


@dataclass(frozen=True)
class Synced:
    """A list that was fetched, compared with the newest that was there before."""

    path: Path
    day: date
    bytes: int
    exchanges: dict[str, int]  # instruments of each
    before: Path | None
    new: int = 0  # symbols that the one before has not
    gone: int = 0  # and that it alone has

    @property
    def instruments(self) -> int:
        """How many the list has."""
        return sum(self.exchanges.values())


def is_due(state: State | None, now: datetime, sync_at: time, *, source: str, simulated: bool, has_list: bool) -> bool:
    """Tell whether another list is wanted. Pure; `now` has the time zone of `sync_at`.

    `has_list`: there is one to look things up in, of whatever day. With Kite it is due if today's was not fetched, or
    before `sync_at`, which has come since; and if the latest is not from `source`. With a simulator, a list of Kite's
    will do, so that trying things out replaces none; but not one of another simulator, nor of another day.
    """
    if not has_list:
        return True
    if simulated and (state is None or not state.simulated):
        return False
    if state is None or state.simulated != simulated or state.source != source or state.day != now.date():
        return True
    from_then_on = datetime.combine(now.date(), sync_at, now.tzinfo)
    return not simulated and state.fetched_at < from_then_on <= now


def due(config: Config, now: datetime, *, simulated: bool) -> bool:
    """Tell the same of a data folder, as it is now."""
    data_dir = config.storage.data_dir
    state = read_state(config)
    if state and not (data_dir / instruments_file_name(state.day)).exists():
        state = None  # somebody has removed the list
    return is_due(
        state,
        now,
        config.instruments.sync_at,
        source=source_of(config),
        simulated=simulated,
        has_list=newest(data_dir) is not None,
    )


def usable(config: Config, today: date, *, simulated: bool) -> Path | None:
    """Return the list that tells what symbols mean today, None where there is none.

    What a simulator has called its instruments does not hold for Kite.
    """
    path, state = newest(config.storage.data_dir, today), read_state(config)
    is_simulated = path and state and state.simulated and state.day == day_of(path)
    return None if is_simulated and not simulated else path


def source_of(config: Config) -> str:
    """Return where lists come from, without the password that a URL may have."""
    before, at, host = config.kite.api_url.rpartition("@")
    return f"{before.partition('://')[0]}://{host}" if at else host


def read_state(config: Config) -> State | None:
    """Return where the latest list has come from, None where nobody knows: then it is fetched anew."""
    try:
        return State.model_validate_json((config.state_dir / INSTRUMENTS).read_bytes())
    except (OSError, ValidationError):
        return None


def sync(config: Config, day: date, *, force: bool = False, simulated: bool = False) -> Synced:
    """Fetch the list and keep it as that of `day`, in place of one that is there.

    `force` takes a list that is far shorter than the one before. Raises SyncError, and AlreadyRunningError where
    another process is at it: then nothing was changed.
    """
    with _alone(config):
        rows = _fetch(config)
        exchanges = _counted(rows, source_of(config))
        before = _before(config)
        known = read_state(config)
        if before and not force and not (known and known.simulated):
            _compare(len(rows), before, source_of(config))
        try:
            path = write(config.storage.data_dir, day, rows)
            _remember(config, day, simulated=simulated)
            size = path.stat().st_size
        except OSError as error:
            where = error.filename or config.storage.data_dir
            raise SyncError(f"{where}: the list of instruments cannot be written: {error.strerror}") from None
    if (used := newest(config.storage.data_dir, day)) != path:
        logger.warning("%s goes before %s: remove it to use what was fetched", used, path.name)
    if before is None:
        return Synced(path, day, size, exchanges, None)
    then, now = set(before.symbols), {f"{row['exchange']}:{row['tradingsymbol']}" for row in rows}
    return Synced(path, day, size, exchanges, before.path, len(now - then), len(then - now))


@contextlib.contextmanager
def _alone(config: Config) -> Iterator[None]:
    role.make_folder("storage.data_dir", config.state_dir)
    lock = role.Lock(config.state_dir / INSTRUMENTS_LOCK)
    try:
        lock.acquire(config.hash)
    except AlreadyRunningError:
        raise AlreadyRunningError(
            "the list of instruments is being fetched by another process; it will be there in a moment"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _fetch(config: Config) -> list[dict[str, Any]]:
    """Return Kite's list. It is for everyone, so credentials that have died in the night are left out."""
    from pipeline.kite import rest  # noqa: PLC0415  a list may be read without importing the official client

    key, token = config.api_key.get_secret_value(), config.access_token.get_secret_value()
    try:
        try:
            return rest.instruments(config.kite.api_url, key, token)
        except rest.RefusedError:
            if not token:
                raise
            logger.info("Kite refuses the access token; the list of instruments is asked for without it")
            return rest.instruments(config.kite.api_url, key, "")
    except rest.RefusedError as error:
        raise RefusedSyncError(f"the list of instruments was not fetched: {error}") from None
    except rest.KiteError as error:
        raise SyncError(f"the list of instruments was not fetched: {error}") from None


def _counted(rows: list[dict[str, Any]], source: str) -> dict[str, int]:
    """Return how many instruments each exchange has."""
    named = (row for row in rows if row.get("tradingsymbol"))
    found = Counter(str(row.get("exchange") or "") for row in named)
    if not rows or found.total() < len(rows) or "" in found:
        raise SyncError(f"{source} has answered with something that is no list of instruments; nothing was stored")
    return dict(found.most_common())


def _before(config: Config) -> Listing | None:
    path = newest(config.storage.data_dir)
    try:
        return read(path) if path else None
    except SymbolError as error:
        logger.warning("%s", error)
        return None


def _compare(count: int, before: Listing, source: str) -> None:
    """Refuse what cannot be the whole list."""
    if count < LEAST_SHARE * len(before):
        raise SyncError(
            f"{source} has a list of {count:,} instruments only, and {before.path} has {len(before):,}: nothing was "
            "stored; mds instruments sync --force takes it all the same"
        )


def _remember(config: Config, day: date, *, simulated: bool) -> None:
    now = Calendar(config.storage.timezone).now()
    state = State(day=day, source=source_of(config), fetched_at=now, simulated=simulated)
    replace_durably(config.state_dir / INSTRUMENTS, state.model_dump_json().encode() + b"\n", suffix=".json.new")


def main() -> int:
    """Fetch today's list; return 1 where that was not possible."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.instruments.sync")
    parser.add_argument("--simulated", action="store_true", help="It is the list of a simulator.")
    simulated = parser.parse_args().simulated
    os.nice(_NICE)
    config = settings.from_child()
    role.end_with_parent()
    log.setup(config, ROLE)
    day = Calendar(config.storage.timezone).now().date()
    try:
        done = sync(config, day, simulated=simulated)
    except MdsError as error:
        logger.error("%s", error)
        _tell("instruments_failed", reason=str(error), refused=getattr(error, "refused", False))
        return 1
    logger.info("%s: %d instruments, %d new, %d gone", done.path, done.instruments, done.new, done.gone)
    _tell("instruments_synced", date=day, instruments=done.instruments, bytes=done.bytes, file=done.path.name)
    return 0


def _tell(event: str, **fields: Any) -> None:
    with contextlib.suppress(OSError):  # the supervisor is gone; the next one sees what is there
        sys.stdout.buffer.write(orjson.dumps({"event": event, **fields}) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
