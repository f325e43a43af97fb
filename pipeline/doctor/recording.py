"""What is recorded and how well, by what the supervisor says and what the event log has: pure but for `gather_gaps`."""

import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from pipeline import readable
from pipeline.config import Config
from pipeline.doctor.finding import Check, Finding
from pipeline.errors import MdsError
from pipeline.status import Overview
from pipeline.store import gaps
from pipeline.store.files import GapEvent

AREA = "recording"
HEALTH = Check(AREA, "health")
FAILOVER = Check(AREA, "failover")
UNIVERSE = Check(AREA, "universe")
SUBSCRIPTIONS = Check(AREA, "subscriptions")
NEVER_TICKED = Check(AREA, "never_ticked")
FLOW = Check(AREA, "tick_flow")
WRITER = Check(AREA, "writer")
LOST = Check(AREA, "ticks_lost")
GAPS = Check(AREA, "gaps_today")

SETTLED_S = 60.0  # until then an instrument may not have ticked yet
SHOWN = 5  # tokens, causes
SLOW_COMMIT_MS = 500.0
MANY_GAPS = 20
_FAILED_OVER = re.compile(r"connection ([12]) has failed over")
_UNKNOWN = "universe: "  # begins the reason that the settings name what is not known


def judge(said: Overview, config: Config) -> list[Finding]:
    """Judge all that the supervisor says."""
    return [
        judge_health(said),
        judge_failover(said),
        judge_universe(said),
        judge_subscriptions(said),
        judge_never_ticked(said),
        judge_flow(said, config.market.stale_s),
        judge_writer(said),
        judge_lost(said),
    ]


def market_of(said: Overview) -> str:
    """Return whether what is subscribed trades now: open, closed or unknown."""
    market: Any = getattr(said.health, "market", "unknown")
    return str(market)


def judge_health(said: Overview) -> Finding:
    """Judge what the service says of itself; of some of the reasons there are findings of their own."""
    own = (_FAILED_OVER.match, _unknown)
    reasons = [reason for reason in said.health.reasons if not any(is_told(reason) for is_told in own)]
    if not reasons:
        return HEALTH.ok(f"{said.health.status}, up {readable.span(said.health.uptime_seconds)}")
    what = f"{said.health.status}: {'; '.join(reasons)}"
    if said.health.status == "down":
        return HEALTH.failure(what, "something is not recorded now", "see the findings beside this one; mds health")
    return HEALTH.warning(what, "all is recorded, but this may end in a loss", "see the findings beside this one")


def judge_failover(said: Overview) -> Finding:
    """Judge whether connections stand in for others."""
    over = [found[1] for reason in said.health.reasons if (found := _FAILED_OVER.match(reason))]
    if not over:
        return FAILOVER.ok("each connection records its own")
    what = f"connection {' and '.join(over)} has failed over, others record its instruments"
    why = "the spare is in use: another failure may leave instruments uncovered"
    todo = f"cure that connection; it gets them back by itself, or, if it was asked for: mds failback {over[0]}"
    return FAILOVER.warning(what, why, todo)


def judge_universe(said: Overview) -> Finding:
    """Judge whether all that the settings name is known."""
    unknown = [told for reason in said.health.reasons if (told := _unknown(reason))]
    if not unknown:
        return UNIVERSE.ok("nothing in the settings is unknown")
    todo = "correct [universe] in the settings (mds instruments find), then: mds stop, mds run"
    return UNIVERSE.failure("; ".join(unknown), "what is not known is not recorded", todo)


def _unknown(reason: str) -> str | None:
    return reason.removeprefix(_UNKNOWN) if reason.startswith(_UNKNOWN) else None


def judge_subscriptions(said: Overview) -> Finding:
    """Judge whether there is anything to record."""
    number = said.health.total_subscribed_instruments
    if number:
        return SUBSCRIPTIONS.ok(f"{readable.counted(number, 'instrument')} subscribed")
    todo = "mds subscribe NSE:INFY, or name instruments under [universe] in the settings"
    return SUBSCRIPTIONS.warning("nothing is subscribed", "nothing is recorded, and no connection is open", todo)


