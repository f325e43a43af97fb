"""Leaving out copies: ticks that tell nothing new, because what they say was stored before.

Where an instrument is moved, mirrored or carried over by a failover, two connections deliver the same update of the
exchange. And Kite answers each subscription with a snapshot of the present state, which may be stored already. Ticks
are equal if all their columns are but `timestamp`, `connection_id`, `epoch` and `seq`; so they are of one instrument
and one mode: what full mode says of an update is no copy of what quote mode says. Within an instrument and a mode, in
the order of receiving, a tick is a copy if

1. it is a snapshot that repeats: the first tick under a subscription, equal to the last one before it that is no
   copy, on whichever connection, however long ago. In quote mode there may be one more, since the recorder asks for an
   instrument and then for its mode, and Kite answers both: the first tick that equals the one before it in its stream,
   at most `WINDOW` behind the first under the subscription;
2. or another connection has delivered an equal one, at most `WINDOW` before, for which this one can stand. Ticks are
   matched in their order and one to one: what one connection delivers twice is never a copy of what another has
   delivered once. Nor does what comes after a snapshot that repeats stand for anything before that.

So each update is left once if connections deliver it within `WINDOW` of each other, and where an instrument ticks on
with equal values, as is usual in ltp mode, all of these ticks stay. Two things cannot be told. If a connection misses
one of several equal ticks within `WINDOW`, its next one is taken for that; all of them are there once as long as any
connection has them all. And a snapshot that newer ticks of another connection have overtaken stays if rule 2 does not
find what it repeats.

A subscription begins with its stream (connection_id, epoch) or with the day, and as the events `connected` and
`resubscribed` say. Each day is judged by itself: its first tick is never a copy, so a day reads the same alone and
among others, and what connections deliver on two sides of midnight is there twice.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl
from polars.io.plugins import register_io_source

from pipeline.store.files import Event, SubscribedEvent, read_events
from pipeline.store.schema import COLUMNS, KEY, schema

log = logging.getLogger(__name__)

# Connections differ by milliseconds, and by more where a worker has fallen behind its socket. A longer one would gain
# nothing, since a silent socket is replaced, and make more of what is equal by chance a copy.
WINDOW: Final = timedelta(seconds=2)
PART_TICKS: Final = 500_000  # of some instruments, that are judged at once: matching takes several times their memory
SUBSCRIBED_IN: Final = "quote"  # the mode that Kite gives to what is subscribed, until it is told another

_WINDOW_US: Final = WINDOW // timedelta(microseconds=1)
_UNIX: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STREAM: Final = ("connection_id", "epoch")
_SERIES: Final = (*_STREAM, "instrument_token", "mode")
_MARKET: Final = tuple(name for name in COLUMNS if name not in (*KEY, "timestamp"))
_KEYS: Final = {name: schema()[name] for name in KEY}
_SUBSCRIPTIONS: Final = {name: schema()[name] for name in _SERIES} | {"since": pl.Int64()}


class Day(NamedTuple):
    """Ticks that are judged together, and the event file of that day, which need not be there."""

    ticks: pl.LazyFrame
    events: Path | None = None


def drop_copies(frame: pl.LazyFrame, days: Sequence[Day]) -> pl.LazyFrame:
    """Return `frame` without copies, in its order. Nothing is read before it is collected.

    `days` are read first, one after the other, for `keys` (46 bytes a tick in memory); they have what `frame` has, and
    all ticks of their instruments in their modes: whoever wants a span of time filters what is returned. What arrives
    between the two readings stays.
    """

    def source(
        columns: list[str] | None, predicate: pl.Expr | None, _n_rows: int | None, _batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        for day in days:
            found = copies(keys(day.ticks).collect(engine="streaming"), subscriptions(_events_of(day.events)))
            if predicate is not None:
                found = found.filter(predicate)
            yield found if columns is None else found.select(columns)

    # A source of its own, not an expression: polars would read once for both sides of the join, and keep all of it.
    found = register_io_source(source, schema=_KEYS, explain_name="copies")
    return frame.join(found, on=KEY, how="anti", maintain_order="left")


def keys(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Return what `copies` needs of ticks.

    `content` and `check` stand for the fields that copies have in common. Two hashes of 64 bits each agree by chance
    once in 10^38 pairs; comparing the fields would be a third reading.
    """
    market = pl.struct(_MARKET)
    received = pl.col("timestamp").dt.timestamp("us")
    return frame.select(*_SERIES, "seq", received=received, content=market.hash(1), check=market.hash(2))


