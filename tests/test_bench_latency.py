"""Latencies are those of what was written and committed, and never less."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from bench.rig.latency import NEVER, Latency, Notes, Probe, Seen
from pipeline.role import endpoint
from pipeline.store.files import Chunk, Place
from pipeline.store.lines import read_chunk
from pipeline.store.schema import TIMEZONE
from pipeline.wire import COMMITS_SOCKET, Commit, Mark, StreamId, encode_commit

FILE = "market_data_2025-10-01.jsonl"
STREAM = StreamId(1, 100)
RECEIVED_US = 1_759_290_323_123_456
MS = 1_000_000  # ns

notes = st.lists(st.integers(0, 30), max_size=20)


def noted(marks: list[tuple[int, int]]) -> Notes:
    """Return marks with their times."""
    made = Notes()
    for mark, time_ns in marks:
        made.add(mark, time_ns)
    return made


@given(notes, st.lists(st.integers(0, 31)))
def test_a_mark_counts_from_when_it_was_reached_for_good(marks: list[int], wanted: list[int]) -> None:
    """That is the first time from which on nothing lower was seen."""
    reached = noted([(mark, 1000 + place) for place, mark in enumerate(marks)]).reached(np.array(wanted, np.int64))
    for mark, time_ns in zip(wanted, reached, strict=True):
        places = [place for place in range(len(marks)) if min(marks[place:]) >= mark]
        assert time_ns == (1000 + places[0] if places else NEVER)


def lines(*received_us: int, connection_id: int = 1, first_seq: int = 1) -> bytes:
    """Return ticks that were received at these times."""
    made = b""
    for seq, us in enumerate(received_us, first_seq):
        timestamp = datetime.fromtimestamp(us // 1_000_000, UTC).replace(microsecond=us % 1_000_000)
        head = {"mode": "ltp", "tradable": True, "instrument_token": 1, "last_price": 1.0}
        tail = {"timestamp": timestamp.isoformat(timespec="microseconds"), "connection_id": connection_id}
        made += json.dumps(head | tail | {"epoch": STREAM.epoch, "seq": seq}).encode() + b"\n"
    return made


def measured(seen: Seen, *parts: bytes, since_us: int = 0) -> Latency:
    """Return the latencies of the lines of a file, which is read in these parts."""
    latency = Latency(seen, since_us * 1000)
    offset = 0
    for part in parts:
        chunk = Chunk(part, Place(Path(FILE), 1, offset))
        latency.take(chunk, read_chunk(chunk, TIMEZONE).frame)
        offset += len(part)
    return latency


def test_ticks_and_notes_are_put_together() -> None:
    """A line is written with the first note that has its end, durable with the first commit that has its number."""
    first, second = lines(RECEIVED_US, RECEIVED_US + 1000), lines(RECEIVED_US + 5000, first_seq=3)
    received_ns = RECEIVED_US * 1000
    seen = Seen()
    one = len(first) // 2
    seen.written[FILE] = noted(
        [(one - 1, received_ns), (one, received_ns + 2 * MS), (len(first) + len(second), received_ns + 9 * MS)]
    )
    seen.durable[STREAM] = noted([(0, received_ns), (3, received_ns + 55 * MS)])
    latency = measured(seen, first, second)
    written, durable = latency.written(), latency.durable()
    assert (written.p50, written.max, written.max_ever) == (4.0, 8.0, 8.0)  # of 2, 8 and 4 ms
    assert (durable.p50, durable.max) == (54.0, 55.0)  # of 55, 54 and 50 ms
    assert (written.count, durable.count, written.not_seen, durable.not_seen) == (3, 3, 0, 0)


def test_streams_have_marks_of_their_own() -> None:
    """What is durable of one connection says nothing of another; what was not seen is told, and in no figure."""
    seen = Seen()
    seen.durable[STREAM] = noted([(1, RECEIVED_US * 1000 + 7 * MS)])
    latency = measured(seen, lines(RECEIVED_US) + lines(RECEIVED_US, connection_id=2))
    assert (latency.durable().max, latency.durable().count, latency.durable().not_seen) == (7.0, 1, 1)
    assert (latency.written().p50, latency.written().count, latency.written().not_seen) == (None, 0, 2)


def test_early_ticks_count_apart() -> None:
    """What was received before the time is in `max_ever` only."""
    data = lines(RECEIVED_US, RECEIVED_US + 1000)
    seen = Seen()
    seen.written[FILE] = noted([(len(data), RECEIVED_US * 1000 + 40 * MS)])
    written = measured(seen, data, since_us=RECEIVED_US + 1).written()
    assert (written.p50, written.p99, written.max, written.max_ever, written.count) == (39.0, 39.0, 39.0, 40.0, 1)
    early = measured(seen, data, since_us=RECEIVED_US + 5000).written()
    assert (early.p50, early.max_ever, early.count, early.not_seen) == (None, 40.0, 0, 0)


def test_lines_that_are_no_ticks_leave_their_chunk_unmeasured() -> None:
    """It is told of how many ticks nothing is known."""
    latency = measured(Seen(), lines(RECEIVED_US), lines(RECEIVED_US) + b"nonsense\n")
    assert (latency.written().count, latency.written().not_seen) == (0, 2)


@pytest.fixture
def probe(tmp_path):
    """Start the process that looks on."""
    with Probe(tmp_path / "data", tmp_path / "run") as probe:
        yield probe


def test_the_process_notes_writes_and_commits(probe, tmp_path):
    """It notes how large tick files become and how far streams are durable, with times between before and after."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    commits = context.socket(zmq.XPUB)
    commits.bind(endpoint(tmp_path / "run", COMMITS_SOCKET))
    commits.recv()  # it has subscribed
    began_ns = time.time_ns()
    with (tmp_path / "data" / FILE).open("wb", buffering=0) as file:
        file.write(b"one\n")
        for seq in (3, 3, 5):
            mark = Mark(seq, 1)
            commits.send(encode_commit(Commit("boot", durable={STREAM: mark}, accepted={STREAM: mark})))
        file.write(b"two\n")
    (tmp_path / "data" / "events_2025-10-01.jsonl").write_bytes(b"an event\n")
    context.destroy(linger=10_000)
    seen = probe.seen()
    ended_ns = time.time_ns()
    assert list(seen.written) == [FILE]
    assert seen.written[FILE].marks[-1] == len(b"one\ntwo\n")
    assert list(seen.durable[STREAM].marks) == [3, 5]
    for noted in (seen.written[FILE], seen.durable[STREAM]):
        assert all(began_ns <= time_ns <= ended_ns for time_ns in noted.times)
        assert list(noted.times) == sorted(noted.times)


def test_the_process_does_not_outlive_its_owner(probe):
    """It ends where nobody waits for its notes any more, and when it is closed."""
    probe._pipe.close()
    probe._process.join(30)
    assert probe._process.exitcode == 0
