"""Copies are left out, and nothing else is: against a plain model of the rules, and of connections to an exchange."""

import itertools
from collections import Counter, defaultdict
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.events import encode_event
from pipeline.store import dedupe
from pipeline.store.dedupe import WINDOW, Day, copies, drop_copies, keys, subscriptions
from pipeline.store.files import Chunk, Place, decode_event
from pipeline.store.lines import read_chunk
from pipeline.store.schema import COLUMNS, KEY, schema
from pipeline.ticks import StoredTick, encode_lines
from tests.stored import EPOCH, FIRST, KINDS, ZONE, stored_ticks, tick_at

MS = timedelta(milliseconds=1)
WINDOW_MS = WINDOW // MS
NONE = subscriptions([])
EMPTY = schema(ZONE).to_frame()


class Row(NamedTuple):
    """A tick in short: its time in milliseconds, and all that its market fields say in one value."""

    at: int
    connection_id: int
    value: int
    epoch: int = 1
    seq: int = 0  # numbered in the order of a test's rows
    token: int = 256265
    mode: str = "ltp"

    @property
    def key(self) -> tuple[int, int, int]:
        return self.connection_id, self.epoch, self.seq


class Sent(NamedTuple):
    """A subscription: from `since` on the first tick is a snapshot; token None: of every instrument."""

    since: int
    connection_id: int
    epoch: int = 1
    token: int | None = None
    mode: str | None = None


def numbered(rows: list[Row]) -> list[Row]:
    """Return rows with numbers in their streams, in their order."""
    counts: Counter[tuple[int, int]] = Counter()
    found = []
    for row in rows:
        counts[row.connection_id, row.epoch] += 1
        found.append(row._replace(seq=counts[row.connection_id, row.epoch]))
    return found


def keys_of(rows: list[Row]) -> pl.DataFrame:
    """Return what `keys` makes of such ticks."""
    types = keys(EMPTY.lazy()).collect_schema()
    values = [
        (r.connection_id, r.epoch, r.token, r.mode, r.seq, r.at * 1000, hash((r.token, r.mode, r.value)) % 2**64, 0)
        for r in rows
    ]
    return pl.DataFrame(values, types, orient="row")


def sent_frame(sent: list[Sent]) -> pl.DataFrame:
    """Return what `subscriptions` makes of these."""
    values = [(s.connection_id, s.epoch, s.token, s.mode, s.since * 1000) for s in sent]
    columns = zip(*values, strict=True) if values else [()] * len(NONE.schema)
    named = zip(NONE.columns, columns, NONE.dtypes, strict=True)
    return pl.DataFrame([pl.Series(name, column, dtype, strict=False) for name, column, dtype in named])


def left(rows: list[Row], sent: list[Sent] | None = None) -> list[Row]:
    """Return what is left of these rows."""
    dropped = set(copies(keys_of(rows), sent_frame(sent or [])).rows())
    return [row for row in rows if row.key not in dropped]


def model(rows: list[Row], sent: list[Sent]) -> set[tuple[int, int, int]]:
    """Return the keys of copies, by the words of the module's docstring, one tick after the other."""
    dropped = set()
    instruments = defaultdict(list)
    for row in sorted(rows, key=lambda r: (r.at, r.connection_id, r.epoch, r.seq)):
        instruments[row.token, row.mode].append(row)
    for found in instruments.values():
        dropped |= Instrument(sent).copies(found)
    return dropped


