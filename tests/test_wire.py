"""Tests for the messages between the processes: what is encoded comes back, and nothing else passes for a message."""

from datetime import date

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.wire import (
    Commit,
    Header,
    Mark,
    Order,
    StreamId,
    WireError,
    by_mode,
    decode_commit,
    decode_header,
    decode_order,
    encode_commit,
    encode_order,
)
from pipeline.wire import encode_header as encode

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
MARKS = st.builds(Mark, U64, U64)
HEADERS = st.builds(Header, st.integers(0, 255), st.dates(), U64, U64, MARKS, MARKS, U32, U32)
STREAMS = st.builds(StreamId, st.integers(0, 3), U64)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)
A_HEADER = Header(1, date(2025, 10, 1), 5, 4, Mark(9, 1), Mark(10, 2), 3, 0)


@st.composite
def commits(draw):
    """Return a commit whose durable streams are among the accepted ones, as the journal's always are."""
    accepted = draw(st.dictionaries(STREAMS, MARKS, max_size=6))
    durable = {stream: draw(MARKS) for stream in accepted}
    retired = draw(st.dictionaries(st.integers(0, 3), U64, max_size=4))
    return Commit(draw(st.text(max_size=20)), draw(st.booleans()), durable, accepted, retired)


@given(HEADERS)
def test_a_header_comes_back(header):
    """All fields survive, over the whole range of each."""
    assert decode_header(encode(header)) == header


def test_a_header_names_its_stream_and_its_last_numbers():
    """`last` counts the lines from `first` on; without lines of a kind it is one below."""
    assert A_HEADER.stream == StreamId(1, 5)
    assert A_HEADER.last == Mark(12, 1)


@given(
    st.binary(max_size=80)
    | st.binary(min_size=64, max_size=64)
    | st.binary(min_size=63, max_size=63).map(b"\1".__add__)
)
@example(b"")
@example(encode(A_HEADER)[:-1])
@example(encode(A_HEADER) + b"\0")
@example(b"\2" + encode(A_HEADER)[1:])
def test_what_is_no_header_is_refused_as_such(data):
    """Bytes either are a header, which encodes to the same bytes but for the padding, or raise WireError."""
    try:
        header = decode_header(data)
    except WireError:
        return
    assert encode(header)[4:] == data[4:]


@pytest.mark.parametrize("day", [0, 3_652_060, 2**32 - 1])
def test_a_day_outside_the_calendar_is_refused(day):
    """Ordinals that `date` does not have are no header."""
    data = bytearray(encode(A_HEADER))
    data[4:8] = day.to_bytes(4, "little")
    with pytest.raises(WireError):
        decode_header(bytes(data))


@given(commits())
def test_a_commit_comes_back(commit):
    """All fields survive."""
    assert decode_commit(encode_commit(commit)) == commit


def test_a_stream_that_is_not_durable_yet_has_nothing_durable():
    """What was accepted and never synced is listed with the mark 0."""
    stream = StreamId(2, 7)
    assert decode_commit(encode_commit(Commit("b", accepted={stream: Mark(3, 1)}))).durable == {stream: Mark()}


@given(st.binary(max_size=60) | JSON.map(orjson.dumps))
def test_what_is_no_commit_is_refused_as_such(data):
    """Neither bytes nor JSON of another shape raise anything but WireError."""
    with pytest.raises(WireError):
        decode_commit(data)


WHOLE = {"boot": "b", "taking": True, "retired": {"1": 5}, "streams": [[1, 6, 1, 2, 3, 4]]}


@given(st.sampled_from(sorted(WHOLE)), JSON)
@example("streams", [["1", 6, 1, 2, 3, 4]])
@example("streams", [[1, 6, 1, 2, 3, None]])
@example("streams", [[1, 6, 1, 2, 3, -1]])
@example("streams", [[1, 6, 1, 2, 3]])
@example("streams", [[[], 6, 1, 2, 3, 4]])
@example("streams", ["123456"])
@example("streams", [[True, 6, 1, 2, 3, 4]])
@example("retired", {"1": "5"})
@example("retired", {"one": 5})
@example("boot", 5)
@example("taking", 1)
def test_a_commit_with_one_strange_field_is_refused_or_means_what_it_says(key, value):
    """A field of another type never comes through: what is decoded encodes to the same again."""
    try:
        commit = decode_commit(orjson.dumps(WHOLE | {key: value}))
    except WireError:
        return
    assert decode_commit(encode_commit(commit)) == commit
    assert isinstance(commit.boot, str)
    assert isinstance(commit.taking, bool)
    numbers = [n for item in commit.accepted.items() for part in item for n in part]
    numbers += [n for mark in commit.durable.values() for n in mark]
    numbers += [n for item in commit.retired.items() for n in item]
    assert all(type(n) is int and n >= 0 for n in numbers)