def subscriptions(events: Iterable[Event]) -> pl.DataFrame:
    """Return since when (microseconds since 1970) ticks may come of which subscription, by the events of workers.

    Without instrument and mode it is all of a connection. `events` are in the order of each stream. What was added has
    its first tick before the event that tells of it, and after the event before that: it is the latter's time.
    """
    rows: list[tuple[int, int, int | None, str | None, int]] = []
    told: dict[tuple[int, int], tuple[int, set[int]]] = {}  # by stream: when it was last told, and which instruments
    for event in events:
        if event.worker is None:
            continue
        stream = (event.worker, event.epoch)
        at = (event.timestamp - _UNIX) // timedelta(microseconds=1)
        if event.event == "connected":
            rows.append((*stream, None, None, at))
        elif isinstance(event, SubscribedEvent):
            since, had = told.get(stream, (0, set()))
            if event.event == "subscribed":
                had = set()
            else:
                rows += [(*stream, *asked, since) for asked in _asked(event, had)]
            told[stream] = at, had.union(*event.instruments.values()).difference(event.dropped)
    columns = zip(*rows, strict=True) if rows else ((),) * len(_SUBSCRIPTIONS)
    # Not strict: of numbers that no stream has, nulls are made, which match nothing.
    return pl.DataFrame(
        [
            pl.Series(name, values, _SUBSCRIPTIONS[name], strict=False)
            for name, values in zip(_SUBSCRIPTIONS, columns, strict=True)
        ]
    )


def _asked(event: SubscribedEvent, had: set[int]) -> Iterator[tuple[int, str]]:
    """Yield instruments, and the modes in which Kite sends snapshots of them."""
    for mode, tokens in event.instruments.items():
        for token in tokens:
            yield token, mode
            if token not in had and mode != SUBSCRIBED_IN:
                yield token, SUBSCRIBED_IN


def copies(ticks: pl.DataFrame, subscribed: pl.DataFrame) -> pl.DataFrame:
    """Return KEY of the copies among `ticks`, `keys` in any order; `subscribed` is what `subscriptions` returns."""
    doubtful = _doubtful(ticks, subscribed)
    parts = 1 + doubtful.height // PART_TICKS
    part = pl.col("instrument_token").hash() % parts
    return pl.concat(_copies(doubtful.filter(part == number), subscribed) for number in range(parts))


def _copies(rows: pl.DataFrame, subscribed: pl.DataFrame) -> pl.DataFrame:
    rows = _with_subscriptions(rows, subscribed)
    rows = rows.sort("instrument_token", "mode", "received", *KEY)
    # A line that is stored twice has its key twice: both are the same tick, and go or stay together.
    rows = rows.filter(~_same_as_before(*KEY))
    rows = _with_second_answers(rows)
    # What is equal to none is no copy, and matters only as the last one before a tick that may be one.
    is_repeated = pl.len().over("content", "check") > 1
    rows = rows.filter(is_repeated | is_repeated.shift(-1))
    return rows.filter(pl.Series(_match(rows), dtype=pl.Boolean)).select(KEY)