class Instrument:
    """The model of one instrument in one mode."""

    def __init__(self, sent: list[Sent]) -> None:
        self.sent = sent
        self.last: Row | None = None
        self.last_of: dict[tuple[int, int], Row] = {}
        self.begun: dict[tuple[int, int], int] = {}  # the first tick's time, until the second answer has come
        self.standing: defaultdict[int, list[tuple[int, set[int]]]] = defaultdict(list)  # time, and who had it or later

    def copies(self, rows: list[Row]) -> set[tuple[int, int, int]]:
        return {row.key for row in rows if self.is_copy(row)}

    def is_copy(self, row: Row) -> bool:
        is_snapshot = self.is_snapshot(row)
        ticks = self.standing[row.value]
        place = len(ticks)
        if not is_snapshot:
            fits = (n for n, (at, by) in enumerate(ticks) if row.at - at <= WINDOW_MS and row.connection_id not in by)
            place = next(fits, len(ticks))
        is_copy = is_snapshot or place < len(ticks)
        if not is_copy:
            ticks.append((row.at, set()))
            self.last = row
        for _, by in ticks[: place + 1]:
            by.add(row.connection_id)
        return is_copy

    def is_snapshot(self, row: Row) -> bool:
        stream = row.connection_id, row.epoch
        before = self.last_of.get(stream)
        self.last_of[stream] = row
        if before is None or any(self.is_new(row, before, sent) for sent in self.sent):
            self.begun[stream] = row.at
            return self.last is not None and self.last.value == row.value
        is_second = stream in self.begun and row.at - self.begun[stream] <= WINDOW_MS and before.value == row.value
        if row.mode != "quote" or not is_second:
            return False
        del self.begun[stream]
        return True

    @staticmethod
    def is_new(row: Row, before: Row, sent: Sent) -> bool:
        is_meant = sent.token is None or (sent.token, sent.mode) == (row.token, row.mode)
        return (sent.connection_id, sent.epoch) == (row.connection_id, row.epoch) and (
            is_meant and before.at < sent.since <= row.at
        )


times = st.integers(0, 12).map(lambda step: step * 500)
streams = st.tuples(st.integers(1, 3), st.integers(1, 2))
instruments = st.tuples(st.sampled_from([256265, 408065]), st.sampled_from(["ltp", "quote"]))
rows = st.builds(
    lambda at, stream, value, instrument: Row(at, stream[0], value, stream[1], 0, *instrument),
    times,
    streams,
    st.integers(0, 1),
    instruments,
)
of_what = st.just((None, None)) | st.tuples(st.just(256265), st.sampled_from(["ltp", "quote"]))
subscribed = st.builds(lambda at, stream, what: Sent(at, *stream, *what), times, streams, of_what)


@settings(max_examples=300)
@given(st.lists(rows, max_size=30), st.lists(subscribed, max_size=3), st.randoms(use_true_random=False))
def test_it_does_what_the_rules_say(found, sent, random):
    """For ticks that come close, repeat and are subscribed again, in whatever order they are given."""
    found = numbered(sorted(found))
    ticks = keys_of(random.sample(found, len(found)))
    dropped = copies(ticks, sent_frame(sent)).rows()
    assert len(dropped) == len(set(dropped))
    assert set(dropped) == model(found, sent)


# The rules one by one.


def test_what_two_connections_deliver_is_there_once():
    """The one that came first stays, whichever connection it came over."""
    found = numbered([Row(0, 1, 5), Row(3, 3, 5), Row(90, 3, 6), Row(91, 1, 6), Row(100, 1, 7)])
    assert left(found) == [found[0], found[2], found[4]]


def test_equal_ticks_of_one_connection_stay():
    """A price that stands still is news each time."""
    found = numbered([Row(step * 100, 1, 5) for step in range(20)])
    assert left(found) == found


def test_equal_ticks_on_both_connections_are_matched_one_to_one():
    """As many stay as there were updates."""
    both = [[Row(step * 100, 1, 5), Row(step * 100 + 150, 3, 5)] for step in range(10)]
    start = [Row(-5000, 1, 4), Row(-5000, 3, 4)]
    found = numbered(sorted([*start, *itertools.chain(*both)]))
    assert left(found) == [row for row in found if row.connection_id == 1]


def test_equal_ticks_that_are_far_apart_are_no_copies():
    """Up to the window they are."""
    start = [Row(0, 1, 1), Row(0, 3, 2)]
    near = numbered([*start, Row(5000, 1, 5), Row(5000 + WINDOW_MS, 3, 5)])
    assert left(near) == near[:3]
    far = numbered([*start, Row(5000, 1, 5), Row(5001 + WINDOW_MS, 3, 5)])
    assert left(far) == far


def test_modes_and_instruments_are_told_apart():
    """What full mode says is no copy of what quote mode says."""
    found = numbered([Row(0, 1, 5, mode="quote"), Row(1, 2, 5, mode="full"), Row(2, 3, 5, mode="quote", token=7)])
    assert left(found) == found


@pytest.mark.parametrize(("connection_id", "epoch"), [(3, 1), (1, 2)])
def test_a_snapshot_that_repeats_is_a_copy_however_late(connection_id, epoch):
    """Of another connection, or of the same one after a restart; ticks after it are news."""
    later = [Row(at, connection_id, 5, epoch) for at in (3_600_000, 3_600_100, 3_600_200)]
    found = numbered([Row(0, 1, 5), Row(100, 1, 5), *later])
    assert left(found) == [*found[:2], *found[3:]]


