"""The beginning of a run: goes on with what was subscribed last, or begins with the universe of the configuration."""

import logging
from collections.abc import Callable
from typing import Any

from pipeline.config import CONNECTIONS, Config
from pipeline.forecast import bytes_a_day
from pipeline.supervisor.history import History
from pipeline.supervisor.saved import FILE_NAME, DamagedError, Saved, read, restore, set_aside, take_turns
from pipeline.supervisor.subscriptions import Refusal, Subscriptions, Wanted, modes
from pipeline.wire import by_mode

log = logging.getLogger(__name__)

REFUSALS_SHOWN = 10
BUSY_TICKS_PER_S = 4  # an instrument at busy times; about one otherwise


def last_saved(config: Config, log_event: Callable[[str, dict[str, Any]], str], *, simulated: bool) -> Saved | None:
    """Return what the last run of this kind had saved; a file that cannot be read is set aside and reported."""
    path = config.runtime.run_dir / FILE_NAME
    try:
        return read(take_turns(config.runtime.run_dir, simulated=simulated))
    except DamagedError as error:
        aside = set_aside(path)
        log.error("%s is damaged (%s), kept as %s: going on with the configuration", path, error, aside)
        log_event("subscriptions_damaged", {"file": str(path), "error": str(error), "kept_in": str(aside)})
        return None


def subscribe(
    subscriptions: Subscriptions,
    saved: Saved | None,
    config: Config,
    wanted: Wanted,
    *,
    history: History,
    now: str,
) -> None:
    """Subscribe what was saved, laid over what is wanted now; tell of what is new, and of what could not be."""
    if saved is not None:
        refusals = restore(subscriptions, saved, modes(wanted), now)
        log.info("going on with what was subscribed last; mds run --fresh forgets it")
    else:
        refusals = subscriptions.take_wanted(wanted, now)
    new = {token: known.mode for token, known in subscriptions.all.items() if known.subscribed_at == now}
    for tokens in by_mode(new).values():
        history.done("subscribe", "universe", subscriptions.described(tokens))
    tell_refusals(refusals, history)
    _tell_size(subscriptions, config)


def tell_refusals(refusals: list[Refusal], history: History) -> None:
    """Tell of what the universe wants and could not be subscribed."""
    by_reason: dict[str, list[int]] = {}
    for refusal in refusals:
        by_reason.setdefault(refusal.reason, []).append(refusal.token)
    for reason, tokens in by_reason.items():
        shown = ", ".join(map(str, tokens[:REFUSALS_SHOWN])) + (", ..." if len(tokens) > REFUSALS_SHOWN else "")
        log.warning("universe: not subscribed (%d), %s: %s", len(tokens), reason, shown)
        history.refused("subscribe", "universe", tokens, reason)


def _tell_size(subscriptions: Subscriptions, config: Config) -> None:
    numbers = {c: len(subscriptions.of(c)) for c in CONNECTIONS}
    counts = ", ".join(f"{number} on connection {c}" for c, number in numbers.items() if number)
    if not counts:
        log.info("recording nothing yet to %s", config.storage.data_dir)
        return
    modes = [known.mode for known in subscriptions.all.values()]
    quiet, busy = (bytes_a_day(modes, rate) / 2**30 for rate in (1, BUSY_TICKS_PER_S))
    log.info(
        "recording %s to %s; a day takes about %.1f GB at one tick a second each, %.1f GB at %d",
        counts,
        config.storage.data_dir,
        quiet,
        busy,
        BUSY_TICKS_PER_S,
    )