def _doubtful(ticks: pl.DataFrame, subscribed: pl.DataFrame) -> pl.DataFrame:
    """Return the ticks of instruments that came over several streams or had several subscriptions, in one mode.

    Of the others the beginning suffices, up to the answer to the second request.
    """
    all_ticks = ticks.lazy()
    last = subscribed.lazy().group_by(_STREAM).agg(pl.col("since").max())
    is_again = (pl.col("since") > pl.col("began")).any()
    instruments = (
        all_ticks.group_by(_SERIES)
        .agg(began=pl.col("received").min())
        .join(last, on=_STREAM, how="left")
        .group_by("instrument_token", "mode")
        .agg(pl.col("began").min(), is_shared=(pl.len() > 1) | is_again)
    )
    is_beginning = pl.col("received") <= pl.col("began") + _WINDOW_US
    found = all_ticks.join(instruments, on=("instrument_token", "mode")).filter(pl.col("is_shared") | is_beginning)
    return found.select(ticks.columns).collect(engine="streaming")


def _with_subscriptions(rows: pl.DataFrame, subscribed: pl.DataFrame) -> pl.DataFrame:
    """Add `begins`: whether a tick is the first of its instrument, in its mode, under a subscription."""
    rows = rows.sort("received", *KEY)
    of_all = pl.col("instrument_token").is_null()
    for name, by, known in (
        ("socket_since", _STREAM, subscribed.filter(of_all)),
        ("since", _SERIES, subscribed.filter(~of_all)),
    ):
        times = known.select(*by, pl.col("since").alias(name)).sort(name)
        rows = rows.join_asof(times, left_on="received", right_on=name, by=by, coalesce=False, check_sortedness=False)
    before = pl.col("received").shift(1).over(_SERIES)
    since = pl.max_horizontal("socket_since", "since")
    return rows.with_columns(begins=before.is_null() | (since > before).fill_null(value=False))


def _with_second_answers(rows: pl.DataFrame) -> pl.DataFrame:
    """Add `is_second`: whether a tick is the answer to a second request, by rule 1."""
    rows = rows.with_columns(
        subscription=pl.col("begins").cum_sum().over(_SERIES),
        repeats=_same_as_before("content", "check").over(_SERIES),
    )
    subscription = (*_SERIES, "subscription")
    is_soon = pl.col("received") - pl.col("received").first().over(subscription) <= _WINDOW_US
    may_be = (pl.col("mode") == SUBSCRIBED_IN) & ~pl.col("begins") & pl.col("repeats") & is_soon
    rows = rows.with_columns(is_second=may_be)
    return rows.with_columns(pl.col("is_second") & (pl.col("is_second").cum_sum().over(subscription) == 1))


def _same_as_before(*names: str) -> pl.Expr:
    return pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in names)


def _match(rows: pl.DataFrame) -> Iterator[bool]:
    """Tell of each row whether it is a copy. Those of an instrument in one mode are together, in order."""
    is_next = ~_same_as_before("instrument_token", "mode")
    needed = rows.select(is_next, "content", "check", "connection_id", "received", "begins", "is_second")
    last: tuple[int, int] | None = None  # what the last one said that is no copy
    kept: dict[tuple[int, int], list[int]] = {}  # by what they say: when those came that are no copies
    matched: dict[tuple[int, int], dict[int, int]] = {}  # and how many of these each connection has had or passed over
    for differs, content, check, connection_id, received, begins, is_second in needed.iter_rows():
        if differs:
            last, kept, matched = None, {}, {}
        value = content, check
        equal = kept.setdefault(value, [])
        passed = matched.setdefault(value, {})
        if is_second or (begins and value == last):
            passed[connection_id] = len(equal)
            yield True
            continue
        place = passed.get(connection_id, 0)
        while place < len(equal) and received - equal[place] > _WINDOW_US:
            place += 1
        passed[connection_id] = place + 1
        is_copy = place < len(equal)
        if not is_copy:
            equal.append(received)
            last = value
        yield is_copy


def _events_of(path: Path | None) -> Iterator[Event]:
    """Yield the events of a file; one that is not there or cannot be read is one without events."""
    try:
        if path is not None and path.exists():
            yield from read_events(path)
    except OSError as error:
        log.warning("%s: %s; copies are looked for without it", path, error.strerror or error)