def test_a_snapshot_with_news_stays():
    """It shows what was missed."""
    found = numbered([Row(0, 1, 5), Row(100, 1, 6), Row(3_600_000, 1, 5, 2)])
    assert left(found) == found


@pytest.mark.parametrize("sent", [Sent(400, 1), Sent(400, 1, 1, 256265, "ltp")])
def test_a_subscription_within_a_stream_has_a_snapshot(sent):
    """After a reconnect, or where an instrument was added; only the first tick is one."""
    found = numbered([Row(0, 1, 5), Row(399, 1, 5), Row(500, 1, 5), Row(600, 1, 5)])
    assert left(found, [sent]) == [found[0], found[1], found[3]]
    assert left(found, [sent._replace(epoch=9)]) == found


def test_the_answer_to_the_second_request_is_a_copy_in_quote_mode():
    """Once for each subscription, soon after the first tick, even when a trade came in between."""
    first = [Row(0, 1, 5, mode="quote"), Row(1, 1, 6, mode="quote"), Row(2, 1, 6, mode="quote")]
    found = numbered([*first, Row(500, 1, 6, mode="quote"), Row(9000, 1, 6, 2, mode="quote")])
    assert left(found) == [found[0], found[1], found[3]]
    late = numbered([Row(0, 1, 5, mode="quote"), Row(WINDOW_MS + 1, 1, 5, mode="quote")])
    assert left(late) == late
    others = numbered([Row(0, 1, 5, mode=mode) for mode in ("full", "full", "ltp", "ltp")])
    assert left(others) == others


def test_a_tick_that_is_stored_twice_stays_twice():
    """Both lines are the same tick, which is for `mds verify` to tell; if it is a copy both go."""
    twice = [Row(0, 1, 5, seq=1, mode="quote"), Row(0, 1, 5, seq=1, mode="quote")]
    assert left(twice) == twice
    assert left([Row(-1, 3, 5, seq=1, mode="quote"), *twice]) == [Row(-1, 3, 5, seq=1, mode="quote")]


# What an exchange says, over connections that come and go.


class Span(NamedTuple):
    """A connection has the instrument from `since` until `until`."""

    connection_id: int
    epoch: int
    since: int
    until: int
    mode: str


@st.composite
def spans(draw: Any) -> list[Span]:
    """Return subscriptions of one instrument: those of a connection one after the other, in epochs or in one."""
    found = []
    for connection_id in draw(st.sampled_from([[1], [1, 3], [1, 2, 3]])):
        moments = sorted(draw(st.lists(st.integers(0, 30_000), min_size=2, max_size=6, unique=True)))
        is_one_epoch = draw(st.booleans())
        for index, (since, until) in enumerate(zip(moments[::2], moments[1::2], strict=False)):
            mode = draw(st.sampled_from(["quote", "full"]))
            found.append(Span(connection_id, 1 if is_one_epoch else 1 + index, since, until, mode))
    return found


