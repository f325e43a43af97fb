"""Places in a tick file: its last lines, and where a time begins."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store import seek
from pipeline.store.seek import chunks_back, end_of_lines, offset_since, received_at
from tests.tick_lines import ltp, time_of


@pytest.fixture
def path(tmp_path):
    return tmp_path / "market_data_2025-10-01.jsonl"


@given(
    pieces=st.lists(st.binary(max_size=30).map(lambda piece: piece.replace(b"\n", b"")), max_size=12),
    rest=st.sampled_from([b"", b"torn"]),
    block_bytes=st.integers(1, 100),
)
def test_lines_are_read_backwards_at_any_size_of_blocks(tmp_path_factory, pieces, rest, block_bytes):
    """Each once, with its place; what has no newline is none."""
    path = tmp_path_factory.mktemp("back") / "file"
    path.write_bytes(b"".join(piece + b"\n" for piece in pieces) + rest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seek, "BLOCK_BYTES", block_bytes)
        chunks = list(chunks_back(path, path.stat().st_size))
        assert end_of_lines(path, path.stat().st_size) == path.stat().st_size - len(rest)
    assert [line for chunk in reversed(chunks) for line in chunk.lines] == pieces
    ends = [chunk.offset_of(len(chunk.lines)) for chunk in chunks]
    assert [*ends[1:], 0] == [chunk.offset for chunk in chunks] or not chunks


def test_a_line_that_is_too_long_is_passed_over_backwards(path, monkeypatch):
    """What stands before it is read."""
    monkeypatch.setattr(seek, "BLOCK_BYTES", 300)
    monkeypatch.setattr(seek, "MAX_LINE_BYTES", 1000)
    path.write_bytes(ltp(1) + b"x" * 50_000 + b"\n" + ltp(2))
    lines = [line for chunk in chunks_back(path, path.stat().st_size) for line in chunk.lines]
    assert lines[0] == ltp(2)[:-1]
    assert lines[-1] == ltp(1)[:-1]
    assert sum(map(len, lines[1:-1])) < 2000


@pytest.mark.parametrize("since", [1, 2, 250, 999, 1000, 1001])
@pytest.mark.parametrize("disorder", [0, 5])
def test_a_time_is_found(path, monkeypatch, since, disorder):
    """No tick since then stands before it, and not much else behind it, even if ticks are not quite in order."""
    monkeypatch.setattr(seek, "PROBE_BYTES", 1000)
    monkeypatch.setattr(seek, "MARGIN_BYTES", 3000)
    order = sorted(range(1, 1001), key=lambda seq: seq + (seq * 7919 % 11 - 5) * disorder / 5)
    path.write_bytes(b"".join(ltp(seq, timestamp=time_of(seq)) for seq in order))
    offset = offset_since(path, datetime.fromisoformat(time_of(since)), path.stat().st_size)
    data = path.read_bytes()
    assert offset == 0 or data[offset - 1 : offset] == b"\n"
    before, behind = data[:offset].splitlines(True), data[offset:].splitlines(True)
    assert before + behind == [ltp(seq) for seq in order]
    assert all(seq < since for seq in order[: len(before)])
    assert sum(seq < since for seq in order[len(before) :]) < 40


def test_where_nothing_tells_a_time_all_is_since_then(path, monkeypatch):
    """Rubbish, or no lines at all, does not hide what follows."""
    monkeypatch.setattr(seek, "PROBE_BYTES", 100)
    moment = datetime.fromisoformat(time_of(5)) + timedelta(days=1)
    for data in (b"", b"rubbish\n" * 100, b"x" * 1000):
        path.write_bytes(data)
        assert offset_since(path, moment, len(data)) == 0


def test_a_time_without_an_offset_is_none():
    """Nor is what is no time."""
    assert received_at("2025-10-01T09:15:23.123456+05:30")
    assert received_at("2025-10-01T09:15:23.123456") is None
    assert received_at("soon") is None