def judge_never_ticked(said: Overview) -> Finding:
    """Judge whether there are instruments of which nothing has ever come."""
    number, tokens = said.health.never_ticked, said.health.never_ticked_instruments[:SHOWN]
    if not number:
        return NEVER_TICKED.ok("each instrument has ticked")
    more = ", ..." if number > len(tokens) else ""
    what = f"{readable.counted(number, 'instrument')} never ticked: {', '.join(map(str, tokens))}{more}"
    if market_of(said) == "closed":
        return NEVER_TICKED.ok(f"{what}; the market is closed")
    if said.health.uptime_seconds < SETTLED_S:
        return NEVER_TICKED.ok(f"{what}; the service has only just begun")
    why = "Kite passes over tokens that do not exist, or no longer, without a word"
    return NEVER_TICKED.warning(what, why, "mds instruments --never lists them; unsubscribe those that are no more")


def judge_flow(said: Overview, stale_s: float) -> Finding:
    """Judge whether ticks come as the market lets expect."""
    age_s = said.health.tick_age_s
    what = f"{said.health.ticks_per_second:,.0f} ticks/s, {readable.ago(age_s)}"
    market = market_of(said)
    if not said.health.total_subscribed_instruments:
        return FLOW.skipped("nothing is subscribed")
    if market == "closed":
        return FLOW.ok(f"{what}; the market is closed")
    has_had_time = said.health.uptime_seconds > max(stale_s, SETTLED_S)
    if stale_s and (age_s > stale_s if age_s is not None else has_had_time):
        verdict = FLOW.failure if market == "open" else FLOW.warning
        hours = "though the market is open" if market == "open" else "and nobody knows whether the market is open"
        why = "with the market open something ticks every second"
        return verdict(f"{what}, {hours}", why, "see the connections; mds doctor connection N; mds restart worker-N")
    return FLOW.ok(what)


def judge_writer(said: Overview) -> Finding:
    """Judge whether what is received becomes durable, and how fast."""
    storage, metrics = said.storage, said.metrics
    reason = f", {storage.reason}" if storage.reason else ""
    if storage.state not in ("recording", "starting"):
        why = "ticks are received and wait in the spools, until these are full"
        todo = (
            "make room on the disk"
            if storage.state == "paused"
            else "see its log in the run folder; mds restart writer"
        )
        return WRITER.failure(f"the writer is {storage.state}{reason}", why, todo)
    if storage.state == "starting":
        return WRITER.warning("the writer is starting", "ticks wait in the spools meanwhile", "wait a moment")
    lag = f"{metrics.total_ticks_pending:,} ticks on their way, the oldest for {readable.milliseconds(metrics.lag_ms)}"
    what = f"it records, {lag}; the longest sync of late took {readable.milliseconds(storage.commit_ms_max)}"
    if storage.syncs_failed:
        why = "the disk has refused to keep what was written; it was written again"
        todo = "look at the disk: dmesg, smartctl"
        return WRITER.warning(f"{readable.counted(storage.syncs_failed, 'sync')} failed; {what}", why, todo)
    if storage.commit_ms_max > SLOW_COMMIT_MS:
        why = "power loss costs what waits for the disk"
        return WRITER.warning(what, why, "see what else uses this disk, or let storage.data_dir be on another one")
    return WRITER.ok(what)


def judge_lost(said: Overview) -> Finding:
    """Judge whether ticks were received and could not be kept."""
    if not said.metrics.ticks_refused:
        return LOST.ok("no tick was lost for want of room in a spool")
    what = f"{readable.counted(said.metrics.ticks_refused, 'tick')} lost since the start: a spool was full"
    todo = "find out what held up the writer (mds events), and see storage.spool_max_mb"
    return LOST.warning(what, "they are not stored; the gap records tell of when", todo)


def gather_gaps(config: Config, today: date) -> list[GapEvent] | None:
    """Return the gaps that were recorded today, None where nothing was recorded at all."""
    try:
        return gaps.read(config.storage.data_dir, today)
    except MdsError:
        return None


def judge_gaps(found: Sequence[GapEvent] | None, today: date) -> Finding:
    """Judge what could not be recorded today."""
    if found is None:
        return GAPS.skipped("nothing was recorded today")
    if not found:
        return GAPS.ok("none today")
    total, by_cause = gaps.totals(found)
    causes = ", ".join(f"{some.gaps:,} {cause}" for cause, some in list(by_cause.items())[:SHOWN])
    cost = f"{total.instrument_seconds:,.0f} instrument-seconds"
    what = f"{readable.counted(total.gaps, 'gap')} today, {cost} ({causes})"
    many = ", and so many of them have a lasting cause" if total.gaps >= MANY_GAPS else ""
    return GAPS.warning(what, f"what was not received is gone{many}", f"mds gaps --date {today}; mds events")