@settings(max_examples=200)
@given(
    spans(),
    st.lists(st.integers(-5000, 30_000), min_size=1, max_size=40, unique=True),
    st.fixed_dictionaries({c: st.integers(0, WINDOW_MS) for c in (1, 2, 3)}),
    st.sets(st.integers(0, 120)),
)
def test_each_update_is_left_once(found, updates, delays, lost):
    """Whatever the connections' delays, and whatever they miss; only an overtaken snapshot may be there again."""
    updates.sort()
    delivered: list[tuple[Row, bool]] = []  # and whether it is a snapshot
    for connection_id, epoch, since, until, mode in found:
        delay = delays[connection_id]
        before = [number for number, at in enumerate(updates) if at <= since]
        asked = ["quote", mode] if mode == "full" else ["quote", "quote"]
        for answer in asked if before else []:
            row = Row(since + delay, connection_id, before[-1], epoch, token=1, mode=answer)
            delivered.append((row, True))
        for number, at in enumerate(updates):
            if since < at <= until and len(delivered) not in lost:
                row = Row(at + delay, connection_id, number, epoch, token=1, mode=mode)
                delivered.append((row, False))
    delivered.sort(key=lambda pair: (pair[0].at, pair[0].connection_id, pair[0].epoch))
    got = numbered([row for row, _ in delivered])
    sent = [Sent(span.since + delays[span.connection_id], span.connection_id, span.epoch) for span in found]

    kept = left(got, sent)
    what = [(row.mode, row.value) for row in kept]
    assert set(what) == {(row.mode, row.value) for row in got}
    of = {row.key: is_snapshot for row, (_, is_snapshot) in zip(got, delivered, strict=True)}
    seen: set[tuple[str, int]] = set()
    last: dict[str, int] = {}
    for row in kept:
        if (row.mode, row.value) in seen:
            assert of[row.key], row
            assert last[row.mode] != row.value, row
        seen.add((row.mode, row.value))
        last[row.mode] = row.value


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 2)), max_size=40),
    st.integers(0, WINDOW_MS),
    st.sets(st.integers(0, 40)),
    st.sets(st.integers(0, 40)),
)
def test_what_repeats_is_there_as_often_as_the_exchange_said_it(steps, delay, lost, lost_too):
    """Where one connection has all of it, the other may miss any part."""
    updates = list(zip(itertools.accumulate(after for after, _ in steps), (value for _, value in steps), strict=True))
    start = [Row(-9000, 1, 9), Row(-9000, 3, 8)]
    got = numbered(
        sorted(
            [
                *start,
                *(Row(at, 1, value) for n, (at, value) in enumerate(updates) if n not in lost),
                *(Row(at + delay, 3, value) for n, (at, value) in enumerate(updates) if n not in lost_too),
            ]
        )
    )
    kept = Counter(row.value for row in left(got))
    both = Counter(value for n, (_, value) in enumerate(updates) if n not in lost or n not in lost_too)
    for connection_id in (1, 3):
        own = Counter(row.value for row in got if row.connection_id == connection_id)
        assert all(kept[value] >= number for value, number in own.items())
    assert kept <= both + Counter([8, 9])
    if not lost or not lost_too:
        assert kept == both + Counter([8, 9])


# Ticks as they are stored.


def stored(ticks: list[StoredTick]) -> pl.LazyFrame:
    """Return ticks as `read_ticks` does."""
    read = read_chunk(Chunk(encode_lines(ticks), Place(None, 1, 0)), ZONE)  # type: ignore[arg-type]  # no bad lines
    assert not read.bad
    return read.frame.lazy()


def without_copies(ticks: list[StoredTick]) -> list[tuple[int, int]]:
    """Return connections and numbers of what is left."""
    frame = stored(ticks)
    return drop_copies(frame, [Day(frame)]).select("connection_id", "seq").collect().rows()