TOKENS = st.integers(1, 2**32 - 1)
INSTRUMENTS = st.dictionaries(TOKENS, st.sampled_from(["ltp", "quote", "full"]), max_size=12)
COUNTS = st.integers(0, 2**63 - 1)
SOME_TOKENS = st.lists(TOKENS, max_size=6)
ORDERS = st.builds(
    Order,
    st.text(max_size=20),
    COUNTS,
    COUNTS,
    INSTRUMENTS,
    SOME_TOKENS,
    st.booleans(),
    st.none() | SOME_TOKENS,
    st.dictionaries(TOKENS, COUNTS, max_size=6),
    SOME_TOKENS.map(tuple),
    st.dictionaries(TOKENS, COUNTS, max_size=6),
    st.dictionaries(TOKENS, COUNTS, max_size=6),
    st.lists(st.tuples(COUNTS, COUNTS), max_size=3).map(tuple),
)


@given(ORDERS)
def test_an_order_comes_back(order):
    """All fields survive."""
    assert decode_order(encode_order(order)) == order


@given(INSTRUMENTS)
def test_instruments_are_grouped_by_mode(instruments):
    """Each instrument is in the group of its mode, in the given order; there are no empty groups."""
    grouped = by_mode(instruments)
    assert grouped == {
        mode: [token for token, other in instruments.items() if other == mode] for mode in set(instruments.values())
    }


NEWER = ("held", "missing", "due", "rests")  # parts of an order


def test_an_order_of_an_older_version_is_read():
    """Supervisors of earlier versions knew nothing of what is held, missing or due."""
    order = Order("s", 2, 1, {5: "full"}, [6], True, [7], {8: 9}, (5,), {5: 3}, {5: 2}, ((0, 1), (1, 2)))
    assert decode_order(encode_order(order)) == order
    older = {key: value for key, value in orjson.loads(encode_order(order)).items() if key not in NEWER}
    assert decode_order(orjson.dumps(older)) == order._replace(held=(), missing={}, due={}, rests=())


def test_an_order_of_everything_is_small():
    """A whole connection fits in a message of a few bytes for each instrument."""
    order = Order("s", 1, 0, dict.fromkeys(range(2**32 - 3000, 2**32), "full"), ())
    assert len(encode_order(order)) < 12 * 3000


@given(st.binary(max_size=60) | JSON.map(orjson.dumps))
def test_what_is_no_order_is_refused_as_such(data):
    """Neither bytes nor JSON of another shape raise anything but WireError."""
    with pytest.raises(WireError):
        decode_order(data)


WHOLE_ORDER = {
    "service": "s",
    "version": 2,
    "after": 1,
    "set": {"ltp": [5]},
    "drop": [6],
    "keep_open": True,
    "before": [7],
    "relieved": [[7, 1000]],
}


@given(st.sampled_from(sorted(WHOLE_ORDER)), JSON)
@example("set", {"depth": [5]})
@example("set", {"ltp": ["5"]})
@example("set", {"ltp": 5})
@example("set", {"ltp": [5.0]})
@example("set", [[5, "ltp"]])
@example("drop", None)
@example("drop", [None])
@example("drop", [True])
@example("keep_open", 1)
@example("before", None)
@example("before", {"7": 1})
@example("relieved", [[7]])
@example("relieved", [[7, None]])
@example("relieved", {"7": 1000})
@example("version", "2")
@example("after", None)
@example("service", 5)
def test_an_order_with_one_strange_field_is_refused_or_means_what_it_says(key, value):
    """A field of another type never comes through: what is decoded encodes to the same again."""
    try:
        order = decode_order(orjson.dumps(WHOLE_ORDER | {key: value}))
    except WireError:
        return
    assert decode_order(encode_order(order)) == order
    assert isinstance(order.service, str)
    assert isinstance(order.keep_open, bool)
    numbers = [*order.changed, *order.dropped, *(order.before or ()), *order.relieved, *order.relieved.values()]
    assert {type(n) for n in (order.version, order.after, *numbers)} == {int}
    assert set(order.changed.values()) <= {"ltp", "quote", "full"}


@pytest.mark.parametrize("key", sorted(WHOLE_ORDER))
def test_an_order_has_all_its_fields(key):
    """Where one is missing it is no order."""
    with pytest.raises(WireError):
        decode_order(orjson.dumps({name: value for name, value in WHOLE_ORDER.items() if name != key}))