@given(stored_ticks(), st.integers(1, 3))
def test_a_tick_of_any_kind_is_told_by_its_values(tick, connection_id):
    """The same values on another connection are a copy."""
    tick = msgspec.structs.replace(tick, connection_id=1, epoch=1, seq=1)
    other = msgspec.structs.replace(tick, connection_id=1 + connection_id % 3, epoch=2, seq=2)
    assert without_copies([tick, other]) == [(1, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_any_other_value_is_no_copy(kind):
    """Each of the fields counts, null included."""
    tick = stored([tick_at(FIRST, kind)]).collect()
    other = tick.with_columns(pl.lit(2).cast(pl.UInt8).alias("connection_id"))
    assert drop_copies(pl.concat([tick, other]).lazy(), [Day(pl.concat([tick, other]).lazy())]).collect().equals(tick)
    for name in COLUMNS:
        if name in (*KEY, "timestamp", "instrument_token", "mode"):
            continue
        (value,) = tick[name]
        changed = pl.lit(None) if value is not None else pl.lit(0)
        both = pl.concat([tick, other.with_columns(changed.cast(tick.schema[name]).alias(name))])
        assert drop_copies(both.lazy(), [Day(both.lazy())]).collect().equals(both), name


def mirrored(number: int) -> list[StoredTick]:
    """Return the ticks of 7 instruments, all of which another connection has, too."""
    first = [
        tick_at(FIRST + n * MS, instrument_token=n % 7, volume_traded=n, seq=1 + n, connection_id=1)
        for n in range(number)
    ]
    later = (FIRST + number * MS).isoformat(timespec="microseconds")
    second = [msgspec.structs.replace(tick, connection_id=3, timestamp=later) for tick in first]
    return [tick for pair in zip(first, second, strict=True) for tick in pair]


def test_the_rest_comes_as_it_was_and_nothing_is_read_before(monkeypatch):
    """In its order, with all columns, in however many parts; filters and columns may be asked for."""
    frame = stored(mirrored(500))
    read = []

    def source(frame: pl.DataFrame) -> pl.DataFrame:
        read.append(frame.height)
        return frame

    lazy = frame.map_batches(source)
    left = drop_copies(lazy, [Day(lazy)])
    assert not read
    expected = frame.filter(pl.col("connection_id") == 1).collect()
    assert left.collect().equals(expected)
    assert read == [1000, 1000]
    monkeypatch.setattr(dedupe, "PART_TICKS", 100)
    assert left.collect().equals(expected)
    assert left.collect(engine="in-memory").equals(expected)
    assert left.head(3).collect().equals(expected.head(3))
    assert left.filter(pl.col("seq") > 400).select("last_price", "seq").collect()["seq"].to_list() == [*range(401, 501)]
    for connection_id, height in ((1, 500), (3, 0)):
        assert left.filter(pl.col("connection_id") == connection_id).collect().height == height
    assert left.select(pl.len()).collect().item() == 500


def test_each_day_is_judged_by_itself():
    """A day has the same ticks alone and among others."""
    day = stored(mirrored(3))
    next_day = day.with_columns(pl.col("timestamp").dt.offset_by("1d"), pl.col("seq") + 100)
    both = pl.concat([day, next_day])
    apart = pl.concat([drop_copies(day, [Day(day)]), drop_copies(next_day, [Day(next_day)])])
    assert drop_copies(both, [Day(day), Day(next_day)]).collect().equals(apart.collect())
    assert apart.collect()["seq"].to_list() == [1, 2, 3, 101, 102, 103]


def test_where_there_are_no_ticks_there_are_no_copies():
    """No days, or empty ones."""
    frame = EMPTY.lazy()
    assert drop_copies(frame, []).collect().equals(EMPTY)
    assert drop_copies(frame, [Day(frame), Day(frame)]).collect().equals(EMPTY)


# The event log.


def event(at: int, name: str, *, connection_id: int = 1, epoch: int = EPOCH, **fields: Any) -> bytes:
    """Return the line of an event, `at` in milliseconds."""
    stamp = (FIRST + at * MS).isoformat(timespec="microseconds")
    known = {"connection_id": connection_id, **fields}
    return encode_event(name, stamp, known, source=f"worker-{connection_id}", epoch=epoch, event_seq=1)


def us(at: int) -> int:
    """Return the same time in microseconds since 1970."""
    return round((FIRST + at * MS).timestamp() * 1_000_000)


def test_subscriptions_are_known_by_their_events():
    """What was added since the event before; in quote mode too where it is new, since Kite begins with that."""
    lines = [
        event(0, "connected"),
        event(10, "subscribed", instruments={"quote": [1, 2], "full": [3]}),
        event(20, "resubscribed", instruments={"full": [1, 4]}, dropped=[2]),
        event(30, "resubscribed", instruments={"quote": [2]}, dropped=[]),
        event(40, "idle", instruments=[1]),
        event(50, "resubscribed", connection_id=2, instruments={"ltp": [9]}, dropped=[]),
        event(60, "connected"),
    ]
    one, two = (1, EPOCH), (2, EPOCH)
    assert subscriptions(map(decode_event, lines)).rows() == [
        (*one, None, None, us(0)),
        (*one, 1, "full", us(10)),
        (*one, 4, "full", us(10)),
        (*one, 4, "quote", us(10)),
        (*one, 2, "quote", us(20)),
        (*two, 9, "ltp", 0),
        (*two, 9, "quote", 0),
        (*one, None, None, us(60)),
    ]


def test_events_are_read_from_the_file_of_the_day(tmp_path, caplog):
    """What is not there, broken or cannot be read tells nothing."""
    first, again, repeat = (tick_at(FIRST + n * 600 * MS, "ltp", seq=1 + n) for n in range(3))
    frame = stored([first, again, repeat])
    path = tmp_path / "events_2025-10-01.jsonl"

    def left() -> list[int]:
        return drop_copies(frame, [Day(frame, path)]).collect()["seq"].to_list()

    assert left() == [1, 2, 3]
    path.write_bytes(b"nonsense\n" + event(599, "connected") + event(700, "resubscribed", instruments=7)[:-20])
    assert left() == [1, 3]
    path.write_bytes(event(0, "connected", epoch=2**63) + event(0, "connected", connection_id=999))
    assert left() == [1, 2, 3]
    path.unlink()
    path.mkdir()
    assert left() == [1, 2, 3]
    assert "copies are looked for without it" in caplog.text
